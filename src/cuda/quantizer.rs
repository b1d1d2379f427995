//! The whole layer on a device: [`Quantizer`](crate::quantizer::Quantizer)'s `encode`, `decode` and training step, with the same bits.
//!
//! A step launches kernels and returns: nothing waits, and nothing is allocated, as all state lies in one piece of the
//! caller's memory. The optimizer is the caller's: on the host, by [`apply`](DeviceQuantizer::apply), or on the device, where
//! gradients are views of that memory, and [`refresh_codes`](DeviceQuantizer::refresh_codes) follows changes of codes or their
//! projector. The step's number is in that memory, too, and each step adds 1 to it: replays of a captured step are steps like any
//! others.

mod apply;
mod codes;
mod parts;
mod places;
mod report;
mod state;
mod step;

pub use report::{REPORT_WORDS, decode as decode_report};
pub use state::DeviceState;

use self::places::{LinearPlaces, Places};
use super::arena::{Arena, Place};
use super::codebook::PackedDeviceCodebook;
use super::images::QUANTIZER;
use super::memory::{DeviceMatMut, DeviceMatRef, DeviceMut, DeviceRef};
use super::ops::ema::{DeviceActivity, DeviceStatistics};
use super::ops::restart::DeviceRestarted;
use super::ops::{self, row_width};
use super::queue::{Grid, Kernel, Queue};
use super::status::Op;
use crate::element::Element;
use crate::error::{Error, Result, same};
use crate::ops::search::Search;
use crate::quantizer::{Config, Loss};

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
    /// Rows of the last step that has gone back: those of its gradient.
    gone_back: usize,
    /// Whether layers that rows pass have gradients.
    gradients: bool,
    /// Whether an optimizer on the host has used all gradients up.
    applied: bool,
    /// Rows of the last step that was learned from: at least as many as codes were hit.
    learned: usize,
    /// What the loss terms weigh in the last step.
    terms: Loss,
    /// Whether a pass waits for its update, and whether it has weights.
    passed: Option<bool>,
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
        ops::check_extent("quantizer", "rows", rows)
    }

    /// A quantizer in `memory`, of [`memory_len`](Self::memory_len) bytes. Its weights and codes are written by
    /// [`upload`](Self::upload), or through [`state_mut`](Self::state_mut) followed by
    /// [`refresh`](Self::refresh); its averages start at zero.
    ///
    /// # Errors
    /// [`Error::Config`] for settings that contradict each other, [`Error::Empty`] and [`Error::TooLarge`] for shapes that no codebook may have, [`Error::Shape`] where
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
        ops::zero(queue, &mut arena.at(places.words))?;
        ops::zero(queue, &mut arena.at(places.step))?;
        let codebook = arena.mat(places.codebook, codes, dim)?.shared();
        let packed = PackedDeviceCodebook::pack(queue, codebook, config.metric(), arena.at(places.packed))?;
        let none = Self {
            config,
            arena,
            places,
            packed,
            statistics,
            activity,
            rows,
            last: 0,
            gone_back: 0,
            gradients: false,
            applied: false,
            learned: 0,
            terms: Loss::default(),
            passed: None,
        };
        none.clear_gradients(queue)?;
        Ok(none)
    }

    /// The settings.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Steps taken, `[1]`: on the device, which alone knows of a graph's replays. `"step"` of the
    /// [state](Self::state_mut) sets it.
    pub fn step(&self) -> DeviceRef<'_, u64> {
        self.arena.at(self.places.step).shared()
    }

    /// The packed codebook, for [`ops::search`].
    pub fn packed(&self) -> &PackedDeviceCodebook<'a> {
        &self.packed
    }

    /// The last step's codes, one for each row.
    pub fn last_codes(&self) -> DeviceRef<'_, u32> {
        self.arena.first(self.places.codes, self.last).shared()
    }

    /// The last step's output, `[rows, inputs]`.
    pub fn last_output(&self) -> DeviceRef<'_, f32> {
        self.arena.first(self.output(), self.last * self.config.inputs).shared()
    }

    /// The last step's gradient at `x`, `[rows, inputs]`; empty where no backward came.
    pub fn last_input_gradient(&self) -> DeviceRef<'_, f32> {
        let place = if self.config.factorize { self.places.dx } else { self.places.dz };
        self.arena.first(place, self.gone_back * self.config.inputs).shared()
    }

    /// The codes that the last step restarted, as many as its report says.
    pub fn last_restarted(&self) -> DeviceRef<'_, DeviceRestarted> {
        self.arena.at(self.places.restarted).shared()
    }

    /// The last step's report, as words for [`decode_report`].
    pub fn last_report(&self) -> DeviceRef<'_, u64> {
        self.arena.at(self.places.words).shared()
    }

    /// Codes of the rows of `x` `[rows, inputs]`, any number, into `codes` `[rows]`. Rows of weight zero get
    /// [`NO_CODE`](crate::NO_CODE). It overwrites the last step's rows: none are shown after it, not even of a captured step that is
    /// replayed, until a step is called.
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
        self.forget();
        if weights.is_some() {
            self.check_rows(queue, x.rows(), None, weights, Op::Encode)?;
        }
        for first in (0..x.rows()).step_by(self.rows) {
            let x = x.rows_from(first, self.rows);
            let rows = x.rows();
            let weights = weights.map(|weights| weights.range(first, rows));
            self.embed(queue, &x, None)?;
            let mut codes = codes.range(first, rows);
            match self.embedded(rows)? {
                Some(seen) => self.search(queue, &seen, weights.as_ref(), &mut codes)?,
                None => self.search(queue, &x, weights.as_ref(), &mut codes)?,
            }
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
        self.forget();
        self.check_rows(queue, codes.len(), Some(codes), None, Op::Decode)?;
        for first in (0..codes.len()).step_by(self.rows) {
            let codes = codes.range(first, self.rows.min(codes.len() - first));
            let mut quantized = self.arena.mat(self.places.quantized, codes.len(), self.config.dim)?;
            ops::gather(queue, &codes, &codebook, &mut quantized)?;
            let mut output = output.rows_from(first, codes.len());
            self.project(queue, self.places.project_out, &quantized.as_ref(), &mut output)?;
        }
        Ok(())
    }

    /// Packs the codebook again, after its codes have been written.
    ///
    /// # Errors
    /// What the queue refuses.
    pub fn refresh(&mut self, queue: &impl Queue) -> Result<()> {
        self.packed.repack(queue, self.codebook()?)
    }

    /// Gradients of the linear layers in the last step, by the names of the saved state; those that there are.
    pub fn gradients(&self) -> impl Iterator<Item = (&'static str, DeviceRef<'_, f64>)> {
        let Places { project_in, project_out, projector, .. } = self.places;
        let places = [
            ("project_in.weight", project_in.dweight),
            ("project_in.bias", project_in.dbias),
            ("project_out.weight", project_out.dweight),
            ("project_out.bias", project_out.dbias),
            ("projector.weight", projector.dweight),
            ("projector.bias", projector.dbias),
        ];
        places.into_iter().filter(|(_, place)| place.len > 0).map(|(name, place)| (name, self.arena.at(place).shared()))
    }

    /// What is wrong with a row is noted under the op that was called and by the row's place in the whole batch, before a
    /// part of it can be noted by an op that it is made of.
    fn check_rows(
        &self,
        queue: &impl Queue,
        rows: usize,
        codes: Option<&DeviceRef<u32>>,
        weights: Option<&DeviceRef<f32>>,
        op: Op,
    ) -> Result<()> {
        ops::check_extent("quantizer", "rows", rows)?;
        if rows == 0 {
            return Ok(());
        }
        let count = self.config.codes.into();
        let args = [codes.into(), weights.into(), rows.into(), count, op.into(), queue.status().into()];
        // SAFETY: the kernel's parameters, over views of as many rows.
        unsafe { queue.launch(Kernel::new(&QUANTIZER, "check_rows"), Grid::over(rows, 256, 256), &args) }
    }

    fn output(&self) -> Place<f32> {
        if self.config.factorize { self.places.output } else { self.places.quantized }
    }

    fn codebook(&self) -> Result<DeviceMatRef<'a>> {
        Ok(self.arena.mat(self.places.codebook, self.config.codes, self.config.dim)?.shared())
    }

    fn project<E: Element>(
        &self,
        queue: &impl Queue,
        linear: LinearPlaces,
        x: &DeviceMatRef<E>,
        y: &mut DeviceMatMut,
    ) -> Result<()> {
        let weight = self.arena.mat(linear.weight, linear.outputs, linear.inputs)?.shared();
        ops::project(queue, x, &weight, Some(&self.arena.at(linear.bias).shared()), y)
    }

    /// Rows of `x`, projected and normalized where the quantizer does, and the norms where it normalizes.
    fn embed<E: Element>(
        &self,
        queue: &impl Queue,
        x: &DeviceMatRef<E>,
        norms: Option<&mut DeviceMut<f32>>,
    ) -> Result<()> {
        let (rows, dim, places) = (x.rows(), self.config.dim, &self.places);
        let linear = places.project_in;
        let unit = || self.arena.mat(places.unit, rows, dim);
        match (self.config.factorize, self.config.normalize) {
            (true, true) => {
                let weight = self.arena.mat(linear.weight, linear.outputs, linear.inputs)?.shared();
                let (bias, mut z) = (self.arena.at(linear.bias).shared(), self.arena.mat(places.z, rows, dim)?);
                ops::project_normalize(queue, x, &weight, Some(&bias), &mut z, &mut unit()?, norms)
            }
            (true, false) => self.project(queue, linear, x, &mut self.arena.mat(places.z, rows, dim)?),
            (false, true) => ops::normalize(queue, x, &mut unit()?, norms),
            (false, false) => Ok(()),
        }
    }

    /// What `embed` made; nothing where rows are searched as they come.
    fn embedded(&self, rows: usize) -> Result<Option<DeviceMatRef<'a>>> {
        let place = match (self.config.normalize, self.config.factorize) {
            (true, _) => self.places.unit,
            (false, true) => self.places.z,
            (false, false) => return Ok(None),
        };
        Ok(Some(self.arena.mat(place, rows, self.config.dim)?.shared()))
    }

    /// The rows that search sees.
    fn seen<'v>(&self, x: &'v DeviceMatRef) -> Result<DeviceMatRef<'v>>
    where
        'a: 'v,
    {
        Ok(self.embedded(x.rows())?.unwrap_or_else(|| x.rows_from(0, x.rows())))
    }

    fn search<E: Element>(
        &self,
        queue: &impl Queue,
        seen: &DeviceMatRef<E>,
        weights: Option<&DeviceRef<f32>>,
        codes: &mut DeviceMut<u32>,
    ) -> Result<()> {
        let room = ops::search_workspace_len(queue, seen.rows(), &self.packed);
        let mut workspace = self.arena.first(self.places.search, room);
        ops::search(queue, seen, weights, &self.packed, codes, None, Search::Auto, &mut workspace)
    }
}

/// A grid of rows of `cols` elements, as `lane_of` divides them.
fn lanes(rows: usize, cols: usize) -> Grid {
    Grid::over(rows, (256 / row_width(cols)) as usize, 256)
}
