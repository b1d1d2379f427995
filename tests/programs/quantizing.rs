//! `quantize`: codes and rows are those of the library, for every kind of codebook that is trained.

use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use vq_kernels::quantizer::{Config, Initial, Learner, Quantizer, StateMut};
use vq_kernels::{Cpu, Isa, MatMut, MatRef, Metric, NO_CODE, PackedCodebook, ops};

use crate::place::{Place, clustered, f32_bytes, too_slow};

/// A training and its codebook.
struct Case {
    args: &'static str,
    learner: Learner,
    factorize: bool,
    normalize: bool,
}

const DIM: usize = 6;
const WIDTH: usize = 12;
const CODES: usize = 70;
const ROWS: usize = 500;

const CASES: [Case; 6] = [
    Case { args: "--learn ema", learner: Learner::Ema, factorize: true, normalize: true },
    Case { args: "--learn ema --no-l2 --no-factorize", learner: Learner::Ema, factorize: false, normalize: false },
    Case { args: "--learn gradient", learner: Learner::Gradient, factorize: true, normalize: true },
    Case { args: "--learn gradient --no-l2", learner: Learner::Gradient, factorize: true, normalize: false },
    Case { args: "--learn plain --init kmeans", learner: Learner::Gradient, factorize: false, normalize: false },
    Case {
        args: "--learn projector",
        learner: Learner::Projector { source_dim: WIDTH },
        factorize: true,
        normalize: false,
    },
];

fn mat(values: &[f32], rows: usize) -> MatRef<'_> {
    MatRef::new(values, rows, values.len() / rows).expect("whole rows")
}

/// The quantizer that a training ended with, from its checkpoint.
fn quantizer(place: &Place, checkpoint: &str, case: &Case) -> Quantizer {
    let config = Config {
        inputs: WIDTH,
        dim: if case.factorize { DIM } else { WIDTH },
        codes: CODES,
        learner: case.learner,
        // Encoder and decoder are always there; unfactorized, they keep the width.
        factorize: true,
        normalize: case.normalize,
        restart: None,
        ..Config::default()
    };
    let mut quantizer = Quantizer::new(config, Initial::Normal).expect("a quantizer");
    let bytes = place.bytes(checkpoint);
    let file = SafeTensors::deserialize(&bytes).expect("a sound checkpoint");
    let restored: Result<(), vq_kernels::Error> = quantizer.restore(|name, to| {
        let data = file.tensor(name).unwrap_or_else(|cause| panic!("{name}: {cause}")).data();
        match to {
            StateMut::F32(to) => fill(to, data.as_chunks().0, |item| f32::from_le_bytes(*item)),
            StateMut::F64(to) => fill(to, data.as_chunks().0, |item| f64::from_le_bytes(*item)),
            StateMut::U64(to) => fill(to, data.as_chunks().0, |item| u64::from_le_bytes(*item)),
        }
        Ok(())
    });
    restored.expect("a state");
    quantizer
}

fn fill<T, const N: usize>(to: &mut [T], items: &[[u8; N]], number: fn(&[u8; N]) -> T) {
    assert_eq!(to.len(), items.len());
    to.iter_mut().zip(items).for_each(|(to, item)| *to = number(item));
}

/// `(x − mean) / scale`, as the codebook's file tells.
fn entered(place: &Place, book: &str, x: &[f32]) -> Vec<f32> {
    let [mean, scale] = ["mean", "scale"].map(|key| place.setting(book, key).parse::<f64>().expect("a number"));
    x.iter().map(|&x| ((f64::from(x) - mean) / scale) as f32).collect()
}

fn left(place: &Place, book: &str, x: &[f32]) -> Vec<f32> {
    let [mean, scale] = ["mean", "scale"].map(|key| place.setting(book, key).parse::<f64>().expect("a number"));
    x.iter().map(|&x| (f64::from(x) * scale + mean) as f32).collect()
}

/// Codes as the codebook's file alone tells: project, normalize, search.
fn codes_by_hand(place: &Place, book: &str, x: &[f32], cpu: &Cpu) -> Vec<u32> {
    let (shape, codes) = place.floats(book, "codebook");
    let mut z = x.to_vec();
    if place.tensors(book).contains(&"project_in.weight".to_owned()) {
        let (weight_shape, weight) = place.floats(book, "project_in.weight");
        let (_, bias) = place.floats(book, "project_in.bias");
        z = vec![0.0; ROWS * shape[1]];
        let y = MatMut::new(&mut z, ROWS, shape[1]).expect("whole rows");
        ops::project(cpu, mat(x, ROWS), mat(&weight, weight_shape[0]), Some(&bias), y).expect("shapes agree");
    }
    if place.setting(book, "normalize") == "true" {
        let raw = z.clone();
        let y = MatMut::new(&mut z, ROWS, shape[1]).expect("whole rows");
        ops::normalize(cpu, mat(&raw, ROWS), y, None).expect("shapes agree");
    }
    let metric = [Metric::Cosine, Metric::L2].into_iter().find(|m| m.name() == place.setting(book, "metric"));
    let packed = PackedCodebook::new(mat(&codes, shape[0]), metric.expect("a metric")).expect("a codebook");
    let mut found = vec![0; ROWS];
    ops::search(cpu, mat(&z, ROWS), None, &packed, &mut found, None).expect("shapes agree");
    found
}

fn psnr(x: &[f32], y: &[f32]) -> f64 {
    let (low, high) = x.iter().fold((f32::MAX, f32::MIN), |(low, high), &x| (low.min(x), high.max(x)));
    let squares: f64 = x.iter().zip(y).map(|(&x, &y)| (f64::from(x) - f64::from(y)).powi(2)).sum();
    10.0 * (f64::from(high - low).powi(2) * x.len() as f64 / squares).log10()
}

#[test]
fn encode_and_decode_are_the_trained_quantizer() {
    let place = Place::new();
    let cpu = Cpu::with_isa(Isa::SCALAR);
    // Features have a mean and a scale; pictures have neither.
    let features: Vec<f32> = clustered(2000, WIDTH, 60, 1).iter().map(|x| 7.0 - 2.0 * x).collect();
    place.write_rows("features.st", 2000, &features);
    let patches: Vec<f32> = clustered(ROWS, WIDTH, 60, 2).iter().map(|x| x.clamp(-1.0, 1.0)).collect();
    for (i, case) in CASES.iter().enumerate() {
        let inputs = [("--features features.st", &features[..ROWS * WIDTH]), ("--scenes 4 --patch 2", &patches)];
        for (j, (input, x)) in inputs.into_iter().enumerate() {
            let context = format!("{} {input}", case.args);
            let out = format!("{i}-{j}");
            place
                .run(&format!(
                    "train_codebook {} {input} --codes {CODES} --dim {DIM} --steps 150 --batch 256 --out {out}",
                    case.args
                ))
                .ok();
            let book = format!("{out}/codebook.safetensors");
            place.write_rows("x.st", ROWS, x);
            let encoded =
                place.run(&format!("quantize encode --codebook {book} --input x.st --output codes.st --json")).ok();
            place.run(&format!("quantize decode --codebook {book} --input codes.st --output y.st")).ok();

            let quantizer = quantizer(&place, &format!("{out}/checkpoint.safetensors"), case);
            let inside = entered(&place, &book, x);
            let mut expected = vec![0; ROWS];
            quantizer.encode(&cpu, mat(&inside, ROWS), None, &mut expected).expect("shapes agree");
            let codes = place.codes("codes.st");
            assert_eq!(codes, expected, "{context}");
            assert_eq!(codes, codes_by_hand(&place, &book, &inside, &cpu), "{context}");

            let mut decoded = vec![0.0; x.len()];
            let view = MatMut::new(&mut decoded, ROWS, WIDTH).expect("whole rows");
            quantizer.decode(&cpu, &codes, view).expect("shapes agree");
            let (shape, y) = place.floats("y.st", "x");
            assert_eq!(shape, [ROWS, WIDTH], "{context}");
            assert!(f32_bytes(&y) == f32_bytes(&left(&place, &book, &decoded)), "{context}: other rows");

            let summary = encoded.json();
            let mut distinct = codes.clone();
            distinct.sort_unstable();
            distinct.dedup();
            assert_eq!(summary["active"], distinct.len(), "{context}");
            assert_eq!((&summary["rows"], &summary["without_code"]), (&ROWS.into(), &0.into()), "{context}");
            if j == 0 {
                let mean = x.iter().sum::<f32>() / x.len() as f32;
                let (quantized, flat) = (psnr(x, &y), psnr(x, &vec![mean; x.len()]));
                println!("{context}: {quantized:.2} dB, the mean alone {flat:.2} dB, {} codes", distinct.len());
                assert!(quantized > flat + 1.0, "{context}: {quantized:.2} dB, the mean alone {flat:.2} dB");
            }
        }
    }
}

/// A codebook and 20,000 rows: more than are in memory at a time.
fn large(place: &Place) -> usize {
    let rows = 20_000;
    place.write_tensor("book.st", "codebook", Dtype::F32, &[129, 5], &f32_bytes(&clustered(129, 5, 129, 4)));
    place.write_rows("x.st", rows, &clustered(rows, 5, 300, 5));
    rows
}

#[test]
fn blocks_threads_and_instruction_sets_give_the_same_codes() {
    if too_slow("encoding on the scalar instruction set") {
        return;
    }
    let place = Place::new();
    let rows = large(&place);
    for metric in ["cosine", "l2"] {
        let mut expected = Vec::new();
        for isa in Isa::available() {
            for threads in [1, 2, 3] {
                let line = format!(
                    "quantize encode --codebook book.st --input x.st --output codes.st --metric {metric} --isa {} \
                     --threads {threads}",
                    isa.name()
                );
                assert_eq!(place.run(&line).ok().stdout, "");
                let bytes = place.bytes("codes.st");
                if expected.is_empty() {
                    assert_eq!(place.codes("codes.st").len(), rows);
                    expected = bytes;
                } else {
                    assert!(bytes == expected, "{line}");
                }
            }
        }
    }
}

#[test]
fn a_row_of_nan_has_no_code_and_becomes_a_row_of_zeros() {
    let place = Place::new();
    place.write_tensor("book.st", "codebook", Dtype::F32, &[2, 2], &f32_bytes(&[1.0, 0.0, 0.0, 1.0]));
    place.write_rows("x.st", 3, &[0.1, 3.0, f32::NAN, 1.0, 2.0, 0.5]);
    let done = place.run("quantize encode --codebook book.st --input x.st --output codes.st --json").ok();
    assert_eq!((&done.json()["without_code"], &done.json()["active"]), (&Value::from(1), &Value::from(2)));
    assert_eq!(place.codes("codes.st"), [1, NO_CODE, 0]);
    place.run("quantize decode --codebook book.st --input codes.st --output y.st").ok();
    assert_eq!(place.floats("y.st", "x"), (vec![3, 2], vec![0.0, 1.0, 0.0, 0.0, 1.0, 0.0]));
    assert_eq!(place.run("quantize inspect codes.st").ok().stdout.matches("1 rows without a code").count(), 1);
}

#[test]
fn inspect_tells_tensors_settings_and_duplicates() {
    let place = Place::new();
    place.run("train_codebook --scenes 3 --codes 16 --steps 2 --batch 64 --out run").ok();
    let told = place.run("quantize inspect run/codebook.safetensors").ok().stdout;
    for part in ["codebook F32 [16, 8]", "project_in.weight F32 [8, 48]", "metric = cosine", "learn = ema", "norms:"] {
        assert!(told.contains(part), "no `{part}` in\n{told}");
    }
    assert!(place.run("quantize inspect run/checkpoint.safetensors").ok().stdout.contains("plan = "));
    let twice = [1.0, 2.0, 3.0, 4.0, 1.0, 2.0, f32::NAN, 0.0];
    place.write_tensor("book.st", "codebook", Dtype::F32, &[4, 2], &f32_bytes(&twice));
    let told = place.run("quantize inspect book.st").ok().stdout;
    assert!(told.contains("1 exact duplicates, 1 codes with NaN"), "{told}");
}

#[test]
fn an_index_holds_the_codes_and_is_whole_or_refused() {
    use vq_kernels::index::{Codes, Index};
    let place = Place::new();
    let codes = clustered(70, 6, 70, 6);
    place.write_tensor("book.st", "codebook", Dtype::F32, &[70, 6], &f32_bytes(&codes));
    let largest = codes.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
    for (element, scale) in [("f32", 1.0), ("f16", 1.0), ("q7", 127.0 / largest), ("q15", 32767.0 / largest)] {
        let line = format!("quantize index --codebook book.st --output book.vqi --element {element} --metric l2");
        place.run(&line).ok();
        let told = place.run("quantize inspect book.vqi").ok().stdout;
        assert!(told.contains(&format!("70 codes of 6 dimensions in {element}, l2, scale {scale}")), "{told}");
        let bytes = place.bytes("book.vqi");
        let mut lines = vec![vq_kernels::Line([0.0; 16]); bytes.len().div_ceil(64)];
        bytemuck::cast_slice_mut(&mut lines)[..bytes.len()].copy_from_slice(&bytes);
        let index = Index::read(&bytemuck::cast_slice(&lines)[..bytes.len()]).expect("an index");
        // Half a step of each element's own type.
        let (read, most): (Vec<f32>, f32) = match index.codes() {
            Codes::F32(read) => (read.data().to_vec(), 0.0),
            Codes::F16(read) => (read.data().iter().map(|x| x.to_f32()).collect(), largest / 2048.0),
            Codes::Q7(read) => (read.data().iter().map(|&x| f32::from(x) / scale).collect(), 0.5001 / scale),
            Codes::Q15(read) => (read.data().iter().map(|&x| f32::from(x) / scale).collect(), 0.5001 / scale + 1e-6),
            _ => panic!("an element of four"),
        };
        let error = codes.iter().zip(&read).fold(0.0f32, |error, (a, b)| error.max((a - b).abs()));
        assert!(read.len() == codes.len() && error <= most, "{element}: {error} > {most}");
    }
    place.write_cut("book.vqi", 0.9, "cut.vqi");
    place.write_tensor("wild.st", "codebook", Dtype::F32, &[2, 1], &f32_bytes(&[1e6, f32::NAN]));
    for (line, parts) in [
        ("inspect cut.vqi", ["`cut.vqi`", "truncated"]),
        ("index --codebook book.st --output book.st", ["`book.st`", "also an input"]),
        ("index --codebook book.st --output o --scale 3", ["--scale", "q15"]),
        ("index --codebook book.st --output o --element q7 --scale 0", ["scale", "above 0"]),
        ("index --codebook wild.st --output o --element q7", ["`wild.st`", "NaN"]),
        ("index --codebook wild.st --output o --element f16", ["f16", "1000000"]),
    ] {
        let done = place.run(&format!("quantize {line}"));
        assert_eq!(done.code, 1, "{line}");
        done.says(&parts);
    }
    assert!(!place.files().contains(&"o".to_owned()));
}
