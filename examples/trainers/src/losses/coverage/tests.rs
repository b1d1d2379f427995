//! Tests of the coverage term.

use super::*;
use crate::backend::HostTrain;
use crate::losses::gradients::{check, value, wide};

const N: usize = 24;
const DIM: usize = 3;

fn drawn(seed: u64, n: usize) -> Vec<f32> {
    let mut rng = Rng::new(seed, 0);
    (0..n).map(|_| rng.normal()).collect()
}

fn wider(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&x| f64::from(x)).collect()
}

#[test]
fn the_gradient_is_that_of_the_differences() {
    let (rows, codes) = (wider(&drawn(1, N * DIM)), drawn(2, 40 * DIM));
    for unit in [false, true] {
        check(|x| sliced_wasserstein(x, &codes, unit, &mut Rng::new(3, 0)), &rows, [N, DIM], 1e-6);
    }
}

/// Of one code all rows have the same target, and the directions' mean of `⟨θ, x − e⟩²` is `|x − e|² / d`.
#[test]
fn of_one_code_it_is_the_mean_square_to_it() {
    let rows = drawn(4, N * DIM);
    let code = [0.5, -1.0, 2.0];
    let expected: f64 =
        rows.chunks(DIM).flat_map(|row| row.iter().zip(code)).map(|(x, e)| f64::from(x - e).powi(2)).sum();
    let expected = expected / (N * DIM) as f64;
    let of = |seed| value(sliced_wasserstein(wide(&wider(&rows), [N, DIM]), &code, false, &mut Rng::new(seed, 0)));
    let mean = (0..40).map(of).sum::<f64>() / 40.0;
    assert!((mean / expected - 1.0).abs() < 0.05, "{mean} {expected}");
}

/// Descent on the term alone spreads latents that were all alike: more and more codes are the nearest of one.
#[test]
fn descent_spreads_rows_over_all_codes() {
    let codes = drawn(5, 16 * 2);
    let used = |rows: &[f64]| {
        let nearest = |row: &[f64]| {
            let distance = |code: &[f32]| row.iter().zip(code).map(|(x, &e)| (x - f64::from(e)).powi(2)).sum::<f64>();
            (0..16).min_by(|&a, &b| distance(&codes[2 * a..2 * a + 2]).total_cmp(&distance(&codes[2 * b..2 * b + 2])))
        };
        let mut found: Vec<_> = rows.chunks(2).map(nearest).collect();
        found.sort();
        found.dedup();
        found.len()
    };
    let mut rows: Vec<f64> = drawn(6, 256 * 2).into_iter().map(|x| 0.01 * f64::from(x)).collect();
    let before = used(&rows);
    for step in 0..300 {
        let leaf = wide(&rows, [256, 2]).require_grad();
        let gradients = sliced_wasserstein::<HostTrain>(leaf.clone(), &codes, false, &mut Rng::new(7, step)).backward();
        let gradient = leaf.grad(&gradients).expect("the term depends on the rows").into_data();
        let gradient = gradient.to_vec::<f64>().expect("computed in f64");
        rows.iter_mut().zip(gradient).for_each(|(x, g)| *x -= 50.0 * g);
    }
    assert!(before <= 2 && used(&rows) >= 15, "{before} codes before, {} after", used(&rows));
}

#[test]
fn nothing_compared_is_nothing() {
    let of = |rows: usize, codes: &[f32]| {
        value(sliced_wasserstein(wide(&vec![1.0; rows * DIM], [rows, DIM]), codes, false, &mut Rng::new(0, 0)))
    };
    assert_eq!([of(0, &[1.0; DIM]), of(2, &[])], [0.0; 2]);
}
