//! A module's tensors, by name: initial values, files, moving averages, gradient norms.
//!
//! Names are the field names on the way from the module to the tensor, joined by dots (`encoder.conv_in.weight`).

use core::any::Any;
use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;

use burn::module::{AutodiffModule, Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::backend::{AutodiffBackend, Backend};
use burn::tensor::{FloatDType, Int, Shape, Tensor, TensorData};

use crate::common::failure::{Context, Failure};
use crate::common::random::hash_name;

/// A tensor in the host's memory.
#[derive(Clone, Debug, PartialEq)]
pub struct HostTensor {
    /// Its extents.
    pub shape: Vec<usize>,
    /// Its values, row-major.
    pub values: Vec<f32>,
}

/// Tensors by name, as in a safetensors file.
pub type NamedTensors = BTreeMap<String, HostTensor>;

/// The field names from the module to where a visitor stands.
#[derive(Default)]
struct Path(Vec<String>);

impl Path {
    fn enter(&mut self, name: &str) {
        self.0.push(name.to_owned());
    }

    fn exit(&mut self) {
        self.0.pop();
    }

    fn name(&self) -> String {
        self.0.join(".")
    }
}

macro_rules! track_path {
    () => {
        fn enter_module(&mut self, name: &str, _container: &str) {
            self.path.enter(name);
        }

        fn exit_module(&mut self, _name: &str, _container: &str) {
            self.path.exit();
        }
    };
}

/// Draws all initial values now, each tensor's from `seed` and its name, and numbers the parameters from `seed` and name as well.
///
/// burn draws a parameter when it is first used, from one generator for all: values would depend on the order of use.
pub fn settle<B: Backend, M: Module<B>>(module: M, seed: u64) -> M {
    // The backend's generator belongs to the whole process.
    static GENERATOR: Mutex<()> = Mutex::new(());
    let _guard = GENERATOR.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    module.map(&mut Settle { path: Path::default(), seed })
}

struct Settle {
    path: Path,
    seed: u64,
}

impl<B: Backend> ModuleMapper<B> for Settle {
    track_path!();

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        let key = hash_name(&self.path.name(), self.seed);
        B::seed(&param.lazy_device(), key);
        let trained = param.val().is_require_grad();
        let (_, tensor, mapper) = param.consume();
        Param::from_mapped_value(ParamId::from(key), tensor, mapper).set_require_grad(trained)
    }
}

/// All float tensors of a module, buffers included.
pub fn tensors<B: Backend, M: Module<B>>(module: &M) -> NamedTensors {
    // burn's running statistics wait in cells of each thread; only this brings them together.
    drop(module.clone().into_record());
    let mut collect = Collect { path: Path::default(), tensors: BTreeMap::new() };
    module.visit(&mut collect);
    collect.tensors
}

struct Collect {
    path: Path,
    tensors: NamedTensors,
}

impl<B: Backend> ModuleVisitor<B> for Collect {
    track_path!();

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        let tensor = param.val();
        let (shape, values) = (tensor.dims().to_vec(), host(tensor));
        self.tensors.insert(self.path.name(), HostTensor { shape, values });
    }
}

/// A tensor's values in the host's memory, as f32.
pub fn host<B: Backend, const D: usize>(tensor: Tensor<B, D>) -> Vec<f32> {
    let data = tensor.into_data().convert::<f32>();
    data.into_vec().unwrap_or_else(|_| unreachable!("converted to f32 just above"))
}

/// Fills every float tensor of a module from `read`, which is asked by name.
///
/// # Errors
/// What `read` returns; and where it gives a tensor of another shape, both shapes. The module is used up.
pub fn load<B: Backend, M: Module<B>>(
    module: M,
    read: impl FnMut(&str) -> Result<HostTensor, Failure>,
) -> Result<M, Failure> {
    let mut load = Load { path: Path::default(), read, failure: None };
    let module = module.map(&mut load);
    match load.failure {
        None => Ok(module),
        Some(failure) => Err(failure),
    }
}

struct Load<R> {
    path: Path,
    read: R,
    failure: Option<Failure>,
}

impl<B: Backend, R: FnMut(&str) -> Result<HostTensor, Failure>> ModuleMapper<B> for Load<R> {
    track_path!();

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        if self.failure.is_some() {
            return param;
        }
        let (name, expected) = (self.path.name(), param.lazy_shape());
        let found = (self.read)(&name).and_then(|tensor| match Shape::from(tensor.shape.clone()) == expected {
            true => Ok(tensor),
            false => Err(Failure::new(format!(
                "tensor `{name}` has the shape {:?}, expected {:?}: these weights are of another network or configuration",
                tensor.shape,
                expected.to_vec()
            ))),
        });
        match found {
            Ok(tensor) => {
                let trained = param.is_require_grad();
                let (id, old, mapper) = param.consume();
                let data = TensorData::new(tensor.values, tensor.shape);
                let tensor = Tensor::from_data(data, &old.device());
                Param::from_mapped_value(id, tensor, mapper).set_require_grad(trained)
            }
            Err(failure) => {
                self.failure = Some(failure);
                param
            }
        }
    }
}

/// [`load`] from tensors in memory, each of which must be there.
///
/// # Errors
/// A missing or misshaped tensor, by name; `what` says whose it is.
pub fn load_named<B: Backend, M: Module<B>>(module: M, named: &NamedTensors, what: &str) -> Result<M, Failure> {
    load(module, |name| named.get(name).cloned().ok_or_else(|| Failure::new(format!("tensor `{name}` is missing"))))
        .context(|| format!("cannot load {what}"))
}

/// The number of values in a module's parameters, by name.
pub fn counts<B: Backend, M: Module<B>>(module: &M) -> BTreeMap<String, usize> {
    let mut count = Count { path: Path::default(), counts: BTreeMap::new() };
    module.visit(&mut count);
    count.counts
}

struct Count {
    path: Path,
    counts: BTreeMap<String, usize>,
}

impl<B: Backend> ModuleVisitor<B> for Count {
    track_path!();

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        self.counts.insert(self.path.name(), param.lazy_shape().num_elements());
    }

    fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<B, D, Int>>) {
        let _ = param;
    }
}

/// A module's parameters by number, whatever their rank.
struct ById<'a>(&'a mut HashMap<ParamId, Box<dyn Any>>);

impl<B: Backend> ModuleVisitor<B> for ById<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        self.0.insert(param.id, Box::new(param.val()));
    }
}

/// Moves a moving average towards a module: `average ← decay · average + (1 − decay) · module`.
///
/// Both must stem from one settled module: parameters are matched by their numbers.
pub fn average<B: Backend, M: Module<B>>(average: M, module: &M, decay: f64) -> M {
    let mut now = HashMap::new();
    module.visit(&mut ById(&mut now));
    average.map(&mut Average { now, decay })
}

struct Average {
    now: HashMap<ParamId, Box<dyn Any>>,
    decay: f64,
}

impl<B: Backend> ModuleMapper<B> for Average {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        let now = self.now.remove(&param.id).and_then(|now| now.downcast::<Tensor<B, D>>().ok());
        match now {
            Some(now) => param.map(|average| average.mul_scalar(self.decay) + now.mul_scalar(1.0 - self.decay)),
            None => param,
        }
    }
}

/// The length of all gradients of a module together, as one vector.
pub fn gradient_norm<B: AutodiffBackend, M: AutodiffModule<B>>(module: &M, gradients: &GradientsParams) -> f64 {
    let mut norm = SquaredNorm { gradients, sum: 0.0 };
    module.visit(&mut norm);
    norm.sum.sqrt()
}

struct SquaredNorm<'a> {
    gradients: &'a GradientsParams,
    sum: f64,
}

impl<B: AutodiffBackend> ModuleVisitor<B> for SquaredNorm<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        if let Some(gradient) = self.gradients.get::<B::InnerBackend, D>(param.id) {
            let values = host(gradient);
            self.sum += values.iter().map(|&g| f64::from(g) * f64::from(g)).sum::<f64>();
        }
    }
}

/// Multiplies all gradients of a module.
pub fn scale_gradients<B: AutodiffBackend, M: AutodiffModule<B>>(
    module: &M,
    gradients: GradientsParams,
    factor: f64,
) -> GradientsParams {
    let mut scale = Scale { gradients, factor };
    module.visit(&mut scale);
    scale.gradients
}

struct Scale {
    gradients: GradientsParams,
    factor: f64,
}

impl<B: AutodiffBackend> ModuleVisitor<B> for Scale {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        if let Some(gradient) = self.gradients.remove::<B::InnerBackend, D>(param.id) {
            self.gradients.register(param.id, gradient.mul_scalar(self.factor));
        }
    }
}

/// The sum of two sets of gradients of one module.
pub fn add_gradients<B: AutodiffBackend, M: AutodiffModule<B>>(
    module: &M,
    gradients: GradientsParams,
    other: GradientsParams,
) -> GradientsParams {
    let mut add = Add { gradients, other };
    module.visit(&mut add);
    add.gradients
}

struct Add {
    gradients: GradientsParams,
    other: GradientsParams,
}

impl<B: AutodiffBackend> ModuleVisitor<B> for Add {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        if let Some(other) = self.other.remove::<B::InnerBackend, D>(param.id) {
            let sum = match self.gradients.remove::<B::InnerBackend, D>(param.id) {
                Some(gradient) => gradient + other,
                None => other,
            };
            self.gradients.register(param.id, sum);
        }
    }
}

/// The same gradients in the module's own float type, as after a pass of its [`cast`].
pub fn cast_gradients<B: AutodiffBackend, M: AutodiffModule<B>>(
    module: &M,
    gradients: GradientsParams,
) -> GradientsParams {
    let mut cast = CastGradients(gradients);
    module.visit(&mut cast);
    cast.0
}

struct CastGradients(GradientsParams);

impl<B: AutodiffBackend> ModuleVisitor<B> for CastGradients {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        if let Some(gradient) = self.0.remove::<B::InnerBackend, D>(param.id) {
            let dtype: FloatDType = param.val().dtype().into();
            self.0.register(param.id, gradient.cast(dtype));
        }
    }
}

/// The same module with values of another float type: fresh leaves with the same numbers.
pub fn cast<B: Backend, M: Module<B>>(module: M, dtype: FloatDType) -> M {
    module.map(&mut Cast(dtype))
}

struct Cast(FloatDType);

impl<B: Backend> ModuleMapper<B> for Cast {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        let trained = param.is_require_grad();
        let (id, tensor, mapper) = param.consume();
        // A cast of what requires gradients would be tracked, and no leaf.
        let cast = tensor.detach().set_require_grad(false).cast(self.0);
        Param::from_mapped_value(id, cast, mapper).set_require_grad(trained)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Host;
    use burn::nn::{Linear, LinearConfig};

    fn layer(seed: u64) -> Linear<Host> {
        settle(LinearConfig::new(3, 2).init(&Default::default()), seed)
    }

    #[test]
    fn a_seed_and_a_name_are_the_values() {
        assert_eq!(tensors(&layer(1)), tensors(&layer(1)));
        assert_ne!(tensors(&layer(1)), tensors(&layer(2)));
        assert_eq!(tensors(&layer(1)).keys().collect::<Vec<_>>(), ["bias", "weight"]);
    }

    #[test]
    fn what_was_saved_is_loaded_and_else_refused() {
        let saved = tensors(&layer(1));
        assert_eq!(tensors(&load_named(layer(2), &saved, "a layer").expect("the same shape")), saved);
        let mut missing = saved.clone();
        missing.remove("bias");
        let failure = load_named(layer(2), &missing, "a layer").expect_err("no bias");
        assert_eq!(failure.to_string(), "cannot load a layer: tensor `bias` is missing");
        let mut other = saved;
        other.insert("bias".into(), HostTensor { shape: vec![3], values: vec![0.0; 3] });
        assert!(
            load_named(layer(2), &other, "a layer").expect_err("a misshape").to_string().contains("[3], expected [2]")
        );
    }

    #[test]
    fn a_cast_module_trains_and_its_gradients_go_back() {
        type Train = crate::backend::HostTrain;
        let module: Linear<Train> = settle(LinearConfig::new(3, 2).init(&Default::default()), 1);
        let half = cast(module.clone(), FloatDType::BF16);
        let x = Tensor::<Train, 2>::from_data(TensorData::from([[1.0f32, -2.0, 0.5]]), &Default::default());
        let loss = half.forward(x.cast(FloatDType::BF16)).cast(FloatDType::F32).sum();
        let gradients = GradientsParams::from_grads(loss.backward(), &half);
        let norm = gradient_norm::<Train, _>(&module, &cast_gradients::<Train, _>(&module, gradients));
        // d/dW of the sum of two outputs: x in each row; d/db: ones.
        assert!((norm - (2.0f64 * (1.0 + 4.0 + 0.25) + 2.0).sqrt()).abs() < 1e-6);
    }

    #[test]
    fn the_average_moves_by_its_share() {
        let (one, two) = (layer(1), load_named(layer(1), &tensors(&layer(2)), "a layer").expect("the same shape"));
        let moved = tensors(&average(one.clone(), &two, 0.75));
        let (one, two) = (tensors(&one), tensors(&two));
        for (name, moved) in &moved {
            for ((m, a), b) in moved.values.iter().zip(&one[name].values).zip(&two[name].values) {
                assert!((m - (0.75 * a + 0.25 * b)).abs() < 1e-6);
            }
        }
    }
}
