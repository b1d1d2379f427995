//! On a device, or on the virtual driver (`.ci/device burn`); skipped, and said so, where there is neither. (No test of no rows:
//! burn 0.21 has no empty tensors on its CUDA backend.)

use burn::backend::{Autodiff, Flex};
use burn::tensor::{DType, TensorData};
use vq_kernels::quantizer::{Config, Initial, Learner};
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

fn values(seed: u32, len: usize) -> Vec<f32> {
    let mixed = |i: usize| (i as u32).wrapping_mul(2_654_435_761).wrapping_add(seed * 977) >> 9;
    (0..len).map(|i| mixed(i) as f32 / 4e6 - 1.0).collect()
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

/// Codes averaged and seen at fewer dimensions; codes learned by gradient, as they are.
fn configs() -> [Config; 2] {
    let averaged = Config { inputs: 20, dim: 6, codes: 70, ..Config::default() };
    let learned = Config {
        inputs: 20,
        dim: 20,
        codes: 30,
        factorize: false,
        normalize: false,
        learner: Learner::Gradient,
        ..averaged
    };
    [averaged, learned]
}

#[test]
fn passes_have_the_hosts_bits() {
    let Some(device) = device() else { return };
    let cpu = Cpu::new();
    for config in configs() {
        let mut host = Quantizer::new(config, Initial::Normal).expect("a quantizer");
        let there = DeviceVectorQuantizer::new(&device, &host, N).expect("a device");
        for step in 0..3 {
            let (x, gradient) = (values(step, N * 20), values(100 + step, N * 20));
            let rows = MatRef::new(&x, N, 20).expect("shapes");
            let terms = Loss { codebook: 0.5, commitment: 0.25 };
            let report = host.forward(&cpu, rows, None).expect("a pass");
            let found = there.lock().forward(tensor(&x, [N, 20], &device)).expect("a pass");
            let (packed, codes, found, ticket) = found;
            let packed = host_of(packed);
            same(&packed[..N * 20], host.last_output());
            same(&packed[N * 20..], &[report.loss.codebook as f32, report.loss.commitment as f32]);
            assert_eq!((found.loss, found.rows), (report.loss, report.rows));
            let codes = codes.into_data().to_vec::<i32>().expect("i32");
            assert!(codes.iter().map(|&k| k as u32).eq(host.last_codes().iter().copied()));

            host.backward(&cpu, rows, &gradient, terms).expect("a backward");
            let packed = [&gradient[..], &[0.5, 0.25]].concat();
            let found = there.lock().backward(tensor(&packed, [N * 20 + 2], &device)).expect("a backward");
            same(&host_of(found), host.last_input_gradient());
            drop(ticket);

            let active = host.collect_statistics(&cpu, host.exponent().expect("a pass")).expect("statistics");
            let restart = host.update(&cpu).expect("an update");
            let found = there.update().expect("an update");
            assert_eq!((found.active, found.restart), (active, restart));
            host.apply(&cpu, |_| ()).expect("nothing that can fail");
            there.with(|there, stream| there.refresh_codes(stream)).expect("codes");
        }
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
        let (x, weights) = (values(5, N * 20), values(6, N * 20));
        let rows = Tensor::<Autodiff<Cuda>, 2>::from_inner(tensor(&x, [N, 20], &device)).require_grad();
        let quantized = there.forward(rows.clone()).expect("a pass");
        let weighed = quantized.output * Tensor::from_inner(tensor(&weights, [N, 20], &device));
        let loss = weighed.sum() + quantized.commitment_loss * 0.25 + quantized.codebook_loss * 0.5;
        let gradients = loss.backward();
        let found = host_of(rows.grad(&gradients).expect("a gradient"));

        let rows =
            Tensor::<Autodiff<Flex>, 2>::from_data(TensorData::new(x, [N, 20]), &Default::default()).require_grad();
        let quantized = here.forward(rows.clone()).expect("a pass");
        let weighed = quantized.output * Tensor::from_data(TensorData::new(weights, [N, 20]), &Default::default());
        let loss = weighed.sum() + quantized.commitment_loss * 0.25 + quantized.codebook_loss * 0.5;
        let gradients = loss.backward();
        same(&found, &rows.grad(&gradients).expect("a gradient").into_data().to_vec::<f32>().expect("f32"));
        let (found, expected) = (there.update().expect("an update"), here.update().expect("an update"));
        assert_eq!((found.active, found.restart), (expected.active, expected.restart));
    }
}

#[test]
fn calls_out_of_turn_are_refused() {
    let Some(device) = device() else { return };
    let host = Quantizer::new(configs()[0], Initial::Normal).expect("a quantizer");
    let there = DeviceVectorQuantizer::new(&device, &host, N).expect("a device");
    let rows = || tensor(&values(1, N * 20), [N, 20], &device);
    let out_of_turn = |found: Error| assert!(matches!(found, Error::Order { .. }), "{found}");
    out_of_turn(there.update().expect_err("no pass"));
    let (_, codes, _, ticket) = there.lock().forward(rows()).expect("a pass");
    out_of_turn(there.lock().forward(rows()).map(drop).expect_err("a backward may come"));
    out_of_turn(there.encode(rows()).expect_err("a backward may come"));
    out_of_turn(there.decode(codes).expect_err("a backward may come"));
    out_of_turn(there.update().expect_err("a backward may come"));
    // Nobody wants its gradient any more: the configuration's weights count.
    drop(ticket);
    assert!(there.update().expect("an update").active > 0);
    out_of_turn(there.update().expect_err("it has been"));
    // What is no number in a term's derivative shows at the rows.
    let (.., ticket) = there.lock().forward(rows()).expect("a pass");
    let packed = [&values(2, N * 20)[..], &[f32::INFINITY, 0.0]].concat();
    let found = there.lock().backward(tensor(&packed, [N * 20 + 2], &device)).expect("a backward");
    assert!(host_of(found).iter().all(|x| x.is_nan()));
    drop(ticket);
    assert!(there.update().is_ok());
    let narrow = there.lock().forward(tensor(&values(1, N * 19), [N, 19], &device)).map(drop);
    assert!(matches!(narrow, Err(Error::Shape { expected: 20, got: 19, .. })));
    let many = there.lock().forward(tensor(&values(1, N * 40), [2 * N, 20], &device)).map(drop);
    assert!(matches!(many, Err(Error::TooLarge { .. })));
}
