//! Tests of the tables, against numpy's in float64 and against Bayes' rule.

use super::*;
use crate::backend::Host;
use crate::params::host;

const ALL: [(Schedule, bool); 5] = [
    (Schedule::Linear, false),
    (Schedule::Linear, true),
    (Schedule::SquaredCos, false),
    (Schedule::SquaredCos, true),
    (Schedule::ShiftedCosine(0.5), true),
];

/// ᾱ, β, the factors of x0 and of x_t, ln β̃.
type Row = (usize, [f64; 5]);

/// Of the schedules of `ALL`, by numpy.
#[rustfmt::skip]
const NUMPY: [[Row; 5]; 5] = [
    [
        (0, [0.9999, 0.0001, 1.0, 0.0, -9.81672513529567]),
        (1, [0.9997800920720721, 0.00011991991991991993, 0.5452914995102903, 0.4547084989905303, -9.81672513529567]),
        (500, [0.07779665836502389, 0.010059959959959959, 0.003058057075629619, 0.9941043507567258, -4.600049739984908]),
        (998, [4.118193638138445e-05, 0.01998008008008008, 0.00012952423622957632, 0.9899587234910675, -3.9130203373862087]),
        (999, [4.035829765375676e-05, 0.02, 0.00012835148717224682, 0.9899486782675173, -3.912023829100455]),
    ],
    [
        (0, [0.9999, 0.0001, 1.0, 0.0, -9.813832042903666]),
        (1, [0.9997793254331531, 0.00012068663551045855, 0.5468713624417095, 0.4531286360493686, -9.813832042903666]),
        (500, [0.0752462157043267, 0.010292617426392092, 0.0030689417114940928, 0.9939985377086441, -4.577174962551028]),
        (998, [4.213262465088072e-09, 0.75226723115047, 9.810466858006525e-05, 0.49772759870287625, -0.28466367037950263]),
        (999, [0.0, 1.0, 6.490964847453783e-05, 0.0, -4.213262525526008e-09]),
    ],
    [
        (0, [0.999958715775178, 4.128422482196914e-05, 1.0, 0.0, -10.734082532465003]),
        (1, [0.9999125759273678, 4.614175273665033e-05, 0.5277814093344871, 0.47221859042675934, -10.734082532465003]),
        (500, [0.49228517244880304, 0.003155691441585007, 0.004367866899526329, 0.9953562794552251, -5.761621845147288]),
        (998, [2.4287669070348544e-06, 0.7499993929011166, 0.002337676189817342, 0.49999696394667836, -0.28769016823865734]),
        (999, [2.4287669070348567e-09, 0.999, 0.0015568917154901703, 0.03162269987413465, -0.0010029266746731796]),
    ],
    [
        (0, [0.9999587157751779, 4.128422482208016e-05, 1.0, 0.0, -10.73405925932206]),
        (1, [0.9999125736533471, 4.614402685121366e-05, 0.5277936926081844, 0.4722063071535056, -10.73405925932206]),
        (500, [0.4922645385316662, 0.0031559125879835337, 0.004367904417042401, 0.9953562066112047, -5.761551731275886]),
        (998, [2.277811478992018e-06, 0.7579675808279058, 0.0023252718699583322, 0.49196439521781665, -0.2771217970243103]),
        (999, [0.0, 1.0, 0.0015092420213444952, 0.0, -2.2778140732065945e-06]),
    ],
    [
        (0, [0.999999694097773, 3.059022269935596e-07, 1.0, 0.0, -15.683034837832802]),
        (1, [0.9999993819135345, 3.121843339393138e-07, 0.5050818997649728, 0.49491810020475596, -15.683034837832802]),
        (500, [0.7994963670869928, 0.0012571056497617805, 0.005609587521366521, 0.9943554614704323, -6.68397488467537]),
        (998, [9.889291759146573e-06, 0.7499938191911479, 0.004717036114419049, 0.49999134699193015, -0.287719981194996]),
        (999, [3.059022269256247e-07, 0.9690673271275775, 0.0030474506330064716, 0.17587518300026084, -0.031430771903639694]),
    ],
];

#[test]
fn tables_are_numpy_s() {
    for ((schedule, zero), rows) in ALL.into_iter().zip(NUMPY) {
        let diffusion = Diffusion::new(schedule, zero);
        assert_eq!(diffusion.len(), 1000);
        for (t, expected) in rows {
            let step = diffusion.step(t);
            let found = [step.abar, step.beta, step.mean_x0, step.mean_xt, step.log_posterior];
            for (found, expected) in found.into_iter().zip(expected) {
                // β near 10⁻⁷ is a difference of numbers near 1.
                let off = (found - expected).abs();
                assert!(off <= 1e-9 * expected.abs() + 1e-15, "{schedule}, {zero}, step {t}: {found} for {expected}");
            }
        }
    }
}

#[test]
fn the_last_step_is_noise_and_the_first_is_kept() {
    for schedule in [Schedule::Linear, Schedule::SquaredCos] {
        let (plain, zero) = (Diffusion::new(schedule, false), Diffusion::new(schedule, true));
        assert_eq!((zero.step(999).abar, zero.step(999).beta), (0.0, 1.0));
        assert_eq!(zero.step(0), &Step { log_posterior: zero.step(0).log_posterior, ..*plain.step(0) });
        assert!(zero.ends_in_noise() && !plain.ends_in_noise());
    }
    let cosine = |zero| Diffusion::new(Schedule::ShiftedCosine(0.5), zero);
    assert_eq!(cosine(true), cosine(false), "4M leaves it as it is");
}

#[test]
fn the_posterior_is_bayes_rule() {
    // The product of N(x_t; √α x, β) and N(x; √ᾱ' x0, 1 − ᾱ') by precisions.
    for (schedule, zero) in ALL {
        let diffusion = Diffusion::new(schedule, zero);
        for t in 1..diffusion.len() {
            let step = diffusion.step(t);
            let (alpha, noise) = (1.0 - step.beta, 1.0 - step.abar_before);
            let variance = (alpha / step.beta + noise.recip()).recip();
            let [of_x0, of_xt] = [step.abar_before.sqrt() / noise, alpha.sqrt() / step.beta].map(|of| of * variance);
            let pairs = [(step.mean_x0, of_x0), (step.mean_xt, of_xt), (step.log_posterior, variance.ln())];
            for (found, expected) in pairs {
                assert!((found - expected).abs() < 1e-6 * expected.abs() + 1e-12, "{schedule} {t}: {found} {expected}");
            }
        }
    }
}

#[test]
fn all_tables_are_finite_and_images_fade() {
    for schedule in
        [Schedule::Linear, Schedule::SquaredCos, Schedule::ShiftedCosine(0.001), Schedule::ShiftedCosine(1000.0)]
    {
        for zero in [false, true] {
            let diffusion = Diffusion::new(schedule, zero);
            for t in 0..diffusion.len() {
                let step = diffusion.step(t);
                let numbers = [step.mean_x0, step.mean_xt, step.log_posterior, step.log_beta, step.snr()];
                assert!(numbers.iter().all(|number| number.is_finite()), "{schedule} {zero} {t}: {step:?}");
                assert!(step.abar <= step.abar_before && (0.0..=1.0).contains(&step.beta), "{schedule} {zero} {t}");
            }
        }
    }
}

#[test]
fn names_say_the_schedule() {
    for name in ["linear", "squaredcos_cap_v2", "shifted_cosine:0.5"] {
        let schedule: Schedule = name.parse().expect("a schedule");
        assert_eq!(schedule.to_string(), name);
        let json = serde_json::to_string(&schedule).expect("JSON");
        assert_eq!(json, format!("\"{name}\""));
        assert_eq!(serde_json::from_str::<Schedule>(&json).expect("the same"), schedule);
    }
    for name in
        ["", "cosine", "shifted_cosine", "shifted_cosine:", "shifted_cosine:0", "shifted_cosine:NaN", "linear:1"]
    {
        let refused = name.parse::<Schedule>().expect_err("no schedule").to_string();
        assert!(refused.contains("expected linear, squaredcos_cap_v2"), "{refused}");
    }
}

#[test]
fn trailing_steps_begin_at_the_last() {
    let diffusion = Diffusion::new(Schedule::Linear, true);
    let steps = |count| diffusion.trailing(count).expect("steps");
    assert_eq!(steps(50)[..3], [999, 979, 959]);
    assert_eq!((steps(50).len(), steps(50)[49]), (50, 19));
    // numpy's round(arange(1000, 0, −1000/3)) − 1.
    assert_eq!(steps(3), [999, 666, 332]);
    assert_eq!(steps(1), [999]);
    assert!(steps(1000).into_iter().eq((0..1000).rev()));
    for count in [0, 1001] {
        assert!(diffusion.trailing(count).expect_err("refused").to_string().contains("give 1 to 1000"));
    }
}

#[test]
fn the_process_of_all_steps_is_the_process() {
    let diffusion = Diffusion::new(Schedule::Linear, true);
    let all: Vec<usize> = (0..1000).rev().collect();
    assert_eq!(diffusion.spaced(&all), diffusion);
    let few = diffusion.spaced(&[999, 499]);
    assert_eq!([few.step(0).abar, few.step(1).abar_before], [diffusion.step(499).abar; 2]);
    assert_eq!((few.step(0).abar_before, few.step(1).abar), (1.0, 0.0));
}

#[test]
fn each_image_has_the_noise_of_its_own_step() {
    let diffusion = Diffusion::new(Schedule::Linear, true);
    let full = |value: f32| Tensor::<Host, 4>::full([3, 1, 1, 2], value, &Default::default());
    let xt = host(diffusion.add_noise(full(0.5), full(-2.0), &[0, 500, 999]));
    let of = |t: usize| {
        let abar = diffusion.step(t).abar;
        (0.5 * abar.sqrt() - 2.0 * (1.0 - abar).sqrt()) as f32
    };
    for (pair, t) in xt.chunks(2).zip([0, 500, 999]) {
        assert!(pair.iter().all(|x| (x - of(t)).abs() < 1e-6), "{pair:?} at {t}");
    }
    assert_eq!(xt[4], -2.0, "noise alone at the last step");
}

#[test]
fn noise_is_normal_and_an_image_s_own() {
    let device = Default::default();
    let of = |round, first, batch| host(noise::<Host>(9, round, first, [batch, 3, 16, 16], &device));
    let all = of(4, 0, 8);
    for image in 0..8 {
        assert_eq!(of(4, image as u64, 1), all[image * 768..(image + 1) * 768]);
    }
    assert_ne!(of(5, 0, 8), all);
    let count = all.len() as f32;
    let mean = all.iter().sum::<f32>() / count;
    let square = all.iter().map(|x| x * x).sum::<f32>() / count;
    assert!(mean.abs() < 5.0 / count.sqrt() && (square - 1.0).abs() < 5.0 * (2.0 / count).sqrt(), "{mean} {square}");
}

#[test]
fn steps_are_uniform_and_come_again() {
    let draws: Vec<usize> = (0..500).flat_map(|step| timesteps(3, step, 40, 1000)).collect();
    assert_eq!(timesteps(3, 7, 40, 1000), draws[280..320]);
    assert_eq!(timesteps(3, 7, 10, 1000), draws[280..290], "an image's step does not depend on the batch");
    // 20,000 draws: a mean of 499.5 ± 288.7/√20,000, and 20 a step.
    let mean = draws.iter().sum::<usize>() as f64 / draws.len() as f64;
    assert!((mean - 499.5).abs() < 5.0 * 288.7 / 20_000_f64.sqrt(), "{mean}");
    let mut counts = [0_i32; 1000];
    draws.iter().for_each(|&t| counts[t] += 1);
    let chi: f64 = counts.iter().map(|&count| f64::from(count - 20).powi(2) / 20.0).sum();
    assert!((chi - 999.0).abs() < 5.0 * (2.0 * 999.0_f64).sqrt(), "χ² of 999 degrees is {chi}");
}
