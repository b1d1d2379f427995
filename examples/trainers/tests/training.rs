//! The program `train_vqgan`, run as a person runs it: what it writes, how it goes on after being killed, what it refuses.

use core::time::Duration;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use trainers::codebook;
use trainers::common::plots::sheet_png;
use trainers::common::random::SplitMix64;
use trainers::common::scenes::render;
use trainers::common::tensors::SafetensorsFile;
use trainers::vqgan::config::Config;
use trainers::vqgan::options::Options;

const PROGRAM: &str = env!("CARGO_BIN_EXE_train_vqgan");

/// A toy's options: a second or so.
const TOY: [&str; 4] = ["--preset", "tiny", "--scenes", "24"];

fn command(out: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(TOY).args(arguments).arg("--out").arg(out).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn run(out: &Path, arguments: &[&str]) -> Output {
    command(out, arguments).output().expect("the program starts")
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

#[test]
fn every_system_trains_with_either_network_and_writes_all_its_files() {
    let directory = directory();
    for (system, name) in [("vqgan", "VQGAN"), ("fc", "VQGAN-FC"), ("ema", "VQGAN-EMA"), ("lc", "VQGAN-LC")] {
        for backbone in ["cnn", "vit"] {
            let out = directory.path().join(format!("{system}-{backbone}"));
            let summary = succeeds(&out, &["--model", system, "--backbone", backbone]);
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
    let summary = succeeds(&out, &["--model", "lc"]);
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
    let (whole, killed) = (directory.path().join("whole"), directory.path().join("killed"));
    let arguments = [
        "--model",
        "ema",
        "--restart",
        "true",
        "--average",
        "0.9",
        "--steps",
        "60",
        "--save-every",
        "2",
        "--log-every",
        "1",
    ];
    succeeds(&whole, &arguments);
    let expected = fs::read_to_string(whole.join("log.jsonl")).expect("a log");
    assert_eq!(expected.lines().count(), 60);
    assert!(expected.contains("gan_weight"), "the adversary is part of what is resumed");
    let checkpoint = killed.join("checkpoint.safetensors");
    let (mut random, mut kills) = (SplitMix64::new(1), 0);
    while kills < 20 {
        let resume = checkpoint.exists();
        let extra: &[&str] = if resume { &["--resume"] } else { &[] };
        let mut child = command(&killed, &[&arguments, extra].concat()).spawn().expect("the program starts");
        std::thread::sleep(Duration::from_millis(30 + random.below(400) as u64));
        match child.try_wait().expect("a child") {
            Some(status) => {
                // It was done before the blow: begin again.
                assert!(status.success());
                fs::remove_dir_all(&killed).expect("the run's own directory");
            }
            None => {
                child.kill().expect("a kill");
                child.wait().expect("its end");
                kills += usize::from(resume);
                // What is there of the log is the same up to the line that the blow cut.
                let log = fs::read_to_string(killed.join("log.jsonl")).unwrap_or_default();
                let whole_lines = log.rfind('\n').map_or("", |end| &log[..end]);
                for (line, expected) in whole_lines.lines().zip(expected.lines()) {
                    assert_eq!(line, expected);
                }
            }
        }
    }
    let extra: &[&str] = if checkpoint.exists() { &["--resume"] } else { &[] };
    succeeds(&killed, &[&arguments, extra].concat());
    assert_eq!(fs::read_to_string(killed.join("log.jsonl")).expect("a log"), expected);
}

/// Five hundred steps against StyleGAN's discriminator, with lazy R1 at every sixteenth: all stays finite.
#[test]
fn the_stylegan_discriminator_stays_finite() {
    let directory = directory();
    let arguments = ["--model", "ema", "--disc", "stylegan", "--gan-loss", "softplus", "--gan-start", "0"];
    let long =
        ["--steps", "500", "--batch", "2", "--log-every", "1", "--save-every", "500", "--perceptual-weight", "0"];
    succeeds(directory.path(), &[arguments.as_slice(), &long].concat());
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
    let summary = succeeds(directory.path(), &["--model", "fc", "--amp"]);
    assert!(summary["evaluation"]["quality"]["psnr_db"].as_f64().is_some_and(|psnr| psnr > 3.0));
}

#[test]
fn a_loss_that_is_not_finite_stops_the_run_and_leaves_the_checkpoint() {
    let directory = directory();
    let out = directory.path();
    let message = refused(out, &["--model", "ema", "--lr", "1e30", "--save-every", "1", "--steps", "40"]);
    assert!(message.contains("step ") && message.contains("still stands"), "{message}");
    assert!(out.join("checkpoint.safetensors").exists());
    assert!(!out.join("summary.json").exists());
}

#[test]
fn a_checkpoint_of_another_run_or_program_is_refused() {
    let directory = directory();
    let out = directory.path();
    assert!(refused(out, &["--model", "ema", "--resume"]).contains("leave out --resume"));
    succeeds(out, &["--model", "ema"]);
    assert!(refused(out, &["--model", "fc", "--resume"]).contains("belongs to another run"));
    assert!(refused(out, &["--model", "ema", "--seed", "3", "--resume"]).contains("belongs to another run"));
    let checkpoint = out.join("checkpoint.safetensors");
    let bytes = fs::read(&checkpoint).expect("a checkpoint");
    fs::write(&checkpoint, &bytes[..bytes.len() / 2]).expect("a truncated one");
    assert!(refused(out, &["--model", "ema", "--resume"]).contains("checkpoint.safetensors"));
    fs::write(&checkpoint, b"no checkpoint at all").expect("another file");
    assert!(refused(out, &["--model", "ema", "--resume"]).contains("checkpoint.safetensors"));
}

#[test]
fn bad_data_weights_and_devices_are_refused_in_words() {
    let directory = directory();
    let (out, data) = (directory.path().join("out"), directory.path().join("data"));
    let text = |path: &PathBuf| path.display().to_string();
    fs::create_dir(&data).expect("a directory");
    assert!(refused(&out, &["--model", "ema", "--data", &text(&data)]).contains("no readable picture"));
    fs::write(data.join("a.png"), b"no picture").expect("a file");
    assert!(refused(&out, &["--model", "ema", "--data", &text(&data)]).contains("no readable picture"));
    let absent = directory.path().join("absent.safetensors");
    assert!(refused(&out, &["--model", "ema", "--perceptual", &text(&absent)]).contains("absent.safetensors"));
    assert!(refused(&out, &["--model", "lc", "--codebook", &text(&absent)]).contains("absent.safetensors"));
    assert!(refused(&out, &["--model", "ema", "--codebook", &text(&absent)]).contains("--codebook is for --model lc"));
    // A file of weights, but of no network that is known: a checkpoint.
    let other = directory.path().join("other");
    succeeds(&other, &["--model", "ema"]);
    let weights = other.join("checkpoint.safetensors");
    assert!(refused(&out, &["--model", "ema", "--perceptual", &text(&weights)]).contains("SqueezeNet"));
    assert!(refused(&out, &["--model", "lc", "--codebook", &text(&weights)]).contains("no codebook"));
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
        let message = refused(&out, &["--model", "ema", argument]);
        assert!(message.contains(expected), "{argument}: {message}");
    }
    #[cfg(not(feature = "cuda"))]
    assert!(refused(&out, &["--model", "ema", "--device", "cuda"]).contains("--features cuda"));
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
    let output = run(&out, &["--model", "ema", "--data", &data.display().to_string(), "--hold-out", "0.3"]);
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
