//! A random order of any length, without a table.

use crate::common::random::SplitMix64;

const ROUNDS: usize = 6;

/// A permutation of `0..n` that a key chooses, computed entry by entry.
///
/// A balanced Feistel network (Luby and Rackoff 1988) permutes the smallest power of four that holds `n`; an image outside `0..n` is permuted
/// again until it lands inside ("cycle walking", Black and Rogaway 2002), fewer than 4 times on average.
#[derive(Clone, Debug)]
pub struct Permutation {
    n: u64,
    half: u32,
    keys: [u64; ROUNDS],
}

impl Permutation {
    /// The permutation of `0..n` that belongs to `key`; of one number where `n` is 0.
    pub fn new(n: u64, key: u64) -> Self {
        let n = n.max(1);
        let bits = u64::BITS - (n - 1).leading_zeros();
        let mut random = SplitMix64::new(key);
        Self { n, half: bits.div_ceil(2).max(1), keys: core::array::from_fn(|_| random.next_u64()) }
    }

    /// Where `i` goes; `i` is counted round.
    pub fn at(&self, i: u64) -> u64 {
        let mut place = self.network(i % self.n);
        // The walk ends: it follows a cycle that `i % n`, which is inside, lies on.
        while place >= self.n {
            place = self.network(place);
        }
        place
    }

    fn network(&self, value: u64) -> u64 {
        let mask = u64::MAX >> (u64::BITS - self.half);
        let (left, right) = self.keys.iter().fold((value >> self.half, value & mask), |(left, right), key| {
            (right, left ^ (SplitMix64::new(right ^ key).next_u64() & mask))
        });
        left << self.half | right
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_comes_once() {
        for n in [1, 2, 3, 4, 5, 16, 17, 63, 64, 65, 1000] {
            for key in 0..3 {
                let order = Permutation::new(n, key);
                let mut places: Vec<u64> = (0..n).map(|i| order.at(i)).collect();
                places.sort_unstable();
                assert_eq!(places, (0..n).collect::<Vec<_>>(), "n {n}, key {key}");
            }
        }
        assert_eq!(Permutation::new(0, 9).at(5), 0);
        let widest = Permutation::new(u64::MAX, 3);
        assert!(widest.at(1) < u64::MAX && widest.at(1) != widest.at(2));
    }

    #[test]
    fn orders_of_different_keys_have_little_in_common() {
        let (a, b) = (Permutation::new(1000, 1), Permutation::new(1000, 2));
        let fixed = (0..1000).filter(|&i| a.at(i) == i).count();
        let shared = (0..1000).filter(|&i| a.at(i) == b.at(i)).count();
        // One is expected of each; nine or more come by chance once in a million.
        assert!(fixed < 9 && shared < 9, "{fixed} fixed, {shared} shared");
    }
}
