//! A training step, whole and in its parts.

use super::DeviceQuantizer;
use crate::cuda::memory::{DeviceMatMut, DeviceMatRef, DeviceRef};
use crate::cuda::ops;
use crate::cuda::queue::Queue;
use crate::error::{Error, Result, same};
use crate::quantizer::Loss;

impl DeviceQuantizer<'_> {
    /// One step, as [`train_step`](crate::quantizer::Quantizer::train_step) takes it: `head` is the rest of the model,
    /// which sees the output `[rows, inputs]` and must write all of the loss's gradient there. Gradients of the projections are then in
    /// [`gradients`](Self::gradients). No rows: nothing is learned, and report and gradients are zeros. The report's mean
    /// length is the only number that is not the CPU's to the bit.
    ///
    /// # Errors
    /// [`Error::Shape`] where the extents differ, [`Error::TooLarge`] for more rows than the memory is for; what `head`
    /// returns. Noted in the status: weights outside `0..=1`, and more than 2²² rows of one code, whose other rows are
    /// then counted (the CPU refuses the step).
    pub fn train_step<Q: Queue>(
        &mut self,
        queue: &Q,
        x: &DeviceMatRef,
        weights: Option<&DeviceRef<f32>>,
        head: impl FnOnce(&Q, &DeviceMatRef, &mut DeviceMatMut) -> Result<()>,
    ) -> Result<()> {
        if !self.pass(queue, x, weights)? {
            return self.nothing(queue);
        }
        let output = self.arena.mat(self.output(), x.rows(), x.cols())?.shared();
        let mut doutput = self.arena.mat(self.places.doutput, x.rows(), x.cols())?;
        head(queue, &output, &mut doutput)?;
        self.losses(queue, x, weights)?;
        self.go_back(queue, x, weights)?;
        self.go_on(queue, x, weights)
    }

    /// The first half of a step, for frameworks that ask for the gradient later: rows `x` `[rows, inputs]` to
    /// [codes](Self::last_codes), [output](Self::last_output) and loss terms. (The [report](Self::last_report)'s `active` and
    /// `restart` come from [`update`](Self::update).) Gradients are zeros from here on until [`backward`](Self::backward).
    ///
    /// # Errors
    /// [`Error::Shape`] where the extents differ, [`Error::TooLarge`] for more rows than the memory is for. Noted in the
    /// status: weights outside `0..=1`.
    pub fn forward(&mut self, queue: &impl Queue, x: &DeviceMatRef, weights: Option<&DeviceRef<f32>>) -> Result<()> {
        match self.pass(queue, x, weights)? {
            true => {
                self.clear_gradients(queue)?;
                self.losses(queue, x, weights)?;
                self.report(queue, weights, false)?;
            }
            false => self.nothing(queue)?,
        }
        self.passed = Some(weights.is_some());
        Ok(())
    }

    /// The second half: the gradient at `x` ([`last_input_gradient`](Self::last_input_gradient)) and the projections' own,
    /// from the loss's derivatives by each term and by the output, all of which `write` writes `[rows, inputs]`. `x` and
    /// `weights` are what [`forward`](Self::forward) was given.
    ///
    /// # Errors
    /// [`Error::Order`] where no `forward` came before, or with weights where now are none; [`Error::Shape`] where the
    /// extents differ from its, [`Error::Config`] for derivatives by the terms that are not finite; what `write` returns.
    pub fn backward<Q: Queue>(
        &mut self,
        queue: &Q,
        x: &DeviceMatRef,
        weights: Option<&DeviceRef<f32>>,
        terms: Loss,
        write: impl FnOnce(&Q, &mut DeviceMatMut) -> Result<()>,
    ) -> Result<()> {
        self.check_pass("backward", x, weights)?;
        if !(terms.codebook.is_finite() && terms.commitment.is_finite()) {
            return Err(Error::Config { field: "terms", expected: "finite derivatives by the loss terms" });
        }
        if x.rows() > 0 {
            write(queue, &mut self.arena.mat(self.places.doutput, x.rows(), x.cols())?)?;
            self.terms = terms;
            self.go_back(queue, x, weights)?;
        }
        Ok(())
    }

    /// The last part of a step: statistics, averages, restart and the whole report, of what [`forward`](Self::forward) was
    /// given and what [`backward`](Self::backward) left; where none came, the terms weigh as the configuration says. No
    /// rows: nothing is done.
    ///
    /// # Errors
    /// [`Error::Order`] where no `forward` came since the last one, or with weights where now are none; [`Error::Shape`]
    /// where the extents differ from its. Noted in the status: more than 2²² rows of one code.
    pub fn update(&mut self, queue: &impl Queue, x: &DeviceMatRef, weights: Option<&DeviceRef<f32>>) -> Result<()> {
        self.check_pass("update", x, weights)?;
        self.passed = None;
        match x.rows() {
            0 => Ok(()),
            _ => self.go_on(queue, x, weights),
        }
    }

    /// Codes and output of rows, and whether there are any.
    fn pass(&mut self, queue: &impl Queue, x: &DeviceMatRef, weights: Option<&DeviceRef<f32>>) -> Result<bool> {
        const OP: &str = "forward";
        same(OP, "columns of x", self.config.inputs, x.cols())?;
        ops::check_weights(OP, weights, x.rows())?;
        if x.rows() > self.rows {
            return Err(Error::TooLarge { op: OP, arg: "rows", max: self.rows as u64, got: x.rows() as u64 });
        }
        self.forget();
        (self.gradients, self.applied, self.learned) = (false, false, 0);
        self.terms = Loss { codebook: self.config.codebook_weight, commitment: self.config.commitment_weight };
        if x.rows() > 0 {
            self.pass_rows(queue, x, weights)?;
        }
        self.last = x.rows();
        Ok(x.rows() > 0)
    }

    fn go_back(&mut self, queue: &impl Queue, x: &DeviceMatRef, weights: Option<&DeviceRef<f32>>) -> Result<()> {
        self.pass_gradients(queue, x, weights)?;
        (self.gone_back, self.gradients, self.applied) = (x.rows(), true, false);
        Ok(())
    }

    fn go_on(&mut self, queue: &impl Queue, x: &DeviceMatRef, weights: Option<&DeviceRef<f32>>) -> Result<()> {
        (self.learned, self.applied) = (x.rows(), false);
        self.learn(queue, x, weights)?;
        self.report(queue, weights, true)
    }

    fn check_pass(&self, op: &'static str, x: &DeviceMatRef, weights: Option<&DeviceRef<f32>>) -> Result<()> {
        match self.passed {
            None => return Err(Error::Order { op, expected: "forward" }),
            Some(weighed) if weighed != weights.is_some() => {
                return Err(Error::Order { op, expected: "forward with weights exactly where there are weights now" });
            }
            Some(_) => {}
        }
        same(op, "rows of x", self.last, x.rows())?;
        same(op, "columns of x", self.config.inputs, x.cols())?;
        ops::check_weights(op, weights, x.rows())
    }

    /// The last step's rows are about to be overwritten.
    pub(super) fn forget(&mut self) {
        (self.last, self.gone_back, self.passed) = (0, 0, None);
    }

    /// What a step of no rows leaves: nothing of an earlier one may be applied or told again.
    fn nothing(&self, queue: &impl Queue) -> Result<()> {
        ops::zero(queue, &mut self.arena.at(self.places.words))?;
        self.clear_gradients(queue)
    }

    /// No gradients of linear layers.
    pub(super) fn clear_gradients(&self, queue: &impl Queue) -> Result<()> {
        let places = self.places;
        let linear = [places.project_in, places.project_out, places.projector];
        linear.into_iter().filter(|linear| linear.dweight.len > 0).try_for_each(|linear| {
            self.no_gradients(queue, linear)?;
            Ok(())
        })
    }
}
