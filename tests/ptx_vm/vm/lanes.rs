//! Functions of one lane made into functions of a warp.

/// A value held in a 64-bit cell of the register file.
pub trait Word: Copy {
    fn get(cell: u64) -> Self;
    fn put(self) -> u64;
}

macro_rules! words {
    ($($t:ty, $u:ty);*) => { $(impl Word for $t {
        fn get(cell: u64) -> Self { cell as $t }
        fn put(self) -> u64 { u64::from(self as $u) }
    })* };
}

words! { u8, u8; u16, u16; u32, u32; u64, u64; i16, u16; i32, u32; i64, u64 }

impl Word for bool {
    fn get(cell: u64) -> Self {
        cell != 0
    }
    fn put(self) -> u64 {
        u64::from(self)
    }
}

/// NVIDIA's arithmetic answers every invalid f32 operation with this NaN, and drops payloads.
pub const NAN32: u32 = 0x7fff_ffff;
/// And f64 operations with this one.
pub const NAN64: u64 = 0xfff8_0000_0000_0000;

impl Word for f32 {
    fn get(cell: u64) -> Self {
        f32::from_bits(cell as u32)
    }
    fn put(self) -> u64 {
        u64::from(if self.is_nan() { NAN32 } else { self.to_bits() })
    }
}

impl Word for f64 {
    fn get(cell: u64) -> Self {
        f64::from_bits(cell)
    }
    fn put(self) -> u64 {
        if self.is_nan() { NAN64 } else { self.to_bits() }
    }
}

impl Word for half::f16 {
    fn get(cell: u64) -> Self {
        half::f16::from_bits(cell as u16)
    }
    fn put(self) -> u64 {
        u64::from(if self.is_nan() { 0x7fff } else { self.to_bits() })
    }
}

impl Word for half::bf16 {
    fn get(cell: u64) -> Self {
        half::bf16::from_bits(cell as u16)
    }
    fn put(self) -> u64 {
        u64::from(if self.is_nan() { 0x7fff } else { self.to_bits() })
    }
}

macro_rules! un {
    ($t:ty, |$a:ident| $e:expr) => {{
        fn wide(x: &Lanes) -> Lanes {
            let mut d = [0; 32];
            for (d, x) in d.iter_mut().zip(x) {
                let $a = <$t>::get(*x);
                *d = ($e).put();
            }
            d
        }
        wide as Un
    }};
}

macro_rules! bin {
    ($t:ty, |$a:ident, $b:ident| $e:expr) => {
        bin!($t, $t, |$a, $b| $e)
    };
    ($t:ty, $u:ty, |$a:ident, $b:ident| $e:expr) => {{
        fn wide(x: &Lanes, y: &Lanes) -> Lanes {
            let mut d = [0; 32];
            for (d, (x, y)) in d.iter_mut().zip(x.iter().zip(y)) {
                let ($a, $b) = (<$t>::get(*x), <$u>::get(*y));
                *d = ($e).put();
            }
            d
        }
        wide as Bin
    }};
}

macro_rules! tri {
    ($t:ty, |$a:ident, $b:ident, $c:ident| $e:expr) => {
        tri!($t, $t, $t, |$a, $b, $c| $e)
    };
    ($t:ty, $u:ty, $v:ty, |$a:ident, $b:ident, $c:ident| $e:expr) => {{
        fn wide(x: &Lanes, y: &Lanes, z: &Lanes) -> Lanes {
            let mut d = [0; 32];
            for (d, (x, (y, z))) in d.iter_mut().zip(x.iter().zip(y.iter().zip(z))) {
                let ($a, $b, $c) = (<$t>::get(*x), <$u>::get(*y), <$v>::get(*z));
                *d = ($e).put();
            }
            d
        }
        wide as Tri
    }};
}

macro_rules! cmp {
    ($t:ty, |$a:ident, $b:ident| $e:expr) => {{
        fn wide(x: &Lanes, y: &Lanes) -> u32 {
            let mut mask = 0;
            for lane in 0..32 {
                let ($a, $b) = (<$t>::get(x[lane]), <$t>::get(y[lane]));
                mask |= u32::from($e) << lane;
            }
            mask
        }
        wide as Cmp
    }};
}

pub(crate) use {bin, cmp, tri, un};
