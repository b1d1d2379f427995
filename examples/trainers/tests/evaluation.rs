//! The programs that look at trained models: `evaluate`, `count_macs`.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

fn run(program: &str, arguments: &[&str]) -> Output {
    Command::new(program).args(arguments).output().expect("the program starts")
}

fn train(out: &Path, model: &str) {
    let output = run(
        env!("CARGO_BIN_EXE_train_vqgan"),
        &["--preset", "tiny", "--scenes", "24", "--model", model, "--out", &out.display().to_string()],
    );
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn runs_stand_side_by_side_with_the_figures_of_their_own_summaries() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = |name: &str| directory.path().join(name);
    let text = |name: &str| path(name).display().to_string();
    train(&path("ema"), "ema");
    train(&path("lc"), "lc");
    let (ema, lc, out) = (text("ema"), text("lc"), text("table"));
    let centres = path("lc").join("codebook.safetensors").display().to_string();
    let common = ["--scenes", "24", "--out", &out, "--codebook", &centres, "--json", &ema, &lc];
    let output = run(env!("CARGO_BIN_EXE_evaluate"), &common);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let rows: Value = serde_json::from_slice(&output.stdout).expect("one line of JSON");
    for (row, run) in [(0, "ema"), (1, "lc")] {
        let summary = fs::read(path(run).join("summary.json")).expect("a summary");
        let summary: Value = serde_json::from_slice(&summary).expect("JSON");
        assert_eq!(rows[row]["evaluation"], summary["evaluation"], "{run}");
        assert_eq!(rows[row]["model"], summary["model"]);
    }
    let table = fs::read_to_string(path("table").join("table.txt")).expect("a table");
    assert!(table.contains("VQGAN-EMA") && table.contains("random-features distance") && !table.contains("FID"));
    for picture in ["utilization.svg", "psnr.svg", "table.json"] {
        assert!(path("table").join(picture).exists(), "{picture}");
    }

    // Centres of another file are told by their hash.
    let other = path("other");
    let output = run(
        env!("CARGO_BIN_EXE_train_vqgan"),
        &["--preset", "tiny", "--scenes", "24", "--seed", "1", "--out", &other.display().to_string()],
    );
    assert!(output.status.success());
    let refused = run(
        env!("CARGO_BIN_EXE_evaluate"),
        &[
            "--scenes",
            "24",
            "--out",
            &out,
            "--codebook",
            &other.join("codebook.safetensors").display().to_string(),
            &lc,
        ],
    );
    let message = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && message.contains("centres of hash"), "{message}");
    let refused = run(env!("CARGO_BIN_EXE_evaluate"), &["--scenes", "24", "--out", &out, &text("absent")]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("absent"));
}

/// The published table, to its digits.
#[test]
fn the_published_counts_are_printed() {
    let output = run(env!("CARGO_BIN_EXE_count_macs"), &[]);
    let text = String::from_utf8(output.stdout).expect("text");
    for figure in ["195.08", "195.70", "71.71", "71.72"] {
        assert!(text.contains(figure), "{figure} is not in\n{text}");
    }
}
