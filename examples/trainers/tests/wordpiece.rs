//! The program `train_wordpiece`, run as a person runs it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use trainers::wordpiece::{WordPiece, parse_value, read};

const PROGRAM: &str = env!("CARGO_BIN_EXE_train_wordpiece");

fn run(data: &[&Path], out: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(PROGRAM);
    for data in data {
        command.arg("--data").arg(data);
    }
    command.args(arguments).arg("--out").arg(out).output().expect("the program starts")
}

fn succeeds(data: &[&Path], out: &Path, arguments: &[&str]) -> Value {
    let output = run(data, out, &[arguments, &["--json"]].concat());
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("one line of JSON")
}

fn refused(data: &[&Path], out: &Path, arguments: &[&str], expected: &str) {
    let output = run(data, out, arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {errors}");
    assert!(errors.contains(expected) && !errors.contains("panicked"), "{expected}: {errors}");
    assert!(!out.join("tokenizer.json").exists());
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

/// All 25,014 captions of COCO's validation set: every one comes back, and none has an unknown token.
#[test]
fn every_caption_of_coco_comes_back() {
    let Some(captions) = shared("coco_val2017_captions.tsv") else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let [one, two] = ["one", "two"].map(|name| folder.path().join(name));
    let summary = succeeds(&[&captions], &one, &["--hold-out", "0"]);
    let report = &summary["training_texts"];
    assert_eq!(report["texts"].as_u64(), Some(25_014));
    assert_eq!((report["unknown"].as_u64(), report["differing"].as_u64()), (Some(0), Some(0)), "{report}");
    assert_eq!(summary["atomic_value_tokens"].as_u64(), Some(4000));
    // In another process: hash maps are in another order.
    succeeds(&[&captions], &two, &["--hold-out", "0"]);
    let bytes = |out: &Path| fs::read(out.join("tokenizer.json")).expect("bytes");
    assert!(bytes(&one) == bytes(&two), "the same file");

    // And by another count: the letters and marks that come back are those of the line, in lower case and without accents.
    let vocabulary = WordPiece::load(&one.join("tokenizer.json")).expect("a vocabulary");
    let plain = |text: &str| text.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase();
    for text in read(&captions).expect("captions").texts {
        let ids = vocabulary.encode(&text).expect("tokens");
        let back = vocabulary.decode(&ids).expect("text");
        if text.is_ascii() {
            assert_eq!(plain(&back), plain(&text));
        }
        assert!(!back.contains("[UNK]"), "{text}");
        assert!(back.split(' ').all(|word| parse_value(word).is_none()));
    }
}

#[test]
fn files_are_written_whole_and_held_out_texts_are_counted() {
    let folder = tempfile::tempdir().expect("a folder");
    let (data, other) = (folder.path().join("a.txt"), folder.path().join("b.TSV"));
    let lines: String = (0..200).map(|i| format!("picture number {i} of a dog\r\n\n")).collect();
    fs::write(&data, lines).expect("a file");
    fs::write(&other, "17\tA horse\tand a cart\n18\tA cow").expect("a file");
    let out = folder.path().join("out");
    let summary = succeeds(&[&data, &other], &out, &["--hold-out", "0.25", "--vocabulary", "4400"]);
    let texts = |key: &str| summary[key]["texts"].as_u64().expect("a count");
    assert_eq!(texts("training_texts") + texts("held_out_texts"), 202);
    assert!((20..90).contains(&texts("held_out_texts")), "{summary}");
    assert_eq!(summary["held_out_texts"]["differing"].as_u64(), Some(0));
    let written: Value = serde_json::from_slice(&fs::read(out.join("summary.json")).expect("a summary")).expect("JSON");
    assert_eq!(written, summary);
    let vocabulary = WordPiece::load(&out.join("tokenizer.json")).expect("a vocabulary");
    assert_eq!(Some(vocabulary.hash()), summary["hash"].as_str());
    let names: Vec<_> =
        fs::read_dir(&out).expect("a folder").map(|entry| entry.expect("an entry").file_name()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
}

#[test]
fn bad_input_is_refused_in_words() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("out");
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).expect("a file");
        path
    };
    for (name, bytes, expected) in [
        (
            "empty.txt",
            &b""[..],
            "`".to_owned() + &folder.path().join("empty.txt").display().to_string() + "` has no sentence",
        ),
        ("blank.txt", b" \n\t\n\n", "has no sentence".into()),
        ("latin.txt", b"caf\xe9\n", "line 1: it is not UTF-8".into()),
        ("second.txt", b"good\nbad \xff\n", "line 2: it is not UTF-8".into()),
        ("long.txt", &vec![b'a'; (1 << 20) + 2], "line 1: it is longer than 1 MiB".into()),
        ("no_tab.tsv", b"1\ta dog\na cat\n", "line 2: expected a picture's number, a tab".into()),
        ("controls.txt", b"\x01\x02\n", "no word to train on".into()),
    ] {
        refused(&[&file(name, bytes)], &out, &["--hold-out", "0"], &expected);
    }
    let good = file("good.txt", b"a dog\na cat\nof course\n");
    refused(&[folder.path()], &out, &[], "no file `annotations.json`");
    refused(&[], &out, &["--scenes", "0"], "0 scenes");
    refused(&[&folder.path().join("absent.txt")], &out, &[], "spelt right");
    let names = file("names.txt", b"dog\nhot  dog\n");
    let names = names.to_str().expect("a path");
    for (arguments, expected) in [
        (["--vocabulary", "4284"], "is too small"),
        (["--vocabulary", "0"], "is too small"),
        (["--sentinels", "100001"], "--sentinels 100001"),
        (["--hold-out", "1"], "--hold-out 1"),
        (["--hold-out", "NaN"], "--hold-out NaN"),
        (["--classes", "nowhere"], "cannot read `nowhere`"),
        (["--classes", names], "`hot  dog` is no name of a class"),
    ] {
        refused(&[&good], &out, &arguments, expected);
    }
    refused(&[&good], &good, &[], "good.txt");
}

/// Captions, boxes and metadata of rendered scenes, and of COCO's pictures where they are at hand.
#[test]
fn boxes_and_metadata_of_pictures_come_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let count = |value: &Value, key: &str| value[key].as_u64().unwrap_or_else(|| panic!("{key} of {value}"));
    let check = |summary: &Value, pictures: u64, boxes: u64| {
        for key in ["boxes", "metadata"] {
            assert_eq!(count(&summary[key], "differing"), 0, "{key}: {summary}");
            assert!(count(&summary[key], "things") >= count(&summary[key], "pictures"), "{key}: {summary}");
        }
        assert_eq!(count(&summary["metadata"], "pictures"), pictures);
        assert!(count(&summary["boxes"], "things") >= boxes, "{summary}");
        let worst = summary["boxes"]["worst"].as_f64().expect("a distance");
        assert!(worst > 0.4 / 999.0 && worst <= 0.5 / 999.0 + 1e-12, "{worst}");
        assert_eq!(count(&summary["training_texts"], "differing"), 0);
        assert_eq!(count(&summary["training_texts"], "unknown"), 0);
    };
    check(&succeeds(&[], &folder.path().join("scenes"), &["--scenes", "64"]), 64, 64);
    if let Some(coco) = shared("coco101_rgb_seg_boxes_captions.tar") {
        check(&succeeds(&[&coco], &folder.path().join("coco"), &[]), 101, 900);
    }
}
