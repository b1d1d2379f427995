//! Floating-point arithmetic and conversions.

use half::{bf16, f16};

use super::isa::{Bin, Cmp, Cvt, Lanes, Round, Tri, Ty, Un, low};
use super::lanes::{NAN32, Word, bin, cmp, tri, un};

/// The least and greatest of PTX: a NaN gives way to a number, and -0 is below +0.
macro_rules! extremes {
    ($min:ident, $max:ident, $t:ty) => {
        fn $min(a: $t, b: $t) -> $t {
            if a.is_nan() {
                b
            } else if b.is_nan() || a < b || (a == b && a.is_sign_negative()) {
                a
            } else {
                b
            }
        }
        fn $max(a: $t, b: $t) -> $t {
            if a.is_nan() {
                b
            } else if b.is_nan() || a > b || (a == b && a.is_sign_positive()) {
                a
            } else {
                b
            }
        }
    };
}

extremes!(min32, max32, f32);
extremes!(min64, max64, f64);
extremes!(min16, max16, f16);
extremes!(min16b, max16b, bf16);

/// The f32 next to `x` towards `up`.
fn step(x: f32, up: bool) -> f32 {
    if up { x.next_up() } else { x.next_down() }
}

/// Rounds `high + low` to f32; `low` is below half an ulp of `high`, as `two_sum` leaves it.
fn round32(high: f64, low: f64, mode: Round) -> f32 {
    let near = high as f32;
    if near.is_nan() || !high.is_finite() {
        return near;
    }
    let back = f64::from(near);
    // Whether the exact value lies above or below `near`.
    let (above, below) = (back < high || back == high && low > 0.0, back > high || back == high && low < 0.0);
    match mode {
        Round::Nearest => near,
        Round::Up if above => step(near, true),
        Round::Down if below => step(near, false),
        Round::Zero if near > 0.0 && below => step(near, false),
        Round::Zero if near < 0.0 && above => step(near, true),
        _ => near,
    }
}

fn two_sum(a: f64, b: f64) -> (f64, f64) {
    let s = a + b;
    let t = s - a;
    (s, (a - (s - t)) + (b - t))
}

fn directed(op: &str, a: f32, b: f32, c: f32, mode: Round) -> f32 {
    let (a, b, c) = (f64::from(a), f64::from(b), f64::from(c));
    let (high, low) = match op {
        "add" => two_sum(a, b),
        "sub" => two_sum(a, -b),
        // 24-bit factors: their product is exact in f64.
        "mul" => (a * b, 0.0),
        _ => two_sum(a * b, c),
    };
    if high == 0.0 && low == 0.0 && mode == Round::Down {
        // Sums that cancel are -0 when rounding down; products keep their sign.
        let cancel = match op {
            "add" => a != 0.0 || a.is_sign_negative() != b.is_sign_negative(),
            "sub" => a != 0.0 || a.is_sign_negative() == b.is_sign_negative(),
            "mul" => false,
            _ => (a * b).is_sign_negative() != c.is_sign_negative(),
        };
        if cancel {
            return -0.0;
        }
    }
    round32(high, low, mode)
}

macro_rules! directed {
    ($make:ident, $op:literal, |$($v:ident),*|, $a:expr, $b:expr, $c:expr, $mode:expr) => {
        match $mode {
            Round::Zero => $make!(f32, |$($v),*| directed($op, $a, $b, $c, Round::Zero)),
            Round::Down => $make!(f32, |$($v),*| directed($op, $a, $b, $c, Round::Down)),
            _ => $make!(f32, |$($v),*| directed($op, $a, $b, $c, Round::Up)),
        }
    };
}

/// Rounded to odd, so that a second rounding to fewer bits sees on which side of a tie the value lies. (`half` rounds
/// from f64 twice on some machines.)
fn odd32(x: f64) -> f32 {
    let cut = round32(x, 0.0, Round::Zero);
    if x.is_nan() || f64::from(cut) == x { cut } else { f32::from_bits(cut.to_bits() | 1) }
}

pub fn to_f16(x: f64) -> f16 {
    f16::from_f32(odd32(x))
}

pub fn to_bf16(x: f64) -> bf16 {
    bf16::from_f32(odd32(x))
}

/// Both halves of a register.
macro_rules! pairs {
    ($t:ty, |$a:ident, $b:ident| $e:expr) => {
        bin!(u32, |x, y| {
            let half = |s: u32| {
                let ($a, $b) = (<$t>::get(u64::from(x >> s)), <$t>::get(u64::from(y >> s)));
                ($e).put() as u32
            };
            half(16) << 16 | half(0)
        })
    };
}

/// f16 through f64, which holds sums and products of two f16 exactly: one rounding.
macro_rules! halves {
    ($ty:expr, |$a:ident, $b:ident| $e:expr) => {
        match $ty {
            Ty::F16 => bin!(f16, |x, y| {
                let ($a, $b) = (x.to_f64(), y.to_f64());
                to_f16($e)
            }),
            Ty::F16x2 => pairs!(f16, |x, y| {
                let ($a, $b) = (x.to_f64(), y.to_f64());
                to_f16($e)
            }),
            _ => return None,
        }
    };
}

pub fn binary(op: &str, ty: Ty, mode: Round) -> Option<Bin> {
    if mode != Round::Nearest {
        if ty != Ty::F32 {
            return None;
        }
        return Some(match op {
            "add" => directed!(bin, "add", |a, b|, a, b, 0.0, mode),
            "sub" => directed!(bin, "sub", |a, b|, a, b, 0.0, mode),
            "mul" => directed!(bin, "mul", |a, b|, a, b, 0.0, mode),
            _ => return None,
        });
    }
    Some(match (op, ty) {
        ("add", Ty::F32) => bin!(f32, |a, b| a + b),
        ("sub", Ty::F32) => bin!(f32, |a, b| a - b),
        ("mul", Ty::F32) => bin!(f32, |a, b| a * b),
        ("div", Ty::F32) => bin!(f32, |a, b| a / b),
        ("min", Ty::F32) => bin!(f32, |a, b| min32(a, b)),
        ("max", Ty::F32) => bin!(f32, |a, b| max32(a, b)),
        ("min.NaN", Ty::F32) => bin!(f32, |a, b| if a.is_nan() || b.is_nan() { f32::NAN } else { min32(a, b) }),
        ("max.NaN", Ty::F32) => bin!(f32, |a, b| if a.is_nan() || b.is_nan() { f32::NAN } else { max32(a, b) }),
        ("add", Ty::F64) => bin!(f64, |a, b| a + b),
        ("sub", Ty::F64) => bin!(f64, |a, b| a - b),
        ("mul", Ty::F64) => bin!(f64, |a, b| a * b),
        ("div", Ty::F64) => bin!(f64, |a, b| a / b),
        ("min", Ty::F64) => bin!(f64, |a, b| min64(a, b)),
        ("max", Ty::F64) => bin!(f64, |a, b| max64(a, b)),
        // The sign of a on b; bits, so that NaN payloads stay.
        ("copysign", Ty::F32) => bin!(u32, |a, b| a & 0x8000_0000 | b & 0x7fff_ffff),
        ("copysign", Ty::F64) => bin!(u64, |a, b| a & (1 << 63) | b & !(1 << 63)),
        ("add", Ty::F16 | Ty::F16x2) => halves!(ty, |a, b| a + b),
        ("sub", Ty::F16 | Ty::F16x2) => halves!(ty, |a, b| a - b),
        ("mul", Ty::F16 | Ty::F16x2) => halves!(ty, |a, b| a * b),
        ("min", Ty::F16) => bin!(f16, |a, b| min16(a, b)),
        ("max", Ty::F16) => bin!(f16, |a, b| max16(a, b)),
        ("min", Ty::F16x2) => pairs!(f16, |a, b| min16(a, b)),
        ("max", Ty::F16x2) => pairs!(f16, |a, b| max16(a, b)),
        ("min", Ty::Bf16) => bin!(bf16, |a, b| min16b(a, b)),
        ("max", Ty::Bf16) => bin!(bf16, |a, b| max16b(a, b)),
        ("min", Ty::Bf16x2) => pairs!(bf16, |a, b| min16b(a, b)),
        ("max", Ty::Bf16x2) => pairs!(bf16, |a, b| max16b(a, b)),
        _ => return None,
    })
}

/// a·b + c rounded once. Products of f16 are exact in f64, and so is their sum with an f16: at most 2·24 + 11 bits
/// apart, which `two_sum` shows; a tie of f16 that the tail decides is settled by it.
fn fma16(a: f16, b: f16, c: f16) -> f16 {
    let (high, low) = two_sum(a.to_f64() * b.to_f64(), c.to_f64());
    // Round to odd, so that the second rounding sees on which side of a tie the sum lies.
    let odd = if low != 0.0 && high.is_finite() && high.to_bits() & 1 == 0 {
        if (low > 0.0) == (high > 0.0) {
            f64::from_bits(high.to_bits() + 1)
        } else {
            f64::from_bits(high.to_bits() - 1)
        }
    } else {
        high
    };
    to_f16(odd)
}

pub fn fma(ty: Ty, mode: Round) -> Option<Tri> {
    Some(match (ty, mode) {
        (Ty::F32, Round::Nearest) => tri!(f32, |a, b, c| a.mul_add(b, c)),
        (Ty::F64, Round::Nearest) => tri!(f64, |a, b, c| a.mul_add(b, c)),
        (Ty::F32, _) => directed!(tri, "fma", |a, b, c|, a, b, c, mode),
        (Ty::F16, Round::Nearest) => tri!(f16, |a, b, c| fma16(a, b, c)),
        (Ty::F16x2, Round::Nearest) => tri!(u32, |a, b, c| {
            let half =
                |s: u32| fma16(f16::get(u64::from(a >> s)), f16::get(u64::from(b >> s)), f16::get(u64::from(c >> s)));
            (half(16).put() << 16 | half(0).put()) as u32
        }),
        _ => return None,
    })
}

pub fn unary(op: &str, ty: Ty) -> Option<Un> {
    Some(match (op, ty) {
        ("sqrt", Ty::F32) => un!(f32, |a| a.sqrt()),
        ("sqrt", Ty::F64) => un!(f64, |a| a.sqrt()),
        ("rcp", Ty::F32) => un!(f32, |a| 1.0 / a),
        ("rcp", Ty::F64) => un!(f64, |a| 1.0 / a),
        ("neg", Ty::F32) => un!(f32, |a| -a),
        ("neg", Ty::F64) => un!(f64, |a| -a),
        ("abs", Ty::F32) => un!(f32, |a| a.abs()),
        ("abs", Ty::F64) => un!(f64, |a| a.abs()),
        ("neg", Ty::F16 | Ty::Bf16) => un!(u16, |a| a ^ 0x8000),
        ("neg", Ty::F16x2 | Ty::Bf16x2) => un!(u32, |a| a ^ 0x8000_8000),
        ("abs", Ty::F16 | Ty::Bf16) => un!(u16, |a| a & 0x7fff),
        ("abs", Ty::F16x2 | Ty::Bf16x2) => un!(u32, |a| a & 0x7fff_7fff),
        // f32 and f64 into [0, 1], NaN to 0.
        ("sat", Ty::F32) => un!(f32, |a| if a > 0.0 { a.min(1.0) } else { 0.0 }),
        ("sat", Ty::F64) => un!(f64, |a| if a > 0.0 { a.min(1.0) } else { 0.0 }),
        _ => return None,
    })
}

macro_rules! compares {
    ($op:expr, $t:ty) => {
        match $op {
            "eq" => cmp!($t, |a, b| a == b),
            "ne" => cmp!($t, |a, b| a < b || a > b),
            "lt" => cmp!($t, |a, b| a < b),
            "le" => cmp!($t, |a, b| a <= b),
            "gt" => cmp!($t, |a, b| a > b),
            "ge" => cmp!($t, |a, b| a >= b),
            "equ" => cmp!($t, |a, b| !(a < b || a > b)),
            "neu" => cmp!($t, |a, b| a != b),
            "ltu" => cmp!($t, |a, b| !(a >= b)),
            "leu" => cmp!($t, |a, b| !(a > b)),
            "gtu" => cmp!($t, |a, b| !(a <= b)),
            "geu" => cmp!($t, |a, b| !(a < b)),
            "num" => cmp!($t, |a, b| !a.is_nan() && !b.is_nan()),
            "nan" => cmp!($t, |a, b| a.is_nan() || b.is_nan()),
            _ => return None,
        }
    };
}

// The unordered comparisons are negations, and `ne` is an ordered one.
#[allow(clippy::neg_cmp_op_on_partial_ord, clippy::double_comparisons)]
pub fn compare(op: &str, ty: Ty) -> Option<Cmp> {
    Some(match ty {
        Ty::F32 => compares!(op, f32),
        Ty::F64 => compares!(op, f64),
        Ty::F16 => compares!(op, f16),
        Ty::Bf16 => compares!(op, bf16),
        _ => return None,
    })
}

pub fn test(op: &str, ty: Ty) -> Option<fn(&Lanes) -> u32> {
    macro_rules! tests {
        ($t:ty, $($name:literal => |$a:ident| $e:expr),*) => {
            match op {
                $($name => |x: &Lanes| (0..32).fold(0, |mask, i| {
                    let $a = <$t>::get(x[i]);
                    mask | u32::from($e) << i
                }),)*
                _ => return None,
            }
        };
    }
    macro_rules! all {
        ($t:ty) => {
            tests!($t, "finite" => |a| a.is_finite(), "infinite" => |a| a.is_infinite(),
                "number" => |a| !a.is_nan(), "notanumber" => |a| a.is_nan(),
                "normal" => |a| a.is_normal(), "subnormal" => |a| a.is_subnormal())
        };
    }
    Some(match ty {
        Ty::F32 => all!(f32),
        Ty::F64 => all!(f64),
        _ => return None,
    })
}

/// `cvt.rn.f16x2.f32 d, a, b`: a in the upper half.
pub fn pack_pair(to: Ty) -> Option<Bin> {
    Some(match to {
        Ty::F16x2 => bin!(f32, |a, b| (f16::from_f32(a).put() << 16 | f16::from_f32(b).put()) as u32),
        Ty::Bf16x2 => bin!(f32, |a, b| (bf16::from_f32(a).put() << 16 | bf16::from_f32(b).put()) as u32),
        _ => return None,
    })
}

fn integral(x: f64, round: Round) -> f64 {
    match round {
        Round::Nearest => x.round_ties_even(),
        Round::Zero => x.trunc(),
        Round::Down => x.floor(),
        Round::Up => x.ceil(),
    }
}

/// Whether [`convert`] implements the pair of types and the rounding.
pub fn convertible(c: &Cvt) -> bool {
    let scalar = |ty: Ty| !matches!(ty, Ty::Pred | Ty::F16x2 | Ty::Bf16x2);
    let from_wide = matches!(c.from, Ty::U64 | Ty::S64);
    let twin = c.to != c.from && c.to.bits() == 16 && c.from.bits() == 16 && c.to.float() && c.from.float();
    scalar(c.to)
        && scalar(c.from)
        && !twin
        && match (c.to, c.integral) {
            // Directed rounding of 64-bit integers would need more than f64.
            (Ty::F32, false) => c.round == Round::Nearest || !from_wide,
            (Ty::F64, false) => c.round == Round::Nearest || !from_wide,
            // From f32 and f16 only: through f64 the rounding would be twice.
            (Ty::F16 | Ty::Bf16, false) => c.round == Round::Nearest && !from_wide,
            _ => true,
        }
}

fn clamp_int(x: i128, ty: Ty) -> i128 {
    let bits = ty.bits();
    if ty.signed() { x.clamp(-(1 << (bits - 1)), (1 << (bits - 1)) - 1) } else { x.clamp(0, (1 << bits) - 1) }
}

fn from_int(x: u64, ty: Ty) -> i128 {
    let shift = 64 - ty.bits();
    if ty.signed() { i128::from(((x << shift) as i64) >> shift) } else { i128::from((x << shift) >> shift) }
}

/// One lane of `cvt`.
pub fn convert(c: &Cvt, x: u64) -> u64 {
    if !c.from.float() && !c.to.float() {
        let value = from_int(x, c.from);
        let value = if c.sat { clamp_int(value, c.to) } else { from_int(value as u64, c.to) };
        return low(value as u64, c.reg_bits);
    }
    if !c.from.float() {
        let value = from_int(x, c.from);
        return match c.to {
            Ty::F32 if c.round == Round::Nearest => (value as f32).put(),
            Ty::F32 => round32(value as f64, 0.0, c.round).put(),
            Ty::F64 => (value as f64).put(),
            Ty::F16 => to_f16(value as f64).put(),
            _ => to_bf16(value as f64).put(),
        };
    }
    let value = match c.from {
        Ty::F32 => f64::from(f32::get(x)),
        Ty::F64 => f64::get(x),
        Ty::F16 => f16::get(x).to_f64(),
        _ => bf16::get(x).to_f64(),
    };
    let value = if c.integral { integral(value, c.round) } else { value };
    if !c.to.float() {
        if value.is_nan() {
            // Zero, except that 64-bit conversions give the lowest signed value.
            let wide = c.from == Ty::F64 || c.to.bits() == 64;
            let bits = if wide { 1 << (c.to.bits() - 1) } else { 0 };
            return low(from_int(bits, c.to) as u64, c.reg_bits);
        }
        return low(clamp_int(value as i128, c.to) as u64, c.reg_bits);
    }
    let value = if c.sat { if value > 0.0 { value.min(1.0) } else { 0.0 } } else { value };
    match c.to {
        Ty::F32 if value.is_nan() => u64::from(NAN32),
        Ty::F32 => round32(value, 0.0, c.round).put(),
        Ty::F64 => value.put(),
        Ty::F16 => to_f16(value).put(),
        _ => to_bf16(value).put(),
    }
}
