//! Codes that are seen by attention, with several heads: 4M's `memcodes` (after NWT's memcodes, Betker 2021).
//!
//! A row of `dim` values is cut into heads of `d = dim / heads`. Each head has codes `C [codes, d]` of its own, N(0, 1), seen
//! through two linear maps: keys `C Wₖ` and values `C Wᵥ`. A head's code is the one whose key has the largest product with
//! `q / √d`; the output is that code's value. There is no codebook loss: everything is learned through the output.
//!
//! Composed of the framework's ops, whose products are `rows × heads × codes` numbers: [`MemcodesConfig::check_rows`] keeps
//! them bounded in training; encoding goes block by block.

use burn::module::{Module, Param};
use burn::nn::Initializer;
use burn::tensor::backend::Backend;
use burn::tensor::{DType, Int, Tensor, TensorData};
use rayon::iter::{IndexedParallelIterator, ParallelIterator};
use rayon::slice::ParallelSliceMut;
use serde::{Deserialize, Serialize};

use super::norms::to;
use crate::common::failure::Failure;
use crate::common::random::generator;

/// The most logits of a training step, `rows × heads × codes`: 512 MiB in f32, and about five such matrices are alive in a step.
pub const LARGEST_LOGITS: usize = 1 << 27;

/// Logits of a block of rows that are encoded at once: 64 MiB.
const BLOCK_LOGITS: usize = 1 << 24;

/// Sizes of [`Memcodes`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct MemcodesConfig {
    /// Values of a row, all heads together: 1,024 in 4M.
    pub dim: usize,
    /// Codes of each head: 8,192 in 4M, 1,024 of poses.
    pub codes: usize,
    /// Heads, each of which gives a row one token: 8 in 4M's configurations, 16 in its published vectors.
    pub heads: usize,
    /// What logits and noise are divided by in training: 1 in 4M.
    pub temperature: f64,
}

impl MemcodesConfig {
    /// 4M's kind, of temperature 1.
    pub fn new(dim: usize, codes: usize, heads: usize) -> Self {
        Self { dim, codes, heads, temperature: 1.0 }
    }

    /// Checks that rows are whole heads and that one row's logits fit.
    ///
    /// # Errors
    /// The setting that does not fit, and what would do.
    pub fn check(&self) -> Result<(), Failure> {
        let Self { dim, codes, heads, temperature } = *self;
        for (name, size) in [("dim", dim), ("codes", codes), ("heads", heads)] {
            if size == 0 {
                return Err(Failure::new(format!("memcodes: `{name}` is 0, expected at least 1")));
            }
        }
        if !dim.is_multiple_of(heads) {
            return Err(Failure::new(format!(
                "memcodes: {dim} values are not whole heads, {heads} of them: choose `dim` as a multiple of `heads`"
            )));
        }
        if !(temperature > 0.0 && temperature.is_finite()) {
            return Err(Failure::new(format!("memcodes: `temperature` is {temperature}, expected a positive number")));
        }
        self.check_rows(1)
    }

    /// Checks that a training step of so many rows has at most [`LARGEST_LOGITS`] logits.
    ///
    /// # Errors
    /// The product that is too large, and how many rows would do.
    pub fn check_rows(&self, rows: usize) -> Result<(), Failure> {
        let Self { codes, heads, .. } = *self;
        let each = heads.saturating_mul(codes);
        if rows.saturating_mul(each) <= LARGEST_LOGITS {
            return Ok(());
        }
        let cure = match LARGEST_LOGITS / each.max(1) {
            0 => "take fewer heads or codes".to_owned(),
            most => format!("take at most {most} rows, or fewer heads or codes"),
        };
        Err(Failure::new(format!(
            "memcodes: {rows} rows × {heads} heads × {codes} codes are more than {LARGEST_LOGITS} logits: {cure}"
        )))
    }

    /// The codes and their maps.
    pub fn init<B: Backend>(&self, device: &B::Device) -> Memcodes<B> {
        Memcodes::new(self, device)
    }
}

/// Codes of several heads, and the maps to keys and values.
#[derive(Module, Debug)]
pub struct Memcodes<B: Backend> {
    /// `[heads, codes, d]`.
    pub codes: Param<Tensor<B, 3>>,
    /// From a head's codes to its keys, `[heads, d, d]`.
    pub to_k: Param<Tensor<B, 3>>,
    /// And to its values.
    pub to_v: Param<Tensor<B, 3>>,
    temperature: f64,
}

/// What noise a training pass has: other numbers for each seed and step, the same ones at each call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Noise {
    /// The run's.
    pub seed: u64,
    /// The step's number.
    pub step: u64,
}

/// What [`Memcodes::forward`] returns.
#[derive(Clone, Debug)]
pub struct Memorized<B: Backend> {
    /// Quantized rows `[rows, dim]`: exactly the values of the codes. Its gradient reaches the logits through the softmax.
    pub output: Tensor<B, 2>,
    /// Each row's codes, head by head: `rows · heads`.
    pub codes: Vec<u32>,
}

impl<B: Backend> Memcodes<B> {
    /// Codes N(0, 1), maps U(±√(3/d)), which keep the variance.
    pub fn new(config: &MemcodesConfig, device: &B::Device) -> Self {
        let (heads, dim) = (config.heads, config.dim / config.heads.max(1));
        let bound = (3.0 / dim.max(1) as f64).sqrt();
        let map = || Initializer::Uniform { min: -bound, max: bound }.init([heads, dim, dim], device);
        Self {
            codes: Initializer::Normal { mean: 0.0, std: 1.0 }.init([heads, config.codes, dim], device),
            to_k: map(),
            to_v: map(),
            temperature: config.temperature,
        }
    }

    /// The configuration that this has.
    pub fn config(&self) -> MemcodesConfig {
        let [heads, codes, dim]: [usize; 3] = self.codes.lazy_shape().dims();
        MemcodesConfig { dim: heads * dim, codes, heads, temperature: self.temperature }
    }

    /// A training pass of `rows` `[rows, dim]`: straight-through Gumbel-softmax (Jang et al. 2017, equations 1 and 2).
    ///
    /// A head's code is `argmax (l + g)`, with logits `l` and `g = −ln(−ln u)` for `u` uniform in (0, 1); backward takes the weights
    /// `softmax((l + g) / temperature)` for the one that was chosen. Values learn from the rows that chose them alone.
    /// Arithmetic is f32; rows of another float type are widened, and the output narrowed back.
    ///
    /// # Errors
    /// Rows of another width, or too many of them.
    pub fn forward(&self, rows: Tensor<B, 2>, noise: Noise) -> Result<Memorized<B>, Failure> {
        let (dtype, n, config) = (rows.dtype(), self.check_width(&rows)?, self.config());
        config.check_rows(n)?;
        let (heads, dim, device) = (config.heads, config.dim / config.heads.max(1), rows.device());
        if n == 0 {
            return Ok(Memorized { output: rows, codes: Vec::new() });
        }
        let gumbel = Tensor::<B, 3>::from_data(gumbel(noise, [heads, n, config.codes]), (&device, DType::F32));
        let logits = self.logits(to(DType::F32, rows)) + gumbel;
        let (largest, codes) = logits.clone().detach().max_dim_with_indices(2);
        let codes = of_rows(codes);
        let values = self.values();
        let chosen = self.chosen(values.clone(), &codes, &device);
        // Of the weights alone, and worth nothing: the difference of equal numbers.
        let soft = mixed(logits, largest, self.temperature, values.detach());
        let soft = soft.swap_dims(0, 1).reshape([n, heads * dim]);
        Ok(Memorized { output: to(dtype, chosen + (soft.clone() - soft.detach())), codes })
    }

    /// The codes of `rows` `[rows, dim]` without noise, head by head: `rows · heads`, row by row. For rows of a
    /// backend without gradients: with them, a graph of all blocks is kept until the codes are known.
    ///
    /// # Errors
    /// Rows of another width.
    pub fn encode(&self, rows: Tensor<B, 2>) -> Result<Vec<u32>, Failure> {
        let (n, config) = (self.check_width(&rows)?, self.config());
        let block = (BLOCK_LOGITS / (config.heads * config.codes).max(1)).max(1);
        let rows = to(DType::F32, rows);
        let mut codes = Vec::with_capacity(n * config.heads);
        for start in (0..n).step_by(block) {
            let block = rows.clone().slice(start..(start + block).min(n));
            codes.extend(of_rows(self.logits(block).argmax(2)));
        }
        Ok(codes)
    }

    /// Rows `[codes / heads, dim]` in f32 of codes as [`encode`](Self::encode) returns them: [`forward`](Self::forward)'s output for the same codes,
    /// to the bit.
    ///
    /// # Errors
    /// A code that does not exist, or codes that are not whole rows.
    pub fn decode(&self, codes: &[u32], device: &B::Device) -> Result<Tensor<B, 2>, Failure> {
        let config = self.config();
        if !codes.len().is_multiple_of(config.heads) {
            return Err(Failure::new(format!(
                "memcodes: {} codes are not whole rows of {} heads",
                codes.len(),
                config.heads
            )));
        }
        if let Some(at) = codes.iter().position(|&code| code as usize >= config.codes) {
            return Err(Failure::new(format!(
                "memcodes: code {} of row {} is {}, expected 0 to {}",
                at % config.heads,
                at / config.heads,
                codes[at],
                config.codes - 1
            )));
        }
        if codes.is_empty() {
            return Ok(Tensor::empty([0, config.dim], device));
        }
        Ok(self.chosen(self.values(), codes, device))
    }

    /// How many rows there are, of the width that is expected.
    fn check_width(&self, rows: &Tensor<B, 2>) -> Result<usize, Failure> {
        let ([n, width], dim) = (rows.dims(), self.config().dim);
        match width == dim {
            true => Ok(n),
            false => Err(Failure::new(format!("memcodes: rows of {width} values, expected {dim}"))),
        }
    }

    /// `q kᵀ / √d` of rows `[rows, dim]`: `[heads, rows, codes]`.
    fn logits(&self, rows: Tensor<B, 2>) -> Tensor<B, 3> {
        let [heads, _, dim]: [usize; 3] = self.codes.lazy_shape().dims();
        let [n, _] = rows.dims();
        let queries = rows.mul_scalar((dim as f64).sqrt().recip()).reshape([n, heads, dim]).swap_dims(0, 1);
        let keys = to(DType::F32, self.codes.val()).matmul(to(DType::F32, self.to_k.val()));
        queries.matmul(keys.swap_dims(1, 2))
    }

    /// `[heads, codes, d]`.
    fn values(&self) -> Tensor<B, 3> {
        to(DType::F32, self.codes.val()).matmul(to(DType::F32, self.to_v.val()))
    }

    /// The values of codes that exist, `[rows, dim]`.
    fn chosen(&self, values: Tensor<B, 3>, codes: &[u32], device: &B::Device) -> Tensor<B, 2> {
        let [heads, count, dim] = values.dims();
        let place = |(at, &code): (usize, &u32)| (at % heads * count) as i64 + i64::from(code);
        let places: Vec<i64> = codes.iter().enumerate().map(place).collect();
        let places = Tensor::<B, 1, Int>::from_data(TensorData::new(places, [codes.len()]), device);
        values.reshape([heads * count, dim]).select(0, places).reshape([codes.len() / heads, heads * dim])
    }
}

/// Indices `[heads, rows, 1]`, row by row.
fn of_rows<B: Backend>(indices: Tensor<B, 3, Int>) -> Vec<u32> {
    let indices = indices.swap_dims(0, 1).into_data().convert::<u32>();
    indices.into_vec().unwrap_or_else(|_| unreachable!("converted to u32 just above"))
}

/// `softmax(l / temperature) v` of logits `[heads, rows, codes]`, whose largest in each row is known, and values `[heads, codes, d]`.
///
/// Numerator and denominator are one product, and the largest is spread by another: of passes over the logits, which are most of a
/// step's time, a softmax as such takes twice as many, and broadcasts.
fn mixed<B: Backend>(
    logits: Tensor<B, 3>,
    largest: Tensor<B, 3>,
    temperature: f64,
    values: Tensor<B, 3>,
) -> Tensor<B, 3> {
    let [heads, codes, dim] = values.dims();
    let (device, rows) = (values.device(), logits.dims()[1]);
    let ones = |shape: [usize; 3]| Tensor::<B, 3>::ones(shape, (&device, DType::F32));
    let below = logits - largest.matmul(ones([heads, 1, codes]));
    let weights = if temperature == 1.0 { below } else { below.div_scalar(temperature) }.exp();
    let sums = weights.matmul(Tensor::cat(vec![values, ones([heads, codes, 1])], 2));
    let total = sums.clone().slice([0..heads, 0..rows, dim..dim + 1]);
    sums.slice([0..heads, 0..rows, 0..dim]) / total
}

/// Gumbel noise `[heads, rows, codes]`, each row of each head from a generator of its own.
fn gumbel(noise: Noise, [heads, rows, codes]: [usize; 3]) -> TensorData {
    let mut values = vec![0.0f32; heads * rows * codes];
    values.par_chunks_exact_mut(codes.max(1)).enumerate().for_each(|(at, values)| {
        let (head, row) = (at / rows.max(1), at % rows.max(1));
        let mut random = generator("gumbel", noise.seed, noise.step, (row * heads + head) as u64);
        for value in values {
            // In the middle of one of 2⁵² equal parts of (0, 1): neither end, where a logarithm is infinite.
            let u = (((random.next_u64() >> 12) as f64 + 0.5) / (1_u64 << 52) as f64) as f32;
            // −ln(1 − u), of small u by its series: `1 − u` has lost their last digits, and they are the largest noise.
            let waited = if u < 1.0 / 256.0 { u * (1.0 + 0.5 * u) } else { -(1.0 - u.min(1.0 - f32::EPSILON)).ln() };
            *value = -waited.ln();
        }
    });
    TensorData::new(values, [heads, rows, codes])
}

#[cfg(test)]
mod tests;
