//! Codes that are learned by gradient: themselves, or the projector that they are seen through.

use super::DeviceQuantizer;
use super::places::SOURCES;
use crate::cuda::arena::Place;
use crate::cuda::images::QUANTIZER;
use crate::cuda::memory::{DeviceMatRef, DeviceRef};
use crate::cuda::ops;
use crate::cuda::queue::{Arg, Grid, Kernel, Queue};
use crate::error::Result;
use crate::quantizer::Learner;

impl<'a> DeviceQuantizer<'a> {
    /// Codes that were hit in the last step, ascending, each with its gradient `[.., dim]` at what is learned (`latent`
    /// where the quantizer normalizes, else `codebook`); then [`NO_CODE`](crate::NO_CODE) and zeros. Empty unless codes are learned by
    /// [`Learner::Gradient`].
    ///
    /// # Errors
    /// None that a caller can cause.
    pub fn last_code_gradients(&self) -> Result<(DeviceRef<'_, u32>, DeviceMatRef<'_>)> {
        let hits = if self.config.learner == Learner::Gradient { self.most_hits() } else { 0 };
        let rows = self.arena.mat(self.code_gradients_place(), hits, self.config.dim)?.shared();
        Ok((self.arena.first(self.places.hits, hits).shared(), rows))
    }

    /// Where gradients are at what is learned: behind the norm, where there is one.
    pub(super) fn code_gradients_place(&self) -> Place<f32> {
        if self.config.normalize { self.places.code_rows } else { self.places.code_gradients }
    }

    /// Brings the codebook up to date, after an optimizer has changed what it is made of: `latent` or `codebook` at the
    /// [hit codes](Self::last_code_gradients), or the projector.
    ///
    /// # Errors
    /// What the queue refuses.
    pub fn refresh_codes(&mut self, queue: &impl Queue) -> Result<()> {
        let (k, dim, places) = (self.config.codes, self.config.dim, self.places);
        match self.config.learner {
            Learner::Projector { .. } => {
                let source = self.arena.mat(places.source, k, places.projector.inputs)?.shared();
                let mut codebook = self.arena.mat(places.codebook, k, dim)?;
                for first in (0..k).step_by(SOURCES) {
                    let source = source.rows_from(first, SOURCES);
                    let mut codes = codebook.rows_from(first, SOURCES);
                    if self.config.normalize {
                        let mut raw = self.arena.mat(places.code_units, source.rows(), dim)?;
                        self.project(queue, places.projector, &source, &mut raw)?;
                        ops::normalize(queue, &raw.as_ref(), &mut codes, None)?;
                    } else {
                        self.project(queue, places.projector, &source, &mut codes)?;
                    }
                }
            }
            Learner::Gradient if self.config.normalize => {
                let hits = self.arena.first(places.hits, self.most_hits()).shared();
                let latent = self.arena.mat(places.latent, k, dim)?.shared();
                let mut raw = self.arena.mat(places.code_rows, hits.len(), dim)?;
                let mut unit = self.arena.mat(places.code_units, hits.len(), dim)?;
                ops::gather(queue, &hits, &latent, &mut raw)?;
                ops::normalize(queue, &raw.as_ref(), &mut unit, None)?;
                self.scatter(queue, &hits, &unit.as_ref(), places.codebook)?;
            }
            Learner::Gradient | Learner::Ema | Learner::Frozen => {}
        }
        self.refresh(queue)
    }

    /// The codebook term's gradient, from the exact sums: at code k of weight n and sum S it is
    /// `2 γ (n e − S) / (Σw · dim)`; through the norm to what is learned, and to the projector.
    pub(super) fn code_gradients(&self, queue: &impl Queue) -> Result<()> {
        let (k, dim, places) = (self.config.codes, self.config.dim, self.places);
        let hits = self.arena.first(places.hits, self.most_hits());
        // -- which codes
        let mut numbers = self.arena.at(places.numbers);
        ops::usage::prune(queue, &self.hit_counts(), 1, &mut numbers, &mut self.arena.at(places.active))?;
        let len = Arg::from(hits.len());
        self.over(queue, "clear_list", hits.len(), &[len, Arg::from(&hits)])?;
        self.over(queue, "list_hits", k, &[Arg::from(&numbers), k.into(), len, Arg::from(&hits)])?;
        // -- at the codes
        let (weights, sums) = self.statistics.as_parts();
        let [exponent, exponent_there] = self.statistics.exponent_args();
        let mut gradients = self.arena.mat(places.code_gradients, hits.len(), dim)?;
        let args = [
            weights.into(),
            sums.into(),
            exponent,
            exponent_there,
            Arg::from(&hits),
            len,
            dim.into(),
            Arg::from(&self.arena.at(places.codebook)),
            Arg::from(&self.arena.at(places.observed)),
            self.terms.codebook.into(),
            (&mut gradients).into(),
        ];
        self.over(queue, "code_gradients", hits.len() * dim, &args)?;
        // -- through the norm and the projector, in blocks: a copy of each hit code's source is needed only for a moment
        let projects = places.projector.weight.len > 0;
        let (mut dw, mut db) = self.no_gradients(queue, places.projector)?;
        let through_norm = if self.config.normalize { hits.len() } else { 0 };
        let mut rows = self.arena.mat(places.code_rows, through_norm, dim)?;
        let hits = hits.as_ref();
        for first in (0..hits.len()).step_by(SOURCES) {
            let hits = hits.range(first, SOURCES);
            let mut sources =
                self.arena.mat(places.sources, if projects { hits.len() } else { 0 }, places.projector.inputs)?;
            if projects {
                let source = self.arena.mat(places.source, k, places.projector.inputs)?.shared();
                ops::gather(queue, &hits, &source, &mut sources)?;
            }
            if self.config.normalize {
                let mut raw = rows.rows_from(first, hits.len());
                match projects {
                    true => self.project(queue, places.projector, &sources.as_ref(), &mut raw)?,
                    false => {
                        let latent = self.arena.mat(places.latent, k, dim)?.shared();
                        ops::gather(queue, &hits, &latent, &mut raw)?;
                    }
                }
                let mut unit = self.arena.mat(places.code_units, hits.len(), dim)?;
                let mut norms = self.arena.first(places.code_norms, hits.len());
                ops::normalize(queue, &raw.as_ref(), &mut unit, Some(&mut norms))?;
                // The raw rows have served; their room takes what comes through the norm.
                ops::normalize_backward(
                    queue,
                    &unit.as_ref(),
                    &norms.as_ref(),
                    &gradients.as_ref().rows_from(first, SOURCES),
                    &mut raw,
                )?;
            }
            if projects {
                let mut floats = self.arena.at(places.floats);
                let at_rows = if self.config.normalize { &mut rows } else { &mut gradients };
                let (dy, sources) = (at_rows.rows_from(first, SOURCES), sources.as_ref());
                let dy = dy.as_ref();
                ops::project_backward_weight(queue, &dy, &sources, &mut dw, Some(&mut db), &mut floats)?;
            }
        }
        Ok(())
    }

    /// Rows `from` `[hits, dim]` to the codes `hits` at `to`.
    pub(super) fn scatter(
        &self,
        queue: &impl Queue,
        hits: &DeviceRef<u32>,
        from: &DeviceMatRef,
        to: Place<f32>,
    ) -> Result<()> {
        let (dim, to) = (self.config.dim, Arg::from(&self.arena.at(to)));
        let args = [hits.into(), hits.len().into(), dim.into(), from.into(), to];
        self.over(queue, "scatter_rows", hits.len() * dim, &args)
    }

    /// The most codes that the last step can have hit, whatever was encoded since.
    fn most_hits(&self) -> usize {
        self.learned.min(self.places.hits.len)
    }

    /// How often each code was hit: weights of codes are at least 0, and so the same as u64.
    pub(super) fn hit_counts(&self) -> DeviceRef<'_, u64> {
        let weights = self.arena.at(self.places.code_weights);
        // SAFETY: all of the view, as u64; nothing writes it meanwhile.
        unsafe { weights.place::<u64>(0, self.config.codes) }.shared()
    }

    /// Launches a kernel with a thread for each item.
    fn over(&self, queue: &impl Queue, name: &'static str, items: usize, args: &[Arg]) -> Result<()> {
        if items == 0 {
            return Ok(());
        }
        // SAFETY: the callers' arguments are the kernel's parameters, over places of as many items.
        unsafe { queue.launch(Kernel::new(&QUANTIZER, name), Grid::over(items, 256, 256), args) }
    }
}
