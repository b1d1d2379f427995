//! In which order a training meets its items.

use super::Permutation;
use crate::common::random::generator;

/// Items numbered through, epoch after epoch, each epoch in a random order of its own; step `s` sees numbers `s · batch` to `(s + 1) · batch − 1`.
///
/// So every epoch visits each item once, and a batch may end one epoch and begin the next.
#[derive(Clone, Debug)]
pub(super) struct Visits {
    /// How many items; at least 1.
    pub items: usize,
    /// Items of a step; at least 1.
    pub batch: usize,
    /// Chooses the orders.
    pub seed: u64,
}

impl Visits {
    /// Epoch and item of each place in a step's batch.
    pub fn at(&self, step: u64) -> Vec<(u64, usize)> {
        let items = self.items as u128;
        let first = u128::from(step) * self.batch as u128;
        let mut order: Option<(u64, Permutation)> = None;
        let visit = |number: u128| {
            // Epochs beyond 2^64 wrap round: no training lasts as long.
            let (epoch, rank) = ((number / items) as u64, (number % items) as u64);
            let current = order.take().filter(|(of, _)| *of == epoch);
            let (_, permutation) = order.insert(current.unwrap_or_else(|| {
                let key = generator("epoch order", self.seed, epoch, 0).next_u64();
                (epoch, Permutation::new(self.items as u64, key))
            }));
            (epoch, permutation.at(rank) as usize)
        };
        (first..first + self.batch as u128).map(visit).collect()
    }

    /// Epochs begun and ended before a step: 1.5 where every item was seen once and half of them twice.
    pub fn epochs(&self, step: u64) -> f64 {
        step as f64 * self.batch as f64 / self.items as f64
    }

    /// Steps that one epoch takes, the last of them perhaps shared with the next.
    pub fn steps_per_epoch(&self) -> usize {
        self.items.div_ceil(self.batch)
    }
}
