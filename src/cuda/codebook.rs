//! A codebook as the device's search reads it.

use super::images::PACK;
use super::memory::{DeviceMatRef, DeviceMut};
use super::ops::row_width;
use super::queue::{Arg, Grid, Kernel, Queue};
use crate::codebook::Metric;
#[cfg(doc)]
use crate::error::Error;
use crate::error::{Result, same};
use crate::ops::search::check_codebook;

/// Words of the header, `Header` of `cuda/common/coarse.cuh`.
const HEADER_WORDS: usize = 16;
/// What codes are padded to: chunks of every coarse kernel divide it.
const PADDING: usize = 256;

/// How the coarse kernel for a dimension lays out rows and codes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    /// Entry for cosine, and for L2.
    pub kernels: [&'static str; 2],
    /// Pairs of f16 that a lane holds of 8 codes.
    pub words: usize,
    /// Steps of 16 dimensions.
    pub steps: usize,
    /// Codes of a chunk, whose place is remembered.
    pub chunk: usize,
    /// Rows of a block.
    pub rows: usize,
    /// Warps that stand along the codes.
    pub classes: usize,
}

impl Layout {
    pub fn of(dim: usize) -> Self {
        let narrow = |cosine, l2, words: usize, chunk| Self {
            kernels: [cosine, l2],
            words,
            steps: words.div_ceil(2),
            chunk,
            rows: 512,
            classes: 1,
        };
        match dim {
            0..=8 => narrow("search_coarse_8", "search_coarse_l2_8", 1, 256),
            9..=16 => narrow("search_coarse_16", "search_coarse_l2_16", 2, 256),
            17..=32 => narrow("search_coarse_32", "search_coarse_l2_32", 4, 128),
            33..=64 => narrow("search_coarse_64", "search_coarse_l2_64", 8, 64),
            _ => {
                let slices = dim.div_ceil(32);
                let kernels = ["search_coarse_wide", "search_coarse_l2_wide"];
                Self { kernels, words: 4 * slices, steps: 2 * slices, chunk: 128, rows: 256, classes: 2 }
            }
        }
    }
}

/// A codebook packed for [`search`](super::ops::search) on a device.
///
/// The codes themselves stay where they are, `[codes, dim]` in f32: search and gather read them there. The packing
/// adds, in the caller's storage, a copy in f16 for the certified coarse pass, the norms for its bound, and for
/// [`Metric::L2`] `h_k = −½ n_k`.
pub struct PackedDeviceCodebook<'a> {
    pub(crate) codebook: DeviceMatRef<'a>,
    storage: DeviceMut<'a, u32>,
    metric: Metric,
    pub(crate) layout: Layout,
    places: Places,
}

/// Offsets in the storage, in words.
#[derive(Clone, Copy)]
struct Places {
    half_norms: usize,
    scaled: usize,
    copy: usize,
    end: usize,
}

impl Places {
    fn of(codes: usize, dim: usize, metric: Metric) -> Self {
        let padded = codes.next_multiple_of(PADDING);
        // h, and h in the coarse pass's units.
        let half_norms = HEADER_WORDS;
        let (scaled, copy) = match metric {
            Metric::L2 => (half_norms + padded, half_norms + 2 * padded),
            Metric::Cosine => (half_norms, half_norms),
        };
        // A lane's words of 8 codes, 32 lanes.
        Self { half_norms, scaled, copy, end: copy + padded * Layout::of(dim).words * 4 }
    }
}

impl<'a> PackedDeviceCodebook<'a> {
    /// Number of u32 of storage that `codes × dim` need.
    ///
    /// # Errors
    /// [`Error::Empty`] and [`Error::TooLarge`] for shapes that no codebook may have.
    pub fn storage_len(codes: usize, dim: usize, metric: Metric) -> Result<usize> {
        check_codebook("pack", codes, dim)?;
        Ok(Places::of(codes, dim, metric).end)
    }

    /// Packs `codebook` `[codes, dim]` for `metric` into `storage`.
    ///
    /// # Errors
    /// As [`storage_len`](Self::storage_len); [`Error::Shape`] where `storage` has another length;
    /// [`CudaError::Misaligned`](super::CudaError::Misaligned) where it does not start at a multiple of 16 bytes.
    pub fn pack(
        queue: &impl Queue,
        codebook: DeviceMatRef<'a>,
        metric: Metric,
        storage: DeviceMut<'a, u32>,
    ) -> Result<Self> {
        let (codes, dim) = (codebook.rows(), codebook.cols());
        same("pack", "length of storage", Self::storage_len(codes, dim, metric)?, storage.len())?;
        storage.aligned(16)?;
        let (layout, places) = (Layout::of(dim), Places::of(codes, dim, metric));
        let packed = Self { codebook, storage, metric, layout, places };
        packed.pack_all(queue)?;
        Ok(packed)
    }

    /// Packs a changed codebook of the same shape again; it is what search and gather then read.
    ///
    /// # Errors
    /// [`Error::Shape`] where the shape differs; what the queue refuses.
    pub fn repack(&mut self, queue: &impl Queue, codebook: DeviceMatRef<'a>) -> Result<()> {
        same("repack", "number of codes", self.codes(), codebook.rows())?;
        same("repack", "dim", self.dim(), codebook.cols())?;
        self.codebook = codebook;
        self.pack_all(queue)
    }

    fn pack_all(&self, queue: &impl Queue) -> Result<()> {
        const THREADS: u32 = 128;
        let (codes, dim) = (self.codes(), self.dim());
        let padded = codes.next_multiple_of(PADDING);
        let width = row_width(dim.div_ceil(2));
        let (codebook, header) = (Arg::from(&self.codebook), self.header());
        let copy = [
            codebook,
            codes.into(),
            padded.into(),
            dim.into(),
            width.into(),
            self.layout.words.into(),
            header,
            self.copy(),
            self.scaled_half_norms(),
            self.half_norms(),
        ];
        let one = Grid { blocks: [1, 1, 1], threads: 32 };
        let each = Grid::over(codes, THREADS as usize, THREADS);
        let lanes = Grid::over(padded, (THREADS / width) as usize, THREADS);
        let measured = [codebook, codes.into(), dim.into(), header, self.half_norms()];
        // SAFETY: the kernels' parameters; the storage has the places that they write.
        unsafe {
            queue.launch(Kernel::new(&PACK, "pack_begin"), one, &[header])?;
            queue.launch(Kernel::new(&PACK, "pack_measure"), each, &measured)?;
            queue.launch(Kernel::new(&PACK, "pack_copy"), lanes, &copy)
        }
    }

    /// Number of codes.
    pub fn codes(&self) -> usize {
        self.codebook.rows()
    }

    /// Dimensions of a code.
    pub fn dim(&self) -> usize {
        self.codebook.cols()
    }

    /// How rows and codes are compared.
    pub fn metric(&self) -> Metric {
        self.metric
    }

    fn at(&self, word: usize) -> Arg {
        self.storage.arg(4 * word)
    }

    pub(crate) fn header(&self) -> Arg {
        self.at(0)
    }

    pub(crate) fn copy(&self) -> Arg {
        self.at(self.places.copy)
    }

    /// `h` of each code; the null address for cosine.
    pub(crate) fn half_norms(&self) -> Arg {
        match self.metric {
            Metric::L2 => self.at(self.places.half_norms),
            Metric::Cosine => Arg::NONE,
        }
    }

    pub(crate) fn scaled_half_norms(&self) -> Arg {
        match self.metric {
            Metric::L2 => self.at(self.places.scaled),
            Metric::Cosine => Arg::NONE,
        }
    }
}

#[doc(hidden)]
impl PackedDeviceCodebook<'_> {
    /// Addresses of the codes and their h, for tests that launch reference kernels.
    pub fn reference_args(&self, run: impl FnOnce(Arg, Arg)) {
        run(Arg::from(&self.codebook), self.half_norms());
    }

    /// What the kernel `pack_ref` takes to pack the same codes in the same place.
    pub fn pack_ref_args(&self) -> [Arg; 9] {
        let padded = self.codes().next_multiple_of(PADDING);
        [
            Arg::from(&self.codebook),
            self.codes().into(),
            padded.into(),
            self.dim().into(),
            self.layout.words.into(),
            self.header(),
            self.copy(),
            self.scaled_half_norms(),
            self.half_norms(),
        ]
    }
}
