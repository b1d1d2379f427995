//! Poses of a person: rotations of joints, as matrices.

use super::stored::{Stored, Values};
use crate::common::random::{SplitMix64, generator};

/// Joints of a pose, the first of which turns the whole body.
pub const JOINTS: usize = 23;

/// Values of a pose: a 3 × 3 matrix, row by row, for each joint.
pub const POSE: usize = 9 * JOINTS;

/// The joint that each joint hangs on, in CMU's skeleton; the first on none.
pub const PARENTS: [Option<usize>; JOINTS] = {
    let mut parents = [None; JOINTS];
    let mut joint = 1;
    while joint < JOINTS {
        // Chains along the spine, the arms and the legs: these begin elsewhere.
        parents[joint] = Some(match joint {
            5 | 10 => 2,
            15 | 19 => 0,
            _ => joint - 1,
        });
        joint += 1;
    }
    parents
};

/// Numbers that made poses are made of.
const HIDDEN: usize = 8;

/// The rotation about a vector's direction by its length in radians, row by row: Rodrigues' formula `I + sin θ K + (1 − cos θ) K²`.
pub fn rotation_matrix([x, y, z]: [f32; 3]) -> [f32; 9] {
    let (x, y, z) = (f64::from(x), f64::from(y), f64::from(z));
    let squared = x * x + y * y + z * z;
    let angle = squared.sqrt();
    // sin θ / θ and (1 − cos θ) / θ², by their series near 0.
    let (a, b) = if angle < 1e-4 {
        (1.0 - squared / 6.0, 0.5 - squared / 24.0)
    } else {
        (angle.sin() / angle, (1.0 - angle.cos()) / squared)
    };
    [
        1.0 - b * (y * y + z * z),
        b * x * y - a * z,
        b * x * z + a * y,
        b * x * y + a * z,
        1.0 - b * (x * x + z * z),
        b * y * z - a * x,
        b * x * z - a * y,
        b * y * z + a * x,
        1.0 - b * (x * x + y * y),
    ]
    .map(|value| value as f32)
}

/// The matrices of a pose's rotation vectors.
pub(super) fn matrices(vectors: &[f32]) -> Vec<f32> {
    let (vectors, _) = vectors.as_chunks::<3>();
    vectors.iter().flat_map(|&vector| rotation_matrix(vector)).collect()
}

/// Poses that nobody struck: each joint's rotation vector a fixed mixture of [`HIDDEN`] normal numbers, as joints of people move together too.
pub(super) fn made_poses(count: usize, seed: u64) -> Vec<Stored> {
    let mixture = mixture(HIDDEN, 3 * JOINTS);
    let pose = |index: usize| {
        let mut random = generator("poses", seed, 0, index as u64);
        let vectors: Vec<f32> = mixed(&mixture, HIDDEN, &mut random).map(|value| 0.5 * value).collect();
        let name = format!("pose-{seed}-{index:06}");
        Stored::new(name, [POSE, 1, 1], Values::Floats(matrices(&vectors)))
    };
    (0..count).map(pose).collect()
}

/// Unit vectors of `dim` values, each a fixed mixture of twice [`HIDDEN`] normal numbers through tanh.
pub(super) fn made_vectors(dim: usize, count: usize, seed: u64) -> Vec<Stored> {
    let mixture = mixture(2 * HIDDEN, dim);
    let vector = |index: usize| {
        let mut random = generator("vectors", seed, 0, index as u64);
        let values: Vec<f64> = mixed(&mixture, 2 * HIDDEN, &mut random).map(|value| f64::from(value).tanh()).collect();
        let length = values.iter().map(|value| value * value).sum::<f64>().sqrt().max(f64::MIN_POSITIVE);
        let values = values.into_iter().map(|value| (value / length) as f32).collect();
        Stored::new(format!("vector-{seed}-{index:06}"), [dim, 1, 1], Values::Floats(values))
    };
    (0..count).map(vector).collect()
}

/// `[outputs, hidden]` normal numbers of variance 1 / hidden: the same ones for every seed of data, so that one tokenizer fits all.
fn mixture(hidden: usize, outputs: usize) -> Vec<f64> {
    let mut random = SplitMix64::new(1);
    (0..hidden * outputs).map(|_| random.normal() / (hidden as f64).sqrt()).collect()
}

fn mixed<'a>(mixture: &'a [f64], hidden: usize, random: &mut SplitMix64) -> impl Iterator<Item = f32> + use<'a> {
    let numbers: Vec<f64> = (0..hidden).map(|_| random.normal()).collect();
    mixture.chunks_exact(hidden).map(move |row| row.iter().zip(&numbers).map(|(a, b)| a * b).sum::<f64>() as f32)
}

#[cfg(test)]
mod tests {
    use core::f32::consts::{FRAC_PI_2, PI};

    use super::*;

    fn near(found: [f32; 9], expected: [f32; 9]) {
        assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{found:?}, expected {expected:?}");
    }

    #[test]
    fn rotations_are_the_known_ones() {
        near(rotation_matrix([0.0; 3]), [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]);
        near(rotation_matrix([0.0, 0.0, FRAC_PI_2]), [0.0, -1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0]);
        near(rotation_matrix([FRAC_PI_2, 0.0, 0.0]), [1.0, 0.0, 0.0, 0.0, 0.0, -1.0, 0.0, 1.0, 0.0]);
        near(rotation_matrix([0.0, PI, 0.0]), [-1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, -1.0]);
        // The exponential of the cross product's matrix by its power series, in f64.
        #[rustfmt::skip]
        let expected = [
            0.654_894, -0.677_060_7, -0.335_712_2,
            0.537_152_8, 0.729_511_5, -0.423_414_4,
            0.531_583_2, 0.096_962_8, 0.841_437_8,
        ];
        near(rotation_matrix([0.3, -0.5, 0.7]), expected);
    }

    #[test]
    fn small_angles_have_no_gap() {
        for length in [9e-5_f32, 1.1e-4] {
            let found = rotation_matrix([length, 0.0, 0.0]);
            assert!((found[7] - length.sin()).abs() < 1e-10 && (found[4] - length.cos()).abs() < 1e-7);
        }
    }

    #[test]
    fn made_ones_are_pure_functions_of_the_seed() {
        let poses = made_poses(5, 3);
        assert_eq!(format!("{poses:?}"), format!("{:?}", made_poses(5, 3)));
        assert_ne!(format!("{:?}", poses[0].values), format!("{:?}", made_poses(1, 4)[0].values));
        for pose in &poses {
            let Values::Floats(values) = &pose.values else { panic!("floats") };
            for matrix in values.chunks_exact(9) {
                let length: f32 = matrix[..3].iter().map(|value| value * value).sum();
                assert!((length - 1.0).abs() < 1e-5);
            }
        }
        let Values::Floats(vector) = &made_vectors(20, 1, 3)[0].values else { panic!("floats") };
        assert!((vector.iter().map(|value| value * value).sum::<f32>() - 1.0).abs() < 1e-5);
    }
}
