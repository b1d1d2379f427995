//! A training under way: its networks, and one step of it.

use core::cell::RefCell;

use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::backend::AutodiffBackend;
use burn::tensor::{FloatDType, Tensor};
use vq_kernels::quantizer::Quantizer;
use vq_kernels::rng::Rng;

use super::config::{Adversary, Config, GanLoss};
use super::model::{Autoencoder, Discriminator};
use crate::common::failure::{Context, Failure};
use crate::losses::adversarial::{GanTerm, GanWeight, hinge_d, hinge_g, r1, softplus_d, softplus_g, split_backward};
use crate::losses::coverage::sliced_wasserstein;
use crate::losses::perceptual::Perceptual;
use crate::losses::reconstruction::{l1, l2, logit_laplace};
use crate::nets::as_grid;
use crate::optim::{Gradients, Optimizer};
use crate::params::{add_gradients, cast, cast_gradients, host};
use crate::quantize::VectorQuantizer;
use crate::shell::CURE;
use crate::shell::{Coder, Coding, SharedPool, State};

pub use crate::shell::TrainBackend;

/// Keeps what the coverage term draws apart from what others draw of the same seed.
const COVERAGE: u64 = 0x63;

/// The adversary's network and its optimizer.
pub(super) struct Opponent<B: AutodiffBackend> {
    pub network: Discriminator<B>,
    pub optimizer: Optimizer<Discriminator<B>, B>,
}

/// A training under way.
pub struct Trainer<B: TrainBackend> {
    pub(super) config: Config,
    pub(super) state: State<B, Autoencoder<B>>,
    pub(super) opponent: Option<Opponent<B>>,
    pub(super) perceptual: Option<Perceptual<B>>,
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
    /// Distance between the distributions of latents and of codes.
    pub coverage: Option<f64>,
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
            ("coverage", self.coverage),
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
        pool: Option<SharedPool>,
        device: B::Device,
    ) -> Result<Self, Failure> {
        config.check()?;
        let coder = Coder::new(&config.codes, &config.settings, centres, pool)?;
        let model = Autoencoder::new(&config, &device);
        let opponent = config.adversary.as_ref().map(|adversary| Opponent {
            network: Discriminator::new(&config, adversary, &device),
            optimizer: Optimizer::new(&config.settings.optimizer),
        });
        let coding = Coding::Learned(config.codes.clone(), coder);
        let state = State::new(config.settings.clone(), model, coding, device)?;
        Ok(Self { config, state, opponent, perceptual })
    }

    /// Steps taken.
    pub fn steps_taken(&self) -> u64 {
        self.state.steps_taken()
    }

    /// The settings.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Where it runs.
    pub fn device(&self) -> &B::Device {
        self.state.device()
    }

    /// The perceptual distance, where it has a weight.
    pub fn perceptual(&self) -> Option<&Perceptual<B>> {
        self.perceptual.as_ref()
    }

    /// The quantizer as it is trained.
    pub fn quantizer(&self) -> &VectorQuantizer {
        match self.state.quantizer() {
            Some(quantizer) => quantizer,
            None => unreachable!("`new` gives every VQGAN a quantizer"),
        }
    }

    /// One step on `images` `[batch, 3, height, width]` in [-1, 1]: generator and codes, then the adversary.
    ///
    /// # Errors
    /// A loss term that is not finite, with its name and step; nothing has been changed then.
    pub fn step(&mut self, images: Tensor<B, 4>) -> Result<StepReport, Failure> {
        let (step, lr) = (self.state.steps_taken(), self.state.lr());
        let mut report = StepReport { step: step + 1, lr, ..StepReport::default() };
        let playing = self.config.adversary.clone().filter(|adversary| step >= adversary.start);
        let (gradients, fake) = self.generator_gradients(&images, playing.as_ref(), &mut report)?;
        report.gradient_norm = gradients.norm();
        let judged = match (&playing, &self.opponent) {
            (Some(adversary), Some(opponent)) => {
                Some(discriminator_gradients(adversary, opponent, images, fake, step, &mut report))
            }
            _ => None,
        };
        report.discriminator_gradient_norm = judged.as_ref().map(Gradients::norm);
        report.check()?;

        let updated = self.state.learn(gradients, &[])?;
        if let (Some(gradients), Some(opponent)) = (judged, &mut self.opponent) {
            opponent.network = opponent.optimizer.step(lr, opponent.network.clone(), gradients);
        }
        (report.active, report.restarted) = (updated.active, updated.restart.restarted);
        Ok(report)
    }

    /// The gradients of encoder and decoder, the quantizer's own inside it, and the reconstructions.
    fn generator_gradients(
        &mut self,
        images: &Tensor<B, 4>,
        playing: Option<&Adversary>,
        report: &mut StepReport,
    ) -> Result<(Gradients, Tensor<B::InnerBackend, 4>), Failure> {
        let losses = self.config.losses.clone();
        let (model, input) = match self.config.settings.amp {
            true => (cast(self.state.model.clone(), FloatDType::BF16), images.clone().cast(FloatDType::BF16)),
            false => (self.state.model.clone(), images.clone()),
        };
        let (rows, grid) = model.rows(input);
        let far = || self.coverage(rows.clone().cast(FloatDType::F32), report.step);
        let coverage = (losses.coverage > 0.0).then(far).transpose()?;
        let quantized = self.quantizer().forward(rows).context(|| format!("step {}: the quantizer", report.step))?;
        let trunk = model.decoder.trunk(as_grid(quantized.output, grid)).cast(FloatDType::F32);

        // The last layer stays in f32: its gradient decides the adversary's weight.
        let last = self.state.model.decoder.last_layer();
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
        let head = |trunk, weight, bias| self.state.model.decoder.head(trunk, weight, bias);
        let split = split_backward(trunk.clone(), last.weight.val(), bias.val(), head, nll, gan);

        let total = split.surrogate(trunk)
            + quantized.codebook_loss.mul_scalar(losses.codebook)
            + quantized.commitment_loss.mul_scalar(losses.commitment);
        report.coverage = coverage.clone().map(|term| number(term.inner()));
        let total = match coverage {
            Some(term) => total + term.mul_scalar(losses.coverage),
            None => total,
        };
        let gradients = GradientsParams::from_grads(total.backward(), &model);
        let mut gradients = match self.config.settings.amp {
            true => cast_gradients::<B, _>(&self.state.model, gradients),
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
        Ok((Gradients::of::<B, _>(&self.state.model, gradients), split.images))
    }

    /// How far latents `[n, dim]` are from being spread as the codes are.
    fn coverage(&self, rows: Tensor<B, 2>, step: u64) -> Result<Tensor<B, 1>, Failure> {
        let mut rng = Rng::new(self.config.settings.seed ^ COVERAGE, step);
        let unit = self.config.codes.normalize;
        let far = |quantizer: &Quantizer| sliced_wasserstein(rows, quantizer.codebook().data(), unit, &mut rng);
        Ok(self.quantizer().read(far)?)
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
        let mut total = Tensor::zeros([1], self.device());
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

    /// Share of the codes that were hit of late, as [`State::recent_utilization`].
    pub fn recent_utilization(&self) -> f64 {
        self.state.recent_utilization(self.config.tokens())
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
) -> Gradients {
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
    let gradients = match adversary.r1 {
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
    };
    Gradients::of::<B, _>(network, gradients)
}

/// The value of a tensor with one.
fn number<B: burn::tensor::backend::Backend>(tensor: Tensor<B, 1>) -> f64 {
    host(tensor).first().copied().map_or(f64::NAN, f64::from)
}
