//! How much noise each step adds, and what follows from it.

use core::f64::consts::FRAC_PI_2;
use core::fmt;
use core::str::FromStr;

use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};
use rayon::iter::{IndexedParallelIterator, ParallelIterator};
use rayon::slice::ParallelSliceMut;
use serde::{Deserialize, Serialize};

use crate::common::failure::Failure;
use crate::common::random::generator;

/// Steps of a training.
pub const STEPS: usize = 1000;

/// What keeps the logarithm of a variance of 0 finite.
const LEAST_VARIANCE: f64 = 1e-20;

/// The noise of each step, by the names that diffusers and 4M give: `linear`, `squaredcos_cap_v2`, `shifted_cosine:0.5`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Schedule {
    /// β from 10⁻⁴ to 0.02 in equal steps (Ho et al. 2020, section 4).
    Linear,
    /// ᾱ(t) = cos²(π/2 · (t + 0.008)/1.008), β at most 0.999 (Nichol and Dhariwal 2021, eq. 17).
    SquaredCos,
    /// log SNR(t) = −2 (ln tan(πt/2) + ln k), within ±15: the cosine schedule of other image sizes (Hoogeboom et al. 2023, eqs. 5 to 7);
    /// k below 1 has less noise.
    ShiftedCosine(f64),
}

impl FromStr for Schedule {
    type Err = Failure;

    fn from_str(text: &str) -> Result<Self, Failure> {
        let schedule = match text.split_once(':') {
            None if text == "linear" => Some(Self::Linear),
            None if text == "squaredcos_cap_v2" => Some(Self::SquaredCos),
            Some(("shifted_cosine", shift)) => shift.parse().ok().map(Self::ShiftedCosine),
            _ => None,
        };
        let within = |schedule: &Self| !matches!(schedule, Self::ShiftedCosine(k) if !(0.001..=1000.0).contains(k));
        schedule.filter(within).ok_or_else(|| {
            Failure::new(format!(
                "`{text}` is no schedule: expected linear, squaredcos_cap_v2, or shifted_cosine: and a number from 0.001 to 1000"
            ))
        })
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Linear => f.write_str("linear"),
            Self::SquaredCos => f.write_str("squaredcos_cap_v2"),
            Self::ShiftedCosine(shift) => write!(f, "shifted_cosine:{shift}"),
        }
    }
}

impl TryFrom<String> for Schedule {
    type Error = Failure;

    fn try_from(text: String) -> Result<Self, Failure> {
        text.parse()
    }
}

impl From<Schedule> for String {
    fn from(schedule: Schedule) -> Self {
        schedule.to_string()
    }
}

impl Schedule {
    /// The share of the image's variance that is left after each of `steps` steps, ᾱ.
    fn abar(self, steps: usize) -> Vec<f64> {
        let part = |t: usize, of: usize| t as f64 / of.max(1) as f64;
        let product = |betas: Vec<f64>| {
            let so_far = |abar: &mut f64, beta: f64| {
                *abar *= 1.0 - beta;
                Some(*abar)
            };
            betas.into_iter().scan(1.0, so_far).collect()
        };
        match self {
            Self::Linear => product((0..steps).map(|t| 1e-4 + (0.02 - 1e-4) * part(t, steps - 1)).collect()),
            Self::SquaredCos => {
                let abar = |t: usize| (FRAC_PI_2 * (part(t, steps) + 0.008) / 1.008).cos().powi(2);
                product((0..steps).map(|t| (1.0 - abar(t + 1) / abar(t)).min(0.999)).collect())
            }
            Self::ShiftedCosine(shift) => {
                let log_snr = |t: usize| -2.0 * ((FRAC_PI_2 * part(t, steps - 1)).tan().ln() + shift.ln());
                (0..steps).map(|t| 1.0 / (1.0 + (-log_snr(t).clamp(-15.0, 15.0)).exp())).collect()
            }
        }
    }
}

/// What holds at one step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// ᾱ_t: the image's share of the variance of x_t (Ho et al. 2020, eq. 4).
    pub abar: f64,
    /// ᾱ of the step before; 1 at the first.
    pub abar_before: f64,
    /// β_t = 1 − ᾱ_t / ᾱ_{t−1}: the variance that the step adds.
    pub beta: f64,
    /// x0's factor in the mean of q(x_{t−1} | x_t, x0) (Ho et al. 2020, eq. 7).
    pub mean_x0: f64,
    /// x_t's factor there.
    pub mean_xt: f64,
    /// ln β̃_t, the logarithm of the variance there, the first step's taken from the second, as it is ln 0 itself (Nichol and Dhariwal 2021,
    /// section 3.1).
    pub log_posterior: f64,
    /// ln β_t.
    pub log_beta: f64,
}

impl Step {
    /// Image over noise, ᾱ / (1 − ᾱ).
    pub fn snr(&self) -> f64 {
        self.abar / (1.0 - self.abar)
    }
}

/// A schedule's tables.
#[derive(Clone, Debug, PartialEq)]
pub struct Diffusion {
    steps: Vec<Step>,
}

impl Diffusion {
    /// The tables of [`STEPS`] steps. With `zero_terminal_snr` the last step is pure noise, ᾱ = 0 exactly, and the first is kept (Lin et al. 2023,
    /// algorithm 1); a shifted cosine stays as it is, as in 4M.
    pub fn new(schedule: Schedule, zero_terminal_snr: bool) -> Self {
        let mut abar = schedule.abar(STEPS);
        if zero_terminal_snr && !matches!(schedule, Schedule::ShiftedCosine(_)) {
            rescale(&mut abar);
        }
        Self::from_abar(&abar)
    }

    /// From the image's share at each step, falling.
    fn from_abar(abar: &[f64]) -> Self {
        let before = |t: usize| t.checked_sub(1).map_or(1.0, |t| abar[t]);
        let beta = |t: usize| 1.0 - abar[t] / before(t);
        // 1 − ᾱ is 0 where no step has added noise yet.
        let noise = |abar: f64| (1.0 - abar).max(LEAST_VARIANCE);
        let posterior = |t: usize| beta(t) * (1.0 - before(t)) / noise(abar[t]);
        let step = |t: usize| Step {
            abar: abar[t],
            abar_before: before(t),
            beta: beta(t),
            mean_x0: if t == 0 { 1.0 } else { beta(t) * before(t).sqrt() / noise(abar[t]) },
            mean_xt: (1.0 - before(t)) * (1.0 - beta(t)).sqrt() / noise(abar[t]),
            log_posterior: posterior(t.max(1).min(abar.len() - 1)).max(LEAST_VARIANCE).ln(),
            log_beta: beta(t).max(LEAST_VARIANCE).ln(),
        };
        Self { steps: (0..abar.len()).map(step).collect() }
    }

    /// How many steps.
    pub fn len(&self) -> usize {
        self.steps.len()
    }

    /// Whether there is none: never.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// One step; the last one where `t` is beyond.
    pub fn step(&self, t: usize) -> &Step {
        &self.steps[t.min(self.steps.len() - 1)]
    }

    /// Whether nothing of the image is left at the last step.
    pub fn ends_in_noise(&self) -> bool {
        self.step(usize::MAX).abar == 0.0
    }

    /// The last steps of `count` equal parts, most noise first: `arange(T, 0, −T/n) − 1`, rounded ("trailing"; Lin et al. 2023, table 2).
    ///
    /// # Errors
    /// Where `count` is 0 or more than there are steps.
    pub fn trailing(&self, count: usize) -> Result<Vec<usize>, Failure> {
        if !(1..=self.len()).contains(&count) {
            return Err(Failure::new(format!("{count} sampling steps: give 1 to {}", self.len())));
        }
        let stride = self.len() as f64 / count as f64;
        Ok((0..count).map(|i| ((self.len() as f64 - i as f64 * stride).round() as usize).max(1) - 1).collect())
    }

    /// The tables of a process that takes only these steps, in either order (Nichol and Dhariwal 2021, section 4).
    pub(super) fn spaced(&self, timesteps: &[usize]) -> Self {
        let mut abar: Vec<f64> = timesteps.iter().map(|&t| self.step(t).abar).collect();
        abar.sort_unstable_by(|a, b| b.total_cmp(a));
        Self::from_abar(&abar)
    }

    /// One number for each image, `[batch, 1, 1, 1]`, in the type and on the device of `like`.
    pub fn of<B: Backend>(&self, t: &[usize], value: impl Fn(&Step) -> f64, like: &Tensor<B, 4>) -> Tensor<B, 4> {
        let values: Vec<f64> = t.iter().map(|&t| value(self.step(t))).collect();
        Tensor::from_data(TensorData::new(values, [t.len(), 1, 1, 1]), (&like.device(), like.dtype()))
    }

    /// x_t = √ᾱ x0 + √(1 − ᾱ) n, each image at its own step (Ho et al. 2020, eq. 4).
    pub fn add_noise<B: Backend>(&self, x0: Tensor<B, 4>, noise: Tensor<B, 4>, t: &[usize]) -> Tensor<B, 4> {
        let signal = self.of(t, |step| step.abar.sqrt(), &x0);
        let spread = self.of(t, |step| (1.0 - step.abar).sqrt(), &x0);
        x0 * signal + noise * spread
    }

    /// The mean of q(x_{t−1} | x_t, x0) (Ho et al. 2020, eq. 7).
    pub fn posterior_mean<B: Backend>(&self, x0: Tensor<B, 4>, xt: Tensor<B, 4>, t: &[usize]) -> Tensor<B, 4> {
        let (of_x0, of_xt) = (self.of(t, |step| step.mean_x0, &x0), self.of(t, |step| step.mean_xt, &x0));
        x0 * of_x0 + xt * of_xt
    }
}

/// √ᾱ moved to end at 0 and stretched to begin where it began.
fn rescale(abar: &mut [f64]) {
    let [Some(first), Some(last)] = [abar.first(), abar.last()].map(|abar| abar.map(|abar| abar.sqrt())) else {
        return;
    };
    // The first is kept to the bit.
    for abar in &mut abar[1..] {
        *abar = ((abar.sqrt() - last) * first / (first - last)).powi(2);
    }
}

/// The steps that a training batch is noised to, uniform in `0..steps`, each from the seed, the training step and its place.
pub fn timesteps(seed: u64, step: u64, batch: usize, steps: usize) -> Vec<usize> {
    (0..batch as u64).map(|sample| generator("diffusion steps", seed, step, sample).below(steps)).collect()
}

/// Normal noise `[batch, channels, height, width]` in f32: image `i` from the seed, `round` (a training step, or a sampling step) and
/// `first + i`, whatever the batch.
pub fn noise<B: Backend>(seed: u64, round: u64, first: u64, shape: [usize; 4], device: &B::Device) -> Tensor<B, 4> {
    let mut values = vec![0.0_f32; shape.iter().product()];
    let each: usize = shape[1..].iter().product();
    values.par_chunks_exact_mut(each.max(1)).enumerate().for_each(|(image, values)| {
        let mut random = generator("diffusion noise", seed, round, first.wrapping_add(image as u64));
        values.fill_with(|| random.normal() as f32);
    });
    Tensor::from_data(TensorData::new(values, shape), device)
}

#[cfg(test)]
mod tests;
