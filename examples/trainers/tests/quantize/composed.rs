//! The quantizer composed of burn's own ops, in f64: what the op is checked against.

use burn::tensor::backend::{AutodiffBackend, Backend};
use burn::tensor::{DType, Int, Tensor, TensorData};
use vq_kernels::MatRef;
use vq_kernels::quantizer::{Config, Estimator, Learner, Linear, Quantizer, StateRef};

/// A `[rows, cols]` tensor in f64.
pub fn wide<B: Backend>(values: &[f32], shape: [usize; 2], device: &B::Device) -> Tensor<B, 2> {
    let values: Vec<f64> = values.iter().map(|&x| f64::from(x)).collect();
    Tensor::from_data(TensorData::new(values, shape), (device, DType::F64))
}

/// A linear layer's weight `[outputs, inputs]` and bias `[1, outputs]`, as leaves.
pub struct Layer<B: Backend> {
    pub weight: Tensor<B, 2>,
    pub bias: Tensor<B, 2>,
}

impl<B: AutodiffBackend> Layer<B> {
    fn of(linear: &Linear, device: &B::Device) -> Self {
        let [outputs, inputs] = [linear.bias().len(), linear.inputs()];
        Self {
            weight: wide(linear.weight().data(), [outputs, inputs], device).require_grad(),
            bias: wide(linear.bias(), [1, outputs], device).require_grad(),
        }
    }

    fn forward(&self, x: Tensor<B, 2>) -> Tensor<B, 2> {
        x.matmul(self.weight.clone().transpose()) + self.bias.clone()
    }
}

/// The parameters of a quantizer.
pub struct Composed<B: Backend> {
    config: Config,
    pub project_in: Option<Layer<B>>,
    pub project_out: Option<Layer<B>>,
    pub projector: Option<Layer<B>>,
    /// What is learned of the codes, or the frozen centres.
    pub codes: Tensor<B, 2>,
}

/// What a pass returns: output `[rows, inputs]`, codebook and commitment loss `[1]`.
pub struct Results<B: Backend> {
    pub output: Tensor<B, 2>,
    pub codebook_loss: Tensor<B, 1>,
    pub commitment_loss: Tensor<B, 1>,
}

impl<B: AutodiffBackend> Composed<B> {
    pub fn of(quantizer: &Quantizer, device: &B::Device) -> Self {
        let config = *quantizer.config();
        let state = quantizer.state();
        let tensor = |wanted: &str| match state.iter().find(|(name, _)| *name == wanted) {
            Some((_, StateRef::F32(values))) => values.to_vec(),
            _ => panic!("no `{wanted}` in the state"),
        };
        let (name, width) = match config.learner {
            Learner::Projector { source_dim } => ("source", source_dim),
            Learner::Gradient if config.normalize => ("latent", config.dim),
            _ => ("codebook", config.dim),
        };
        Self {
            config,
            project_in: quantizer.project_in().map(|linear| Layer::of(linear, device)),
            project_out: quantizer.project_out().map(|linear| Layer::of(linear, device)),
            projector: quantizer.projector().map(|linear| Layer::of(linear, device)),
            codes: wide(&tensor(name), [config.codes, width], device).require_grad(),
        }
    }

    /// With each row's code given, so that near-ties of the search cannot disturb a comparison of gradients.
    pub fn forward(&self, x: Tensor<B, 2>, codes: &[u32]) -> Results<B> {
        let z = match &self.project_in {
            Some(layer) => layer.forward(x),
            None => x,
        };
        let seen = self.normalized(z.clone());
        let learned = match (&self.projector, self.config.learner) {
            (Some(layer), _) => layer.forward(self.codes.clone().detach()),
            (None, Learner::Gradient) => self.codes.clone(),
            (None, _) => self.codes.clone().detach(),
        };
        let book = match self.config.learner {
            // The codebook of these two is stored as it is seen.
            Learner::Ema | Learner::Frozen => learned,
            Learner::Gradient | Learner::Projector { .. } => self.normalized(learned),
        };
        let indices: Vec<i64> = codes.iter().map(|&code| i64::from(code)).collect();
        let indices = Tensor::<B, 1, Int>::from_data(TensorData::new(indices, [codes.len()]), &z.device());
        let hit = book.select(0, indices);
        let quantized = hit.clone().detach();
        let estimate = match self.config.estimator {
            Estimator::StraightThrough => seen.clone() + (quantized.clone() - seen.clone()).detach(),
            Estimator::Rotation => rotated(seen.clone(), quantized.clone()),
        };
        let output = match &self.project_out {
            Some(layer) => layer.forward(estimate),
            None => estimate,
        };
        Results {
            output,
            codebook_loss: (seen.detach() - hit).powi_scalar(2).mean(),
            commitment_loss: (z - quantized).powi_scalar(2).mean(),
        }
    }

    fn normalized(&self, rows: Tensor<B, 2>) -> Tensor<B, 2> {
        if self.config.normalize { rows.clone() / length(rows) } else { rows }
    }
}

fn length<B: Backend>(rows: Tensor<B, 2>) -> Tensor<B, 2> {
    rows.powi_scalar(2).sum_dim(1).sqrt()
}

fn dot<B: Backend>(a: Tensor<B, 2>, b: Tensor<B, 2>) -> Tensor<B, 2> {
    (a * b).sum_dim(1)
}

/// `λ R x` with the rotation `R = I − 2 w wᵀ + 2 v uᵀ` of x's direction u to q's direction v,
/// `w = (u+v)/‖u+v‖`, and `λ = ‖q‖/‖x‖`, all held fixed (Fifty et al., ICLR 2025, §4.2): its value is q.
fn rotated<B: AutodiffBackend>(x: Tensor<B, 2>, q: Tensor<B, 2>) -> Tensor<B, 2> {
    let fixed = x.clone().detach();
    let (scale, u) = (length(q.clone()) / length(fixed.clone()), fixed.clone() / length(fixed));
    let v = q.clone() / length(q);
    let w = (u.clone() + v.clone()) / length(u.clone() + v.clone());
    let reflected = x.clone() - w.clone() * dot(w, x.clone()) * 2.0;
    (reflected + v * dot(u, x) * 2.0) * scale
}

/// The nearest code of each row of `z` (f64, as search sees rows), by blocks of codes: no `rows × codes` matrix.
pub fn nearest<B: Backend>(z: Tensor<B, 2>, book: MatRef, block: usize) -> Vec<u32> {
    let ([rows, dim], device) = (z.dims(), z.device());
    let mut best: Option<(Tensor<B, 2>, Tensor<B, 2, Int>)> = None;
    for (first, values) in (0..).step_by(block).zip(book.data().chunks(block * dim)) {
        let codes = wide::<B>(values, [values.len() / dim, dim], &device);
        // ‖z − e‖² without ‖z‖².
        let score = codes.clone().powi_scalar(2).sum_dim(1).transpose() - z.clone().matmul(codes.transpose()) * 2.0;
        let (score, code) = score.min_dim_with_indices(1);
        let code = code + first;
        best = Some(match best {
            None => (score, code),
            Some((old, old_code)) => {
                let nearer = score.clone().lower(old.clone());
                (old.mask_where(nearer.clone(), score), old_code.mask_where(nearer, code))
            }
        });
    }
    let (_, codes) = best.expect("at least one code");
    let codes = codes.into_data().convert::<i64>().to_vec::<i64>().expect("integers");
    assert_eq!(codes.len(), rows);
    codes.into_iter().map(|code| u32::try_from(code).expect("a code")).collect()
}
