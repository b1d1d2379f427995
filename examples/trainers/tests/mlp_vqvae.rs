//! The program `train_mlp_vqvae`, run as a person runs it: what it writes, how it goes on after being killed, what it refuses.

mod program;

use clap::{Parser, ValueEnum};
use program::{Program, has_files};
use trainers::backend::Host;
use trainers::common::tensors::{Tensor, write_safetensors};
use trainers::mlp_vqvae::config::Config;
use trainers::mlp_vqvae::options::Options;
use trainers::mlp_vqvae::presets::Preset;
use trainers::mlp_vqvae::tokenizer::Tokenizer;

const PROGRAM: Program = Program { path: env!("CARGO_BIN_EXE_train_mlp_vqvae"), toy: &["--preset", "tiny"] };

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

#[test]
fn both_quantizers_train_on_both_kinds_and_checkpoints_encode_and_decode() {
    let directory = directory();
    for (kind, channels) in [("poses", 207), ("vectors", 64)] {
        for (quantizer, heads) in [("memcodes", 4), ("memcodes", 8), ("shared", 4)] {
            let out = directory.path().join(format!("{kind}-{quantizer}-{heads}"));
            let heads_text = heads.to_string();
            let arguments = ["--modality", kind, "--quantizer", quantizer, "--heads", &heads_text];
            let summary = PROGRAM.succeeds(&out, &arguments);
            assert_eq!((summary["kind"].as_str(), summary["steps"].as_u64()), (Some("mlp_vqvae"), Some(8)));
            assert_eq!(summary["tokens_per_sample"].as_u64(), Some(heads));
            assert_eq!(summary["codes"].as_u64(), Some(if quantizer == "shared" { 16 } else { 16 * heads }));
            let evaluation = &summary["evaluation"];
            for figure in ["loss", "relative_loss", "spectrum_cosine", "pca_cosine"] {
                let value = evaluation[figure].as_f64();
                assert!(value.is_some_and(|value| value.is_finite() && value > 0.0), "{figure}: {evaluation}");
            }
            assert_eq!(evaluation["bits"].as_f64(), Some(4.0 * heads as f64));
            has_files(
                &out,
                &["losses.svg", "utilization.svg", "counts.svg", "reconstruction.png", "summary.json", "log.jsonl"],
            );
            let tokenizer = Tokenizer::<Host>::open(&out.join("checkpoint.safetensors"), None, Default::default());
            let tokenizer = tokenizer.expect("a checkpoint");
            let vectors: Vec<f32> = (0..3 * channels).map(|i| (i * 7 % 31) as f32 / 31.0 - 0.5).collect();
            let tokens = tokenizer.encode(&vectors).expect("whole vectors");
            assert_eq!(tokens.len() as u64, 3 * heads);
            assert!(tokens.iter().all(|&token| token < 16));
            let copies = tokenizer.decode(&tokens).expect("codes that exist");
            assert!(copies.len() == vectors.len() && copies.iter().all(|value| value.is_finite()));
            // Each vector by itself, whatever stands beside it.
            let alone = tokenizer.encode(&vectors[channels..2 * channels]).expect("a vector");
            assert_eq!(alone, tokens[heads as usize..2 * heads as usize]);
            assert!(tokenizer.encode(&vectors[1..]).is_err() && tokenizer.decode(&tokens[1..]).is_err());
            assert!(tokenizer.decode(&vec![16; heads as usize]).is_err());
            let damaged: Vec<f32> = (0..channels).map(|i| if i == 5 { f32::NAN } else { 0.0 }).collect();
            assert!(tokenizer.encode(&damaged).expect_err("NaN").to_string().contains("value 5 of vector 0"));
        }
    }
}

#[test]
fn killed_runs_go_on_with_the_same_bits() {
    for quantizer in ["memcodes", "shared"] {
        let directory = directory();
        PROGRAM.goes_on_after(4, directory.path(), &["--quantizer", quantizer, "--average", "0.9"], 60);
    }
}

#[test]
fn vectors_and_poses_of_files_are_trained_on() {
    let directory = directory();
    let (out, path) = (directory.path().join("out"), directory.path().join("a.safetensors"));
    let data = path.display().to_string();
    let values: Vec<f32> = (0..20 * 23 * 3).map(|i| (i * 7 % 31) as f32 / 31.0).collect();
    let clip: Vec<u8> = (0..20).map(|i| i / 5).collect();
    let write = |name: &str, shape: &[usize]| {
        let tensors = [Tensor::new(name, shape, &values), Tensor::new("clip", &[20], &clip)];
        write_safetensors(&path, &tensors, &[]).expect("a file");
    };
    write("rotvec", &[20, 23, 3]);
    let summary = PROGRAM.succeeds(&out, &["--data", &data]);
    assert_eq!(summary["modality"].as_str(), Some("pose"));
    // Of four clips one is held out whole.
    assert_eq!(summary["evaluation"]["samples"].as_u64().map(|samples| samples % 5), Some(0));
    write("embedding", &[20, 69]);
    let summary = PROGRAM.succeeds(&out, &["--modality", "vectors", "--data", &data]);
    assert_eq!(summary["modality"].as_str(), Some("vector:69"));
    let message = PROGRAM.refuses(&out, &["--data", &data]);
    assert!(message.contains("[n, 207]"), "{message}");
    let message = PROGRAM.refuses(&out, &["--modality", "vectors", "--values", "70", "--data", &data]);
    assert!(message.contains("[n, 70]"), "{message}");
    write_safetensors(&path, &[Tensor::new("embedding", &[20, 69], &vec![0.0_f32; 20 * 69])], &[]).expect("a file");
    let message = PROGRAM.refuses(&out, &["--modality", "vectors", "--data", &data]);
    assert!(message.contains("all 0"), "{message}");
}

#[test]
fn what_does_not_fit_is_refused_in_words() {
    let directory = directory();
    let out = directory.path();
    for (arguments, expected) in [
        (&["--loss", "bce"][..], "not for vectors"),
        (&["--l2-norm", "true"], "--quantizer shared"),
        (&["--quantizer", "shared", "--codes", "0"], "--codes 0"),
        (&["--quantizer", "shared", "--heads", "0"], "at least 1 token"),
        (&["--heads", "0"], "`dim` is 0"),
        (&["--codes", "999999999"], "logits"),
        (&["--commitment=-1"], "at least 0"),
        (&["--data", "absent.safetensors"], "absent.safetensors"),
        (&["--modality", "vectors", "--data", "absent.safetensors"], "absent.safetensors"),
        (&["--scenes", "0"], "at least 1"),
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
    let other = ["train_mlp_vqvae", "--preset", "4m-poses-1k", "--modality", "vectors"];
    let failure = Options::parse_from(other).config(None).expect_err("a preset of poses").to_string();
    assert!(failure.contains("Poses alone"), "{failure}");
    for preset in Preset::value_variants() {
        let name = preset.to_possible_value().expect("a name").get_name().to_owned();
        let options = Options::parse_from(["train_mlp_vqvae", "--preset", &name]);
        let config = options.config(None).unwrap_or_else(|failure| panic!("{name}: {failure}"));
        let text = serde_json::to_string(&config).expect("JSON");
        assert_eq!(serde_json::from_str::<Config>(&text).expect("the same settings"), config);
    }
    for (preset, channels, codes) in
        [("4m-dinov2-global-8k", 768, 8192), ("4m-imagebind-global-8k", 1280, 8192), ("4m-poses-1k", 207, 1024)]
    {
        for heads in ["8", "16"] {
            let options = Options::parse_from(["train_mlp_vqvae", "--preset", preset, "--heads", heads]);
            let config = options.config(None).expect("settings");
            assert_eq!(
                (
                    config.modality.channels(),
                    config.coding.codes(),
                    config.coding.heads().to_string(),
                    config.coding.dim()
                ),
                (channels, codes, heads.into(), 1024)
            );
        }
    }
}
