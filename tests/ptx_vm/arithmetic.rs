//! Each instruction that computes, over special values, against Rust.

use super::{Arg, HEAD, Module, machine, u64s, upload};
use crate::vm::FaultKind;

/// Runs `code` on each triple. Its inputs are %h1..3, %r1..3 and %d1..3 (the values cut to 16, 32 and 64 bits), its
/// result is register 0 of the width `out` names, or %p0.
pub fn run(code: &str, out: char, inputs: &[[u64; 3]]) -> Vec<u64> {
    let result = match out {
        'h' => "cvt.u64.u16 %o, %h0;",
        'r' => "cvt.u64.u32 %o, %r0;",
        'p' => "selp.u64 %o, 1, 0, %p0;",
        _ => "mov.b64 %o, %d0;",
    };
    let mut text = format!(
        "{HEAD}.visible .entry k(.param .u64 k_in, .param .u64 k_out, .param .u32 k_n) {{
        .reg .b16 %h<8>; .reg .b32 %r<8>; .reg .b64 %d<8>; .reg .pred %p<8>;
        .reg .b32 %t<4>; .reg .b64 %a<4>, %o; .reg .pred %q;
        mov.u32 %t0, %ctaid.x; mov.u32 %t1, %ntid.x; mov.u32 %t2, %tid.x; mad.lo.u32 %t0, %t0, %t1, %t2;
        ld.param.u32 %t1, [k_n]; setp.ge.u32 %q, %t0, %t1; @%q bra DONE;
        ld.param.u64 %a0, [k_in]; mad.wide.u32 %a0, %t0, 24, %a0;\n"
    );
    for i in 0..3 {
        text += &format!(
            "ld.global.u64 %d{0}, [%a0+{1}]; cvt.u32.u64 %r{0}, %d{0}; cvt.u16.u64 %h{0}, %d{0};\n",
            i + 1,
            8 * i
        );
    }
    text += &format!(
        "{{ {code} }}\n{result}
        ld.param.u64 %a1, [k_out]; mad.wide.u32 %a1, %t0, 8, %a1; st.global.u64 [%a1], %o;\nDONE: ret; }}"
    );
    let module = Module::parse(&text).unwrap_or_else(|e| panic!("{e} in {code}\n{text}"));
    let machine = machine();
    let bytes: Vec<u8> = inputs.iter().flatten().flat_map(|v| v.to_le_bytes()).collect();
    let source = upload(&machine, "in", &bytes);
    let to = machine.alloc("out", 8 * inputs.len());
    let n = inputs.len() as u32;
    machine
        .launch(&module, "k", [n.div_ceil(128), 1, 1], [128, 1, 1], 0, &[source, Arg::U64(to), Arg::U32(n)])
        .unwrap_or_else(|e| panic!("{code}: {e}"));
    u64s(&machine.read(to, 8 * inputs.len()).expect("all written"))
}

pub fn cross(values: &[u64], thirds: &[u64]) -> Vec<[u64; 3]> {
    let pairs = values.iter().flat_map(|a| values.iter().map(move |b| (*a, *b)));
    pairs.flat_map(|(a, b)| thirds.iter().map(move |c| [a, b, *c])).collect()
}

pub fn check(code: &str, out: char, inputs: &[[u64; 3]], expect: impl Fn(u64, u64, u64) -> u64) {
    for ([a, b, c], got) in inputs.iter().zip(run(code, out, inputs)) {
        let want = expect(*a, *b, *c);
        assert_eq!(got, want, "{code} of {a:#x}, {b:#x}, {c:#x}: {got:#x}, not {want:#x}");
    }
}

pub fn ints() -> Vec<u64> {
    let mut values =
        vec![0, 1, 2, 3, 7, 31, 32, 33, 0x7f, 0x80, 0xff, 0x7fff, 0x8000, 0xffff, 0x1234_5678, 0x7fff_ffff];
    values.extend([
        0x8000_0000,
        0x8000_0001,
        0xffff_fffe,
        0xffff_ffff,
        0x1_0000_0000,
        i64::MIN as u64,
        i64::MAX as u64,
    ]);
    values.extend([u64::MAX, 0xdead_beef_0bad_cafe]);
    values
}

const THIRDS: [u64; 5] = [0, 1, 0x1f, 0x8765_4321_fedc_ba98, u64::MAX];

/// Cases of one width: `t` the Rust type that the operands are read as.
macro_rules! cases {
    ($inputs:expr, $out:literal, $t:ty, $(($code:expr, |$a:ident, $b:ident, $c:ident| $e:expr)),* $(,)?) => {
        $(check($code, $out, &$inputs, |a, b, c| {
            #[allow(unused_variables)]
            let ($a, $b, $c) = (a as $t, b as $t, c as $t);
            let result = $e;
            bits(result as i128, $out)
        });)*
    };
}

fn bits(value: i128, out: char) -> u64 {
    match out {
        'h' => u64::from(value as u16),
        'r' => u64::from(value as u32),
        'p' => u64::from(value != 0),
        _ => value as u64,
    }
}

#[test]
fn integers_32() {
    let inputs = cross(&ints(), &THIRDS);
    cases!(
        inputs,
        'r',
        u32,
        ("add.u32 %r0, %r1, %r2;", |a, b, c| a.wrapping_add(b)),
        ("add.s32 %r0, %r1, -5;", |a, b, c| a.wrapping_sub(5)),
        ("sub.s32 %r0, %r1, %r2;", |a, b, c| a.wrapping_sub(b)),
        ("mul.lo.u32 %r0, %r1, %r2;", |a, b, c| a.wrapping_mul(b)),
        ("mul.hi.u32 %r0, %r1, %r2;", |a, b, c| (u64::from(a) * u64::from(b)) >> 32),
        ("mul24.lo.u32 %r0, %r1, %r2;", |a, b, c| (u64::from(a & 0xff_ffff) * u64::from(b & 0xff_ffff)) as u32),
        ("mad.lo.s32 %r0, %r1, %r2, %r3;", |a, b, c| a.wrapping_mul(b).wrapping_add(c)),
        ("mad.hi.u32 %r0, %r1, %r2, %r3;", |a, b, c| (((u64::from(a) * u64::from(b)) >> 32) as u32).wrapping_add(c)),
        ("sad.u32 %r0, %r1, %r2, %r3;", |a, b, c| a.abs_diff(b).wrapping_add(c)),
        ("min.u32 %r0, %r1, %r2;", |a, b, c| a.min(b)),
        ("max.u32 %r0, %r1, %r2;", |a, b, c| a.max(b)),
        ("and.b32 %r0, %r1, %r2;", |a, b, c| a & b),
        ("or.b32 %r0, %r1, %r2;", |a, b, c| a | b),
        ("xor.b32 %r0, %r1, %r2;", |a, b, c| a ^ b),
        ("not.b32 %r0, %r1;", |a, b, c| !a),
        ("cnot.b32 %r0, %r1;", |a, b, c| u32::from(a == 0)),
        ("shl.b32 %r0, %r1, %r2;", |a, b, c| if b > 31 { 0 } else { a << b }),
        ("shr.u32 %r0, %r1, %r2;", |a, b, c| if b > 31 { 0 } else { a >> b }),
        ("popc.b32 %r0, %r1;", |a, b, c| a.count_ones()),
        ("clz.b32 %r0, %r1;", |a, b, c| a.leading_zeros()),
        ("brev.b32 %r0, %r1;", |a, b, c| a.reverse_bits()),
        ("bfind.u32 %r0, %r1;", |a, b, c| if a == 0 { u32::MAX } else { a.ilog2() }),
        ("lop3.b32 %r0, %r1, %r2, %r3, 0xE8;", |a, b, c| a & b | a & c | b & c),
        ("lop3.b32 %r0, %r1, %r2, %r3, 0x96;", |a, b, c| a ^ b ^ c),
        ("lop3.b32 %r0, %r1, %r2, %r3, 0xCA;", |a, b, c| a & b | !a & c),
        ("lop3.b32 %r0, %r1, %r2, %r3, 0x1E;", |a, b, c| a ^ (b | c)),
        ("shf.l.wrap.b32 %r0, %r1, %r2, %r3;", |a, b, c| ((u64::from(b) << 32 | u64::from(a)) << (c & 31)) >> 32),
        ("shf.r.wrap.b32 %r0, %r1, %r2, %r3;", |a, b, c| (u64::from(b) << 32 | u64::from(a)) >> (c & 31)),
        ("shf.l.clamp.b32 %r0, %r1, %r2, %r3;", |a, b, c| ((u64::from(b) << 32 | u64::from(a)) << c.min(32)) >> 32),
        ("shf.r.clamp.b32 %r0, %r1, %r2, %r3;", |a, b, c| (u64::from(b) << 32 | u64::from(a)) >> c.min(32)),
        ("slct.u32.s32 %r0, %r1, %r2, %r3;", |a, b, c| if (c as i32) >= 0 { a } else { b }),
        ("mov.b32 %r0, {%h1, %h2};", |a, b, c| b << 16 | a & 0xffff),
        ("mov.b32 {%h4, %h5}, %r1; cvt.u32.u16 %r0, %h5;", |a, b, c| a >> 16),
        ("setp.lt.u32 %p1|%p2, %r1, %r2; selp.b32 %r0, %r3, 9, %p2;", |a, b, c| if a < b { 9 } else { c }),
        ("set.gt.u32.s32 %r0, %r1, %r2;", |a, b, c| if a as i32 > b as i32 { u32::MAX } else { 0 }),
        ("add.cc.u32 %r4, %r1, %r2; addc.u32 %r0, %r3, 0;", |a, b, c| c
            .wrapping_add(u32::from(a.checked_add(b).is_none()))),
        ("sub.cc.u32 %r4, %r1, %r2; subc.u32 %r0, %r3, 0;", |a, b, c| c.wrapping_sub(u32::from(a < b))),
        ("mad.lo.cc.u32 %r4, %r1, %r2, %r3; madc.hi.u32 %r0, %r1, %r2, 7;", |a, b, c| {
            (((u64::from(a) * u64::from(b) + u64::from(c)) >> 32) as u32).wrapping_add(7)
        }),
    );
    cases!(
        inputs,
        'r',
        i32,
        ("mul.hi.s32 %r0, %r1, %r2;", |a, b, c| (i64::from(a) * i64::from(b)) >> 32),
        ("min.s32 %r0, %r1, %r2;", |a, b, c| a.min(b)),
        ("max.s32 %r0, %r1, %r2;", |a, b, c| a.max(b)),
        ("abs.s32 %r0, %r1;", |a, b, c| a.wrapping_abs()),
        ("neg.s32 %r0, %r1;", |a, b, c| a.wrapping_neg()),
        ("shr.s32 %r0, %r1, %r2;", |a, b, c| if !(0..=31).contains(&b) { a >> 31 } else { a >> b }),
        ("add.sat.s32 %r0, %r1, %r2;", |a, b, c| a.saturating_add(b)),
        ("sub.sat.s32 %r0, %r1, %r2;", |a, b, c| a.saturating_sub(b)),
        ("bfind.s32 %r0, %r1;", |a, b, c| (31 - i64::from((if a < 0 { !a } else { a }).leading_zeros())) as i32),
        ("{ .reg .b32 %r1; mov.b32 %r1, 6; add.s32 %r0, %r1, %r2; }", |a, b, c| b.wrapping_add(6)),
    );
    let nonzero: Vec<_> = inputs.iter().filter(|i| i[1] as u16 != 0).copied().collect();
    cases!(nonzero, 'r', u32, ("div.u32 %r0, %r1, %r2;", |a, b, c| a / b), ("rem.u32 %r0, %r1, %r2;", |a, b, c| a % b));
    cases!(
        nonzero,
        'r',
        i32,
        ("div.s32 %r0, %r1, %r2;", |a, b, c| a.wrapping_div(b)),
        ("rem.s32 %r0, %r1, %r2;", |a, b, c| a.wrapping_rem(b)),
    );
}

#[test]
fn bit_fields() {
    let fields: Vec<[u64; 3]> = ints()
        .iter()
        .flat_map(|a| {
            [0, 1, 5, 16, 31, 32, 40].iter().flat_map(move |at| [0, 1, 4, 8, 31, 32, 50].map(|len| [*a, *at, len]))
        })
        .collect();
    let unsigned = |a: u64, at: u64, len: u64| {
        let field = if at > 31 { 0 } else { (a as u32) >> at };
        if len > 31 { field } else { field & ((1 << len) - 1) }
    };
    check("bfe.u32 %r0, %r1, %r2, %r3;", 'r', &fields, |a, at, len| u64::from(unsigned(a, at, len)));
    check("bfe.s32 %r0, %r1, %r2, %r3;", 'r', &fields, |a, at, len| {
        // Arithmetic on a value wide enough that nothing is cut off.
        let a = i128::from(a as u32 as i32) >> at;
        u64::from(if len == 0 {
            0
        } else if len > 31 {
            a as u32
        } else {
            ((a << (128 - len)) >> (128 - len)) as u32
        })
    });
    check("bfi.b32 %r0, 0x12345678, %r1, %r2, %r3;", 'r', &fields, |b, at, len| {
        let mask = if len > 31 { u64::from(u32::MAX) } else { (1 << len) - 1 };
        let (mask, value) = if at > 31 { (0, 0) } else { (mask << at, (0x1234_5678 & mask) << at) };
        (b & !mask | value) & 0xffff_ffff
    });
    let inputs = cross(&ints(), &[0x3210, 0x7654, 0x0123, 0xfedc, 0x4b08]);
    check("prmt.b32 %r0, %r1, %r2, %r3;", 'r', &inputs, |a, b, c| {
        let source = [(a as u32).to_le_bytes(), (b as u32).to_le_bytes()].concat();
        let pick = |i: u64| {
            let nibble = (c >> (4 * i)) as usize;
            let byte = source[nibble & 7];
            u64::from(if nibble & 8 == 0 {
                byte
            } else if byte > 127 {
                255
            } else {
                0
            })
        };
        pick(0) | pick(1) << 8 | pick(2) << 16 | pick(3) << 24
    });
    for (code, a_signed, b_signed) in
        [("u32.u32", false, false), ("s32.s32", true, true), ("s32.u32", true, false), ("u32.s32", false, true)]
    {
        check(&format!("dp4a.{code} %r0, %r1, %r2, %r3;"), 'r', &inputs, |a, b, c| {
            let byte = |x: u64, i, signed| {
                let byte = (x as u32).to_le_bytes()[i];
                if signed { i64::from(byte as i8) } else { i64::from(byte) }
            };
            (0..4).fold(c as i64, |s, i| s + byte(a, i, a_signed) * byte(b, i, b_signed)) as u32 as u64
        });
    }
}

#[test]
fn integers_16_and_64() {
    let inputs = cross(&ints(), &THIRDS);
    cases!(
        inputs,
        'h',
        u16,
        ("add.u16 %h0, %h1, %h2;", |a, b, c| a.wrapping_add(b)),
        ("mul.lo.u16 %h0, %h1, %h2;", |a, b, c| a.wrapping_mul(b)),
        ("mul.hi.u16 %h0, %h1, %h2;", |a, b, c| (u32::from(a) * u32::from(b)) >> 16),
        ("min.u16 %h0, %h1, %h2;", |a, b, c| a.min(b)),
        ("max.s16 %h0, %h1, %h2;", |a, b, c| (a as i16).max(b as i16)),
        ("and.b16 %h0, %h1, %h2;", |a, b, c| a & b),
        ("not.b16 %h0, %h1;", |a, b, c| !a),
        ("shr.s16 %h0, %h1, 4;", |a, b, c| (a as i16) >> 4),
    );
    check(
        "shl.b16 %h0, %h1, %r2;",
        'h',
        &inputs,
        |a, b, _| {
            if b as u32 > 15 { 0 } else { u64::from((a as u16) << b as u32) }
        },
    );
    cases!(
        inputs,
        'd',
        u64,
        ("add.s64 %d0, %d1, %d2;", |a, b, c| a.wrapping_add(b)),
        ("sub.u64 %d0, %d1, %d2;", |a, b, c| a.wrapping_sub(b)),
        ("mul.lo.u64 %d0, %d1, %d2;", |a, b, c| a.wrapping_mul(b)),
        ("mul.hi.u64 %d0, %d1, %d2;", |a, b, c| ((u128::from(a) * u128::from(b)) >> 64) as u64),
        ("mul.wide.u32 %d0, %r1, %r2;", |a, b, c| u64::from(a as u32) * u64::from(b as u32)),
        ("mul.wide.s32 %d0, %r1, -3;", |a, b, c| i64::from(a as u32 as i32) * -3),
        ("mad.wide.u32 %d0, %r1, %r2, %d3;", |a, b, c| (u64::from(a as u32) * u64::from(b as u32)).wrapping_add(c)),
        ("mad.wide.s32 %d0, %r1, %r2, %d3;", |a, b, c| {
            (i64::from(a as i32) * i64::from(b as i32)).wrapping_add(c as i64)
        }),
        ("mad.lo.s64 %d0, %d1, %d2, %d3;", |a, b, c| a.wrapping_mul(b).wrapping_add(c)),
        ("min.u64 %d0, %d1, %d2;", |a, b, c| a.min(b)),
        ("max.s64 %d0, %d1, %d2;", |a, b, c| (a as i64).max(b as i64)),
        ("abs.s64 %d0, %d1;", |a, b, c| (a as i64).wrapping_abs()),
        ("neg.s64 %d0, %d1;", |a, b, c| a.wrapping_neg()),
        ("xor.b64 %d0, %d1, %d2;", |a, b, c| a ^ b),
        ("shl.b64 %d0, %d1, %r2;", |a, b, c| if b as u32 > 63 { 0 } else { a << (b as u32) }),
        ("shr.u64 %d0, %d1, %r2;", |a, b, c| if b as u32 > 63 { 0 } else { a >> (b as u32) }),
        ("shr.s64 %d0, %d1, %r2;", |a, b, c| (a as i64) >> (b as u32).min(63)),
        ("mov.b64 %d0, {%r1, %r2};", |a, b, c| b << 32 | u64::from(a as u32)),
        ("mov.b64 {%r4, _}, %d1; cvt.u64.u32 %d0, %r4;", |a, b, c| u64::from(a as u32)),
        ("mov.b64 %d0, {%h1, %h2, %h3, %h1};", |a, b, c| {
            u64::from(a as u16) << 48 | u64::from(c as u16) << 32 | u64::from(b as u16) << 16 | u64::from(a as u16)
        }),
        ("add.cc.u64 %d4, %d1, %d2; addc.u64 %d0, %d3, 1;", |a, b, c| {
            c.wrapping_add(1).wrapping_add(u64::from(a.checked_add(b).is_none()))
        }),
        ("bfe.u64 %d0, %d1, 20, 30;", |a, b, c| (a >> 20) & ((1 << 30) - 1)),
        ("bfi.b64 %d0, %d1, %d2, 40, 10;", |a, b, c| b & !(0x3ff << 40) | (a & 0x3ff) << 40),
        ("setp.ge.s64 %p1, %d1, %d2; selp.b64 %d0, %d1, %d2, %p1;", |a, b, c| (a as i64).max(b as i64)),
    );
    cases!(
        inputs,
        'r',
        u64,
        ("popc.b64 %r0, %d1;", |a, b, c| a.count_ones()),
        ("clz.b64 %r0, %d1;", |a, b, c| a.leading_zeros()),
        ("bfind.u64 %r0, %d1;", |a, b, c| if a == 0 { u32::MAX } else { a.ilog2() }),
    );
    let nonzero: Vec<_> = inputs.iter().filter(|i| i[1] != 0).copied().collect();
    cases!(nonzero, 'd', u64, ("div.u64 %d0, %d1, %d2;", |a, b, c| a / b), ("rem.u64 %d0, %d1, %d2;", |a, b, c| a % b));
    cases!(
        nonzero,
        'd',
        i64,
        ("div.s64 %d0, %d1, %d2;", |a, b, c| a.wrapping_div(b)),
        ("rem.s64 %d0, %d1, %d2;", |a, b, c| a.wrapping_rem(b)),
    );
}

#[test]
fn what_is_not_understood_is_refused() {
    for code in [
        "ex2.approx.f32 %r0, %r1;",
        "add.ftz.f32 %r0, %r1, %r2;",
        "div.approx.f32 %r0, %r1, %r2;",
        "div.full.f32 %r0, %r1, %r2;",
        "add.u32 %d0, %r1, %r2;",
        "add.u32 %r0, %r1;",
        "add.u32 %r0, %r1, %nothing;",
        "add.rz.f64 %d0, %d1, %d2;",
        "call foo;",
        "bra NOWHERE;",
        "cvt.f16.f32 %h0, %r1;",
        "cvt.s32.f32 %r0, %r1;",
        "ld.global.u64 %r0, [%d1];",
        "mov.b64 {%r1, %r2, %r3}, %d1;",
        "bar.red.popc.u32;",
        "bar.sync;",
        "@%r1 bra X; X:",
        "add.u32 %r0, %r1, %r2",
        "add.u32 %r0, {, %r2;",
        "mov.b32 %r0, {};",
        "mbarrier.init.shared.b64 [%d1], 1;",
        "st.param.u32 [k+0], 1;",
        "mad.lo.u32.fast %r0, %r1, %r2, %r3;",
        "frobnicate.b32 %r0;",
    ] {
        let text = format!("{HEAD}.entry k() {{ .reg .b16 %h<4>; .reg .b32 %r<4>; .reg .b64 %d<4>; {code} ret; }}");
        let error = Module::parse(&text).err().unwrap_or_else(|| panic!("{code} was taken"));
        assert!(error.contains("line 4") || error.contains("ends early"), "{code}: {error}");
    }
    // A text cut anywhere gives an error, or a module, but never a panic.
    let text = format!(
        "{HEAD}.entry k(.param .u64 p) {{ .reg .b32 %r<4>; @!%p bra L; L: mov.b64 {{%r1, _}}, -1; ld.global.v2.u32 {{%r1, %r2}}, [p+4]; bar.sync 0; ret; }}"
    );
    for end in 0..text.len() {
        let _ = Module::parse(&text[..end]);
        let _ = Module::parse(&format!("{}{}", &text[..end], &text[(end + 3).min(text.len())..]));
    }
    let module = super::parse(&format!("{HEAD}.entry k() {{ trap; }}"));
    let fault = machine().launch(&module, "k", [1; 3], [1; 3], 0, &[]).expect_err("a trap");
    assert_eq!(fault.kind, FaultKind::Unsupported);
}
