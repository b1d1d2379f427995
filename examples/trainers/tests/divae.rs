//! The program `train_divae`, run as a person runs it: what it writes, how it goes on after being killed, a frozen encoder, what it refuses.

use core::time::Duration;
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use burn::tensor::{Tensor, TensorData};
use clap::{Parser, ValueEnum};
use serde_json::Value;
use trainers::backend::Host;
use trainers::common::random::SplitMix64;
use trainers::diffusion::Sampler;
use trainers::divae::config::Config;
use trainers::divae::options::Options;
use trainers::divae::presets::Preset;
use trainers::divae::tokenizer::Tokenizer;
use trainers::params::host;

const PROGRAM: &str = env!("CARGO_BIN_EXE_train_divae");

/// A toy's options: a second or so.
const TOY: [&str; 8] = ["--preset", "tiny", "--scenes", "24", "--samples", "4", "--sampling-steps", "3"];

fn command(program: &str, out: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).arg("--out").arg(out).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn run(out: &Path, arguments: &[&str]) -> Output {
    command(PROGRAM, out, &[&TOY, arguments].concat()).output().expect("the program starts")
}

fn succeeds(out: &Path, arguments: &[&str]) -> Value {
    let output = run(out, &[arguments, &["--json"]].concat());
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {errors}");
    serde_json::from_slice(&output.stdout).expect("one line of JSON")
}

fn refused(out: &Path, arguments: &[&str]) -> String {
    let output = run(out, arguments);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {errors}");
    assert!(!errors.contains("panicked"), "{errors}");
    errors
}

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
        let summary = succeeds(&out, &["--modality", modality]);
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
        let summary = succeeds(&directory.path().join(number.to_string()), arguments);
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
    let (whole, killed) = (directory.path().join("whole"), directory.path().join("killed"));
    let arguments = ["--variance", "hybrid", "--steps", "40", "--save-every", "2", "--log-every", "1"];
    succeeds(&whole, &arguments);
    let expected = fs::read_to_string(whole.join("log.jsonl")).expect("a log");
    assert_eq!(expected.lines().count(), 41, "the losses before the first step, and forty steps");
    let checkpoint = killed.join("checkpoint.safetensors");
    let mut random = SplitMix64::new(1);
    for _ in 0..6 {
        let extra: &[&str] = if checkpoint.exists() { &["--resume"] } else { &[] };
        let mut child =
            command(PROGRAM, &killed, &[&TOY, &arguments[..], extra].concat()).spawn().expect("the program starts");
        std::thread::sleep(Duration::from_millis(200 + random.below(1200) as u64));
        child.kill().expect("a kill");
        child.wait().expect("its end");
    }
    let extra: &[&str] = if checkpoint.exists() { &["--resume"] } else { &[] };
    succeeds(&killed, &[&arguments[..], extra].concat());
    assert_eq!(fs::read_to_string(killed.join("log.jsonl")).expect("a log"), expected);
}

#[test]
fn a_frozen_encoder_keeps_its_tokens() {
    let directory = directory();
    let (first, second, third) =
        (directory.path().join("first"), directory.path().join("second"), directory.path().join("third"));
    let vqvae = ["--preset", "tiny", "--modality", "rgb", "--scenes", "24"];
    let output = command(env!("CARGO_BIN_EXE_train_vqvae"), &first, &vqvae).output().expect("the program starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let encoder = first.join("checkpoint.safetensors").display().to_string();
    let summary = succeeds(&second, &["--encoder", &encoder, "--prediction", "v", "--average", "0.5"]);
    assert_eq!(summary["frozen"].as_str(), Some("encoder and codes"));
    let path = first.join("checkpoint.safetensors");
    let vqvae = trainers::vqvae::tokenizer::Tokenizer::<Host>::open(&path, None, Default::default()).expect("a VQ-VAE");
    let (expected, _) = vqvae.encode(trainers::vqvae::model::Sample::Values(images(8, 3))).expect("tokens");
    let tokens = |out: &Path| open(out).encode(images(8, 3)).expect("tokens").0;
    assert_eq!(tokens(&second), expected);
    assert!(expected.iter().any(|&code| code != expected[0]), "more than one code");
    // A DiVAE's encoder as well, and of the same codes.
    let encoder = second.join("checkpoint.safetensors").display().to_string();
    succeeds(&third, &["--encoder", &encoder]);
    assert_eq!(tokens(&third), expected);
    let refusals: [(&[&str], &str); 4] = [
        (&["--encoder", &encoder, "--modality", "depth"], "takes 3 channels"),
        (&["--encoder", &encoder, "--codes", "64"], "leave out --codes"),
        (&["--encoder", "absent.safetensors"], "absent.safetensors"),
        (&["--preset", "4m-rgb-1k-predv-frozen-unet"], "give --encoder"),
    ];
    for (arguments, expected) in refusals {
        let mut command = Command::new(PROGRAM);
        let toy = if arguments[0] == "--preset" { &[][..] } else { &TOY[..] };
        command.args(toy).args(arguments).arg("--out").arg(directory.path().join("no"));
        let output = command.output().expect("the program starts");
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && message.contains(expected), "{arguments:?}: {message}");
    }
}

#[test]
fn what_does_not_fit_is_refused_in_words() {
    let directory = directory();
    let out = directory.path();
    let cases: [(&[&str], &str); 11] = [
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
        (&["--resume"], "leave out --resume"),
    ];
    for (arguments, expected) in cases {
        // An option may be given once: the toy's own is left out.
        let toy: Vec<&str> = TOY.chunks(2).filter(|pair| !arguments.contains(&pair[0])).flatten().copied().collect();
        let output = command(PROGRAM, out, &[&toy, arguments].concat()).output().expect("the program starts");
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {message}");
        assert!(message.contains(expected) && !message.contains("panicked"), "{arguments:?}: {message}");
    }
    assert!(!out.join("checkpoint.safetensors").exists());
    succeeds(out, &[]);
    assert!(refused(out, &["--seed", "3", "--resume"]).contains("belongs to another run"));
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
        if name.starts_with("4m") {
            assert_eq!((config.tokens(), config.decoder.patch, config.codes.dim), (196, 4, 32), "{name}");
        }
    }
}
