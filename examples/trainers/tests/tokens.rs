//! The programs `tokenize` and `detokenize`, on what each trainer leaves behind.

mod program;

#[path = "tokens/diffusion.rs"]
mod diffusion;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use program::Program;
use serde_json::Value;
use trainers::common::images::load_images;
use trainers::common::tensors::{SafetensorsFile, Tensor, write_safetensors};
use trainers::tokens::TokenFile;
use trainers::wordpiece::sentences::{boxes_of, metadata_of};
use trainers::wordpiece::{WordPiece, read};

const TRAIN_VQGAN: Program =
    Program { path: env!("CARGO_BIN_EXE_train_vqgan"), toy: &["--preset", "tiny", "--scenes", "12"] };
const TRAIN_VQVAE: Program = Program {
    path: env!("CARGO_BIN_EXE_train_vqvae"),
    toy: &["--preset", "tiny", "--scenes", "12", "--hold-out", "0.3"],
};
const TRAIN_DIVAE: Program = Program {
    path: env!("CARGO_BIN_EXE_train_divae"),
    toy: &["--preset", "tiny", "--scenes", "24", "--samples", "4", "--sampling-steps", "3"],
};
const TRAIN_MLP_VQVAE: Program =
    Program { path: env!("CARGO_BIN_EXE_train_mlp_vqvae"), toy: &["--preset", "tiny", "--hold-out", "0.3"] };
const TRAIN_WORDPIECE: Program =
    Program { path: env!("CARGO_BIN_EXE_train_wordpiece"), toy: &["--vocabulary", "5000"] };
const TOKENIZE: Program = Program { path: env!("CARGO_BIN_EXE_tokenize"), toy: &[] };
const DETOKENIZE: Program = Program { path: env!("CARGO_BIN_EXE_detokenize"), toy: &[] };

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of plain characters")
}

/// A file of real data, or `None` with a message where it is absent.
fn shared(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data").join(name);
    let there = path.exists();
    if !there {
        eprintln!("skipped: `{}` is absent", path.display());
    }
    there.then_some(path)
}

/// Tokenizes, and detokenizes into `<out>.back`.
fn there_and_back(tokenizer: &Path, out: &Path, arguments: &[&str]) -> (TokenFile, PathBuf) {
    let summary = TOKENIZE.succeeds(out, &[&["--tokenizer", text(tokenizer)], arguments].concat());
    let file = TokenFile::load(out).expect("a file of tokens");
    assert_eq!(summary["samples"].as_u64(), Some(file.len() as u64));
    assert_eq!(summary["tokens"].as_u64(), Some(file.tokens.len() as u64));
    let back = out.with_extension("back");
    let summary = DETOKENIZE.succeeds(&back, &[text(out), "--tokenizer", text(tokenizer)]);
    assert_eq!(summary["samples"].as_u64(), Some(file.len() as u64));
    (file, back)
}

fn pictures(folder: &Path, file: &TokenFile, size: usize) {
    let mut names: Vec<String> = fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    assert_eq!(names.len(), file.len());
    for (number, name) in names.iter().enumerate() {
        assert!(name.starts_with(&format!("{number:06}_")) && name.ends_with(".png"), "{name}");
        let bytes = fs::read(folder.join(name)).expect("a picture");
        let picture = image::load_from_memory(&bytes).expect("a PNG file");
        assert_eq!([picture.width(), picture.height()], [size as u32; 2], "{name}");
    }
}

#[test]
fn pictures_become_tokens_and_pictures_again() {
    let directory = directory();
    for backbone in ["cnn", "vit"] {
        let trained = directory.path().join(backbone);
        TRAIN_VQGAN.succeeds(&trained, &["--model", "ema", "--backbone", backbone]);
        let out = directory.path().join(format!("{backbone}.safetensors"));
        let (file, back) = there_and_back(&trained, &out, &["--scenes", "5", "--batch", "2"]);
        assert_eq!((file.len(), file.about.grid, file.about.codes), (5, [4, 4], 64), "{backbone}");
        pictures(&back, &file, 16);
        assert!(!load_images(&back, false).expect("pictures").is_empty());
        let narrow = directory.path().join("narrow.safetensors");
        let options = ["--tokenizer", text(&trained), "--scenes", "5", "--batch", "2"];
        TOKENIZE.succeeds(&narrow, &[&options[..], &["--width", "u16"]].concat());
        assert_eq!(TokenFile::load(&narrow).expect("tokens").tokens, file.tokens);
        if let Some(kodak) = shared("photos_kodak24_half.tar") {
            let out = directory.path().join(format!("kodak-{backbone}.safetensors"));
            let (file, back) = there_and_back(&trained, &out, &["--data", text(&kodak)]);
            assert_eq!((file.len(), file.names.len()), (24, 24));
            pictures(&back, &file, 16);
        }
    }
}

#[test]
fn tokens_of_another_tokenizer_and_tokens_that_do_not_exist_are_refused() {
    let directory = directory();
    let [one, two] = ["one", "two"].map(|name| directory.path().join(name));
    for (out, seed) in [(&one, "1"), (&two, "2")] {
        TRAIN_VQGAN.succeeds(out, &["--model", "ema", "--seed", seed]);
    }
    let tokens = directory.path().join("t.safetensors");
    TOKENIZE.succeeds(&tokens, &["--tokenizer", text(&one), "--scenes", "3"]);
    let out = directory.path().join("back");
    let refused = |tokenizer: &Path, extra: &[&str]| {
        let message = DETOKENIZE.refuses(&out, &[&[text(&tokens), "--tokenizer", text(tokenizer)], extra].concat());
        assert!(!out.exists(), "{message}");
        message
    };
    let message = refused(&two, &[]);
    for expected in ["has tokens of the vqgan", "one/checkpoint", "two/checkpoint", "give the tokenizer that made them"]
    {
        assert!(message.contains(expected), "{message}");
    }
    assert!(refused(&directory.path().join("absent"), &[]).contains("absent"));
    assert!(refused(&tokens, &[]).contains("t.safetensors` is `vq-kernels tokens 1`"));
    assert!(refused(&one, &["--batch", "0"]).contains("--batch 0"));

    let mut bytes = fs::read(&tokens).expect("a file of tokens");
    let whole = bytes.clone();
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&64_u32.to_le_bytes());
    fs::write(&tokens, &bytes).expect("a file");
    let message = refused(&one, &[]);
    assert!(message.contains("token 64 of sample 2, place 15, does not exist: the codebook has 64 codes"), "{message}");
    fs::write(&tokens, &whole[..end - 1]).expect("a file");
    assert!(refused(&one, &[]).contains("not a sound safetensors file"));
    fs::write(&tokens, &whole).expect("a file");
    let message = DETOKENIZE.refuses(&out, &[text(&tokens), "--tokenizer", text(&one), "--steps", "5"]);
    assert!(message.contains("--steps and --guidance are for a diffusion decoder"), "{message}");
}

#[test]
fn what_cannot_be_tokenized_is_refused() {
    let directory = directory();
    let (trained, out) = (directory.path().join("trained"), directory.path().join("t.safetensors"));
    TRAIN_VQGAN.succeeds(
        &trained,
        &["--model", "ema", "--codes", "70000", "--dim", "4", "--steps", "1", "--tokens-per-code", "1"],
    );
    let empty = directory.path().join("empty");
    fs::create_dir(&empty).expect("a folder");
    let refused = |arguments: &[&str], expected: &str| {
        let message = TOKENIZE.refuses(&out, arguments);
        assert!(message.contains(expected), "{expected}: {message}");
        assert!(!out.exists());
    };
    let tokenizer = ["--tokenizer", text(&trained)];
    refused(&[&tokenizer[..], &["--width", "u16"]].concat(), "70000 codes do not fit into 16 bits");
    refused(&[&tokenizer[..], &["--data", text(&empty)]].concat(), "no readable picture");
    refused(&[&tokenizer[..], &["--data", "absent"]].concat(), "absent");
    refused(&[&tokenizer[..], &["--batch", "0"]].concat(), "--batch 0");
    let other = directory.path().join("other.safetensors");
    write_safetensors(&other, &[Tensor::new("x", &[1], &[1.0_f32])], &[]).expect("a file");
    refused(&["--tokenizer", text(&other)], "not a checkpoint of these trainers");
    let json = directory.path().join("other.json");
    fs::write(&json, "{}").expect("a file");
    refused(&["--tokenizer", text(&json)], "is no tokenizer.json");
    fs::write(&json, "").expect("a file");
    refused(&["--tokenizer", text(&json)], "is no tokenizer.json");
}

#[test]
fn maps_become_tokens_and_maps_again() {
    let directory = directory();
    let features = directory.path().join("features.safetensors");
    let values: Vec<f32> = (0..9 * 4 * 16).map(|i| (i * 7 % 31) as f32).collect();
    write_safetensors(&features, &[Tensor::new("maps", &[9, 4, 4, 4], &values)], &[]).expect("a file");
    for modality in ["rgb", "semseg", "masks", "features"] {
        let trained = directory.path().join(modality);
        let data: &[&str] = if modality == "features" { &["--data", text(&features)] } else { &[] };
        TRAIN_VQVAE.succeeds(&trained, &[&["--modality", modality], data].concat());
        let out = directory.path().join(format!("{modality}.safetensors"));
        let (file, back) = there_and_back(&trained, &out, data);
        assert_eq!((file.about.grid, file.about.codes), ([4, 4], 32), "{modality}");
        if modality == "features" {
            let mut made = SafetensorsFile::open(&back.join("values.safetensors")).expect("a file");
            assert_eq!(made.info("values").expect("values").1, [9, 4, 4, 4]);
            let made: Vec<f32> = made.read("values").expect("numbers");
            assert!(made.iter().all(|value| value.is_finite()));
        } else {
            pictures(&back, &file, 16);
        }
        if let ("semseg", Some(coco)) = (modality, shared("coco101_rgb_seg_boxes_captions.tar")) {
            // More classes than it was trained for.
            let message =
                TOKENIZE.refuses(&directory.path().join("no"), &["--tokenizer", text(&trained), "--data", text(&coco)]);
            assert!(message.contains("label"), "{message}");
        }
    }
}

#[test]
fn vectors_become_tokens_and_vectors_again() {
    let directory = directory();
    for (modality, real) in
        [("vectors", "coco_caption_minilm384_f16.safetensors"), ("poses", "cmu_mocap_poses.safetensors")]
    {
        let trained = directory.path().join(modality);
        TRAIN_MLP_VQVAE.succeeds(&trained, &["--modality", modality]);
        let out = directory.path().join(format!("{modality}.safetensors"));
        let (file, back) = there_and_back(&trained, &out, &["--scenes", "7", "--batch", "3"]);
        let [dim, ..] = file.about.sample.shape();
        assert_eq!((file.len(), file.about.grid[0]), (7, 1), "{modality}");
        let mut made = SafetensorsFile::open(&back.join("values.safetensors")).expect("a file");
        assert_eq!(made.info("values").expect("values").1, [7, dim], "{modality}");
        let made: Vec<f32> = made.read("values").expect("numbers");
        assert!(made.iter().all(|value| value.is_finite()));
        if let (207, Some(real)) = (dim, shared(real)) {
            let out = directory.path().join("real.safetensors");
            assert_eq!(there_and_back(&trained, &out, &["--data", text(&real), "--batch", "512"]).0.len(), 8157);
        }
    }
}

#[test]
fn sentences_become_tokens_and_sentences_again() {
    let directory = directory();
    let trained = directory.path().join("words");
    let coco = shared("coco101_rgb_seg_boxes_captions.tar");
    let data = coco.as_ref().map_or(["--scenes", "20"], |path| ["--data", text(path)]);
    // Of all texts, so that none has a character that is new.
    TRAIN_WORDPIECE.succeeds(&trained, &[&data[..], &["--hold-out", "0"]].concat());
    let words = WordPiece::load(&trained.join("tokenizer.json")).expect("a vocabulary");
    let mut lines = Vec::new();
    for say in ["captions", "boxes", "metadata"] {
        let out = directory.path().join(format!("{say}.safetensors"));
        let (file, back) = there_and_back(&trained, &out, &[&["--say", say], &data[..]].concat());
        let written = fs::read_to_string(back.join("text.txt")).expect("text");
        assert_eq!((written.lines().count(), file.names.len()), (file.len(), file.len()), "{say}");
        lines.push(written);
    }
    let [captions, boxes, metadata] = lines.try_into().unwrap_or_else(|_| panic!("three"));
    for line in boxes.lines() {
        boxes_of(line, words.classes()).expect("boxes");
    }
    for line in metadata.lines() {
        assert!(metadata_of(line).expect("fields").len() >= 5);
    }
    if let Some(coco) = coco {
        let corpus = read(&coco).expect("annotations");
        let expected: Vec<String> = corpus.texts.iter().map(|text| words.normalized(text).expect("words")).collect();
        assert_eq!(captions.lines().count(), expected.len());
        for (caption, expected) in captions.lines().zip(&expected) {
            assert_eq!(caption, expected);
        }
        let count = corpus.pictures.iter().map(|picture| picture.boxes.len()).sum::<usize>();
        let said = boxes.lines().map(|line| boxes_of(line, words.classes()).expect("boxes").len()).sum::<usize>();
        assert_eq!(said, count);
    }
}

#[test]
fn grids_of_presets_are_printed() {
    let print = |arguments: &[&str]| {
        let output = Command::new(TOKENIZE.path).arg("--dry-run").args(arguments).output().expect("the program starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    };
    let table = print(&[]);
    for (preset, grid) in [("4m-rgb-1k", "14x14"), ("4m-dinov2-b14-8k", "16x16"), ("4m-sam-instance-1k", " 4x4 ")] {
        assert!(table.lines().any(|line| line.contains(preset) && line.contains(grid)), "{preset}: {table}");
    }
    assert!(print(&["--preset", "small"]).lines().all(|line| line.contains("8x8")));
    let json: Value = serde_json::from_str(&print(&["--json"])).expect("JSON");
    assert!(json.as_array().is_some_and(|rows| rows.len() > 8));
    let output = Command::new(TOKENIZE.path).args(["--dry-run", "--preset", "huge"]).output().expect("it starts");
    assert!(String::from_utf8_lossy(&output.stderr).contains("--preset huge: known are"));
}
