//! A training step, in the three parts that workers share it by.

use alloc::vec::Vec;

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

impl Quantizer {
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
}
