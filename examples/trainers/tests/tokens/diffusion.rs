//! Diffusion decoders: how they sample, and distances in metres.

use std::path::PathBuf;

use trainers::common::tensors::SafetensorsFile;
use trainers::data::Source;
use trainers::data::maps::{Maps, Modality, Opening};
use trainers::tokens::TokenFile;

use super::{DETOKENIZE, TOKENIZE, TRAIN_DIVAE, directory, pictures, shared, text};

/// A diffusion decoder: steps, guidance and seed are chosen when tokens become pictures again.
#[test]
fn diffusion_decoders_sample_as_they_are_asked_to() {
    let directory = directory();
    let trained = directory.path().join("rgb");
    TRAIN_DIVAE.succeeds(&trained, &["--modality", "rgb"]);
    let out = directory.path().join("t.safetensors");
    let options = ["--tokenizer", text(&trained), "--scenes", "3"];
    TOKENIZE.succeeds(&out, &options);
    let file = TokenFile::load(&out).expect("tokens");
    let decode = |name: &str, extra: &[&str]| {
        let back = directory.path().join(name);
        let options = [text(&out), "--tokenizer", text(&trained), "--format", "safetensors"];
        DETOKENIZE.succeeds(&back, &[&options[..], extra].concat());
        let values = SafetensorsFile::open(&back.join("values.safetensors")).and_then(|mut file| file.read("values"));
        let values: Vec<f32> = values.expect("numbers");
        assert_eq!(values.len(), 3 * file.about.sample.values());
        values
    };
    let first = decode("first", &["--steps", "4"]);
    assert_eq!(first, decode("again", &["--steps", "4", "--seed", "0"]));
    assert_ne!(first, decode("steps", &["--steps", "2"]));
    assert_ne!(first, decode("seed", &["--steps", "4", "--seed", "9"]));
    // How many are decoded at a time does not decide anyone's noise.
    let one_by_one = decode("single", &["--steps", "4", "--batch", "1"]);
    let worst = first.iter().zip(&one_by_one).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst < 1e-3, "{worst}");
    let back = directory.path().join("back");
    let decode = [text(&out), "--tokenizer", text(&trained)];
    assert!(DETOKENIZE.refuses(&back, &[&decode[..], &["--steps", "0"]].concat()).contains("steps"));
    let summary = DETOKENIZE.succeeds(&back, &[&decode[..], &["--steps", "2"]].concat());
    assert_eq!(summary["samples"].as_u64(), Some(3));
    pictures(&back, &file, file.about.sample.shape()[1]);
}

/// A map's own scale stands beside its tokens: what comes back is in metres.
#[test]
fn distances_come_back_in_metres() {
    let directory = directory();
    let trained = directory.path().join("depth");
    TRAIN_DIVAE.succeeds(&trained, &["--modality", "depth"]);
    let rooms = shared("rgbd_normals_256.tar");
    let data = rooms.as_ref().map_or(["--scenes", "5"], |path| ["--data", text(path)]);
    let out = directory.path().join("t.safetensors");
    TOKENIZE.succeeds(&out, &[&["--tokenizer", text(&trained)], &data[..]].concat());
    let file = TokenFile::load(&out).expect("tokens");
    assert_eq!(file.scales.len(), file.len());
    let decode = |name: &str, format: &str| {
        let back = directory.path().join(name);
        let options = [text(&out), "--tokenizer", text(&trained), "--steps", "2", "--format", format];
        DETOKENIZE.succeeds(&back, &options);
        back
    };
    let mut made = SafetensorsFile::open(&decode("values", "safetensors").join("values.safetensors")).expect("a file");
    assert_eq!(made.metadata("unit"), Some("metre"));
    let values: Vec<f32> = made.read("values").expect("numbers");
    let maps =
        |path: PathBuf| Maps::open(Modality::Depth, &Source::Path(path), &Opening::default()).expect("distances");
    let read = maps(decode("pictures", "png"));
    assert_eq!(read.len(), file.len());
    let each = file.about.sample.values();
    for (index, values) in values.chunks_exact(each).enumerate() {
        let (map, scale) = (read.map(index), read.scale_of(index).expect("a scale"));
        for (pixel, &metres) in map.values.iter().zip(values) {
            let (found, expected) = (scale.undo(*pixel), metres.clamp(0.001, 65.535));
            assert!((found - expected).abs() < 0.001, "map {index}: {found} for {metres}");
        }
    }
}
