//! On a device, or on the virtual driver (`.ci/device burn`); skipped, and said so, where there is neither. (No test of no rows:
//! burn 0.21 has no empty tensors on its CUDA backend.)

use burn::backend::{Autodiff, Flex};
use burn::tensor::backend::{AutodiffBackend, Backend};
use burn::tensor::{DType, TensorData};
use vq_kernels::ops::restart::Rule;
use vq_kernels::quantizer::{Config, Estimator, Initial, Learner, Loss, StateRef};
use vq_kernels::rng::Rng;
use vq_kernels::{Cpu, MatRef, NO_CODE};

use super::super::{QuantizeBackend, Updated, VectorQuantizer};
use super::*;

const N: usize = 60;

fn device() -> Option<CudaDevice> {
    match Device::probe(0) {
        Ok(_) => Some(CudaDevice::new(0)),
        Err(error) => {
            assert!(std::env::var_os("VQ_REQUIRE_DRIVER").is_none(), "no device: {error}");
            eprintln!("skipped, for want of a device: {error}");
            None
        }
    }
}

fn values(seed: u64, len: usize) -> Vec<f32> {
    let mut random = Rng::new(7, seed);
    (0..len).map(|_| random.normal()).collect()
}

fn tensor<const D: usize>(values: &[f32], shape: [usize; D], device: &CudaDevice) -> Tensor<Cuda, D> {
    Tensor::from_data(TensorData::new(values.to_vec(), shape), (device, DType::F32))
}

fn flex<const D: usize>(values: &[f32], shape: [usize; D]) -> Tensor<Flex, D> {
    Tensor::from_data(TensorData::new(values.to_vec(), shape), (&Default::default(), DType::F32))
}

fn host_of<B: Backend, const D: usize>(tensor: Tensor<B, D>) -> Vec<f32> {
    tensor.into_data().to_vec::<f32>().expect("f32")
}

fn same(found: &[f32], expected: &[f32]) {
    assert!(found.iter().map(|x| x.to_bits()).eq(expected.iter().map(|x| x.to_bits())));
}

fn shared(config: Config) -> VectorQuantizer {
    VectorQuantizer::new(Quantizer::new(config, Initial::Normal).expect("a quantizer"))
}

fn away(quantizer: &VectorQuantizer) -> bool {
    quantizer.lock().away().is_some()
}

fn same_state(there: &VectorQuantizer, here: &VectorQuantizer) {
    let [there, here] = [there, here].map(|quantizer| quantizer.read(Quantizer::clone).expect("a copy"));
    for ((name, there), (_, here)) in there.state().into_iter().zip(here.state()) {
        match (there, here) {
            (StateRef::F32(there), StateRef::F32(here)) => same(there, here),
            _ => assert_eq!(there, here, "{name}"),
        }
    }
}

/// Codes averaged, restarted and seen at fewer dimensions, by angle and by distance; learned by gradient, as they are and behind the
/// norm; centres behind a projector; the rotation.
fn configs() -> [Config; 5] {
    let restart = Some(Rule { patience: 0.1, ..Rule::default() });
    let averaged = Config { inputs: 20, dim: 6, codes: 70, restart, ..Config::default() };
    let by_distance = Config { normalize: false, estimator: Estimator::Rotation, ..averaged };
    let learner = Learner::Gradient;
    let learned = Config { learner, codes: 30, ..averaged };
    let centres = Config { learner: Learner::Projector { source_dim: 9 }, restart: None, ..by_distance };
    [averaged, by_distance, learned, Config { dim: 20, factorize: false, normalize: false, ..learned }, centres]
}

/// What a step gave: gradient, output and the two terms; codes; what its update did; the loss, rows with a code and without.
#[derive(Debug, PartialEq)]
struct Step {
    floats: [Vec<f32>; 4],
    codes: Vec<u32>,
    updated: Updated,
    report: (Loss, usize, usize),
}

/// A step on one side: what a loss is made of, and its derivatives on their way, are burn's own kernels on a device.
fn step_of<A: AutodiffBackend + QuantizeBackend>(
    quantizer: &VectorQuantizer,
    [rows, weights]: [Tensor<A, 2>; 2],
) -> Step {
    let rows = rows.require_grad();
    let quantized = quantizer.forward(rows.clone()).expect("a pass");
    let output = quantized.output.clone();
    let terms = [quantized.codebook_loss.clone(), quantized.commitment_loss.clone()];
    let weighed = quantized.output * weights;
    let loss = weighed.sum() + quantized.commitment_loss * 0.25 + quantized.codebook_loss * 0.5;
    let gradient = rows.grad(&loss.backward()).expect("a gradient");
    let updated = quantizer.update().expect("an update");
    // As loss scaling does: a gradient that overflowed teaches nothing.
    let finite = |update: &Update<'_>| update.gradient.iter().all(|g| g.is_finite());
    let descend = |update: Update<'_>| {
        if finite(&update) {
            update.values.iter_mut().zip(update.gradient).for_each(|(value, g)| *value -= 0.1 * g);
        }
    };
    quantizer.apply(descend).expect("copies");
    assert_eq!(quantizer.last_codes(), quantized.codes);
    let [codebook, commitment] = terms.map(|term| host_of(term.inner()));
    let Report { loss, rows, without_code, .. } = quantized.report;
    let floats = [host_of(gradient), host_of(output.inner()), codebook, commitment];
    Step { floats, codes: quantized.codes, updated, report: (loss, rows, without_code) }
}

#[test]
fn steps_have_the_hosts_bits() {
    let Some(device) = device() else { return };
    for config in configs() {
        let (there, here) = (shared(config), shared(config));
        let mut restarted = 0;
        for step in 0..4 {
            let (x, mut weights) = (values(step, N * 20), values(50 + step, N * 20));
            if step == 1 {
                // An overflow, as loss scaling looks for it.
                weights[3 * 20 + 4] = f32::INFINITY;
            }
            let of_device = [&x, &weights].map(|values| tensor(values, [N, 20], &device));
            let found = step_of::<Autodiff<Cuda>>(&there, of_device.map(Tensor::from_inner));
            let of_host = [&x, &weights].map(|values| flex(values, [N, 20]));
            let expected = step_of::<Autodiff<Flex>>(&here, of_host.map(Tensor::from_inner));
            for (found, expected) in found.floats.iter().flatten().zip(expected.floats.iter().flatten()) {
                assert!(found.to_bits() == expected.to_bits() || (found.is_nan() && expected.is_nan()));
            }
            assert_eq!(found.floats[0].iter().any(|x| x.is_nan()), step == 1);
            assert_eq!((found.codes, found.updated, found.report), (expected.codes, expected.updated, expected.report));
            assert_eq!(there.last_restarted(), here.last_restarted());
            restarted += there.last_restarted().len();
            assert!(away(&there) && !away(&here));
            if step == 2 {
                // A look does not bring it back.
                same_state(&there, &here);
                assert!(away(&there));
            }
        }
        assert_eq!(restarted > 0, config.restart.is_some());
        same_state(&there, &here);
        // More rows than a pass had, one of which has no code.
        let mut x = values(77, 2 * N * 20);
        x[43] = f32::NAN;
        let codes = here.encode(flex(&x, [2 * N, 20])).expect("codes");
        assert_eq!(codes[2], NO_CODE);
        assert_eq!(there.encode(tensor(&x, [2 * N, 20], &device)).expect("codes"), codes);
        let expected: Tensor<Flex, 2> = here.decode(&codes, &Default::default()).expect("rows");
        let found: Tensor<Cuda, 2> = there.decode(&codes, &device).expect("rows");
        same(&host_of(found), &host_of(expected));
        // Changed on the host, it is there.
        there.with(|quantizer| assert_eq!(quantizer.step(), 4)).expect("a copy");
        assert!(!away(&there));
    }
}

/// A quantizer goes where the rows are, with all that it has learned.
#[test]
fn host_and_device_take_turns() {
    let Some(device) = device() else { return };
    for config in configs() {
        let (there, here) = (shared(config), shared(config));
        for step in 0..4 {
            let both = [values(step, N * 20), values(50 + step, N * 20)];
            let on_host = || both.each_ref().map(|values| Tensor::from_inner(flex(values, [N, 20])));
            let found = match step % 2 {
                0 => {
                    let on_device = both.each_ref().map(|values| tensor(values, [N, 20], &device));
                    step_of::<Autodiff<Cuda>>(&there, on_device.map(Tensor::from_inner))
                }
                _ => step_of::<Autodiff<Flex>>(&there, on_host()),
            };
            assert_eq!(away(&there), step % 2 == 0);
            assert_eq!(found, step_of::<Autodiff<Flex>>(&here, on_host()));
        }
        same_state(&there, &here);
    }
}

/// What is encoded or decoded between an update and its optimizer's turn, however much, takes nothing from it.
#[test]
fn encoding_before_the_optimizer_takes_its_turn_changes_nothing() {
    let Some(device) = device() else { return };
    for config in configs() {
        let [looked_at, left_alone] = [true, false].map(|looks| {
            let there = shared(config);
            let rows = Tensor::<Autodiff<Cuda>, 2>::from_inner(tensor(&values(1, N * 20), [N, 20], &device));
            let quantized = there.forward(rows.clone().require_grad()).expect("a pass");
            (quantized.output.sum() + quantized.codebook_loss + quantized.commitment_loss).backward();
            there.update().expect("an update");
            let restarted = there.last_restarted();
            if looks {
                let many = tensor(&values(2, 3 * N * 20), [3 * N, 20], &device);
                let codes = there.encode(many).expect("codes");
                drop(there.decode::<Cuda>(&codes, &device).expect("rows"));
            }
            let mut updates = 0;
            let mut apply = || there.apply(|update| (update.values[0], updates) = (update.gradient[0], updates + 1));
            apply().expect("copies");
            apply().expect("nothing is left to do");
            assert_eq!((there.last_codes(), there.last_restarted()), (quantized.codes, restarted));
            (there, updates)
        });
        assert_eq!(looked_at.1, left_alone.1);
        assert!(looked_at.1 > 0 || !config.factorize);
        same_state(&looked_at.0, &left_alone.0);
        // A pass has restarted nothing yet.
        let rows = tensor(&values(3, N * 20), [N, 20], &device);
        looked_at.0.forward(rows).expect("a pass");
        assert!(looked_at.0.last_restarted().is_empty());
    }
}

#[test]
fn calls_out_of_turn_are_told() {
    let Some(device) = device() else { return };
    let there = shared(configs()[0]);
    let rows = || tensor(&values(1, N * 20), [N, 20], &device);
    let tracked = || Tensor::<Autodiff<Cuda>, 2>::from_inner(rows()).require_grad();
    let out_of_turn = |found: Result<Updated>| assert!(matches!(found, Err(Error::Order { .. })), "{found:?}");
    out_of_turn(there.update());
    // A pass whose results are dropped stands in nobody's way, and without a backward the configuration's weights count.
    drop(there.forward(tracked()).expect("a pass"));
    drop(there.forward(tracked()).expect("a pass"));
    assert!(there.update().expect("an update").active > 0);
    out_of_turn(there.update());
    // A backward after its pass was ended gives NaN, and the next call says why; then all goes on.
    let enders: [&dyn Fn(); 4] = [
        &|| drop(there.encode(rows()).expect("codes")),
        &|| drop(there.forward(tracked()).expect("a pass")),
        &|| drop(there.forward(Tensor::cat(vec![tracked(), tracked()], 0)).expect("a pass for which it moves")),
        &|| there.with(|_| ()).expect("a copy"),
    ];
    for end in enders {
        let x = tracked();
        let output = there.forward(x.clone()).expect("a pass").output;
        end();
        let gradient = x.grad(&output.sum().backward()).expect("a gradient");
        assert!(host_of(gradient).iter().all(|x| x.is_nan()));
        out_of_turn(there.update());
        there.encode(rows()).expect("codes");
        out_of_turn(there.update());
    }
    // What is no number in a term's derivative shows at the rows.
    let x = tracked();
    let quantized = there.forward(x.clone()).expect("a pass");
    let gradient = x.grad(&(quantized.codebook_loss * f32::INFINITY).backward()).expect("a gradient");
    assert!(host_of(gradient).iter().all(|x| x.is_nan()));
    assert!(there.update().is_ok());
    let narrow = there.forward(tensor(&values(1, N * 19), [N, 19], &device)).map(drop);
    assert!(matches!(narrow, Err(Error::Shape { expected: 20, got: 19, .. })));
    out_of_turn(there.update());
    // A device that is not there leaves the quantizer where it is.
    let nowhere = CudaDevice::new(99);
    let here = shared(configs()[0]);
    assert!(matches!(here.decode::<Cuda>(&[1], &nowhere), Err(Error::Cuda(_))));
    assert!(!away(&here) && here.read(|_| ()).is_ok());
}

/// The kernels wait for what another thread does to the rows, whose queue is its own.
#[test]
fn rows_of_another_thread_are_waited_for() {
    let Some(device) = device() else { return };
    let host = Quantizer::new(configs()[0], Initial::Normal).expect("a quantizer");
    let there = VectorQuantizer::new(host.clone());
    let x = values(9, N * 20);
    let doubled: Vec<f32> = x.iter().map(|x| x * 2.0).collect();
    // A single row of N · 20 has no gaps, so nothing that `encode` itself does touches it before the kernels.
    let made = std::thread::scope(|scope| {
        let make = || (tensor(&x, [N * 20], &device) * 2.0).reshape([N, 20]);
        scope.spawn(make).join().expect("no panic")
    });
    let found = there.encode(made).expect("codes");
    let mut expected = vec![0; N];
    host.encode(&Cpu::new(), MatRef::new(&doubled, N, 20).expect("shapes"), None, &mut expected).expect("shapes");
    assert_eq!(found, expected);
}
