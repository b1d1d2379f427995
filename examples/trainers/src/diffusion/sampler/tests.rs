//! Tests of the samplers: with perfect networks, and with one whose images are known to be normal.

use core::cell::RefCell;

use burn::tensor::{DType, TensorData};

use super::*;
use crate::backend::Host;
use crate::diffusion::Schedule;
use crate::features::tests::synthetic::uniform;

const SHAPE: [usize; 4] = [2, 3, 4, 4];

type Image = Tensor<Host, 4>;

fn image(name: &str) -> Image {
    let values: Vec<f32> = uniform(name, SHAPE.iter().product()).into_iter().map(|value| 0.9 * value).collect();
    Tensor::from_data(TensorData::new(values, SHAPE), &Default::default())
}

/// `sample` of a network without a condition.
fn run(
    diffusion: &Diffusion,
    prediction: Prediction,
    sampler: &Sampler,
    shape: [usize; 4],
    first: u64,
    network: impl Fn(Image, &[usize]) -> Image,
) -> Vec<f32> {
    let network = |x: Image, t: &[usize], _| Ok(network(x, t));
    host(sample(diffusion, prediction, sampler, shape, first, &Default::default(), network).expect("settings that fit"))
}

#[test]
fn a_perfect_network_gives_its_image_back() {
    let x0 = image("x0");
    let expected = host(x0.clone());
    for (prediction, zero) in [(Prediction::Sample, true), (Prediction::V, true), (Prediction::Epsilon, false)] {
        let diffusion = Diffusion::new(Schedule::Linear, zero);
        for method in [Method::Ddim, Method::Ddpm] {
            for steps in [1, 25, 250] {
                let sampler = Sampler { method, ..Sampler::ddim(steps, 5) };
                let found = run(&diffusion, prediction, &sampler, SHAPE, 0, |xt, t| {
                    let noise = Prediction::Sample.epsilon(&diffusion, x0.clone(), xt, t);
                    prediction.target(&diffusion, x0.clone(), noise, t)
                });
                for (found, expected) in found.iter().zip(&expected) {
                    assert!((found - expected).abs() < 2e-3, "{prediction:?} {method:?} {steps}: {found} {expected}");
                }
            }
        }
    }
}

/// E[x0 | x_t] of normal images of this mean and deviation.
fn denoiser(diffusion: &Diffusion, mean: f64, deviation: f64) -> impl Fn(Image, &[usize]) -> Image {
    move |xt, t| {
        let abar = diffusion.step(t[0]).abar;
        let gain = abar.sqrt() * deviation.powi(2) / (abar * deviation.powi(2) + 1.0 - abar);
        (xt - mean * abar.sqrt()) * gain + mean
    }
}

#[test]
fn ddim_carries_noise_to_the_image_of_its_quantile() {
    // Normal images: the flow without noise takes z to mean + deviation · z.
    let (mean, deviation) = (0.2, 0.3);
    let diffusion = Diffusion::new(Schedule::SquaredCos, true);
    let sampler = Sampler { clip: Clip::None, ..Sampler::ddim(1000, 8) };
    let shape = [1, 3, 16, 16];
    let found = run(&diffusion, Prediction::Sample, &sampler, shape, 0, denoiser(&diffusion, mean, deviation));
    let start = host(noise::<Host>(8, 0, 0, shape, &Default::default()));
    for (found, z) in found.into_iter().zip(start) {
        let expected = mean + deviation * f64::from(z);
        assert!((f64::from(found) - expected).abs() < 0.01 * (1.0 + expected.abs()), "{found} for {expected}");
    }
}

#[test]
fn ddpm_draws_from_the_images_distribution() {
    let (mean, deviation) = (0.2, 0.3);
    let diffusion = Diffusion::new(Schedule::Linear, true);
    let sampler = Sampler { method: Method::Ddpm, clip: Clip::None, ..Sampler::ddim(1000, 8) };
    let found = run(&diffusion, Prediction::Sample, &sampler, [1, 3, 32, 32], 0, denoiser(&diffusion, mean, deviation));
    let count = found.len() as f64;
    let average = found.iter().map(|&x| f64::from(x)).sum::<f64>() / count;
    let spread = (found.iter().map(|&x| (f64::from(x) - average).powi(2)).sum::<f64>() / count).sqrt();
    assert!((average - mean).abs() < 5.0 * deviation / count.sqrt(), "{average}");
    assert!((spread / deviation - 1.0).abs() < 0.06, "{spread}");
}

#[test]
fn an_image_does_not_depend_on_its_batch() {
    let diffusion = Diffusion::new(Schedule::Linear, true);
    for method in [Method::Ddim, Method::Ddpm] {
        let sampler = Sampler { method, ..Sampler::ddim(7, 5) };
        let of = |batch, first| {
            run(&diffusion, Prediction::Sample, &sampler, [batch, 3, 4, 4], first, |xt, _| xt.mul_scalar(0.7).tanh())
        };
        let all = of(5, 10);
        assert_eq!([of(2, 10), of(3, 12)].concat(), all, "{method:?}");
        assert_ne!(of(5, 11), all);
        let other = Sampler { seed: 6, ..sampler };
        assert_ne!(
            run(&diffusion, Prediction::Sample, &other, [5, 3, 4, 4], 10, |xt, _| xt.mul_scalar(0.7).tanh()),
            all
        );
    }
}

#[test]
fn guidance_goes_on_from_without_to_with_the_condition() {
    let diffusion = Diffusion::new(Schedule::Linear, true);
    for (guidance, expected) in [(1.0, 0.4), (0.0, 0.1), (2.0, 0.7), (0.5, 0.25)] {
        let asked = RefCell::new(Vec::new());
        let sampler = Sampler { guidance, ..Sampler::ddim(3, 1) };
        let network = |xt: Image, t: &[usize], unconditional: bool| {
            asked.borrow_mut().push((t.to_vec(), unconditional));
            Ok(xt.zeros_like() + if unconditional { 0.1 } else { 0.4 })
        };
        let found = sample(&diffusion, Prediction::Sample, &sampler, SHAPE, 0, &Default::default(), network);
        let found = host(found.expect("settings that fit"));
        assert!(found.iter().all(|value| (value - expected).abs() < 1e-6), "{guidance}: {found:?}");
        let each: &[bool] = if guidance == 1.0 { &[false] } else { &[false, true] };
        let steps = [999, 666, 332];
        let all: Vec<_> = steps.iter().flat_map(|&t| each.iter().map(move |&without| (vec![t; 2], without))).collect();
        assert_eq!(asked.into_inner(), all);
    }
}

#[test]
fn a_learned_variance_is_used_and_is_not_guided() {
    let diffusion = Diffusion::new(Schedule::Linear, true);
    let fixed = Sampler { method: Method::Ddpm, guidance: 3.0, ..Sampler::ddim(10, 5) };
    let learned = Sampler { learned_variance: true, ..fixed };
    let network = |shares: [f64; 2], learned: bool| {
        move |xt: Image, _: &[usize], unconditional: bool| {
            let x0 = xt.clone().tanh() * if unconditional { 0.1 } else { 0.4 };
            let share = xt.zeros_like() + shares[usize::from(unconditional)];
            Ok(if learned { Tensor::cat(vec![x0, share], 1) } else { x0 })
        }
    };
    let of = |sampler: &Sampler, shares| {
        let network = network(shares, sampler.learned_variance);
        host(sample(&diffusion, Prediction::Sample, sampler, SHAPE, 0, &Default::default(), network).expect("fits"))
    };
    // −1 is the posterior's own variance.
    let expected = of(&fixed, [0.0, 0.0]);
    for (found, expected) in of(&learned, [-1.0, 1.0]).into_iter().zip(&expected) {
        assert!((found - expected).abs() < 1e-4, "{found} for {expected}");
    }
    assert_ne!(of(&learned, [1.0, 1.0]), expected);
}

#[test]
fn thresholds_hold_what_they_say() {
    // torch.quantile(|x|, 0.75) = 1.375 and 2.25.
    let values = vec![0.5_f32, -1.0, 1.25, -1.75, 2.0, 3.0, -0.5, -1.5];
    let x = Image::from_data(TensorData::new(values, [2, 1, 2, 2]), (&Default::default(), DType::F32));
    let dynamic = |most| clip(Clip::Dynamic { ratio: 0.75, most }, x.clone());
    let expected = [0.5 / 1.375, -1.0 / 1.375, 1.25 / 1.375, -1.0, 2.0 / 2.25, 1.0, -0.5 / 2.25, -1.5 / 2.25];
    for (found, expected) in host(dynamic(10.0)).into_iter().zip(expected) {
        assert!((found - expected).abs() < 1e-6, "{found} for {expected}");
    }
    assert_eq!(host(dynamic(1.0)), host(clip(Clip::Unit, x.clone())), "4M's is [-1, 1]");
    assert_eq!(host(clip(Clip::None, x.clone())), host(x));
}

#[test]
fn settings_that_do_not_fit_are_refused() {
    let zero = Diffusion::new(Schedule::Linear, true);
    let refused = |sampler: Sampler, prediction| {
        let network = |xt: Image, _: &[usize], _| Ok(xt);
        sample(&zero, prediction, &sampler, SHAPE, 0, &Default::default(), network).expect_err("refused").to_string()
    };
    let fine = Sampler::ddim(5, 0);
    assert!(refused(Sampler { steps: 0, ..fine }, Prediction::V).contains("give 1 to 1000"));
    assert!(refused(Sampler { guidance: f64::NAN, ..fine }, Prediction::V).contains("finite"));
    let clip = Clip::Dynamic { ratio: 1.5, most: 1.0 };
    assert!(refused(Sampler { clip, ..fine }, Prediction::V).contains("a quantile above 0"));
    assert!(refused(fine, Prediction::Epsilon).contains("predict sample or v"));
    assert!(refused(Sampler { learned_variance: true, ..fine }, Prediction::V).contains("takes 6 output channels"));
    let broken = |_: Image, _: &[usize], _: bool| Err(Failure::new("the network's own"));
    let found = sample(&zero, Prediction::V, &fine, SHAPE, 0, &Default::default(), broken);
    assert_eq!(found.expect_err("refused").to_string(), "the network's own");
}
