//! On a device, or on the virtual driver (`.ci/device burn`); skipped, and said so, where there is neither. (No test of no rows:
//! burn 0.21 has no empty tensors on its CUDA backend.)

use burn::backend::{Autodiff, Flex};
use burn::tensor::{DType, TensorData};
use vq_kernels::ops::restart::Rule;
use vq_kernels::quantizer::{Config, Estimator, Initial, Learner};
use vq_kernels::rng::Rng;
use vq_kernels::{Cpu, MatMut, MatRef, NO_CODE};

use super::super::VectorQuantizer;
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

fn host_of<const D: usize>(tensor: Tensor<Cuda, D>) -> Vec<f32> {
    tensor.into_data().to_vec::<f32>().expect("f32")
}

fn same(found: &[f32], expected: &[f32]) {
    assert!(found.iter().map(|x| x.to_bits()).eq(expected.iter().map(|x| x.to_bits())));
}

/// Codes averaged, restarted and seen at fewer dimensions, by angle and by distance; learned by gradient, as they are; the
/// rotation.
fn configs() -> [Config; 3] {
    let restart = Some(Rule { patience: 0.1, ..Rule::default() });
    let averaged = Config { inputs: 20, dim: 6, codes: 70, restart, ..Config::default() };
    let by_distance = Config { normalize: false, estimator: Estimator::Rotation, ..averaged };
    let learner = Learner::Gradient;
    [averaged, by_distance, Config { dim: 20, codes: 30, factorize: false, learner, ..by_distance }]
}

#[test]
fn passes_have_the_hosts_bits() {
    let Some(device) = device() else { return };
    let cpu = Cpu::new();
    for config in configs() {
        let mut host = Quantizer::new(config, Initial::Normal).expect("a quantizer");
        let there = DeviceVectorQuantizer::new(&device, &host, N).expect("a device");
        let mut restarted = 0;
        for step in 0..3 {
            let (x, gradient) = (values(step, N * 20), values(100 + step, N * 20));
            let rows = MatRef::new(&x, N, 20).expect("shapes");
            let terms = Loss { codebook: 0.5, commitment: 0.25 };
            let report = host.forward(&cpu, rows, None).expect("a pass");
            let pass = there.lock().forward(tensor(&x, [N, 20], &device)).expect("a pass");
            let (packed, found) = (host_of(pass.packed), pass.report);
            same(&packed[..N * 20], host.last_output());
            same(&packed[N * 20..], &[report.loss.codebook as f32, report.loss.commitment as f32]);
            assert_eq!((found.loss, found.rows), (report.loss, report.rows));
            let codes = pass.codes.into_data().to_vec::<i32>().expect("i32");
            assert!(codes.iter().map(|&k| k as u32).eq(host.last_codes().iter().copied()));

            host.backward(&cpu, rows, &gradient, terms).expect("a backward");
            let packed = [&gradient[..], &[0.5, 0.25]].concat();
            let found = there.lock().backward(pass.number, tensor(&packed, [N * 20 + 2], &device)).expect("a backward");
            same(&host_of(found), host.last_input_gradient());

            let active = host.collect_statistics(&cpu, host.exponent().expect("a pass")).expect("statistics");
            let restart = host.update(&cpu).expect("an update");
            let found = there.update().expect("an update");
            assert_eq!((found.active, found.restart), (active, restart));
            restarted += restart.restarted;
            host.apply(&cpu, |_| ()).expect("nothing that can fail");
            there.with(|there, stream| there.refresh_codes(stream)).expect("codes");
        }
        assert!(restarted > 0);
        let mut x = values(77, N * 20);
        x[43] = f32::NAN;
        let mut codes = vec![0; N];
        host.encode(&cpu, MatRef::new(&x, N, 20).expect("shapes"), None, &mut codes).expect("shapes");
        assert_eq!(codes[2], NO_CODE);
        let found = there.encode(tensor(&x, [N, 20], &device)).expect("codes");
        let numbers = found.clone().into_data().to_vec::<i32>().expect("i32");
        assert!(numbers.iter().map(|&k| k as u32).eq(codes.iter().copied()));
        let mut output = vec![0.0; N * 20];
        host.decode(&cpu, &codes, MatMut::new(&mut output, N, 20).expect("shapes")).expect("codes");
        same(&host_of(there.decode(found).expect("rows")), &output);
    }
}

/// What a loss is made of, and its derivatives on their way, are burn's own kernels here.
#[test]
fn graphs_have_the_hosts_bits() {
    let Some(device) = device() else { return };
    for config in configs() {
        let host = Quantizer::new(config, Initial::Normal).expect("a quantizer");
        let there = DeviceVectorQuantizer::new(&device, &host, N).expect("a device");
        let here = VectorQuantizer::new(host);
        for step in 0..3 {
            let (x, mut weights) = (values(step, N * 20), values(50 + step, N * 20));
            if step == 1 {
                // An overflow, as loss scaling looks for it.
                weights[3 * 20 + 4] = f32::INFINITY;
            }
            let rows = Tensor::<Autodiff<Cuda>, 2>::from_inner(tensor(&x, [N, 20], &device)).require_grad();
            let quantized = there.forward(rows.clone()).expect("a pass");
            let weighed = quantized.output * Tensor::from_inner(tensor(&weights, [N, 20], &device));
            let loss = weighed.sum() + quantized.commitment_loss * 0.25 + quantized.codebook_loss * 0.5;
            let found = host_of(rows.grad(&loss.backward()).expect("a gradient"));

            let there_and_here = TensorData::new(x, [N, 20]);
            let rows = Tensor::<Autodiff<Flex>, 2>::from_data(there_and_here, &Default::default()).require_grad();
            let quantized = here.forward(rows.clone()).expect("a pass");
            let weighed = quantized.output * Tensor::from_data(TensorData::new(weights, [N, 20]), &Default::default());
            let loss = weighed.sum() + quantized.commitment_loss * 0.25 + quantized.codebook_loss * 0.5;
            let expected = rows.grad(&loss.backward()).expect("a gradient").into_data().to_vec::<f32>().expect("f32");
            assert!(found.iter().zip(&expected).all(|(a, b)| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan())));
            assert_eq!(found.iter().any(|x| x.is_nan()), step == 1);
            let (found, expected) = (there.update().expect("an update"), here.update().expect("an update"));
            assert_eq!((found.active, found.restart), (expected.active, expected.restart));
            there.with(|there, stream| there.refresh_codes(stream)).expect("codes");
            here.apply(|_| ()).expect("nothing that can fail");
        }
    }
}

#[test]
fn calls_out_of_turn_are_told() {
    let Some(device) = device() else { return };
    let host = Quantizer::new(configs()[0], Initial::Normal).expect("a quantizer");
    let there = DeviceVectorQuantizer::new(&device, &host, N).expect("a device");
    let rows = || tensor(&values(1, N * 20), [N, 20], &device);
    let tracked = || Tensor::<Autodiff<Cuda>, 2>::from_inner(rows()).require_grad();
    let out_of_turn = |found: Result<Report>| assert!(matches!(found, Err(Error::Order { .. })), "{found:?}");
    out_of_turn(there.update());
    // A pass whose results are dropped stands in nobody's way, and without a backward the configuration's weights count.
    drop(there.forward(tracked()).expect("a pass"));
    drop(there.forward(tracked()).expect("a pass"));
    assert!(there.update().expect("an update").active > 0);
    out_of_turn(there.update());
    // A backward after its pass was ended gives NaN, and the next call says why; then all goes on.
    for by_encoding in [true, false] {
        let x = tracked();
        let output = there.forward(x.clone()).expect("a pass").output;
        match by_encoding {
            true => drop(there.encode(rows()).expect("codes")),
            false => drop(there.forward(tracked()).expect("a pass")),
        }
        let gradient = x.grad(&output.sum().backward()).expect("a gradient");
        assert!(host_of(gradient).iter().all(|x| x.is_nan()));
        out_of_turn(there.update());
        out_of_turn(there.update());
    }
    there.encode(rows()).expect("codes");
    // What is no number in a term's derivative shows at the rows.
    let x = tracked();
    let quantized = there.forward(x.clone()).expect("a pass");
    let gradient = x.grad(&(quantized.codebook_loss * f32::INFINITY).backward()).expect("a gradient");
    assert!(host_of(gradient).iter().all(|x| x.is_nan()));
    assert!(there.update().is_ok());
    let narrow = there.lock().forward(tensor(&values(1, N * 19), [N, 19], &device)).map(drop);
    assert!(matches!(narrow, Err(Error::Shape { expected: 20, got: 19, .. })));
    let many = there.lock().forward(tensor(&values(1, N * 40), [2 * N, 20], &device)).map(drop);
    assert!(matches!(many, Err(Error::TooLarge { .. })));
    out_of_turn(there.update());
}

/// The kernels wait for what another thread does to the rows, whose queue is its own.
#[test]
fn rows_of_another_thread_are_waited_for() {
    let Some(device) = device() else { return };
    let host = Quantizer::new(configs()[0], Initial::Normal).expect("a quantizer");
    let there = DeviceVectorQuantizer::new(&device, &host, N).expect("a device");
    let x = values(9, N * 20);
    let doubled: Vec<f32> = x.iter().map(|x| x * 2.0).collect();
    // A single row of N · 20 has no gaps, so nothing that `encode` itself does touches it before the kernels.
    let made = std::thread::scope(|scope| {
        let make = || (tensor(&x, [N * 20], &device) * 2.0).reshape([N, 20]);
        scope.spawn(make).join().expect("no panic")
    });
    let found = there.encode(made).expect("codes").into_data().to_vec::<i32>().expect("i32");
    let mut expected = vec![0; N];
    host.encode(&Cpu::new(), MatRef::new(&doubled, N, 20).expect("shapes"), None, &mut expected).expect("shapes");
    assert_eq!(found.iter().map(|&k| k as u32).collect::<Vec<_>>(), expected);
}
