//! t-SNE (van der Maaten and Hinton 2008; Barnes-Hut form: van der Maaten 2014), the same on every run of a machine.
//!
//! By the crate bhtsne. Its nearest neighbours come from our search, its start from a seed, and it runs on one thread: with
//! several, the order of its sums would vary.

use bhtsne::{Neighbor, tSNE};
use vq_kernels::ops::{Candidate, search_top};
use vq_kernels::{Cpu, MatMut, MatRef, Metric, PackedCodebook};

use super::codes::distance;
use crate::common::failure::{Context, Failure};
use crate::common::random::SplitMix64;
use crate::common::terminal::{Count, Progress};

/// Fewer points have no map.
pub const LEAST: usize = 10;

/// Accuracy of the Barnes-Hut approximation (van der Maaten 2014, θ).
const THETA: f32 = 0.5;

/// How a map is made.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Effective number of neighbours; fewer for few points.
    pub perplexity: usize,
    /// Passes of gradient descent.
    pub epochs: usize,
    /// Of the first places.
    pub seed: u64,
}

impl Settings {
    /// Refuses settings that make no map.
    ///
    /// # Errors
    /// A perplexity or epochs of 0.
    pub fn check(&self) -> Result<(), Failure> {
        match self.perplexity == 0 || self.epochs == 0 {
            true => Err(Failure::new("--perplexity and --epochs must be at least 1")),
            false => Ok(()),
        }
    }
}

/// Points in the plane.
#[derive(Clone, Debug)]
pub struct Map {
    /// One for each row.
    pub places: Vec<[f32; 2]>,
    /// The perplexity that was taken.
    pub perplexity: usize,
    /// Kullback-Leibler divergence, the quantity that t-SNE makes small.
    pub divergence: Option<f32>,
}

/// A map of `rows` `[n, dim]`, by Euclidean distance.
///
/// # Errors
/// Fewer than [`LEAST`] rows; values that are not finite; a perplexity or epochs of 0.
pub fn embed(cpu: &Cpu, rows: &[f32], dim: usize, settings: Settings, label: &str) -> Result<Map, Failure> {
    let n = rows.len() / dim.max(1);
    if n < LEAST {
        return Err(Failure::new(format!("{label}: a map needs at least {LEAST} codes, got {n}")));
    }
    settings.check()?;
    if !rows.iter().all(|x| x.is_finite()) {
        return Err(Failure::new(format!(
            "{label}: there are codes that are not finite, which have no place on a map"
        )));
    }
    // As bhtsne has it: three neighbours for each unit of perplexity.
    let perplexity = settings.perplexity.min((n - 1) / 3);
    let neighbours = neighbours(cpu, rows, dim, 3 * perplexity)?;
    let mut random = SplitMix64::new(settings.seed);
    // Of variance 10⁻⁸, as van der Maaten and Hinton start.
    let half = 3.0_f32.sqrt() * 1e-4;
    let start: Vec<f32> = (0..2 * n).map(|_| random.uniform(-half, half)).collect();
    let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().context(|| "cannot start a thread".into())?;
    let mut progress = Progress::new("t-SNE", settings.epochs as u64, Count::Items);
    let (places, divergence) = one.install(|| {
        let samples: Vec<&[f32]> = rows.chunks_exact(dim).collect();
        let mut tsne: tSNE<'_, f32, &[f32]> = tSNE::new(&samples);
        tsne.perplexity(perplexity as f32)
            .epochs(settings.epochs)
            .initial_embedding(start)
            .epoch_callback(|epoch, _| progress.tick(epoch as u64 + 1, label))
            .barnes_hut_with_neighbors(THETA, &neighbours);
        (tsne.embedding(), tsne.kl_divergence())
    });
    progress.done();
    if !places.iter().all(|x| x.is_finite()) {
        return Err(Failure::new(format!("{label}: t-SNE diverged; try another --perplexity or --seed")));
    }
    let places = places.chunks_exact(2).map(|place| [place[0], place[1]]).collect();
    Ok(Map { places, perplexity, divergence })
}

/// The `k` nearest other rows of each row, nearest first.
fn neighbours(cpu: &Cpu, rows: &[f32], dim: usize, k: usize) -> Result<Vec<Vec<Neighbor<f32>>>, Failure> {
    let all = MatRef::new(rows, rows.len() / dim.max(1), dim)?;
    let packed = PackedCodebook::new(all, Metric::L2)?;
    let mut best = vec![Candidate::NONE; all.rows() * (k + 1)];
    search_top(cpu, all, None, &packed, MatMut::new(&mut best, all.rows(), k + 1)?)?;
    let row = |(row, best): (usize, &[Candidate])| {
        // Among many equal rows a row itself may not be found; then the last one goes.
        let others = best.iter().map(|candidate| candidate.code as usize).filter(|&other| other != row).take(k);
        let neighbour = |index: usize| {
            let distance = distance(all.row(row), all.data().chunks_exact(dim).nth(index)?) as f32;
            distance.is_finite().then_some(Neighbor { index, distance })
        };
        let mut found: Vec<Neighbor<f32>> = others.filter_map(neighbour).collect();
        found.sort_by(|a, b| a.distance.total_cmp(&b.distance).then(a.index.cmp(&b.index)));
        found
    };
    let found: Vec<_> = best.chunks_exact(k + 1).enumerate().map(row).collect();
    match found.iter().all(|row| row.len() == k) {
        true => Ok(found),
        false => Err(Failure::new("codes are so long that their distances are not finite: there is no map of them")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two groups far apart, on a line each.
    fn rows() -> Vec<f32> {
        (0..20).flat_map(|i| [if i < 10 { 0.0 } else { 100.0 }, i as f32 * 0.1, 0.0]).collect()
    }

    const SETTINGS: Settings = Settings { perplexity: 30, epochs: 300, seed: 1 };

    #[test]
    fn neighbours_are_the_nearest_others() {
        let found = neighbours(&Cpu::new(), &rows(), 3, 2).expect("neighbours");
        let indices: Vec<usize> = found[4].iter().map(|neighbour| neighbour.index).collect();
        assert!(indices == [3, 5] || indices == [5, 3], "{indices:?}");
        assert_eq!(found[0].iter().map(|neighbour| neighbour.index).collect::<Vec<_>>(), [1, 2]);
        assert!((found[0][1].distance - 0.2).abs() < 1e-6);
    }

    #[test]
    fn a_map_is_the_same_twice_and_other_seeds_make_another() {
        let map = |seed| embed(&Cpu::new(), &rows(), 3, Settings { seed, ..SETTINGS }, "test").expect("a map");
        let first = map(1);
        assert_eq!((first.places.len(), first.perplexity), (20, 6));
        assert_eq!(first.places, map(1).places);
        assert_ne!(first.places, map(2).places);
    }

    #[test]
    fn what_has_no_map_is_refused() {
        let mut bad = rows();
        bad[4] = f32::NAN;
        for (rows, settings) in [
            (rows()[..27].to_vec(), SETTINGS),
            (bad, SETTINGS),
            (rows(), Settings { perplexity: 0, ..SETTINGS }),
            (rows(), Settings { epochs: 0, ..SETTINGS }),
        ] {
            assert!(embed(&Cpu::new(), &rows, 3, settings, "test").is_err());
        }
    }
}
