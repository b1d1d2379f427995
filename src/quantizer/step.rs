//! A training step, in the three parts that workers share it by.

use alloc::vec::Vec;

use super::pass::Pass;
use super::{Learner, Quantizer};
use crate::cpu::Cpu;
use crate::error::{Error, Result, same};
use crate::matrix::{MatMut, MatRef};
use crate::ops;
use crate::ops::ema::{self, Statistics};
use crate::ops::restart::{self, Restarted};

/// How far a step has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Idle,
    Passed,
    Collected,
}

/// The two loss terms of a step, unweighted means over elements; or a total loss's derivatives by them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Loss {
    /// `mean ‖sg(ẑ) − e‖²`: moves codes towards rows.
    pub codebook: f64,
    /// `mean ‖z − sg(e)‖²` on un-normalized rows: moves rows towards codes, and keeps their volume.
    pub commitment: f64,
}

/// What a training step found.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
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

impl Quantizer {
    /// One step: [`forward_backward`](Self::forward_backward),
    /// [`collect_statistics`](Self::collect_statistics), [`update`](Self::update). No rows: nothing is done.
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
        let mut report = self.forward_backward(cpu, x, weights, head)?;
        if x.rows() == 0 {
            self.phase = Phase::Idle;
            return Ok(report);
        }
        report.active = self.collect_statistics(cpu, self.exponent()?)?;
        report.restart = self.update(cpu)?;
        Ok(report)
    }

    /// The worker's part of a step: [`forward`](Self::forward), `head`, [`backward`](Self::backward) with the
    /// configuration's weights. (The report's `active` and `restart` come from the other parts.) Gradients of
    /// the projections are those of this worker's mean loss.
    ///
    /// # Errors
    /// [`Error::Shape`] where the extents differ, [`Error::Value`] for weights outside `0..=1`.
    pub fn forward_backward(
        &mut self,
        cpu: &Cpu,
        x: MatRef,
        weights: Option<&[f32]>,
        head: impl FnOnce(MatRef, &mut [f32]),
    ) -> Result<Report> {
        let report = self.forward(cpu, x, weights)?;
        let mut gradient = core::mem::take(&mut self.pass.doutput);
        gradient.clear();
        gradient.resize(x.rows() * self.config.inputs, 0.0);
        head(MatRef::new(self.pass.output(&self.config), x.rows(), self.config.inputs)?, &mut gradient);
        self.pass.doutput = gradient;
        let terms = Loss { codebook: self.config.codebook_weight, commitment: self.config.commitment_weight };
        self.weigh(terms)?;
        self.pass_gradients(cpu, x, terms.commitment)?;
        Ok(report)
    }

    /// The first half of a step, for frameworks that call for the gradient later: rows `x` `[rows, inputs]`
    /// to codes ([`last_codes`](Self::last_codes)), output ([`last_output`](Self::last_output)) and loss terms.
    /// (The report's `active` and `restart` come from the later parts.)
    ///
    /// # Errors
    /// [`Error::Shape`] where the extents differ, [`Error::Value`] for weights outside `0..=1`.
    pub fn forward(&mut self, cpu: &Cpu, x: MatRef, weights: Option<&[f32]>) -> Result<Report> {
        const OP: &str = "forward";
        same(OP, "columns of x", self.config.inputs, x.cols())?;
        ops::check_weights(OP, weights, x.rows())?;
        ops::check_rows(OP, x.rows())?;
        self.phase = Phase::Idle;
        // What an earlier step left must not be applied again, nor be told again by a step of no rows.
        self.gradients.clear();
        self.pass.restarted.clear();
        self.pass.weights = weights.map(<[f32]>::to_vec);
        self.gradients.codebook_weight = self.config.codebook_weight;
        self.pass_rows(cpu, x, weights)?;
        let report = self.losses(cpu, weights)?;
        self.phase = Phase::Passed;
        Ok(report)
    }

    /// The second half: the gradient at `x` ([`last_input_gradient`](Self::last_input_gradient)) and the
    /// projections' own, from the loss's derivatives by what [`forward`](Self::forward) returned: `output`
    /// `[rows, inputs]`, and by each loss term. `x` is what `forward` was given.
    ///
    /// # Errors
    /// [`Error::Order`] where no `forward` came before, [`Error::Shape`] where the extents differ from its,
    /// [`Error::Config`] for derivatives by the terms that are not finite.
    pub fn backward(&mut self, cpu: &Cpu, x: MatRef, output: &[f32], terms: Loss) -> Result<()> {
        const OP: &str = "backward";
        if self.phase != Phase::Passed {
            return Err(Error::Order { op: OP, expected: "forward" });
        }
        same(OP, "rows of x", self.pass.codes.len(), x.rows())?;
        same(OP, "columns of x", self.config.inputs, x.cols())?;
        same(OP, "length of output's gradient", x.data().len(), output.len())?;
        self.weigh(terms)?;
        self.pass.doutput.clear();
        self.pass.doutput.extend_from_slice(output);
        self.pass_gradients(cpu, x, terms.commitment)
    }

    fn weigh(&mut self, terms: Loss) -> Result<()> {
        if !(terms.codebook.is_finite() && terms.commitment.is_finite()) {
            return Err(Error::Config { field: "terms", expected: "finite derivatives by the loss terms" });
        }
        self.gradients.codebook_weight = terms.codebook;
        Ok(())
    }

    /// The exponent that this worker's rows ask for; workers
    /// [`collect_statistics`](Self::collect_statistics) with the largest of theirs.
    ///
    /// # Errors
    /// [`Error::Order`] where no [`forward`](Self::forward) came before.
    pub fn exponent(&self) -> Result<i32> {
        if self.phase == Phase::Idle {
            return Err(Error::Order { op: "exponent", expected: "forward" });
        }
        match self.config.normalize {
            true => Ok(0),
            false => {
                let (pass, dim) = (&self.pass, self.config.dim);
                let rows = MatRef::new(pass.searched(&self.config), pass.codes.len(), dim)?;
                ema::exponent(rows, &pass.codes, pass.weights.as_deref())
            }
        }
    }

    /// Sums the rows of the last [`forward`](Self::forward) by code, exactly, in units that
    /// `exponent` sets. Returns how many distinct codes were hit. Workers then merge their
    /// [`statistics_mut`](Self::statistics_mut).
    ///
    /// # Errors
    /// [`Error::Order`] where no `forward` came before; [`Error::Value`] for an exponent below
    /// [`exponent`](Self::exponent); [`Error::Overflow`] where one code takes more than 2²² rows.
    pub fn collect_statistics(&mut self, cpu: &Cpu, exponent: i32) -> Result<usize> {
        if self.phase == Phase::Idle {
            return Err(Error::Order { op: "collect_statistics", expected: "forward" });
        }
        self.phase = Phase::Passed;
        self.statistics.clear(exponent);
        let rows = MatRef::new(self.pass.searched(&self.config), self.pass.codes.len(), self.config.dim)?;
        self.statistics.accumulate(cpu, rows, &self.pass.codes, self.pass.weights.as_deref())?;
        self.phase = Phase::Collected;
        Ok(self.statistics.hits().count())
    }

    /// This worker's statistics, to be merged with those of others between
    /// [`collect_statistics`](Self::collect_statistics) and [`update`](Self::update).
    pub fn statistics_mut(&mut self) -> &mut Statistics<Vec<i64>> {
        &mut self.statistics
    }

    /// The common part of a step: codes from the (merged) statistics, activity, restart with donors from
    /// this worker's own rows.
    ///
    /// # Errors
    /// [`Error::Order`] where no [`collect_statistics`](Self::collect_statistics) came before.
    pub fn update(&mut self, cpu: &Cpu) -> Result<restart::Summary> {
        // The pass is lent to `update_with` as donors, and put back.
        let pass = core::mem::take(&mut self.pass);
        let donors = MatRef::new(pass.searched(&self.config), pass.codes.len(), self.config.dim);
        let summary = donors.and_then(|donors| self.update_with(cpu, donors, &pass.codes, pass.weights.as_deref()));
        let (scratch, restarted) = (core::mem::take(&mut self.pass.scratch), core::mem::take(&mut self.pass.restarted));
        self.pass = Pass { scratch, restarted, ..pass };
        summary
    }

    /// [`update`](Self::update) with donors for restart that all workers share: rows `[rows, dim]` as
    /// search sees them ([`last_searched`](Self::last_searched)), their codes and weights. Workers that
    /// hold the same statistics and the same donors stay equal bit for bit.
    ///
    /// # Errors
    /// [`Error::Order`] where no [`collect_statistics`](Self::collect_statistics) came before; as
    /// [`restart`](ops::restart()) for the donors.
    pub fn update_with(
        &mut self,
        cpu: &Cpu,
        donors: MatRef,
        codes: &[u32],
        weights: Option<&[f32]>,
    ) -> Result<restart::Summary> {
        if self.phase != Phase::Collected {
            return Err(Error::Order { op: "update", expected: "collect_statistics" });
        }
        // Refused donors must leave the quantizer as it was.
        same("update", "columns of donors", self.config.dim, donors.cols())?;
        ops::check_codes("update", donors.rows(), codes, self.config.codes)?;
        ops::check_weights("update", weights, donors.rows())?;
        self.phase = Phase::Idle;
        self.pass.restarted.clear();
        let mut changed = Vec::new();
        match self.config.learner {
            Learner::Ema => {
                changed.extend(self.statistics.hits());
                self.update_means(cpu)?;
            }
            Learner::Gradient | Learner::Projector { .. } => self.code_gradients(cpu)?,
            Learner::Frozen => {}
        }
        self.activity.observe(self.config.decay, &self.statistics)?;
        let summary = match self.config.restart {
            Some(rule) => self.restart_stale(&rule, donors, codes, weights)?,
            None => restart::Summary::default(),
        };
        changed.extend(self.pass.restarted.iter().map(|restarted| restarted.code));
        let codebook = MatRef::new(&self.codebook, self.config.codes, self.config.dim)?;
        self.packed.repack_codes(codebook, &changed)?;
        self.step = self.step.wrapping_add(1);
        Ok(summary)
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

    fn restart_stale(
        &mut self,
        rule: &restart::Rule,
        donors: MatRef,
        codes: &[u32],
        weights: Option<&[f32]>,
    ) -> Result<restart::Summary> {
        let (k, dim, pass) = (self.config.codes, self.config.dim, &mut self.pass);
        pass.scratch.resize(restart::scratch_len(donors.rows()), 0);
        pass.restarted.resize(donors.rows().min(k), Restarted::default());
        let codebook = MatMut::new(&mut self.codebook, k, dim)?;
        let latent = match self.latent.is_empty() {
            true => None,
            false => Some(MatMut::new(&mut self.latent, k, dim)?),
        };
        let (activity, scratch, log) = (&mut self.activity, &mut pass.scratch, &mut pass.restarted);
        let summary =
            restart::restart(donors, codes, weights, rule, self.step, activity, codebook, latent, scratch, log)?;
        log.truncate(summary.restarted);
        Ok(summary)
    }
}
