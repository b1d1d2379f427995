//! How much of a codebook is used, by three definitions that publications mix up.

use core::fmt;

use serde::{Deserialize, Serialize};
use vq_kernels::ops::usage::{Usage, count};

use crate::common::failure::Failure;

/// Over which images a code has to occur once to count as used. The figures differ by tens of per cent: never give one without its definition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Definition {
    /// One epoch of training, while the weights move: what VQGAN-LC's training logs. Too high, as codes wander.
    TrainingEpoch,
    /// The held-out images, after training: what VQGAN-LC's evaluation script counts. Too low where there are few tokens to a code.
    HeldOut,
    /// All images of a named training set, after training and without augmentation: what VQGAN-LC's authors report.
    TrainingSet,
}

impl Definition {
    /// A few words for a table.
    pub fn describe(self) -> &'static str {
        match self {
            Self::TrainingEpoch => "in one epoch of training, while weights move",
            Self::HeldOut => "over held-out images, after training",
            Self::TrainingSet => "over a training set, after training",
        }
    }
}

impl fmt::Display for Definition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.describe())
    }
}

/// Counts how often each code occurs over one set of images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageCounter {
    definition: Definition,
    set: String,
    counts: Vec<u64>,
}

/// What was counted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UsageReport {
    /// Over what.
    pub definition: Definition,
    /// The set's name.
    pub set: String,
    /// Codes in the codebook.
    pub codes: usize,
    /// Codes that occurred at least once.
    pub active: usize,
    /// Tokens counted.
    pub tokens: u64,
    /// `active / codes`.
    pub utilization: f64,
    /// `exp(−Σ p ln p)`: as many equally frequent codes would be as varied.
    pub perplexity: f64,
}

impl UsageCounter {
    /// Nothing counted yet of `codes` codes over the images that `set` names.
    ///
    /// # Errors
    /// Where there is no code.
    pub fn new(definition: Definition, set: impl Into<String>, codes: usize) -> Result<Self, Failure> {
        Self::from_counts(definition, set, vec![0; codes])
    }

    /// Goes on from [`Self::counts`] of another run.
    ///
    /// # Errors
    /// Where there is no code.
    pub fn from_counts(definition: Definition, set: impl Into<String>, counts: Vec<u64>) -> Result<Self, Failure> {
        if counts.is_empty() {
            return Err(Failure::new("the utilization of a codebook without codes was asked for"));
        }
        Ok(Self { definition, set: set.into(), counts })
    }

    /// Counts a batch's codes.
    ///
    /// # Errors
    /// For a code that the codebook does not have, with nothing counted.
    pub fn add(&mut self, codes: &[u32]) -> Result<(), Failure> {
        Ok(count(codes, None, &mut self.counts)?)
    }

    /// How often each code occurred.
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// Forgets what was counted: the next epoch begins.
    pub fn restart(&mut self) {
        self.counts.fill(0);
    }

    /// The figures so far.
    pub fn report(&self) -> UsageReport {
        let usage = Usage::of(&self.counts);
        UsageReport {
            definition: self.definition,
            set: self.set.clone(),
            codes: usage.codes,
            active: usage.active,
            tokens: usage.rows,
            utilization: usage.utilization(),
            perplexity: usage.perplexity,
        }
    }
}

impl UsageReport {
    /// Tokens for each code: below 10 or so, unused codes say little about the codebook.
    pub fn tokens_per_code(&self) -> f64 {
        self.tokens as f64 / self.codes.max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Augment, Batches, Dataset, Source};

    /// A frozen model: the code of a picture's token depends on nothing else.
    fn codes_of(picture: usize) -> [u32; 4] {
        core::array::from_fn(|token| ((picture * picture + 3 * token) % 40) as u32)
    }

    #[test]
    fn the_three_definitions_agree_on_a_frozen_model_and_a_fixed_set() {
        let dataset = Dataset::open(&Source::Scenes { count: 30, size: 4, seed: 1 }, false).expect("scenes");
        let counter = |definition| UsageCounter::new(definition, dataset.name(), 40).expect("codes");
        let mut epoch = counter(Definition::TrainingEpoch);
        let batches = Batches::new(&dataset, 4, 6, Augment::FOUR_M, 3).expect("batches");
        for step in 0..batches.steps_per_epoch() as u64 {
            for index in batches.get(step).indices {
                epoch.add(&codes_of(index)).expect("codes");
            }
        }
        let mut set = counter(Definition::TrainingSet);
        (0..dataset.len()).for_each(|index| set.add(&codes_of(index)).expect("codes"));
        let mut held_out = counter(Definition::HeldOut);
        let all: Vec<u32> = (0..dataset.len()).rev().flat_map(codes_of).collect();
        held_out.add(&all).expect("codes");

        assert_eq!((epoch.counts(), held_out.counts()), (set.counts(), set.counts()));
        let report = set.report();
        let mut distinct = all.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!((report.codes, report.active, report.tokens), (40, distinct.len(), 120));
        assert!(report.active < 40 && report.utilization == distinct.len() as f64 / 40.0);
        let entropy: f64 = distinct
            .iter()
            .map(|code| all.iter().filter(|other| *other == code).count() as f64 / 120.0)
            .map(|p| -p * p.ln())
            .sum();
        assert!((report.perplexity - entropy.exp()).abs() < 1e-9);
        assert_eq!(report.tokens_per_code(), 3.0);
        for mut other in [epoch.report(), held_out.report()] {
            other.definition = report.definition;
            assert_eq!(other, report);
        }
    }

    #[test]
    fn counting_can_go_on_and_begin_anew() {
        let mut counter = UsageCounter::new(Definition::TrainingEpoch, "a", 3).expect("codes");
        counter.add(&[0, 2, 2]).expect("codes");
        let mut resumed = UsageCounter::from_counts(Definition::TrainingEpoch, "a", counter.counts().to_vec());
        assert_eq!(resumed.as_mut().ok(), Some(&mut counter));
        counter.restart();
        let report = counter.report();
        assert_eq!((report.active, report.tokens, report.perplexity), (0, 0, 0.0));
    }

    #[test]
    fn codes_that_do_not_exist_are_refused() {
        assert!(UsageCounter::new(Definition::HeldOut, "a", 0).is_err());
        let mut counter = UsageCounter::new(Definition::HeldOut, "a", 2).expect("codes");
        assert!(counter.add(&[0, 2]).is_err());
        assert_eq!(counter.counts(), [0, 0]);
    }
}
