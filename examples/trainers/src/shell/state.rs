//! What a training keeps from step to step, whatever it trains.

use core::marker::PhantomData;
use std::collections::BTreeMap;

use burn::module::{AutodiffModule, Module};
use burn::tensor::backend::AutodiffBackend;
use vq_kernels::quantizer::Quantizer;

use super::checkpoint::{Checkpoint, Extra};
use super::coder::{self, Coder};
use super::codes::Codes;
use super::settings::Settings;
use crate::common::failure::{Context, Failure};
use crate::common::tensors::Tensor;
use crate::optim::{Gradients, Optimizer};
use crate::params::{average, tensors};
pub use crate::quantize::Updated;
use crate::quantize::{QuantizeBackend, VectorQuantizer};

/// What a training runs on: gradients, and our op.
pub trait TrainBackend: AutodiffBackend<InnerBackend: QuantizeBackend> + QuantizeBackend {}

impl<B: AutodiffBackend<InnerBackend: QuantizeBackend> + QuantizeBackend> TrainBackend for B {}

/// Prefixes of tensor names in a checkpoint.
pub(crate) const MODEL: &str = "model.";
pub(super) const AVERAGE: &str = "average.";
pub(super) const QUANTIZER: &str = "quantizer.";
pub(super) const AVERAGE_QUANTIZER: &str = "average_quantizer.";
const MOMENTS: [&str; 2] = ["moments.weights", "moments.rest"];

/// Networks with their optimizer, codes with theirs, moving averages of both, and the number of the step.
pub struct State<B: TrainBackend, M: AutodiffModule<B>> {
    settings: Settings,
    codes: Option<Codes>,
    /// What the optimizer trains.
    pub model: M,
    optimizer: Optimizer<M, B>,
    coder: Option<Coder>,
    averaged: Option<Averaged<M::InnerModule>>,
    step: u64,
    /// The step, from 1, at which each code was last hit; 0 is never.
    last_hit: Vec<u64>,
    device: B::Device,
}

/// Where a training's codes are.
pub enum Coding {
    /// Learned by the kernels.
    Learned(Codes, Coder),
    /// Part of the networks: so many.
    Own(usize),
}

/// The moving averages of what is trained.
struct Averaged<N> {
    model: N,
    quantizer: Option<Quantizer>,
}

/// A trained model's parts: the moving averages where there are any. Nothing of it changes.
#[derive(Debug, Clone)]
pub struct Trained<B: QuantizeBackend, N> {
    /// The networks.
    pub model: N,
    /// The codes, where the networks have none of their own.
    pub quantizer: Option<VectorQuantizer>,
    /// Steps that it was trained for.
    pub step: u64,
    /// Where it runs.
    pub device: B::Device,
    /// The backend is in the device's type only.
    pub backend: PhantomData<B>,
}

impl<B: TrainBackend, M: AutodiffModule<B>> State<B, M> {
    /// A training at its start.
    ///
    /// # Errors
    /// What a device tells.
    pub fn new(settings: Settings, model: M, coding: Coding, device: B::Device) -> Result<Self, Failure> {
        let (number, codes, coder) = match coding {
            Coding::Learned(codes, coder) => (codes.codes, Some(codes), Some(coder)),
            Coding::Own(number) => (number, None, None),
        };
        let averaged = match settings.average {
            Some(_) => Some(Averaged { model: model.valid(), quantizer: coder.as_ref().map(Coder::copy).transpose()? }),
            None => None,
        };
        let optimizer = Optimizer::new(&settings.optimizer);
        Ok(Self { settings, codes, model, optimizer, coder, averaged, step: 0, last_hit: vec![0; number], device })
    }

    /// Steps taken.
    pub fn steps_taken(&self) -> u64 {
        self.step
    }

    /// The settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Where it runs.
    pub fn device(&self) -> &B::Device {
        &self.device
    }

    /// The codes as they are trained, where the networks have none of their own.
    pub fn quantizer(&self) -> Option<&VectorQuantizer> {
        self.coder.as_ref().map(Coder::handle)
    }

    /// The learning rate of the next step.
    pub fn lr(&self) -> f64 {
        self.settings.lr_at(self.step)
    }

    /// A step's changes: networks, codes, averages, and which codes were hit. `own` are the hits of networks with codes of their own.
    ///
    /// # Errors
    /// The quantizer's; the training is then to be given up.
    pub fn learn(&mut self, gradients: Gradients, own: &[u32]) -> Result<Updated, Failure> {
        let lr = self.lr();
        self.model = self.optimizer.step(lr, self.model.clone(), gradients);
        let updated = match &mut self.coder {
            Some(coder) => coder.learn(lr).context(|| format!("step {}: the quantizer", self.step + 1))?,
            None => Updated::default(),
        };
        self.step += 1;
        let (step, last_hit) = (self.step, &mut self.last_hit);
        let mut hit = |codes: &[u32]| {
            for &code in codes {
                if let Some(last) = last_hit.get_mut(code as usize) {
                    *last = step;
                }
            }
        };
        match &self.coder {
            Some(coder) => hit(&coder.handle().last_codes()),
            None => hit(own),
        }
        self.move_averages()?;
        let active = match &self.coder {
            Some(_) => updated.active,
            None => self.last_hit.iter().filter(|&&last| last == step).count(),
        };
        Ok(Updated { active, ..updated })
    }

    fn move_averages(&mut self) -> Result<(), Failure> {
        let (Some(decay), Some(averaged)) = (self.settings.average, &mut self.averaged) else { return Ok(()) };
        averaged.model = average(averaged.model.clone(), &self.model.valid(), decay);
        match (&self.coder, &self.codes, &mut averaged.quantizer) {
            (Some(coder), Some(codes), Some(quantizer)) => coder.average(quantizer, codes, decay),
            _ => Ok(()),
        }
    }

    /// Share of the codes that were hit within the last steps that would give each 8 hits, were all used alike; `tokens` are one sample's.
    pub fn recent_utilization(&self, tokens: usize) -> f64 {
        let tokens = (self.settings.batch * tokens) as f64;
        let window = (8.0 * self.last_hit.len() as f64 / tokens).ceil() as u64;
        let recent = self.last_hit.iter().filter(|&&hit| hit > 0 && hit + window > self.step);
        recent.count() as f64 / self.last_hit.len() as f64
    }

    /// The model as it is now: the moving averages where there are any.
    pub fn trained(&self) -> Trained<B::InnerBackend, M::InnerModule> {
        let (model, quantizer) = match &self.averaged {
            Some(averaged) => {
                let sibling = |(coder, quantizer): (&Coder, &Quantizer)| coder.sibling(quantizer);
                (averaged.model.clone(), self.coder.as_ref().zip(averaged.quantizer.as_ref()).map(sibling))
            }
            None => (self.model.valid(), self.quantizer().cloned()),
        };
        Trained { model, quantizer, step: self.step, device: self.device.clone(), backend: PhantomData }
    }

    /// Writes all that is needed to go on; `extra` is what the kind of training adds.
    ///
    /// # Errors
    /// A parameter that is not finite, by name; where the file cannot be written: what was under this name before then stays.
    pub fn save(&self, path: &std::path::Path, run: &str, extra: Extra) -> Result<(), Failure> {
        let mut named: BTreeMap<_, _> = extra.tensors;
        let mut add = |prefix: &str, tensors: crate::params::NamedTensors| {
            named.extend(tensors.into_iter().map(|(name, tensor)| (format!("{prefix}{name}"), tensor)));
        };
        add(MODEL, tensors(&self.model));
        let averaged = self.averaged.as_ref();
        if let Some(Averaged { model, .. }) = averaged {
            add(AVERAGE, tensors(model));
        }
        if let Some((name, _)) = named.iter().find(|(_, tensor)| tensor.values.iter().any(|x| !x.is_finite())) {
            let step = self.step;
            return Err(Failure::new(format!("step {step}: `{name}` is not finite; the last checkpoint still stands")));
        }
        let mut bytes: Vec<(&str, Vec<u8>)> = MOMENTS.into_iter().zip(self.optimizer.state()?).collect();
        bytes.extend(extra.bytes);
        let quantizer = self.coder.as_ref().map(Coder::copy).transpose()?;
        let step = [self.step];
        let mut all: Vec<Tensor<'_>> =
            named.iter().map(|(name, tensor)| Tensor::new(name, &tensor.shape, &tensor.values)).collect();
        all.extend(bytes.iter().map(|(name, bytes)| Tensor::new(*name, &[bytes.len()], bytes.as_slice())));
        if let (Some(coder), Some(quantizer)) = (&self.coder, &quantizer) {
            all.extend(coder::tensors(QUANTIZER, quantizer));
            all.extend(coder.moments(QUANTIZER));
        }
        if let Some(quantizer) = averaged.and_then(|averaged| averaged.quantizer.as_ref()) {
            all.extend(coder::tensors(AVERAGE_QUANTIZER, quantizer));
        }
        all.push(Tensor::new("last_hit", &[self.last_hit.len()], &self.last_hit));
        all.push(Tensor::new("step", &[1], &step));
        Checkpoint::write(path, run, &all)
    }

    /// Takes up what [`save`](Self::save) wrote for the same run.
    ///
    /// # Errors
    /// A file of another shape, or damaged; the training is then used up.
    pub fn resume(mut self, file: &mut Checkpoint) -> Result<Self, Failure> {
        self.model = file.module(MODEL, self.model)?;
        self.optimizer = file.optimizer(MOMENTS, &self.settings.optimizer, &self.device)?;
        if let Some(averaged) = self.averaged {
            let mut averaged = Averaged { model: file.module(AVERAGE, averaged.model)?, ..averaged };
            if let Some(quantizer) = &mut averaged.quantizer {
                coder::restore(AVERAGE_QUANTIZER, quantizer, file)?;
            }
            self.averaged = Some(averaged);
        }
        if let Some(coder) = &mut self.coder {
            coder.restore(QUANTIZER, file)?;
        }
        file.fill("last_hit", &mut self.last_hit)?;
        self.step = file.step()?;
        if self.step > self.settings.steps {
            let (step, steps) = (self.step, self.settings.steps);
            return Err(Failure::new(format!("`{}` is at step {step} of a run of {steps}", file.path().display())));
        }
        Ok(self)
    }
}

impl<B: TrainBackend, M: AutodiffModule<B>> State<B, M> {
    /// Takes over the networks and codes of a finished training, its moving averages where there are any.
    ///
    /// # Errors
    /// A file of other networks or codes, or damaged.
    pub fn start_from(mut self, file: &mut Checkpoint) -> Result<Self, Failure> {
        let averaged = file.has(AVERAGE);
        self.model = file.module(if averaged { AVERAGE } else { MODEL }, self.model)?;
        if let Some(coder) = &mut self.coder {
            coder.take_over(if averaged { AVERAGE_QUANTIZER } else { QUANTIZER }, file)?;
        }
        if self.averaged.is_some() {
            let quantizer = self.coder.as_ref().map(Coder::copy).transpose()?;
            self.averaged = Some(Averaged { model: self.model.valid(), quantizer });
        }
        Ok(self)
    }
}

impl<B: QuantizeBackend, N: Module<B>> Trained<B, N> {
    /// The model of a checkpoint: `model` gives its networks, `codes` its codes where the networks have none of their own.
    ///
    /// # Errors
    /// A damaged file, or one of other networks.
    pub fn open(
        file: &mut Checkpoint,
        model: N,
        codes: Option<(&Codes, u64)>,
        pool: Option<coder::SharedPool>,
        device: B::Device,
    ) -> Result<Self, Failure> {
        let averaged = file.has(AVERAGE);
        let model = file.module(if averaged { AVERAGE } else { MODEL }, model)?;
        let quantizer = match codes {
            Some((codes, seed)) => {
                let prefix = if averaged { AVERAGE_QUANTIZER } else { QUANTIZER };
                let codebook = file.file().read::<f32>(&format!("{prefix}codebook"))?;
                let refuse = || format!("the codes in `{}`", file.path().display());
                Some(coder::frozen(codes, seed, &codebook, pool).context(refuse)?)
            }
            None => None,
        };
        Ok(Self { model, quantizer, step: file.step()?, device, backend: PhantomData })
    }
}
