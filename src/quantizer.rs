//! The whole layer: `encode`, `decode`, and a training step that calls one op after another.
//!
//! ```text
//! x ─ project ─ z ─ normalize ─ ẑ ─ search ─ codes ─ gather ─ q ─ project ─ output
//! ```
//! Each of the three arrows that the first VQ-GANs lacked is switchable: factorization (the two
//! projections), normalization, restart. Four ways to learn the codes are one enum, [`Learner`].

use alloc::vec::Vec;

use crate::codebook::{Line, PackedCodebook, Packing};
use crate::cpu::Cpu;
use crate::element::Element;
#[cfg(doc)]
use crate::error::Error;
use crate::error::{Result, same};
use crate::matrix::{MatMut, MatRef};
use crate::ops;
use crate::ops::ema::{Activity, Statistics};
use crate::ops::restart::Restarted;
use crate::ops::search::check_codebook;

mod config;
mod parameters;
mod pass;
mod state;
mod step;

pub use config::{Config, Estimator, Learner};
pub use parameters::{Initial, Linear, Update};
pub use state::{StateMut, StateRef};
pub use step::{Loss, Report};

use parameters::{Gradients, Layers};
use pass::Pass;
use step::Phase;

/// A vector quantizer with its codebook, projections, statistics and gradients.
///
/// ```
/// use vq_kernels::{Cpu, MatRef, quantizer::{Config, Initial, Quantizer}};
/// let cpu = Cpu::new();
/// let mut quantizer = Quantizer::new(Config { codes: 16, dim: 4, inputs: 12, ..Config::default() }, Initial::Normal)?;
/// let x: Vec<f32> = (0..64 * 12).map(|i| (i as f32 * 0.7).sin()).collect();
/// let x = MatRef::new(&x, 64, 12)?;
/// for _ in 0..10 {
///     // The decoder's part: it sees the quantized rows and leaves the gradient there (here: of ½‖out − x‖²).
///     let report = quantizer.train_step(&cpu, x, None, |output, gradient| {
///         for ((g, out), x) in gradient.iter_mut().zip(output.data()).zip(x.data()) {
///             *g = (out - x) / 64.0;
///         }
///     })?;
///     assert!(report.loss.commitment.is_finite());
///     // The optimizer's part: plain gradient descent.
///     quantizer.apply(&cpu, |update| {
///         update.values.iter_mut().zip(update.gradient).for_each(|(v, g)| *v -= 0.1 * g);
///     })?;
/// }
/// let mut codes = [0u32; 64];
/// quantizer.encode(&cpu, x, None, &mut codes)?;
/// # Ok::<(), vq_kernels::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Quantizer {
    config: Config,
    /// Into the codes' space and back, and VQGAN-LC's projector.
    layers: Layers,
    /// Codes as search and gather see them, `[codes, dim]`.
    codebook: Vec<f32>,
    packed: PackedCodebook<Vec<Line>>,
    /// What is learned where that is not the codebook itself: un-normalized codes (gradient) or the
    /// means (EMA) of a normalized codebook, `[codes, dim]`; else empty.
    latent: Vec<f32>,
    /// VQGAN-LC: frozen centres `[codes, source_dim]`.
    source: Vec<f32>,
    statistics: Statistics<Vec<i64>>,
    activity: Activity<Vec<f32>, Vec<f64>>,
    step: u64,
    gradients: Gradients,
    pass: Pass,
    phase: Phase,
}

impl Quantizer {
    /// A quantizer with weights and codes drawn under the configuration's seed, or given.
    ///
    /// # Errors
    /// [`Error::Config`] for settings that contradict each other, [`Error::Empty`] and
    /// [`Error::TooLarge`] for shapes that no codebook may have, [`Error::Shape`] where given codes have
    /// another.
    pub fn new(config: Config, initial: Initial) -> Result<Self> {
        config.check()?;
        check_codebook("quantizer", config.codes, config.dim)?;
        let linear = |outputs, inputs, stream| Linear::new(outputs, inputs, config.seed, stream);
        let (project_in, project_out) = match config.factorize {
            true => (Some(linear(config.dim, config.inputs, 1)?), Some(linear(config.inputs, config.dim, 2)?)),
            false => (None, None),
        };
        let projector = match config.learner {
            Learner::Projector { source_dim } => Some(Linear::projector(config.dim, source_dim, config.seed, 3)?),
            Learner::Gradient | Learner::Ema | Learner::Frozen => None,
        };
        let width = projector.as_ref().map_or(config.dim, Linear::inputs);
        let values = initial.values(&config, parameters::elements("codes * width", config.codes, width)?)?;
        let (mut latent, mut source, mut codebook) = (Vec::new(), Vec::new(), Vec::new());
        match config.learner {
            Learner::Projector { .. } => source = values,
            Learner::Gradient | Learner::Ema if config.normalize => latent = values,
            Learner::Gradient | Learner::Ema | Learner::Frozen => codebook = values,
        }
        codebook.resize(config.codes * config.dim, 0.0);
        if config.learner == Learner::Frozen && config.normalize {
            let raw = codebook.clone();
            normalize_all(&Cpu::new(), &raw, config.dim, &mut codebook)?;
        }
        let packing = Packing::suited(config.codes, config.dim, config.metric());
        let packed =
            PackedCodebook::with_packing(MatRef::new(&codebook, config.codes, config.dim)?, config.metric(), packing)?;
        let mut quantizer = Self {
            statistics: Statistics::new(config.codes, config.dim, 0)?,
            activity: Activity::new(config.codes),
            gradients: Gradients::default(),
            pass: Pass::default(),
            step: 0,
            phase: Phase::Idle,
            config,
            layers: Layers { project_in, project_out, projector },
            codebook,
            packed,
            latent,
            source,
        };
        quantizer.refresh(&Cpu::new())?;
        Ok(quantizer)
    }

    /// The settings.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The codes as search sees them, `[codes, dim]`: unit rows where the quantizer normalizes.
    pub fn codebook(&self) -> MatRef<'_> {
        self.rows_of(&self.codebook)
    }

    /// The same codes, packed for [`ops::search()`].
    pub fn packed(&self) -> &PackedCodebook<Vec<Line>> {
        &self.packed
    }

    /// Into the codes' space, where the quantizer is factorized.
    pub fn project_in(&self) -> Option<&Linear> {
        self.layers.project_in.as_ref()
    }

    /// Back from the codes' space, where the quantizer is factorized.
    pub fn project_out(&self) -> Option<&Linear> {
        self.layers.project_out.as_ref()
    }

    /// From the frozen centres to the codes' space, where codes are learned by [`Learner::Projector`].
    pub fn projector(&self) -> Option<&Linear> {
        self.layers.projector.as_ref()
    }

    /// Steps taken.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// How much each code has been used of late.
    pub fn activity(&self) -> &Activity<Vec<f32>, Vec<f64>> {
        &self.activity
    }

    /// The last step's codes, one for each row.
    pub fn last_codes(&self) -> &[u32] {
        &self.pass.codes
    }

    /// The last step's output, `[rows, inputs]`: quantized rows, projected back where the quantizer is factorized.
    pub fn last_output(&self) -> &[f32] {
        self.pass.output(&self.config)
    }

    /// The last step's gradient at `x`, `[rows, inputs]`.
    pub fn last_input_gradient(&self) -> &[f32] {
        &self.pass.dx
    }

    /// The last step's rows as search saw them, `[rows, dim]`: what restart takes its donors from.
    pub fn last_searched(&self) -> &[f32] {
        self.pass.searched(&self.config)
    }

    /// The codes that the last step restarted, and why: an optimizer forgets its moments of them.
    pub fn last_restarted(&self) -> &[Restarted] {
        &self.pass.restarted
    }

    /// Codes of the rows of `x` `[rows, inputs]`, into `codes` `[rows]`. Rows of weight zero get
    /// [`NO_CODE`](crate::NO_CODE).
    ///
    /// # Errors
    /// [`Error::Shape`] where the extents differ, [`Error::Value`] for weights outside `0..=1`.
    pub fn encode<E: Element>(
        &self,
        cpu: &Cpu,
        x: MatRef<E>,
        weights: Option<&[f32]>,
        codes: &mut [u32],
    ) -> Result<()> {
        const OP: &str = "encode";
        same(OP, "columns of x", self.config.inputs, x.cols())?;
        same(OP, "length of codes", x.rows(), codes.len())?;
        ops::check_weights(OP, weights, x.rows())?;
        if self.layers.project_in.is_none() && !self.config.normalize {
            return ops::search(cpu, x, weights, &self.packed, codes, None);
        }
        // In blocks, so that memory stays small whatever the number of rows.
        const BLOCK: usize = 8 * ops::ROW_BLOCK;
        let dim = self.config.dim;
        let (mut z, mut unit) = (Vec::new(), Vec::new());
        for (first, codes) in (0..).step_by(BLOCK).zip(codes.chunks_mut(BLOCK)) {
            let (x, rows) = (x.rows_from(first, BLOCK), codes.len());
            let weights = weights.map(|w| &w[first..first + rows]);
            z.resize(rows * dim, 0.0);
            match &self.layers.project_in {
                Some(linear) => linear.forward(cpu, x, MatMut::new(&mut z, rows, dim)?)?,
                None => ops::normalize(cpu, x, MatMut::new(&mut z, rows, dim)?, None)?,
            }
            if self.layers.project_in.is_some() && self.config.normalize {
                unit.resize(rows * dim, 0.0);
                ops::normalize(cpu, MatRef::new(&z, rows, dim)?, MatMut::new(&mut unit, rows, dim)?, None)?;
                ops::search(cpu, MatRef::new(&unit, rows, dim)?, weights, &self.packed, codes, None)?;
            } else {
                ops::search(cpu, MatRef::new(&z, rows, dim)?, weights, &self.packed, codes, None)?;
            }
        }
        Ok(())
    }

    /// The output for `codes` `[rows]`, into `output` `[rows, inputs]`: the code, projected back where
    /// the quantizer is factorized. A row without a code decodes as a code of zeros.
    ///
    /// # Errors
    /// [`Error::Shape`] where the extents differ, [`Error::CodeOutOfRange`] for a code that does not exist.
    pub fn decode(&self, cpu: &Cpu, codes: &[u32], mut output: MatMut) -> Result<()> {
        const OP: &str = "decode";
        same(OP, "rows of output", codes.len(), output.rows())?;
        same(OP, "columns of output", self.config.inputs, output.cols())?;
        let Some(linear) = &self.layers.project_out else { return ops::gather(cpu, codes, self.codebook(), output) };
        ops::check_codes(OP, codes.len(), codes, self.config.codes)?;
        const BLOCK: usize = 8 * ops::ROW_BLOCK;
        let mut quantized = Vec::new();
        for (codes, output) in
            codes.chunks(BLOCK).zip(output.data().chunks_mut(BLOCK.saturating_mul(self.config.inputs)))
        {
            quantized.resize(codes.len() * self.config.dim, 0.0);
            ops::gather(cpu, codes, self.codebook(), MatMut::new(&mut quantized, codes.len(), self.config.dim)?)?;
            let quantized = MatRef::new(&quantized, codes.len(), self.config.dim)?;
            linear.forward(cpu, quantized, MatMut::new(output, codes.len(), self.config.inputs)?)?;
        }
        Ok(())
    }

    fn rows_of<'a>(&self, values: &'a [f32]) -> MatRef<'a> {
        MatRef::new(values, self.config.codes, self.config.dim)
            .unwrap_or_else(|_| unreachable!("the shape is checked in `new`"))
    }
}

fn normalize_all(cpu: &Cpu, raw: &[f32], dim: usize, unit: &mut [f32]) -> Result<()> {
    let rows = raw.len() / dim.max(1);
    ops::normalize(cpu, MatRef::new(raw, rows, dim)?, MatMut::new(unit, rows, dim)?, None)
}
