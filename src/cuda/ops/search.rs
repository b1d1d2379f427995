//! [`crate::ops::search()`] on a GPU: a certified coarse pass in f16 on the tensor cores, groups of codes that are
//! left in f32, and rows for which that is not clear against all codes in f32.

use super::{check_extent, check_weights, check_workspace};
use crate::codebook::Metric;
use crate::cuda::codebook::{Layout, PackedDeviceCodebook};
use crate::cuda::images::SEARCH;
use crate::cuda::memory::{DeviceMatRef, DeviceMut, DeviceRef};
use crate::cuda::ops::row_width;
use crate::cuda::queue::{Arg, Grid, Kernel, Queue};
use crate::cuda::status::Op;
use crate::element::{Code, Element, check_width};
#[cfg(doc)]
use crate::error::Error;
use crate::error::{Result, same};
use crate::ops::search::Search;

const OP: &str = "search";
/// Entries of a row that a warp sorts out: [`Layout::classes`] × 4 × splits.
const MOST_ENTRIES: usize = 128;
/// Rows and codes of a tile of the f32 kernel, and the codes that one block takes of a row tile.
const EXACT_ROWS: usize = 64;
const EXACT_PIECE: usize = 1024;
/// Elements of a codebook below which the f32 kernel is taken for all rows: its work is then less than what
/// the coarse pass's launches take. (Awaits a device.)
const WORTHWHILE: usize = 1 << 14;

/// The nearest code of each row of `x` `[rows, dim]`, into `codes` `[rows]` (u32, or u16 where the
/// number of codes allows it), and its score into `scores` `[rows]` where that is given.
///
/// `workspace` has [`search_workspace_len`] bytes at least. `way`: the codes found never depend on it;
/// [`Search::Pruned`] is taken as [`Search::Auto`].
///
/// # Errors
/// [`Error::Shape`] where the extents differ, [`Error::CodeWidth`] where `codes`' type cannot number all codes,
/// [`CudaError::Misaligned`](crate::cuda::CudaError::Misaligned) where `workspace` does not start at a multiple of 16
/// bytes. Noted in the status: weights outside `0..=1`; such a row gets no code.
#[expect(clippy::too_many_arguments, reason = "the CPU's arguments, the way and the workspace")]
pub fn search<E: Element, C: Code>(
    queue: &impl Queue,
    x: &DeviceMatRef<E>,
    weights: Option<&DeviceRef<f32>>,
    codebook: &PackedDeviceCodebook,
    codes: &mut DeviceMut<C>,
    scores: Option<&mut DeviceMut<f32>>,
    way: Search,
    workspace: &mut DeviceMut<u8>,
) -> Result<()> {
    same(OP, "columns of x", codebook.dim(), x.cols())?;
    same(OP, "length of codes", x.rows(), codes.len())?;
    if let Some(scores) = &scores {
        same(OP, "length of scores", x.rows(), scores.len())?;
    }
    check_weights(OP, weights, x.rows())?;
    // Rows are filled up to whole tiles of the coarse pass.
    check_extent(OP, "rows", x.rows().saturating_add(512))?;
    check_width::<C>(codebook.codes())?;
    let plan = Plan::of(queue, x.rows(), codebook.codes(), codebook.dim());
    check_workspace(OP, plan.end, workspace)?;
    workspace.aligned(16)?;
    if x.rows() == 0 {
        return Ok(());
    }
    let coarse = match way {
        Search::F32 => false,
        Search::Coarse => true,
        Search::Auto | Search::Pruned => codebook.codes() * codebook.dim() >= WORTHWHILE,
    };
    let at = |offset: usize| workspace.arg(offset);
    let (rows, dim) = (x.rows(), x.cols());
    let (weights, scores) = (Arg::from(weights), Arg::from(scores.as_deref()));
    let (count, keys) = (at(plan.count), at(plan.keys));
    let wide = u32::from(size_of::<C>() == 4);
    let list = if coarse { at(plan.list) } else { Arg::NONE };
    let all = Grid::over(rows, 256, 256);
    let begin = [rows.into(), count, if coarse { Arg::NONE } else { keys }];
    // SAFETY: the kernel's parameters; the plan has room for them in the workspace.
    unsafe { queue.launch(Kernel::new(&SEARCH, "search_begin"), all, &begin)? };
    if coarse {
        // SAFETY: as above.
        unsafe { plan.coarse(queue, x, weights, codebook, &at, [Arg::from(&*codes), scores, wide.into()])? };
    }
    let exact = Kernel::of::<E>(&SEARCH, ["search_exact_f32", "search_exact_f16", "search_exact_bf16"]);
    let items = rows.div_ceil(EXACT_ROWS).saturating_mul(codebook.codes().div_ceil(EXACT_PIECE));
    let blocks = items.min(2 * queue.processors() as usize).max(1) as u32;
    let grid = Grid { blocks: [blocks, 1, 1], threads: 256 };
    let args = [
        x.into(),
        (&codebook.codebook).into(),
        codebook.half_norms(),
        rows.into(),
        codebook.codes().into(),
        dim.into(),
        EXACT_PIECE.into(),
        count,
        list,
        keys,
    ];
    let finish = [
        weights,
        rows.into(),
        count,
        list,
        keys,
        Arg::from(&*codes),
        scores,
        wide.into(),
        queue.status().into(),
        Op::Search.into(),
    ];
    // SAFETY: as above.
    unsafe {
        queue.launch(exact, grid, &args)?;
        queue.launch(Kernel::new(&SEARCH, "search_finish"), all, &finish)
    }
}

/// Bytes of workspace that [`search`] needs for up to `rows` rows.
pub fn search_workspace_len(queue: &impl Queue, rows: usize, codebook: &PackedDeviceCodebook) -> usize {
    Plan::of(queue, rows, codebook.codes(), codebook.dim()).end
}

/// [`search_workspace_len`] before there is a codebook.
pub(crate) fn search_room(queue: &impl Queue, rows: usize, dim: usize) -> usize {
    Plan::of(queue, rows, 1, dim).end
}

/// How a search is divided, and where things lie in the workspace.
struct Plan {
    layout: Layout,
    padded_rows: usize,
    splits: usize,
    per_split: usize,
    fragments: usize,
    infos: usize,
    entries: usize,
    keys: usize,
    list: usize,
    count: usize,
    end: usize,
}

impl Plan {
    fn of(queue: &impl Queue, rows: usize, codes: usize, dim: usize) -> Self {
        let layout = Layout::of(dim);
        let padded_rows = rows.next_multiple_of(layout.rows);
        let chunks = codes.div_ceil(layout.chunk);
        let (tiles, processors) = (padded_rows / layout.rows, queue.processors().max(1) as usize);
        // Few rows leave processors over: then the codes are split, into two blocks for each processor at most. So
        // fewer rows never need more room.
        let blocks = tiles.max(2 * processors);
        let most = (MOST_ENTRIES / (4 * layout.classes)).min(chunks).min(blocks / tiles.max(1)).max(1);
        // Blocks come in waves, one to a processor; each split costs its share of a chunk or two besides.
        let cost = |splits: usize| (tiles * splits).div_ceil(processors) * (chunks.div_ceil(splits) + 2);
        let wished = (1..=most).min_by_key(|&splits| cost(splits)).unwrap_or(1);
        let per_split = chunks.div_ceil(wished).max(1);
        let splits = chunks.div_ceil(per_split);
        let mut end = 0;
        let mut place = |bytes: usize| {
            let at = end;
            end += bytes.next_multiple_of(16);
            at
        };
        let fragments = place(padded_rows * layout.steps * 32);
        let infos = place(padded_rows * 16);
        let entries = place(blocks * layout.rows * layout.classes * 4 * 16);
        let (keys, list, count) = (place(rows * 8), place(rows * 4), place(16));
        Self { layout, padded_rows, splits, per_split, fragments, infos, entries, keys, list, count, end }
    }

    /// Rows to f16, the coarse pass, and the groups that it leaves.
    ///
    /// # Safety
    /// The workspace is planned for this search.
    unsafe fn coarse<E: Element>(
        &self,
        queue: &impl Queue,
        x: &DeviceMatRef<E>,
        weights: Arg,
        codebook: &PackedDeviceCodebook,
        at: &dyn Fn(usize) -> Arg,
        [codes, scores, wide]: [Arg; 3],
    ) -> Result<()> {
        let layout = self.layout;
        let (rows, dim, l2) = (x.rows(), x.cols(), codebook.metric() == Metric::L2);
        let header = codebook.header();
        let (fragments, infos, entries) = (at(self.fragments), at(self.infos), at(self.entries));
        let width = row_width(dim.div_ceil(2));
        let prepare = Kernel::of::<E>(&SEARCH, ["search_rows_f32", "search_rows_f16", "search_rows_bf16"]);
        let prepared = [
            x.into(),
            rows.into(),
            self.padded_rows.into(),
            dim.into(),
            width.into(),
            layout.steps.into(),
            header,
            u32::from(l2).into(),
            fragments,
            infos,
        ];
        let coarse = Kernel::new(&SEARCH, layout.kernels[usize::from(l2)]);
        let passed = [
            fragments,
            codebook.copy(),
            codebook.scaled_half_norms(),
            header,
            self.padded_rows.into(),
            codebook.codes().div_ceil(layout.chunk).into(),
            self.per_split.into(),
            (layout.steps / 2).into(),
            entries,
        ];
        let rescore = Kernel::of::<E>(&SEARCH, ["search_rescore_f32", "search_rescore_f16", "search_rescore_bf16"]);
        let vector = dim.is_multiple_of(4) && codebook.codebook.data().address().is_multiple_of(16);
        let rescored = [
            x.into(),
            weights,
            (&codebook.codebook).into(),
            codebook.half_norms(),
            rows.into(),
            codebook.codes().into(),
            dim.into(),
            u32::from(vector).into(),
            (8 * layout.words).into(),
            header,
            infos,
            entries,
            layout.classes.into(),
            self.splits.into(),
            layout.chunk.into(),
            self.padded_rows.into(),
            codes,
            scores,
            wide,
            at(self.count),
            at(self.list),
            at(self.keys),
            queue.status().into(),
            Op::Search.into(),
        ];
        let tiles = (self.padded_rows / layout.rows) as u32;
        // SAFETY: the kernels' parameters; the places are in the workspace by the caller's claim.
        unsafe {
            queue.launch(prepare, Grid::over(self.padded_rows, (128 / width) as usize, 128), &prepared)?;
            queue.launch(coarse, Grid { blocks: [tiles, self.splits as u32, 1], threads: 256 }, &passed)?;
            queue.launch(rescore, Grid::over(rows, 4, 128), &rescored)
        }
    }
}
