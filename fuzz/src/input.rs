//! From bytes to shapes, values and choices that are likely to matter.

use arbitrary::Unstructured;
use half::{bf16, f16};
use vq_kernels::ops::Search;
use vq_kernels::{Cpu, Element, Isa, MatMut, MatRef, Metric, NO_CODE};

/// Choices come from the bytes, so that libFuzzer can steer them; bulk values from a generator that they seed.
pub struct Input<'a> {
    bytes: Unstructured<'a>,
    state: u64,
}

/// What floats go wrong at.
pub const SPECIAL: [f32; 20] = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    f32::NAN,
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::MAX,
    -f32::MAX,
    f32::MIN_POSITIVE,
    1e-45,
    -1e-45,
    1e-42,
    1e19,
    -1e19,
    1e-19,
    1e-23,
    0.999_999_94,
    1.000_000_1,
    1e38,
];

const ROWS: [usize; 16] = [1, 2, 3, 1, 4, 5, 6, 7, 0, 2, 12, 13, 18, 19, 96, 97];
const CODES: [usize; 20] = [1, 2, 3, 5, 7, 10, 16, 17, 31, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257, 400];
const DIMS: [usize; 24] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 15, 16, 17, 20, 24, 31, 32, 33, 47, 63, 64, 65, 96, 130];

impl<'a> Input<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        let mut bytes = Unstructured::new(bytes);
        let state = bytes.arbitrary::<u32>().map_or(1, |seed| u64::from(seed) + 1);
        Self { bytes, state }
    }

    /// A choice of `0..n`; 0 where the bytes are used up.
    pub fn below(&mut self, n: usize) -> usize {
        self.bytes.int_in_range(0..=n.max(1) - 1).unwrap_or(0)
    }

    /// True once in `n` times.
    pub fn once_in(&mut self, n: usize) -> bool {
        self.below(n) == n - 1
    }

    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    /// The bytes that are left.
    pub fn rest(&mut self) -> Vec<u8> {
        self.bytes.bytes(self.bytes.len()).unwrap_or(&[]).to_vec()
    }

    /// 64 bits of the bulk generator (SplitMix64).
    pub fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.state ^ (self.state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform in `-1..1`.
    pub fn uniform(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    pub fn metric(&mut self) -> Metric {
        self.pick(&[Metric::Cosine, Metric::L2])
    }

    /// `(rows, codes, dim)` whose naive search costs up to a budget.
    pub fn shape(&mut self) -> (usize, usize, usize) {
        let budget = match self.below(256) {
            0 => 40_000,
            // Groups of 256 codes instead of 64; and more near codes than a row may keep.
            1 => return (1 + self.below(2), 8192 + self.below(300), 1),
            2..6 => return (1 + self.below(3), 280 + self.below(121), 1 + self.below(4)),
            6..16 => 4_000,
            _ => 400,
        };
        let (rows, mut codes, mut dim) = (self.pick(&ROWS), self.pick(&CODES), self.pick(&DIMS));
        // What is cut lands beside the borders of the tables, which is as good.
        while rows * codes * dim > budget && (codes > 1 || dim > 1) {
            if codes > 4 * dim { codes = codes.div_ceil(2) } else { dim = dim.div_ceil(2) }
        }
        (rows, codes, dim)
    }

    pub fn rows(&mut self) -> usize {
        self.pick(&ROWS)
    }

    pub fn dim(&mut self) -> usize {
        self.pick(&DIMS)
    }

    /// One kind of value throughout, and a few others among them.
    pub fn values(&mut self, len: usize) -> Vec<f32> {
        let kind = self.below(9);
        let scale = if kind == 5 { self.pick(&[1e-38f32, 1e-30, 1e-20, 1e18, 1e30, 1e38]) } else { 1.0 };
        let constant = self.uniform();
        let mut values: Vec<f32> = (0..len)
            .map(|i| match kind {
                // Multiples of 1/64: sums are exact, and ties happen.
                0 | 1 => (self.bits() % 11) as f32 / 64.0 - 5.0 / 64.0,
                2 => f32::from_bits(self.bits() as u32),
                3 => SPECIAL[self.bits() as usize % SPECIAL.len()],
                4 => self.uniform() * [1.0, 1e-30, 1e18, 1e-42, 0.0, -1.0, 1e-5][i % 7],
                6 => constant,
                7 => self.uniform().signum(),
                _ => self.uniform() * scale,
            })
            .collect();
        for _ in 0..self.pick(&[0, 0, 0, 1, 3]) {
            let (at, value) = (self.below(len), self.pick(&SPECIAL));
            values.get_mut(at).into_iter().for_each(|slot| *slot = value);
        }
        values
    }

    /// Rows of which some are equal, nearly equal, or of unit length.
    pub fn matrix(&mut self, rows: usize, dim: usize) -> Vec<f32> {
        let mut values = self.values(rows * dim);
        if rows == 0 || dim == 0 {
            return values;
        }
        let structure = self.below(5);
        if structure == 1 || structure == 2 {
            let crowds = self.below(3) + 1;
            for row in crowds..rows {
                let from = self.bits() as usize % crowds.min(rows);
                values.copy_within(from * dim..(from + 1) * dim, row * dim);
                if structure == 2 {
                    let at = row * dim + self.bits() as usize % dim;
                    // The neighbour in f32.
                    values[at] = f32::from_bits(values[at].to_bits() ^ 1);
                }
            }
        }
        if structure == 3 {
            normalize(&mut values, dim);
        }
        values
    }

    /// [`matrix`](Self::matrix) of unit rows, but for the few that have no direction.
    pub fn unit_matrix(&mut self, rows: usize, dim: usize) -> Vec<f32> {
        let mut values: Vec<f32> = match self.once_in(4) {
            true => self.matrix(rows, dim),
            false => (0..rows * dim).map(|_| self.uniform()).collect(),
        };
        normalize(&mut values, dim);
        if self.once_in(4) {
            // Codes of up to 1e-3 from unit length still have caps.
            let off = 1.0 + self.uniform() * 2e-3;
            values.iter_mut().for_each(|x| *x *= off);
        }
        values
    }

    /// None, a mask, or fractions.
    pub fn weights(&mut self, rows: usize) -> Option<Vec<f32>> {
        let kind = self.below(4);
        let weight = |bits: u64| match kind {
            1 => (bits % 2) as f32,
            2 => [0.0, 1.0, 0.5, 0.25, 1e-45, 1e-20, 0.999_999_94, -0.0][bits as usize % 8],
            _ => (bits >> 40) as f32 / (1u64 << 24) as f32,
        };
        (kind > 0).then(|| (0..rows).map(|_| weight(self.bits())).collect())
    }

    /// A code for each row; some rows have none.
    pub fn codes(&mut self, rows: usize, codes: usize) -> Vec<u32> {
        let spread = if self.once_in(3) { codes.min(2) } else { codes };
        let none = self.pick(&[u64::MAX, 5, 2]);
        let code = |bits: u64| if bits.is_multiple_of(none) { NO_CODE } else { (bits >> 20) as u32 % spread as u32 };
        (0..rows).map(|_| code(self.bits())).collect()
    }

    pub fn cpu(&mut self) -> Cpu<'static> {
        let tiers: Vec<Isa> = Isa::available().collect();
        let search = self.pick(&[Search::Auto, Search::F32, Search::Pruned, Search::Coarse]);
        Cpu::with_isa(self.pick(&tiers)).with_search(search)
    }
}

/// Unit rows by plain arithmetic; rows without a direction stay as they are.
fn normalize(values: &mut [f32], dim: usize) {
    for row in values.chunks_exact_mut(dim) {
        let norm = row.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
        if norm > 0.0 && norm.is_finite() {
            row.iter_mut().for_each(|x| *x = (f64::from(*x) / norm) as f32);
        }
    }
}

/// A stored type that f32 can be narrowed to.
pub trait Stored: Element {
    fn narrow(x: f32) -> Self;
}

impl Stored for f32 {
    fn narrow(x: f32) -> Self {
        x
    }
}

impl Stored for f16 {
    fn narrow(x: f32) -> Self {
        f16::from_f32(x)
    }
}

impl Stored for bf16 {
    fn narrow(x: f32) -> Self {
        bf16::from_f32(x)
    }
}

/// The stored form, at some offset from an aligned address, and what it widens to.
pub fn stored<E: Stored>(input: &mut Input, values: &[f32]) -> (Vec<E>, usize, Vec<f32>) {
    let offset = input.below(17);
    let padded: Vec<E> = (0..offset).map(|_| 7.0).chain(values.iter().copied()).map(E::narrow).collect();
    let wide = padded[offset..].iter().map(|x| x.to_f32()).collect();
    (padded, offset, wide)
}

pub fn mat<T>(data: &[T], rows: usize, cols: usize) -> MatRef<'_, T> {
    MatRef::new(data, rows, cols).expect("the target's own length is right")
}

pub fn mat_mut<T>(data: &mut [T], rows: usize, cols: usize) -> MatMut<'_, T> {
    MatMut::new(data, rows, cols).expect("the target's own length is right")
}

/// Bits as the contracts compare them: −0 = +0, all NaN alike.
fn canonical(x: f64) -> u64 {
    if x.is_nan() { f64::NAN.to_bits() } else { (x + 0.0).to_bits() }
}

#[track_caller]
pub fn assert_bits64(got: &[f64], expected: &[f64], context: &dyn core::fmt::Debug) {
    assert_eq!(got.len(), expected.len(), "{context:?}: lengths differ");
    if let Some(i) = got.iter().zip(expected).position(|(&a, &b)| canonical(a) != canonical(b)) {
        panic!("{context:?}: element {i} is {:e}, expected {:e}", got[i], expected[i]);
    }
}

/// Every f32 is an f64 of its own.
#[track_caller]
pub fn assert_bits(got: &[f32], expected: &[f32], context: &dyn core::fmt::Debug) {
    assert_eq!(got.len(), expected.len(), "{context:?}: lengths differ");
    let differs = |(&a, &b): (&f32, &f32)| canonical(f64::from(a)) != canonical(f64::from(b));
    if let Some(i) = got.iter().zip(expected).position(differs) {
        panic!("{context:?}: element {i} is {:e}, expected {:e}", got[i], expected[i]);
    }
}
