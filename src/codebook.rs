//! The codebook as search reads it: panels of 64 codes, built once per codebook change.

mod adaptive;
pub(crate) mod bf16;
pub(crate) mod caps;
pub(crate) mod int8;

use crate::cpu::Cpu;
use crate::element::Element;
use crate::error::{Error, Result, same};
use crate::matrix::MatRef;
use crate::ops::search::{HalfNorms, Search, check_codebook};
use crate::simd::Isa;
use bf16::Bf16;
use caps::Caps;
use int8::{Int8, Panels};

/// Codes in a panel. Every tier's register width divides it.
pub const PANEL: usize = 64;

/// The most codes that a codebook may have.
pub const MAX_CODES: usize = 1 << 24;

/// The most dimensions that a code may have.
pub const MAX_DIM: usize = 4096;

/// How a row and a code are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// The largest inner product of what is passed. Cosine similarity where rows and codes are
    /// [normalized](crate::ops::normalize()) first; search itself never normalizes.
    Cosine,
    /// The smallest Euclidean distance, as the largest `x·c − ½‖c‖²`.
    L2,
}

impl Metric {
    /// `"cosine"` or `"l2"`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cosine => "cosine",
            Self::L2 => "l2",
        }
    }
}

/// What a packed codebook holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// The codes in f32: all that a search needs.
    F32,
    /// Besides, a copy in 8 bits, a quarter as large, for the certified coarse pass: a faster search
    /// with the same codes where the processor multiplies bytes (AVX2, faster with VNNI; NEON with dot products;
    /// WebAssembly).
    Int8,
    /// Besides that copy in 8 bits, one in bf16 for the tiles of AMX: 64 bytes a code for each 32 dimensions, or for at
    /// most 8. A faster search yet where the processor has [them](crate::Isa::amx()), and with more than a few rows.
    Bf16,
    /// Besides the f32, for codes of unit length and at most 16 dimensions compared by [`Metric::Cosine`]: the codes in
    /// cells, for the [pruned](crate::ops::Search::Pruned) search, which visits a few percent of them. Packing takes
    /// about as long as searching 50,000 rows: for codebooks that stand still. What codes it cannot
    /// help are packed as [`Packing::F32`].
    Caps,
    /// Both [`Packing::Int8`] and room for [`Packing::Caps`], which [`PackedCodebook::prepare`] fills when the rows that
    /// come gain more by it than it takes: for codebooks that are learned. As large as the two together.
    Adaptive,
}

impl Packing {
    /// The fastest for this machine.
    pub fn detect() -> Self {
        match Isa::detect() {
            isa if Some(isa) == Isa::amx() => Self::Bf16,
            isa if isa.coarse_from().is_some() => Self::Int8,
            _ => Self::F32,
        }
    }

    /// The fastest for this machine and a codebook of this shape that is packed again and again, and prepared.
    pub fn suited(codes: usize, dim: usize, metric: Metric) -> Self {
        // Fewer codes are searched in less time than it takes to choose cells; products of tiles, where there are such,
        // are faster than cells of more dimensions.
        let (few, wide) = (codes < 1 << 14, dim > if Isa::amx().is_some() { 8 } else { caps::MAX_DIM });
        if few || wide || metric != Metric::Cosine || !Isa::DOTS { Self::detect() } else { Self::Adaptive }
    }

    const fn has_int8(self) -> bool {
        matches!(self, Self::Int8 | Self::Bf16 | Self::Adaptive)
    }

    const fn has_caps(self) -> bool {
        matches!(self, Self::Caps | Self::Adaptive)
    }
}

/// Sixteen f32 on a cache line of their own: the unit of a packed codebook's storage.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C, align(64))]
pub struct Line(pub [f32; 16]);

// SAFETY: 16 f32 fill its 64 bytes, and zero bits are a value of each.
unsafe impl bytemuck::Zeroable for Line {}
// SAFETY: 16 f32 fill its 64 bytes without padding, and every bit pattern is a value of each.
unsafe impl bytemuck::Pod for Line {}
const _: () = assert!(size_of::<Line>() == 16 * size_of::<f32>());

/// A codebook packed for search; `S` is the storage: `&[Line]`, `&mut [Line]`, `Vec<Line>`, …
///
/// Panel `p` holds codes `64 p .. 64 p + 64` transposed, `[dim][64]`; the last one is filled up with
/// NaN, which never wins. For [`Metric::L2`] the panels are followed by `h_k = −½ n_k` for each code, and
/// for [`Packing::Int8`] and [`Packing::Bf16`] by the copies.
///
/// ```
/// use vq_kernels::{Line, MatRef, Metric, PackedCodebook, Packing};
/// let codes = [1.0f32, 0.0, 0.0, 1.0, -1.0, 0.0]; // 3 codes of 2 dimensions
/// let mut storage = [Line([0.0; 16]); PackedCodebook::lines_len(3, 2, Metric::L2, Packing::F32)];
/// let codebook = MatRef::new(&codes, 3, 2)?;
/// let packed = PackedCodebook::pack_into(codebook, Metric::L2, Packing::F32, &mut storage[..])?;
/// assert_eq!((packed.codes(), packed.dim()), (3, 2));
/// # Ok::<(), vq_kernels::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct PackedCodebook<S> {
    lines: S,
    codes: usize,
    dim: usize,
    metric: Metric,
    packing: Packing,
}

impl PackedCodebook<&[Line]> {
    /// Number of [`Line`]s that `codes × dim` take when packed (saturated at `usize::MAX`).
    pub const fn lines_len(codes: usize, dim: usize, metric: Metric, packing: Packing) -> usize {
        let [.., end] = parts(codes, dim, metric, packing);
        end
    }
}

/// Where the f32, the copies in 8 bits and in bf16, and the caps end, one behind the other (saturated).
const fn parts(codes: usize, dim: usize, metric: Metric, packing: Packing) -> [usize; 4] {
    let half_norms = matches!(metric, Metric::L2);
    let f32s = f32_lines(codes, dim, half_norms);
    let int8 = if packing.has_int8() { int8::lines_len(codes, dim, half_norms) } else { 0 };
    let bf16 = if matches!(packing, Packing::Bf16) { bf16::lines_len(codes, dim) } else { 0 };
    let caps = if packing.has_caps() && !half_norms { caps::lines_len(codes, dim) } else { 0 };
    let int8_end = f32s.saturating_add(int8);
    let bf16_end = int8_end.saturating_add(bf16);
    [f32s, int8_end, bf16_end, bf16_end.saturating_add(caps)]
}

/// Lines of the panels and their h (saturated).
const fn f32_lines(codes: usize, dim: usize, half_norms: bool) -> usize {
    codes.div_ceil(PANEL).saturating_mul(dim.saturating_add(half_norms as usize)).saturating_mul(PANEL / 16)
}

impl<S: AsRef<[Line]>> PackedCodebook<S> {
    /// Takes lines that [`pack_into`](Self::pack_into) wrote before, from a file or from flash.
    ///
    /// # Errors
    /// As [`pack_into`](Self::pack_into). The lines' contents are not checked: any contents are
    /// safe, and only those of `pack_into` give the contract's codes.
    pub fn from_lines(lines: S, codes: usize, dim: usize, metric: Metric, packing: Packing) -> Result<Self> {
        check_codebook("pack", codes, dim)?;
        let len = PackedCodebook::lines_len(codes, dim, metric, packing);
        same("pack", "number of lines", len, lines.as_ref().len())?;
        Ok(Self { lines, codes, dim, metric, packing })
    }

    /// Number of codes.
    pub fn codes(&self) -> usize {
        self.codes
    }

    /// Dimensions of a code.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// How rows and codes are compared.
    pub fn metric(&self) -> Metric {
        self.metric
    }

    /// What it holds.
    pub fn packing(&self) -> Packing {
        self.packing
    }

    /// The storage, as [`from_lines`](Self::from_lines) takes it.
    pub fn lines(&self) -> &[Line] {
        self.lines.as_ref()
    }

    pub(crate) fn view(&self) -> PackedCodebook<&[Line]> {
        let Self { codes, dim, metric, packing, .. } = *self;
        PackedCodebook { lines: self.lines.as_ref(), codes, dim, metric, packing }
    }

    pub(crate) fn panels(&self) -> usize {
        self.codes.div_ceil(PANEL)
    }

    /// Panel `p`, `[dim][64]`.
    pub(crate) fn panel(&self, p: usize) -> &[f32] {
        let floats: &[f32] = bytemuck::cast_slice(self.lines.as_ref());
        &floats[p * self.dim * PANEL..][..self.dim * PANEL]
    }

    /// The `h` of panel `p`'s codes; none for cosine, whose chains start at +0.
    pub(crate) fn half_norms(&self, p: usize) -> Option<&[f32]> {
        self.all_half_norms().map(|h| &h[p * PANEL..][..PANEL])
    }

    /// All `h`, `[panels][64]`; none for cosine.
    pub(crate) fn all_half_norms(&self) -> Option<&[f32]> {
        let floats: &[f32] = bytemuck::cast_slice(self.lines.as_ref());
        match self.metric {
            Metric::Cosine => None,
            Metric::L2 => Some(&floats[self.panels() * self.dim * PANEL..][..self.panels() * PANEL]),
        }
    }

    /// Where the parts end.
    fn parts(&self) -> [usize; 4] {
        parts(self.codes, self.dim, self.metric, self.packing)
    }

    /// The copy in 8 bits, where it is packed and the codes allow one.
    pub(crate) fn int8(&self) -> Option<Int8<'_>> {
        let ([from, end, ..], half_norms) = (self.parts(), self.metric == Metric::L2);
        let copy = &self.lines.as_ref()[from..end];
        let packed = self.packing.has_int8().then(|| Int8::new(copy, self.codes, self.dim, half_norms));
        packed.filter(|copy| copy.header.scale != 0.0)
    }

    /// The copy in bf16, where it is packed and the codes allow one.
    pub(crate) fn bf16(&self) -> Option<Bf16<'_>> {
        let [_, from, end, _] = self.parts();
        let packed = self.packing == Packing::Bf16;
        packed.then(|| Bf16::new(&self.lines.as_ref()[from..end], self.dim)).filter(|copy| copy.header.scale != 0.0)
    }

    /// The caps, where they are packed, and the codes and those that know better allow them.
    pub(crate) fn caps(&self) -> Option<Caps<'_>> {
        let [.., from, end] = self.parts();
        let packed = (from < end).then(|| Caps::new(&self.lines.as_ref()[from..end], self.codes, self.dim));
        packed.filter(|caps| caps.header.scale != 0.0 && (self.packing == Packing::Caps || caps.state().wins()))
    }
}

impl<S: AsRef<[Line]> + AsMut<[Line]>> PackedCodebook<S> {
    /// Packs `codebook` `[codes, dim]` for `metric` into `lines`.
    ///
    /// # Errors
    /// [`Error::Empty`] and [`Error::TooLarge`] for a codebook with no codes or dimensions, or more
    /// than [`MAX_CODES`] or [`MAX_DIM`]; [`Error::Shape`] unless `lines` has
    /// [`lines_len`](PackedCodebook::lines_len) elements.
    pub fn pack_into<E: Element>(codebook: MatRef<E>, metric: Metric, packing: Packing, lines: S) -> Result<Self> {
        let mut packed = Self::from_lines(lines, codebook.rows(), codebook.cols(), metric, packing)?;
        // Whatever was there before: no cells.
        let [.., caps, _] = packed.parts();
        packed.lines.as_mut()[caps..].iter_mut().take(caps::HEADERS).for_each(|line| *line = Line([0.0; 16]));
        packed.pack_all(codebook);
        Ok(packed)
    }

    /// Packs a changed codebook of the same shape again.
    ///
    /// # Errors
    /// [`Error::Shape`] where the shape differs.
    pub fn repack<E: Element>(&mut self, codebook: MatRef<E>) -> Result<()> {
        self.check_same(&codebook)?;
        self.pack_all(codebook);
        Ok(())
    }

    /// Packs only the codes in `changed` again, from the whole `codebook`.
    ///
    /// # Errors
    /// [`Error::Shape`] where the shape differs, [`Error::CodeOutOfRange`] for a code that does not
    /// exist; nothing has been changed then.
    pub fn repack_codes<E: Element>(&mut self, codebook: MatRef<E>, changed: &[u32]) -> Result<()> {
        self.check_same(&codebook)?;
        let codes = self.codes;
        if let Some(row) = changed.iter().position(|&k| k as usize >= codes) {
            return Err(Error::CodeOutOfRange { op: "repack", row, code: changed[row], codes });
        }
        for &k in changed {
            self.pack_code(k as usize, codebook.row(k as usize));
        }
        match changed.len() < self.panels() {
            true => self.pack_half_norms(changed.iter().map(|&k| k as usize / PANEL)),
            false => self.pack_half_norms(0..self.panels()),
        }
        self.pack_copies(codebook, Some(changed));
        Ok(())
    }

    fn check_same<E>(&self, codebook: &MatRef<E>) -> Result<()> {
        same("repack", "number of codes", self.codes, codebook.rows())?;
        same("repack", "dim", self.dim, codebook.cols())
    }

    fn pack_all<E: Element>(&mut self, codebook: MatRef<E>) {
        for k in 0..self.codes {
            self.pack_code(k, codebook.row(k));
        }
        // The last panel's missing codes: NaN in every dimension, and so in h.
        let used = self.codes - (self.panels() - 1) * PANEL;
        let last = (self.panels() - 1) * self.dim * PANEL..self.panels() * self.dim * PANEL;
        let floats: &mut [f32] = bytemuck::cast_slice_mut(self.lines.as_mut());
        floats[last].chunks_exact_mut(PANEL).for_each(|column| column[used..].fill(f32::NAN));
        self.pack_half_norms(0..self.panels());
        self.pack_copies(codebook, None);
    }

    fn pack_code<E: Element>(&mut self, k: usize, code: &[E]) {
        let floats: &mut [f32] = bytemuck::cast_slice_mut(self.lines.as_mut());
        let panel = &mut floats[k / PANEL * self.dim * PANEL..][..self.dim * PANEL];
        for (slot, &c) in panel[k % PANEL..].iter_mut().step_by(PANEL).zip(code) {
            *slot = c.to_f32();
        }
    }

    fn pack_half_norms(&mut self, panels: impl Iterator<Item = usize>) {
        if self.metric == Metric::L2 {
            let (all, dim) = (self.panels() * self.dim * PANEL, self.dim);
            let floats: &mut [f32] = bytemuck::cast_slice_mut(self.lines.as_mut());
            let (codes, half_norms) = floats.split_at_mut(all);
            Isa::detect().run(HalfNorms { panels, codes, half_norms, dim });
        }
    }

    /// Decides how rows like `x` `[rows, dim]`, which are about to be searched, are searched from now on: whether the
    /// codes are put in cells, whether rows are pruned by them. Takes a small part of the time of searching `x`, or less
    /// than what it gains. The codes found never depend on it. Nothing is done unless the codebook is
    /// [packed](Packing::Adaptive) for it.
    ///
    /// # Errors
    /// [`Error::Shape`] where `x` has another number of columns.
    ///
    /// ```
    /// use vq_kernels::{Cpu, MatRef, Metric, PackedCodebook, Packing, ops};
    /// let codes = MatRef::new(&[1.0f32, 0.0, 0.0, 1.0], 2, 2)?;
    /// let mut codebook = PackedCodebook::with_packing(codes, Metric::Cosine, Packing::Adaptive)?;
    /// let (cpu, x, mut found) = (Cpu::new(), MatRef::new(&[0.6f32, 0.8], 1, 2)?, [0u32]);
    /// codebook.prepare(&cpu, x)?;
    /// ops::search(&cpu, x, None, &codebook, &mut found, None)?;
    /// assert_eq!(found, [1]);
    /// # Ok::<(), vq_kernels::Error>(())
    /// ```
    pub fn prepare<E: Element>(&mut self, cpu: &Cpu, x: MatRef<E>) -> Result<()> {
        same("prepare", "columns of x", self.dim, x.cols())?;
        let Self { codes, dim, metric, .. } = *self;
        let ([_, end, from, _], all) = (self.parts(), self.panels() * dim * PANEL);
        let (plain, lines) = self.lines.as_mut().split_at_mut(from);
        if self.packing == Packing::Adaptive && !lines.is_empty() && x.rows() > 0 && cpu.search() == Search::Auto {
            let values = &bytemuck::cast_slice(plain)[..all];
            let panels = Panels { codes, dim, values, half_norms: &[] };
            let plain = PackedCodebook { lines: &plain[..end], codes, dim, metric, packing: Packing::Int8 };
            adaptive::Batch { cpu, x, panels, lines, plain }.prepare();
        }
        Ok(())
    }

    /// The codes in `changed`, or all, into what is packed beside the f32.
    fn pack_copies<E: Element>(&mut self, codebook: MatRef<E>, changed: Option<&[u32]>) {
        let (codes, dim, all) = (self.codes, self.dim, self.panels() * self.dim * PANEL);
        let [f32s, int8, bf16, _] = self.parts();
        let (f32s, copies) = self.lines.as_mut().split_at_mut(f32s);
        let f32_len = f32s.len();
        let (copy, rest) = copies.split_at_mut(int8 - f32_len);
        let (wide, lines) = rest.split_at_mut(bf16 - int8);
        let (values, half_norms) = bytemuck::cast_slice(f32s).split_at(all);
        let panels = Panels { codes, dim, values, half_norms };
        if !copy.is_empty() {
            Isa::detect().run(int8::Pack { copy, panels, codebook, changed });
        }
        if !wide.is_empty() {
            Isa::detect().run(bf16::Pack { copy: wide, half_norms, codebook, changed });
        }
        match self.packing {
            Packing::Caps if !lines.is_empty() => caps::pack(lines, panels, changed),
            Packing::Adaptive if !lines.is_empty() => adaptive::changed(lines, panels, changed),
            _ => {}
        }
    }
}

#[cfg(feature = "alloc")]
impl PackedCodebook<alloc::vec::Vec<Line>> {
    /// Packs `codebook` `[codes, dim]` for `metric` into storage of its own, with what
    /// [this machine](Packing::detect) is fastest with.
    ///
    /// # Errors
    /// As [`pack_into`](Self::pack_into).
    pub fn new<E: Element>(codebook: MatRef<E>, metric: Metric) -> Result<Self> {
        Self::with_packing(codebook, metric, Packing::detect())
    }

    /// Packs `codebook` `[codes, dim]` for `metric` into storage of its own.
    ///
    /// # Errors
    /// As [`pack_into`](Self::pack_into).
    pub fn with_packing<E: Element>(codebook: MatRef<E>, metric: Metric, packing: Packing) -> Result<Self> {
        check_codebook("pack", codebook.rows(), codebook.cols())?;
        let len = PackedCodebook::lines_len(codebook.rows(), codebook.cols(), metric, packing);
        Self::pack_into(codebook, metric, packing, alloc::vec![Line([0.0; 16]); len])
    }
}
