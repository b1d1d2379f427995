//! Where everything of a k-means lies in its memory.

use super::pass::{ENTRY_WORDS, PASS_WORDS, SORTED, SUMS_WORDS};
use crate::codebook::Metric;
use crate::cuda::arena::{Layout, Place};
use crate::cuda::codebook::PackedDeviceCodebook;
use crate::cuda::ops::search_room;
use crate::cuda::queue::Queue;
use crate::error::Result;
use crate::kmeans::kept_rows;

#[derive(Clone, Copy)]
pub(super) struct Places {
    pub packed: Place<u32>,
    pub totals: Place<i64>,
    pub sums: Place<i64>,
    /// The sums' exponent, and the one that a batch needs.
    pub exponent: Place<i32>,
    pub needed: Place<i32>,
    /// Rows that each centre was made of, by weight.
    pub seen: Place<f64>,
    // -- of a pass
    pub hits: Place<u64>,
    pub pass: Place<u64>,
    pub report: Place<u64>,
    /// The farthest rows: their keys, values and nearest centres.
    pub keys: Place<u64>,
    pub farthest: Place<f32>,
    pub nearest: Place<u32>,
    // -- of a batch
    pub codes: Place<u32>,
    pub distances: Place<f64>,
    pub search: Place<u8>,
    pub entries: Place<u64>,
    pub chosen: Place<u64>,
    pub taken: Place<f32>,
    pub taken_nearest: Place<u32>,
    // -- of a pass's end
    pub usable: Place<u32>,
    pub distinct: Place<u32>,
    pub list: Place<u32>,
    pub empty: Place<u32>,
}

impl Places {
    pub fn of(queue: &impl Queue, codes: usize, dim: usize, metric: Metric, rows: usize) -> Result<(Self, usize)> {
        let mut layout = Layout::default();
        let room = kept_rows(codes);
        let places = Self {
            packed: layout.place(PackedDeviceCodebook::storage_len(codes, dim, metric)?),
            totals: layout.place(codes),
            sums: layout.place(codes.saturating_mul(dim)),
            exponent: layout.place(1),
            needed: layout.place(1),
            seen: layout.place(codes),
            hits: layout.place(codes),
            pass: layout.place(SUMS_WORDS),
            report: layout.place(PASS_WORDS),
            keys: layout.place(room * ENTRY_WORDS),
            farthest: layout.place(room.saturating_mul(dim)),
            nearest: layout.place(room),
            codes: layout.place(rows),
            distances: layout.place(rows),
            search: layout.place(search_room(queue, rows, dim)),
            entries: layout.place(padded(room, rows) * ENTRY_WORDS),
            chosen: layout.place(room * ENTRY_WORDS),
            taken: layout.place(room.saturating_mul(dim)),
            taken_nearest: layout.place(room),
            usable: layout.place(room),
            distinct: layout.place(room),
            list: layout.place(room),
            empty: layout.place(codes),
        };
        Ok((places, layout.end))
    }
}

/// How many entries are sorted: whole blocks, and a power of two.
pub(super) fn padded(room: usize, rows: usize) -> usize {
    (room + rows).next_power_of_two().max(SORTED)
}
