//! The emulator against the manual, broken programs, and the sweeps against plain loops.

use core::arch::asm;

use super::emulator::{self, Fault, Guarded};
use super::*;
use crate::rng::Rng;
use crate::simd::fma32;

/// A configuration of eight whole tiles, changed by `change`.
fn config(change: impl FnOnce(&mut [u8; 64])) -> [u8; 64] {
    let mut bytes = [0; 64];
    bytes[0] = 1;
    for tile in 0..8 {
        (bytes[16 + 2 * tile], bytes[48 + tile]) = (64, 16);
    }
    change(&mut bytes);
    bytes
}

/// Runs a program of AMX's instructions: `c` a configuration, `p` memory, `s` a stride.
macro_rules! program {
    ($config:expr, $memory:expr, $stride:expr, $($line:literal),+) => {{
        let config: [u8; 64] = $config;
        emulator::watched(|| {
            // SAFETY: the emulator executes the instructions, and touches accessible memory alone; which that is of this
            // process beside the guarded memory is not addressed.
            unsafe {
                asm!(
                    $($line),+,
                    c = in(reg) config.as_ptr(), p = in(reg) $memory, s = in(reg) $stride as usize,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                );
            }
        })
    }};
}

/// The fault of a program on 3 KiB of memory with no page behind it.
macro_rules! fault {
    ($config:expr, $stride:expr, $($line:literal),+) => {{
        let mut memory = Guarded::new(3072);
        program!($config, memory.bytes().as_mut_ptr(), $stride, $($line),+).2
    }};
}

#[test]
fn a_right_program_has_no_fault() {
    if emulator::isa().is_none() {
        return;
    }
    let lines = fault!(
        config(|_| ()),
        64,
        "ldtilecfg [{c}]",
        "tileloadd tmm1, [{p} + {s} + 2048]",
        "tilezero tmm7",
        "tileloadd tmm2, [{p} + {s}]",
        "tdpbf16ps tmm7, tmm1, tmm2",
        "tilestored [{p} + {s} + 1024], tmm7",
        "tilerelease"
    );
    assert_eq!(lines, None);
}

#[test]
fn tiles_before_a_configuration_are_caught() {
    if emulator::isa().is_none() {
        return;
    }
    let none = Some(Fault::NotConfigured);
    assert_eq!(fault!(config(|_| ()), 64, "tilezero tmm0", "/* {c} {p} {s} */"), none);
    assert_eq!(fault!(config(|_| ()), 64, "tileloadd tmm0, [{p} + {s}]", "/* {c} */"), none);
    assert_eq!(fault!(config(|_| ()), 64, "tdpbf16ps tmm0, tmm1, tmm2", "/* {c} {p} {s} */"), none);
}

#[test]
fn tiles_after_their_release_are_caught() {
    if emulator::isa().is_none() {
        return;
    }
    let none = Some(Fault::NotConfigured);
    assert_eq!(fault!(config(|_| ()), 64, "ldtilecfg [{c}]", "tilerelease", "tilezero tmm0", "/* {p} {s} */"), none);
    assert_eq!(fault!(config(|_| ()), 64, "ldtilecfg [{c}]", "tilerelease", "tilestored [{p} + {s}], tmm0"), none);
    // Palette 0 is no configuration.
    assert_eq!(fault!(config(|c| c[0] = 0), 64, "ldtilecfg [{c}]", "tilezero tmm0", "/* {p} {s} */"), none);
}

#[test]
fn configurations_that_do_not_exist_are_caught() {
    if emulator::isa().is_none() {
        return;
    }
    let changes: [fn(&mut [u8; 64]); 6] =
        [|c| c[0] = 2, |c| c[48] = 17, |c| c[16] = 65, |c| c[3] = 1, |c| c[50] = 0, |c| c[63] = 1];
    for change in changes {
        let fault = fault!(config(change), 64, "ldtilecfg [{c}]", "tilerelease", "/* {p} {s} */");
        assert_eq!(fault, Some(Fault::Configuration));
    }
}

#[test]
fn wrong_strides_are_caught() {
    if emulator::isa().is_none() {
        return;
    }
    // The last KiB, its rows 64 bytes from each other: more lead past it, and fewer before the memory.
    for (stride, fault) in
        [(64, None), (68, Some(Fault::Memory)), (128, Some(Fault::Memory)), (1 << 20, Some(Fault::Memory))]
    {
        let got =
            fault!(config(|_| ()), stride, "ldtilecfg [{c}]", "tileloadd tmm0, [{p} + {s} + 2048]", "tilerelease");
        assert_eq!(got, fault, "stride {stride}");
        let got =
            fault!(config(|_| ()), stride, "ldtilecfg [{c}]", "tilestored [{p} + 1*{s} + 2048], tmm3", "tilerelease");
        assert_eq!(got, fault, "stride {stride}");
    }
}

#[test]
fn reads_and_writes_outside_of_memory_are_caught() {
    if emulator::isa().is_none() {
        return;
    }
    let memory = Some(Fault::Memory);
    assert_eq!(
        fault!(config(|_| ()), 64, "ldtilecfg [{c}]", "tileloadd tmm0, [{p} + {s} + 2112]", "tilerelease"),
        memory
    );
    assert_eq!(
        fault!(config(|_| ()), 64, "ldtilecfg [{c}]", "tilestored [{p} + {s} + 3072], tmm0", "tilerelease"),
        memory
    );
    // A tile of one row has one.
    let one_row = |c: &mut [u8; 64]| c[48] = 1;
    assert_eq!(
        fault!(config(one_row), 64, "ldtilecfg [{c}]", "tileloadd tmm0, [{p} + {s} + 3008]", "tilerelease"),
        None
    );
}

#[test]
fn products_of_tiles_that_do_not_fit_are_caught() {
    if emulator::isa().is_none() {
        return;
    }
    let wrong = Some(Fault::Operands);
    assert_eq!(
        fault!(config(|c| c[49] = 15), 64, "ldtilecfg [{c}]", "tdpbf16ps tmm0, tmm1, tmm2", "/* {p} {s} */"),
        wrong
    );
    assert_eq!(
        fault!(config(|c| c[18] = 32), 64, "ldtilecfg [{c}]", "tdpbf16ps tmm0, tmm1, tmm2", "/* {p} {s} */"),
        wrong
    );
    assert_eq!(
        fault!(config(|c| (c[16], c[48]) = (0, 0)), 64, "ldtilecfg [{c}]", "tilezero tmm0", "/* {p} {s} */"),
        wrong
    );
}

/// What TDPBF16PS adds to 0, by the manual's order, with the software FMA.
fn by_the_manual(a: &[f32], b: &[f32], c: f32) -> f32 {
    let flush = |x: f32| if x.abs() < f32::MIN_POSITIVE { 0.0 } else { x };
    let sum = |odd: usize| {
        let pairs = a.iter().zip(b).skip(odd).step_by(2);
        pairs.fold(0.0, |sum, (&a, &b)| flush(fma32(flush(a), flush(b), sum)))
    };
    flush(flush(sum(0) + sum(1)) + flush(c))
}

/// One product of tiles: `a` `[16 codes][32]`, `b` `[32][16 rows]` as sixteen pairs a row.
fn one_product(a: &[u16; 512], b: &[u16; 512], c: &[f32; 256]) -> [f32; 256] {
    let mut memory = Guarded::new(3072);
    let bytes = memory.bytes();
    bytes[..1024].copy_from_slice(bytemuck::cast_slice(a));
    bytes[1024..2048].copy_from_slice(bytemuck::cast_slice(b));
    bytes[2048..].copy_from_slice(bytemuck::cast_slice(c));
    let fault = program!(
        config(|_| ()),
        bytes.as_mut_ptr(),
        64,
        "ldtilecfg [{c}]",
        "tileloadd tmm0, [{p} + {s} + 2048]",
        "tileloadd tmm4, [{p} + {s}]",
        "tileloadd tmm6, [{p} + {s} + 1024]",
        "tdpbf16ps tmm0, tmm4, tmm6",
        "tilestored [{p} + {s} + 2048], tmm0",
        "tilerelease"
    );
    assert_eq!(fault.2, None);
    let mut product = [0.0; 256];
    product.copy_from_slice(bytemuck::cast_slice(&memory.bytes()[2048..]));
    product
}

#[test]
fn products_are_those_of_the_manual() {
    if emulator::isa().is_none() {
        return;
    }
    let wide = |x: u16| f32::from_bits(u32::from(x) << 16);
    let mut rng = Rng::new(7, 0);
    for case in 0..40 {
        // Every second case with exponents where products and sums are subnormal.
        let mut number = |low: u32| {
            let (bits, exponent) = (rng.next_u64() as u32, 127 - rng.below(u64::from(low)) as u32);
            ((bits & 0x8000) | exponent << 7 | (bits & 0x7f)) as u16
        };
        let low = if case % 2 == 0 { 8 } else { 128 };
        let (a, b): ([u16; 512], [u16; 512]) =
            (core::array::from_fn(|_| number(low)), core::array::from_fn(|_| number(low)));
        let c: [f32; 256] = core::array::from_fn(|_| wide(number(low)));
        let product = one_product(&a, &b, &c);
        for (at, &got) in product.iter().enumerate() {
            let (m, n) = (at / 16, at % 16);
            let code: [f32; 32] = core::array::from_fn(|k| wide(a[m * 32 + k]));
            let row: [f32; 32] = core::array::from_fn(|k| wide(b[k / 2 * 32 + 2 * n + k % 2]));
            let expected = by_the_manual(&code, &row, c[at]);
            assert!(got == expected, "case {case}, code {m}, row {n}: {got:e}, expected {expected:e}");
        }
    }
}

/// Of one chain in order nothing would be left of the small products, of two chains those of the odd slots.
#[test]
fn even_and_odd_slots_are_added_up_apart() {
    if emulator::isa().is_none() {
        return;
    }
    let (one, small) = (0x3f80, 0x3380); // 1 and 2⁻²⁴
    let a = core::array::from_fn(|k| if k % 32 == 0 { one } else { small });
    let product = one_product(&a, &[one; 512], &[0.0; 256]);
    assert_eq!(product, [1.0 + 2.0f32.powi(-20); 256]);
    // Subnormal numbers are zeros, going in and coming out.
    let subnormal = one_product(&[1; 512], &[one; 512], &[1e-39; 256]);
    assert_eq!(subnormal, [0.0; 256]);
    let product_of_tiny = one_product(&[0x1000; 512], &[0x1000; 512], &[0.0; 256]);
    assert_eq!(product_of_tiny, [0.0; 256]);
}

/// Every sweep against plain loops, with nothing accessible behind its operands, and what it executes: the counts of
/// `benches/README.md`.
#[test]
fn sweeps_are_plain_loops() {
    if emulator::isa().is_none() {
        return;
    }
    emulator::ANSWER.set(Some(true));
    let tiles = Tiles::ask().expect("the emulator allows it");
    let mut rng = Rng::new(9, 0);
    for (groups, panels, steps) in [(1, 1, 1), (2, 1, 1), (3, 2, 1), (1, 3, 2), (2, 2, 2), (3, 1, 3), (1, 1, 5)] {
        for l2 in [false, true] {
            let [mut codes, mut rows, mut h, mut maxima] = [
                groups * GROUP * steps * 64,
                panels * PANEL_ROWS * steps * 64,
                groups * GROUP * 4,
                panels * groups * 128,
            ]
            .map(Guarded::new);
            for memory in [&mut codes, &mut rows] {
                let numbers: &mut [u16] = bytemuck::cast_slice_mut(memory.bytes());
                numbers.iter_mut().for_each(|x| *x = (rng.normal().to_bits() >> 16) as u16);
            }
            let h: &mut [f32] = bytemuck::cast_slice_mut(h.bytes());
            h.iter_mut().for_each(|h| *h = rng.normal());
            // The padding of a last panel.
            h[groups * GROUP - 1] = f32::NAN;
            let (codes, rows): (&[u16], &[u16]) =
                (bytemuck::cast_slice(codes.bytes()), bytemuck::cast_slice(rows.bytes()));
            let maxima: &mut [f32] = bytemuck::cast_slice_mut(maxima.bytes());
            let ((), executed) = emulator::clean(|| {
                let (codes, rows) = (bytemuck::cast_slice(codes), bytemuck::cast_slice(rows));
                Sweep::new().maxima(tiles, codes, l2.then_some(h), rows, steps, maxima);
            });
            let blocks = groups * 2 * panels;
            let loads = if steps == 1 { 2 * blocks + 2 * panels } else { 4 * blocks * steps };
            assert_eq!((executed.products, executed.stores), (4 * blocks * steps, 4 * blocks));
            assert_eq!((executed.loads, executed.zeros, executed.configured), (loads, 4 * blocks, 1));
            let wide = |x: u16| f32::from_bits(u32::from(x) << 16);
            for (at, &got) in maxima.iter().enumerate() {
                let (row, group) = (at / 32 / groups * 32 + at % 32, at / 32 % groups);
                let expected = (group * GROUP..(group + 1) * GROUP).map(|k| {
                    let score = (0..steps).fold(0.0, |sum, s| {
                        let code = &codes[((k / 32 * steps + s) * 32 + k % 32) * 32..][..32];
                        let tile = &rows[((row / 32 * steps + s) * 2 + row % 32 / 16) * 512..][..512];
                        let code: [f32; 32] = core::array::from_fn(|i| wide(code[i]));
                        let row: [f32; 32] = core::array::from_fn(|i| wide(tile[i / 2 * 32 + row % 16 * 2 + i % 2]));
                        by_the_manual(&code, &row, sum)
                    });
                    if l2 { h[k] + score } else { score }
                });
                let expected = expected.fold(f32::NEG_INFINITY, |best, s| if s > best { s } else { best });
                assert_eq!(
                    got, expected,
                    "{groups} groups, {panels} panels, {steps} steps, l2 {l2}: row {row}, group {group}"
                );
            }
        }
    }
}

#[test]
fn detection_only_looks_and_a_refusal_is_an_answer() {
    assert_eq!(crate::Isa::amx().is_some(), detected() && crate::Isa::avx512_vnni().is_some());
    if !detected() {
        assert!(!request_permission(), "Linux allows what is not there");
        emulator::ANSWER.set(None);
        assert!(Tiles::ask().is_none() && Tiles::ask().is_none());
    }
}
