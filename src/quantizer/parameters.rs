//! What is trained by gradient: linear layers and codes; and the optimizer's one door to them.

use alloc::vec::Vec;

use super::{Config, Learner, Quantizer, normalize_all};
use crate::cpu::Cpu;
use crate::element::Element;
use crate::error::{Error, Result, same};
use crate::matrix::{MatMut, MatRef};
use crate::ops;
use crate::rng::Rng;

/// Where codes start.
#[derive(Clone, Debug, PartialEq)]
pub enum Initial {
    /// Standard normal (ViT-VQGAN's choice for normalized codes).
    Normal,
    /// Uniform within `±1/codes` (VQGAN's choice).
    Uniform,
    /// Given, `[codes, dim]`; `[codes, source_dim]` frozen centres for [`Learner::Projector`].
    ///
    /// With [`Learner::Ema`] they have no weight yet: a code's first hit makes the rows' mean its own.
    Codes(Vec<f32>),
}

impl Initial {
    pub(super) fn values(self, config: &Config, elements: usize) -> Result<Vec<f32>> {
        let mut rng = Rng::new(config.seed, 0);
        match self {
            Self::Normal => Ok((0..elements).map(|_| rng.normal()).collect()),
            Self::Uniform => {
                let width = 2.0 / config.codes as f64;
                Ok((0..elements).map(|_| ((rng.uniform() - 0.5) * width) as f32).collect())
            }
            Self::Codes(values) => {
                same("quantizer", "number of elements of the given codes", elements, values.len())?;
                match values.iter().position(|x| !x.is_finite()) {
                    Some(index) => {
                        Err(Error::Value { op: "quantizer", arg: "given codes", index, expected: "finite values" })
                    }
                    None => Ok(values),
                }
            }
        }
    }
}

/// A trained linear layer.
#[derive(Clone, Debug, PartialEq)]
pub struct Linear {
    pub(super) weight: Vec<f32>,
    pub(super) bias: Vec<f32>,
    inputs: usize,
}

impl Linear {
    /// Uniform within `±1/√inputs`, as PyTorch's `Linear` starts.
    pub(super) fn new(outputs: usize, inputs: usize, seed: u64, stream: u64) -> Result<Self> {
        let width = 2.0 / libm::sqrt(inputs as f64);
        let mut rng = Rng::new(seed, stream);
        Self::filled(outputs, inputs, |_| ((rng.uniform() - 0.5) * width) as f32)
    }

    /// Weights of variance `1/outputs`, as VQGAN-LC's projector starts; no bias at first.
    pub(super) fn projector(outputs: usize, inputs: usize, seed: u64, stream: u64) -> Result<Self> {
        let deviation = 1.0 / libm::sqrtf(outputs as f32);
        let mut rng = Rng::new(seed, stream);
        Self::filled(outputs, inputs, |i| if i < outputs * inputs { rng.normal() * deviation } else { 0.0 })
    }

    fn filled(outputs: usize, inputs: usize, value: impl FnMut(usize) -> f32) -> Result<Self> {
        let elements = elements("inputs * outputs", outputs, inputs)?;
        let mut weight: Vec<f32> = (0..elements + outputs).map(value).collect();
        let bias = weight.split_off(elements);
        Ok(Self { weight, bias, inputs })
    }

    /// Number of inputs.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// The weight, `[outputs, inputs]`.
    pub fn weight(&self) -> MatRef<'_> {
        MatRef::new(&self.weight, self.bias.len(), self.inputs)
            .unwrap_or_else(|_| unreachable!("the shape is that of `filled`"))
    }

    /// The bias, `[outputs]`.
    pub fn bias(&self) -> &[f32] {
        &self.bias
    }

    /// `y = x·weightᵀ + bias`.
    ///
    /// # Errors
    /// As [`project`](ops::project()).
    pub fn forward<E: Element>(&self, cpu: &Cpu, x: MatRef<E>, y: MatMut) -> Result<()> {
        ops::project(cpu, x, self.weight(), Some(&self.bias), y)
    }
}

/// `a · b` values of a tensor, where a vector can hold them.
pub(super) fn elements(arg: &'static str, a: usize, b: usize) -> Result<usize> {
    let max = isize::MAX as u64 / 16;
    let product = a.checked_mul(b).filter(|&n| n as u64 <= max);
    product.ok_or(Error::TooLarge { op: "quantizer", arg, max, got: (a as u64).saturating_mul(b as u64) })
}

/// The linear layers that a quantizer may have.
#[derive(Clone, Debug)]
pub(super) struct Layers {
    pub project_in: Option<Linear>,
    pub project_out: Option<Linear>,
    pub projector: Option<Linear>,
}

impl Layers {
    /// Slots, in the order of the fields.
    pub const PROJECT_IN: usize = 0;
    pub const PROJECT_OUT: usize = 1;
    pub const PROJECTOR: usize = 2;
    /// Names of weight and bias by slot, in updates and in the saved state.
    const NAMES: [[&'static str; 2]; 3] = [
        ["project_in.weight", "project_in.bias"],
        ["project_out.weight", "project_out.bias"],
        ["projector.weight", "projector.bias"],
    ];

    /// The layers that there are, with their names and slots.
    pub fn named(&self) -> impl Iterator<Item = ([&'static str; 2], &Linear, usize)> {
        let layers = [&self.project_in, &self.project_out, &self.projector];
        let slots = Self::NAMES.into_iter().zip(layers).enumerate();
        slots.filter_map(|(slot, (names, layer))| Some((names, layer.as_ref()?, slot)))
    }

    /// The same, to be changed.
    pub fn named_mut(&mut self) -> impl Iterator<Item = ([&'static str; 2], &mut Linear, usize)> {
        let layers = [&mut self.project_in, &mut self.project_out, &mut self.projector];
        let slots = Self::NAMES.into_iter().zip(layers).enumerate();
        slots.filter_map(|(slot, (names, layer))| Some((names, layer.as_mut()?, slot)))
    }
}

/// A linear layer's gradient.
#[derive(Clone, Debug, Default)]
pub(super) struct LinearGradient {
    weight: Vec<f64>,
    bias: Vec<f64>,
}

impl LinearGradient {
    fn clear(&mut self, linear: &Linear) {
        self.weight.clear();
        self.weight.resize(linear.weight.len(), 0.0);
        self.bias.clear();
        self.bias.resize(linear.bias.len(), 0.0);
    }

    fn add(&mut self, cpu: &Cpu, linear: &Linear, dy: MatRef, x: MatRef) -> Result<()> {
        let weight = MatMut::new(&mut self.weight, linear.bias.len(), linear.inputs)?;
        ops::project_backward_weight(cpu, dy, x, weight, Some(&mut self.bias))
    }

    /// The gradient of `linear` for one batch.
    pub(super) fn of(&mut self, cpu: &Cpu, linear: &Linear, dy: MatRef, x: MatRef) -> Result<()> {
        self.clear(linear);
        self.add(cpu, linear, dy, x)
    }
}

/// All gradients of a step.
#[derive(Clone, Debug, Default)]
pub(super) struct Gradients {
    /// Derivative of the loss by the codebook term.
    pub codebook_weight: f64,
    /// By the slots of [`Layers`].
    pub layers: [LinearGradient; 3],
    /// Codes that were hit, ascending, and their gradients `[hit, dim]`.
    codes: Vec<u32>,
    rows: Vec<f32>,
}

impl Gradients {
    /// None, keeping the room for them.
    pub fn clear(&mut self) {
        for layer in &mut self.layers {
            layer.weight.clear();
            layer.bias.clear();
        }
        self.codes.clear();
        self.rows.clear();
    }
}

/// One parameter tensor, or one row of it, and its gradient.
#[derive(Debug)]
pub struct Update<'a> {
    /// Which tensor: `project_in.weight`, `codebook`, …: the names of the saved state.
    pub name: &'static str,
    /// The index of the first value in the whole tensor: where an optimizer keeps its moments.
    pub offset: usize,
    /// The values, to be changed.
    pub values: &'a mut [f32],
    /// Their gradient.
    pub gradient: &'a [f32],
}

/// Rows that are handled at a time where a copy of them is needed.
const BLOCK: usize = 8 * ops::ROW_BLOCK;

impl Quantizer {
    /// Gives each parameter and its gradient of the last step to `optimize`, then brings the codebook
    /// up to date. Codes that were not hit have no gradient and are not visited. The gradients are used
    /// up: a second call visits nothing.
    ///
    /// # Errors
    /// None that a caller can cause.
    pub fn apply(&mut self, cpu: &Cpu, mut optimize: impl FnMut(Update<'_>)) -> Result<()> {
        let mut gradient = Vec::new();
        for (names, linear, slot) in self.layers.named_mut() {
            let exact = &self.gradients.layers[slot];
            let tensors = [(&mut linear.weight, &exact.weight), (&mut linear.bias, &exact.bias)];
            for (name, (values, exact)) in names.into_iter().zip(tensors) {
                if values.len() == exact.len() {
                    gradient.clear();
                    gradient.extend(exact.iter().map(|&g| g as f32));
                    optimize(Update { name, offset: 0, values, gradient: &gradient });
                }
            }
        }
        let dim = self.config.dim;
        let name = self.learned_codes();
        let learned = if self.config.normalize { &mut self.latent } else { &mut self.codebook };
        for (&k, gradient) in self.gradients.codes.iter().zip(self.gradients.rows.chunks_exact(dim)) {
            let offset = k as usize * dim;
            optimize(Update { name, offset, values: &mut learned[offset..offset + dim], gradient });
        }
        let refreshed = match self.config.learner {
            Learner::Projector { .. } => self.refresh(cpu),
            Learner::Gradient => self.refresh_hit(cpu),
            Learner::Ema | Learner::Frozen => Ok(()),
        };
        self.gradients.clear();
        refreshed
    }

    /// Shows each gradient of the last step, by name and offset as [`apply`](Self::apply) will: for a norm
    /// over all of them.
    pub fn gradients(&self, mut visit: impl FnMut(&'static str, usize, &[f32])) {
        let mut gradient = Vec::new();
        for (names, _, slot) in self.layers.named() {
            let exact = &self.gradients.layers[slot];
            for (name, exact) in names.into_iter().zip([&exact.weight, &exact.bias]) {
                gradient.clear();
                gradient.extend(exact.iter().map(|&g| g as f32));
                if !gradient.is_empty() {
                    visit(name, 0, &gradient);
                }
            }
        }
        let (dim, name) = (self.config.dim, self.learned_codes());
        for (&k, gradient) in self.gradients.codes.iter().zip(self.gradients.rows.chunks_exact(dim)) {
            visit(name, k as usize * dim, gradient);
        }
    }

    /// The tensor that codes are learned in.
    fn learned_codes(&self) -> &'static str {
        if self.config.normalize { "latent" } else { "codebook" }
    }

    /// The whole codebook from what it is learned by, and its packed form.
    pub(super) fn refresh(&mut self, cpu: &Cpu) -> Result<()> {
        let (codes, dim) = (self.config.codes, self.config.dim);
        if let Some(linear) = &self.layers.projector {
            let source = MatRef::new(&self.source, codes, linear.inputs())?;
            let mut raw = Vec::new();
            for (first, codebook) in (0..).step_by(BLOCK).zip(self.codebook.chunks_mut(BLOCK * dim)) {
                let source = source.rows_from(first, BLOCK);
                if self.config.normalize {
                    raw.resize(codebook.len(), 0.0);
                    linear.forward(cpu, source, MatMut::new(&mut raw, source.rows(), dim)?)?;
                    normalize_all(cpu, &raw, dim, codebook)?;
                } else {
                    linear.forward(cpu, source, MatMut::new(codebook, source.rows(), dim)?)?;
                }
            }
        } else if !self.latent.is_empty() {
            normalize_all(cpu, &self.latent, dim, &mut self.codebook)?;
        }
        self.packed.repack(MatRef::new(&self.codebook, codes, dim)?)
    }

    /// [`refresh`](Self::refresh) for the codes that an optimizer has just changed.
    fn refresh_hit(&mut self, cpu: &Cpu) -> Result<()> {
        let dim = self.config.dim;
        if self.config.normalize {
            for &k in &self.gradients.codes {
                let at = k as usize * dim..(k as usize + 1) * dim;
                normalize_all(cpu, &self.latent[at.clone()], dim, &mut self.codebook[at])?;
            }
        }
        let codebook = MatRef::new(&self.codebook, self.config.codes, dim)?;
        self.packed.repack_codes(codebook, &self.gradients.codes)
    }

    /// The codebook term's gradient, from the exact sums: at code k of weight n and sum S it is
    /// `2 γ (n e − S) / (Σw · dim)`; through the norm to what is learned, and to the projector.
    pub(super) fn code_gradients(&mut self, cpu: &Cpu) -> Result<()> {
        let dim = self.config.dim;
        let elements = self.statistics.total() * dim as f64;
        let scale = if elements > 0.0 { 2.0 * self.gradients.codebook_weight / elements } else { 0.0 };
        let Gradients { codes, rows, layers, .. } = &mut self.gradients;
        let projector = &mut layers[Layers::PROJECTOR];
        codes.clear();
        codes.extend(self.statistics.hits());
        rows.clear();
        for &k in codes.iter() {
            let (k, n) = (k as usize, self.statistics.weight(k as usize));
            let code = &self.codebook[k * dim..][..dim];
            rows.extend(code.iter().zip(self.statistics.sum(k)).map(|(&e, s)| (scale * (n * f64::from(e) - s)) as f32));
        }
        if let Some(linear) = &self.layers.projector {
            projector.clear(linear);
        }
        // In blocks: a copy of each hit code's source is needed only for a moment.
        for (codes, gradients) in codes.chunks(BLOCK).zip(rows.chunks_mut(BLOCK * dim)) {
            let mut sources = Vec::new();
            if let Some(linear) = &self.layers.projector {
                let width = linear.inputs();
                codes.iter().for_each(|&k| sources.extend_from_slice(&self.source[k as usize * width..][..width]));
            }
            if self.config.normalize {
                let mut raw = alloc::vec![0.0; gradients.len()];
                match &self.layers.projector {
                    Some(linear) => {
                        let sources = MatRef::new(&sources, codes.len(), linear.inputs())?;
                        linear.forward(cpu, sources, MatMut::new(&mut raw, codes.len(), dim)?)?;
                    }
                    None => {
                        let latent = MatRef::new(&self.latent, self.config.codes, dim)?;
                        ops::gather(cpu, codes, latent, MatMut::new(&mut raw, codes.len(), dim)?)?;
                    }
                }
                through_norm(cpu, &raw, dim, gradients)?;
            }
            if let Some(linear) = &self.layers.projector {
                let dy = MatRef::new(gradients, codes.len(), dim)?;
                projector.add(cpu, linear, dy, MatRef::new(&sources, codes.len(), linear.inputs())?)?;
            }
        }
        if self.layers.projector.is_some() {
            // The codes themselves are frozen.
            codes.clear();
            rows.clear();
        }
        Ok(())
    }
}

/// Takes `gradients` at normalized rows to those at the `raw` rows.
fn through_norm(cpu: &Cpu, raw: &[f32], dim: usize, gradients: &mut [f32]) -> Result<()> {
    let rows = raw.len() / dim;
    let (mut unit, mut norms) = (alloc::vec![0.0; raw.len()], alloc::vec![0.0; rows]);
    ops::normalize(cpu, MatRef::new(raw, rows, dim)?, MatMut::new(&mut unit, rows, dim)?, Some(&mut norms))?;
    let dunit = gradients.to_vec();
    let dunit = MatRef::new(&dunit, rows, dim)?;
    ops::normalize_backward(cpu, MatRef::new(&unit, rows, dim)?, &norms, dunit, MatMut::new(gradients, rows, dim)?)
}
