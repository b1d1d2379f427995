//! The whole layer on a device: [`Quantizer`](crate::quantizer::Quantizer)'s `encode`, `decode` and training step, with the same bits.
//!
//! Codes are learned by moving averages or not at all ([`Learner::Ema`], [`Learner::Frozen`]), normalized, with restart,
//! with or without factorization, by either estimator. A step launches kernels and returns: nothing waits, and nothing is
//! allocated, as all state lies in one piece of the caller's memory. (In a captured graph, each replay restarts by the same
//! step's permutation.)

mod arena;
mod report;
mod state;

pub use report::{REPORT_WORDS, decode as decode_report};
pub use state::DeviceState;

use self::arena::{Arena, Layout, Place};
use super::codebook::PackedDeviceCodebook;
use super::images::QUANTIZER;
use super::memory::{DeviceMatMut, DeviceMatRef, DeviceMut, DeviceRef};
use super::ops::ema::{DeviceActivity, DeviceStatistics, observe_scratch_len};
use super::ops::loss::{Scale, squared_error_backward_by, squared_error_workspace_len};
use super::ops::project::project_backward_weight_of;
use super::ops::restart::{DeviceRestarted, restart_scratch_len};
use super::ops::{self, row_width};
use super::queue::{Arg, Grid, Kernel, Queue};
use crate::codebook::Metric;
use crate::element::Element;
use crate::error::{Error, Result, same};
use crate::ops::ROW_BLOCK;
use crate::ops::search::Search;
use crate::quantizer::{Config, Estimator, Learner};

/// A vector quantizer whose state is on a device.
pub struct DeviceQuantizer<'a> {
    config: Config,
    arena: Arena<'a>,
    places: Places,
    packed: PackedDeviceCodebook<'a>,
    statistics: DeviceStatistics<'a>,
    activity: DeviceActivity<'a>,
    /// The most rows of a step.
    rows: usize,
    /// Rows of the last step.
    last: usize,
    step: u64,
}

/// Weight, bias and their gradients of a projection.
#[derive(Clone, Copy)]
struct LinearPlaces {
    weight: Place<f32>,
    bias: Place<f32>,
    dweight: Place<f64>,
    dbias: Place<f64>,
    outputs: usize,
    inputs: usize,
}

/// Where everything lies. What is not needed by the configuration has no elements.
#[derive(Clone, Copy)]
struct Places {
    // -- state
    codebook: Place<f32>,
    mean: Place<f32>,
    project_in: LinearPlaces,
    project_out: LinearPlaces,
    cluster_size: Place<f32>,
    exposure: Place<f32>,
    last_seen: Place<f64>,
    rows_seen: Place<f64>,
    // -- of a step
    packed: Place<u32>,
    code_weights: Place<i64>,
    code_sums: Place<i64>,
    z: Place<f32>,
    unit: Place<f32>,
    norms: Place<f32>,
    codes: Place<u32>,
    quantized: Place<f32>,
    output: Place<f32>,
    doutput: Place<f32>,
    dquantized: Place<f32>,
    dz: Place<f32>,
    dx: Place<f32>,
    codebook_total: Place<f64>,
    commitment_total: Place<f64>,
    scale: Place<f32>,
    active: Place<u32>,
    restarted: Place<DeviceRestarted>,
    summary: Place<u32>,
    parts: Place<u64>,
    words: Place<u64>,
    search: Place<u8>,
    // -- scratch of one op at a time
    floats: Place<f32>,
    observed: Place<u64>,
    restart: Place<u32>,
}

impl Places {
    fn of(queue: &impl Queue, config: &Config, rows: usize) -> Result<(Self, usize)> {
        let (k, dim, inputs) = (config.codes, config.dim, config.inputs);
        let each = |cols: usize| rows.saturating_mul(cols);
        let ema = config.learner == Learner::Ema;
        let projected = |n: usize| if config.factorize { n } else { 0 };
        let mut layout = Layout::default();
        let codes = k * dim;
        let mut linear = |outputs: usize, inputs: usize| LinearPlaces {
            weight: layout.place(projected(outputs * inputs)),
            bias: layout.place(projected(outputs)),
            dweight: layout.place(projected(outputs * inputs)),
            dbias: layout.place(projected(outputs)),
            outputs,
            inputs,
        };
        let (project_in, project_out) = (linear(dim, inputs), linear(inputs, dim));
        let gradient_room = ops::project_backward_weight_workspace_len(rows, inputs, dim)
            .max(ops::project_backward_weight_workspace_len(rows, dim, inputs));
        let restarts = config.restart.is_some();
        let places = Self {
            project_in,
            project_out,
            codebook: layout.place(codes),
            mean: layout.place(if ema { codes } else { 0 }),
            cluster_size: layout.place(k),
            exposure: layout.place(k),
            last_seen: layout.place(k),
            rows_seen: layout.place(1),
            packed: layout.place(PackedDeviceCodebook::storage_len(k, dim, Metric::Cosine)?),
            code_weights: layout.place(k),
            code_sums: layout.place(codes),
            z: layout.place(projected(each(dim))),
            unit: layout.place(each(dim)),
            norms: layout.place(rows),
            codes: layout.place(rows),
            quantized: layout.place(each(dim)),
            output: layout.place(projected(each(inputs))),
            doutput: layout.place(each(inputs)),
            dquantized: layout.place(each(dim)),
            dz: layout.place(each(dim)),
            dx: layout.place(projected(each(inputs))),
            codebook_total: layout.place(2),
            commitment_total: layout.place(2),
            scale: layout.place(1),
            active: layout.place(1),
            restarted: layout.place(if restarts { rows.min(k) } else { 0 }),
            summary: layout.place(2),
            parts: layout.place(2 * rows.div_ceil(ROW_BLOCK).max(1)),
            words: layout.place(REPORT_WORDS),
            search: layout.place(ops::search_room(queue, rows, dim)),
            floats: layout.place(projected(gradient_room).max(squared_error_workspace_len(rows))),
            observed: layout.place(observe_scratch_len()),
            restart: layout.place(if restarts { restart_scratch_len(rows, k) } else { 0 }),
        };
        Ok((places, layout.end))
    }
}

impl<'a> DeviceQuantizer<'a> {
    /// Bytes of memory for steps of up to `rows` rows.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn memory_len(queue: &impl Queue, config: &Config, rows: usize) -> Result<usize> {
        Self::check(config, rows)?;
        let (_, len) = Places::of(queue, config, rows)?;
        // A saturated length is one that no device has.
        match len >= isize::MAX as usize {
            true => Err(Error::TooLarge { op: "quantizer", arg: "rows", max: u64::from(u32::MAX), got: rows as u64 }),
            false => Ok(len),
        }
    }

    fn check(config: &Config, rows: usize) -> Result<()> {
        config.check()?;
        crate::ops::search::check_codebook("quantizer", config.codes, config.dim)?;
        if rows == 0 {
            return Err(Error::Empty { op: "quantizer", arg: "rows" });
        }
        ops::check_extent("quantizer", "rows", rows)?;
        match (config.learner, config.normalize) {
            (Learner::Ema | Learner::Frozen, true) => Ok(()),
            _ => Err(Error::Config {
                field: "learner, normalize",
                expected: "Ema or Frozen, normalized: what the device's training step knows",
            }),
        }
    }

    /// A quantizer in `memory`, of [`memory_len`](Self::memory_len) bytes. Its weights and codes are written by
    /// [`upload`](Self::upload), or through [`state_mut`](Self::state_mut) followed by
    /// [`refresh`](Self::refresh); its averages start at zero.
    ///
    /// # Errors
    /// [`Error::Config`] for settings that contradict each other or that the device does not know,
    /// [`Error::Empty`] and [`Error::TooLarge`] for shapes that no codebook may have, [`Error::Shape`] where
    /// `memory` has another length.
    pub fn new(queue: &impl Queue, config: Config, rows: usize, memory: DeviceMut<'a, u8>) -> Result<Self> {
        same("quantizer", "length of memory", Self::memory_len(queue, &config, rows)?, memory.len())?;
        let (places, _) = Places::of(queue, &config, rows)?;
        let arena = Arena::new(memory)?;
        let (codes, dim) = (config.codes, config.dim);
        let (n, a) = (arena.at(places.cluster_size), arena.at(places.exposure));
        let activity = DeviceActivity::new_in(queue, n, a, arena.at(places.last_seen), arena.at(places.rows_seen))?;
        let (weights, sums) = (arena.at(places.code_weights), arena.at(places.code_sums));
        let statistics = DeviceStatistics::new_in(queue, weights, sums, dim, 0)?;
        ops::zero(queue, &mut arena.at(places.codebook))?;
        let codebook = shared(arena.mat(places.codebook, codes, dim)?);
        let packed = PackedDeviceCodebook::pack(queue, codebook, Metric::Cosine, arena.at(places.packed))?;
        Ok(Self { config, arena, places, packed, statistics, activity, rows, last: 0, step: 0 })
    }

    /// The settings.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Steps taken.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// The packed codebook, for [`ops::search`].
    pub fn packed(&self) -> &PackedDeviceCodebook<'a> {
        &self.packed
    }

    /// The last step's codes, one for each row.
    pub fn last_codes(&self) -> DeviceRef<'_, u32> {
        slice(self.arena.first(self.places.codes, self.last))
    }

    /// The last step's output, `[rows, inputs]`.
    pub fn last_output(&self) -> DeviceRef<'_, f32> {
        slice(self.arena.first(self.output(), self.last * self.config.inputs))
    }

    /// The last step's gradient at `x`, `[rows, inputs]`.
    pub fn last_input_gradient(&self) -> DeviceRef<'_, f32> {
        let place = if self.config.factorize { self.places.dx } else { self.places.dz };
        slice(self.arena.first(place, self.last * self.config.inputs))
    }

    /// The codes that the last step restarted, as many as its report says.
    pub fn last_restarted(&self) -> DeviceRef<'_, DeviceRestarted> {
        slice(self.arena.at(self.places.restarted))
    }

    /// The last step's report, as words for [`decode_report`].
    pub fn last_report(&self) -> DeviceRef<'_, u64> {
        slice(self.arena.at(self.places.words))
    }

    /// Codes of the rows of `x` `[rows, inputs]`, any number, into `codes` `[rows]`. Rows of weight zero get
    /// [`NO_CODE`](crate::NO_CODE). It overwrites the last step's rows.
    ///
    /// # Errors
    /// [`Error::Shape`] where the extents differ. Noted in the status: weights outside `0..=1`.
    pub fn encode<E: Element>(
        &mut self,
        queue: &impl Queue,
        x: &DeviceMatRef<E>,
        weights: Option<&DeviceRef<f32>>,
        codes: &mut DeviceMut<u32>,
    ) -> Result<()> {
        const OP: &str = "encode";
        same(OP, "columns of x", self.config.inputs, x.cols())?;
        same(OP, "length of codes", x.rows(), codes.len())?;
        ops::check_weights(OP, weights, x.rows())?;
        self.last = 0;
        for first in (0..x.rows()).step_by(self.rows) {
            let x = x.rows_from(first, self.rows);
            let rows = x.rows();
            let weights = weights.map(|weights| weights.range(first, rows));
            self.to_unit(queue, &x, None)?;
            let unit = shared(self.arena.mat(self.places.unit, rows, self.config.dim)?);
            let mut codes = codes.range(first, rows);
            self.search(queue, &unit, weights.as_ref(), &mut codes)?;
        }
        Ok(())
    }

    /// The output for `codes` `[rows]`, into `output` `[rows, inputs]`. A row without a code decodes as a code of zeros.
    ///
    /// # Errors
    /// [`Error::Shape`] where the extents differ. Noted in the status: codes that do not exist.
    pub fn decode(&mut self, queue: &impl Queue, codes: &DeviceRef<u32>, output: &mut DeviceMatMut) -> Result<()> {
        const OP: &str = "decode";
        same(OP, "rows of output", codes.len(), output.rows())?;
        same(OP, "columns of output", self.config.inputs, output.cols())?;
        let codebook = self.codebook()?;
        if !self.config.factorize {
            return ops::gather(queue, codes, &codebook, output);
        }
        self.last = 0;
        for first in (0..codes.len()).step_by(self.rows) {
            let codes = codes.range(first, self.rows.min(codes.len() - first));
            let mut quantized = self.arena.mat(self.places.quantized, codes.len(), self.config.dim)?;
            ops::gather(queue, &codes, &codebook, &mut quantized)?;
            let mut output = output.rows_from(first, codes.len());
            self.project(queue, self.places.project_out, &quantized.as_ref(), &mut output)?;
        }
        Ok(())
    }

    /// One step, as [`train_step`](crate::quantizer::Quantizer::train_step) takes it: `head` is the rest of the model,
    /// which sees the output `[rows, inputs]` and must write all of the loss's gradient there. Gradients of the projections are then in
    /// [`gradients`](Self::gradients). No rows: nothing is done.
    ///
    /// # Errors
    /// [`Error::Shape`] where the extents differ, [`Error::TooLarge`] for more rows than the memory is for; what `head`
    /// returns. Noted in the status: weights outside `0..=1`.
    pub fn train_step<Q: Queue>(
        &mut self,
        queue: &Q,
        x: &DeviceMatRef,
        weights: Option<&DeviceRef<f32>>,
        head: impl FnOnce(&Q, &DeviceMatRef, &mut DeviceMatMut) -> Result<()>,
    ) -> Result<()> {
        const OP: &str = "forward";
        let (rows, inputs) = (x.rows(), self.config.inputs);
        same(OP, "columns of x", inputs, x.cols())?;
        ops::check_weights(OP, weights, rows)?;
        if rows > self.rows {
            return Err(Error::TooLarge { op: OP, arg: "rows", max: self.rows as u64, got: rows as u64 });
        }
        self.last = rows;
        if rows == 0 {
            return Ok(());
        }
        self.forward(queue, x, weights)?;
        let output = shared(self.arena.mat(self.output(), rows, inputs)?);
        let mut doutput = self.arena.mat(self.places.doutput, rows, inputs)?;
        head(queue, &output, &mut doutput)?;
        self.losses(queue, x, weights)?;
        self.backward(queue, x, weights)?;
        self.update(queue, weights)?;
        self.report(queue, weights)
    }

    /// Packs the codebook again, after its codes have been written.
    ///
    /// # Errors
    /// What the queue refuses.
    pub fn refresh(&mut self, queue: &impl Queue) -> Result<()> {
        self.packed.repack(queue)
    }

    /// Gradients of the last step, by the names of the saved state.
    pub fn gradients(&self) -> [(&'static str, DeviceRef<'_, f64>); 4] {
        let Places { project_in, project_out, .. } = self.places;
        [
            ("project_in.weight", slice(self.arena.at(project_in.dweight))),
            ("project_in.bias", slice(self.arena.at(project_in.dbias))),
            ("project_out.weight", slice(self.arena.at(project_out.dweight))),
            ("project_out.bias", slice(self.arena.at(project_out.dbias))),
        ]
    }

    fn output(&self) -> Place<f32> {
        if self.config.factorize { self.places.output } else { self.places.quantized }
    }

    fn codebook(&self) -> Result<DeviceMatRef<'a>> {
        Ok(shared(self.arena.mat(self.places.codebook, self.config.codes, self.config.dim)?))
    }

    fn project<E: Element>(
        &self,
        queue: &impl Queue,
        linear: LinearPlaces,
        x: &DeviceMatRef<E>,
        y: &mut DeviceMatMut,
    ) -> Result<()> {
        let weight = shared(self.arena.mat(linear.weight, linear.outputs, linear.inputs)?);
        ops::project(queue, x, &weight, Some(&slice(self.arena.at(linear.bias))), y)
    }

    /// Unit rows (and their norms) of `x`, projected where the quantizer is factorized.
    fn to_unit<E: Element>(
        &self,
        queue: &impl Queue,
        x: &DeviceMatRef<E>,
        norms: Option<&mut DeviceMut<f32>>,
    ) -> Result<()> {
        let (rows, dim, places) = (x.rows(), self.config.dim, &self.places);
        let mut unit = self.arena.mat(places.unit, rows, dim)?;
        if !self.config.factorize {
            return ops::normalize(queue, x, &mut unit, norms);
        }
        let linear = places.project_in;
        let weight = shared(self.arena.mat(linear.weight, linear.outputs, linear.inputs)?);
        let (bias, mut z) = (slice(self.arena.at(linear.bias)), self.arena.mat(places.z, rows, dim)?);
        ops::project_normalize(queue, x, &weight, Some(&bias), &mut z, &mut unit, norms)
    }

    fn search(
        &self,
        queue: &impl Queue,
        unit: &DeviceMatRef,
        weights: Option<&DeviceRef<f32>>,
        codes: &mut DeviceMut<u32>,
    ) -> Result<()> {
        let room = ops::search_workspace_len(queue, unit.rows(), &self.packed);
        let mut workspace = self.arena.first(self.places.search, room);
        ops::search(queue, unit, weights, &self.packed, codes, None, Search::Auto, &mut workspace)
    }

    /// Unit rows, codes, quantized rows and output.
    fn forward(&mut self, queue: &impl Queue, x: &DeviceMatRef, weights: Option<&DeviceRef<f32>>) -> Result<()> {
        let (rows, dim, places) = (x.rows(), self.config.dim, self.places);
        let mut norms = self.arena.first(places.norms, rows);
        self.to_unit(queue, x, Some(&mut norms))?;
        let unit = shared(self.arena.mat(places.unit, rows, dim)?);
        let mut codes = self.arena.first(places.codes, rows);
        self.search(queue, &unit, weights, &mut codes)?;
        // An infinity may win a code, but has no gradient: rows that are not finite are not trained on. Where x is not,
        // nor are its projection and its unit row.
        let args = [Arg::from(&unit), rows.into(), dim.into(), row_width(dim).into(), Arg::from(&codes)];
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
            true => Ok(shared(self.arena.mat(self.places.z, x.rows(), self.config.dim)?)),
            false => Ok(x.rows_from(0, x.rows())),
        }
    }

    /// The two terms' sums and weights, codebook's first.
    fn losses(&self, queue: &impl Queue, x: &DeviceMatRef, weights: Option<&DeviceRef<f32>>) -> Result<()> {
        let (rows, dim, places) = (x.rows(), self.config.dim, self.places);
        let (unit, z) = (shared(self.arena.mat(places.unit, rows, dim)?), self.z(x)?);
        let quantized = shared(self.arena.mat(places.quantized, rows, dim)?);
        let (codes, mut floats) = (slice(self.arena.first(places.codes, rows)), self.arena.at(places.floats));
        let (mut codebook, mut commitment) =
            (self.arena.at(places.codebook_total), self.arena.at(places.commitment_total));
        ops::zero(queue, &mut codebook)?;
        ops::zero(queue, &mut commitment)?;
        ops::loss::squared_error(queue, &unit, &quantized, &codes, weights, &mut codebook, &mut floats)?;
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
    fn backward(&self, queue: &impl Queue, x: &DeviceMatRef, weights: Option<&DeviceRef<f32>>) -> Result<()> {
        let (rows, dim, inputs, places) = (x.rows(), self.config.dim, self.config.inputs, self.places);
        let codes = slice(self.arena.first(places.codes, rows));
        let unit = shared(self.arena.mat(places.unit, rows, dim)?);
        let quantized = shared(self.arena.mat(places.quantized, rows, dim)?);
        // -- back to the quantized rows
        let doutput = self.arena.mat(places.doutput, rows, inputs)?;
        let dquantized = match self.config.factorize {
            true => {
                self.clear(queue, rows, inputs, false, &doutput)?;
                let doutput = doutput.as_ref();
                self.weight_gradients(queue, places.project_out, &doutput, &quantized, None)?;
                let mut dquantized = self.arena.mat(places.dquantized, rows, dim)?;
                let weight = shared(self.arena.mat(places.project_out.weight, inputs, dim)?);
                ops::project_backward_input(queue, &doutput, &weight, &mut dquantized)?;
                dquantized
            }
            false => doutput,
        };
        // -- the estimator, to the unit rows; where the projection has left its room, that is used
        let mut dunit = self.arena.mat(if self.config.factorize { places.dz } else { places.dquantized }, rows, dim)?;
        match self.config.estimator {
            Estimator::StraightThrough => {
                ops::loss::straight_through_backward(queue, &codes, &dquantized.as_ref(), &mut dunit)?;
            }
            Estimator::Rotation => {
                ops::loss::rotation_backward(queue, &unit, &quantized, &codes, &dquantized.as_ref(), &mut dunit)?;
            }
        }
        // -- the norm's true gradient, to z
        let mut dz = self.arena.mat(if self.config.factorize { places.dquantized } else { places.dz }, rows, dim)?;
        let norms = slice(self.arena.first(places.norms, rows));
        ops::normalize_backward(queue, &unit, &norms, &dunit.as_ref(), &mut dz)?;
        // A row of tiny length has a gradient beyond f32: it would make NaN of the weights' (∞ · 0).
        self.clear(queue, rows, dim, true, &dz)?;
        // -- commitment, on un-normalized rows
        let scale = self.arena.at(places.scale);
        let commitment = Arg::from(&self.arena.at(places.commitment_total));
        let args = [commitment, self.config.commitment_weight.into(), dim.into(), Arg::from(&scale)];
        let one = Grid { blocks: [1, 1, 1], threads: 32 };
        // SAFETY: the kernel's parameters.
        unsafe { queue.launch(Kernel::new(&QUANTIZER, "commitment_scale"), one, &args)? };
        let (z, scale) = (self.z(x)?, scale.as_ref());
        squared_error_backward_by(queue, &z, &quantized, &codes, weights, Scale::There(&scale), &mut dz)?;
        // -- to x
        if self.config.factorize {
            let dz = dz.as_ref();
            self.weight_gradients(queue, places.project_in, &dz, x, Some(&codes))?;
            let weight = shared(self.arena.mat(places.project_in.weight, dim, inputs)?);
            let mut dx = self.arena.mat(places.dx, rows, inputs)?;
            ops::project_backward_input(queue, &dz, &weight, &mut dx)?;
        }
        Ok(())
    }

    fn weight_gradients(
        &self,
        queue: &impl Queue,
        linear: LinearPlaces,
        dy: &DeviceMatRef,
        x: &DeviceMatRef,
        codes: Option<&DeviceRef<u32>>,
    ) -> Result<()> {
        let (mut dw, mut db) = (self.arena.at(linear.dweight), self.arena.at(linear.dbias));
        ops::zero(queue, &mut dw)?;
        ops::zero(queue, &mut db)?;
        let mut dw = DeviceMatMut::new(dw, linear.outputs, linear.inputs)?;
        let mut floats = self.arena.at(self.places.floats);
        project_backward_weight_of(queue, dy, x, codes, &mut dw, Some(&mut db), &mut floats)
    }

    /// Statistics, means, activity, restart, and the packed codebook.
    fn update(&mut self, queue: &impl Queue, weights: Option<&DeviceRef<f32>>) -> Result<()> {
        let (rows, k, dim, places) = (self.last, self.config.codes, self.config.dim, self.places);
        let unit = shared(self.arena.mat(places.unit, rows, dim)?);
        let codes = slice(self.arena.first(places.codes, rows));
        self.statistics.clear(queue, 0)?;
        self.statistics.accumulate(queue, &unit, &codes, weights, None)?;
        let mut active = self.arena.at(places.active);
        // Weights of codes are at least 0, and so the same as u64.
        // SAFETY: the memory is the statistics', which nothing writes meanwhile.
        let hits = unsafe { DeviceRef::<u64>::from_raw(self.arena.at(places.code_weights).address(), k) };
        ops::usage::active(queue, &hits, &mut active)?;
        let mut codebook = self.arena.mat(places.codebook, k, dim)?;
        let ema = self.config.learner == Learner::Ema;
        if ema {
            let (sizes, mut mean) = (slice(self.arena.at(places.cluster_size)), self.arena.mat(places.mean, k, dim)?);
            ops::ema::update_means(queue, self.config.decay, &self.statistics, &sizes, &mut mean, Some(&mut codebook))?;
        }
        self.activity.observe(queue, self.config.decay, &self.statistics, &mut self.arena.at(places.observed))?;
        if let Some(rule) = self.config.restart {
            let mut mean = if ema { Some(self.arena.mat(places.mean, k, dim)?) } else { None };
            let mut log = self.arena.first(places.restarted, rows.min(k));
            ops::restart(
                queue,
                &unit,
                &codes,
                weights,
                &rule,
                self.step,
                &mut self.activity,
                &mut codebook,
                mean.as_mut(),
                &mut self.arena.at(places.restart),
                &mut log,
                &mut self.arena.at(places.summary),
            )?;
        }
        self.step = self.step.wrapping_add(1);
        if ema { self.packed.repack(queue) } else { Ok(()) }
    }

    fn report(&self, queue: &impl Queue, weights: Option<&DeviceRef<f32>>) -> Result<()> {
        let (rows, places) = (self.last, self.places);
        let codes = self.arena.first(places.codes, rows);
        let norms = self.arena.first(places.norms, rows);
        let parts = self.arena.at(places.parts);
        let codebook = Arg::from(&self.arena.at(places.codebook_total));
        let commitment = Arg::from(&self.arena.at(places.commitment_total));
        let blocks = rows.div_ceil(ROW_BLOCK);
        let of_rows = [Arg::from(&codes), weights.into(), Arg::from(&norms), rows.into(), Arg::from(&parts)];
        let summary =
            if self.config.restart.is_some() { Arg::from(&self.arena.at(places.summary)) } else { Arg::U64(0) };
        let active = Arg::from(&self.arena.at(places.active));
        let words = Arg::from(&self.arena.at(places.words));
        let of_all = [Arg::from(&parts), blocks.into(), codebook, commitment, active, summary, words];
        let one = Grid { blocks: [1, 1, 1], threads: 32 };
        // SAFETY: the kernels' parameters, over places of the step's rows.
        unsafe {
            queue.launch(Kernel::new(&QUANTIZER, "report_parts"), Grid::over(rows, ROW_BLOCK, 256), &of_rows)?;
            queue.launch(Kernel::new(&QUANTIZER, "report_words"), one, &of_all)
        }
    }
}

/// A grid of rows of `cols` elements, as `lane_of` divides them.
fn lanes(rows: usize, cols: usize) -> Grid {
    Grid::over(rows, (256 / row_width(cols)) as usize, 256)
}

/// A view that is only read from now on.
fn slice<'v, T>(view: DeviceMut<'v, T>) -> DeviceRef<'v, T> {
    // SAFETY: the arena's memory outlives its views.
    unsafe { DeviceRef::from_raw(view.address(), view.len()) }
}

/// A matrix that is only read from now on.
fn shared<'v, T>(mut view: DeviceMatMut<'v, T>) -> DeviceMatRef<'v, T> {
    let (rows, cols) = (view.rows(), view.cols());
    // SAFETY: the arena's memory outlives its views.
    let data = unsafe { DeviceRef::from_raw(view.data().address(), rows * cols) };
    DeviceMatRef::new(data, rows, cols).unwrap_or_else(|_| unreachable!("the shape is that of the view"))
}
