//! The rows of a block on their way through the codes, and the groups of codes that they keep for the exact pass.

use core::mem::MaybeUninit;

use super::super::kernel::{Found, Running, nearest_block};
use crate::codebook::{Line, PackedCodebook};
use crate::element::Code;
use crate::simd::Lanes;

/// What a coarse pass knows of a row: how far its scores may be from the contract's.
pub(in crate::ops::search) trait Bound: Copy + Default {
    /// A coarse score.
    type Score: Copy + PartialOrd;
    /// Below every score.
    const NOTHING: Self::Score;
    /// Above every score.
    const NEVER: Self::Score;
    /// What every code of the highest score reaches, where `best` is the best coarse score.
    fn threshold(&self, best: Self::Score) -> Self::Score;
    /// A coarse score that only codes with a contract's score below `score` are below.
    fn reach(&self, score: f32) -> Self::Score;
}

/// Groups that a block may keep for the exact pass; rows that need more go through the f32 pass.
///
/// Of 6,250 groups of 16 codes, random unit codes of 8, 32 and 256 dimensions leave 8, 4 and 18 a row on average.
const LOG: usize = 8064;

/// A group that came near a row's best one.
#[derive(Clone, Copy)]
struct Kept<S> {
    row: u32,
    near: Near<S>,
}

/// A group and the largest coarse score in it.
#[derive(Clone, Copy)]
pub(in crate::ops::search) struct Near<S> {
    pub group: u32,
    pub score: S,
}

/// At most `ROWS` rows, a field to an array.
pub(in crate::ops::search) struct Block<B: Bound, const ROWS: usize> {
    pub len: usize,
    pub at: [u32; ROWS],
    pub rows: [B; ROWS],
    pub best: [B::Score; ROWS],
    /// What a group must reach to be kept; out of reach where too many were, and from `len` on.
    pub threshold: [B::Score; ROWS],
    /// What all rows have kept, in the order of the groups: a log, since rows would be far apart in memory.
    /// The first `logged` are written.
    log: [MaybeUninit<Kept<B::Score>>; LOG],
    logged: usize,
    /// Groups by row, in the end: those of row `i` from `starts[i]` to `ends[i]`.
    by_row: [MaybeUninit<Near<B::Score>>; LOG],
    starts: [u32; ROWS],
    ends: [u32; ROWS],
}

impl<B: Bound, const ROWS: usize> Block<B, ROWS> {
    #[inline(always)]
    pub fn new() -> Self {
        Self {
            len: 0,
            at: [0; ROWS],
            rows: [B::default(); ROWS],
            best: [B::NOTHING; ROWS],
            threshold: [B::NEVER; ROWS],
            log: [MaybeUninit::uninit(); LOG],
            logged: 0,
            by_row: [MaybeUninit::uninit(); LOG],
            starts: [0; ROWS],
            ends: [0; ROWS],
        }
    }

    #[inline(always)]
    pub fn clear(&mut self) {
        (self.len, self.logged) = (0, 0);
        self.threshold.fill(B::NEVER);
    }

    /// Row `at` of those that came together.
    #[inline(always)]
    pub fn push(&mut self, at: usize, row: B) {
        let i = self.len;
        self.at[i] = at as u32;
        self.rows[i] = row;
        self.best[i] = B::NOTHING;
        self.threshold[i] = row.threshold(B::NOTHING);
        self.len += 1;
    }

    /// Row `i` has a group whose score is `score`.
    #[inline(always)]
    pub fn raise(&mut self, i: usize, score: B::Score) {
        if score > self.best[i] && self.threshold[i] != B::NEVER {
            self.best[i] = score;
            self.demand(i, self.rows[i].threshold(score));
        }
    }

    /// Row `i` keeps only groups that reach `threshold`.
    #[inline(always)]
    pub fn demand(&mut self, i: usize, threshold: B::Score) {
        if threshold > self.threshold[i] {
            self.threshold[i] = threshold;
        }
    }

    /// Keeps a group of row `i`, where it reaches the threshold.
    #[inline(always)]
    pub fn keep(&mut self, i: usize, near: Near<B::Score>) {
        let reaches = near.score >= self.threshold[i];
        if !reaches || self.threshold[i] == B::NEVER {
            return;
        }
        if self.logged == LOG {
            self.thin();
            if self.logged > LOG / 8 * 7 {
                // What it has kept goes with the next thinning.
                self.threshold[i] = B::NEVER;
                return;
            }
        }
        self.log[self.logged].write(Kept { row: i as u32, near });
        self.logged += 1;
    }

    /// Drops what is below its row's threshold by now.
    fn thin(&mut self) {
        let logged = &mut self.log[..self.logged];
        // SAFETY: `logged` counts those that were written; the layouts are the same.
        let log = unsafe { &mut *(core::ptr::from_mut(logged) as *mut [Kept<B::Score>]) };
        let mut count = 0;
        for k in 0..log.len() {
            if log[k].near.score >= self.threshold[log[k].row as usize] {
                log[count] = log[k];
                count += 1;
            }
        }
        self.logged = count;
    }

    /// Sorts what was kept by row; within a row the order stays, that of the groups.
    pub fn sort(&mut self) {
        self.thin();
        // SAFETY: as in `thin`.
        let log = unsafe { &*(core::ptr::from_ref(&self.log[..self.logged]) as *const [Kept<B::Score>]) };
        self.ends.fill(0);
        log.iter().for_each(|kept| self.ends[kept.row as usize] += 1);
        let mut start = 0;
        for (first, end) in self.starts.iter_mut().zip(&mut self.ends) {
            *first = start;
            start += *end;
            *end = *first;
        }
        // Every place of `by_row` between a start and its end is written once.
        for kept in log {
            let end = &mut self.ends[kept.row as usize];
            self.by_row[*end as usize].write(kept.near);
            *end += 1;
        }
    }

    /// The groups one of which has row `i`'s nearest code; none where they were too many.
    pub fn near(&self, i: usize) -> &[Near<B::Score>] {
        let of_row = &self.by_row[self.starts[i] as usize..self.ends[i] as usize];
        // SAFETY: `sort` has written all between a start and its end; the layouts are the same.
        unsafe { &*(core::ptr::from_ref(of_row) as *const [Near<B::Score>]) }
    }
}

/// The rows of a block that no bound holds for, or that keep too much: every code is scored in f32.
pub(in crate::ops::search) struct Hard<V, const ROWS: usize> {
    at: [u32; ROWS],
    len: usize,
    running: [Running<V>; ROWS],
}

impl<V: Lanes, const ROWS: usize> Hard<V, ROWS> {
    /// None.
    ///
    /// # Safety
    /// The CPU supports `V`.
    #[inline(always)]
    pub unsafe fn new() -> Self {
        // SAFETY: the caller's claim.
        Self { at: [0; ROWS], len: 0, running: [unsafe { Running::nothing() }; ROWS] }
    }

    /// Row `at` of those that came together.
    #[inline(always)]
    pub fn push(&mut self, at: usize) {
        self.at[self.len] = at as u32;
        self.len += 1;
    }

    /// Finds their codes, and forgets them; how many they were.
    ///
    /// # Safety
    /// Each of `x` is readable for `dim` elements, the codebook's dimension; the CPU supports `V`.
    #[inline(always)]
    pub unsafe fn search<C: Code>(
        &mut self,
        codebook: &PackedCodebook<&[Line]>,
        x: &[*const f32],
        indices: &[u32],
        dim: usize,
        found: &mut Found<C>,
    ) -> usize {
        let at = &self.at[..self.len];
        let mut rows = [core::ptr::null(); ROWS];
        rows.iter_mut().zip(at).for_each(|(row, &at)| *row = x[at as usize]);
        // SAFETY: the caller's claims.
        unsafe {
            nearest_block(codebook, &rows[..at.len()], dim, &mut self.running[..at.len()], |i, code, score| {
                found.put(indices[at[i] as usize], code, score);
            });
        }
        core::mem::take(&mut self.len)
    }
}

/// The numbers of the bits that are set.
#[derive(Clone, Copy)]
pub(in crate::ops::search) struct Bits(pub u32);

impl Iterator for Bits {
    type Item = usize;
    #[inline(always)]
    fn next(&mut self) -> Option<usize> {
        let lowest = self.0.trailing_zeros();
        self.0 &= self.0.wrapping_sub(1);
        (lowest < 32).then_some(lowest as usize)
    }
}
