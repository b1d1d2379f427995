//! The training of a DiVAE, as the shell sees it.

use core::cell::RefCell;
use std::path::Path;

use burn::tensor::{Tensor, TensorData};
use serde_json::{Value, json};

use super::config::{Config, Variance};
use super::data::Data;
use super::evaluate::{Effort, Losses, evaluate};
use super::frozen::Frozen;
use super::model::{Divae, rows};
use super::report;
use super::tokenizer::Tokenizer;
use crate::common::failure::{Context, Failure};
use crate::common::random::generator;
use crate::diffusion::hybrid::{Hybrid, bound, hybrid, split};
use crate::diffusion::importance::LossSampler;
use crate::diffusion::target::Noised;
use crate::diffusion::{Diffusion, noise, timesteps};
use crate::nets::as_grid;
use crate::nets::unet::without;
use crate::params::host;
use crate::shell::{Checkpoint, Codes, Loss, Pass, Settings, Task, TrainBackend, TrainedOf};

/// What kind of checkpoint a run writes.
pub const KIND: &str = "divae";

/// A DiVAE to train: its settings, its data, what is frozen of it.
pub struct DivaeTask<B: TrainBackend> {
    /// The settings.
    pub config: Config,
    /// The schedule's tables.
    pub diffusion: Diffusion,
    /// The samples.
    pub data: Data,
    /// How much is evaluated.
    pub effort: Effort,
    pub(super) frozen: Option<Frozen<B::InnerBackend>>,
    /// Which steps are looked at, where the bound is all that is learned from.
    importance: Option<RefCell<LossSampler>>,
}

impl<B: TrainBackend> DivaeTask<B> {
    /// A training at its start.
    pub(super) fn new(config: Config, data: Data, effort: Effort, frozen: Option<Frozen<B::InnerBackend>>) -> Self {
        let diffusion = config.diffusion();
        let importance = (config.variance == Variance::Bound).then(|| RefCell::new(LossSampler::new(diffusion.len())));
        Self { config, diffusion, data, effort, frozen, importance }
    }

    fn tokenizer(&self, trained: &TrainedOf<B, Divae<B>>) -> Tokenizer<B::InnerBackend> {
        Tokenizer::of(self.config.clone(), trained.clone(), self.frozen.as_ref())
    }
}

/// In a checkpoint.
const LOSSES: &str = "diffusion_losses";

impl<B: TrainBackend> Task<B> for DivaeTask<B> {
    type Model = Divae<B>;
    type Config = Config;

    const KIND: &'static str = KIND;
    const RESULTS: &'static [&'static str] = &["counts.svg", "samples.png"];
    const CURVES: &'static [(&'static str, &'static str)] =
        &[("loss", "simple"), ("bound, bits", "bound"), ("commitment", "commitment")];

    fn config(&self) -> &Config {
        &self.config
    }

    fn settings(&self) -> &Settings {
        &self.config.settings
    }

    fn codes(&self) -> Option<&Codes> {
        self.frozen.is_none().then_some(&self.config.codes)
    }

    fn code_count(&self) -> usize {
        self.config.codes.codes
    }

    fn tokens(&self) -> usize {
        self.config.tokens()
    }

    fn inputs(&self) -> [String; 2] {
        let frozen = if self.frozen.is_some() { "encoder and codes" } else { "none" };
        [self.data.name().to_owned(), frozen.to_owned()]
    }

    fn epoch(&self) -> usize {
        self.data.len()
    }

    fn model(&self, device: &B::Device) -> Result<Divae<B>, Failure> {
        let model = Divae::new(&self.config, device);
        match &self.frozen {
            Some(frozen) => frozen.put(model, device),
            None => Ok(model),
        }
    }

    fn loss(&self, pass: Pass<'_, B, Divae<B>>) -> Result<Loss<B>, Failure> {
        let Pass { step, model, quantizer, dtype, device } = pass;
        let (config, seed) = (&self.config, self.config.settings.seed);
        let x0: Tensor<B, 4> = self.data.batch(step).to_tensor(device);
        let (condition, quantized, hits) = match (&self.frozen, quantizer) {
            (None, Some(quantizer)) => {
                let (rows, grid) = rows(&model.encoder, x0.clone(), dtype);
                let quantized = quantizer.forward(rows).context(|| "the quantizer".into())?;
                (as_grid(quantized.output.clone(), grid), Some(quantized), Vec::new())
            }
            (Some(frozen), _) => {
                let (rows, grid) = rows(&frozen.encoder, x0.clone().inner(), burn::tensor::FloatDType::F32);
                let hits = frozen.quantizer.encode(rows)?;
                let rows = frozen.quantizer.decode::<B::InnerBackend>(&hits, device)?;
                (as_grid(Tensor::from_inner(rows), grid), None, hits)
            }
            (None, None) => unreachable!("codes are learned or frozen"),
        };
        let dropped = |sample: u64| {
            f64::from(generator("dropped codes", seed, step, sample).uniform(0.0, 1.0)) < config.drop_codes
        };
        let drop: Vec<bool> = (0..x0.dims()[0] as u64).map(dropped).collect();
        let (batch, steps) = (x0.dims()[0], self.diffusion.len());
        let (t, weights) = match &self.importance {
            Some(sampler) => sampler.borrow().draw(seed, step, batch),
            None => (timesteps(seed, step, batch, steps), Vec::new()),
        };
        let noise = noise(seed, step, 0, x0.dims(), device);
        let noised = Noised::new(&self.diffusion, x0, noise, t);
        let output = model.decoder.forward(noised.xt.clone(), &noised.t, without(condition, &drop));
        let (diffusion, objective) = (&self.diffusion, &config.objective);
        let (mut total, terms) = match config.variance {
            Variance::Fixed => {
                let simple = objective.loss(diffusion, output, &noised).mean();
                (simple.clone(), vec![("simple", number(&simple))])
            }
            Variance::Hybrid => {
                let Hybrid { simple, bound } = hybrid(diffusion, objective, output, &noised)?;
                let (simple, bound) = (simple.mean(), bound.mean());
                (simple.clone() + bound.clone(), vec![("simple", number(&simple)), ("bound", number(&bound))])
            }
            Variance::Bound => {
                let learned = split(diffusion, output, config.kind.channels(), &noised.t)?;
                let simple = objective.loss(diffusion, learned.predicted.clone().detach(), &noised).mean();
                let bound = bound(diffusion, objective.prediction, learned, &noised);
                if let Some(sampler) = &self.importance {
                    sampler.borrow_mut().remember(&noised.t, &host(bound.clone()));
                }
                let weights = Tensor::from_data(TensorData::new(weights, [batch, 1]), device);
                let bound = (bound * weights).mean();
                (bound.clone(), vec![("simple", number(&simple)), ("bound", number(&bound))])
            }
        };
        if let Some(quantized) = &quantized {
            total = total + quantized.commitment_loss.clone().mul_scalar(config.commitment);
        }
        Ok(Loss { total, terms, quantized, hits })
    }

    fn remembered(&self) -> Vec<(&'static str, Vec<u8>)> {
        self.importance.iter().map(|sampler| (LOSSES, sampler.borrow().to_bytes())).collect()
    }

    fn recall(&self, file: &mut Checkpoint) -> Result<(), Failure> {
        match &self.importance {
            Some(sampler) => sampler.borrow_mut().restore(&file.file().read::<u8>(LOSSES)?),
            None => Ok(()),
        }
    }

    fn before(&self, start: &TrainedOf<B, Divae<B>>) -> Result<Option<Value>, Failure> {
        let losses = Losses::of(&self.tokenizer(start), &self.data, &self.effort)?;
        Ok(Some(json!({ "held_out": losses })))
    }

    fn finish(&self, trained: &TrainedOf<B, Divae<B>>, history: &[Value], out: &Path) -> Result<Value, Failure> {
        let tokenizer = self.tokenizer(trained);
        let before = history.first().and_then(|line| serde_json::from_value(line["held_out"].clone()).ok());
        let evaluation = evaluate(&tokenizer, &self.data, before, &self.effort)?;
        report::draw(out, &tokenizer, &self.data, &evaluation, &self.effort)?;
        report::print_summary(&self.config, &self.data, &evaluation);
        Ok(json!({
            "modality": self.config.kind,
            "dim": self.config.codes.dim,
            "grid": self.config.grid(),
            "evaluation": evaluation,
        }))
    }
}

/// The value of a scalar.
fn number<B: TrainBackend>(tensor: &Tensor<B, 1>) -> f64 {
    host(tensor.clone()).first().copied().map_or(f64::NAN, f64::from)
}
