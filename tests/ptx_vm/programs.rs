//! Kernels as NVRTC compiles them (from the .cu files in `programs`), against Rust.

use half::f16;

use super::{Arg, Machine, Random, f32s, machine, machines, parse, u64s, upload};
use crate::vm::{Fault, FaultKind};

fn bytes<T: Copy, const N: usize>(values: &[T], to: impl Fn(T) -> [u8; N]) -> Vec<u8> {
    values.iter().flat_map(|v| to(*v)).collect()
}

const TILED: &str = include_str!("programs/tiled.ptx");
const REDUCE: &str = include_str!("programs/reduce.ptx");
const HALF: &str = include_str!("programs/half.ptx");
const HISTOGRAM: &str = include_str!("programs/histogram.ptx");

fn tiled(machine: &Machine, text: &str) -> Result<(Vec<f32>, Vec<f32>), Fault> {
    let (m, n, k) = (48, 32, 64);
    let mut random = Random(1);
    let a: Vec<f32> = (0..m * k).map(|_| random.unit()).collect();
    let b: Vec<f32> = (0..k * n).map(|_| random.unit()).collect();
    let args = [upload(machine, "a", &bytes(&a, f32::to_le_bytes)), upload(machine, "b", &bytes(&b, f32::to_le_bytes))];
    let c = machine.alloc("c", 4 * m * n);
    let grid = [n as u32 / 16, m as u32 / 16, 1];
    let all = [args[0], args[1], Arg::U64(c), Arg::I32(n as i32), Arg::I32(k as i32)];
    machine.launch(&parse(text), "tiled", grid, [256, 1, 1], 0, &all)?;
    let want = (0..m * n).map(|i| (0..k).fold(0f32, |s, j| a[i / n * k + j].mul_add(b[j * n + i % n], s))).collect();
    Ok((f32s(&machine.read(c, 4 * m * n)?), want))
}

#[test]
fn tiled_product() {
    for machine in machines() {
        let (got, want) = tiled(&machine, TILED).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(got, want);
    }
}

/// The same kernel with one synchronisation taken out at a time.
#[test]
fn tiled_product_broken() {
    let lines: Vec<&str> = TILED.lines().collect();
    let mut tried = 0;
    for (at, line) in lines.iter().enumerate() {
        let sync = line.contains("bar.sync") || line.contains("wait_group");
        if !sync {
            continue;
        }
        let text = lines.iter().enumerate().map(|(i, l)| if i == at { "" } else { *l }).collect::<Vec<_>>().join("\n");
        tried += 1;
        for machine in machines() {
            let fault = tiled(&machine, &text).expect_err(line);
            let kinds = [FaultKind::SharedRace, FaultKind::AsyncPending, FaultKind::Uninitialised];
            assert!(kinds.contains(&fault.kind), "{fault}");
        }
    }
    assert!(tried >= 4, "{tried}");
}

#[test]
fn reduction() {
    let mut random = Random(2);
    let x: Vec<f32> = (0..5000).map(|_| random.unit()).collect();
    let (blocks, threads) = (3u32, 256u32);
    for machine in machines() {
        let from = upload(&machine, "x", &bytes(&x, f32::to_le_bytes));
        let sums = machine.alloc("sums", 24);
        let most = machine.alloc("most", 4);
        let mean = machine.alloc("mean", 24);
        machine.write(most, &[0; 4]);
        let args = [from, Arg::I32(5000), Arg::U64(sums), Arg::U64(most), Arg::U64(mean)];
        machine
            .launch(&parse(REDUCE), "reduce", [blocks, 1, 1], [threads, 1, 1], 0, &args)
            .unwrap_or_else(|e| panic!("{e}"));
        let got = u64s(&machine.read(sums, 24).expect("all written"));
        let means = u64s(&machine.read(mean, 24).expect("all written"));
        for block in 0..blocks {
            // The same sums in the same order.
            let mut part: Vec<f64> = (0..threads)
                .map(|t| {
                    let own = x.iter().skip((block * threads + t) as usize).step_by((blocks * threads) as usize);
                    own.fold(0.0, |s, v| s + f64::from(*v) * f64::from(*v))
                })
                .collect();
            for by in [16, 8, 4, 2, 1] {
                part = (0..part.len()).map(|t| part[t] + part[t ^ by]).collect();
            }
            let mut sums: Vec<f64> = (0..32).map(|w| if w < 8 { part[32 * w] } else { 0.0 }).collect();
            for by in [16, 8, 4, 2, 1] {
                sums = (0..32).map(|l| sums[l] + if l + by < 32 { sums[l + by] } else { sums[l] }).collect();
            }
            assert_eq!(f64::from_bits(got[block as usize]), sums[0]);
            let want = (sums[0] / 5000.0).sqrt() - sums[0].floor() + (sums[0] as i64) as f64;
            assert_eq!(f64::from_bits(means[block as usize]), want);
        }
        let top = x.iter().fold(0f32, |m, v| m.max(v.abs()));
        assert_eq!(f32s(&machine.read(most, 4).expect("written")), [top]);
    }
}

fn half_product(machine: &Machine, shared: u32) -> Result<(Vec<f32>, Vec<f32>), Fault> {
    let (m, n, k) = (64, 16, 48);
    let mut random = Random(3);
    let mut matrix = |len: usize| -> Vec<f16> { (0..len).map(|_| f16::from_f32(random.unit())).collect() };
    let (a, b) = (matrix(m * k), matrix(n * k));
    let args = [upload(machine, "a", &bytes(&a, f16::to_le_bytes)), upload(machine, "b", &bytes(&b, f16::to_le_bytes))];
    let c = machine.alloc("c", 4 * m * n);
    let all = [args[0], args[1], Arg::U64(c), Arg::I32(n as i32), Arg::I32(k as i32)];
    let grid = [n as u32 / 8, m as u32 / 32, 1];
    machine.launch(&parse(HALF), "half_product", grid, [64, 1, 1], shared, &all)?;
    let dot = |r: usize, c: usize, s: f32, at: usize| {
        (f64::from(s) + (at..at + 16).map(|j| a[r * k + j].to_f64() * b[c * k + j].to_f64()).sum::<f64>()) as f32
    };
    let want = (0..m * n).map(|i| (0..k).step_by(16).fold(0f32, |s, at| dot(i / n, i % n, s, at))).collect();
    Ok((f32s(&machine.read(c, 4 * m * n)?), want))
}

#[test]
fn product_of_halves() {
    let bytes = 2 * (32 + 8) * 24;
    for machine in machines() {
        let (got, want) = half_product(&machine, bytes).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(got, want);
    }
    // 16 bytes of padding are never used.
    let fault = half_product(&machine(), bytes - 32).expect_err("too little shared memory");
    assert_eq!(fault.kind, FaultKind::OutOfBounds);
}

#[test]
fn histogram() {
    let mut random = Random(4);
    let x: Vec<u32> = (0..3000).map(|_| random.next() as u32).collect();
    let (classes, divisor) = (37u64, 0x1234_5678_9abc_u64);
    let weights = [1u64, 2, 3, 5, 8, 13, 21, 34];
    let mut want = vec![0u64; 75];
    for v in &x {
        let digits: Vec<u64> = v.to_string().bytes().map(|d| u64::from(d - b'0')).collect();
        let sum = digits.iter().enumerate().fold(0u64, |s, (j, d)| s + ((d * weights[j & 7]) << j));
        let bin = sum.wrapping_mul(0x9e37_79b9_7f4a_7c15) / divisor % classes;
        want[bin as usize] += 1;
        want[(classes + bin) as usize] += sum;
    }
    let module = parse(HISTOGRAM);
    for machine in machines() {
        let from = upload(&machine, "x", &bytes(&x, u32::to_le_bytes));
        for (launch, blocks) in [4, 4, 1].into_iter().enumerate() {
            let Arg::U64(bins) = upload(&machine, "bins", &[0; 600]) else { unreachable!("an address") };
            let args = [from, Arg::I32(3000), Arg::U64(bins), Arg::U32(classes as u32), Arg::U64(divisor)];
            machine
                .launch(&module, "histogram", [blocks, 1, 1], [128, 1, 1], 0, &args)
                .unwrap_or_else(|e| panic!("{e}"));
            let got = u64s(&machine.read(bins, 600).expect("all written"));
            // The counter of launched blocks lives in the module.
            want[74] = if launch == 2 { 9 } else { 0 };
            assert_eq!(got, want);
        }
    }
}

/// `cargo test --release --test ptx_vm speed -- --ignored --nocapture`
#[test]
#[ignore = "prints how fast the machine is"]
fn speed() {
    let timed = |name: &str, run: &dyn Fn(&Machine)| {
        let machine = machine();
        let start = std::time::Instant::now();
        run(&machine);
        let (seconds, lanes) = (start.elapsed().as_secs_f64(), 32 * machine.executed());
        println!("{name}: {lanes} lane instructions in {seconds:.3} s, {:.1} M/s", lanes as f64 / seconds / 1e6);
    };
    let (n, k) = (256, 256);
    timed("tiled f32", &|machine| {
        let zeros = |name, len: usize| upload(machine, name, &vec![0; 4 * len]);
        let all = [zeros("a", n * k), zeros("b", n * k), zeros("c", n * n), Arg::I32(n as i32), Arg::I32(k as i32)];
        machine.launch(&parse(TILED), "tiled", [16, 16, 1], [256, 1, 1], 0, &all).expect("no fault");
    });
    timed("mma f16", &|machine| {
        let zeros = |name, len: usize| upload(machine, name, &vec![0; 4 * len]);
        let all = [zeros("a", n * k), zeros("b", n * k), zeros("c", n * n), Arg::I32(n as i32), Arg::I32(k as i32)];
        machine.launch(&parse(HALF), "half_product", [32, 8, 1], [64, 1, 1], 1920, &all).expect("no fault");
    });
    timed("reduction f64", &|machine| {
        let x = upload(machine, "x", &vec![0; 4 << 20]);
        let out: Vec<Arg> = (0..3).map(|_| upload(machine, "out", &[0; 512])).collect();
        let all = [x, Arg::I32(1 << 20), out[0], out[1], out[2]];
        machine.launch(&parse(REDUCE), "reduce", [64, 1, 1], [256, 1, 1], 0, &all).expect("no fault");
    });
    timed("histogram", &|machine| {
        let x = upload(machine, "x", &vec![7; 4 << 17]);
        let bins = upload(machine, "bins", &[0; 600]);
        let all = [x, Arg::I32(1 << 17), bins, Arg::U32(37), Arg::U64(1234567)];
        machine.launch(&parse(HISTOGRAM), "histogram", [16, 1, 1], [128, 1, 1], 0, &all).expect("no fault");
    });
}

/// One thread of `many`: y, z and w, where `total` and `best` are the exchanged values.
fn many(t: usize, which: i32, s: (i32, f32), x: &[f32], y: &[i32], w: &[u64]) -> (i32, f32, f64, u64) {
    let (mut v, ti, wt) = (y[t], t as i32, w[t]);
    match (which + ti) % 9 {
        0 => v = (v.count_ones() + wt.count_ones()) as i32,
        1 => v = (v.leading_zeros() * 100) as i32 + if v == 0 { 0 } else { v.trailing_zeros() as i32 + 1 },
        2 => v = v.reverse_bits(),
        3 => {
            let all = [v.to_le_bytes(), ti.to_le_bytes()].concat();
            v = i32::from_le_bytes([all[5], all[1], all[7], all[3]]);
        }
        4 => v = ((ti as u32) << 7 | v as u32 >> 25) as i32,
        5 => v /= ti + 1,
        6 => v %= 7,
        7 => {
            v = (0..4)
                .fold(5, |sum, i| sum + i32::from(v.to_le_bytes()[i] as i8) * i32::from(ti.to_le_bytes()[i] as i8))
        }
        _ => v = v.wrapping_abs().wrapping_add(v.max(ti)),
    }
    let (x0, scale) = (x[t], s.1);
    // 0.1 cut instead of rounded.
    let exact = f64::from(x0) + f64::from(0.1f32);
    let near = exact as f32;
    let cut = if f64::from(near).abs() > exact.abs() { f32::from_bits(near.to_bits() - 1) } else { near };
    let f = x0.round_ties_even() + (x0 * scale).floor() - cut + x0.trunc() + x0.ceil();
    let f = f.min(scale) + (-f).max(0.5) + f.abs().sqrt() / (1.0 + f * f) + f.mul_add(f, 1.0);
    let d = f64::from(f) * 3.0 + wt as f64 - wt as i64 as f64 / 7.0;
    let q = ((wt as i64) / i64::from(v | 1)).wrapping_add((wt % 1_000_003) as i64).wrapping_add(d.floor() as i64);
    let high = ((u128::from(wt) * 0x9e37_79b9_7f4a_7c15) >> 64) as u64;
    let mulhi = ((i64::from(v) * i64::from(ti)) >> 32) as u32;
    let w = (q as u64).wrapping_mul(31).wrapping_add(high).wrapping_add(u64::from(mulhi)).wrapping_add(t as u64 % 32);
    let best = x[(t + (v & 7) as usize) % s.0 as usize];
    let z = d + q as f64 + f64::from(best);
    (v, best, z, w)
}

#[test]
fn many_instructions() {
    let (n, scale, tag) = (50, 1.75f32, [3u8, 4, 250]);
    let mut random = Random(5);
    let x: Vec<f32> = (0..64).map(|_| 9.0 * random.unit()).collect();
    let y: Vec<i32> = (0..64).map(|i| (random.next() >> (i % 32)) as i32).collect();
    let w: Vec<u64> = (0..64).map(|i| (random.next() << 1) >> (i % 50)).collect();
    let module = parse(include_str!("programs/many.ptx"));
    for which in 0..9 {
        let machine = machine();
        let mut shape = Vec::new();
        shape.extend(i32::to_le_bytes(n));
        shape.extend(scale.to_le_bytes());
        shape.extend([0; 8]);
        shape.extend(tag);
        shape.resize(24, 0);
        let args = [
            upload(&machine, "shape", &shape),
            upload(&machine, "x", &bytes(&x, f32::to_le_bytes)),
            upload(&machine, "y", &bytes(&y, i32::to_le_bytes)),
            Arg::U64(machine.alloc("z", 512)),
            upload(&machine, "w", &bytes(&w, u64::to_le_bytes)),
            Arg::I32(which),
        ];
        machine.launch(&module, "many", [2, 1, 1], [32, 1, 1], 0, &args).unwrap_or_else(|e| panic!("{e}"));
        let read = |i: usize, len| match args[i] {
            Arg::U64(address) => machine.read(address, len).expect("all written"),
            _ => unreachable!("an address"),
        };
        let (got_y, got_z, got_w) = (super::u32s(&read(2, 256)), u64s(&read(3, 512)), u64s(&read(4, 512)));
        let rows: Vec<_> = (0..64).map(|t| many(t, which, (n, scale), &x, &y, &w)).collect();
        for (t, (v, best, z, w_new)) in rows.iter().enumerate() {
            let warp = &rows[t / 32 * 32..][..32];
            let mut total = warp.iter().fold(0i32, |s, r| s.wrapping_add(r.0));
            if warp.iter().any(|r| r.0 > 1000) {
                total ^= (0..32).filter(|l| warp[*l].0 & 3 == v & 3).fold(0, |m, l| m | 1 << l);
            }
            assert_eq!(got_y[t], total as u32, "y of {t}, {which}");
            assert_eq!(got_w[t], *w_new, "w of {t}, {which}");
            let d = z - 0.0;
            let up = if t % 32 < 3 { *best } else { rows[t - 3].1 };
            let parts = [
                f64::from(f16::from_f32(*best).to_bits()),
                f64::from(u32::from(*best > 1.0)),
                f64::from(y[t] as u32),
                f64::from(tag[t % 3]),
                0.0,
                f64::from(f32::from_bits(0x3f80_0000 | (t as u32) << 3)),
                f64::NAN,
                if t > 3 { f64::from_bits(0x3ff0_0000_0000_0000 | (t as u64) << 30) } else { 0.0 },
                f64::from(up),
            ];
            // The sign of d decides the seventh; d itself is in z only, so both are tried. The fifth is below a half
            // for these data.
            let sum = |sign: f64| parts.iter().fold(d, |s, p| s + if p.is_nan() { sign } else { *p });
            let got = f64::from_bits(got_z[t]);
            assert!(got == sum(1.0) || got == sum(-1.0), "z of {t}, {which}: {got}, not {}", sum(1.0));
        }
    }
}
