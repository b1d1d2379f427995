//! The quantizer's op on burn: gradients against the composed quantizer, codes, order of calls, odd input.

use std::collections::BTreeMap;
use std::sync::Arc;

use burn::backend::autodiff::checkpoint::strategy::BalancedCheckpointing;
use burn::backend::{Autodiff, Flex};
use burn::tensor::backend::{AutodiffBackend, Backend};
use burn::tensor::{DType, FloatDType, Tensor, TensorData};
use trainers::quantize::{QuantizeBackend, Updated, VectorQuantizer};
use vq_kernels::quantizer::{Config, Estimator, Initial, Learner, Quantizer};
use vq_kernels::rng::Rng;
use vq_kernels::{Error, NO_CODE};

#[path = "quantize/composed.rs"]
mod composed;

use composed::{Composed, nearest, wide};

type B = Autodiff<Flex>;

/// Gradients by parameter name, whole tensors.
type Named = BTreeMap<String, Vec<f32>>;

fn device() -> <Flex as burn::tensor::backend::BackendTypes>::Device {
    Default::default()
}

fn normal(n: usize, seed: u64) -> Vec<f32> {
    let mut rng = Rng::new(seed, 7);
    (0..n).map(|_| rng.normal()).collect()
}

fn rows<T: Backend>(values: &[f32], width: usize, device: &T::Device) -> Tensor<T, 2> {
    Tensor::from_data(TensorData::new(values.to_vec(), [values.len() / width, width]), (device, DType::F32))
}

fn values<T: Backend, const D: usize>(tensor: Tensor<T, D>) -> Vec<f32> {
    tensor.into_data().convert::<f32>().to_vec().expect("f32 values")
}

/// What `look` sees, on the host, where nothing fails.
fn read<R>(quantizer: &VectorQuantizer, look: impl FnOnce(&Quantizer) -> R) -> R {
    quantizer.read(look).expect("on the host")
}

/// A small quantizer; `Gradient` codes and centres are normal, so that no two are near each other.
fn config(learner: Learner, normalize: bool, factorize: bool, estimator: Estimator) -> Config {
    let dim = 6;
    let inputs = if factorize { 10 } else { dim };
    Config {
        inputs,
        dim,
        codes: 24,
        learner,
        factorize,
        normalize,
        estimator,
        restart: None,
        seed: 5,
        ..Config::default()
    }
}

fn shared(config: Config) -> VectorQuantizer {
    VectorQuantizer::new(Quantizer::new(config, Initial::Normal).expect("a quantizer"))
}

fn every_config() -> Vec<Config> {
    let mut all = Vec::new();
    let learners = [Learner::Gradient, Learner::Ema, Learner::Projector { source_dim: 9 }, Learner::Frozen];
    for learner in learners {
        for normalize in [false, true] {
            for factorize in [false, true] {
                for estimator in [Estimator::StraightThrough, Estimator::Rotation] {
                    all.push(config(learner, normalize, factorize, estimator));
                }
            }
        }
    }
    all
}

/// The quantizer's own gradients, as an optimizer will see them.
fn own_gradients(quantizer: &VectorQuantizer) -> Named {
    read(quantizer, |quantizer| {
        let (codes, dim) = (quantizer.config().codes, quantizer.config().dim);
        let mut named = Named::new();
        quantizer.gradients(|name, offset, gradient| match name {
            "latent" | "codebook" => {
                let whole = named.entry(name.to_owned()).or_insert_with(|| vec![0.0; codes * dim]);
                whole[offset..offset + gradient.len()].copy_from_slice(gradient);
            }
            _ => drop(named.insert(name.to_owned(), gradient.to_vec())),
        });
        named
    })
}

/// Largest difference in units of the largest magnitude expected.
fn relative(got: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(got.len(), expected.len());
    let largest = expected.iter().fold(0f64, |most, &x| most.max(f64::from(x.abs())));
    assert!(largest > 0.0, "a gradient that is zero proves nothing");
    got.iter().zip(expected).fold(0f64, |most, (&a, &b)| most.max(f64::from((a - b).abs()))) / largest
}

/// A total loss with weights and a scale of its own: `scale · (mean((output − target)²) + w₁ codebook + w₂ commitment)`.
struct Total {
    target: Vec<f32>,
    codebook: f64,
    commitment: f64,
    scale: f64,
}

impl Total {
    fn draw(elements: usize, seed: u64) -> Self {
        let mut rng = Rng::new(seed, 9);
        let mut weight = |most: f64| 0.05 + most * rng.uniform();
        let (codebook, commitment, scale) = (weight(2.0), weight(2.0), weight(1000.0));
        Self { target: normal(elements, seed + 1), codebook, commitment, scale }
    }

    fn of<T: Backend>(&self, output: Tensor<T, 2>, codebook: Tensor<T, 1>, commitment: Tensor<T, 1>) -> Tensor<T, 1> {
        let target = wide::<T>(&self.target, output.dims(), &output.device()).cast(FloatDType::from(output.dtype()));
        let reconstruction = (output - target).powi_scalar(2).mean();
        (reconstruction + codebook * self.codebook + commitment * self.commitment) * self.scale
    }
}

/// A whole step: the gradient at the rows, and the quantizer's own.
fn step<T: QuantizeBackend + AutodiffBackend>(
    quantizer: &VectorQuantizer,
    x: &[f32],
    total: &Total,
    device: &T::Device,
) -> (Vec<f32>, Named) {
    let width = quantizer.config().inputs;
    let x = rows::<T>(x, width, device).require_grad();
    let quantized = quantizer.forward(x.clone()).expect("a pass");
    let gradients = total.of(quantized.output, quantized.codebook_loss, quantized.commitment_loss).backward();
    quantizer.update().expect("an update");
    (values(x.grad(&gradients).expect("a gradient at the rows")), own_gradients(quantizer))
}

#[test]
fn gradients_equal_those_of_the_composed_quantizer() {
    const ROWS: usize = 40;
    for (i, config) in (0..).zip(every_config()) {
        let device = device();
        let x = normal(ROWS * config.inputs, 100 + i);
        let total = Total::draw(ROWS * config.inputs, 200 + i);
        let quantizer = shared(config);
        let composed = read(&quantizer, |quantizer| Composed::<B>::of(quantizer, &device));
        let (at_rows, own) = step::<B>(&quantizer, &x, &total, &device);
        let codes = quantizer.last_codes();

        let wide_x = wide::<B>(&x, [ROWS, config.inputs], &device).require_grad();
        let results = composed.forward(wide_x.clone(), &codes);
        let gradients = total.of(results.output, results.codebook_loss, results.commitment_loss).backward();
        let mut expected = Named::new();
        let mut expect = |name: &str, tensor: &Tensor<B, 2>| {
            if let Some(gradient) = tensor.grad(&gradients) {
                expected.insert(name.to_owned(), values(gradient));
            }
        };
        let layers = [
            ("project_in", &composed.project_in),
            ("project_out", &composed.project_out),
            ("projector", &composed.projector),
        ];
        for (name, layer) in layers {
            if let Some(layer) = layer {
                expect(&format!("{name}.weight"), &layer.weight);
                expect(&format!("{name}.bias"), &layer.bias);
            }
        }
        expect(if config.normalize { "latent" } else { "codebook" }, &composed.codes);

        let difference = relative(&at_rows, &values(wide_x.grad(&gradients).expect("a gradient at the rows")));
        assert!(difference < 1e-5, "{config:?}: at the rows: {difference:e}");
        let names = |named: &Named| named.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&own), names(&expected), "{config:?}");
        let learned = match config.learner {
            Learner::Gradient => 1,
            Learner::Projector { .. } => 2,
            Learner::Ema | Learner::Frozen => 0,
        };
        assert_eq!(own.len(), learned + if config.factorize { 4 } else { 0 }, "{config:?}");
        for (name, gradient) in &own {
            let difference = relative(gradient, &expected[name]);
            assert!(difference < 1e-5, "{config:?}: {name}: {difference:e}");
        }
    }
}

#[test]
fn forward_values_equal_those_of_the_composed_quantizer() {
    for config in every_config() {
        let device = device();
        let x = normal(40 * config.inputs, 3);
        let quantizer = shared(config);
        let composed = read(&quantizer, |quantizer| Composed::<B>::of(quantizer, &device));
        let quantized = quantizer.forward(rows::<Flex>(&x, config.inputs, &device)).expect("a pass");
        let expected = composed.forward(wide(&x, [40, config.inputs], &device), &quantized.codes);
        assert!(relative(&values(quantized.output), &values(expected.output)) < 1e-5, "{config:?}");
        assert!(relative(&values(quantized.codebook_loss), &values(expected.codebook_loss)) < 1e-6, "{config:?}");
        assert!(relative(&values(quantized.commitment_loss), &values(expected.commitment_loss)) < 1e-6, "{config:?}");
    }
}

#[test]
fn codes_equal_those_of_the_composed_search_but_for_near_ties() {
    const ROWS: usize = 2000;
    for normalize in [false, true] {
        let settings = Config { codes: 777, ..config(Learner::Frozen, normalize, false, Estimator::StraightThrough) };
        let quantizer = shared(settings);
        let x = normal(ROWS * settings.dim, 11);
        let codes = quantizer.encode(rows::<Flex>(&x, settings.dim, &device())).expect("codes");
        let mut z = wide::<Flex>(&x, [ROWS, settings.dim], &device());
        if normalize {
            z = z.clone() / z.powi_scalar(2).sum_dim(1).sqrt();
        }
        let seen: Vec<f64> = z.clone().into_data().to_vec().expect("f64 rows");
        read(&quantizer, |quantizer| {
            let composed = nearest(z, quantizer.codebook(), 100);
            let differing = codes.iter().zip(&composed).filter(|(a, b)| a != b).count();
            assert!(differing < ROWS / 100, "{differing} of {ROWS} rows have another code");
            for (row, (&code, &other)) in codes.iter().zip(&composed).enumerate() {
                let seen = &seen[row * settings.dim..][..settings.dim];
                let distance = |code: u32| -> f64 {
                    let code = quantizer.codebook().row(code as usize);
                    seen.iter().zip(code).map(|(a, &b)| (a - f64::from(b)).powi(2)).sum()
                };
                let size: f64 = seen.iter().map(|x| x * x).sum::<f64>() + 1.0;
                assert!(distance(code) - distance(other) <= 1e-5 * size, "row {row}: {code} or {other}");
            }
        });
    }
}

#[test]
fn a_strided_view_gives_the_same_bits() {
    let settings = config(Learner::Gradient, true, true, Estimator::StraightThrough);
    let x = normal(40 * settings.inputs, 21);
    let straight = rows::<Flex>(&x, settings.inputs, &device());
    // The same rows, stored column after column: no slice to lend, so that the copying path takes them.
    let turned = Tensor::<Flex, 2>::from_data(straight.clone().transpose().into_data(), &device()).transpose();
    let [a, b] = [straight, turned].map(|x| shared(settings).forward(x).expect("a pass"));
    assert_eq!(a.codes, b.codes);
    assert_eq!(values(a.output), values(b.output));
    assert_eq!(a.report, b.report);
}

#[test]
fn rows_are_lent_without_a_copy() {
    let x = rows::<Flex>(&normal(60, 1), 6, &device());
    // Both loans are alive at once: a copy would lie elsewhere.
    let same = Flex::lend(&x, |a| Flex::lend(&x.clone(), |b| core::ptr::eq(a, b)));
    assert!(same);
    let tracked = Tensor::<B, 2>::from_inner(x.clone()).require_grad();
    assert!(Flex::lend(&x, |a| B::lend(&tracked, |b| core::ptr::eq(a, b))));
    // A block of whole rows is lent too, from its own place.
    let block = x.clone().slice(2..5);
    assert!(Flex::lend(&x, |a| Flex::lend(&block, |b| core::ptr::eq(&a[12..30], b))));
}

#[test]
fn threads_and_checkpointing_do_not_change_bits() {
    let settings = Config { codes: 500, ..config(Learner::Gradient, true, true, Estimator::Rotation) };
    let x = normal(900 * settings.inputs, 31);
    let total = Total::draw(x.len(), 32);
    let one = step::<B>(&shared(settings), &x, &total, &device());
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().expect("two threads");
    let threaded = shared(settings).with_pool(Arc::new(pool));
    assert_eq!(threaded.cpu().threads(), 2);
    assert_eq!(one, step::<B>(&threaded, &x, &total, &device()));
    assert_eq!(one, step::<Autodiff<Flex, BalancedCheckpointing>>(&shared(settings), &x, &total, &device()));
}

#[test]
fn quantizers_train_on_untracked_rows() {
    for settings in every_config() {
        let x = normal(40 * settings.inputs, 41);
        let total = Total::draw(x.len(), 42);
        let (_, expected) = step::<B>(&shared(settings), &x, &total, &device());
        // A frozen encoder: the rows ask for no gradient, the quantizer's own parameters do.
        let quantizer = shared(settings);
        let quantized = quantizer.forward(rows::<B>(&x, settings.inputs, &device())).expect("a pass");
        total.of(quantized.output, quantized.codebook_loss, quantized.commitment_loss).backward();
        quantizer.update().expect("an update");
        assert_eq!(own_gradients(&quantizer), expected, "{settings:?}");
    }
}

#[test]
fn the_gradient_at_rows_is_right_in_any_order_of_calls() {
    for settings in every_config() {
        let batches = [51, 52, 53].map(|seed| normal(30 * settings.inputs, seed));
        let totals = [54, 55, 56].map(|seed| Total::draw(30 * settings.inputs, seed));
        let expected: Vec<Vec<f32>> =
            batches.iter().zip(&totals).map(|(x, total)| step::<B>(&shared(settings), x, total, &device()).0).collect();
        let quantizer = shared(settings);
        let before = read(&quantizer, Quantizer::clone);
        let passes: Vec<_> = batches
            .iter()
            .zip(&totals)
            .map(|(x, total)| {
                let x = rows::<B>(x, settings.inputs, &device()).require_grad();
                let quantized = quantizer.forward(x.clone()).expect("a pass");
                (x, total.of(quantized.output, quantized.codebook_loss, quantized.commitment_loss))
            })
            .collect();
        // Codes and layers change before any backward has come.
        quantizer.update().expect("an update");
        quantizer.apply(|update| update.values.iter_mut().for_each(|x| *x += 1.0)).expect("an optimizer's turn");
        for i in [1, 2, 0] {
            let (x, loss) = &passes[i];
            let gradients = loss.clone().backward();
            assert_eq!(values(x.grad(&gradients).expect("a gradient")), expected[i], "{settings:?}: pass {i}");
        }
        let unchanged = read(&quantizer, |now| now.codebook().data() == before.codebook().data());
        assert_eq!(unchanged, settings.learner == Learner::Frozen, "{settings:?}");
    }
}

#[test]
fn parts_of_a_loss_can_be_left_out() {
    let settings = config(Learner::Gradient, false, false, Estimator::StraightThrough);
    let x = normal(30 * settings.inputs, 61);
    let pass = |quantizer: &VectorQuantizer| {
        let x = rows::<B>(&x, settings.inputs, &device()).require_grad();
        (x.clone(), quantizer.forward(x).expect("a pass"))
    };
    // The output alone: the straight-through gradient, and codes that no term moves.
    let quantizer = shared(settings);
    let (x, quantized) = pass(&quantizer);
    let gradients = quantized.output.sum().backward();
    assert!(values(x.grad(&gradients).expect("a gradient")).iter().all(|&g| g == 1.0));
    quantizer.update().expect("an update");
    assert!(own_gradients(&quantizer)["codebook"].iter().all(|&g| g == 0.0));
    // The codebook term alone: none at the rows.
    let quantizer = shared(settings);
    let (x, quantized) = pass(&quantizer);
    let gradients = quantized.codebook_loss.backward();
    assert!(values(x.grad(&gradients).expect("a gradient")).iter().all(|&g| g == 0.0));
    quantizer.update().expect("an update");
    assert!(own_gradients(&quantizer)["codebook"].iter().any(|&g| g != 0.0));
}

#[test]
fn a_loss_that_is_not_finite_shows_at_the_rows_and_moves_no_code() {
    let settings = config(Learner::Gradient, false, false, Estimator::StraightThrough);
    let at_rows = |weight: f32, overflow: f32| {
        let quantizer = shared(settings);
        let x = rows::<B>(&normal(5 * settings.inputs, 71), settings.inputs, &device()).require_grad();
        let quantized = quantizer.forward(x.clone()).expect("a pass");
        let mut weights = vec![1.0; 5 * settings.inputs];
        weights[2 * settings.inputs + 1] = overflow;
        let weights = rows::<B>(&weights, settings.inputs, &device());
        let gradients = ((quantized.output * weights).sum() + quantized.codebook_loss * weight).backward();
        quantizer.update().expect("an update");
        let moved = own_gradients(&quantizer)["codebook"].iter().any(|&g| g != 0.0);
        let x = values(x.grad(&gradients).expect("a gradient"));
        (x.chunks(settings.inputs).map(|row| row.iter().all(|g| g.is_nan())).collect::<Vec<_>>(), moved)
    };
    assert_eq!(at_rows(1.0, 1.0), (vec![false; 5], true));
    assert_eq!(at_rows(f32::INFINITY, 1.0), (vec![true; 5], false));
    // As where one element of a half-precision decoder overflows.
    assert_eq!(at_rows(1.0, f32::INFINITY), (vec![false, false, true, false, false], true));
}

#[test]
fn rows_that_are_not_finite_have_no_code_and_no_gradient() {
    for settings in every_config() {
        let width = settings.inputs;
        let mut x = normal(20 * width, 81);
        (x[3 * width], x[7 * width + 1], x[19 * width]) = (f32::NAN, f32::INFINITY, f32::NEG_INFINITY);
        let good: Vec<usize> = (0..20).filter(|row| ![3, 7, 19].contains(row)).collect();
        let only = |x: &[f32]| good.iter().flat_map(|row| &x[row * width..][..width]).copied().collect::<Vec<f32>>();
        let pass = |x: &[f32]| {
            let quantizer = shared(settings);
            let x = rows::<B>(x, width, &device()).require_grad();
            let quantized = quantizer.forward(x.clone()).expect("a pass");
            let output = values(quantized.output.clone());
            let loss = quantized.output.sum() + quantized.codebook_loss * 0.7 + quantized.commitment_loss * 0.3;
            let gradients = loss.backward();
            quantizer.update().expect("an update");
            let at_rows = values(x.grad(&gradients).expect("a gradient"));
            (quantized.codes, output, at_rows, own_gradients(&quantizer), quantized.report)
        };
        let (codes, output, at_rows, own, report) = pass(&x);
        assert_eq!((report.rows, report.without_code), (17, 3), "{settings:?}");
        // As if only the others had come: sums run in another order of blocks, no more.
        let (good_codes, good_output, good_at_rows, good_own, _) = pass(&only(&x));
        assert_eq!(good.iter().map(|&row| codes[row]).collect::<Vec<_>>(), good_codes, "{settings:?}");
        assert_eq!(only(&output), good_output, "{settings:?}");
        assert!(relative(&only(&at_rows), &good_at_rows) < 1e-6, "{settings:?}");
        for (name, gradient) in &own {
            assert!(relative(gradient, &good_own[name]) < 1e-6, "{settings:?}: {name}");
        }
        let zeros = shared(settings).decode::<Flex>(&[NO_CODE], &device()).expect("an output");
        let zeros = values(zeros);
        assert!(settings.factorize || zeros.iter().all(|&x| x == 0.0));
        for row in [3, 7, 19] {
            assert_eq!(codes[row], NO_CODE, "{settings:?}");
            assert_eq!(output[row * width..][..width], zeros, "{settings:?}");
            assert!(at_rows[row * width..][..width].iter().all(|&g| g == 0.0), "{settings:?}");
        }
    }
}

#[test]
fn no_rows_are_a_pass_that_changes_nothing() {
    for settings in every_config() {
        let quantizer = shared(settings);
        let before = read(&quantizer, Quantizer::clone);
        let x = Tensor::<B, 2>::empty([0, settings.inputs], &device()).require_grad();
        let quantized = quantizer.forward(x).expect("a pass of nothing");
        assert_eq!(quantized.output.dims(), [0, settings.inputs]);
        assert_eq!((quantized.codes.len(), quantized.report.rows), (0, 0));
        let loss = quantized.codebook_loss + quantized.commitment_loss;
        assert_eq!(values(loss.clone()), [0.0]);
        loss.backward();
        assert_eq!(quantizer.update(), Ok(Updated::default()));
        quantizer.apply(|update| update.values.fill(update.gradient.iter().sum())).expect("an optimizer's turn");
        let unmoved = read(&quantizer, |now| (now.step(), now.codebook().data().to_vec()));
        assert_eq!(unmoved.0, 0);
        if !settings.factorize && settings.learner != (Learner::Projector { source_dim: 9 }) {
            assert_eq!(unmoved.1, before.codebook().data(), "{settings:?}");
        }
        let none = Tensor::<Flex, 2>::empty([0, settings.inputs], &device());
        assert_eq!(quantizer.encode(none), Ok(Vec::new()));
        let none: Tensor<Flex, 2> = quantizer.decode(&[], &device()).expect("an output of nothing");
        assert_eq!(none.dims(), [0, settings.inputs]);
    }
}

#[test]
fn wrong_extents_and_order_are_errors() {
    let settings = config(Learner::Ema, true, true, Estimator::StraightThrough);
    let quantizer = shared(settings);
    let wide = rows::<B>(&normal(22, 1), 11, &device());
    let refused = quantizer.forward(wide.clone()).map(|quantized| quantized.codes);
    assert!(matches!(refused, Err(Error::Shape { expected: 10, got: 11, .. })), "{refused:?}");
    assert!(matches!(quantizer.encode(wide), Err(Error::Shape { expected: 10, got: 11, .. })));
    let no_width = quantizer.forward(Tensor::<Flex, 2>::empty([4, 0], &device())).map(|quantized| quantized.codes);
    assert!(matches!(no_width, Err(Error::Shape { expected: 10, got: 0, .. })), "{no_width:?}");
    let decoded: Result<Tensor<Flex, 2>, Error> = quantizer.decode(&[0, 24], &device());
    assert!(matches!(decoded, Err(Error::CodeOutOfRange { row: 1, code: 24, .. })));
    assert!(matches!(quantizer.update(), Err(Error::Order { .. })));
    // A refusal leaves a quantizer that works.
    quantizer.forward(rows::<Flex>(&normal(40, 2), 10, &device())).expect("a pass");
    assert_eq!(quantizer.update().map(|updated| updated.active > 0), Ok(true));
    assert!(matches!(quantizer.update(), Err(Error::Order { .. })));
}

#[test]
fn rows_of_other_float_types_are_widened_and_the_output_narrowed() {
    let settings = config(Learner::Gradient, true, true, Estimator::StraightThrough);
    let x = normal(40 * settings.inputs, 91);
    for dtype in [FloatDType::F16, FloatDType::BF16, FloatDType::F64] {
        let narrow = rows::<B>(&x, settings.inputs, &device()).cast(dtype).require_grad();
        let widened = Tensor::<B, 2>::from_inner(narrow.clone().inner().cast(FloatDType::F32)).require_grad();
        let pass = |x: &Tensor<B, 2>| {
            let quantized = shared(settings).forward(x.clone()).expect("a pass");
            assert_eq!(quantized.commitment_loss.dtype(), DType::F32);
            let output = quantized.output.clone();
            let loss = quantized.output.cast(FloatDType::F32).sum() + quantized.commitment_loss;
            let gradient = x.grad(&loss.backward()).expect("a gradient");
            (quantized.codes, output.inner(), gradient)
        };
        let ((codes, output, gradient), expected) = (pass(&narrow), pass(&widened));
        assert_eq!((output.dtype(), gradient.dtype()), (dtype.into(), dtype.into()));
        assert_eq!(codes, expected.0);
        assert_eq!(values(output), values(expected.1.cast(dtype)));
        assert_eq!(values(gradient), values(expected.2.cast(dtype)));
    }
}

#[test]
fn handles_are_shared_between_threads() {
    let quantizer = shared(config(Learner::Frozen, true, true, Estimator::StraightThrough));
    let x = normal(200, 101);
    let expected = quantizer.encode(rows::<Flex>(&x, 10, &device())).expect("codes");
    let (quantizer, x) = (&quantizer, &x);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| scope.spawn(move || quantizer.clone().encode(rows::<Flex>(x, 10, &device())).expect("codes")))
            .collect();
        for thread in threads {
            assert_eq!(thread.join().expect("a thread"), expected);
        }
    });
}

#[test]
fn a_training_lowers_the_loss_and_moving_averages_follow() {
    for learner in [Learner::Gradient, Learner::Ema] {
        let settings =
            Config { restart: Some(Default::default()), ..config(learner, false, false, Estimator::StraightThrough) };
        let quantizer = shared(settings);
        let x = rows::<B>(&normal(400 * settings.inputs, 111), settings.inputs, &device());
        let mut losses = Vec::new();
        for _ in 0..60 {
            let quantized = quantizer.forward(x.clone()).expect("a pass");
            losses.push(quantized.report.loss.codebook);
            quantized.codebook_loss.backward();
            quantizer.update().expect("an update");
            let descend = |update: vq_kernels::quantizer::Update<'_>| {
                update.values.iter_mut().zip(update.gradient).for_each(|(x, g)| *x -= 20.0 * g);
            };
            quantizer.apply(descend).expect("an optimizer's turn");
        }
        assert!(losses[59] < 0.8 * losses[0], "{learner:?}: {} to {}", losses[0], losses[59]);
    }
}
