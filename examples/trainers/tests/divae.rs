//! The program `train_divae`, run as a person runs it: what it writes, how it goes on after being killed, a frozen encoder, what it refuses.

mod program;

use std::fs;
use std::path::Path;

use burn::tensor::{Tensor, TensorData};
use clap::{Parser, ValueEnum};
use program::Program;
use trainers::backend::Host;
use trainers::common::random::SplitMix64;
use trainers::diffusion::Sampler;
use trainers::divae::config::Config;
use trainers::divae::options::Options;
use trainers::divae::presets::Preset;
use trainers::divae::tokenizer::Tokenizer;
use trainers::params::host;
use trainers::shell::Checkpoint;

const PATH: &str = env!("CARGO_BIN_EXE_train_divae");

/// A toy's options: a second or so.
const TOY: [&str; 8] = ["--preset", "tiny", "--scenes", "24", "--samples", "4", "--sampling-steps", "3"];

const TRAIN_DIVAE: Program = Program { path: PATH, toy: &TOY };

/// Without the toy's options.
const BARE: Program = Program { path: PATH, toy: &[] };

const TRAIN_VQVAE: Program = Program {
    path: env!("CARGO_BIN_EXE_train_vqvae"),
    toy: &["--preset", "tiny", "--modality", "rgb", "--scenes", "24"],
};

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

fn open(out: &Path) -> Tokenizer<Host> {
    Tokenizer::open(&out.join("checkpoint.safetensors"), None, Default::default()).expect("a checkpoint")
}

fn images(batch: usize, channels: usize) -> Tensor<Host, 4> {
    let mut random = SplitMix64::new(5);
    let values: Vec<f32> = (0..batch * channels * 256).map(|_| random.uniform(-1.0, 1.0)).collect();
    Tensor::from_data(TensorData::new(values, [batch, channels, 16, 16]), &Default::default())
}

#[test]
fn every_modality_trains_and_writes_all_its_files() {
    let directory = directory();
    for (modality, channels) in [("rgb", 3), ("normals", 3), ("depth", 1), ("edges", 1)] {
        let out = directory.path().join(modality);
        let summary = TRAIN_DIVAE.succeeds(&out, &["--modality", modality]);
        assert_eq!((summary["modality"].as_str(), summary["kind"].as_str()), (Some(modality), Some("divae")));
        let evaluation = &summary["evaluation"];
        for figure in ["psnr_db", "shuffled_psnr_db", "relative_loss", "colour_shift"] {
            assert!(evaluation[figure].as_f64().is_some_and(f64::is_finite), "{modality}: {figure} of {evaluation}");
        }
        for file in ["losses.svg", "utilization.svg", "counts.svg", "samples.png", "summary.json", "log.jsonl"] {
            assert!(fs::metadata(out.join(file)).is_ok_and(|about| about.len() > 0), "{file} of {modality}");
        }
        let tokenizer = open(&out);
        let (codes, grid) = tokenizer.encode(images(2, channels)).expect("samples that fit");
        assert_eq!((codes.len(), grid), (32, [2, 4, 4]));
        let drawn = tokenizer.decode(&codes, grid, &tokenizer.sampler(3, 1), 7).expect("codes that exist");
        assert_eq!(drawn.dims(), [2, channels, 16, 16]);
        // The second alone, by its number, is the same.
        let alone = tokenizer.decode(&codes[16..], [1, 4, 4], &tokenizer.sampler(3, 1), 8).expect("codes that exist");
        for (one, other) in host(alone).into_iter().zip(host(drawn.narrow(0, 1, 1))) {
            assert!((one - other).abs() < 1e-4, "{one} {other}");
        }
    }
}

#[test]
fn every_loss_trains() {
    let directory = directory();
    let cases: [&[&str]; 6] = [
        &["--variance", "hybrid", "--prediction", "epsilon", "--zero-terminal-snr", "false"],
        &["--variance", "hybrid"],
        &["--variance", "bound", "--prediction", "v", "--schedule", "squaredcos_cap_v2"],
        &["--prediction", "v", "--epsilon-loss", "--schedule", "shifted_cosine:0.5", "--guidance", "2"],
        &["--weight", "sqrt-snr", "--loss", "l1"],
        &["--amp", "--patch", "2"],
    ];
    for (number, arguments) in cases.iter().enumerate() {
        let summary = TRAIN_DIVAE.succeeds(&directory.path().join(number.to_string()), arguments);
        let losses = [&summary["evaluation"]["before"], &summary["evaluation"]["after"]];
        for losses in losses {
            assert!(losses["loss"].as_f64().is_some_and(f64::is_finite), "{arguments:?}: {losses}");
            let bits = losses["bits"]["total"].as_f64();
            assert_eq!(bits.is_some_and(f64::is_finite), arguments.contains(&"--variance"), "{arguments:?}: {losses}");
        }
    }
}

/// Killed at instants by lot and resumed: every step's line is the undisturbed run's, to the last bit.
#[test]
fn a_killed_run_goes_on_with_the_same_bits() {
    let directory = directory();
    TRAIN_DIVAE.goes_on_after(6, directory.path(), &["--variance", "hybrid"], 40);
}

/// What importance sampling remembers goes on as well.
#[test]
fn losses_of_steps_are_remembered_beyond_a_kill() {
    let directory = directory();
    TRAIN_DIVAE.goes_on_after(3, directory.path(), &["--variance", "bound", "--prediction", "v"], 40);
    let losses = |run: &str| {
        let path = directory.path().join(run).join("checkpoint.safetensors");
        let mut checkpoint = Checkpoint::open(&path).expect("a checkpoint");
        checkpoint.file().read::<u8>("diffusion_losses").expect("the losses")
    };
    assert_eq!(losses("killed"), losses("whole"));
    let remembered: usize = losses("whole").chunks(41).map(|of_step| usize::from(of_step[0])).sum();
    assert_eq!(remembered, 40 * 4, "of four samples at each of 40 steps");
}

#[test]
fn a_frozen_encoder_keeps_its_tokens() {
    let directory = directory();
    let (first, second, third) =
        (directory.path().join("first"), directory.path().join("second"), directory.path().join("third"));
    TRAIN_VQVAE.succeeds(&first, &[]);
    let encoder = first.display().to_string();
    let summary = TRAIN_DIVAE.succeeds(&second, &["--encoder", &encoder, "--prediction", "v", "--average", "0.5"]);
    assert_eq!(summary["frozen"].as_str(), Some("encoder and codes"));
    let path = first.join("checkpoint.safetensors");
    let vqvae = trainers::vqvae::tokenizer::Tokenizer::<Host>::open(&path, None, Default::default()).expect("a VQ-VAE");
    let (expected, _) = vqvae.encode(trainers::vqvae::model::Sample::Values(images(8, 3))).expect("tokens");
    let tokens = |out: &Path| open(out).encode(images(8, 3)).expect("tokens").0;
    assert_eq!(tokens(&second), expected);
    assert!(expected.iter().any(|&code| code != expected[0]), "more than one code");
    // A DiVAE's encoder as well, and of the same codes.
    let encoder = second.join("checkpoint.safetensors").display().to_string();
    TRAIN_DIVAE.succeeds(&third, &["--encoder", &encoder]);
    assert_eq!(tokens(&third), expected);
    let refusals: [(&[&str], &str); 4] = [
        (&["--encoder", &encoder, "--modality", "depth"], "takes 3 channels"),
        (&["--encoder", &encoder, "--codes", "64"], "leave out --codes"),
        (&["--encoder", "absent.safetensors"], "absent.safetensors"),
        (&["--preset", "4m-rgb-1k-predv-frozen-unet"], "give --encoder"),
    ];
    for (arguments, expected) in refusals {
        let program = if arguments[0] == "--preset" { BARE } else { TRAIN_DIVAE };
        let message = program.refuses(&directory.path().join("no"), arguments);
        assert!(message.contains(expected), "{arguments:?}: {message}");
    }
}

#[test]
fn what_does_not_fit_is_refused_in_words() {
    let directory = directory();
    let out = directory.path();
    let cases: [(&[&str], &str); 12] = [
        (&["--prediction", "epsilon"], "predict sample or v"),
        (&["--prediction", "v", "--weight", "snr"], "predict the sample"),
        (&["--epsilon-loss"], "predict v"),
        (&["--guidance", "2", "--drop-codes", "0"], "--drop-codes 0.1"),
        (&["--drop-codes", "1"], "below 1"),
        (&["--patch", "3"], "multiple of 6"),
        (&["--base", "7"], "multiple of 2"),
        (&["--sampling-steps", "0"], "give 1 to 1000"),
        (&["--samples", "0"], "at least 1"),
        (&["--commitment=-1"], "at least 0"),
        (&["--decay", "1"], "below 1"),
        (&["--resume"], "leave out --resume"),
    ];
    for (arguments, expected) in cases {
        // An option may be given once: the toy's own is left out.
        let toy: Vec<&str> = TOY.chunks(2).filter(|pair| !arguments.contains(&pair[0])).flatten().copied().collect();
        let message = BARE.refuses(out, &[&toy, arguments].concat());
        assert!(message.contains(expected), "{arguments:?}: {message}");
    }
    let noisy = ["train_divae", "--preset", "small", "--prediction", "v", "--base", "46"];
    let narrow = Options::parse_from(noisy).config().expect("settings").narrow();
    assert!(narrow.is_some_and(|why| why.contains("take 48")), "noise of 4 × 4 pixels of three channels");
    assert!(!out.join("checkpoint.safetensors").exists());
    TRAIN_DIVAE.succeeds(out, &[]);
    assert!(TRAIN_DIVAE.refuses(out, &["--seed", "3", "--resume"]).contains("belongs to another run"));
    let tokenizer = open(out);
    let sampler = Sampler { guidance: 2.0, ..tokenizer.sampler(2, 0) };
    assert!(tokenizer.decode(&[0; 16], [1, 4, 4], &sampler, 0).is_ok(), "codes were dropped in training");
    assert!(tokenizer.decode(&[0; 15], [1, 4, 4], &sampler, 0).is_err());
    assert!(tokenizer.decode(&[99; 16], [1, 4, 4], &sampler, 0).is_err());
    assert!(tokenizer.encode(images(1, 1)).is_err());
}

/// Every preset is a valid configuration, and goes through its file form unchanged.
#[test]
fn every_preset_is_valid() {
    for preset in Preset::value_variants() {
        let name = preset.to_possible_value().expect("a name").get_name().to_owned();
        let mut arguments = vec!["train_divae", "--preset", &name];
        if preset.is_frozen() {
            arguments.extend(["--encoder", "a.safetensors"]);
        }
        let config = Options::parse_from(arguments).config().unwrap_or_else(|failure| panic!("{name}: {failure}"));
        let text = serde_json::to_string(&config).expect("JSON");
        assert_eq!(serde_json::from_str::<Config>(&text).expect("the same settings"), config);
        assert_eq!(config.narrow(), None, "{name}");
        if name.starts_with("4m") {
            assert_eq!((config.tokens(), config.decoder.patch, config.codes.dim), (196, 4, 32), "{name}");
        }
    }
}
