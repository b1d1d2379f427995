//! What the integration tests share: data, views, and comparison by bits.
#![allow(dead_code, reason = "each test uses a part")]

pub mod hard;

use vq_kernels::rng::Rng;
use vq_kernels::{Cpu, Isa, MatMut, MatRef};

/// Machines that take a hundred times as long, interpreted or emulated without FMA: the small cases reach every path, too.
pub const SMALL: bool = cfg!(any(miri, target_endian = "big"));

/// Normal data: a pure function of `(len, seed)`.
pub fn paint(len: usize, seed: u64) -> Vec<f32> {
    let mut rng = Rng::new(seed, 0x5EED);
    (0..len).map(|_| rng.normal()).collect()
}

/// Multiples of 1/64 within `±levels/64`: sums are exact, so any order agrees, and ties happen.
pub fn grid(len: usize, seed: u64, levels: u32) -> Vec<f32> {
    let mut rng = Rng::new(seed, 0x6121D);
    let span = 2 * u64::from(levels) + 1;
    (0..len).map(|_| (rng.below(span) as f32 - levels as f32) / 64.0).collect()
}

/// Rows of unit length.
pub fn unit_rows(rows: usize, dim: usize, seed: u64) -> Vec<f32> {
    let raw = paint(rows * dim, seed);
    let mut unit = vec![0.0; raw.len()];
    vq_kernels::ops::normalize(&Cpu::with_isa(Isa::SCALAR), mat(&raw, rows, dim), mat_mut(&mut unit, rows, dim), None)
        .expect("the shapes agree");
    unit
}

/// A view whose length is right by construction.
pub fn mat<T>(data: &[T], rows: usize, cols: usize) -> MatRef<'_, T> {
    MatRef::new(data, rows, cols).expect("the test's own length is right")
}

/// A view whose length is right by construction.
pub fn mat_mut<T>(data: &mut [T], rows: usize, cols: usize) -> MatMut<'_, T> {
    MatMut::new(data, rows, cols).expect("the test's own length is right")
}

/// Bits of a value as the contracts compare them: −0 = +0, all NaN alike.
pub fn canonical(x: f32) -> u32 {
    if x.is_nan() { f32::NAN.to_bits() } else { (x + 0.0).to_bits() }
}

/// [`canonical`] for f64.
pub fn canonical64(x: f64) -> u64 {
    if x.is_nan() { f64::NAN.to_bits() } else { (x + 0.0).to_bits() }
}

/// Equal bits, with −0 = +0 and all NaN alike.
#[track_caller]
pub fn assert_same_bits(got: &[f32], expected: &[f32], context: &str) {
    assert_eq!(got.len(), expected.len(), "{context}: lengths differ");
    let differs = got.iter().zip(expected).position(|(&a, &b)| canonical(a) != canonical(b));
    if let Some(i) = differs {
        let (a, b) = (got[i], expected[i]);
        panic!("{context}: element {i} is {a:e} ({:08x}), expected {b:e} ({:08x})", a.to_bits(), b.to_bits());
    }
}

/// [`assert_same_bits`] for f64.
#[track_caller]
pub fn assert_same_bits64(got: &[f64], expected: &[f64], context: &str) {
    assert_eq!(got.len(), expected.len(), "{context}: lengths differ");
    let differs = got.iter().zip(expected).position(|(&a, &b)| canonical64(a) != canonical64(b));
    if let Some(i) = differs {
        let (a, b) = (got[i], expected[i]);
        panic!("{context}: element {i} is {a:e} ({:016x}), expected {b:e} ({:016x})", a.to_bits(), b.to_bits());
    }
}

/// One [`Cpu`] for each instruction set that this machine has.
pub fn cpus() -> Vec<Cpu<'static>> {
    Isa::available().map(Cpu::with_isa).collect()
}
