//! The program `train_vqvae`, run as a person runs it: what it writes, how it goes on after being killed, what it refuses.

mod program;

use std::path::Path;

use clap::{Parser, ValueEnum};
use program::{Program, has_files};
use trainers::backend::Host;
use trainers::common::tensors::{SafetensorsFile, Tensor, write_safetensors};
use trainers::nets::macs::Cost;
use trainers::vqvae::config::Config;
use trainers::vqvae::model::Sample;
use trainers::vqvae::options::Options;
use trainers::vqvae::presets::Preset;
use trainers::vqvae::tokenizer::Tokenizer;

const PROGRAM: Program =
    Program { path: env!("CARGO_BIN_EXE_train_vqvae"), toy: &["--preset", "tiny", "--scenes", "12"] };

const MODALITIES: [&str; 4] = ["rgb", "semseg", "features", "masks"];

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

#[test]
fn every_modality_trains_and_its_checkpoint_encodes_and_decodes() {
    let directory = directory();
    for modality in MODALITIES {
        let out = directory.path().join(modality);
        let summary = PROGRAM.succeeds(&out, &["--modality", modality]);
        assert_eq!((summary["kind"].as_str(), summary["steps"].as_u64()), (Some("vqvae"), Some(8)), "{modality}");
        let evaluation = &summary["evaluation"];
        assert!(evaluation["loss"].as_f64().is_some_and(|loss| loss.is_finite() && loss > 0.0), "{modality}");
        let figure = match modality {
            "semseg" => &evaluation["labels"]["accuracy"],
            "masks" => &evaluation["masks"]["iou"],
            _ => &evaluation["numbers"]["relative_loss"],
        };
        assert!(figure.as_f64().is_some_and(|figure| figure > 0.0), "{modality}: {evaluation}");
        has_files(
            &out,
            &["losses.svg", "utilization.svg", "counts.svg", "reconstruction.png", "summary.json", "log.jsonl"],
        );

        let tokenizer = Tokenizer::<Host>::open(&out.join("checkpoint.safetensors"), None, Default::default());
        let tokenizer = tokenizer.expect("a checkpoint");
        let Config { encoder, decoder, codes, .. } = &tokenizer.config;
        let (size, grid) = (encoder.image_size, tokenizer.config.grid());
        let sample = match modality {
            "semseg" => Sample::Labels(burn::tensor::Tensor::ones([2, size, size], &Default::default())),
            _ => Sample::Values(burn::tensor::Tensor::ones([2, encoder.channels, size, size], &Default::default())),
        };
        let (tokens, found) = tokenizer.encode(sample).expect("samples of its size");
        assert_eq!((found, tokens.len()), ([2, grid, grid], 2 * grid * grid), "{modality}");
        assert!(tokens.iter().all(|&token| (token as usize) < codes.codes), "{modality}");
        let output = tokenizer.decode(&tokens, found).expect("codes that exist");
        assert_eq!(output.dims(), [2, decoder.channels, size, size], "{modality}");
        assert!(tokenizer.decode(&[codes.codes as u32; 16], [1, 4, 4]).is_err(), "{modality}");
    }
}

#[test]
fn a_killed_run_goes_on_with_the_same_bits() {
    let directory = directory();
    PROGRAM.goes_on_after(6, directory.path(), &["--modality", "semseg", "--average", "0.9"], 40);
}

#[test]
fn a_trained_tokenizer_is_adapted_to_larger_maps() {
    let directory = directory();
    let [base, out] = ["base", "out"].map(|name| directory.path().join(name));
    PROGRAM.succeeds(&base, &["--modality", "masks", "--average", "0.9"]);
    let start = ["--modality", "masks", "--start", base.to_str().expect("a path")];
    let networks = |out: &Path, prefix: &str| -> Vec<(String, Vec<f32>)> {
        let mut file = SafetensorsFile::open(&out.join("checkpoint.safetensors")).expect("a checkpoint");
        let names: Vec<String> =
            file.names().iter().filter_map(|name| name.strip_prefix(prefix)).map(str::to_owned).collect();
        names.into_iter().map(|name| (name.clone(), file.read(&format!("{prefix}{name}")).expect("values"))).collect()
    };
    // At rate 0 it stays what it was: the moving averages.
    PROGRAM.succeeds(&out, &[&start[..], &["--lr", "0", "--steps", "1"]].concat());
    assert_eq!(networks(&out, "model."), networks(&base, "average."));
    // Sizes 16, 24 and 32 by lot.
    let summary = PROGRAM.succeeds(&out, &[&start[..], &["--largest", "32", "--steps", "6"]].concat());
    assert_eq!(summary["grid"].as_u64(), Some(4));
    assert_ne!(networks(&out, "model."), networks(&base, "average."));
    for (arguments, expected) in [
        (["--largest", "34"], "whole patches of 4"),
        (["--largest", "8"], "sizes from 16 to 8"),
        (["--dim", "4"], "of another network or configuration"),
    ] {
        let message = PROGRAM.refuses(&out, &[&start[..], &arguments].concat());
        assert!(message.contains(expected), "{arguments:?}: {message}");
    }
}

#[test]
fn maps_of_a_file_are_trained_on() {
    let directory = directory();
    let (out, path) = (directory.path().join("out"), directory.path().join("maps.safetensors"));
    let data = path.display().to_string();
    let values: Vec<f32> = (0..10 * 5 * 36).map(|i| (i * 7 % 31) as f32).collect();
    write_safetensors(&path, &[Tensor::new("maps", &[10, 5, 6, 6], &values)], &[]).expect("written");
    let summary = PROGRAM.succeeds(&out, &["--modality", "features", "--data", &data]);
    assert_eq!(summary["grid"].as_u64(), Some(6));
    assert_eq!(summary["tokens_per_sample"].as_u64(), Some(36));
    // Another file is another run.
    write_safetensors(&path, &[Tensor::new("maps", &[8, 5, 6, 6], &values[..8 * 180])], &[]).expect("written");
    let message = PROGRAM.refuses(&out, &["--modality", "features", "--data", &data, "--resume"]);
    assert!(message.contains("belongs to another run"), "{message}");
    write_safetensors(&path, &[Tensor::new("maps", &[10, 180], &values)], &[]).expect("written");
    let message = PROGRAM.refuses(&out, &["--modality", "features", "--data", &data]);
    assert!(message.contains("expected one tensor [n, channels, size, size]"), "{message}");
}

#[test]
fn what_does_not_fit_is_refused_in_words() {
    let directory = directory();
    let out = directory.path();
    for (arguments, expected) in [
        (&["--modality", "semseg", "--loss", "l2"][..], "labels have cross-entropy"),
        (&["--modality", "masks", "--loss", "cosine"], "masks bce"),
        (&["--modality", "semseg", "--teacher", "a.safetensors"], "--teacher is for"),
        (&["--modality", "features", "--teacher", "absent.safetensors"], "absent.safetensors"),
        (&["--modality", "features", "--views", "0"], "at least 1"),
        (&["--modality", "masks", "--perceptual-weight", "1"], "is for colour images"),
        (&["--modality", "semseg", "--classes", "1"], "classes"),
        (&["--commitment=-1"], "at least 0"),
        (&["--data", "absent"], "absent"),
        (&["--codes", "0"], "codes"),
        (&["--steps", "0"], "at least one step"),
        (&["--hold-out", "2"], "between 0 and 1"),
        (&["--resume"], "leave out --resume"),
    ] {
        let message = PROGRAM.refuses(out, arguments);
        assert!(message.contains(expected), "{arguments:?}: {message}");
    }
}

/// Every preset is a valid configuration with the published tokens, and goes through its file form unchanged.
#[test]
fn every_published_preset_is_valid() {
    let config = |preset: &str| {
        let options = Options::parse_from(["train_vqvae", "--preset", preset]);
        options.config().unwrap_or_else(|failure| panic!("{preset}: {failure}"))
    };
    let other = ["train_vqvae", "--preset", "4m-clip-b16-8k", "--modality", "rgb"];
    let failure = Options::parse_from(other).config().expect_err("a preset of features").to_string();
    assert!(failure.contains("Features alone"), "{failure}");
    for preset in Preset::value_variants() {
        let config = config(preset.to_possible_value().expect("a name").get_name());
        let text = serde_json::to_string(&config).expect("JSON");
        assert_eq!(serde_json::from_str::<Config>(&text).expect("the same settings"), config);
    }
    for (preset, grid, codes, dim, channels) in [
        ("4m-rgb-1k", 14, 1024, 32, [3, 3]),
        ("4m-semseg-coco-4k", 14, 4096, 32, [64, 134]),
        ("4m-semseg-coco-4k-448", 14, 4096, 32, [64, 134]),
        ("4m-clip-b16-8k", 14, 8192, 32, [512, 512]),
        ("4m-dinov2-b14-8k", 16, 8192, 32, [768, 768]),
        ("4m-imagebind-h14-8k", 16, 8192, 32, [1280, 1280]),
        ("4m-sam-instance-1k", 4, 1024, 1024, [1, 1]),
    ] {
        let config = config(preset);
        assert_eq!((config.grid(), config.codes.codes, config.codes.dim), (grid, codes, dim), "{preset}");
        assert_eq!([config.encoder.channels, config.decoder.channels], channels, "{preset}");
        let (encoder, mut cost) = (config.encoder.encoder::<Host>(dim, &Default::default()), Cost::default());
        assert_eq!(encoder.cost([config.size(); 2], &mut cost), [grid; 2], "{preset}");
    }
}
