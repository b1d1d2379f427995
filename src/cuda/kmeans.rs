//! [`crate::kmeans`] on a GPU: the whole of it, [`DeviceKMeans`], and its steps beyond search and the exact sums of
//! [`ops::ema`]. (Hits per centre are [`ops::usage::count`].)

mod pass;
mod places;
mod steps;

pub use pass::{PASS_WORDS, decode as decode_pass};
pub use steps::{distances, move_centres};

use self::places::Places;
use super::arena::Arena;
use super::codebook::PackedDeviceCodebook;
use super::images::KMEANS_PASS;
use super::memory::{DeviceMatMut, DeviceMatRef, DeviceMut, DeviceRef};
use super::ops::ema::DeviceStatistics;
use super::ops::{self, check_extent, zero};
use super::queue::{Arg, Grid, Kernel, Queue};
use crate::codebook::Metric;
use crate::error::{Error, Result, same};
use crate::ops::search::{Search, check_codebook};

const OP: &str = "kmeans";

/// Centres on a device, and what the pass that is under way has gathered: [`KMeans`](crate::kmeans::KMeans), with its
/// bits in all that it finds.
///
/// Calls launch kernels and return: nothing waits, and nothing is allocated. The sum for the inertia has the CPU's order,
/// and so is one warp's work: about five nanoseconds a row. (Awaits a device.)
///
/// ```rust,no_run
/// # fn clustered(batches: &[Vec<f32>], centres: Vec<f32>, dim: usize) -> Result<Vec<f32>, Box<dyn std::error::Error>> {
/// use vq_kernels::Metric;
/// use vq_kernels::cuda::kmeans::{DeviceKMeans, PASS_WORDS, decode_pass};
/// use vq_kernels::cuda::{Device, DeviceMatMut, DeviceMatRef, DeviceMut, DeviceRef};
///
/// const ROWS: usize = 65_536; // the most of a batch
/// let stream = Device::probe(0)?.stream()?;
/// let (cuda, codes) = (stream.raw().clone(), centres.len() / dim);
/// let mut memory = cuda.alloc_zeros::<u8>(DeviceKMeans::memory_len(&stream, codes, dim, Metric::L2, ROWS)?)?;
/// let mut centres = cuda.clone_htod(&centres)?;
/// {
///     let view = DeviceMatMut::new(DeviceMut::new(&mut centres, &stream)?, codes, dim)?;
///     let memory = DeviceMut::new(&mut memory, &stream)?;
///     let mut kmeans = DeviceKMeans::new(&stream, view, Metric::L2, ROWS, memory)?;
///     for batch in batches {
///         let x = cuda.clone_htod(batch)?;
///         let x = DeviceMatRef::new(DeviceRef::new(&x, &stream)?, batch.len() / dim, dim)?;
///         kmeans.accumulate(&stream, &x, None)?;
///     }
///     kmeans.finish_pass(&stream)?;
///     stream.check()?;
///     let mut words = [0; PASS_WORDS];
///     stream.read(&kmeans.last_pass(), &mut words)?;
///     println!("inertia {}", decode_pass(&words).inertia);
/// }
/// # Ok(cuda.clone_dtoh(&centres)?)
/// # }
/// ```
pub struct DeviceKMeans<'a> {
    metric: Metric,
    centres: DeviceMatMut<'a>,
    arena: Arena<'a>,
    places: Places,
    packed: PackedDeviceCodebook<'a>,
    statistics: DeviceStatistics<'a>,
    /// The most rows of a batch.
    rows: usize,
}

impl<'a> DeviceKMeans<'a> {
    /// Bytes of memory for `codes` centres of `dim` dimensions and batches of up to `rows` rows.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn memory_len(queue: &impl Queue, codes: usize, dim: usize, metric: Metric, rows: usize) -> Result<usize> {
        check_codebook(OP, codes, dim)?;
        if rows == 0 {
            return Err(Error::Empty { op: OP, arg: "rows" });
        }
        // The kept rows are sorted with the batch's, up to a power of two.
        check_extent(OP, "rows", rows.saturating_mul(2).saturating_add(codes))?;
        let (_, len) = Places::of(queue, codes, dim, metric, rows)?;
        match len >= isize::MAX as usize {
            true => Err(Error::TooLarge { op: OP, arg: "rows", max: u64::from(u32::MAX), got: rows as u64 }),
            false => Ok(len),
        }
    }

    /// From `centres` `[codes, dim]`, which move where they lie, in `memory` of [`memory_len`](Self::memory_len) bytes.
    /// With [`Metric::Cosine`] (spherical k-means) rows and centres are expected to be unit rows, and centres stay so.
    ///
    /// # Errors
    /// [`Error::Empty`] and [`Error::TooLarge`] for shapes that no codebook may have, and for `rows`; [`Error::Shape`]
    /// where `memory` has another length;
    /// [`CudaError::Misaligned`](super::CudaError::Misaligned) where it does not start at a multiple of 16 bytes.
    pub fn new(
        queue: &impl Queue,
        centres: DeviceMatMut<'a>,
        metric: Metric,
        rows: usize,
        memory: DeviceMut<'a, u8>,
    ) -> Result<Self> {
        let (codes, dim) = (centres.rows(), centres.cols());
        same(OP, "length of memory", Self::memory_len(queue, codes, dim, metric, rows)?, memory.len())?;
        let (places, _) = Places::of(queue, codes, dim, metric, rows)?;
        let arena = Arena::new(memory)?;
        // -- nothing is gathered yet
        zero(queue, &mut arena.at(places.seen))?;
        let (weights, sums) = (arena.at(places.totals), arena.at(places.sums));
        let mut statistics = DeviceStatistics::new_in(queue, weights, sums, dim, 0)?;
        // -- the sums' unit: room for rows larger than any centre, as on the CPU
        const ROOM: i32 = 8;
        let view = centres.alias();
        let exponent = arena.at(places.exponent);
        let found = match metric {
            Metric::Cosine => Arg::NONE,
            Metric::L2 => {
                // All centres count: each has code 0.
                let (mut every, mut needed) = (arena.at(places.empty), arena.at(places.needed));
                zero(queue, &mut every)?;
                ops::ema::exponent(queue, &view, &every.shared(), None, &mut needed)?;
                (&needed).into()
            }
        };
        let args = [found, ROOM.into(), (&exponent).into()];
        // SAFETY: the kernel's parameters.
        unsafe { queue.launch(Kernel::new(&KMEANS_PASS, "pass_exponent"), Grid::over(1, 1, 1), &args)? };
        statistics.clear_for(queue, &exponent.shared())?;
        let packed = PackedDeviceCodebook::pack(queue, view, metric, arena.at(places.packed))?;
        let kmeans = Self { metric, centres, arena, places, packed, statistics, rows };
        kmeans.begin_pass(queue)?;
        Ok(kmeans)
    }

    /// The centres, `[codes, dim]`.
    pub fn centres(&self) -> DeviceMatRef<'_> {
        self.centres.as_ref()
    }

    /// The last finished pass, as words for [`decode_pass`].
    pub fn last_pass(&self) -> DeviceRef<'_, u64> {
        self.arena.at(self.places.report).shared()
    }

    /// Lloyd: adds a batch's rows to their nearest centres; [`finish_pass`](Self::finish_pass) moves the centres.
    ///
    /// # Errors
    /// [`Error::Shape`] where the dimensions differ, [`Error::TooLarge`] for more rows than the memory is for. Noted in the
    /// status: weights outside `0..=1`, and more than 2²² rows of one centre in a pass; the pass cannot be gone on with.
    pub fn accumulate(&mut self, queue: &impl Queue, x: &DeviceMatRef, weights: Option<&DeviceRef<f32>>) -> Result<()> {
        let (rows, places) = (x.rows(), self.places);
        if rows > self.rows {
            return Err(Error::TooLarge { op: OP, arg: "rows", max: self.rows as u64, got: rows as u64 });
        }
        // -- assign
        let mut codes = self.arena.first(places.codes, rows);
        let room = ops::search_workspace_len(queue, rows, &self.packed);
        let mut workspace = self.arena.first(places.search, room);
        ops::search(queue, x, weights, &self.packed, &mut codes, None, Search::Auto, &mut workspace)?;
        if rows == 0 {
            return Ok(());
        }
        let mut squares = self.arena.first(places.distances, rows);
        distances(queue, x, &self.centres.as_ref(), &mut codes, &mut squares)?;
        let (codes, squares) = (codes.shared(), squares.shared());
        ops::usage::count(queue, &codes, None, &mut self.arena.at(places.hits))?;
        self.gather(queue, x, weights, &codes, &squares)?;
        // -- exact sums
        let mut needed = self.arena.at(places.needed);
        ops::ema::exponent(queue, x, &codes, weights, &mut needed)?;
        let mut exponent = self.arena.at(places.exponent);
        self.statistics.coarsen_for(queue, &needed.shared(), &mut exponent)?;
        self.statistics.accumulate(queue, x, &codes, weights, None)
    }

    /// Mini-batch: moves each hit centre to the mean of all rows that it ever took.
    ///
    /// # Errors
    /// As [`accumulate`](Self::accumulate).
    pub fn mini_batch(&mut self, queue: &impl Queue, x: &DeviceMatRef, weights: Option<&DeviceRef<f32>>) -> Result<()> {
        self.accumulate(queue, x, weights)?;
        self.move_centres(queue, true)?;
        self.repack(queue)
    }

    /// Ends a pass: moves Lloyd's centres to the means of their rows, refills empty centres with the rows that lay
    /// farthest from theirs, as on the CPU, and starts the next pass. What the pass came to is then in
    /// [`last_pass`](Self::last_pass).
    ///
    /// # Errors
    /// What the queue refuses.
    pub fn finish_pass(&mut self, queue: &impl Queue) -> Result<()> {
        self.move_centres(queue, false)?;
        self.refill(queue)?;
        self.repack(queue)?;
        self.begin_pass(queue)
    }

    /// Moves hit centres, and empties the statistics.
    fn move_centres(&mut self, queue: &impl Queue, keep: bool) -> Result<()> {
        let (mut seen, exponent) = (self.arena.at(self.places.seen), self.arena.at(self.places.exponent).shared());
        steps::move_centres(queue, &self.statistics, self.metric, keep, &mut seen, &mut self.centres)?;
        self.statistics.clear_for(queue, &exponent)
    }

    fn repack(&mut self, queue: &impl Queue) -> Result<()> {
        self.packed.repack(queue, self.centres.alias())
    }
}
