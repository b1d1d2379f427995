//! The whole layer: `encode`, `decode`, and a training step that calls one op after another.
//!
//! ```text
//! x ─ project ─ z ─ normalize ─ ẑ ─ search ─ codes ─ gather ─ q ─ project ─ output
//! ```
//! Each of the three arrows that the first VQ-GANs lacked is switchable: factorization (the two
//! projections), normalization, restart. Four ways to learn the codes are one enum, [`Learner`].

use alloc::vec::Vec;

use crate::NO_CODE;
use crate::codebook::{Line, PackedCodebook};
use crate::cpu::Cpu;
use crate::element::Element;
use crate::error::{Error, Result, same};
use crate::matrix::{MatMut, MatRef};
use crate::ops;
use crate::ops::ema::{self, Activity, Statistics};
use crate::ops::loss::{self, SquaredError};
use crate::ops::restart::{self, Restarted};
use crate::ops::search::check_codebook;

mod config;
mod parameters;
mod state;

pub use config::{Config, Estimator, Learner};
pub use parameters::{Initial, Linear, Update};
pub use state::{StateMut, StateRef};

use parameters::Gradients;

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
    /// Into the codes' space and back, where the quantizer is factorized.
    project_in: Option<Linear>,
    project_out: Option<Linear>,
    /// Codes as search and gather see them, `[codes, dim]`.
    codebook: Vec<f32>,
    packed: PackedCodebook<Vec<Line>>,
    /// What is learned where that is not the codebook itself: un-normalized codes (gradient) or the
    /// means (EMA) of a normalized codebook, `[codes, dim]`; else empty.
    latent: Vec<f32>,
    /// VQGAN-LC: frozen centres `[codes, source_dim]` and their projector.
    source: Vec<f32>,
    projector: Option<Linear>,
    statistics: Statistics<Vec<i64>>,
    activity: Activity<Vec<f32>, Vec<f64>>,
    step: u64,
    gradients: Gradients,
    pass: Pass,
    phase: Phase,
}

/// How far a step has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Idle,
    Accumulated,
    Collected,
}

/// The two loss terms of a step, unweighted means over elements.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Loss {
    /// `mean ‖sg(ẑ) − e‖²`: moves codes towards rows.
    pub codebook: f64,
    /// `mean ‖z − sg(e)‖²` on un-normalized rows: moves rows towards codes, and keeps their volume.
    pub commitment: f64,
}

/// What a training step found.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Report {
    /// The loss terms.
    pub loss: Loss,
    /// Rows that got a code.
    pub rows: usize,
    /// Rows of nonzero weight that got none (NaN).
    pub without_code: usize,
    /// Distinct codes hit.
    pub active: usize,
    /// Mean length of the un-normalized rows.
    pub mean_norm: f64,
    /// Stale codes, and how many were replaced.
    pub restart: restart::Summary,
}

/// A step's rows, kept from step to step so that nothing is allocated again.
#[derive(Clone, Debug, Default)]
struct Pass {
    z: Vec<f32>,
    unit: Vec<f32>,
    norms: Vec<f32>,
    codes: Vec<u32>,
    weights: Option<Vec<f32>>,
    quantized: Vec<f32>,
    output: Vec<f32>,
    doutput: Vec<f32>,
    dquantized: Vec<f32>,
    dz: Vec<f32>,
    dx: Vec<f32>,
    scratch: Vec<u32>,
    restarted: Vec<Restarted>,
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
        let packed = PackedCodebook::new(MatRef::new(&codebook, config.codes, config.dim)?, config.metric())?;
        let (f32s, f64s) = (alloc::vec![0.0f32; config.codes], alloc::vec![0.0f64; config.codes]);
        let mut quantizer = Self {
            statistics: Statistics::new(config.codes, config.dim, 0)?,
            activity: Activity::new_in(f32s.clone(), f32s, f64s)?,
            gradients: Gradients::default(),
            pass: Pass::default(),
            step: 0,
            phase: Phase::Idle,
            config,
            project_in,
            project_out,
            codebook,
            packed,
            latent,
            source,
            projector,
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

    /// The same codes, packed for [`ops::search`].
    pub fn packed(&self) -> &PackedCodebook<Vec<Line>> {
        &self.packed
    }

    /// Into the codes' space, where the quantizer is factorized.
    pub fn project_in(&self) -> Option<&Linear> {
        self.project_in.as_ref()
    }

    /// Back from the codes' space, where the quantizer is factorized.
    pub fn project_out(&self) -> Option<&Linear> {
        self.project_out.as_ref()
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

    /// The last step's gradient at `x`, `[rows, inputs]`.
    pub fn last_input_gradient(&self) -> &[f32] {
        &self.pass.dx
    }

    /// The codes that the last step restarted, and why: an optimizer forgets its moments of them.
    pub fn last_restarted(&self) -> &[Restarted] {
        &self.pass.restarted
    }

    /// Codes of the rows of `x` `[rows, inputs]`, into `codes` `[rows]`. Rows of weight zero get
    /// [`NO_CODE`].
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
        if self.project_in.is_none() && !self.config.normalize {
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
            match &self.project_in {
                Some(linear) => linear.forward(cpu, x, MatMut::new(&mut z, rows, dim)?)?,
                None => ops::normalize(cpu, x, MatMut::new(&mut z, rows, dim)?, None)?,
            }
            if self.project_in.is_some() && self.config.normalize {
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
        let Some(linear) = &self.project_out else { return ops::gather(cpu, codes, self.codebook(), output) };
        ops::check_codes(OP, codes.len(), codes, self.config.codes)?;
        const BLOCK: usize = 8 * ops::ROW_BLOCK;
        let mut quantized = Vec::new();
        for (codes, output) in codes.chunks(BLOCK).zip(output.data().chunks_mut(BLOCK * self.config.inputs)) {
            quantized.resize(codes.len() * self.config.dim, 0.0);
            ops::gather(cpu, codes, self.codebook(), MatMut::new(&mut quantized, codes.len(), self.config.dim)?)?;
            let quantized = MatRef::new(&quantized, codes.len(), self.config.dim)?;
            linear.forward(cpu, quantized, MatMut::new(output, codes.len(), self.config.inputs)?)?;
        }
        Ok(())
    }

    /// One step: [`accumulate`](Self::accumulate), [`collect`](Self::collect), [`update`](Self::update).
    ///
    /// `head` is the rest of the model: it sees the output `[rows, inputs]` and writes the loss's
    /// gradient there. Then [`apply`](Self::apply) gives the optimizer its turn. A row of
    /// weight zero, or with an infinity or NaN anywhere, is not trained on: it gets no code, passes no
    /// gradient on in either direction, and the report counts it.
    ///
    /// # Errors
    /// As those three.
    pub fn train_step(
        &mut self,
        cpu: &Cpu,
        x: MatRef,
        weights: Option<&[f32]>,
        head: impl FnOnce(MatRef, &mut [f32]),
    ) -> Result<Report> {
        let mut report = self.accumulate(cpu, x, weights, head)?;
        report.active = self.collect(cpu, self.exponent()?)?;
        report.restart = self.update(cpu)?;
        Ok(report)
    }

    /// The worker's part of a step: forward, losses, backward.
    ///
    /// # Errors
    /// [`Error::Shape`] where the extents differ, [`Error::Value`] for weights outside `0..=1`.
    pub fn accumulate(
        &mut self,
        cpu: &Cpu,
        x: MatRef,
        weights: Option<&[f32]>,
        head: impl FnOnce(MatRef, &mut [f32]),
    ) -> Result<Report> {
        const OP: &str = "train_step";
        same(OP, "columns of x", self.config.inputs, x.cols())?;
        ops::check_weights(OP, weights, x.rows())?;
        self.phase = Phase::Idle;
        self.forward(cpu, x, weights)?;
        let (report, commitment) = self.losses(cpu, x, weights)?;
        self.backward(cpu, x, weights, commitment, head)?;
        // `collect` and `update` need the searched rows, which here are the caller's own.
        if !self.config.normalize && !self.config.factorize {
            self.pass.z.extend_from_slice(x.data());
        }
        self.pass.weights = weights.map(<[f32]>::to_vec);
        self.phase = Phase::Accumulated;
        Ok(report)
    }

    /// The exponent that this worker's rows ask for; workers [`collect`](Self::collect) with the largest
    /// of theirs.
    ///
    /// # Errors
    /// [`Error::Config`] where no [`accumulate`](Self::accumulate) came before.
    pub fn exponent(&self) -> Result<i32> {
        if self.phase == Phase::Idle {
            return Err(Error::Config { field: "exponent", expected: "an accumulate before" });
        }
        match self.config.normalize {
            true => Ok(0),
            false => ema::exponent(self.donors()?, &self.pass.codes, self.pass.weights.as_deref()),
        }
    }

    /// Sums the rows of the last [`accumulate`](Self::accumulate) by code, exactly, in units that
    /// `exponent` sets. Returns how many distinct codes were hit. Workers then merge their
    /// [`statistics_mut`](Self::statistics_mut).
    ///
    /// # Errors
    /// [`Error::Config`] where no `accumulate` came before; [`Error::Value`] for an exponent below
    /// [`exponent`](Self::exponent); [`Error::Overflow`] where one code takes more than 2²² rows.
    pub fn collect(&mut self, cpu: &Cpu, exponent: i32) -> Result<usize> {
        if self.phase == Phase::Idle {
            return Err(Error::Config { field: "collect", expected: "an accumulate before each collect" });
        }
        self.phase = Phase::Accumulated;
        self.statistics.clear(exponent);
        let rows = if self.config.normalize { &self.pass.unit } else { &self.pass.z };
        let rows = MatRef::new(rows, self.pass.codes.len(), self.config.dim)?;
        self.statistics.accumulate(cpu, rows, &self.pass.codes, self.pass.weights.as_deref())?;
        self.phase = Phase::Collected;
        Ok((0..self.config.codes).filter(|&k| self.statistics.is_hit(k)).count())
    }

    /// The rows of the last pass as search saw them: what statistics sum and what restart takes from.
    fn donors(&self) -> Result<MatRef<'_>> {
        let rows = if self.config.normalize { &self.pass.unit } else { &self.pass.z };
        MatRef::new(rows, self.pass.codes.len(), self.config.dim)
    }

    /// This worker's statistics, to be merged with those of others between
    /// [`collect`](Self::collect) and [`update`](Self::update).
    pub fn statistics_mut(&mut self) -> &mut Statistics<Vec<i64>> {
        &mut self.statistics
    }

    /// The common part of a step: codes from the (merged) statistics, activity, restart. Workers that
    /// hold the same statistics and the same batch of donors stay equal bit for bit.
    ///
    /// # Errors
    /// [`Error::Config`] where no [`collect`](Self::collect) came before.
    pub fn update(&mut self, cpu: &Cpu) -> Result<restart::Summary> {
        if self.phase != Phase::Collected {
            return Err(Error::Config { field: "update", expected: "a collect before each update" });
        }
        self.phase = Phase::Idle;
        self.pass.restarted.clear();
        let mut changed = Vec::new();
        match self.config.learner {
            Learner::Ema => {
                changed.extend((0..self.config.codes).filter(|&k| self.statistics.is_hit(k)).map(|k| k as u32));
                self.update_means(cpu)?;
            }
            Learner::Gradient | Learner::Projector { .. } => self.code_gradients(cpu)?,
            Learner::Frozen => {}
        }
        self.activity.observe(self.config.decay, &self.statistics)?;
        let summary = match self.config.restart {
            Some(rule) => self.restart_stale(&rule)?,
            None => restart::Summary::default(),
        };
        changed.extend(self.pass.restarted.iter().map(|restarted| restarted.code));
        let codebook = MatRef::new(&self.codebook, self.config.codes, self.config.dim)?;
        self.packed.repack_codes(codebook, &changed)?;
        self.step += 1;
        Ok(summary)
    }

    /// `z`, unit rows, codes and quantized rows of the pass.
    fn forward(&mut self, cpu: &Cpu, x: MatRef, weights: Option<&[f32]>) -> Result<()> {
        let (rows, dim) = (x.rows(), self.config.dim);
        let pass = &mut self.pass;
        pass.z.clear();
        pass.unit.clear();
        if let Some(linear) = &self.project_in {
            pass.z.resize(rows * dim, 0.0);
            linear.forward(cpu, x, MatMut::new(&mut pass.z, rows, dim)?)?;
        }
        if self.config.normalize {
            pass.unit.resize(rows * dim, 0.0);
            pass.norms.resize(rows, 0.0);
            let z = if self.project_in.is_some() { MatRef::new(&pass.z, rows, dim)? } else { x };
            ops::normalize(cpu, z, MatMut::new(&mut pass.unit, rows, dim)?, Some(&mut pass.norms))?;
        }
        let mut codes = core::mem::take(&mut pass.codes);
        codes.resize(rows, NO_CODE);
        let found =
            ops::search(cpu, searched(&self.config, &pass.unit, &pass.z, x)?, weights, &self.packed, &mut codes, None);
        self.pass.codes = codes;
        found?;
        // An infinity may win a code, but has no gradient: rows that are not finite are not trained on.
        let rows_seen = searched(&self.config, &self.pass.unit, &self.pass.z, x)?;
        for (row, code) in self.pass.codes.iter_mut().enumerate() {
            let finite = |row: &[f32]| row.iter().all(|x| x.is_finite());
            if *code != NO_CODE && !(finite(x.row(row)) && finite(rows_seen.row(row))) {
                *code = NO_CODE;
            }
        }
        self.pass.quantized.resize(rows * dim, 0.0);
        let codebook = MatRef::new(&self.codebook, self.config.codes, dim)?;
        ops::gather(cpu, &self.pass.codes, codebook, MatMut::new(&mut self.pass.quantized, rows, dim)?)
    }

    /// The loss terms, with the commitment's sum for its gradient.
    fn losses(&mut self, cpu: &Cpu, x: MatRef, weights: Option<&[f32]>) -> Result<(Report, SquaredError)> {
        let (rows, dim, pass) = (x.rows(), self.config.dim, &self.pass);
        let quantized = MatRef::new(&pass.quantized, rows, dim)?;
        let z = unnormalized(&self.config, &pass.z, x)?;
        let (mut codebook, mut commitment) = (SquaredError::default(), SquaredError::default());
        loss::squared_error(cpu, z, quantized, &pass.codes, weights, &mut commitment)?;
        match self.config.normalize {
            true => loss::squared_error(
                cpu,
                searched(&self.config, &pass.unit, &pass.z, x)?,
                quantized,
                &pass.codes,
                weights,
                &mut codebook,
            )?,
            false => codebook = commitment,
        }
        let coded = pass.codes.iter().filter(|&&k| k != NO_CODE).count();
        let wanted = weights.map_or(rows, |w| w.iter().filter(|&&w| w > 0.0).count());
        let lengths = (0..rows).filter(|&row| pass.codes[row] != NO_CODE).map(|row| match self.config.normalize {
            true => f64::from(pass.norms[row]),
            false => libm::sqrt(z.row(row).iter().map(|&x| f64::from(x) * f64::from(x)).sum()),
        });
        let report = Report {
            loss: Loss { codebook: codebook.mean(dim), commitment: commitment.mean(dim) },
            rows: coded,
            without_code: wanted - coded,
            mean_norm: lengths.sum::<f64>() / coded.max(1) as f64,
            ..Report::default()
        };
        Ok((report, commitment))
    }

    /// From the head's gradient to that at `x`, and the projections' own.
    fn backward(
        &mut self,
        cpu: &Cpu,
        x: MatRef,
        weights: Option<&[f32]>,
        commitment: SquaredError,
        head: impl FnOnce(MatRef, &mut [f32]),
    ) -> Result<()> {
        let (rows, dim, inputs) = (x.rows(), self.config.dim, self.config.inputs);
        let pass = &mut self.pass;
        pass.doutput.clear();
        pass.doutput.resize(rows * inputs, 0.0);
        // -- output and its gradient, back to the quantized rows
        match &self.project_out {
            Some(linear) => {
                pass.output.resize(rows * inputs, 0.0);
                let quantized = MatRef::new(&pass.quantized, rows, dim)?;
                linear.forward(cpu, quantized, MatMut::new(&mut pass.output, rows, inputs)?)?;
                head(MatRef::new(&pass.output, rows, inputs)?, &mut pass.doutput);
                clear_uncoded(&pass.codes, inputs, &mut pass.doutput);
                let doutput = MatRef::new(&pass.doutput, rows, inputs)?;
                self.gradients.project_out.of(cpu, linear, doutput, quantized)?;
                pass.dquantized.resize(rows * dim, 0.0);
                ops::project_backward_input(
                    cpu,
                    doutput,
                    linear.weight(),
                    MatMut::new(&mut pass.dquantized, rows, dim)?,
                )?;
            }
            None => {
                head(MatRef::new(&pass.quantized, rows, dim)?, &mut pass.doutput);
                core::mem::swap(&mut pass.dquantized, &mut pass.doutput);
            }
        }
        // -- the estimator, to the rows that were searched
        pass.dz.resize(rows * dim, 0.0);
        let (dquantized, quantized) =
            (MatRef::new(&pass.dquantized, rows, dim)?, MatRef::new(&pass.quantized, rows, dim)?);
        let dz = MatMut::new(&mut pass.dz, rows, dim)?;
        match self.config.estimator {
            Estimator::StraightThrough => loss::straight_through_backward(cpu, &pass.codes, dquantized, dz)?,
            Estimator::Rotation => {
                let searched = searched(&self.config, &pass.unit, &pass.z, x)?;
                loss::rotation_backward(cpu, searched, quantized, &pass.codes, dquantized, dz)?;
            }
        }
        // -- the norm's true gradient, to z
        if self.config.normalize {
            core::mem::swap(&mut pass.dquantized, &mut pass.dz);
            let (unit, dunit) = (MatRef::new(&pass.unit, rows, dim)?, MatRef::new(&pass.dquantized, rows, dim)?);
            ops::normalize_backward(cpu, unit, &pass.norms, dunit, MatMut::new(&mut pass.dz, rows, dim)?)?;
        }
        clear_uncoded(&pass.codes, dim, &mut pass.dz);
        // -- commitment, on un-normalized rows
        let elements = commitment.weight * dim as f64;
        if elements > 0.0 {
            let scale = (2.0 * self.config.commitment / elements) as f32;
            let z = unnormalized(&self.config, &pass.z, x)?;
            let dz = MatMut::new(&mut pass.dz, rows, dim)?;
            loss::squared_error_backward(
                cpu,
                z,
                MatRef::new(&pass.quantized, rows, dim)?,
                &pass.codes,
                weights,
                scale,
                dz,
            )?;
        }
        // -- to x
        match &self.project_in {
            Some(linear) => {
                let dz = MatRef::new(&pass.dz, rows, dim)?;
                // The weight's gradient multiplies by x: 0 · NaN must not come in from rows without a code.
                let trained = match pass.codes.contains(&NO_CODE) {
                    true => {
                        let mut copy = x.data().to_vec();
                        clear_uncoded(&pass.codes, inputs, &mut copy);
                        Some(copy)
                    }
                    false => None,
                };
                let x = trained.as_deref().map_or(Ok(x), |copy| MatRef::new(copy, rows, inputs))?;
                self.gradients.project_in.of(cpu, linear, dz, x)?;
                pass.dx.resize(rows * inputs, 0.0);
                ops::project_backward_input(cpu, dz, linear.weight(), MatMut::new(&mut pass.dx, rows, inputs)?)?;
            }
            None => {
                pass.dx.clear();
                pass.dx.extend_from_slice(&pass.dz);
            }
        }
        Ok(())
    }

    fn update_means(&mut self, cpu: &Cpu) -> Result<()> {
        let (codes, dim, decay) = (self.config.codes, self.config.dim, self.config.decay);
        let sizes = &self.activity.cluster_size;
        let codebook = MatMut::new(&mut self.codebook, codes, dim)?;
        match self.config.normalize {
            true => {
                let mean = MatMut::new(&mut self.latent, codes, dim)?;
                ema::update_means(cpu, decay, &self.statistics, sizes, mean, Some(codebook))
            }
            false => ema::update_means(cpu, decay, &self.statistics, sizes, codebook, None),
        }
    }

    fn restart_stale(&mut self, rule: &restart::Rule) -> Result<restart::Summary> {
        let (codes, dim, pass) = (self.config.codes, self.config.dim, &mut self.pass);
        let rows = pass.codes.len();
        let donors = if self.config.normalize { &pass.unit } else { &pass.z };
        pass.scratch.resize(restart::scratch_len(rows), 0);
        pass.restarted.resize(rows.min(codes), Restarted::default());
        let mut codebook = MatMut::new(&mut self.codebook, codes, dim)?;
        let mut latent = match self.latent.is_empty() {
            true => None,
            false => Some(MatMut::new(&mut self.latent, codes, dim)?),
        };
        let summary = restart::restart(
            MatRef::new(donors, rows, dim)?,
            &pass.codes,
            pass.weights.as_deref(),
            rule,
            self.step,
            &mut self.activity,
            &mut codebook,
            latent.as_mut(),
            &mut pass.scratch,
            &mut pass.restarted,
        )?;
        pass.restarted.truncate(summary.restarted);
        Ok(summary)
    }

    fn rows_of<'a>(&self, values: &'a [f32]) -> MatRef<'a> {
        MatRef::new(values, self.config.codes, self.config.dim)
            .unwrap_or_else(|_| unreachable!("the shape is checked in `new`"))
    }
}

/// The rows that search sees: the last of unit rows, projected rows and `x` that there is.
fn searched<'a>(config: &Config, unit: &'a [f32], z: &'a [f32], x: MatRef<'a>) -> Result<MatRef<'a>> {
    match config.normalize {
        true => MatRef::new(unit, x.rows(), config.dim),
        false => unnormalized(config, z, x),
    }
}

/// Rows before normalization: projected, or `x` itself.
fn unnormalized<'a>(config: &Config, z: &'a [f32], x: MatRef<'a>) -> Result<MatRef<'a>> {
    if config.factorize { MatRef::new(z, x.rows(), config.dim) } else { Ok(x) }
}

/// Zeros the rows that have no code.
fn clear_uncoded(codes: &[u32], cols: usize, rows: &mut [f32]) {
    for (row, _) in codes.iter().enumerate().filter(|(_, code)| **code == NO_CODE) {
        rows[row * cols..(row + 1) * cols].fill(0.0);
    }
}

fn normalize_all(cpu: &Cpu, raw: &[f32], dim: usize, unit: &mut [f32]) -> Result<()> {
    let rows = raw.len() / dim.max(1);
    ops::normalize(cpu, MatRef::new(raw, rows, dim)?, MatMut::new(unit, rows, dim)?, None)
}
