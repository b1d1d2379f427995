//! Whole training steps, on the CPU and on the device, bit by bit.

use vq_kernels::cuda::quantizer::{DeviceQuantizer, DeviceState, REPORT_WORDS, decode_report};
use vq_kernels::cuda::{DeviceMatMut, DeviceMatRef, DeviceMut, DeviceRef};
use vq_kernels::ops::restart::Rule;
use vq_kernels::quantizer::{Config, Estimator, Initial, Learner, Loss, Quantizer, Report, StateRef, Update};
use vq_kernels::{Cpu, Error, MatRef, NO_CODE, Result};

use crate::common::{assert_same_bits, assert_same_bits64, mat, paint};
use crate::support::{Gpu, refused};

/// Rows in clusters, so that codes go stale, some of them not finite.
fn rows(count: usize, width: usize, step: u64) -> Vec<f32> {
    let (centres, noise) = (paint(5 * width, 1), paint(count * width, 100 + step));
    let mut x: Vec<f32> =
        (0..count * width).map(|i| centres[i / width % 5 * width + i % width] + 0.3 * noise[i]).collect();
    if step % 3 == 1 {
        x[2 * width] = f32::NAN;
        x[7 * width + width - 1] = f32::INFINITY;
        x[9 * width..10 * width].fill(0.0);
        x[11 * width..12 * width].iter_mut().for_each(|x| *x *= 1e-42);
    }
    x
}

/// The same quantizer here and there, for batches of up to `count` rows.
fn pair(gpu: &Gpu, config: Config, count: usize) -> (Quantizer, DeviceQuantizer<'static>) {
    let here = Quantizer::new(config, Initial::Normal).expect("a configuration");
    let memory = gpu.room(DeviceQuantizer::memory_len(gpu, &config, count).expect("a configuration"));
    let mut there = DeviceQuantizer::new(gpu, config, count, memory).expect("a configuration");
    let copy = |place: &mut DeviceMut<u8>, bytes: &[u8]| {
        gpu.write(place.address(), bytes);
        Ok(())
    };
    there.write(&here, copy).expect("the same configuration");
    there.refresh(gpu).expect("launches");
    (here, there)
}

/// Whether the layers that rows pass have no gradients.
fn layers_are_zeros(gpu: &Gpu, there: &DeviceQuantizer, config: &Config) -> bool {
    let mut layers = there.gradients().filter(|(name, _)| !name.starts_with("projector"));
    !config.factorize || layers.all(|(_, place)| gpu.read_ref(&place).iter().all(|g| g.to_bits() == 0))
}

/// Derivatives by the loss terms that no configuration here has.
const TERMS: Loss = Loss { codebook: 0.75, commitment: 0.375 };

/// A step in its parts; without a backward where there is no gradient for it.
fn parts_here(here: &mut Quantizer, x: MatRef, weights: Option<&[f32]>, target: Option<&[f32]>) -> Report {
    let cpu = Cpu::new();
    let mut report = here.forward(&cpu, x, weights).expect("a pass");
    if let Some(target) = target {
        here.backward(&cpu, x, target, TERMS).expect("a backward");
    }
    report.active = here.collect_statistics(&cpu, here.exponent().expect("a pass")).expect("statistics");
    report.restart = here.update(&cpu).expect("an update");
    report
}

/// The same there.
fn parts_there(
    gpu: &Gpu,
    there: &mut DeviceQuantizer,
    x: &DeviceMatRef,
    weights: Option<&DeviceRef<f32>>,
    target: Option<&[f32]>,
) {
    there.forward(gpu, x, weights).expect("a pass");
    if let Some(target) = target {
        let write = |_: &Gpu, gradient: &mut DeviceMatMut| -> Result<()> {
            gpu.write(gradient.data().address(), bytemuck::cast_slice(target));
            Ok(())
        };
        there.backward(gpu, x, weights, TERMS, write).expect("a backward");
    }
    there.update(gpu, x, weights).expect("an update");
}

pub fn twins(config: Config, count: usize, steps: u64) -> Gpu {
    let (gpu, cpu, width) = (Gpu::default(), Cpu::new(), config.inputs);
    let (mut here, mut there) = pair(&gpu, config, count);
    for step in 0..steps {
        // The last batch is a smaller one.
        let count = if step + 1 == steps { count / 2 } else { count };
        let x = rows(count, width, step);
        let weights: Vec<f32> = (0..count).map(|row| [1.0, 1.0, 0.25, 0.0][(row + step as usize) % 4]).collect();
        let weights = (step % 2 == 1).then_some(&weights[..]);
        // Not a function of the output, which is compared on its own.
        let target = paint(count * width, 200 + step);
        // Whole, or in parts, some of them without a backward.
        let (rows, apart, part_of) = (mat(&x, count, width), step / 2 % 2 == 1, (step % 4 != 3).then_some(&target[..]));
        let report = match apart {
            true => parts_here(&mut here, rows, weights, part_of),
            false => {
                let head = |_: MatRef, gradient: &mut [f32]| gradient.copy_from_slice(&target);
                here.train_step(&cpu, rows, weights, head).expect("a step")
            }
        };
        let (rows_there, device_weights) = (gpu.mat(&x, count, width), weights.map(|w| gpu.slice(w)));
        match apart {
            true => parts_there(&gpu, &mut there, &rows_there, device_weights.as_ref(), part_of),
            false => {
                let head = |_: &Gpu, output: &DeviceMatRef, gradient: &mut DeviceMatMut| -> Result<()> {
                    assert_eq!((output.rows(), output.cols()), (count, width));
                    gpu.write(gradient.data().address(), bytemuck::cast_slice(&target));
                    Ok(())
                };
                there.train_step(&gpu, &rows_there, device_weights.as_ref(), head).expect("a step");
            }
        }
        gpu.check().expect("nothing noted");
        let context = format!("step {step} of {config:?}");
        assert_eq!(gpu.read_ref(&there.last_codes()), here.last_codes(), "{context}");
        assert_same_bits(&gpu.read_ref(&there.last_output()), here.last_output(), &context);
        if !apart || part_of.is_some() {
            assert_same_bits(&gpu.read_ref(&there.last_input_gradient()), here.last_input_gradient(), &context);
        } else {
            assert!(there.last_input_gradient().is_empty(), "{context}");
            assert!(layers_are_zeros(&gpu, &there, &config), "{context}");
        }
        let words: [u64; REPORT_WORDS] = gpu.read_ref(&there.last_report()).try_into().expect("as many words");
        let found = decode_report(&words, config.dim);
        // The mean length is a report: of lengths in f32, and its sum has another order.
        assert!((found.mean_norm - report.mean_norm).abs() <= 1e-6 * report.mean_norm, "{context}");
        assert_eq!(
            (found.loss, found.rows, found.without_code, found.active, found.restart),
            (report.loss, report.rows, report.without_code, report.active, report.restart),
            "{context}"
        );
        let picks: Vec<(u32, u32)> = here.last_restarted().iter().map(|one| (one.code, one.row)).collect();
        let restarted = gpu.read_ref(&there.last_restarted().range(0, picks.len()));
        let found: Vec<(u32, u32)> = restarted.iter().map(|one| (one.code, one.row)).collect();
        assert_eq!(found, picks, "{context}");
        // -- gradients, as an optimizer sees them, and a step of it on both sides
        let layers: Vec<(&str, Vec<f64>)> =
            there.gradients().map(|(name, place)| (name, gpu.read_ref(&place))).collect();
        let (hits, rows) = {
            let (hits, rows) = there.last_code_gradients().expect("shapes");
            (gpu.read_ref(&hits), gpu.read_ref(rows.data()))
        };
        let learned = hits.iter().take_while(|&&k| k != NO_CODE).count();
        let mut visited = 0;
        here.gradients(|name, offset, expected| {
            let context = format!("{name}, {context}");
            match layers.iter().find(|(found, _)| *found == name) {
                Some((_, found)) => {
                    let found: Vec<f32> = found.iter().map(|&g| g as f32).collect();
                    assert_same_bits(&found, expected, &context);
                }
                None => {
                    assert_eq!(hits[visited] as usize * config.dim, offset, "{context}");
                    assert_same_bits(&rows[visited * config.dim..][..config.dim], expected, &context);
                    visited += 1;
                }
            }
        });
        assert_eq!(visited, learned, "{context}");
        let optimized = |values: &mut [f32], gradient: &[f32]| {
            values.iter_mut().zip(gradient).for_each(|(value, g)| *value -= 0.05 * g);
        };
        // Codes that were hit are known whatever is encoded meanwhile.
        there.encode(&gpu, &rows_there, None, &mut gpu.room(count)).expect("codes");
        let read = |from: &DeviceRef<u8>, to: &mut [u8]| {
            to.copy_from_slice(&gpu.bytes(from.address(), to.len()));
            Ok(())
        };
        let write = |to: &mut DeviceMut<u8>, from: &[u8]| {
            gpu.write(to.address(), from);
            Ok(())
        };
        let mut updates = Vec::new();
        let optimize = |update: Update| {
            updates.push((update.name, update.offset));
            optimized(update.values, update.gradient);
        };
        there.apply_by(&gpu, read, write, optimize).expect("launches");
        let mut expected = Vec::new();
        here.apply(&cpu, |update| {
            expected.push((update.name, update.offset));
            optimized(update.values, update.gradient);
        })
        .expect("nothing that can fail");
        assert_eq!(updates, expected, "{context}");
        // They are used up.
        there.apply_by(&gpu, read, write, |update| panic!("{}, {context}", update.name)).expect("launches");
        same_state(&gpu, &mut there, &here, &context);
    }
    // -- encode and decode, in more rows than a step may have
    let x = rows(2 * count + 3, width, 77);
    let mut codes = vec![0; 2 * count + 3];
    here.encode(&cpu, mat(&x, codes.len(), width), None, &mut codes).expect("shapes");
    let mut found = gpu.room(codes.len());
    there.encode(&gpu, &gpu.mat(&x, codes.len(), width), None, &mut found).expect("shapes");
    assert_eq!(gpu.read(&found), codes);
    let mut output = vec![0.0; x.len()];
    here.decode(&cpu, &codes, crate::common::mat_mut(&mut output, codes.len(), width)).expect("shapes");
    let mut device_output = gpu.mat_room(codes.len(), width);
    there.decode(&gpu, &found.as_ref(), &mut device_output).expect("shapes");
    assert_same_bits(&gpu.read_mat(&mut device_output), &output, "decoded");
    // -- and back
    let mut back = Quantizer::new(config, Initial::Normal).expect("a configuration");
    let copy = |place: &DeviceRef<u8>, bytes: &mut [u8]| {
        bytes.copy_from_slice(&gpu.bytes(place.address(), bytes.len()));
        Ok(())
    };
    there.read(&mut back, copy).expect("a state");
    same_state(&gpu, &mut there, &back, "read back");
    assert_eq!(back.step(), steps);
    gpu
}

fn same_state(gpu: &Gpu, there: &mut DeviceQuantizer, here: &Quantizer, context: &str) {
    let state = here.state();
    for (name, place) in there.state_mut() {
        let context = format!("{name}, {context}");
        match (place, state.iter().find(|(found, _)| *found == name).map(|(_, values)| *values)) {
            (DeviceState::F32(place), Some(StateRef::F32(values))) => {
                assert_same_bits(&gpu.read(&place), values, &context)
            }
            (DeviceState::F64(place), Some(StateRef::F64(values))) => {
                assert_same_bits64(&gpu.read(&place), values, &context);
            }
            (DeviceState::U64(place), Some(StateRef::U64(values))) => {
                assert_eq!(gpu.read(&place), values, "{context}");
            }
            _ => panic!("{context}: no such tensor"),
        }
    }
    assert_eq!(there.state_mut().len(), state.len(), "{context}");
}

fn config() -> Config {
    // Patience of half a hit: codes are judged within the test.
    let rule = Rule { patience: 0.5, ..Rule::default() };
    Config { inputs: 20, dim: 6, codes: 300, restart: Some(rule), ..Config::default() }
}

#[test]
fn moving_averages_factorized() {
    twins(config(), 70, 8);
}

#[test]
fn moving_averages_plain_with_rotation() {
    twins(Config { inputs: 9, dim: 9, factorize: false, estimator: Estimator::Rotation, ..config() }, 70, 6);
}

#[test]
fn frozen_and_more_rows_than_a_block() {
    let config = Config { learner: Learner::Frozen, restart: None, estimator: Estimator::Rotation, ..config() };
    twins(Config { codes: 40, dim: 4, inputs: 7, ..config }, 1100, 3);
}

#[test]
fn moving_averages_by_distance() {
    twins(Config { normalize: false, ..config() }, 70, 5);
    twins(Config { normalize: false, inputs: 6, factorize: false, ..config() }, 70, 5);
}

#[test]
fn codes_by_gradient() {
    let config = Config { learner: Learner::Gradient, ..config() };
    twins(config, 70, 6).assert_all_ran("quantizer");
    twins(Config { normalize: false, inputs: 6, factorize: false, ..config }, 70, 5);
}

#[test]
fn projected_centres() {
    let config = Config { learner: Learner::Projector { source_dim: 11 }, restart: None, ..config() };
    twins(config, 70, 4);
    twins(Config { normalize: false, codes: 90, ..config }, 1100, 3);
}

/// Rows are told by their place in the whole batch, whatever part they are worked on in.
#[test]
fn the_status_names_rows_of_the_whole_batch() {
    let (gpu, cpu) = (Gpu::default(), Cpu::new());
    for config in [config(), Config { inputs: 6, factorize: false, ..config() }] {
        let (here, mut there) = pair(&gpu, config, 10);
        let (count, width) = (35, config.inputs);
        let x = paint(count * width, 1);
        for bad in [3, 10, 34] {
            let mut weights = vec![1.0; count];
            weights[bad] = 1.5;
            let expected = here.encode(&cpu, mat(&x, count, width), Some(&weights), &mut vec![0; count]);
            assert!(matches!(expected, Err(Error::Value { index, .. }) if index == bad), "{expected:?}");
            let (view, weights) = (gpu.mat(&x, count, width), gpu.slice(&weights));
            there.encode(&gpu, &view, Some(&weights), &mut gpu.room(count)).expect("shapes");
            assert_eq!(gpu.check(), expected);
            let mut codes = vec![7; count];
            codes[bad] = 300;
            let mut output = vec![0.0; count * width];
            let expected = here.decode(&cpu, &codes, crate::common::mat_mut(&mut output, count, width));
            assert!(matches!(expected, Err(Error::CodeOutOfRange { row, .. }) if row == bad), "{expected:?}");
            there.decode(&gpu, &gpu.slice(&codes), &mut gpu.mat_room(count, width)).expect("shapes");
            assert_eq!(gpu.check(), expected);
        }
    }
}

#[test]
fn bad_input_is_refused() {
    let gpu = Gpu::default();
    let frozen = Config { learner: Learner::Frozen, ..config() };
    for config in [frozen, Config { codes: 0, ..config() }, Config { decay: 1.5, ..config() }] {
        refused(DeviceQuantizer::memory_len(&gpu, &config, 10).map(drop));
    }
    refused(DeviceQuantizer::memory_len(&gpu, &config(), 0).map(drop));
    refused(DeviceQuantizer::memory_len(&gpu, &config(), usize::MAX).map(drop));
    let len = DeviceQuantizer::memory_len(&gpu, &config(), 10).expect("a configuration");
    refused(DeviceQuantizer::new(&gpu, config(), 10, gpu.room(len - 1)).map(drop));
    let mut quantizer = DeviceQuantizer::new(&gpu, config(), 10, gpu.room(len)).expect("a configuration");
    let other = Quantizer::new(Config { codes: 299, ..config() }, Initial::Normal).expect("a configuration");
    refused(quantizer.write(&other, |_, _| Ok(())));
    let head = |_: &Gpu, _: &DeviceMatRef, _: &mut DeviceMatMut| Ok(());
    refused(quantizer.train_step(&gpu, &gpu.mat(&[0.0; 11 * 20], 11, 20), None, head));
    refused(quantizer.train_step(&gpu, &gpu.mat(&[0.0; 10 * 19], 10, 19), None, head));
    refused(quantizer.train_step(&gpu, &gpu.mat(&[0.0; 200], 10, 20), Some(&gpu.slice(&[1.0; 9])), head));
    quantizer.train_step(&gpu, &gpu.mat(&[], 0, 20), None, head).expect("no rows");
    let (x, write) = (gpu.mat(&[0.0; 200], 10, 20), |_: &Gpu, _: &mut DeviceMatMut| Ok(()));
    // Parts of a step have an order.
    let out_of_turn = |found: Result<()>| assert!(matches!(found, Err(Error::Order { .. })), "{found:?}");
    let (_, mut quantizer) = pair(&gpu, config(), 10);
    out_of_turn(quantizer.backward(&gpu, &x, None, TERMS, write));
    out_of_turn(quantizer.update(&gpu, &x, None));
    quantizer.forward(&gpu, &x, None).expect("a pass");
    refused(quantizer.backward(&gpu, &gpu.mat(&[0.0; 180], 9, 20), None, TERMS, write));
    refused(quantizer.backward(&gpu, &x, None, Loss { codebook: f64::NAN, ..TERMS }, write));
    let weights = gpu.slice(&[1.0; 10]);
    out_of_turn(quantizer.update(&gpu, &x, Some(&weights)));
    let failing = |_: &Gpu, _: &mut DeviceMatMut| Err(Error::Empty { op: "a head", arg: "of some framework" });
    refused(quantizer.backward(&gpu, &x, None, TERMS, failing));
    quantizer.encode(&gpu, &x, None, &mut gpu.room(10)).expect("codes");
    out_of_turn(quantizer.update(&gpu, &x, None));
    quantizer.forward(&gpu, &gpu.mat(&[], 0, 20), None).expect("no rows");
    quantizer.update(&gpu, &gpu.mat(&[], 0, 20), None).expect("no rows");
    out_of_turn(quantizer.update(&gpu, &gpu.mat(&[], 0, 20), None));
    // A step of no rows tells nothing again.
    quantizer
        .train_step(&gpu, &x, None, |_, _, to| {
            gpu.fill(to, &[1.0; 200]);
            Ok(())
        })
        .expect("a step");
    quantizer.train_step(&gpu, &gpu.mat(&[], 0, 20), None, head).expect("no rows");
    assert!(gpu.read_ref(&quantizer.last_report()).iter().all(|&word| word == 0));
    assert!(layers_are_zeros(&gpu, &quantizer, &config()));
    refused(quantizer.encode(&gpu, &gpu.mat(&[0.0f32; 20], 1, 20), None, &mut gpu.room(2)));
    refused(quantizer.decode(&gpu, &gpu.slice(&[1, 2]), &mut gpu.mat_room(3, 20)));
}
