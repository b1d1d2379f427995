//! AdamW over a module, a learning rate over the steps, and both in a checkpoint.

use std::collections::BTreeMap;

use burn::module::{AutodiffModule, ModuleVisitor, Param, ParamId};
use burn::optim::adaptor::OptimizerAdaptor;
use burn::optim::record::AdaptorRecord;
use burn::optim::{AdamW, AdamWConfig, GradientsParams, Optimizer as _};
use burn::record::{BinBytesRecorder, FullPrecisionSettings, PrecisionSettings, Record, Recorder};
use burn::tensor::Tensor;
use burn::tensor::backend::{AutodiffBackend, Backend};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::common::adam::Constants;
use crate::common::failure::{Context, Failure};
use crate::params::{gradient_norm, scale_gradients};

/// How parameters are updated. Without weight decay, AdamW is Adam.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OptimizerConfig {
    /// Learning rate after the warm-up.
    pub lr: f64,
    /// Decay of the first moments.
    pub beta1: f64,
    /// Decay of the second moments.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decoupled decay (Loshchilov and Hutter 2019) of weights; biases and norms have none.
    pub weight_decay: f64,
    /// Largest length of all gradients together, as one vector.
    pub clip: Option<f64>,
    /// Steps over which the learning rate rises from 0.
    pub warmup: u64,
    /// Whether it then falls to 0 by half a cosine, else it stays.
    pub cosine: bool,
}

impl OptimizerConfig {
    /// The learning rate of step `step` of `steps`, both from 0.
    pub fn lr_at(&self, step: u64, steps: u64) -> f64 {
        if step < self.warmup {
            return self.lr * (step + 1) as f64 / self.warmup as f64;
        }
        if !self.cosine {
            return self.lr;
        }
        let progress = (step - self.warmup) as f64 / steps.saturating_sub(self.warmup).max(1) as f64;
        self.lr * 0.5 * (1.0 + (core::f64::consts::PI * progress.min(1.0)).cos())
    }

    /// As the quantizer's own optimizer takes it.
    pub fn constants(&self) -> Constants {
        Constants { beta1: self.beta1, beta2: self.beta2, epsilon: self.epsilon }
    }

    /// # Errors
    /// A value outside its range, by name.
    pub fn check(&self) -> Result<(), Failure> {
        let refuse = |what: &str| Err(Failure::new(format!("the optimizer's {what}")));
        if !(self.lr.is_finite() && self.lr >= 0.0) {
            return refuse(&format!("learning rate must be a number of at least 0, got {}", self.lr));
        }
        if ![self.beta1, self.beta2].iter().all(|beta| (0.0..1.0).contains(beta)) {
            return refuse(&format!("betas must be in 0..1, got {} and {}", self.beta1, self.beta2));
        }
        if !(self.epsilon > 0.0 && self.epsilon.is_finite()) {
            return refuse(&format!("epsilon must be positive, got {}", self.epsilon));
        }
        if !(self.weight_decay >= 0.0 && self.weight_decay.is_finite()) {
            return refuse(&format!("weight decay must be at least 0, got {}", self.weight_decay));
        }
        match self.clip {
            Some(clip) if clip.is_nan() || clip <= 0.0 => {
                refuse(&format!("clipping length must be positive, got {clip}"))
            }
            _ => Ok(()),
        }
    }
}

/// The gradients of a module, and their length as one vector.
pub struct Gradients {
    params: GradientsParams,
    norm: f64,
}

impl Gradients {
    /// Measures a module's gradients.
    pub fn of<B: AutodiffBackend, M: AutodiffModule<B>>(module: &M, params: GradientsParams) -> Self {
        Self { norm: gradient_norm::<B, M>(module, &params), params }
    }

    /// Their length, before clipping.
    pub fn norm(&self) -> f64 {
        self.norm
    }
}

/// AdamW with its moments. Matrices and kernels decay, biases and norms (one axis) do not.
pub struct Optimizer<M: AutodiffModule<B>, B: AutodiffBackend> {
    clip: Option<f64>,
    decayed: OptimizerAdaptor<AdamW, M, B>,
    plain: OptimizerAdaptor<AdamW, M, B>,
}

impl<M: AutodiffModule<B>, B: AutodiffBackend> Optimizer<M, B> {
    /// An optimizer without moments yet.
    pub fn new(config: &OptimizerConfig) -> Self {
        let adamw = |decay: f64| {
            AdamWConfig::new()
                .with_beta_1(config.beta1 as f32)
                .with_beta_2(config.beta2 as f32)
                .with_epsilon(config.epsilon as f32)
                .with_weight_decay(decay as f32)
                .init()
        };
        Self { clip: config.clip, decayed: adamw(config.weight_decay), plain: adamw(0.0) }
    }

    /// One update.
    pub fn step(&mut self, lr: f64, module: M, Gradients { params, norm }: Gradients) -> M {
        let gradients = match self.clip {
            Some(clip) if norm > clip => scale_gradients::<B, M>(&module, params, clip / norm),
            _ => params,
        };
        let mut split = Split { all: gradients, decayed: GradientsParams::new() };
        module.visit(&mut split);
        let module = self.decayed.step(lr, module, split.decayed);
        self.plain.step(lr, module, split.all)
    }

    /// The moments as bytes, of weights and of the rest: the same bytes for the same moments.
    ///
    /// # Errors
    /// Where they cannot be encoded.
    pub fn state(&self) -> Result<[Vec<u8>; 2], Failure> {
        let record = |adaptor: &OptimizerAdaptor<AdamW, M, B>| {
            BinBytesRecorder::<FullPrecisionSettings>::new()
                .record(Sorted(adaptor.to_record().into_iter().collect()), ())
                .map(sealed)
                .context(|| "cannot encode the optimizer's moments".into())
        };
        Ok([record(&self.decayed)?, record(&self.plain)?])
    }

    /// Takes up what [`state`](Self::state) returned.
    ///
    /// # Errors
    /// Bytes that are no moments.
    pub fn restore(self, [decayed, plain]: [Vec<u8>; 2], device: &B::Device) -> Result<Self, Failure> {
        let load = |adaptor: OptimizerAdaptor<AdamW, M, B>, bytes| {
            let Sorted::<AdaptorRecord<AdamW, B>>(record) = BinBytesRecorder::<FullPrecisionSettings>::new()
                .load(opened(bytes)?, device)
                .context(|| "cannot decode the optimizer's moments".into())?;
            Ok::<_, Failure>(adaptor.load_record(record.into_iter().collect()))
        };
        Ok(Self { clip: self.clip, decayed: load(self.decayed, decayed)?, plain: load(self.plain, plain)? })
    }
}

/// What belongs to parameters, written in the order of their numbers: burn's map of it has another order in each run.
struct Sorted<T>(Vec<(ParamId, T)>);

impl<T: Record<B>, B: Backend> Record<B> for Sorted<T> {
    type Item<S: PrecisionSettings> = BTreeMap<String, T::Item<S>>;

    fn into_item<S: PrecisionSettings>(self) -> Self::Item<S> {
        self.0.into_iter().map(|(id, record)| (id.serialize(), record.into_item())).collect()
    }

    fn from_item<S: PrecisionSettings>(item: Self::Item<S>, device: &B::Device) -> Self {
        let record = |(id, item): (String, _)| (ParamId::deserialize(&id), T::from_item(item, device));
        Self(item.into_iter().map(record).collect())
    }
}

/// Bytes with their SHA-256 behind them.
fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    let hash = Sha256::digest(&bytes);
    bytes.extend_from_slice(&hash);
    bytes
}

/// The bytes in front of their SHA-256, which must be theirs: burn panics over bytes that are not a record.
fn opened(mut bytes: Vec<u8>) -> Result<Vec<u8>, Failure> {
    let hash = bytes.split_off(bytes.len().saturating_sub(Sha256::output_size()));
    match *Sha256::digest(&bytes) == *hash {
        true => Ok(bytes),
        false => Err(Failure::new("the optimizer's moments are damaged: take an older checkpoint, or start again")),
    }
}

/// Moves the gradients of tensors with more than one axis from `all` to `decayed`.
struct Split {
    all: GradientsParams,
    decayed: GradientsParams,
}

impl<B: AutodiffBackend> ModuleVisitor<B> for Split {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        if D > 1
            && let Some(gradient) = self.all.remove::<B::InnerBackend, D>(param.id)
        {
            self.decayed.register(param.id, gradient);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::HostTrain;
    use crate::params::{settle, tensors};
    use burn::nn::{Linear, LinearConfig};

    fn config() -> OptimizerConfig {
        OptimizerConfig {
            lr: 0.1,
            beta1: 0.9,
            beta2: 0.99,
            epsilon: 1e-8,
            weight_decay: 0.0,
            clip: None,
            warmup: 4,
            cosine: true,
        }
    }

    fn gradients(module: &Linear<HostTrain>, scale: f32) -> Gradients {
        let x = Tensor::<HostTrain, 2>::from_floats([[1.0, -2.0, 0.5]], &Default::default());
        let loss = module.forward(x).sum().mul_scalar(scale);
        Gradients::of::<HostTrain, _>(module, GradientsParams::from_grads(loss.backward(), module))
    }

    fn layer() -> Linear<HostTrain> {
        settle(LinearConfig::new(3, 2).init(&Default::default()), 1)
    }

    #[test]
    fn the_rate_rises_then_falls() {
        let config = config();
        let rates: Vec<f64> = (0..=10).map(|step| config.lr_at(step, 10)).collect();
        assert_eq!(rates[0], 0.025);
        assert!(
            rates[..4].windows(2).all(|pair| pair[0] < pair[1]) && rates[4..].windows(2).all(|pair| pair[0] > pair[1])
        );
        assert!(rates[4] == 0.1 && rates[10].abs() < 1e-12);
    }

    #[test]
    fn without_decay_the_first_step_is_the_rate_against_the_sign() {
        let module = layer();
        let (before, gradients) = (tensors(&module), gradients(&module, 1.0));
        let norm = gradients.norm();
        let module = Optimizer::new(&config()).step(0.1, module, gradients);
        // d/dW of the sum of two outputs: x in each row; d/db: ones.
        assert!((norm - (2.0f64 * (1.0 + 4.0 + 0.25) + 2.0).sqrt()).abs() < 1e-6);
        let after = tensors(&module);
        let moved: Vec<f32> = after["bias"].values.iter().zip(&before["bias"].values).map(|(a, b)| a - b).collect();
        assert!(moved.iter().all(|m| (m + 0.1).abs() < 1e-6), "{moved:?}");
    }

    #[test]
    fn only_weights_decay_and_clipping_is_global() {
        let config = OptimizerConfig { weight_decay: 0.5, clip: Some(1e-3), ..config() };
        let module = layer();
        let before = tensors(&module);
        let module = Optimizer::new(&config).step(0.1, module, gradients(&layer(), 0.0));
        let after = tensors(&module);
        assert_eq!(after["bias"], before["bias"]);
        for (after, before) in after["weight"].values.iter().zip(&before["weight"].values) {
            assert!((after - before * 0.95).abs() < 1e-6);
        }
    }

    #[test]
    fn moments_go_on_where_they_were_saved() {
        let run = |module: Linear<HostTrain>, optimizer: &mut Optimizer<_, _>, steps: core::ops::Range<u32>| {
            steps.fold(module, |module, step| {
                let gradients = gradients(&module, 1.0 + step as f32);
                optimizer.step(0.01, module, gradients)
            })
        };
        let mut whole = Optimizer::new(&config());
        let expected = tensors(&run(layer(), &mut whole, 0..5));
        let mut first = Optimizer::new(&config());
        let module = run(layer(), &mut first, 0..2);
        let state = first.state().expect("moments");
        let device = Default::default();
        let mut second =
            Optimizer::<Linear<HostTrain>, HostTrain>::new(&config()).restore(state, &device).expect("moments");
        assert_eq!(tensors(&run(module, &mut second, 2..5)), expected);
        let nonsense = Optimizer::<Linear<HostTrain>, HostTrain>::new(&config()).restore([vec![7; 9], vec![]], &device);
        assert!(nonsense.is_err());
    }

    #[test]
    fn the_same_moments_are_the_same_bytes() {
        let layers = || -> Vec<Linear<HostTrain>> {
            settle((0..8).map(|_| LinearConfig::new(3, 3).init(&Default::default())).collect(), 1)
        };
        let stepped = || {
            let (module, mut optimizer) = (layers(), Optimizer::new(&config()));
            let x = Tensor::<HostTrain, 2>::from_floats([[1.0, -2.0, 0.5]], &Default::default());
            let loss = module.iter().fold(x, |x, layer| layer.forward(x)).sum();
            let gradients = GradientsParams::from_grads(loss.backward(), &module);
            let gradients = Gradients::of::<HostTrain, _>(&module, gradients);
            optimizer.step(0.1, module, gradients);
            optimizer
        };
        // 8! orders of each kind of parameter.
        let (optimizer, bytes) = (stepped(), stepped().state().expect("moments"));
        assert_eq!(optimizer.state().expect("moments"), bytes);
        let restored = optimizer.restore(bytes.clone(), &Default::default()).expect("moments");
        assert_eq!(restored.state().expect("moments"), bytes);
    }
}
