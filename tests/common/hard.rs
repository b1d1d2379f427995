//! Codebooks and rows on which a certified search is hardest pressed.

use super::{grid, paint, unit_rows};
use vq_kernels::rng::Rng;

/// One codebook, and rows that are hard for it.
pub struct Hard {
    pub why: &'static str,
    pub dim: usize,
    pub codes: Vec<f32>,
    pub rows: Vec<f32>,
}

/// Rows from pairs of codes: their middles (on the border of two cells), one ulp beside them, the codes themselves.
pub fn borders(codes: &[f32], dim: usize, count: usize, seed: u64) -> Vec<f32> {
    let mut rng = Rng::new(seed, 1);
    let k = codes.len() as u64 / dim as u64;
    (0..count)
        .flat_map(|row| {
            let [a, b] = [rng.below(k), rng.below(k)].map(|code| &codes[code as usize * dim..][..dim]);
            let middle = a.iter().zip(b).map(|(a, b)| 0.5 * a + 0.5 * b);
            let moved: Vec<f32> = match row % 4 {
                0 => middle.collect(),
                1 => middle.map(f32::next_up).collect(),
                2 => a.iter().map(|a| a.next_down()).collect(),
                _ => a.to_vec(),
            };
            moved
        })
        .collect()
}

/// Codebooks of all kinds that press the bounds of coarse passes.
pub fn hard_cases(codes: usize, dim: usize, seed: u64) -> Vec<Hard> {
    let len = codes * dim;
    let unit = unit_rows(codes, dim, seed);
    let noise = paint(len, seed + 1);
    let centres = unit_rows(7, dim, seed + 2);
    let near = |scale: f32| -> Vec<f32> {
        (0..len).map(|i| centres[i / dim % 7 * dim + i % dim] + scale * noise[i]).collect()
    };
    let mut huge = unit.clone();
    huge[(codes / 2) * dim..][..dim].iter_mut().for_each(|c| *c *= 1e6);
    let mut spread = noise.clone();
    spread.chunks_exact_mut(dim).enumerate().for_each(|(k, code)| {
        let scale = 10f32.powi(k as i32 % 9 - 4);
        code.iter_mut().for_each(|c| *c *= scale);
    });
    let books = vec![
        ("random unit codes", unit.clone()),
        ("seven crowds, one percent wide", near(0.01)),
        ("seven crowds, a few ulp wide", near(3e-7)),
        ("seven codes, all others copies", near(0.0)),
        ("one line through the origin", (0..len).map(|i| (i / dim) as f32 * centres[i % dim]).collect()),
        ("one code a million times longer", huge),
        ("lengths over nine orders of magnitude", spread),
        ("multiples of 1/64, full of ties", grid(len, seed, 3)),
        ("subnormal codes", unit.iter().map(|c| c * 1e-39).collect()),
        ("huge codes", unit.iter().map(|c| c * 3e37).collect()),
        ("all zeros", vec![0.0; len]),
        (
            "one dimension outweighs the rest",
            (0..len).map(|i| if i % dim == 0 { 1.0 } else { 1e-4 * noise[i] }).collect(),
        ),
    ];
    books
        .into_iter()
        .map(|(why, codes)| {
            let mut rows = borders(&codes, dim, 40, seed);
            rows.extend(paint(8 * dim, seed + 3));
            rows.extend(vec![0.0; dim]);
            for scale in [1e-20f32, 1e15] {
                rows.extend(paint(3 * dim, seed + 4).iter().map(|x| x * scale));
            }
            rows.extend((0..dim).map(|i| if i == dim / 2 { f32::NAN } else { 1.0 }));
            rows.extend((0..dim).map(|i| if i == 0 { f32::INFINITY } else { 1.0 }));
            Hard { why, dim, codes, rows }
        })
        .collect()
}
