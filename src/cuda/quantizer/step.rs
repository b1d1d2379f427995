//! The parts of a training step, in the order in which they are launched.

use super::places::LinearPlaces;
use super::{DeviceQuantizer, lanes};
use crate::cuda::images::QUANTIZER;
use crate::cuda::memory::{DeviceMatMut, DeviceMatRef, DeviceMut, DeviceRef};
use crate::cuda::ops::loss::{Scale, squared_error_backward_by};
use crate::cuda::ops::project::project_backward_weight_of;
use crate::cuda::ops::restart::Step;
use crate::cuda::ops::{self, row_width};
use crate::cuda::queue::{Arg, Grid, Kernel, Queue};
use crate::error::Result;
use crate::ops::ROW_BLOCK;
use crate::quantizer::{Estimator, Learner};

impl<'a> DeviceQuantizer<'a> {
    /// Searched rows, codes, quantized rows and output.
    pub(super) fn pass_rows(
        &mut self,
        queue: &impl Queue,
        x: &DeviceMatRef,
        weights: Option<&DeviceRef<f32>>,
    ) -> Result<()> {
        let (rows, dim, places) = (x.rows(), self.config.dim, self.places);
        let mut norms = self.arena.first(places.norms, rows);
        self.embed(queue, x, Some(&mut norms))?;
        if !self.config.normalize {
            // Only the report wants the lengths: the unit rows are not used.
            ops::normalize(queue, &self.z(x)?, &mut self.arena.mat(places.unit, rows, dim)?, Some(&mut norms))?;
        }
        let seen = self.seen(x)?;
        let mut codes = self.arena.first(places.codes, rows);
        self.search(queue, &seen, weights, &mut codes)?;
        // An infinity may win a code, but has no gradient: rows that are not finite are not trained on. Where x is not,
        // nor are its projection and its unit row.
        let args = [Arg::from(&seen), rows.into(), dim.into(), row_width(dim).into(), Arg::from(&codes)];
        // SAFETY: the kernel's parameters, over places of the step's rows.
        unsafe { queue.launch(Kernel::new(&QUANTIZER, "mask_rows"), lanes(rows, dim), &args)? };
        let mut quantized = self.arena.mat(places.quantized, rows, dim)?;
        ops::gather(queue, &codes.as_ref(), &self.codebook()?, &mut quantized)?;
        match self.config.factorize {
            true => {
                let mut output = self.arena.mat(places.output, rows, self.config.inputs)?;
                self.project(queue, places.project_out, &quantized.as_ref(), &mut output)
            }
            false => Ok(()),
        }
    }

    /// Rows before normalization.
    fn z<'v>(&self, x: &'v DeviceMatRef) -> Result<DeviceMatRef<'v>>
    where
        'a: 'v,
    {
        match self.config.factorize {
            true => Ok(self.arena.mat(self.places.z, x.rows(), self.config.dim)?.shared()),
            false => Ok(x.rows_from(0, x.rows())),
        }
    }

    /// The two terms' sums and weights, codebook's first.
    pub(super) fn losses(&self, queue: &impl Queue, x: &DeviceMatRef, weights: Option<&DeviceRef<f32>>) -> Result<()> {
        let (rows, dim, places) = (x.rows(), self.config.dim, self.places);
        let (seen, z) = (self.seen(x)?, self.z(x)?);
        let quantized = self.arena.mat(places.quantized, rows, dim)?.shared();
        let (codes, mut floats) = (self.arena.first(places.codes, rows).shared(), self.arena.at(places.floats));
        let (mut codebook, mut commitment) =
            (self.arena.at(places.codebook_total), self.arena.at(places.commitment_total));
        ops::zero(queue, &mut codebook)?;
        ops::zero(queue, &mut commitment)?;
        ops::loss::squared_error(queue, &seen, &quantized, &codes, weights, &mut codebook, &mut floats)?;
        ops::loss::squared_error(queue, &z, &quantized, &codes, weights, &mut commitment, &mut floats)
    }

    fn clear(&self, queue: &impl Queue, rows: usize, cols: usize, wild: bool, values: &DeviceMatMut) -> Result<()> {
        let codes = self.arena.first(self.places.codes, rows);
        let args = [
            Arg::from(&codes),
            rows.into(),
            cols.into(),
            row_width(cols).into(),
            u32::from(wild).into(),
            Arg::from(&values.as_ref()),
        ];
        // SAFETY: the kernel's parameters, over places of the step's rows.
        unsafe { queue.launch(Kernel::new(&QUANTIZER, "clear_rows"), lanes(rows, cols), &args) }
    }

    /// From the gradient at the output to that at `x`, and the projections' own.
    pub(super) fn pass_gradients(
        &self,
        queue: &impl Queue,
        x: &DeviceMatRef,
        weights: Option<&DeviceRef<f32>>,
    ) -> Result<()> {
        let (rows, dim, inputs, places) = (x.rows(), self.config.dim, self.config.inputs, self.places);
        let codes = self.arena.first(places.codes, rows).shared();
        let seen = self.seen(x)?;
        let quantized = self.arena.mat(places.quantized, rows, dim)?.shared();
        // -- back to the quantized rows
        let doutput = self.arena.mat(places.doutput, rows, inputs)?;
        let dquantized = match self.config.factorize {
            true => {
                self.clear(queue, rows, inputs, false, &doutput)?;
                let doutput = doutput.as_ref();
                self.weight_gradients(queue, places.project_out, &doutput, &quantized, None)?;
                let mut dquantized = self.arena.mat(places.dquantized, rows, dim)?;
                let weight = self.arena.mat(places.project_out.weight, inputs, dim)?.shared();
                ops::project_backward_input(queue, &doutput, &weight, &mut dquantized)?;
                dquantized
            }
            false => doutput,
        };
        // -- the estimator, to the rows that were searched, in a room that is free: the gradient at the quantized rows is in
        // the output's where nothing was projected
        let (first, second) = match (self.config.factorize, self.config.normalize) {
            (true, _) => (places.dz, places.dquantized),
            (false, true) => (places.dquantized, places.dz),
            (false, false) => (places.dz, places.dz),
        };
        let mut dseen = self.arena.mat(first, rows, dim)?;
        match self.config.estimator {
            Estimator::StraightThrough => {
                ops::loss::straight_through_backward(queue, &codes, &dquantized.as_ref(), &mut dseen)?;
            }
            Estimator::Rotation => {
                ops::loss::rotation_backward(queue, &seen, &quantized, &codes, &dquantized.as_ref(), &mut dseen)?;
            }
        }
        // -- the norm's true gradient, to z
        let mut dz = match self.config.normalize {
            true => {
                let mut dz = self.arena.mat(second, rows, dim)?;
                let norms = self.arena.first(places.norms, rows).shared();
                ops::normalize_backward(queue, &seen, &norms, &dseen.as_ref(), &mut dz)?;
                dz
            }
            false => dseen,
        };
        // A row of tiny length has a gradient beyond f32: it would make NaN of the weights' (∞ · 0).
        self.clear(queue, rows, dim, true, &dz)?;
        // -- commitment, on un-normalized rows
        let scale = self.arena.at(places.scale);
        let commitment = Arg::from(&self.arena.at(places.commitment_total));
        let args = [commitment, self.terms.commitment.into(), dim.into(), Arg::from(&scale)];
        let one = Grid { blocks: [1, 1, 1], threads: 32 };
        // SAFETY: the kernel's parameters.
        unsafe { queue.launch(Kernel::new(&QUANTIZER, "commitment_scale"), one, &args)? };
        let (z, scale) = (self.z(x)?, scale.as_ref());
        squared_error_backward_by(queue, &z, &quantized, &codes, weights, Scale::There(&scale), &mut dz)?;
        // -- to x
        if self.config.factorize {
            let dz = dz.as_ref();
            self.weight_gradients(queue, places.project_in, &dz, x, Some(&codes))?;
            let weight = self.arena.mat(places.project_in.weight, dim, inputs)?.shared();
            let mut dx = self.arena.mat(places.dx, rows, inputs)?;
            ops::project_backward_input(queue, &dz, &weight, &mut dx)?;
        }
        Ok(())
    }

    /// Room for the gradients at a layer's weight and bias, zeroed.
    pub(super) fn no_gradients(
        &self,
        queue: &impl Queue,
        linear: LinearPlaces,
    ) -> Result<(DeviceMatMut<'a, f64>, DeviceMut<'a, f64>)> {
        let (mut dw, mut db) = (self.arena.at(linear.dweight), self.arena.at(linear.dbias));
        ops::zero(queue, &mut dw)?;
        ops::zero(queue, &mut db)?;
        Ok((DeviceMatMut::new(dw, linear.outputs, linear.inputs)?, db))
    }

    fn weight_gradients(
        &self,
        queue: &impl Queue,
        linear: LinearPlaces,
        dy: &DeviceMatRef,
        x: &DeviceMatRef,
        codes: Option<&DeviceRef<u32>>,
    ) -> Result<()> {
        let (mut dw, mut db) = self.no_gradients(queue, linear)?;
        let mut floats = self.arena.at(self.places.floats);
        project_backward_weight_of(queue, dy, x, codes, &mut dw, Some(&mut db), &mut floats)
    }

    /// Statistics, means, activity, restart, and the packed codebook.
    pub(super) fn learn(
        &mut self,
        queue: &impl Queue,
        x: &DeviceMatRef,
        weights: Option<&DeviceRef<f32>>,
    ) -> Result<()> {
        let (rows, k, dim, places) = (self.last, self.config.codes, self.config.dim, self.places);
        let seen = self.seen(x)?;
        let codes = self.arena.first(places.codes, rows).shared();
        match self.config.normalize {
            true => self.statistics.clear(queue, 0)?,
            false => {
                let mut exponent = self.arena.at(places.exponent);
                ops::ema::exponent(queue, &seen, &codes, weights, &mut exponent)?;
                self.statistics.clear_for(queue, &exponent.as_ref())?;
            }
        }
        self.statistics.accumulate(queue, &seen, &codes, weights, None)?;
        let mut codebook = self.arena.mat(places.codebook, k, dim)?;
        let mut latent = (places.latent.len > 0).then(|| self.arena.mat(places.latent, k, dim)).transpose()?;
        if self.config.learner == Learner::Ema {
            let (decay, sizes) = (self.config.decay, self.arena.at(places.cluster_size).shared());
            let statistics = &self.statistics;
            match &mut latent {
                Some(mean) => ops::ema::update_means(queue, decay, statistics, &sizes, mean, Some(&mut codebook))?,
                None => ops::ema::update_means(queue, decay, statistics, &sizes, &mut codebook, None)?,
            }
        }
        self.activity.observe(queue, self.config.decay, &self.statistics, &mut self.arena.at(places.observed))?;
        match self.config.learner {
            // After `observe`, which has left the rows' whole weight in its scratch. Listing the hit codes counts them.
            Learner::Gradient | Learner::Projector { .. } => self.code_gradients(queue)?,
            Learner::Ema | Learner::Frozen => {
                ops::usage::active(queue, &self.hit_counts(), &mut self.arena.at(places.active))?;
            }
        }
        if let Some(rule) = self.config.restart {
            let mut log = self.arena.first(places.restarted, rows.min(k));
            let step = self.arena.at(places.step).shared();
            ops::restart(
                queue,
                &seen,
                &codes,
                weights,
                &rule,
                Step::There(&step),
                &mut self.activity,
                &mut codebook,
                latent.as_mut(),
                &mut self.arena.at(places.restart),
                &mut log,
                &mut self.arena.at(places.summary),
            )?;
        }
        // Averages and restarts have written codes.
        if self.config.learner == Learner::Ema || self.config.restart.is_some() {
            self.packed.repack(queue, self.codebook()?)
        } else {
            Ok(())
        }
    }

    /// The report, and that the step is taken; of a pass that is not, what its update will find is 0.
    pub(super) fn report(&self, queue: &impl Queue, weights: Option<&DeviceRef<f32>>, taken: bool) -> Result<()> {
        let (rows, places) = (self.last, self.places);
        let codes = self.arena.first(places.codes, rows);
        let norms = self.arena.first(places.norms, rows);
        let parts = self.arena.at(places.parts);
        let codebook = Arg::from(&self.arena.at(places.codebook_total));
        let commitment = Arg::from(&self.arena.at(places.commitment_total));
        let blocks = rows.div_ceil(ROW_BLOCK);
        let of_rows = [Arg::from(&codes), weights.into(), Arg::from(&norms), rows.into(), Arg::from(&parts)];
        let restarts = taken && self.config.restart.is_some();
        let summary = if restarts { Arg::from(&self.arena.at(places.summary)) } else { Arg::NONE };
        let active = if taken { Arg::from(&self.arena.at(places.active)) } else { Arg::NONE };
        let step = if taken { Arg::from(&self.step()) } else { Arg::NONE };
        let words = Arg::from(&self.arena.at(places.words));
        let of_all = [Arg::from(&parts), blocks.into(), codebook, commitment, active, summary, words, step];
        let one = Grid { blocks: [1, 1, 1], threads: 32 };
        // SAFETY: the kernels' parameters, over places of the step's rows.
        unsafe {
            queue.launch(Kernel::new(&QUANTIZER, "report_parts"), Grid::over(rows, ROW_BLOCK, 256), &of_rows)?;
            queue.launch(Kernel::new(&QUANTIZER, "report_words"), one, &of_all)
        }
    }
}
