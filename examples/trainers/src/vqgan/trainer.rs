//! A training under way: its networks, and one step of it.

use core::cell::RefCell;
use std::sync::Arc;

use burn::module::{AutodiffModule, Module};
use burn::optim::GradientsParams;
use burn::tensor::backend::AutodiffBackend;
use burn::tensor::{FloatDType, Tensor};
use vq_kernels::Pool;
use vq_kernels::quantizer::{Initial, Quantizer, StateMut, StateRef};

use super::config::{Adversary, Config, GanLoss, System};
use super::model::{Autoencoder, Discriminator, as_grid};
use crate::common::adam::Adam;
use crate::common::failure::{Context, Failure};
use crate::common::learning;
use crate::losses::adversarial::{GanTerm, GanWeight, hinge_d, hinge_g, r1, softplus_d, softplus_g, split_backward};
use crate::losses::perceptual::Perceptual;
use crate::losses::reconstruction::{l1, l2, logit_laplace};
use crate::optim::Optimizer;
use crate::params::{add_gradients, average, cast, cast_gradients, host};
use crate::quantize::{QuantizeBackend, VectorQuantizer};

/// What a training runs on: gradients, and our op.
pub trait TrainBackend: AutodiffBackend<InnerBackend: QuantizeBackend> + QuantizeBackend {}

impl<B: AutodiffBackend<InnerBackend: QuantizeBackend> + QuantizeBackend> TrainBackend for B {}

/// The adversary's network and its optimizer.
pub(super) struct Opponent<B: AutodiffBackend> {
    pub network: Discriminator<B>,
    pub optimizer: Optimizer<Discriminator<B>, B>,
}

/// The moving averages of what is trained.
pub(super) struct Averaged<B: AutodiffBackend> {
    pub model: Autoencoder<B::InnerBackend>,
    pub quantizer: Quantizer,
}

/// A training under way.
pub struct Trainer<B: TrainBackend> {
    pub(super) config: Config,
    pub(super) device: B::Device,
    pub(super) model: Autoencoder<B>,
    pub(super) optimizer: Optimizer<Autoencoder<B>, B>,
    pub(super) quantizer: VectorQuantizer,
    pub(super) pool: Option<Arc<dyn Pool + Send + Sync>>,
    pub(super) adam: Adam,
    pub(super) opponent: Option<Opponent<B>>,
    pub(super) averaged: Option<Averaged<B>>,
    pub(super) perceptual: Option<Perceptual<B>>,
    pub(super) step: u64,
    /// The step, plus one, at which each code was last hit; 0 is never.
    pub(super) last_hit: Vec<u64>,
}

/// What a step found; terms are unweighted.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct StepReport {
    /// The step, from 1.
    pub step: u64,
    /// Mean absolute error of pixels; `None` where it has no weight, as all below.
    pub l1: Option<f64>,
    /// Mean squared error of pixels.
    pub l2: Option<f64>,
    /// Logit-Laplace negative log-likelihood.
    pub logit_laplace: Option<f64>,
    /// Distance in a frozen network's features.
    pub perceptual: Option<f64>,
    /// The generator's adversarial loss, from the adversary's start on.
    pub gan: Option<f64>,
    /// What it was multiplied by.
    pub gan_weight: Option<f64>,
    /// The discriminator's loss.
    pub discriminator: Option<f64>,
    /// Its mean logit of images.
    pub real: Option<f64>,
    /// Its mean logit of reconstructions.
    pub fake: Option<f64>,
    /// The gradient penalty, at its steps.
    pub r1: Option<f64>,
    /// Codebook term.
    pub codebook: f64,
    /// Commitment term.
    pub commitment: f64,
    /// Mean length of the un-normalized latents.
    pub mean_norm: f64,
    /// Length of the generator's gradients before clipping.
    pub gradient_norm: f64,
    /// Length of the discriminator's.
    pub discriminator_gradient_norm: Option<f64>,
    /// Distinct codes hit.
    pub active: usize,
    /// Codes restarted.
    pub restarted: usize,
    /// Latents that got no code.
    pub without_code: usize,
    /// Learning rate.
    pub lr: f64,
}

/// What to do about a loss that is not finite: a lower rate makes another run.
const CURE: &str = "Start again with a lower --lr and another --out";

impl StepReport {
    /// Refuses the first loss term that is not finite, by name.
    fn check(&self) -> Result<(), Failure> {
        let terms = [
            ("L1", self.l1),
            ("L2", self.l2),
            ("logit-Laplace", self.logit_laplace),
            ("perceptual", self.perceptual),
            ("codebook", Some(self.codebook)),
            ("commitment", Some(self.commitment)),
            ("generator's adversarial", self.gan),
            ("discriminator's", self.discriminator),
            ("R1", self.r1),
            ("gradient's length as a", Some(self.gradient_norm)),
            ("discriminator's gradient's length as a", self.discriminator_gradient_norm),
        ];
        let Some((name, value)) =
            terms.iter().find_map(|(name, value)| value.filter(|v| !v.is_finite()).map(|v| (name, v)))
        else {
            return match self.without_code {
                0 => Ok(()),
                n => Err(Failure::new(format!(
                    "step {}: {n} latents are not finite; the last checkpoint, if there is one, still stands. {CURE}",
                    self.step
                ))),
            };
        };
        Err(Failure::new(format!(
            "step {}: the {name} loss is {value}; the last checkpoint, if there is one, still stands. {CURE}",
            self.step
        )))
    }
}

impl<B: TrainBackend> Trainer<B> {
    /// A training at its start. `centres` are those of VQGAN-LC, `[codes, source_dim]`.
    ///
    /// # Errors
    /// Settings that do not fit.
    pub fn new(
        config: Config,
        centres: Option<Vec<f32>>,
        perceptual: Option<Perceptual<B>>,
        pool: Option<Arc<dyn Pool + Send + Sync>>,
        device: B::Device,
    ) -> Result<Self, Failure> {
        config.check()?;
        let initial = match (config.codes.system, centres) {
            (System::Lc, Some(centres)) => Initial::Codes(centres),
            (System::Lc, None) => return Err(Failure::new("VQGAN-LC takes its centres from a file: give --codebook")),
            (System::Vqgan | System::Fc | System::Ema, _) if config.codes.normalize => Initial::Normal,
            (System::Vqgan | System::Fc | System::Ema, _) => Initial::Uniform,
        };
        let layer = config.codes.layer(config.seed);
        let mut quantizer = Quantizer::new(layer, initial).context(|| "cannot set up the quantizer".into())?;
        if config.codes.system == System::Lc && config.codes.standardize && !config.codes.normalize {
            standardize(&mut quantizer)?;
        }
        let adam = learning::optimizer(&quantizer, config.optimizer.constants());
        let model = Autoencoder::new(&config, &device);
        let opponent = config.adversary.as_ref().map(|adversary| Opponent {
            network: Discriminator::new(&config, adversary, &device),
            optimizer: Optimizer::new(&config.optimizer),
        });
        let averaged = config.average.map(|_| Averaged { model: model.valid(), quantizer: quantizer.clone() });
        let handle = VectorQuantizer::new(quantizer);
        let quantizer = match &pool {
            Some(pool) => handle.with_pool(Arc::clone(pool)),
            None => handle,
        };
        Ok(Self {
            optimizer: Optimizer::new(&config.optimizer),
            quantizer,
            pool,
            last_hit: vec![0; config.codes.codes],
            step: 0,
            config,
            device,
            model,
            adam,
            opponent,
            averaged,
            perceptual,
        })
    }

    /// Steps taken.
    pub fn steps_taken(&self) -> u64 {
        self.step
    }

    /// The settings.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Where it runs.
    pub fn device(&self) -> &B::Device {
        &self.device
    }

    /// The perceptual distance, where it has a weight.
    pub fn perceptual(&self) -> Option<&Perceptual<B>> {
        self.perceptual.as_ref()
    }

    /// The quantizer as it is trained.
    pub fn quantizer(&self) -> &VectorQuantizer {
        &self.quantizer
    }

    /// One step on `images` `[batch, 3, height, width]` in [-1, 1]: generator and codes, then the adversary.
    ///
    /// # Errors
    /// A loss term that is not finite, with its name and step; nothing has been changed then.
    pub fn step(&mut self, images: Tensor<B, 4>) -> Result<StepReport, Failure> {
        let lr = self.config.optimizer.lr_at(self.step, self.config.steps);
        let mut report = StepReport { step: self.step + 1, lr, ..StepReport::default() };
        let playing = self.config.adversary.clone().filter(|adversary| self.step >= adversary.start);
        let (gradients, fake) = self.generator_gradients(&images, playing.as_ref(), &mut report)?;
        report.gradient_norm = crate::params::gradient_norm::<B, _>(&self.model, &gradients);
        let judged = match (&playing, &self.opponent) {
            (Some(adversary), Some(opponent)) => {
                Some(discriminator_gradients(adversary, opponent, images, fake, self.step, &mut report))
            }
            _ => None,
        };
        if let (Some(gradients), Some(opponent)) = (&judged, &self.opponent) {
            let norm = crate::params::gradient_norm::<B, _>(&opponent.network, gradients);
            report.discriminator_gradient_norm = Some(norm);
        }
        report.check()?;

        let (model, _) = self.optimizer.step(lr, self.model.clone(), gradients);
        self.model = model;
        let failed = || format!("step {}: the quantizer", report.step);
        let updated = self.quantizer.update().context(failed)?;
        let cpu = self.quantizer.cpu();
        self.quantizer.with(|quantizer| learning::apply(quantizer, &mut self.adam, &cpu, lr)).context(failed)?;
        if let (Some(gradients), Some(opponent)) = (judged, &mut self.opponent) {
            opponent.network = opponent.optimizer.step(lr, opponent.network.clone(), gradients).0;
        }
        self.step += 1;
        let (step, last_hit) = (self.step, &mut self.last_hit);
        self.quantizer.read(|quantizer| {
            for &code in quantizer.last_codes() {
                if let Some(hit) = last_hit.get_mut(code as usize) {
                    *hit = step;
                }
            }
        });
        self.move_averages()?;
        (report.active, report.restarted) = (updated.active, updated.restart.restarted);
        Ok(report)
    }

    /// The gradients of encoder and decoder, the quantizer's own inside it, and the reconstructions.
    fn generator_gradients(
        &mut self,
        images: &Tensor<B, 4>,
        playing: Option<&Adversary>,
        report: &mut StepReport,
    ) -> Result<(GradientsParams, Tensor<B::InnerBackend, 4>), Failure> {
        let losses = self.config.losses.clone();
        let (model, input) = match self.config.amp {
            true => (cast(self.model.clone(), FloatDType::BF16), images.clone().cast(FloatDType::BF16)),
            false => (self.model.clone(), images.clone()),
        };
        let (rows, grid) = model.rows(input);
        let quantized = self.quantizer.forward(rows).context(|| format!("step {}: the quantizer", report.step))?;
        let trunk = model.decoder.trunk(as_grid(quantized.output, grid)).cast(FloatDType::F32);

        // The last layer stays in f32: its gradient decides the adversary's weight.
        let last = self.model.decoder.last_layer();
        let Some(bias) = &last.bias else { unreachable!("every decoder's last layer has a bias") };
        let terms = RefCell::new(Terms::default());
        let nll = |fake: Tensor<B, 4>| self.reconstruction_loss(&losses, fake, images.clone(), &terms);
        let judge = self.opponent.as_ref().map(|opponent| opponent.network.clone().no_grad());
        let gan = playing.zip(judge).map(|(adversary, judge)| GanTerm {
            loss: move |fake| match adversary.loss {
                GanLoss::Hinge => hinge_g(judge.forward(fake)),
                GanLoss::Softplus => softplus_g(judge.forward(fake)),
            },
            weight: match adversary.adaptive {
                true => GanWeight::Adaptive(adversary.weight),
                false => GanWeight::Fixed(adversary.weight),
            },
        });
        let head = |trunk, weight, bias| self.model.decoder.head(trunk, weight, bias);
        let split = split_backward(trunk.clone(), last.weight.val(), bias.val(), head, nll, gan);

        let total = split.surrogate(trunk)
            + quantized.codebook_loss.mul_scalar(losses.codebook)
            + quantized.commitment_loss.mul_scalar(losses.commitment);
        let gradients = GradientsParams::from_grads(total.backward(), &model);
        let mut gradients = match self.config.amp {
            true => cast_gradients::<B, _>(&self.model, gradients),
            false => gradients,
        };
        gradients.remove::<B::InnerBackend, 4>(last.weight.id);
        gradients.remove::<B::InnerBackend, 1>(bias.id);
        gradients.register(last.weight.id, split.weight);
        gradients.register(bias.id, split.bias);

        let terms = terms.into_inner();
        (report.l1, report.l2, report.logit_laplace) = (terms.l1, terms.l2, terms.logit_laplace);
        report.perceptual = terms.perceptual;
        (report.gan, report.gan_weight) = (split.gan.map(number), split.lambda.map(number));
        report.codebook = quantized.report.loss.codebook;
        report.commitment = quantized.report.loss.commitment;
        report.mean_norm = quantized.report.mean_norm;
        report.without_code = quantized.report.without_code;
        Ok((gradients, split.images))
    }

    /// The weighted sum of the terms on pixels and features; their values go to `terms`.
    fn reconstruction_loss(
        &self,
        losses: &super::config::Losses,
        fake: Tensor<B, 4>,
        real: Tensor<B, 4>,
        terms: &RefCell<Terms>,
    ) -> Tensor<B, 1> {
        let mut terms = terms.borrow_mut();
        let mut total = Tensor::zeros([1], &self.device);
        let mut add = |weight: f64, slot: &mut Option<f64>, term: &dyn Fn() -> Tensor<B, 1>| {
            if weight > 0.0 {
                let term = term();
                *slot = Some(number(term.clone().inner()));
                total = total.clone() + term.mul_scalar(weight);
            }
        };
        add(losses.l1, &mut terms.l1, &|| l1(fake.clone(), real.clone()));
        add(losses.l2, &mut terms.l2, &|| l2(fake.clone(), real.clone()));
        add(losses.logit_laplace, &mut terms.logit_laplace, &|| logit_laplace(fake.clone(), real.clone()));
        if let Some(perceptual) = &self.perceptual {
            let distance = || perceptual.distance(fake.clone(), real.clone()).mean();
            add(losses.perceptual, &mut terms.perceptual, &distance);
        }
        total
    }

    fn move_averages(&mut self) -> Result<(), Failure> {
        let (Some(decay), Some(averaged)) = (self.config.average, &mut self.averaged) else { return Ok(()) };
        averaged.model = average(averaged.model.clone(), &self.model.valid(), decay);
        let (normalize, dim) = (self.config.codes.normalize, self.config.codes.dim);
        self.quantizer.read(|now| {
            let now = now.state();
            averaged.quantizer.restore(|name, place| {
                // Codes and layers; the centres are frozen, and counters have no average.
                let moves =
                    matches!(name, "codebook" | "latent") || name.ends_with(".weight") || name.ends_with(".bias");
                let found = now.iter().find(|(found, _)| *found == name).map(|(_, values)| *values);
                if let (true, StateMut::F32(values), Some(StateRef::F32(now))) = (moves, place, found) {
                    for (average, &now) in values.iter_mut().zip(now) {
                        *average = (decay * f64::from(*average) + (1.0 - decay) * f64::from(now)) as f32;
                    }
                    if normalize && name == "codebook" {
                        // The search by angle asks for unit rows, which a mean of unit rows is not.
                        values.chunks_exact_mut(dim).for_each(to_unit_length);
                    }
                }
                Ok::<(), Failure>(())
            })
        })
    }

    /// Share of the codes that were hit within the last steps that would give each 8 hits, were all used alike.
    pub fn recent_utilization(&self) -> f64 {
        let tokens = (self.config.batch * self.config.tokens()) as f64;
        let window = (8.0 * self.last_hit.len() as f64 / tokens).ceil() as u64;
        let recent = self.last_hit.iter().filter(|&&hit| hit > 0 && hit + window > self.step);
        recent.count() as f64 / self.last_hit.len() as f64
    }
}

/// Scales and shifts a projector's outputs so that the projected codes have mean 0 and variance 1 in each dimension.
fn standardize(quantizer: &mut Quantizer) -> Result<(), Failure> {
    let Some(projector) = quantizer.projector().cloned() else { return Ok(()) };
    let (dim, width, codebook) = (quantizer.config().dim, projector.inputs(), quantizer.codebook().data().to_vec());
    let n = (codebook.len() / dim) as f64;
    // Of each dimension, what is subtracted and what then divides.
    let moments: Vec<(f64, f64)> = (0..dim)
        .map(|j| {
            let values = || codebook.iter().skip(j).step_by(dim).map(|&x| f64::from(x));
            let mean = values().sum::<f64>() / n;
            let variance = values().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
            (mean, if variance > 0.0 { variance.sqrt() } else { 1.0 })
        })
        .collect();
    let moved = |x: f32, j: usize| ((f64::from(x) - moments[j].0) / moments[j].1) as f32;
    quantizer.restore(|name, place| {
        let StateMut::F32(values) = place else { return Ok::<(), Failure>(()) };
        match name {
            "projector.weight" => {
                values.iter_mut().enumerate().for_each(|(i, w)| *w = (f64::from(*w) / moments[i / width].1) as f32);
            }
            "projector.bias" => values.iter_mut().enumerate().for_each(|(j, b)| *b = moved(*b, j)),
            "codebook" => values.iter_mut().enumerate().for_each(|(i, e)| *e = moved(*e, i % dim)),
            _ => {}
        }
        Ok(())
    })
}

fn to_unit_length(row: &mut [f32]) {
    let length = row.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
    if length > 0.0 {
        row.iter_mut().for_each(|x| *x = (f64::from(*x) / length) as f32);
    }
}

/// Values of the reconstruction's terms.
#[derive(Default)]
struct Terms {
    l1: Option<f64>,
    l2: Option<f64>,
    logit_laplace: Option<f64>,
    perceptual: Option<f64>,
}

/// The adversary's gradients on images and reconstructions.
fn discriminator_gradients<B: TrainBackend>(
    adversary: &Adversary,
    opponent: &Opponent<B>,
    real: Tensor<B, 4>,
    fake: Tensor<B::InnerBackend, 4>,
    step: u64,
    report: &mut StepReport,
) -> GradientsParams {
    let network = &opponent.network;
    let (judged_real, judged_fake) = (network.forward(real.clone()), network.forward(Tensor::from_inner(fake)));
    report.real = Some(number(judged_real.clone().mean().inner()));
    report.fake = Some(number(judged_fake.clone().mean().inner()));
    let loss = match adversary.loss {
        GanLoss::Hinge => hinge_d(judged_real, judged_fake),
        GanLoss::Softplus => softplus_d(judged_real, judged_fake),
    };
    report.discriminator = Some(number(loss.clone().inner()));
    let gradients = GradientsParams::from_grads(loss.backward(), network);
    match adversary.r1 {
        Some((gamma, every)) if (step - adversary.start).is_multiple_of(every) => {
            let penalty = r1(
                network,
                |network, images| network.forward(images),
                |network, images, direction| network.derivative(images, direction),
                real,
                gamma,
                every as usize,
            );
            report.r1 = Some(number(penalty.value));
            add_gradients::<B, _>(network, gradients, penalty.gradients)
        }
        _ => gradients,
    }
}

/// The value of a tensor with one.
fn number<B: burn::tensor::backend::Backend>(tensor: Tensor<B, 1>) -> f64 {
    host(tensor).first().copied().map_or(f64::NAN, f64::from)
}
