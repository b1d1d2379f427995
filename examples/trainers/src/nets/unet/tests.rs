//! Tests of the UNet: its costs, its shapes, and what it is conditioned on. Against PyTorch: `tests/parity.rs`.

use super::*;
use crate::backend::{Host, HostTrain};
use crate::nets::macs::table::diffusion;
use crate::params::{cast, counts, host, load, settle, tensors};
use burn::tensor::FloatDType;

fn tiny() -> UnetConfig {
    UnetConfig {
        condition: 5,
        base: 8,
        multipliers: vec![1, 2, 2],
        res_blocks: 1,
        attention: vec![4],
        ..UnetConfig::four_m(3)
    }
}

fn ramp<B: Backend>(shape: [usize; 4]) -> Tensor<B, 4> {
    let values: Vec<f32> = (0..shape.iter().product()).map(|i| ((i * 37 % 101) as f32) / 50.0 - 1.0).collect();
    Tensor::from_data(TensorData::new(values, shape), &Default::default())
}

/// A network whose zeros were trained away.
fn trained<B: Backend>(config: &UnetConfig) -> Unet<B> {
    let net = settle(config.init::<B>(&Default::default()), 3);
    let mut values = tensors(&net);
    for tensor in values.values_mut().filter(|tensor| tensor.values.iter().all(|&value| value == 0.0)) {
        let scale = 1.0 / (tensor.values.len() as f32).sqrt();
        tensor.values.iter_mut().enumerate().for_each(|(i, value)| *value = scale * (i as f32 * 0.7).sin());
    }
    load(net, |name| Ok(values[name].clone())).expect("its own shapes")
}

/// Parameters, and multiply-accumulates of convolutions, linear layers and attention, added up layer by layer from the recipe alone:
/// (in, out, kernel, side) of each convolution, and so on.
fn by_hand(colours: u64, condition: u64) -> [u64; 5] {
    let [mut weights, mut norms, mut convs, mut linears, mut attentions] = [0; 5];
    let mut conv = |from: u64, to: u64, kernel: u64, side: u64| {
        weights += from * to * kernel * kernel + to;
        convs += from * to * kernel * kernel * side * side;
    };
    let mut time_weights = 0;
    let mut linear = |from: u64, to: u64| {
        time_weights += from * to + to;
        linears += from * to;
    };
    linear(256, 1024);
    linear(1024, 1024);
    let mut block = |from: u64, to: u64, side: u64, conv: &mut dyn FnMut(u64, u64, u64, u64)| {
        conv(from, to, 3, side);
        conv(to, to, 3, side);
        if from != to {
            conv(from, to, 1, side);
        }
        linear(1024, to);
        norms += 2 * (from + to);
    };
    let mut attention = |width: u64, side: u64, conv: &mut dyn FnMut(u64, u64, u64, u64)| {
        conv(width, 4 * width, 1, side);
        attentions += 2 * side.pow(4) * width;
        2 * width
    };
    let mut more_norms = 512;
    conv(16 * colours + condition, 256, 3, 56);
    // Down: what comes, what goes, the side, attention or not.
    for (from, to, side, attends) in
        [(256, 256, 56, false), (256, 512, 28, false), (512, 512, 14, true), (512, 512, 7, true)]
    {
        for i in 0..3 {
            block(if i == 0 { from } else { to }, to, side, &mut conv);
            if attends {
                more_norms += attention(to, side, &mut conv);
            }
        }
        if side > 7 {
            conv(to, to, 3, side / 2);
        }
    }
    block(512, 512, 7, &mut conv);
    more_norms += attention(512, 7, &mut conv);
    block(512, 512, 7, &mut conv);
    // Up: each block's inputs, with what came over from the way down.
    let up = [
        (7, 512, [512 + 512; 4], true),
        (14, 512, [512 + 512; 4], true),
        (28, 512, [512 + 512, 512 + 512, 512 + 512, 512 + 256], false),
        (56, 256, [512 + 256, 256 + 256, 256 + 256, 256 + 256], false),
    ];
    for (side, to, inputs, attends) in up {
        for from in inputs {
            block(from, to, side, &mut conv);
            if attends {
                more_norms += attention(to, side, &mut conv);
            }
        }
        if side < 56 {
            conv(to, to, 3, 2 * side);
        }
    }
    conv(256, 16 * colours, 3, 56);
    [weights + time_weights, norms + more_norms, convs, linears, attentions]
}

#[test]
fn the_published_unet_costs_what_its_layers_cost() {
    for colours in [1, 3] {
        let config = UnetConfig::four_m(colours);
        config.check(224).expect("published");
        let net = config.init::<Host>(&Default::default());
        let mut cost = Cost::default();
        assert_eq!(net.cost([224, 224], &mut cost), [224, 224]);
        let found = [cost.weights, cost.norms, cost.conv_macs, cost.linear_macs, cost.attention_macs];
        assert_eq!(found, by_hand(colours as u64, 32), "{colours} colours");
        assert_eq!(cost.parameters() as usize, counts(&net).values().sum::<usize>());
    }
    // The notes' own count for RGB: 196.4 M, 95.0 GMAC without attention's products.
    assert_eq!(by_hand(3, 32), [196_266_288, 83_968, 94_989_189_120, 15_204_352, 295_034_880]);
    let rows = diffusion();
    assert_eq!([rows[0].parameters, rows[1].parameters].map(|count| (count + 50_000) / 100_000), [904, 1964]);
    assert_eq!(rows[1].parameters, 196_350_256);
    assert_eq!((rows[0].macs + 50_000_000) / 100_000_000, 184);
}

#[test]
fn images_of_224_pixels_are_56_by_56_patches_of_48_values() {
    let patches = patchify(ramp::<Host>([1, 3, 224, 224]), UnetConfig::four_m(3).patch);
    assert_eq!(patches.dims(), [1, 48, 56, 56]);
    assert_eq!(host(unpatchify(patches, 4)), host(ramp::<Host>([1, 3, 224, 224])), "there and back");
}

#[test]
fn an_untrained_network_returns_zeros_of_its_outputs() {
    for learned_variance in [false, true] {
        let config = UnetConfig { learned_variance, ..tiny() };
        config.check(32).expect("sizes that fit");
        let net = settle(config.init::<Host>(&Default::default()), 1);
        let output = net.forward(ramp([2, 3, 32, 32]), &[0, 999], ramp([2, 5, 2, 2]));
        assert_eq!(output.dims(), [2, if learned_variance { 6 } else { 3 }, 32, 32]);
        assert!(host(output).iter().all(|&value| value == 0.0));
    }
}

#[test]
fn the_output_depends_on_image_step_and_codes_of_its_own_sample() {
    let net = trained::<Host>(&tiny());
    let (xt, codes) = (ramp::<Host>([2, 3, 16, 16]), ramp::<Host>([2, 5, 2, 2]));
    let whole = host(net.forward(xt.clone(), &[3, 700], codes.clone()));
    let half = |values: &[f32], i: usize| values[i * 768..(i + 1) * 768].to_vec();
    let near = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-4);
    // One at a time: the same.
    for (i, t) in [3, 700].into_iter().enumerate() {
        let alone = net.forward(xt.clone().narrow(0, i, 1), &[t], codes.clone().narrow(0, i, 1));
        assert!(near(&host(alone), &half(&whole, i)));
    }
    let changed = [
        net.forward(xt.clone(), &[3, 701], codes.clone()),
        net.forward(xt.clone(), &[3, 700], without(codes.clone(), &[false, true])),
        net.forward(Tensor::cat(vec![xt.clone().narrow(0, 0, 1), xt.narrow(0, 1, 1) * 0.5], 0), &[3, 700], codes),
    ];
    for changed in changed.map(host) {
        assert!(near(&half(&changed, 0), &half(&whole, 0)) && !near(&half(&changed, 1), &half(&whole, 1)));
    }
}

#[test]
fn codes_are_dropped_whole() {
    let codes = ramp::<Host>([3, 2, 1, 2]);
    let dropped = host(without(codes.clone(), &[false, true, false]));
    let all = host(codes.clone());
    assert!(dropped[4..8].iter().all(|&value| value == 0.0));
    assert_eq!((&dropped[..4], &dropped[8..]), (&all[..4], &all[8..]));
    assert_eq!(host(without(codes, &[false; 3])), all);
}

#[test]
fn steps_are_cosines_then_sines() {
    let found: Vec<f32> = embedding(7, 4).collect();
    let expected = [7.0_f64.cos(), 0.07_f64.cos(), 7.0_f64.sin(), 0.07_f64.sin()];
    assert!(found.iter().zip(expected).all(|(found, expected)| (f64::from(*found) - expected).abs() < 1e-6));
}

#[test]
fn it_trains_in_half_precision() {
    let net = cast(trained::<HostTrain>(&tiny()), FloatDType::BF16);
    let output = net.forward(ramp([1, 3, 16, 16]), &[500], ramp([1, 5, 2, 2]));
    assert_eq!(output.dtype(), DType::F32, "the type that came");
    let wide = trained::<HostTrain>(&tiny()).forward(ramp([1, 3, 16, 16]), &[500], ramp([1, 5, 2, 2]));
    let (found, expected) = (host(output.clone()), host(wide));
    let norm = |values: &mut dyn Iterator<Item = f32>| values.map(|x| x * x).sum::<f32>().sqrt();
    let off = norm(&mut found.iter().zip(&expected).map(|(a, b)| a - b));
    assert!(off < 0.05 * norm(&mut expected.iter().copied()), "{off}");
    assert!(net.conv_in.weight.grad(&output.square().mean().backward()).is_some());
}

#[test]
fn sizes_that_do_not_fit_are_refused() {
    let refused = |config: UnetConfig, size| config.check(size).expect_err("refused").to_string();
    assert!(refused(UnetConfig { base: 0, ..tiny() }, 32).contains("`base`"));
    assert!(refused(UnetConfig { base: 7, ..tiny() }, 32).contains("multiple of 2"));
    assert!(refused(UnetConfig { multipliers: vec![], ..tiny() }, 32).contains("`multipliers`"));
    assert!(refused(UnetConfig { multipliers: vec![1, 0], ..tiny() }, 32).contains("contain 0"));
    assert!(refused(UnetConfig { base: 1 << 40, ..tiny() }, 32).contains("choose fewer"));
    assert!(refused(tiny(), 24).contains("multiple of 16"));
    assert!(UnetConfig::four_m(3).check(224).is_ok() && UnetConfig::four_m(3).check(448).is_ok());
}
