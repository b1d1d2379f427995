//! Which vectors are clustered together, how many distinct ones there are, and how many codes each group gets.

use core::hash::Hasher;
use core::ops::Range;
use std::collections::HashSet;
use std::hash::DefaultHasher;

use serde::{Deserialize, Serialize};

use super::features::Features;
use super::file::Figures;
use super::sources::Pictures;
use crate::common::failure::Failure;

/// What is clustered apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Grouping {
    /// The pictures of a folder, as published: a folder is a class, and so is a picture in none.
    Class,
    /// Each picture.
    Image,
    /// Nothing: one k-means over all vectors.
    Joint,
}

impl Grouping {
    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Class => "class",
            Self::Image => "image",
            Self::Joint => "joint",
        }
    }
}

/// Pictures that follow each other in the order of extraction, and are clustered together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Group {
    /// The class's or picture's name; empty for all together.
    pub name: String,
    /// Positions in the order of extraction.
    pub pictures: Range<usize>,
}

/// The order of extraction: by class and then by name, so that each class's pictures follow each other.
pub(super) fn order(pictures: &dyn Pictures) -> Vec<usize> {
    let mut order: Vec<usize> = (0..pictures.count()).collect();
    let key = |&picture: &usize| (pictures.group(picture), pictures.name(picture), picture);
    order.sort_by(|left, right| key(left).cmp(&key(right)));
    order
}

/// Divides the pictures, in their order of extraction.
pub(super) fn divide(pictures: &dyn Pictures, order: &[usize], grouping: Grouping) -> Vec<Group> {
    let name = |picture: usize| match grouping {
        Grouping::Class => pictures.group(picture),
        Grouping::Image => pictures.name(picture),
        Grouping::Joint => "",
    };
    let mut groups: Vec<Group> = Vec::new();
    for (position, &picture) in order.iter().enumerate() {
        match groups.last_mut() {
            // Two pictures may have one name in an archive: they are still two.
            Some(last) if grouping != Grouping::Image && last.name == name(picture) => last.pictures.end = position + 1,
            _ => groups.push(Group { name: name(picture).to_owned(), pictures: position..position + 1 }),
        }
    }
    groups
}

/// What a look at all vectors tells.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Survey {
    /// Distinct vectors of each group.
    pub distinct: Vec<u64>,
    /// Those figures that belong to the vectors.
    pub figures: Figures,
}

/// Looks at all vectors, a part at a time.
///
/// `seen` is called with the number of vectors so far.
pub(super) fn survey(
    features: &Features,
    groups: &[Group],
    mut seen: impl FnMut(u64) -> Result<(), Failure>,
) -> Result<Survey, Failure> {
    let width = features.width();
    let (mut distinct, mut vectors, mut zeros) = (Vec::with_capacity(groups.len()), 0_u64, 0_u64);
    let (mut norms, mut squares, mut least, mut largest) = (0.0, 0.0, f64::INFINITY, 0.0_f64);
    let mut sums = vec![0.0_f64; width];
    for group in groups {
        let mut values = HashSet::new();
        features.each(features.vectors_of(&group.pictures), &mut |rows| {
            for row in rows.chunks_exact(width) {
                values.insert(value_of(row));
                let square: f64 = row.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
                sums.iter_mut().zip(row).for_each(|(sum, &x)| *sum += f64::from(x));
                zeros += row.iter().filter(|x| **x == 0.0).count() as u64;
                (norms, squares) = (norms + square.sqrt(), squares + square);
                (least, largest) = (least.min(square), largest.max(square));
                vectors += 1;
            }
            seen(vectors)
        })?;
        distinct.push(values.len() as u64);
    }
    let n = vectors.max(1) as f64;
    let mean_square: f64 = sums.iter().map(|sum| (sum / n) * (sum / n)).sum();
    let figures = Figures {
        vectors,
        distinct_vectors: distinct.iter().sum(),
        mean_norm: norms / n,
        least_norm: if vectors > 0 { least.sqrt() } else { 0.0 },
        largest_norm: largest.sqrt(),
        variance: (squares / n - mean_square).max(0.0),
        zeros: zeros as f64 / (n * width as f64),
        groups: groups.len(),
        ..Figures::default()
    };
    Ok(Survey { distinct, figures })
}

/// Stands for a row's value: equal for equal rows, and for others with a chance of 2⁻⁶⁴.
pub(super) fn value_of(row: &[f32]) -> u64 {
    let mut hash = DefaultHasher::new();
    hash.write(bytemuck::cast_slice(row));
    hash.finish()
}

/// Divides `codes` over groups in proportion to their distinct vectors; the total is exact, and none gets more than it has.
///
/// Largest remainders, ties to the earlier group. `None` where all together have fewer than `codes`.
pub(super) fn allot(codes: usize, distinct: &[u64]) -> Option<Vec<usize>> {
    let all: u128 = distinct.iter().map(|&count| u128::from(count)).sum();
    if all < codes as u128 || all == 0 {
        return None;
    }
    let parts = |count: u64| (codes as u128 * u128::from(count) / all, codes as u128 * u128::from(count) % all);
    let mut shares: Vec<usize> = distinct.iter().map(|&count| parts(count).0 as usize).collect();
    let left = codes - shares.iter().sum::<usize>();
    let mut order: Vec<usize> = (0..distinct.len()).collect();
    order.sort_by_key(|&group| (core::cmp::Reverse(parts(distinct[group]).1), group));
    order.into_iter().take(left).for_each(|group| shares[group] += 1);
    Some(shares)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_is_exact_and_no_group_gets_more_than_it_has() {
        for (codes, distinct) in [
            (100_000, vec![392; 1000]),
            (1024, vec![196; 1000]),
            (7, vec![1, 1, 1, 1, 1, 1, 1]),
            (10, vec![3, 3, 3, 3]),
            (12, vec![3, 3, 3, 3]),
            (5, vec![0, 9, 0]),
            (1, vec![2, 2]),
            (99_999, vec![1, 100_000, 17, 3]),
        ] {
            let shares = allot(codes, &distinct).expect("enough vectors");
            assert_eq!(shares.iter().sum::<usize>(), codes, "{codes} {distinct:?}");
            assert!(shares.iter().zip(&distinct).all(|(&share, &most)| share as u64 <= most), "{shares:?}");
        }
        assert_eq!(allot(1000, &[20, 20, 60]), None);
        assert_eq!(allot(10, &[20, 20, 60]), Some(vec![2, 2, 6]));
        assert_eq!(allot(1, &[2, 2]), Some(vec![1, 0]), "ties go to the earlier group");
        assert_eq!(allot(1, &[]), None);
    }
}
