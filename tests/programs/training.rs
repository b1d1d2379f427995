//! `train_codebook`: what comes out of runs that go well.

use half::{bf16, f16};
use safetensors::Dtype;
use serde_json::Value;
use vq_kernels::Isa;

use crate::place::{Place, archive, clustered, f32_bytes, picture, too_slow};

const LEARNERS: [&str; 4] = ["plain", "gradient", "ema", "projector"];

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().expect("an object").keys().map(String::as_str).collect()
}

fn number(value: &Value, key: &str) -> f64 {
    value[key].as_f64().unwrap_or_else(|| panic!("{key} is {}", value[key]))
}

#[test]
fn a_run_ends_with_one_line_of_json_and_its_files() {
    let place = Place::new();
    let done = place.run("train_codebook --scenes 12 --codes 256 --steps 40 --batch 512 --json --out run").ok();
    let result = done.json();
    assert_eq!(
        keys(&result),
        [
            "active",
            "codes",
            "dim",
            "held_out_utilization",
            "learn",
            "peak_rss_mb",
            "perplexity",
            "psnr_db",
            "psnr_mean_patch_db",
            "psnr_own_mean_db",
            "rows",
            "rows_per_code",
            "seconds",
            "steps",
            "utilization",
        ]
    );
    let settings = ["codes", "dim", "steps", "rows"].map(|key| number(&result, key));
    assert_eq!((settings, &result["learn"]), ([256.0, 8.0, 40.0, 11.0 * 1024.0], &Value::from("ema")));
    let active = number(&result, "active");
    assert!(active >= 1.0 && number(&result, "utilization") == active / 256.0, "{result}");
    assert!((1.0..=active).contains(&number(&result, "perplexity")), "{result}");
    assert!(number(&result, "psnr_db") > number(&result, "psnr_mean_patch_db"), "learned nothing: {result}");
    assert!(number(&result, "seconds") > 0.0);
    if cfg!(target_os = "linux") {
        assert!((1.0..2000.0).contains(&number(&result, "peak_rss_mb")), "{result}");
    }

    let files = ["checkpoint.safetensors", "codebook.safetensors", "counts.svg", "log.jsonl", "reconstruction.png"];
    assert_eq!(place.files_in("run"), [&files[..], &["usage.svg"]].concat());
    for name in ["run/usage.svg", "run/counts.svg"] {
        let text = place.text(name);
        assert!(text.starts_with("<svg") && text.trim_end().ends_with("</svg>"), "{name}");
    }
    image::load_from_memory(&place.bytes("run/reconstruction.png")).expect("a picture");

    let log = place.text("run/log.jsonl");
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let steps: Vec<u64> = lines.iter().map(|line| line["step"].as_u64().expect("a step")).collect();
    assert_eq!(steps, (1..=40).collect::<Vec<_>>());
    assert!(number(&lines[39], "commitment_loss") < number(&lines[0], "commitment_loss"), "{log}");

    let book = "run/codebook.safetensors";
    for (name, expected) in [
        ("codebook", &[256, 8][..]),
        ("project_in.weight", &[8, 48]),
        ("project_in.bias", &[8]),
        ("project_out.weight", &[48, 8]),
        ("project_out.bias", &[48]),
    ] {
        let (shape, values) = place.floats(book, name);
        assert_eq!(shape, expected, "{name}");
        assert!(values.iter().all(|x| x.is_finite()), "{name}");
    }
    let settings = ["metric", "normalize", "input", "patch", "learn", "steps"].map(|key| place.setting(book, key));
    assert_eq!(settings, ["cosine", "true", "patches", "4", "ema", "40"]);
}

#[test]
fn without_json_nothing_goes_to_standard_output() {
    let place = Place::new();
    let done = place.run("train_codebook --scenes 3 --codes 64 --steps 2 --batch 64 --out a/b/run").ok();
    assert_eq!(done.stdout, "");
    done.says(&["utilization", "perplexity", "held-out PSNR", "a/b/run"]);
}

#[test]
fn every_learner_start_and_switch_runs() {
    struct Case {
        args: &'static str,
        dim: usize,
        metric: &'static str,
    }
    // Where a switch contradicts the learner's own nature, the learner stands: `plain` has no factors.
    const CASES: [Case; 22] = [
        Case { args: "--learn plain --init normal", dim: 48, metric: "l2" },
        Case { args: "--learn plain --init uniform", dim: 48, metric: "l2" },
        Case { args: "--learn plain --init kmeans", dim: 48, metric: "l2" },
        Case { args: "--learn gradient --init normal", dim: 8, metric: "cosine" },
        Case { args: "--learn gradient --init uniform", dim: 8, metric: "cosine" },
        Case { args: "--learn gradient --init kmeans", dim: 8, metric: "cosine" },
        Case { args: "--learn ema --init normal", dim: 8, metric: "cosine" },
        Case { args: "--learn ema --init uniform", dim: 8, metric: "cosine" },
        Case { args: "--learn ema --init kmeans --kmeans-passes 2", dim: 8, metric: "cosine" },
        Case { args: "--learn projector --init normal", dim: 8, metric: "l2" },
        Case { args: "--learn projector --init uniform", dim: 8, metric: "l2" },
        Case { args: "--learn projector --init kmeans", dim: 8, metric: "l2" },
        Case { args: "--learn plain --l2", dim: 48, metric: "cosine" },
        Case { args: "--learn projector --l2 --dim 5", dim: 5, metric: "cosine" },
        Case { args: "--learn gradient --no-l2", dim: 8, metric: "l2" },
        Case { args: "--learn ema --no-l2", dim: 8, metric: "l2" },
        Case { args: "--learn gradient --no-restart", dim: 8, metric: "cosine" },
        Case { args: "--learn ema --no-restart --dim 3", dim: 3, metric: "cosine" },
        Case { args: "--learn gradient --no-factorize", dim: 48, metric: "cosine" },
        Case { args: "--learn ema --no-factorize --patch 2", dim: 12, metric: "cosine" },
        Case { args: "--learn projector --no-factorize", dim: 48, metric: "l2" },
        Case { args: "--learn ema --no-l2 --no-restart --no-factorize", dim: 48, metric: "l2" },
    ];
    let place = Place::new();
    for (i, Case { args, dim, metric }) in CASES.iter().enumerate() {
        let line = format!("train_codebook {args} --scenes 3 --codes 64 --steps 3 --batch 96 --json --out {i}");
        let result = place.run(&line).ok().json();
        assert_eq!((number(&result, "dim"), number(&result, "codes")), (*dim as f64, 64.0), "{args}");
        let book = format!("{i}/codebook.safetensors");
        let (shape, codes) = place.floats(&book, "codebook");
        assert_eq!(shape, [64, *dim], "{args}");
        assert!(codes.iter().all(|x| x.is_finite()), "{args}");
        assert_eq!(place.setting(&book, "metric"), *metric, "{args}");
        let unit = codes.chunks(*dim).all(|code| (code.iter().map(|x| x * x).sum::<f32>() - 1.0).abs() < 1e-4);
        assert_eq!(unit, *metric == "cosine", "{args}: only a normalized codebook has unit codes");
        assert_eq!(place.tensors(&book).len(), 5, "{args}: the codebook, encoder and decoder");
    }
}

#[test]
fn threads_and_instruction_sets_give_the_same_files() {
    if too_slow("training on the scalar instruction set") {
        return;
    }
    let place = Place::new();
    for learn in LEARNERS {
        let run = |isa: &str, threads: usize| {
            let out = format!("{learn}-{isa}-{threads}");
            place
                .run(&format!(
                    "train_codebook --learn {learn} --scenes 3 --codes 50 --dim 7 --steps 6 --batch 333 \
                     --isa {isa} --threads {threads} --out {out}"
                ))
                .ok();
            ["codebook.safetensors", "checkpoint.safetensors", "log.jsonl", "reconstruction.png", "usage.svg"]
                .map(|name| place.bytes(&format!("{out}/{name}")))
        };
        let expected = run("scalar", 1);
        for isa in Isa::available() {
            for threads in [1, 2, 3] {
                let same = run(isa.name(), threads) == expected;
                assert!(same, "{learn}: {} with {threads} threads gives other bytes", isa.name());
            }
        }
    }
}

#[test]
fn a_seed_is_a_codebook() {
    let place = Place::new();
    let codebook = |seed: u64, out: &str| {
        let line = format!("train_codebook --scenes 3 --codes 32 --steps 3 --batch 64 --seed {seed} --out {out}");
        place.run(&line).ok();
        place.bytes(&format!("{out}/codebook.safetensors"))
    };
    let first = codebook(0, "a");
    assert_eq!(codebook(0, "b"), first);
    assert_ne!(codebook(1, "c"), first);
    assert_ne!(codebook(u64::MAX, "d"), first);
}

#[test]
fn features_are_scaled_as_a_whole_and_need_no_pictures() {
    let place = Place::new();
    let (rows, dim) = (900, 12);
    let x: Vec<f32> = clustered(rows, dim, 10, 3).iter().map(|x| 40.0 + 3.0 * x).collect();
    place.write_rows("x.safetensors", rows, &x);
    let run = |features: &str, out: &str| {
        place
            .run(&format!(
                "train_codebook --features {features} --codes 32 --dim 6 --steps 60 --batch 256 --json --out {out}"
            ))
            .ok()
            .json()
    };
    let result = run("x.safetensors", "run");
    assert_eq!(result["psnr_own_mean_db"], Value::Null);
    assert!(number(&result, "psnr_db") > number(&result, "psnr_mean_patch_db") + 1.0, "{result}");
    assert!((700.0..899.0).contains(&number(&result, "rows")), "about a sixteenth is held out: {result}");
    assert!(!place.path("run/reconstruction.png").exists(), "features are no pictures");

    let n = x.len() as f64;
    let mean = x.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
    let deviation = (x.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / n).sqrt();
    let setting = |key: &str| place.setting("run/codebook.safetensors", key);
    let [got_mean, got_scale] = ["mean", "scale"].map(|key| setting(key).parse::<f64>().expect("a number"));
    assert!((got_mean - mean).abs() < 1e-9 && (got_scale - deviation).abs() < 1e-9, "{got_mean}, {got_scale}");
    assert_eq!([setting("input"), setting("patch")], ["features", "0"]);

    // Narrower numbers give the codebook of the numbers that they stand for.
    let f16s: Vec<f16> = x.iter().map(|&x| f16::from_f32(x)).collect();
    let bf16s: Vec<bf16> = x.iter().map(|&x| bf16::from_f32(x)).collect();
    let narrow: [(&str, Dtype, Vec<u8>, Vec<f32>); 2] = [
        (
            "f16",
            Dtype::F16,
            f16s.iter().flat_map(|x| x.to_le_bytes()).collect(),
            f16s.iter().map(|x| x.to_f32()).collect(),
        ),
        (
            "bf16",
            Dtype::BF16,
            bf16s.iter().flat_map(|x| x.to_le_bytes()).collect(),
            bf16s.iter().map(|x| x.to_f32()).collect(),
        ),
    ];
    for (name, dtype, bytes, wide) in narrow {
        place.write_tensor(&format!("{name}.st"), "x", dtype, &[rows, dim], &bytes);
        place.write_tensor(&format!("{name}-wide.st"), "x", Dtype::F32, &[rows, dim], &f32_bytes(&wide));
        run(&format!("{name}.st"), name);
        run(&format!("{name}-wide.st"), &format!("{name}-wide"));
        let [narrow, wide] =
            [name.to_owned(), format!("{name}-wide")].map(|out| place.bytes(&format!("{out}/codebook.safetensors")));
        assert!(narrow == wide, "{name}");
    }
}

#[test]
fn a_directory_and_its_archive_train_the_same_codebook() {
    let place = Place::new();
    let pictures: Vec<(String, Vec<u8>)> =
        (0..6).map(|i| (format!("{}/{i}.png", i % 2), picture(33 + i, 29, u64::from(i)))).collect();
    for (name, bytes) in &pictures {
        place.write(&format!("pictures/{name}"), bytes);
    }
    // An archive has its own order; what is no picture is left alone.
    let mut files: Vec<(&str, Vec<u8>)> = pictures.iter().rev().map(|(name, b)| (name.as_str(), b.clone())).collect();
    files.insert(1, ("notes.txt", b"not a picture".to_vec()));
    place.write("pictures.tar", &archive(&files));
    place.write("pictures/notes.txt", b"not a picture");
    let run = |images: &str, out: &str| {
        let line = format!("train_codebook --images {images} --codes 40 --steps 5 --batch 64 --json --out {out}");
        let result = place.run(&line).ok().json();
        assert!(place.path(out).join("reconstruction.png").exists());
        (place.bytes(&format!("{out}/codebook.safetensors")), result["psnr_db"].clone())
    };
    assert!(run("pictures", "a") == run("pictures.tar", "b"));

    // One that cannot be read is named, and the others are used.
    place.write("pictures/0/broken.png", &pictures[0].1[..40]);
    let done = place.run("train_codebook --images pictures --codes 40 --steps 5 --batch 64 --out c").ok();
    done.says(&["warning", "0/broken.png", "skipped 1 of 7"]);
    assert!(place.bytes("c/codebook.safetensors") == place.bytes("a/codebook.safetensors"));
}

#[test]
fn compare_leaves_tables_and_bars() {
    if too_slow("the ablation at 8,192 codes") {
        return;
    }
    let place = Place::new();
    let done =
        place.run("train_codebook --compare --codes 32,64 --scenes 3 --steps 2 --batch 64 --json --out run").ok();
    let result = done.json();
    assert_eq!(keys(&result), ["as_published", "fixes", "with_restart"]);
    let rows = |name: &str| result[name].as_array().map_or(0, Vec::len);
    assert_eq!(["as_published", "with_restart", "fixes"].map(rows), [8, 8, 8]);
    let written: Value = serde_json::from_str(&place.text("run/compare.json")).expect("JSON");
    assert_eq!(written, result);
    for table in ["as_published", "with_restart", "fixes"] {
        assert_eq!(place.text(&format!("run/{table}.md")).lines().filter(|line| line.starts_with('|')).count(), 10);
        for what in ["utilization", "psnr"] {
            assert!(place.text(&format!("run/{table}_{what}.svg")).starts_with("<svg"), "{table}, {what}");
        }
    }
    for learn in LEARNERS {
        done.says(&[&format!("| {learn} | 32 |")]);
    }
}
