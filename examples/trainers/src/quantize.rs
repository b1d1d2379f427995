//! A vector quantizer as one autodiff op for [burn]: forward and backward by `vq_kernels`.
//!
//! The module stands alone: it needs burn 0.21 and `vq_kernels`, and nothing else of this package. To take it into
//! a project of your own, copy `quantize.rs` and the folder `quantize`.
//!
//! ```text
//! rows [n, inputs] ─┬─ op ─┬─ output [n, inputs]      to the decoder
//!                   │      ├─ codebook_loss [1]       weigh both as you like:
//! quantizer's own ──┘      └─ commitment_loss [1]     their derivatives arrive by the chain rule
//! ```
//! A training step is four calls, and memory stays O(rows + codes): no `rows × codes` matrix anywhere.
//! ```
//! use burn::backend::{Autodiff, Flex};
//! use burn::tensor::{Distribution, Tensor};
//! # use trainers::quantize;
//! use quantize::VectorQuantizer;
//! use vq_kernels::quantizer::{Config, Initial, Quantizer};
//!
//! type B = Autodiff<Flex>;
//! let device = Default::default();
//! let config = Config { inputs: 12, dim: 4, codes: 64, ..Config::default() };
//! let quantizer = VectorQuantizer::new(Quantizer::new(config, Initial::Normal)?);
//! // What an encoder would return.
//! let rows = Tensor::<B, 2>::random([256, 12], Distribution::Default, &device).require_grad();
//!
//! let quantized = quantizer.forward(rows.clone())?;
//! let reconstruction = (quantized.output - rows.clone().detach()).powi_scalar(2).mean();
//! let loss = reconstruction + quantized.commitment_loss * 0.25 + quantized.codebook_loss;
//! let gradients = loss.backward();
//! quantizer.update()?; // statistics, moving averages, restart
//! quantizer.apply(|update| {
//!     // The optimizer for the quantizer's own parameters; here plain gradient descent.
//!     update.values.iter_mut().zip(update.gradient).for_each(|(v, g)| *v -= 0.1 * g);
//! })?;
//! assert!(rows.grad(&gradients).is_some());
//! // Evaluation keeps no graph and changes nothing.
//! let codes = quantizer.encode(rows.inner())?;
//! let output: Tensor<Flex, 2> = quantizer.decode(&codes, &device)?;
//! assert_eq!(output.dims(), [256, 12]);
//! # Ok::<(), vq_kernels::Error>(())
//! ```
//! Any burn backend joins by one line, `impl QuantizeBackend for X {}`: see [`QuantizeBackend`].
//!
//! # What a pass belongs to
//! [`update`](VectorQuantizer::update) learns from the last [`forward`](VectorQuantizer::forward) and its backward:
//! gradients of several passes are not summed (enlarge the batch instead). On the host the gradient at the *rows* is right in any
//! order of calls: whatever would overwrite a pass whose backward may still come first leaves it a copy of the
//! quantizer as it was. That copy costs `O(rows + codes)`, and is made in no ordinary step, where backward comes first.
//!
//! A loss without the two terms trains codes by a derivative of 0. Where no backward comes at all (moving averages
//! need none), `update` uses the weights of the quantizer's configuration.
//!
//! # Where it runs
//! On the host; with feature `cuda`, tensors of `burn::backend::Cuda` draw the quantizer to their device, where it stays: codes,
//! statistics, moving averages and restarts are computed there, on the tensors' own memory, and no row passes through the
//! host. [`apply`](VectorQuantizer::apply) brings layers and hit codes to the optimizer and back,
//! [`read`](VectorQuantizer::read) a copy of the state, where it has changed: averages of weights, which trainings keep on the host, take one in each
//! step. There a pass is one forward, its backward, `update` and `apply`: another forward, an encode or decode, `with`, or rows on the host end
//! it. A backward that comes after all gives NaN, and the next forward, encode, decode, update or apply on tensors of the device
//! (on the host, the next forward, update or apply) returns why.
//!
//! # Types
//! Arithmetic is f32. Rows of another float type (f16, bf16) are widened, and the output is narrowed back; the two
//! loss terms stay f32.

use core::fmt;
use std::sync::{Arc, Mutex, MutexGuard};

use burn::tensor::backend::Backend;
use burn::tensor::{FloatDType, Tensor, TensorPrimitive};
use vq_kernels::quantizer::{Config, Quantizer, Report, Update};
use vq_kernels::{Cpu, Isa, Pool, Result, ops};
#[cfg(doc)]
use vq_kernels::{Error, NO_CODE};

mod autodiff;
mod backend;
#[cfg(feature = "cuda")]
mod device;
mod host;
mod shared;

use shared::{Shared, lock};

pub use backend::{Claim, Pass, QuantizeBackend};

/// A [`Quantizer`] that several threads and the autodiff graph share: clones are handles to the same one.
///
/// One call runs at a time. Make calls from outside of the pool that the ops run on: a pool's thread that waits for
/// its tasks may take up another task that waits for this handle.
#[derive(Clone)]
pub struct VectorQuantizer {
    shared: Arc<Mutex<Shared>>,
    isa: Isa,
    pool: Option<Arc<dyn Pool + Send + Sync>>,
}

/// What [`VectorQuantizer::forward`] returns.
#[derive(Clone, Debug)]
pub struct Quantized<B: Backend> {
    /// Quantized rows `[rows, inputs]`, in the type of the rows that came. Its gradient passes by the configuration's
    /// [`Estimator`](vq_kernels::quantizer::Estimator).
    pub output: Tensor<B, 2>,
    /// `mean ‖sg(z) − e‖²`, unweighted, `[1]`: moves codes (or their projector) towards rows.
    pub codebook_loss: Tensor<B, 1>,
    /// `mean ‖z − sg(e)‖²`, unweighted, on un-normalized rows, `[1]`: moves rows towards codes.
    pub commitment_loss: Tensor<B, 1>,
    /// Each row's code; [`NO_CODE`] where it has none (it is not finite): its output is that of a code of zeros, and its
    /// gradient zeros.
    pub codes: Vec<u32>,
    /// The loss terms in f64, rows without a code, mean length of the rows.
    pub report: Report,
}

/// What [`VectorQuantizer::update`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Updated {
    /// Distinct codes that the pass hit.
    pub active: usize,
    /// Stale codes, and how many were replaced.
    pub restart: ops::restart::Summary,
}

impl VectorQuantizer {
    /// Shares `quantizer`, which runs on the calling thread with the fastest instruction set there is.
    pub fn new(quantizer: Quantizer) -> Self {
        Self { shared: Arc::new(Mutex::new(Shared::new(quantizer))), isa: Isa::detect(), pool: None }
    }

    /// The same quantizer on `pool`'s threads, through this handle and its clones. Results do not depend on it.
    pub fn with_pool(self, pool: Arc<dyn Pool + Send + Sync>) -> Self {
        Self { pool: Some(pool), ..self }
    }

    /// The same quantizer with another instruction set, through this handle and its clones.
    pub fn with_isa(self, isa: Isa) -> Self {
        Self { isa, ..self }
    }

    /// Where this handle runs ops.
    pub fn cpu(&self) -> Cpu<'_> {
        let cpu = Cpu::with_isa(self.isa);
        match &self.pool {
            Some(pool) => cpu.with_pool(&**pool),
            None => cpu,
        }
    }

    /// A training pass of `rows` `[rows, inputs]`. On an autodiff backend the results are tracked, whether or not
    /// the rows are: the quantizer has parameters of its own.
    ///
    /// # Errors
    /// [`Error::Shape`] where the rows are not `inputs` wide, [`Error::TooLarge`] for more rows than have indices; of a device,
    /// `Error::Cuda`, and what an earlier backward could not return.
    pub fn forward<B: QuantizeBackend>(&self, rows: Tensor<B, 2>) -> Result<Quantized<B>> {
        let (rows, dtype) = widened(rows);
        let shape = rows.dims();
        let Pass { packed, codes, report, .. } = B::pass(self, rows)?;
        let (output, codebook_loss, commitment_loss) = split(packed, shape);
        Ok(Quantized { output: output.cast(dtype), codebook_loss, commitment_loss, codes, report })
    }

    /// The codes of `rows` `[rows, inputs]`; [`NO_CODE`] for a row that has none. Keeps no graph, changes nothing.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn encode<B: QuantizeBackend>(&self, rows: Tensor<B, 2>) -> Result<Vec<u32>> {
        B::encode(self, widened(rows).0)
    }

    /// The output `[codes, inputs]` for `codes`, in f32; zeros (projected back) for [`NO_CODE`].
    ///
    /// # Errors
    /// [`Error::CodeOutOfRange`] for a code that does not exist; of a device as [`forward`](Self::forward).
    pub fn decode<B: QuantizeBackend>(&self, codes: &[u32], device: &B::Device) -> Result<Tensor<B, 2>> {
        B::decode(self, codes, device)
    }

    /// After `loss.backward()`: takes the last pass into the statistics, moves averaged codes, replaces stale ones,
    /// and forms the gradients of codes or projector for [`apply`](Self::apply). No rows: nothing is done.
    ///
    /// # Errors
    /// [`Error::Order`] where no [`forward`](Self::forward) came since the last update; [`Error::Overflow`] where
    /// more than 2²² rows fell to one code; of a device as [`forward`](Self::forward).
    pub fn update(&self) -> Result<Updated> {
        let cpu = self.cpu();
        let mut shared = self.lock();
        shared.check()?;
        if let Some(away) = shared.away() {
            let Report { active, restart, .. } = away.update()?;
            return Ok(Updated { active, restart });
        }
        let quantizer = shared.home()?;
        let exponent = quantizer.exponent()?;
        if quantizer.last_codes().is_empty() {
            return Ok(Updated::default());
        }
        let active = quantizer.collect_statistics(&cpu, exponent)?;
        Ok(Updated { active, restart: quantizer.update(&cpu)? })
    }

    /// After [`update`](Self::update): gives each of the quantizer's parameters and its gradient to `optimize`, then
    /// brings the codebook up to date. The gradients are used up. (For their norm, look at
    /// [`Quantizer::gradients`] through [`read`](Self::read) before, on the host.)
    ///
    /// # Errors
    /// None that a caller can cause; of a device as [`forward`](Self::forward).
    pub fn apply(&self, mut optimize: impl FnMut(Update<'_>)) -> Result<()> {
        let cpu = self.cpu();
        let mut shared = self.lock();
        shared.check()?;
        match shared.away() {
            Some(away) => away.apply(&mut optimize),
            None => shared.home()?.apply(&cpu, optimize),
        }
    }

    /// The settings.
    pub fn config(&self) -> Config {
        *self.lock().config()
    }

    /// Each row's code in the last [`forward`](Self::forward).
    pub fn last_codes(&self) -> Vec<u32> {
        let mut shared = self.lock();
        match shared.away() {
            Some(away) => away.last_codes().to_vec(),
            None => shared.copy().last_codes().to_vec(),
        }
    }

    /// The codes that the last [`update`](Self::update) replaced.
    pub fn last_restarted(&self) -> Vec<u32> {
        let mut shared = self.lock();
        match shared.away() {
            Some(away) => away.last_restarted().to_vec(),
            None => shared.copy().last_restarted().iter().map(|one| one.code).collect(),
        }
    }

    /// Looks at the quantizer: where it is on a device, at a copy of its state, without its last pass. `look` must not call this
    /// handle or its clones.
    ///
    /// # Errors
    /// None on the host; of a device as [`forward`](Self::forward).
    pub fn read<R>(&self, look: impl FnOnce(&Quantizer) -> R) -> Result<R> {
        Ok(look(self.lock().host()?))
    }

    /// Changes the quantizer, on the host: to restore it, or to merge statistics of several workers. `change` must not call
    /// this handle or its clones. A pass on a device ends with it, and gradients there are lost.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn with<R>(&self, change: impl FnOnce(&mut Quantizer) -> R) -> Result<R> {
        Ok(change(self.lock().home()?))
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        lock(&self.shared)
    }
}

impl fmt::Debug for VectorQuantizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VectorQuantizer").field("cpu", &self.cpu()).finish_non_exhaustive()
    }
}

/// `rows` in f32, and the float type that they came in.
fn widened<B: Backend>(rows: Tensor<B, 2>) -> (Tensor<B, 2>, FloatDType) {
    let rows: Tensor<B, 2> = Tensor::from_primitive(TensorPrimitive::Float(rows.into_primitive().tensor()));
    let dtype = rows.dtype().into();
    (rows.cast(FloatDType::F32), dtype)
}

/// What the op packed: the output `[n, inputs]`, the codebook and the commitment loss.
fn split<B: Backend>(packed: Tensor<B, 1>, [n, inputs]: [usize; 2]) -> (Tensor<B, 2>, Tensor<B, 1>, Tensor<B, 1>) {
    let elements = n * inputs;
    let output = match n {
        0 => Tensor::empty([0, inputs], &packed.device()),
        _ => packed.clone().slice(0..elements).reshape([n, inputs]),
    };
    (output, packed.clone().slice(elements..elements + 1), packed.slice(elements + 1..elements + 2))
}
