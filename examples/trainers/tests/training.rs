//! The program `train_vqgan`, run as a person runs it: what it writes, how it goes on after being killed, what it refuses.

mod program;

use std::fs;
use std::path::PathBuf;

use program::Program;
use serde_json::Value;
use trainers::codebook;
use trainers::common::plots::sheet_png;
use trainers::common::scenes::render;
use trainers::common::tensors::SafetensorsFile;
use trainers::vqgan::config::Config;
use trainers::vqgan::options::Options;

const TRAIN_VQGAN: Program =
    Program { path: env!("CARGO_BIN_EXE_train_vqgan"), toy: &["--preset", "tiny", "--scenes", "24"] };

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

#[test]
fn every_system_trains_with_either_network_and_writes_all_its_files() {
    let directory = directory();
    for (system, name) in [("vqgan", "VQGAN"), ("fc", "VQGAN-FC"), ("ema", "VQGAN-EMA"), ("lc", "VQGAN-LC")] {
        for backbone in ["cnn", "vit"] {
            let out = directory.path().join(format!("{system}-{backbone}"));
            let summary = TRAIN_VQGAN.succeeds(&out, &["--model", system, "--backbone", backbone]);
            assert_eq!((summary["model"].as_str(), summary["steps"].as_u64()), (Some(name), Some(8)));
            assert!(summary["evaluation"]["quality"]["psnr_db"].as_f64().is_some_and(|psnr| psnr > 3.0));
            for file in
                ["losses.svg", "utilization.svg", "counts.svg", "reconstruction.png", "summary.json", "log.jsonl"]
            {
                assert!(fs::metadata(out.join(file)).is_ok_and(|about| about.len() > 0), "{file} of {}", out.display());
            }
        }
    }
}

/// The centres in use are the file's: the summary and the checkpoint name the hash that the file was given.
#[test]
fn frozen_centres_stay_those_of_their_file() {
    let directory = directory();
    let out = directory.path().join("lc");
    let summary = TRAIN_VQGAN.succeeds(&out, &["--model", "lc"]);
    let centres = codebook::load(&out.join("codebook.safetensors")).expect("the centres");
    assert_eq!(summary["centres"].as_str(), Some(centres.hash.as_str()));
    let checkpoint = SafetensorsFile::open(&out.join("checkpoint.safetensors")).expect("a checkpoint");
    let run: Value = serde_json::from_str(checkpoint.metadata("run").unwrap_or_default()).expect("settings");
    assert_eq!(run["config"]["codes"]["source_hash"].as_str(), Some(centres.hash.as_str()));
}

/// Resumed and killed again at twenty instants by lot: every step's line is the undisturbed run's, to the last bit.
#[test]
fn a_killed_run_goes_on_with_the_same_bits() {
    let directory = directory();
    let arguments = ["--model", "ema", "--restart", "true", "--average", "0.9"];
    TRAIN_VQGAN.goes_on_after(20, directory.path(), &arguments, 60);
    let log = fs::read_to_string(directory.path().join("whole").join("log.jsonl")).expect("a log");
    assert!(log.contains("gan_weight"), "the adversary is part of what is resumed");
}

/// Five hundred steps against StyleGAN's discriminator, with lazy R1 at every sixteenth: all stays finite.
#[test]
fn the_stylegan_discriminator_stays_finite() {
    let directory = directory();
    let arguments = ["--model", "ema", "--disc", "stylegan", "--gan-loss", "softplus", "--gan-start", "0"];
    let long =
        ["--steps", "500", "--batch", "2", "--log-every", "1", "--save-every", "500", "--perceptual-weight", "0"];
    TRAIN_VQGAN.succeeds(directory.path(), &[arguments.as_slice(), &long].concat());
    let log = fs::read_to_string(directory.path().join("log.jsonl")).expect("a log");
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines.len(), 500);
    let finite = |line: &Value, term: &str| line[term].as_f64().is_some_and(f64::is_finite);
    assert!(lines.iter().all(|line| ["discriminator", "gan", "l1"].iter().all(|term| finite(line, term))));
    assert_eq!(lines.iter().filter(|line| finite(line, "r1")).count(), 500_usize.div_ceil(16));
}

#[test]
fn half_precision_trains_too() {
    let directory = directory();
    let summary = TRAIN_VQGAN.succeeds(directory.path(), &["--model", "fc", "--amp"]);
    assert!(summary["evaluation"]["quality"]["psnr_db"].as_f64().is_some_and(|psnr| psnr > 3.0));
}

#[test]
fn a_loss_that_is_not_finite_stops_the_run_and_leaves_the_checkpoint() {
    let directory = directory();
    let out = directory.path();
    let message = TRAIN_VQGAN.refuses(out, &["--model", "ema", "--lr", "1e30", "--save-every", "1", "--steps", "40"]);
    assert!(message.contains("step ") && message.contains("still stands"), "{message}");
    assert!(out.join("checkpoint.safetensors").exists());
    assert!(!out.join("summary.json").exists());
}

#[test]
fn a_checkpoint_of_another_run_or_program_is_refused() {
    let directory = directory();
    let out = directory.path();
    assert!(TRAIN_VQGAN.refuses(out, &["--model", "ema", "--resume"]).contains("leave out --resume"));
    TRAIN_VQGAN.succeeds(out, &["--model", "ema"]);
    assert!(TRAIN_VQGAN.refuses(out, &["--model", "fc", "--resume"]).contains("belongs to another run"));
    assert!(
        TRAIN_VQGAN.refuses(out, &["--model", "ema", "--seed", "3", "--resume"]).contains("belongs to another run")
    );
    let checkpoint = out.join("checkpoint.safetensors");
    let bytes = fs::read(&checkpoint).expect("a checkpoint");
    fs::write(&checkpoint, &bytes[..bytes.len() / 2]).expect("a truncated one");
    assert!(TRAIN_VQGAN.refuses(out, &["--model", "ema", "--resume"]).contains("checkpoint.safetensors"));
    fs::write(&checkpoint, b"no checkpoint at all").expect("another file");
    assert!(TRAIN_VQGAN.refuses(out, &["--model", "ema", "--resume"]).contains("checkpoint.safetensors"));
}

#[test]
fn bad_data_weights_and_devices_are_refused_in_words() {
    let directory = directory();
    let (out, data) = (directory.path().join("out"), directory.path().join("data"));
    let text = |path: &PathBuf| path.display().to_string();
    fs::create_dir(&data).expect("a directory");
    assert!(TRAIN_VQGAN.refuses(&out, &["--model", "ema", "--data", &text(&data)]).contains("no readable picture"));
    fs::write(data.join("a.png"), b"no picture").expect("a file");
    assert!(TRAIN_VQGAN.refuses(&out, &["--model", "ema", "--data", &text(&data)]).contains("no readable picture"));
    let absent = directory.path().join("absent.safetensors");
    assert!(
        TRAIN_VQGAN.refuses(&out, &["--model", "ema", "--perceptual", &text(&absent)]).contains("absent.safetensors")
    );
    assert!(TRAIN_VQGAN.refuses(&out, &["--model", "lc", "--codebook", &text(&absent)]).contains("absent.safetensors"));
    assert!(
        TRAIN_VQGAN
            .refuses(&out, &["--model", "ema", "--codebook", &text(&absent)])
            .contains("--codebook is for --model lc")
    );
    // A file of weights, but of no network that is known: a checkpoint.
    let other = directory.path().join("other");
    TRAIN_VQGAN.succeeds(&other, &["--model", "ema"]);
    let weights = other.join("checkpoint.safetensors");
    assert!(TRAIN_VQGAN.refuses(&out, &["--model", "ema", "--perceptual", &text(&weights)]).contains("SqueezeNet"));
    assert!(TRAIN_VQGAN.refuses(&out, &["--model", "lc", "--codebook", &text(&weights)]).contains("no codebook"));
    for (argument, expected) in [
        ("--image-size=15", "15 px"),
        ("--batch=0", "at least one sample"),
        ("--steps=0", "at least one step"),
        ("--channels=100000", "4096 channels"),
        ("--dim=5000", "4096"),
        ("--lr=-1", "learning rate"),
        ("--codes=0", "codes"),
        ("--hold-out=2", "between 0 and 1"),
        ("--save-every=0", "--save-every"),
        ("--average=1", "decay"),
    ] {
        let message = TRAIN_VQGAN.refuses(&out, &["--model", "ema", argument]);
        assert!(message.contains(expected), "{argument}: {message}");
    }
    #[cfg(not(feature = "cuda"))]
    assert!(TRAIN_VQGAN.refuses(&out, &["--model", "ema", "--device", "cuda"]).contains("--features cuda"));
}

#[test]
fn broken_pictures_among_good_ones_are_skipped() {
    let directory = directory();
    let (out, data) = (directory.path().join("out"), directory.path().join("data"));
    fs::create_dir(&data).expect("a directory");
    for seed in 0..4 {
        sheet_png(&data.join(format!("{seed}.png")), &[vec![&render(seed, 20)]]).expect("a picture");
    }
    let whole = fs::read(data.join("0.png")).expect("a picture");
    fs::write(data.join("broken.png"), &whole[..whole.len() / 2]).expect("a broken one");
    let output = TRAIN_VQGAN.run(&out, &["--model", "ema", "--data", &data.display().to_string(), "--hold-out", "0.3"]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && errors.contains("skipped `broken.png`"), "{errors}");
}

/// Every preset is a valid configuration, and goes through its file form unchanged.
#[test]
fn every_published_preset_is_valid() {
    use clap::{Parser, ValueEnum};
    use trainers::vqgan::presets::Preset;
    for preset in Preset::value_variants() {
        let name = preset.to_possible_value().expect("a name").get_name().to_owned();
        for model in ["vqgan", "fc", "ema", "lc"] {
            let options = Options::parse_from(["train_vqgan", "--preset", &name, "--model", model]);
            let config = options.config().expect("settings");
            config.check().unwrap_or_else(|failure| panic!("{name}: {failure}"));
            let text = serde_json::to_string(&config).expect("JSON");
            assert_eq!(serde_json::from_str::<Config>(&text).expect("the same settings"), config);
        }
    }
    let tokens =
        |preset: &str| Options::parse_from(["train_vqgan", "--preset", preset]).config().expect("settings").tokens();
    assert_eq!(["lc-f16", "lc-f8", "lc-f16-512", "4m-vit-b"].map(tokens), [256, 1024, 1024, 196]);
}
