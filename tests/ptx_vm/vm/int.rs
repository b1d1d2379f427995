//! Integer arithmetic.

use super::isa::{Bin, Cmp, Lanes, Tri, Ty, Un};
use super::lanes::{Word, bin, cmp, tri, un};

/// One function for each width and sign; the body sees the Rust integer.
macro_rules! sized {
    ($ty:expr, $make:ident, |$($a:ident),*| $e:expr) => {
        match $ty {
            Ty::U16 | Ty::B16 => $make!(u16, |$($a),*| $e),
            Ty::S16 => $make!(i16, |$($a),*| $e),
            Ty::U32 | Ty::B32 => $make!(u32, |$($a),*| $e),
            Ty::S32 => $make!(i32, |$($a),*| $e),
            Ty::U64 | Ty::B64 => $make!(u64, |$($a),*| $e),
            Ty::S64 => $make!(i64, |$($a),*| $e),
            _ => return None,
        }
    };
}

/// The third operand of `slct` has a type of its own.
macro_rules! slct {
    ($t:ty, |$a:ident, $b:ident, $c:ident| $e:expr) => {
        tri!($t, $t, u64, |$a, $b, $c| $e)
    };
}

/// Two-operand instructions on integers; `op` with its form, as `mul.lo`.
pub fn binary(op: &str, ty: Ty) -> Option<Bin> {
    Some(match op {
        "add" => sized!(ty, bin, |a, b| a.wrapping_add(b)),
        "add.sat" if ty == Ty::S32 => bin!(i32, |a, b| a.saturating_add(b)),
        "sub" => sized!(ty, bin, |a, b| a.wrapping_sub(b)),
        "sub.sat" if ty == Ty::S32 => bin!(i32, |a, b| a.saturating_sub(b)),
        "mul.lo" => sized!(ty, bin, |a, b| a.wrapping_mul(b)),
        "mul.hi" => match ty {
            Ty::U16 => bin!(u16, |a, b| ((u32::from(a) * u32::from(b)) >> 16) as u16),
            Ty::S16 => bin!(i16, |a, b| ((i32::from(a) * i32::from(b)) >> 16) as i16),
            Ty::U32 => bin!(u32, |a, b| ((u64::from(a) * u64::from(b)) >> 32) as u32),
            Ty::S32 => bin!(i32, |a, b| ((i64::from(a) * i64::from(b)) >> 32) as i32),
            Ty::U64 => bin!(u64, |a, b| ((u128::from(a) * u128::from(b)) >> 64) as u64),
            Ty::S64 => bin!(i64, |a, b| ((i128::from(a) * i128::from(b)) >> 64) as i64),
            _ => return None,
        },
        "mul.wide" => match ty {
            Ty::U16 => bin!(u16, |a, b| u32::from(a) * u32::from(b)),
            Ty::S16 => bin!(i16, |a, b| i32::from(a) * i32::from(b)),
            Ty::U32 => bin!(u32, |a, b| u64::from(a) * u64::from(b)),
            Ty::S32 => bin!(i32, |a, b| i64::from(a) * i64::from(b)),
            _ => return None,
        },
        "mul24.lo" => match ty {
            Ty::U32 => bin!(u32, |a, b| (u64::from(a << 8 >> 8) * u64::from(b << 8 >> 8)) as u32),
            Ty::S32 => bin!(i32, |a, b| (i64::from(a << 8 >> 8) * i64::from(b << 8 >> 8)) as i32),
            _ => return None,
        },
        "mul24.hi" => match ty {
            Ty::U32 => bin!(u32, |a, b| ((u64::from(a << 8 >> 8) * u64::from(b << 8 >> 8)) >> 16) as u32),
            Ty::S32 => bin!(i32, |a, b| ((i64::from(a << 8 >> 8) * i64::from(b << 8 >> 8)) >> 16) as i32),
            _ => return None,
        },
        "min" => sized!(ty, bin, |a, b| a.min(b)),
        "max" => sized!(ty, bin, |a, b| a.max(b)),
        "and" => sized!(ty, bin, |a, b| a & b),
        "or" => sized!(ty, bin, |a, b| a | b),
        "xor" => sized!(ty, bin, |a, b| a ^ b),
        // Amounts are u32 whatever the type, and stop at the width.
        "shl" => match ty {
            Ty::B16 => bin!(u16, u32, |a, b| a.checked_shl(b).unwrap_or(0)),
            Ty::B32 => bin!(u32, u32, |a, b| a.checked_shl(b).unwrap_or(0)),
            Ty::B64 => bin!(u64, u32, |a, b| a.checked_shl(b).unwrap_or(0)),
            _ => return None,
        },
        "shr" => match ty {
            Ty::B16 | Ty::U16 => bin!(u16, u32, |a, b| a.checked_shr(b).unwrap_or(0)),
            Ty::B32 | Ty::U32 => bin!(u32, u32, |a, b| a.checked_shr(b).unwrap_or(0)),
            Ty::B64 | Ty::U64 => bin!(u64, u32, |a, b| a.checked_shr(b).unwrap_or(0)),
            Ty::S16 => bin!(i16, u32, |a, b| a >> b.min(15)),
            Ty::S32 => bin!(i32, u32, |a, b| a >> b.min(31)),
            Ty::S64 => bin!(i64, u32, |a, b| a >> b.min(63)),
            _ => return None,
        },
        _ => return None,
    })
}

/// Division and remainder; zero divisors are caught before, and give 0 in lanes that are not active.
pub fn divide(op: &str, ty: Ty) -> Option<Bin> {
    Some(match op {
        "div" => sized!(ty, bin, |a, b| if b == 0 { 0 } else { a.wrapping_div(b) }),
        "rem" => sized!(ty, bin, |a, b| if b == 0 { 0 } else { a.wrapping_rem(b) }),
        _ => return None,
    })
}

pub fn unary(op: &str, ty: Ty) -> Option<Un> {
    Some(match (op, ty) {
        ("neg", Ty::S16) => un!(i16, |a| a.wrapping_neg()),
        ("neg", Ty::S32) => un!(i32, |a| a.wrapping_neg()),
        ("neg", Ty::S64) => un!(i64, |a| a.wrapping_neg()),
        ("abs", Ty::S16) => un!(i16, |a| a.wrapping_abs()),
        ("abs", Ty::S32) => un!(i32, |a| a.wrapping_abs()),
        ("abs", Ty::S64) => un!(i64, |a| a.wrapping_abs()),
        ("not", _) => sized!(ty, un, |a| !a),
        ("cnot", _) => sized!(ty, un, |a| a == 0),
        ("popc", Ty::B32) => un!(u32, |a| a.count_ones()),
        ("popc", Ty::B64) => un!(u64, |a| a.count_ones()),
        ("clz", Ty::B32) => un!(u32, |a| a.leading_zeros()),
        ("clz", Ty::B64) => un!(u64, |a| a.leading_zeros()),
        ("brev", Ty::B32) => un!(u32, |a| a.reverse_bits()),
        ("brev", Ty::B64) => un!(u64, |a| a.reverse_bits()),
        ("bfind", Ty::U32) => un!(u32, |a| 31u32.wrapping_sub(a.leading_zeros())),
        ("bfind", Ty::S32) => un!(i32, |a| 31u32.wrapping_sub((a ^ (a >> 31)).leading_zeros())),
        ("bfind", Ty::U64) => un!(u64, |a| 63u32.wrapping_sub(a.leading_zeros())),
        ("bfind", Ty::S64) => un!(i64, |a| 63u32.wrapping_sub((a ^ (a >> 63)).leading_zeros())),
        ("bfind.shiftamt", Ty::U32) => un!(u32, |a| if a == 0 { u32::MAX } else { a.leading_zeros() }),
        ("bfind.shiftamt", Ty::S32) => un!(i32, |a| match (a ^ (a >> 31)).leading_zeros() {
            32 => u32::MAX,
            n => n,
        }),
        ("bfind.shiftamt", Ty::U64) => un!(u64, |a| if a == 0 { u32::MAX } else { a.leading_zeros() }),
        ("bfind.shiftamt", Ty::S64) => un!(i64, |a| match (a ^ (a >> 63)).leading_zeros() {
            64 => u32::MAX,
            n => n,
        }),
        _ => return None,
    })
}

fn field(a: u64, at: u64, len: u64, bits: u32, signed: bool) -> u64 {
    let (at, len) = ((at & 255) as u32, (len & 255) as u32);
    let msb = bits - 1;
    // The bit that fills what lies beyond the field.
    let sign = if !signed || len == 0 { 0 } else { (a >> (at + len - 1).min(msb)) & 1 };
    let mut d = 0;
    for i in 0..bits {
        let bit = if i < len && at + i <= msb { (a >> (at + i)) & 1 } else { sign };
        d |= bit << i;
    }
    d
}

/// `bfi`: the low `len` bits of `a` into `b` at `at`.
pub fn insert(a: u64, b: u64, at: u64, len: u64, bits: u32) -> u64 {
    let (at, len) = ((at & 255) as u32, (len & 255) as u32);
    let mut d = b;
    for i in 0..len {
        if at + i >= bits {
            break;
        }
        d = d & !(1 << (at + i)) | ((a >> i.min(63)) & 1) << (at + i);
    }
    d
}

fn permute(a: u32, b: u32, selector: impl Fn(usize) -> u32) -> u32 {
    let bytes = u64::from(b) << 32 | u64::from(a);
    let mut d = 0;
    for i in 0..4 {
        let s = selector(i);
        let byte = (bytes >> (8 * (s & 7))) as u8;
        // The fourth bit asks for the sign of the byte, spread over all of it.
        let byte = if s & 8 != 0 { ((byte as i8) >> 7) as u8 } else { byte };
        d |= u32::from(byte) << (8 * i);
    }
    d
}

fn dot4(a: u32, b: u32, c: u32, a_signed: bool, b_signed: bool) -> u32 {
    let byte = |x: u32, i: u32, signed: bool| {
        let byte = (x >> (8 * i)) as u8;
        if signed { i32::from(byte as i8) } else { i32::from(byte) }
    };
    (0..4).fold(c, |sum, i| sum.wrapping_add((byte(a, i, a_signed) * byte(b, i, b_signed)) as u32))
}

pub fn ternary(op: &str, ty: Ty) -> Option<Tri> {
    Some(match op {
        "mad.lo" => sized!(ty, tri, |a, b, c| a.wrapping_mul(b).wrapping_add(c)),
        "mad.hi" => match ty {
            Ty::U32 => tri!(u32, |a, b, c| (((u64::from(a) * u64::from(b)) >> 32) as u32).wrapping_add(c)),
            Ty::S32 => tri!(i32, |a, b, c| (((i64::from(a) * i64::from(b)) >> 32) as i32).wrapping_add(c)),
            Ty::U64 => tri!(u64, |a, b, c| (((u128::from(a) * u128::from(b)) >> 64) as u64).wrapping_add(c)),
            Ty::S64 => tri!(i64, |a, b, c| (((i128::from(a) * i128::from(b)) >> 64) as i64).wrapping_add(c)),
            _ => return None,
        },
        "mad.wide" => match ty {
            Ty::U16 => tri!(u16, u16, u32, |a, b, c| (u32::from(a) * u32::from(b)).wrapping_add(c)),
            Ty::S16 => tri!(i16, i16, i32, |a, b, c| (i32::from(a) * i32::from(b)).wrapping_add(c)),
            Ty::U32 => tri!(u32, u32, u64, |a, b, c| (u64::from(a) * u64::from(b)).wrapping_add(c)),
            Ty::S32 => tri!(i32, i32, i64, |a, b, c| (i64::from(a) * i64::from(b)).wrapping_add(c)),
            _ => return None,
        },
        "sad" => match ty {
            Ty::U16 => tri!(u16, |a, b, c| a.abs_diff(b).wrapping_add(c)),
            Ty::S16 => tri!(i16, |a, b, c| a.wrapping_sub(b).wrapping_abs().wrapping_add(c)),
            Ty::U32 => tri!(u32, |a, b, c| a.abs_diff(b).wrapping_add(c)),
            Ty::S32 => tri!(i32, |a, b, c| (a.abs_diff(b) as i32).wrapping_add(c)),
            Ty::U64 => tri!(u64, |a, b, c| a.abs_diff(b).wrapping_add(c)),
            Ty::S64 => tri!(i64, |a, b, c| (a.abs_diff(b) as i64).wrapping_add(c)),
            _ => return None,
        },
        "bfe" => match ty {
            Ty::U32 => tri!(u64, |a, b, c| field(a, b, c, 32, false)),
            Ty::S32 => tri!(u64, |a, b, c| field(a, b, c, 32, true)),
            Ty::U64 => tri!(u64, |a, b, c| field(a, b, c, 64, false)),
            Ty::S64 => tri!(u64, |a, b, c| field(a, b, c, 64, true)),
            _ => return None,
        },
        "slct.s32" => sized!(ty, slct, |a, b, c| if (c as u32 as i32) >= 0 { a } else { b }),
        "slct.f32" => sized!(ty, slct, |a, b, c| if f32::from_bits(c as u32) >= 0.0 { a } else { b }),
        "dp4a.u32.u32" => tri!(u32, |a, b, c| dot4(a, b, c, false, false)),
        "dp4a.u32.s32" => tri!(u32, |a, b, c| dot4(a, b, c, false, true)),
        "dp4a.s32.u32" => tri!(u32, |a, b, c| dot4(a, b, c, true, false)),
        "dp4a.s32.s32" => tri!(u32, |a, b, c| dot4(a, b, c, true, true)),
        "prmt" => tri!(u32, |a, b, c| permute(a, b, |i| c >> (4 * i) & 15)),
        "prmt.f4e" => tri!(u32, |a, b, c| permute(a, b, |i| (i as u32 + (c & 3)) & 7)),
        "prmt.b4e" => tri!(u32, |a, b, c| permute(a, b, |i| (c & 3).wrapping_sub(i as u32) & 7)),
        "prmt.rc8" => tri!(u32, |a, b, c| permute(a, b, |_| c & 3)),
        "prmt.ecl" => tri!(u32, |a, b, c| permute(a, b, |i| (i as u32).max(c & 3))),
        "prmt.ecr" => tri!(u32, |a, b, c| permute(a, b, |i| (i as u32).min(c & 3))),
        "prmt.rc16" => tri!(u32, |a, b, c| permute(a, b, |i| 2 * (c & 1) + (i as u32 & 1))),
        // d is the high (l) or low (r) half of {b, a} shifted.
        "shf.l.clamp" => tri!(u32, |a, b, c| (((u64::from(b) << 32 | u64::from(a)) << c.min(32)) >> 32) as u32),
        "shf.l.wrap" => tri!(u32, |a, b, c| (((u64::from(b) << 32 | u64::from(a)) << (c & 31)) >> 32) as u32),
        "shf.r.clamp" => tri!(u32, |a, b, c| ((u64::from(b) << 32 | u64::from(a)) >> c.min(32)) as u32),
        "shf.r.wrap" => tri!(u32, |a, b, c| ((u64::from(b) << 32 | u64::from(a)) >> (c & 31)) as u32),
        _ => return None,
    })
}

/// `lop3`: the table's bit for each column of a, b and c.
pub fn lop3(a: u64, b: u64, c: u64, lut: u8) -> u64 {
    let mut d = 0;
    for row in 0..8u32 {
        if lut >> row & 1 != 0 {
            let pick = |x: u64, bit: u32| if row >> bit & 1 != 0 { x } else { !x };
            d |= pick(a, 2) & pick(b, 1) & pick(c, 0);
        }
    }
    d & 0xffff_ffff
}

pub fn compare(op: &str, ty: Ty) -> Option<Cmp> {
    Some(match op {
        "eq" => sized!(ty, cmp, |a, b| a == b),
        "ne" => sized!(ty, cmp, |a, b| a != b),
        "lt" => sized!(ty, cmp, |a, b| a < b),
        "le" => sized!(ty, cmp, |a, b| a <= b),
        "gt" => sized!(ty, cmp, |a, b| a > b),
        "ge" => sized!(ty, cmp, |a, b| a >= b),
        // Unsigned only.
        "lo" if !ty.signed() => sized!(ty, cmp, |a, b| a < b),
        "ls" if !ty.signed() => sized!(ty, cmp, |a, b| a <= b),
        "hi" if !ty.signed() => sized!(ty, cmp, |a, b| a > b),
        "hs" if !ty.signed() => sized!(ty, cmp, |a, b| a >= b),
        _ => return None,
    })
}
