//! Tests of the codes that are seen by attention.

use super::*;
use crate::backend::{Host, HostTrain};
use crate::params::{HostTensor, host, load_named, settle, tensors};

/// Numbers that any program can make, of about ±1.
fn formula(count: usize, factor: usize, modulus: usize) -> Vec<f32> {
    (0..count).map(|i| (i * factor % modulus) as f32 / modulus as f32 * 2.0 - 1.0).collect()
}

const CONFIG: MemcodesConfig = MemcodesConfig { dim: 6, codes: 5, heads: 2, temperature: 1.0 };

/// Codes and maps from formulas.
fn known<B: Backend>() -> Memcodes<B> {
    let net = settle(CONFIG.init::<B>(&Default::default()), 1);
    let mut named = tensors(&net);
    for (at, (_, tensor)) in named.iter_mut().enumerate() {
        let values = formula(tensor.values.len(), 7 + 2 * at, 31 + 6 * at);
        *tensor = HostTensor { values, shape: tensor.shape.clone() };
    }
    load_named(net, &named, "codes").expect("the same shapes")
}

fn rows<B: Backend>(n: usize) -> Tensor<B, 2> {
    Tensor::from_data(TensorData::new(formula(n * 6, 5, 29), [n, 6]), &Default::default())
}

#[test]
fn codes_and_values_are_pytorchs() {
    let net = known::<Host>();
    let codes = net.encode(rows(4)).expect("rows of 6");
    assert_eq!(codes, CODES);
    let output = host(net.decode(&codes, &Default::default()).expect("codes that exist"));
    for (at, expected) in VALUES.into_iter().enumerate() {
        assert!((output[at] - expected).abs() < 1e-5, "{at}: {} for {expected}", output[at]);
    }
}

// PyTorch 2 in f64: the same formulas for parameters by sorted name.
const CODES: [u32; 8] = [1, 1, 4, 1, 4, 1, 4, 1];
const VALUES: [f32; 6] = [0.024_756_1, -1.373_593_4, 0.324_831_3, 0.726_931_7, 0.018_754_7, -0.624_906_2];

#[test]
fn a_training_pass_has_the_values_of_its_codes_and_pytorchs_gradients() {
    let net = known::<HostTrain>();
    let leaf = rows::<HostTrain>(4).require_grad();
    let passed = net.forward(leaf.clone(), Noise { seed: 1, step: 2 }).expect("rows of 6");
    let decoded = net.decode(&passed.codes, &Default::default()).expect("codes that exist");
    assert_eq!(host(passed.output.clone()), host(decoded));
    let weights = Tensor::from_data(TensorData::new(formula(24, 11, 23), [4, 6]), &Default::default());
    let gradients = (passed.output * weights).sum().backward();
    let found = [
        host(leaf.grad(&gradients).expect("of rows")),
        host(net.codes.val().grad(&gradients).expect("of codes")),
        host(net.to_k.val().grad(&gradients).expect("of keys")),
        host(net.to_v.val().grad(&gradients).expect("of values")),
    ];
    // By the definition, in f64: S softmax weights, C chosen codes, W the loss's weights.
    let expected = by_definition(&passed.codes);
    for (found, expected) in found.iter().zip(&expected) {
        let largest = expected.iter().fold(0.0_f64, |most, v| most.max(v.abs()));
        assert!(largest > 0.0);
        for (found, expected) in found.iter().zip(expected) {
            assert!((f64::from(*found) - expected).abs() < 1e-5 * largest, "{found} for {expected}");
        }
    }
}

/// The gradients at rows, codes, keys' map and values' map of `Σ output · weights`, derived by hand.
fn by_definition(chosen: &[u32]) -> [Vec<f64>; 4] {
    let (n, heads, count, d) = (4, 2, 5, 3);
    let wide = |values: Vec<f32>| values.into_iter().map(f64::from).collect::<Vec<_>>();
    let named = tensors(&known::<Host>());
    let of = |name: &str| wide(named[name].values.clone());
    let (codes, to_k, to_v) = (of("codes"), of("to_k"), of("to_v"));
    let (x, weights) = (wide(formula(24, 5, 29)), wide(formula(24, 11, 23)));
    let noise = wide(gumbel(Noise { seed: 1, step: 2 }, [heads, n, count]).into_vec().expect("f32"));
    let (mut dx, mut dcodes) = (vec![0.0; 24], vec![0.0; codes.len()]);
    let (mut dk, mut dv) = (vec![0.0; to_k.len()], vec![0.0; to_v.len()]);
    let scale = 1.0 / (d as f64).sqrt();
    for (row, head) in (0..n).flat_map(|row| (0..heads).map(move |head| (row, head))) {
        let code = |j: usize, c: usize| codes[(head * count + j) * d + c];
        let mapped =
            |map: &[f64], j: usize, c: usize| (0..d).map(|i| code(j, i) * map[(head * d + i) * d + c]).sum::<f64>();
        let q = |c: usize| x[(row * heads + head) * d + c];
        let w = |c: usize| weights[(row * heads + head) * d + c];
        let logit = |j: usize| {
            (0..d).map(|c| q(c) * mapped(&to_k, j, c)).sum::<f64>() * scale + noise[(head * n + row) * count + j]
        };
        let best = (0..count).max_by(|&a, &b| logit(a).total_cmp(&logit(b))).expect("codes");
        assert_eq!(best as u32, chosen[row * heads + head]);
        let total: f64 = (0..count).map(|j| logit(j).exp()).sum();
        let soft = |j: usize| logit(j).exp() / total;
        // What the loss gains by each code's value.
        let gain = |j: usize| (0..d).map(|c| w(c) * mapped(&to_v, j, c)).sum::<f64>();
        let mean: f64 = (0..count).map(|j| soft(j) * gain(j)).sum();
        for j in 0..count {
            let dlogit = soft(j) * (gain(j) - mean) * scale;
            for c in 0..d {
                dx[(row * heads + head) * d + c] += dlogit * mapped(&to_k, j, c);
                for i in 0..d {
                    dk[(head * d + i) * d + c] += dlogit * q(c) * code(j, i);
                    dcodes[(head * count + j) * d + i] += dlogit * q(c) * to_k[(head * d + i) * d + c];
                }
            }
        }
        for (i, c) in (0..d).flat_map(|i| (0..d).map(move |c| (i, c))) {
            dv[(head * d + i) * d + c] += w(c) * code(best, i);
            dcodes[(head * count + best) * d + i] += w(c) * to_v[(head * d + i) * d + c];
        }
    }
    [dx, dcodes, dk, dv]
}

#[test]
fn noise_belongs_to_seed_and_step_and_is_gumbels() {
    let net = known::<Host>();
    let codes = |seed, step| net.forward(rows(40), Noise { seed, step }).expect("rows of 6").codes;
    assert_eq!(codes(1, 2), codes(1, 2));
    assert_ne!(codes(1, 2), codes(1, 3));
    assert_ne!(codes(1, 2), codes(2, 2));
    // Mean: Euler's constant; variance: π²/6; a step's rows do not repeat each other.
    let values: Vec<f32> = gumbel(Noise { seed: 3, step: 4 }, [2, 100, 1000]).into_vec().expect("f32");
    let mean = values.iter().copied().map(f64::from).sum::<f64>() / values.len() as f64;
    let variance = values.iter().map(|&g| (f64::from(g) - mean).powi(2)).sum::<f64>() / values.len() as f64;
    assert!((mean - 0.577_215_66).abs() < 0.01 && (variance - 1.644_934).abs() < 0.03, "{mean}, {variance}");
    assert_ne!(values[..1000], values[1000..2000]);
    assert_ne!(values[..1000], values[100_000..101_000]);
    // Of 200,000 draws the largest is about ln 200,000 = 12.2, and the smallest about −ln 12.2.
    let (least, most) = values.iter().fold((0.0_f32, 0.0_f32), |(least, most), &g| (least.min(g), most.max(g)));
    assert!((9.0..25.0).contains(&most) && (-3.5..-2.0).contains(&least), "{least}, {most}");
    assert!(values.iter().all(|value| value.is_finite()));
}

#[test]
fn without_noise_blocks_change_nothing() {
    let config = MemcodesConfig::new(8, 600_000, 4);
    let net = settle(config.init::<Host>(&Default::default()), 1);
    let rows = Tensor::<Host, 2>::from_data(TensorData::new(formula(80, 5, 29), [10, 8]), &Default::default());
    // 2.4 million logits a row: 6 rows to a block.
    let whole = net.encode(rows.clone()).expect("rows of 8");
    let one_by_one: Vec<u32> =
        (0..10).flat_map(|row| net.encode(rows.clone().slice(row..row + 1)).expect("a row of 8")).collect();
    assert_eq!(whole, one_by_one);
}

#[test]
fn what_does_not_fit_is_refused() {
    let message = |config: MemcodesConfig| config.check().expect_err("does not fit").to_string();
    assert!(CONFIG.check().is_ok());
    assert!(message(MemcodesConfig { heads: 4, ..CONFIG }).contains("a multiple of `heads`"));
    assert!(message(MemcodesConfig { heads: 0, ..CONFIG }).contains("`heads` is 0"));
    assert!(message(MemcodesConfig { temperature: f64::NAN, ..CONFIG }).contains("NaN"));
    assert!(message(MemcodesConfig::new(1024, 1 << 40, 16)).contains("fewer heads or codes"));
    let large = MemcodesConfig::new(1024, 8192, 16);
    assert!(large.check_rows(1024).is_ok());
    let failure = large.check_rows(1025).expect_err("too many rows").to_string();
    assert!(failure.contains("at most 1024 rows"), "{failure}");
    let (net, device) = (known::<Host>(), Default::default());
    let wrong = Tensor::<Host, 2>::zeros([2, 5], &device);
    assert!(net.encode(wrong.clone()).expect_err("5 values").to_string().contains("expected 6"));
    assert!(net.forward(wrong, Noise { seed: 0, step: 0 }).is_err());
    assert!(net.decode(&[0, 1, 2], &device).expect_err("half a row").to_string().contains("whole rows"));
    assert!(net.decode(&[0, 5], &device).expect_err("no code 5").to_string().contains("is 5, expected 0 to 4"));
    assert_eq!(net.decode(&[], &device).expect("no rows").dims(), [0, 6]);
    assert_eq!(net.encode(Tensor::zeros([0, 6], &device)).expect("no rows"), Vec::<u32>::new());
}
