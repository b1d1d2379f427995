//! Maps as pictures for people.

use super::poses::{JOINTS, PARENTS};
use super::{Map, Modality};
use crate::common::images::Rgb;

/// Sides of the pictures of vectors and of poses.
const VECTOR_SIDE: usize = 64;
const POSE_SIDE: usize = 96;

/// From near to far: yellow, orange, purple, black; each brighter than the next, so that it reads in grey as well.
const DISTANCES: [[f32; 3]; 5] =
    [[0.99, 0.98, 0.75], [0.99, 0.62, 0.38], [0.80, 0.25, 0.44], [0.36, 0.10, 0.50], [0.02, 0.01, 0.06]];

/// Where each joint of a standing person is from its parent, in metres: to the left, up, forwards (CMU's skeleton, rounded).
const OFFSETS: [[f32; 3]; JOINTS] = [
    [0.0, 0.0, 0.0],
    [0.0, 0.21, -0.01],
    [0.0, 0.12, 0.0],
    [0.0, 0.22, -0.02],
    [0.0, 0.07, 0.01],
    [-0.03, 0.19, -0.05],
    [-0.09, -0.02, 0.01],
    [-0.28, -0.02, 0.0],
    [-0.23, 0.01, 0.07],
    [-0.08, 0.01, 0.06],
    [0.03, 0.19, -0.05],
    [0.09, -0.02, 0.01],
    [0.28, -0.02, 0.0],
    [0.23, 0.01, 0.07],
    [0.08, 0.01, 0.06],
    [-0.09, 0.04, 0.01],
    [0.0, -0.02, -0.02],
    [0.0, -0.37, 0.01],
    [0.01, -0.45, -0.05],
    [0.09, 0.04, 0.01],
    [0.0, -0.02, -0.02],
    [0.0, -0.37, 0.01],
    [-0.01, -0.45, -0.05],
];

/// A map as people look at it: normals as their usual colours, distances from bright (near) to dark, labels in a fixed palette, edges and masks in
/// white on black, a vector's values as squares (red above 0, blue below), a pose as a figure of sticks seen from in front.
///
/// Values that a network made may lie outside their range; they are cut off.
pub fn picture_of(modality: Modality, map: &Map) -> Rgb {
    let area = map.height * map.width;
    let plane = |channel: usize| map.values.get(channel * area..(channel + 1) * area).unwrap_or_default();
    let (width, height, colours): (usize, usize, Vec<[f32; 3]>) = match modality {
        Modality::Rgb | Modality::Normals => {
            let of = |value: f32| 0.5 * value + 0.5;
            let colours = plane(0).iter().zip(plane(1)).zip(plane(2)).map(|((&r, &g), &b)| [r, g, b].map(of));
            (map.width, map.height, colours.collect())
        }
        Modality::Depth => (map.width, map.height, distances(plane(0))),
        Modality::Edges => (map.width, map.height, plane(0).iter().map(|value| [0.5 * value + 0.5; 3]).collect()),
        Modality::Mask => (map.width, map.height, plane(0).iter().map(|&value| [value; 3]).collect()),
        // A cast saturates.
        Modality::Segmentation { .. } => {
            (map.width, map.height, plane(0).iter().map(|&label| label_colour(label as u32)).collect())
        }
        Modality::Vector { .. } => (VECTOR_SIDE, VECTOR_SIDE, squares(&map.values)),
        Modality::Pose => (POSE_SIDE, POSE_SIDE, figure(&map.values)),
    };
    let pixels = colours.into_iter().flatten().map(|value| value.clamp(0.0, 1.0)).collect();
    Rgb { name: map.name.clone(), width, height, pixels }
}

/// Distances by their order of size within the map, cut off at the lowest and highest hundredth.
fn distances(values: &[f32]) -> Vec<[f32; 3]> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f32::total_cmp);
    let quantile =
        |hundredths: usize| sorted.get((sorted.len() * hundredths / 100).min(sorted.len().saturating_sub(1)));
    let (low, high) = (quantile(1).copied().unwrap_or_default(), quantile(99).copied().unwrap_or_default());
    let colour = |value: &f32| {
        let place = ((value - low) / (high - low).max(1e-6)).clamp(0.0, 1.0) * (DISTANCES.len() - 1) as f32;
        // A cast of NaN is 0.
        let first = (place as usize).min(DISTANCES.len() - 2);
        let (a, b, t) = (DISTANCES[first], DISTANCES[first + 1], place - first as f32);
        core::array::from_fn(|channel| a[channel] + (b[channel] - a[channel]) * t)
    };
    values.iter().map(colour).collect()
}

/// A colour for every label: black for 0, which is often nothing, then hues a golden angle apart, by turns bright and dark, so that neighbours differ.
pub fn label_colour(label: u32) -> [f32; 3] {
    if label == 0 {
        return [0.0; 3];
    }
    let hue = (label as f32 * 0.618_034).fract() * 6.0;
    let brightness = [0.95, 0.7, 0.5][label as usize % 3];
    // Of hue h in six parts, red is full between 5 and 1, green between 1 and 3, blue between 3 and 5.
    let full = |offset: f32| ((hue + offset).rem_euclid(6.0) - 3.0).abs() - 1.0;
    [full(0.0), full(4.0), full(2.0)].map(|channel| brightness * (0.15 + 0.85 * channel.clamp(0.0, 1.0)))
}

/// A vector's values row by row in the smallest square that holds them.
fn squares(values: &[f32]) -> Vec<[f32; 3]> {
    let side = (1..).find(|side| side * side >= values.len().max(1)).unwrap_or(1);
    let largest = values.iter().fold(1e-6_f32, |largest, value| largest.max(value.abs()));
    let colour = |at: usize| {
        let (x, y) = (at % VECTOR_SIDE * side / VECTOR_SIDE, at / VECTOR_SIDE * side / VECTOR_SIDE);
        let value = values.get(y * side + x).copied().unwrap_or_default() / largest;
        [1.0 + value.min(0.0), 1.0 - value.abs(), 1.0 - value.max(0.0)]
    };
    (0..VECTOR_SIDE * VECTOR_SIDE).map(colour).collect()
}

/// Joints' places by forward kinematics, projected along the viewing axis, joined by lines on white; the right side is red.
fn figure(matrices: &[f32]) -> Vec<[f32; 3]> {
    let (matrices, _) = matrices.as_chunks::<9>();
    let mut turned: Vec<([f32; 9], [f32; 3])> = Vec::with_capacity(JOINTS);
    for (joint, own) in matrices.iter().enumerate().take(JOINTS) {
        let (turn, place) = match PARENTS[joint].and_then(|parent| turned.get(parent)) {
            Some((turn, place)) => {
                let offset = times(turn, OFFSETS[joint]);
                (product(turn, own), core::array::from_fn(|axis| place[axis] + offset[axis]))
            }
            None => (*own, [0.0; 3]),
        };
        turned.push((turn, place));
    }
    // The hip is a little below the middle, and a picture is 2.4 m high.
    let scale = POSE_SIDE as f32 / 2.4;
    let pixel =
        |place: &[f32; 3]| [POSE_SIDE as f32 * 0.5 + place[0] * scale, POSE_SIDE as f32 * 0.52 - place[1] * scale];
    let mut colours = vec![[1.0; 3]; POSE_SIDE * POSE_SIDE];
    for (joint, (_, place)) in turned.iter().enumerate() {
        let Some((_, from)) = PARENTS[joint].and_then(|parent| turned.get(parent)) else { continue };
        let ink = match joint {
            5..=9 | 15..=18 => [0.8, 0.2, 0.15],
            10..=14 | 19..=22 => [0.15, 0.3, 0.7],
            _ => [0.1, 0.1, 0.1],
        };
        let ([ax, ay], [bx, by]) = (pixel(from), pixel(place));
        for i in 0..=64 {
            let t = i as f32 / 64.0;
            let (x, y) = (ax + (bx - ax) * t, ay + (by - ay) * t);
            for (dx, dy) in [(0.0, 0.0), (0.7, 0.0), (0.0, 0.7), (0.7, 0.7)] {
                // A cast saturates; what lies outside is left out.
                let (column, row) = ((x + dx) as usize, (y + dy) as usize);
                if x >= 0.0 && y >= 0.0 && column < POSE_SIDE && row < POSE_SIDE {
                    colours[row * POSE_SIDE + column] = ink;
                }
            }
        }
    }
    colours
}

fn times(a: &[f32; 9], v: [f32; 3]) -> [f32; 3] {
    core::array::from_fn(|row| (0..3).map(|k| a[3 * row + k] * v[k]).sum())
}

fn product(a: &[f32; 9], b: &[f32; 9]) -> [f32; 9] {
    core::array::from_fn(|at| (0..3).map(|k| a[at / 3 * 3 + k] * b[3 * k + at % 3]).sum())
}
