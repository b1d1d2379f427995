//! Where an op runs: an instruction set, and optionally a caller's pool of threads.

#[cfg(target_has_atomic = "ptr")]
use crate::ops::search::Tally;
use crate::ops::search::{Counts, Search};
use crate::simd::Isa;
use core::marker::PhantomData;

/// Threads to divide an op's work over. Results never depend on how it is divided.
///
/// Feature `rayon` implements it for `rayon::ThreadPool`. Another pool takes a few lines:
///
/// ```
/// struct Threads(usize);
/// // SAFETY: one scoped thread for each index, and the scope joins them all.
/// unsafe impl vq_kernels::Pool for Threads {
///     fn threads(&self) -> usize {
///         self.0
///     }
///     fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
///         std::thread::scope(|scope| (0..tasks).for_each(|i| drop(scope.spawn(move || task(i)))));
///     }
/// }
/// let cpu = vq_kernels::Cpu::new().with_pool(&Threads(2));
/// assert_eq!(cpu.threads(), 2);
/// ```
///
/// # Safety
/// [`run`](Self::run) must call `task(i)` exactly once for each `i` in `0..tasks`, and return only
/// when all those calls have returned: tasks write to disjoint parts of one output.
pub unsafe trait Pool: Sync {
    /// Number of threads.
    fn threads(&self) -> usize;
    /// Calls `task(i)` once for each `i` in `0..tasks`, on any thread, and waits for all.
    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync));
}

// SAFETY: rayon's parallel iterator over a range visits each index once and joins.
#[cfg(feature = "rayon")]
unsafe impl Pool for rayon::ThreadPool {
    fn threads(&self) -> usize {
        self.current_num_threads()
    }

    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        use rayon::iter::{IntoParallelIterator, ParallelIterator};
        self.install(|| (0..tasks).into_par_iter().for_each(task));
    }
}

/// The processor that an op runs on: the first argument of every op.
///
/// ```
/// let cpu = vq_kernels::Cpu::new(); // the fastest instruction set here, on the calling thread
/// assert!(vq_kernels::Isa::available().any(|isa| isa == cpu.isa()));
/// ```
#[derive(Clone, Copy)]
pub struct Cpu<'p> {
    isa: Isa,
    pool: Option<&'p dyn Pool>,
    search: Search,
    #[cfg(target_has_atomic = "ptr")]
    tally: Option<&'p Tally>,
}

impl core::fmt::Debug for Cpu<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let mut debug = f.debug_struct("Cpu");
        debug.field("isa", &self.isa).field("threads", &self.threads()).field("search", &self.search).finish()
    }
}

impl Default for Cpu<'_> {
    fn default() -> Self {
        Self::new()
    }
}

impl<'p> Cpu<'p> {
    /// The fastest instruction set that is detected, on the calling thread.
    pub fn new() -> Self {
        Self::with_isa(Isa::detect())
    }

    /// `isa`, on the calling thread.
    pub fn with_isa(isa: Isa) -> Self {
        Self {
            isa,
            pool: None,
            search: Search::Auto,
            #[cfg(target_has_atomic = "ptr")]
            tally: None,
        }
    }

    /// The same instruction set on `pool`'s threads.
    pub fn with_pool<'q>(&self, pool: &'q dyn Pool) -> Cpu<'q>
    where
        'p: 'q,
    {
        Cpu { pool: Some(pool), ..*self }
    }

    /// The same, with searches by `search`; [`Search::Auto`] unless it is set.
    #[must_use]
    pub fn with_search(self, search: Search) -> Self {
        Self { search, ..self }
    }

    /// The same, with `tally` counting what searches do.
    #[cfg(target_has_atomic = "ptr")]
    pub fn with_tally<'q>(&self, tally: &'q Tally) -> Cpu<'q>
    where
        'p: 'q,
    {
        Cpu { tally: Some(tally), ..*self }
    }

    /// How rows and codes are searched.
    pub fn search(&self) -> Search {
        self.search
    }

    #[cfg_attr(not(target_has_atomic = "ptr"), expect(clippy::unused_self))]
    pub(crate) fn count(&self, counts: Counts) {
        #[cfg(target_has_atomic = "ptr")]
        if let Some(tally) = self.tally {
            tally.add(counts);
        }
        #[cfg(not(target_has_atomic = "ptr"))]
        let _ = counts;
    }

    /// The instruction set.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Number of threads that work is divided over.
    pub fn threads(&self) -> usize {
        // More threads than this would not fit any machine, and their products stay within bounds.
        self.pool.map_or(1, |pool| pool.threads().clamp(1, 1 << 12))
    }

    /// Calls `task(first, count)` for consecutive parts of `0..items`, each but the last a multiple
    /// of `quantum`, a few per thread; every item is in exactly one part.
    pub(crate) fn divide(&self, items: usize, quantum: usize, task: &(dyn Fn(usize, usize) + Sync)) {
        const PARTS_PER_THREAD: usize = 4;
        let Some(pool) = self.pool.filter(|_| items > quantum && self.threads() > 1) else {
            if items > 0 {
                task(0, items);
            }
            return;
        };
        let part = items.div_ceil(self.threads() * PARTS_PER_THREAD).next_multiple_of(quantum);
        pool.run(items.div_ceil(part), &|i| {
            let first = i * part;
            task(first, part.min(items - first));
        });
    }
}

/// A slice whose disjoint ranges are written by several tasks.
pub(crate) struct Disjoint<'a, T> {
    data: *mut T,
    len: usize,
    borrow: PhantomData<&'a mut [T]>,
}

// SAFETY: it hands out `&mut T` on other threads, which `T: Send` allows; disjointness is `range`'s claim.
unsafe impl<T: Send> Sync for Disjoint<'_, T> {}

impl<'a, T> Disjoint<'a, T> {
    pub(crate) fn new(data: &'a mut [T]) -> Self {
        Self { data: data.as_mut_ptr(), len: data.len(), borrow: PhantomData }
    }

    /// Elements `first .. first + count`.
    ///
    /// # Safety
    /// No two ranges that are alive at the same time overlap.
    #[expect(clippy::mut_from_ref, reason = "disjointness is the caller's claim")]
    pub(crate) unsafe fn range(&self, first: usize, count: usize) -> &mut [T] {
        assert!(first <= self.len && count <= self.len - first, "range within the slice");
        // SAFETY: in bounds by the assertion; exclusive by the caller's claim; alive by `borrow`.
        unsafe { core::slice::from_raw_parts_mut(self.data.add(first), count) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A thread for each task.
    struct Threads;

    // SAFETY: one scoped thread for each index; the scope joins them.
    unsafe impl Pool for Threads {
        fn threads(&self) -> usize {
            3
        }
        fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
            std::thread::scope(|scope| (0..tasks).for_each(|i| drop(scope.spawn(move || task(i)))));
        }
    }

    #[test]
    #[cfg_attr(target_family = "wasm", ignore = "there are no threads")]
    fn divided_work_covers_every_item_once() {
        for items in [0, 1, 95, 96, 97, 1000, 5000] {
            let mut seen = std::vec![0u8; items];
            let parts = Disjoint::new(&mut seen);
            Cpu::new().with_pool(&Threads).divide(items, 96, &|first, count| {
                assert!(first % 96 == 0);
                // SAFETY: `divide` gives every item to one part.
                unsafe { parts.range(first, count) }.iter_mut().for_each(|n| *n += 1);
            });
            assert!(seen.iter().all(|&n| n == 1), "{items}");
        }
    }

    #[test]
    #[should_panic(expected = "range within the slice")]
    fn a_range_past_the_end_is_caught() {
        let mut data = [0u8; 4];
        let disjoint = Disjoint::new(&mut data);
        // SAFETY: one range only.
        unsafe { disjoint.range(3, 2) }.fill(1);
    }
}
