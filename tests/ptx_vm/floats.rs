//! Floating-point instructions and conversions over special values, against Rust.

use half::{bf16, f16};

use super::arithmetic::{check, cross, ints, run};

fn f32s_special() -> Vec<u64> {
    let values = [0.0f32, -0.0, 1.0, -1.0, 0.5, 1.5, 2.5, -2.5, 3.0, 0.1, 1e-40, -1e-45, f32::MIN_POSITIVE, f32::MAX];
    let more =
        [f32::MIN, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 1e20, 3e-20, 16777217.0, 2147483648.0, 65504.0, 65520.0];
    let bits = values.iter().chain(&more).map(|v| u64::from(v.to_bits()));
    // A NaN with payload and sign, and 1 plus an ulp.
    bits.chain([0xff81_2345, 0x3f80_0001, 0x3f7f_ffff]).collect()
}

fn f64s_special() -> Vec<u64> {
    let values =
        [0.0, -0.0, 1.0, -1.5, 2.5, 0.1, 1e-310, 1e300, -1e-300, f64::MAX, f64::INFINITY, f64::NEG_INFINITY, f64::NAN];
    let more = [
        4294967296.5,
        -2147483648.9,
        9.3e18,
        -9.3e18,
        1.9e19,
        65520.0,
        65519.99,
        1.0 + 2f64.powi(-11) + 2f64.powi(-40),
    ];
    values.iter().chain(&more).map(|v| v.to_bits()).collect()
}

/// Expected bits, with the NaN of NVIDIA's units.
fn nan32(v: f32) -> u64 {
    u64::from(if v.is_nan() { 0x7fff_ffff } else { v.to_bits() })
}

fn nan64(v: f64) -> u64 {
    if v.is_nan() { 0xfff8 << 48 } else { v.to_bits() }
}

#[test]
fn floats_32() {
    let inputs = cross(&f32s_special(), &f32s_special()[..14]);
    let f = |x: u64| f32::from_bits(x as u32);
    let check3 = |code: &str, expect: &dyn Fn(f32, f32, f32) -> f32| {
        check(code, 'r', &inputs, |a, b, c| nan32(expect(f(a), f(b), f(c))));
    };
    check3("add.f32 %r0, %r1, %r2;", &|a, b, _| a + b);
    check3("add.rn.f32 %r0, %r1, 0f3F000000;", &|a, _, _| a + 0.5);
    check3("sub.rn.f32 %r0, %r1, %r2;", &|a, b, _| a - b);
    check3("mul.rn.f32 %r0, %r1, %r2;", &|a, b, _| a * b);
    check3("div.rn.f32 %r0, %r1, %r2;", &|a, b, _| a / b);
    check3("fma.rn.f32 %r0, %r1, %r2, %r3;", &|a, b, c| a.mul_add(b, c));
    check3("sqrt.rn.f32 %r0, %r1;", &|a, _, _| a.sqrt());
    check3("rcp.rn.f32 %r0, %r1;", &|a, _, _| 1.0 / a);
    check3("neg.f32 %r0, %r1;", &|a, _, _| -a);
    check3("abs.f32 %r0, %r1;", &|a, _, _| a.abs());
    check3("add.sat.f32 %r0, %r1, %r2;", &|a, b, _| if (a + b).is_nan() { 0.0 } else { (a + b).clamp(0.0, 1.0) + 0.0 });
    check3("min.f32 %r0, %r1, %r2;", &|a, b, _| {
        if a == b { if a.is_sign_negative() { a } else { b } } else { a.min(b) }
    });
    check3("max.f32 %r0, %r1, %r2;", &|a, b, _| {
        if a == b { if a.is_sign_positive() { a } else { b } } else { a.max(b) }
    });
    check3("max.NaN.f32 %r0, %r1, %r2;", &|a, b, _| {
        if a.is_nan() || b.is_nan() {
            f32::NAN
        } else if a == b {
            if a.is_sign_positive() { a } else { b }
        } else {
            a.max(b)
        }
    });
    check("copysign.f32 %r0, %r1, %r2;", 'r', &inputs, |a, b, _| (a & 0x8000_0000 | b & 0x7fff_ffff) & 0xffff_ffff);
    // Directed roundings bracket the exact sum and product.
    for (op, exact) in [("add", (|a, b| a + b) as fn(f64, f64) -> f64), ("mul", |a, b| a * b)] {
        let (down, up, zero) = (
            run(&format!("{op}.rm.f32 %r0, %r1, %r2;"), 'r', &inputs),
            run(&format!("{op}.rp.f32 %r0, %r1, %r2;"), 'r', &inputs),
            run(&format!("{op}.rz.f32 %r0, %r1, %r2;"), 'r', &inputs),
        );
        for (i, [a, b, _]) in inputs.iter().enumerate() {
            let value = exact(f64::from(f(*a)), f64::from(f(*b)));
            let (down, up, zero) = (f(down[i]), f(up[i]), f(zero[i]));
            if value.is_nan() || value.is_infinite() {
                continue;
            }
            // Sums far apart are not exact in f64: there the bracket may be an ulp of f64 off, which f32 does not show.
            assert!(f64::from(down) <= value && value <= f64::from(up), "{op} {a:#x} {b:#x}");
            assert!(down == up || down.next_up() == up || down == 0.0 || up == 0.0, "{op} {a:#x} {b:#x}: {down} {up}");
            assert!(zero == if value > 0.0 { down } else { up }, "{op} {a:#x} {b:#x}");
        }
    }
    let compare = |op: &str, expect: &dyn Fn(f32, f32) -> bool| {
        check(&format!("setp.{op}.f32 %p0, %r1, %r2;"), 'p', &inputs, |a, b, _| u64::from(expect(f(a), f(b))));
    };
    compare("eq", &|a, b| a == b);
    compare("ne", &|a, b| a != b && !a.is_nan() && !b.is_nan());
    compare("lt", &|a, b| a < b);
    compare("ge", &|a, b| a >= b);
    compare("equ", &|a, b| a == b || a.is_nan() || b.is_nan());
    compare("neu", &|a, b| a != b);
    compare("ltu", &|a, b| a < b || a.is_nan() || b.is_nan());
    compare("gtu", &|a, b| a > b || a.is_nan() || b.is_nan());
    compare("leu", &|a, b| a <= b || a.is_nan() || b.is_nan());
    compare("geu", &|a, b| a >= b || a.is_nan() || b.is_nan());
    compare("num", &|a, b| !a.is_nan() && !b.is_nan());
    compare("nan", &|a, b| a.is_nan() || b.is_nan());
    let code = "setp.eq.f32 %p1, %r3, %r3; setp.lt.and.f32 %p0|%p2, %r1, %r2, !%p1;";
    check(code, 'p', &inputs, |a, b, c| u64::from(f(a) < f(b) && f(c).is_nan()));
    check("testp.subnormal.f32 %p0, %r1;", 'p', &inputs, |a, _, _| u64::from(f(a).is_subnormal()));
    check("testp.notanumber.f32 %p0, %r1;", 'p', &inputs, |a, _, _| u64::from(f(a).is_nan()));
    // slct by a float: NaN chooses the second.
    check("slct.b32.f32 %r0, 1, 2, %r1;", 'r', &inputs, |a, _, _| if f(a) >= 0.0 { 1 } else { 2 });
}

#[test]
fn floats_64() {
    let inputs = cross(&f64s_special(), &f64s_special()[..6]);
    let f = f64::from_bits;
    let check3 = |code: &str, expect: &dyn Fn(f64, f64, f64) -> f64| {
        check(code, 'd', &inputs, |a, b, c| nan64(expect(f(a), f(b), f(c))));
    };
    check3("add.f64 %d0, %d1, %d2;", &|a, b, _| a + b);
    check3("sub.rn.f64 %d0, %d1, %d2;", &|a, b, _| a - b);
    check3("mul.rn.f64 %d0, %d1, 0d4008000000000000;", &|a, _, _| a * 3.0);
    check3("div.rn.f64 %d0, %d1, %d2;", &|a, b, _| a / b);
    check3("fma.rn.f64 %d0, %d1, %d2, %d3;", &|a, b, c| a.mul_add(b, c));
    check3("sqrt.rn.f64 %d0, %d1;", &|a, _, _| a.sqrt());
    check3("rcp.rn.f64 %d0, %d1;", &|a, _, _| 1.0 / a);
    check3("abs.f64 %d0, %d1;", &|a, _, _| a.abs());
    check("setp.geu.f64 %p0, %d1, %d2;", 'p', &inputs, |a, b, _| {
        u64::from(f(a) >= f(b) || f(a).is_nan() || f(b).is_nan())
    });
}

#[test]
fn conversions() {
    let inputs: Vec<_> = f32s_special().into_iter().chain(ints()).map(|v| [v, 0, 0]).collect();
    let f = |x: u64| f32::from_bits(x as u32);
    let check1 = |code: &str, out, expect: &dyn Fn(u64) -> u64| check(code, out, &inputs, |a, _, _| expect(a));
    check1("cvt.rzi.s32.f32 %r0, %r1;", 'r', &|a| u64::from(f(a) as i32 as u32));
    check1("cvt.rni.s32.f32 %r0, %r1;", 'r', &|a| u64::from(f(a).round_ties_even() as i32 as u32));
    check1("cvt.rmi.u32.f32 %r0, %r1;", 'r', &|a| u64::from(f(a).floor() as u32));
    check1("cvt.rpi.s32.f32 %r0, %r1;", 'r', &|a| u64::from(f(a).ceil() as i32 as u32));
    check1("cvt.rni.f32.f32 %r0, %r1;", 'r', &|a| nan32(f(a).round_ties_even()));
    check1("cvt.sat.f32.f32 %r0, %r1;", 'r', &|a| if f(a) > 0.0 { nan32(f(a).min(1.0)) } else { 0 });
    check1("cvt.rzi.u64.f32 %d0, %r1;", 'd', &|a| if f(a).is_nan() { 1 << 63 } else { f(a) as u64 });
    check1("cvt.rzi.s64.f32 %d0, %r1;", 'd', &|a| if f(a).is_nan() { 1 << 63 } else { f(a) as i64 as u64 });
    check1("cvt.rzi.u8.f32 %r0, %r1;", 'r', &|a| u64::from(f(a) as u8));
    check1("cvt.f64.f32 %d0, %r1;", 'd', &|a| nan64(f64::from(f(a))));
    check1("cvt.rn.f32.u32 %r0, %r1;", 'r', &|a| nan32(a as u32 as f32));
    check1("cvt.rn.f32.s32 %r0, %r1;", 'r', &|a| nan32(a as i32 as f32));
    check1("cvt.rn.f32.u64 %r0, %d1;", 'r', &|a| nan32(a as f32));
    check1("cvt.rn.f32.s64 %r0, %d1;", 'r', &|a| nan32(a as i64 as f32));
    check1("cvt.rn.f64.u64 %d0, %d1;", 'd', &|a| nan64(a as f64));
    check1("cvt.rn.f64.s32 %d0, %r1;", 'd', &|a| nan64(f64::from(a as i32)));
    check1("cvt.rn.f32.s8 %r0, %r1;", 'r', &|a| nan32(f32::from(a as i8)));
    check1("cvt.s64.s32 %d0, %r1;", 'd', &|a| i64::from(a as i32) as u64);
    check1("cvt.u64.u32 %d0, %r1;", 'd', &|a| u64::from(a as u32));
    check1("cvt.u32.u64 %r0, %d1;", 'r', &|a| u64::from(a as u32));
    check1("cvt.s32.s8 %r0, %r1;", 'r', &|a| u64::from(i32::from(a as i8) as u32));
    check1("cvt.s16.s8 %h0, %r1;", 'h', &|a| u64::from(i16::from(a as i8) as u16));
    check1("cvt.u32.u16 %r0, %h1;", 'r', &|a| u64::from(a as u16));
    check1("cvt.sat.s8.s32 %r0, %r1;", 'r', &|a| u64::from(i32::from((a as i32).clamp(-128, 127) as i8) as u32));
    check1("cvt.sat.u8.s32 %r0, %r1;", 'r', &|a| u64::from((a as i32).clamp(0, 255) as u8));
    check1("cvt.sat.u32.s64 %r0, %d1;", 'r', &|a| (a as i64).clamp(0, i64::from(u32::MAX)) as u64);
    let half = |v: f16| u64::from(if v.is_nan() { 0x7fff } else { v.to_bits() });
    let brain = |v: bf16| u64::from(if v.is_nan() { 0x7fff } else { v.to_bits() });
    check1("cvt.rn.f16.f32 %h0, %r1;", 'h', &|a| half(f16::from_f32(f(a))));
    check1("cvt.rn.bf16.f32 %h0, %r1;", 'h', &|a| brain(bf16::from_f32(f(a))));
    check1("cvt.f32.f16 %r0, %h1;", 'r', &|a| nan32(f16::from_bits(a as u16).to_f32()));
    check1("cvt.f32.bf16 %r0, %h1;", 'r', &|a| nan32(bf16::from_bits(a as u16).to_f32()));
    check1("cvt.rn.f16x2.f32 %r0, %r1, 0f40000000;", 'r', &|a| half(f16::from_f32(f(a))) << 16 | 0x4000);
    check1("cvt.rn.bf16x2.f32 %r0, 0f40000000, %r1;", 'r', &|a| 0x4000 << 16 | brain(bf16::from_f32(f(a))));
    let pairs = cross(&ints(), &ints());
    let h = |x: u64| f16::from_bits(x as u16);
    check("add.f16 %h0, %h1, %h2;", 'h', &pairs, |a, b, _| half(f16::from_f32(h(a).to_f32() + h(b).to_f32())));
    check("mul.f16 %h0, %h1, %h2;", 'h', &pairs, |a, b, _| half(f16::from_f32(h(a).to_f32() * h(b).to_f32())));
    check("fma.rn.f16 %h0, %h1, %h2, %h3;", 'h', &pairs, |a, b, c| {
        // A whole number of 2^-48, exactly.
        let exact = |x: u64| if h(x).is_finite() { Some((h(x).to_f64() * 2f64.powi(24)) as i128) } else { None };
        let (Some(x), Some(y), Some(z)) = (exact(a), exact(b), exact(c)) else {
            return half(f16::from_f64(h(a).to_f64() * h(b).to_f64() + h(c).to_f64()));
        };
        let sum = x * y + (z << 24);
        if sum == 0 {
            return half(f16::from_f64(h(a).to_f64() * h(b).to_f64() + h(c).to_f64()));
        }
        // Nearest, by trying what is around.
        let near = f16::from_f64(sum as f64 * 2f64.powi(-48));
        let bits = near.to_bits();
        let around =
            [bits.wrapping_sub(1), bits, bits.wrapping_add(1)].into_iter().filter(|b| f16::from_bits(*b).is_finite());
        if near.is_infinite() {
            return half(near);
        }
        let off = |b: u16| ((((f16::from_bits(b).to_f64() * 2f64.powi(24)) as i128) << 24) - sum).abs();
        u64::from(around.min_by_key(|b| (off(*b), b & 1)).expect("one is finite"))
    });
    let doubles: Vec<_> = f64s_special().into_iter().map(|v| [v, 0, 0]).collect();
    let d = f64::from_bits;
    check("cvt.rn.f32.f64 %r0, %d1;", 'r', &doubles, |a, _, _| nan32(d(a) as f32));
    check("cvt.rzi.s32.f64 %r0, %d1;", 'r', &doubles, |a, _, _| {
        if d(a).is_nan() { 1 << 31 } else { u64::from(d(a) as i32 as u32) }
    });
    check("cvt.rzi.u64.f64 %d0, %d1;", 'd', &doubles, |a, _, _| if d(a).is_nan() { 1 << 63 } else { d(a) as u64 });
    // Just above a tie of f16: rounding by way of f32 would lose it.
    let above = (1.0 + 2f64.powi(-11) + 2f64.powi(-40)).to_bits();
    check("cvt.rn.f16.f64 %h0, %d1;", 'h', &[[above, 0, 0]], |_, _, _| 0x3c01);
    let cut = |code: &str, x: f64| f32::from_bits(run(code, 'r', &[[x.to_bits(), 0, 0]])[0] as u32);
    assert_eq!(cut("cvt.rz.f32.f64 %r0, %d1;", -1.9999999999), -1.9999999);
    assert_eq!(cut("cvt.rp.f32.f64 %r0, %d1;", 1e-60), f32::from_bits(1));
    assert_eq!(cut("cvt.rm.f32.f64 %r0, %d1;", 1e300), f32::MAX);
}
