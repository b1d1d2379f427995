//! Bad input: a sentence that names what is wrong and what to do, an exit code, and nothing left behind.

use safetensors::Dtype;

use crate::place::{Place, archive, clustered, f32_bytes, picture};

/// A line that must be refused, and what standard error must hold: what is wrong, and a hint.
struct Refusal {
    line: &'static str,
    says: &'static [&'static str],
}

/// What parts the system's cause from what to do about it.
const CURE: &str = "; ";

/// Every line is refused in the same way: no success, no panic, no signal, no file more or less or changed.
/// All lines are tried before the test fails.
fn assert_refused(place: &Place, refusals: &[Refusal]) {
    let snapshot = || -> Vec<(String, Vec<u8>)> {
        place.files().into_iter().map(|name| (name.clone(), place.bytes(&name))).collect()
    };
    let before = snapshot();
    let mut faults = Vec::new();
    for Refusal { line, says } in refusals {
        let done = place.run(line);
        // 2 is clap's, for what does not parse.
        if ![1, 2].contains(&done.code) {
            faults.push(format!("`{line}` exits with {}", done.code));
        }
        if !done.stdout.is_empty() {
            faults.push(format!("`{line}` prints {}", done.stdout));
        }
        let missing: Vec<&&str> = says.iter().filter(|part| !done.stderr.contains(**part)).collect();
        if !missing.is_empty() {
            faults.push(format!("`{line}` does not say {missing:?}, only:\n    {}", done.stderr.trim_end()));
        }
        let after = snapshot();
        if after != before {
            let names: Vec<&String> = after.iter().map(|(name, _)| name).collect();
            faults.push(format!("`{line}` changed the files, which now are {names:?}"));
            break;
        }
    }
    assert!(faults.is_empty(), "{} of {} lines:\n{}", faults.len(), refusals.len(), faults.join("\n"));
}

/// Files of rows that no program takes, beside one that all take: 64 rows of 12.
pub fn write_rows(place: &Place) {
    let x = clustered(64, 12, 5, 7);
    place.write_rows("x.st", 64, &x);
    place.write_cut("x.st", 0.7, "cut.st");
    place.write_cut("x.st", 0.001, "stub.st");
    place.write("longer.st", &[place.bytes("x.st"), vec![0; 3]].concat());
    place.write("text.st", b"This is a text, and not a short one: it says nothing about tensors.");
    place.write_tensor("i64.st", "x", Dtype::I64, &[64, 12], &vec![0; 64 * 12 * 8]);
    place.write_tensor("flat.st", "x", Dtype::F32, &[64 * 12], &f32_bytes(&x));
    place.write_tensor("y.st", "y", Dtype::F32, &[64, 12], &f32_bytes(&x));
    place.write_tensor("empty.st", "x", Dtype::F32, &[0, 12], &[]);
    place.write_tensor("widthless.st", "x", Dtype::F32, &[64, 0], &[]);
    place.write("file", b"in the way");
}

#[test]
fn train_codebook_refuses_options_that_make_no_sense() {
    let place = Place::new();
    write_rows(&place);
    let refusal = |line, says| Refusal { line, says };
    assert_refused(
        &place,
        &[
            refusal("train_codebook --out o --codes 0", &["--codes", "at least 1"]),
            refusal("train_codebook --out o --codes 16,32", &["--codes", "--compare"]),
            refusal("train_codebook --out o --codes many", &["--codes", "many"]),
            refusal("train_codebook --out o --dim 0", &["--dim", "at least 1"]),
            refusal("train_codebook --out o --scenes 2 --dim 100000", &["dim", "100000", "at most 4096"]),
            refusal("train_codebook --out o --scenes 2 --codes 99999999999", &["99999999999", "at most 16777216"]),
            refusal("train_codebook --out o --patch 0", &["--patch", "at least 1"]),
            refusal("train_codebook --out o --scenes 3 --patch 129", &["129x129", "choose a smaller patch"]),
            refusal("train_codebook --out o --batch 0", &["--batch", "at least 1"]),
            refusal("train_codebook --out o --steps 0", &["--steps", "at least 1"]),
            refusal("train_codebook --out o --save-every 0", &["--save-every", "at least 1"]),
            refusal("train_codebook --out o --threads 0", &["--threads 0", "a number from 1"]),
            refusal("train_codebook --out o --scenes 1", &["--scenes", "at least 2"]),
            refusal("train_codebook --out o --lr NaN", &["--lr", "positive"]),
            refusal("train_codebook --out o --lr=-0.1", &["--lr", "positive"]),
            refusal("train_codebook --out o --commitment=-1", &["--commitment", "at least 0"]),
            refusal("train_codebook --out o --resume --compare", &["--resume", "--compare"]),
            refusal("train_codebook --out o --images a --features b", &["--images", "--features"]),
            refusal("train_codebook --out o --learn nonsense", &["nonsense", "projector"]),
            refusal("train_codebook --out o --isa nonsense", &["--isa", "nonsense", "avx2"]),
            refusal(
                "train_codebook --out o --features x.st --codes 1000 --init kmeans",
                &["60", "1000", "fewer --codes"],
            ),
            refusal("train_codebook --out file --scenes 2", &["`file`", CURE]),
            refusal("train_codebook --out file/below --scenes 2", &["`file/below`", CURE]),
        ],
    );
}

#[test]
fn train_codebook_refuses_data_that_it_cannot_read() {
    let place = Place::new();
    write_rows(&place);
    std::fs::create_dir(place.path("nothing")).expect("a directory");
    place.write("broken/a.png", &picture(32, 32, 1)[..60]);
    place.write("broken/b.jpg", b"not a picture");
    place.write("alone/a.png", &picture(32, 32, 1));
    for i in 0..3 {
        place.write(&format!("small/{i}.png"), &picture(7, 40, i));
    }
    place.write("text.tar", b"A text of some length that begins nothing like an archive.\n".repeat(20).as_slice());
    place.write("whole.tar", &archive(&[("a.png", picture(64, 64, 1)), ("b.png", picture(64, 64, 2))]));
    place.write_cut("whole.tar", 0.3, "cut.tar");
    place.write("none.tar", &archive(&[("a.txt", b"text".to_vec())]));
    place.write("zero.tar", b"");
    let mut x = clustered(64, 12, 5, 7);
    x[9 * 12 + 3] = f32::NAN;
    place.write_rows("nan.st", 64, &x);
    x[9 * 12 + 3] = f32::INFINITY;
    place.write_rows("inf.st", 64, &x);
    place.write_rows("single.st", 1, &[1.0, 2.0]);
    let refusal = |line, says| Refusal { line, says };
    assert_refused(
        &place,
        &[
            refusal("train_codebook --out o --images absent", &["`absent`", "spelt right"]),
            refusal("train_codebook --out o --images nothing", &["`nothing`", "no readable picture", ".png"]),
            refusal("train_codebook --out o --images broken", &["a.png", "b.jpg", "`broken`", "no readable picture"]),
            refusal("train_codebook --out o --images alone", &["at least 2 pictures", "got 1"]),
            refusal("train_codebook --out o --images small --patch 8", &["8x8", "choose a smaller patch"]),
            refusal(
                "train_codebook --out o --images text.tar",
                &["`text.tar`", "tar archive", "make or fetch it again"],
            ),
            refusal("train_codebook --out o --images cut.tar", &["`cut.tar`", "make or fetch it again"]),
            refusal("train_codebook --out o --images none.tar", &["`none.tar`", "no readable picture", ".png"]),
            refusal("train_codebook --out o --images zero.tar", &["`zero.tar`"]),
            refusal("train_codebook --out o --features absent.st", &["`absent.st`", "spelt right"]),
            refusal("train_codebook --out o --features nothing", &["`nothing`", "not a regular file"]),
            refusal("train_codebook --out o --features cut.st", &["`cut.st`", "truncated", "make or fetch it again"]),
            refusal("train_codebook --out o --features stub.st", &["`stub.st`", "make or fetch it again"]),
            refusal("train_codebook --out o --features longer.st", &["`longer.st`", "3 more"]),
            refusal("train_codebook --out o --features text.st", &["`text.st`", "not a sound safetensors file"]),
            refusal("train_codebook --out o --features i64.st", &["`i64.st`", "`x`", "F32", "I64"]),
            refusal("train_codebook --out o --features flat.st", &["`flat.st`", "`x`", "[768]", "[rows, width]"]),
            refusal("train_codebook --out o --features empty.st", &["`empty.st`", "[0, 12]", "at least 2 rows"]),
            refusal("train_codebook --out o --features widthless.st", &["`widthless.st`", "[64, 0]", "[rows, width]"]),
            refusal("train_codebook --out o --features single.st", &["`single.st`", "[1, 2]", "at least 2 rows"]),
            refusal("train_codebook --out o --features y.st", &["`y.st`", "no tensor `x`", "it has: y"]),
            refusal("train_codebook --out o --features nan.st", &["`nan.st`", "row 9", "not finite"]),
            refusal("train_codebook --out o --features inf.st", &["`inf.st`", "row 9", "not finite"]),
        ],
    );
}

#[test]
fn train_codebook_goes_on_with_its_own_checkpoint_only() {
    let place = Place::new();
    place.run("train_codebook --scenes 3 --codes 16 --steps 4 --batch 64 --out run").ok();
    place.write_cut("run/checkpoint.safetensors", 0.8, "cut/checkpoint.safetensors");
    place.write("codebook/checkpoint.safetensors", &place.bytes("run/codebook.safetensors"));
    place.write("text/checkpoint.safetensors", b"A text of some length that begins nothing like a checkpoint.");
    let refusal = |line, says| Refusal { line, says };
    const OTHER: &[&str] = &["run/checkpoint.safetensors", "another run", "same options"];
    assert_refused(
        &place,
        &[
            refusal(
                "train_codebook --scenes 3 --codes 16 --steps 4 --batch 64 --resume --out new",
                &["new/checkpoint.safetensors", "leave out --resume"],
            ),
            refusal("train_codebook --scenes 3 --codes 17 --steps 4 --batch 64 --resume --out run", OTHER),
            refusal("train_codebook --scenes 4 --codes 16 --steps 4 --batch 64 --resume --out run", OTHER),
            refusal("train_codebook --scenes 3 --codes 16 --steps 5 --batch 64 --resume --out run", OTHER),
            refusal("train_codebook --scenes 3 --codes 16 --steps 4 --batch 65 --resume --out run", OTHER),
            refusal("train_codebook --scenes 3 --codes 16 --steps 4 --batch 64 --lr 0.1 --resume --out run", OTHER),
            refusal("train_codebook --scenes 3 --codes 16 --steps 4 --batch 64 --seed 1 --resume --out run", OTHER),
            refusal("train_codebook --scenes 3 --codes 16 --steps 4 --batch 64 --no-l2 --resume --out run", OTHER),
            refusal("train_codebook --scenes 3 --codes 16 --steps 4 --batch 64 --dim 7 --resume --out run", OTHER),
            refusal("train_codebook --scenes 3 --codes 16 --steps 4 --batch 64 --patch 2 --resume --out run", OTHER),
            refusal(
                "train_codebook --scenes 3 --codes 16 --steps 4 --batch 64 --learn gradient --resume --out run",
                OTHER,
            ),
            refusal(
                "train_codebook --scenes 3 --codes 16 --steps 4 --batch 64 --resume --out cut",
                &["cut/checkpoint.safetensors", "truncated"],
            ),
            refusal(
                "train_codebook --scenes 3 --codes 16 --steps 4 --batch 64 --resume --out codebook",
                &["codebook/checkpoint.safetensors", "not a checkpoint"],
            ),
            refusal(
                "train_codebook --scenes 3 --codes 16 --steps 4 --batch 64 --resume --out text",
                &["text/checkpoint.safetensors", "not a sound safetensors file"],
            ),
        ],
    );
}

#[test]
fn quantize_refuses_files_that_do_not_fit() {
    let place = Place::new();
    write_rows(&place);
    let codes = f32_bytes(&clustered(8, 12, 8, 1));
    place.write_tensor("book.st", "codebook", Dtype::F32, &[8, 12], &codes);
    place.write_cut("book.st", 0.6, "book_cut.st");
    place.write_tensor("book_i64.st", "codebook", Dtype::I64, &[8, 12], &vec![0; 8 * 12 * 8]);
    place.write_tensor("book_flat.st", "codebook", Dtype::F32, &[96], &codes);
    place.write_tensor("book_empty.st", "codebook", Dtype::F32, &[0, 12], &[]);
    place.write_tensor("book_wide.st", "codebook", Dtype::F32, &[1, 5000], &vec![0; 5000 * 4]);
    let f32s = |values: usize| f32_bytes(&vec![0.5; values]);
    let layered = |file, weight: [usize; 2], bias: usize| {
        place.write_tensors(
            file,
            &[
                ("codebook", Dtype::F32, vec![8, 12], codes.clone()),
                ("project_in.weight", Dtype::F32, weight.to_vec(), f32s(weight[0] * weight[1])),
                ("project_in.bias", Dtype::F32, vec![bias], f32s(bias)),
                ("project_out.weight", Dtype::F32, vec![weight[1], weight[0]], f32s(weight[0] * weight[1])),
                ("project_out.bias", Dtype::F32, vec![weight[1]], f32s(weight[1])),
            ],
        );
    };
    layered("book_48.st", [12, 48], 12);
    layered("book_bias.st", [12, 48], 11);
    layered("book_layer.st", [11, 48], 11);
    place.write_rows("narrow.st", 4, &[0.5; 4 * 5]);
    let u32s = |codes: &[u32]| -> Vec<u8> { codes.iter().flat_map(|code| code.to_le_bytes()).collect() };
    place.write_tensor("codes.st", "codes", Dtype::U32, &[3], &u32s(&[0, 7, u32::MAX]));
    place.write_tensor("codes_8.st", "codes", Dtype::U32, &[3], &u32s(&[0, 8, 1]));
    place.write_tensor("codes_i32.st", "codes", Dtype::I32, &[3], &u32s(&[0, 1, 2]));
    place.write_tensor("codes_2d.st", "codes", Dtype::U32, &[3, 1], &u32s(&[0, 1, 2]));
    place.write_tensor("codes_none.st", "codes", Dtype::U32, &[0], &[]);
    place.write_cut("codes.st", 0.97, "codes_cut.st");
    let refusal = |line, says| Refusal { line, says };
    assert_refused(
        &place,
        &[
            // Codebooks.
            refusal("quantize encode --codebook absent --input x.st --output o", &["`absent`", "spelt right"]),
            refusal("quantize encode --codebook book_cut.st --input x.st --output o", &["`book_cut.st`", "truncated"]),
            refusal("quantize encode --codebook book_i64.st --input x.st --output o", &["`book_i64.st`", "F32", "I64"]),
            refusal(
                "quantize encode --codebook book_flat.st --input x.st --output o",
                &["`book_flat.st`", "[codes, dim]", "[96]"],
            ),
            refusal("quantize encode --codebook book_empty.st --input x.st --output o", &["`book_empty.st`", "empty"]),
            refusal(
                "quantize encode --codebook book_wide.st --input x.st --output o",
                &["`book_wide.st`", "5000", "at most 4096"],
            ),
            refusal(
                "quantize encode --codebook x.st --input x.st --output o",
                &["`x.st`", "no tensor `codebook`", "only `x`"],
            ),
            refusal(
                "quantize encode --codebook book_bias.st --input x.st --output o",
                &["project_in.bias", "[12]", "[11]"],
            ),
            refusal(
                "quantize encode --codebook book_layer.st --input x.st --output o",
                &["project_in.weight", "11 outputs", "12 dimensions"],
            ),
            refusal(
                "quantize decode --codebook book_layer.st --input codes.st --output o",
                &["project_out.weight", "11 inputs", "12 dimensions"],
            ),
            // Rows.
            refusal("quantize encode --codebook book.st --input absent --output o", &["`absent`", "spelt right"]),
            refusal("quantize encode --codebook book.st --input cut.st --output o", &["`cut.st`", "truncated"]),
            refusal(
                "quantize encode --codebook book.st --input text.st --output o",
                &["`text.st`", "not a sound safetensors file"],
            ),
            refusal("quantize encode --codebook book.st --input i64.st --output o", &["`i64.st`", "F32", "I64"]),
            refusal(
                "quantize encode --codebook book.st --input flat.st --output o",
                &["`flat.st`", "[rows, width]", "[768]"],
            ),
            refusal(
                "quantize encode --codebook book.st --input empty.st --output o",
                &["`empty.st`", "empty", "[0, 12]"],
            ),
            refusal(
                "quantize encode --codebook book.st --input widthless.st --output o",
                &["`widthless.st`", "empty", "[64, 0]"],
            ),
            refusal(
                "quantize encode --codebook book.st --input y.st --output o",
                &["`y.st`", "no tensor `x`", "only `y`"],
            ),
            refusal(
                "quantize encode --codebook book.st --input narrow.st --output o",
                &["`narrow.st`", "5 dimensions", "`book.st` have 12"],
            ),
            refusal(
                "quantize encode --codebook book_48.st --input narrow.st --output o",
                &["`narrow.st`", "5 dimensions", "takes 48"],
            ),
            // Codes.
            refusal("quantize decode --codebook book.st --input absent --output o", &["`absent`", "spelt right"]),
            refusal(
                "quantize decode --codebook book.st --input codes_8.st --output o",
                &["`codes_8.st`", "row 1", "code 8", "only 8 codes"],
            ),
            refusal(
                "quantize decode --codebook book.st --input codes_i32.st --output o",
                &["`codes_i32.st`", "U32", "I32"],
            ),
            refusal(
                "quantize decode --codebook book.st --input codes_2d.st --output o",
                &["`codes_2d.st`", "[rows]", "[3, 1]"],
            ),
            refusal(
                "quantize decode --codebook book.st --input codes_none.st --output o",
                &["`codes_none.st`", "no rows"],
            ),
            refusal(
                "quantize decode --codebook book.st --input codes_cut.st --output o",
                &["`codes_cut.st`", "truncated"],
            ),
            refusal(
                "quantize decode --codebook book.st --input x.st --output o",
                &["`x.st`", "no tensor `codes`", "only `x`"],
            ),
            refusal(
                "quantize decode --codebook book_cut.st --input codes.st --output o",
                &["`book_cut.st`", "truncated"],
            ),
            // Outputs.
            refusal(
                "quantize encode --codebook book.st --input x.st --output x.st",
                &["`x.st`", "also an input", "another name"],
            ),
            refusal(
                "quantize encode --codebook book.st --input x.st --output ./book.st",
                &["book.st`", "also an input"],
            ),
            refusal(
                "quantize decode --codebook book.st --input codes.st --output codes.st",
                &["`codes.st`", "also an input"],
            ),
            refusal(
                "quantize encode --codebook book.st --input x.st --output .",
                &["`.`", "is a directory", "another name"],
            ),
            refusal(
                "quantize encode --codebook book.st --input x.st --output absent/o",
                &["`absent/o`", "its directory exists"],
            ),
            refusal("quantize encode --codebook book.st --input x.st --output file/o", &["`file/o`", CURE]),
            refusal("quantize decode --codebook book.st --input codes.st --output file/o", &["`file/o`", CURE]),
            // Options.
            refusal(
                "quantize encode --codebook book.st --input x.st --output o --metric dot",
                &["--metric dot", "cosine or l2"],
            ),
            refusal(
                "quantize encode --codebook book.st --input x.st --output o --isa nonsense",
                &["--isa nonsense", "avx2"],
            ),
            refusal("quantize encode --codebook book.st --input x.st --output o --threads 0", &["--threads 0", "1 to"]),
            refusal("quantize encode --codebook book.st --input x.st", &["--output"]),
            refusal("quantize nonsense", &["nonsense", "--help"]),
            refusal("quantize inspect absent", &["`absent`", "spelt right"]),
            refusal("quantize inspect cut.st", &["`cut.st`", "truncated"]),
            refusal("quantize inspect stub.st", &["`stub.st`", "make or fetch it again"]),
            refusal("quantize inspect .", &["`.`", "not a regular file"]),
        ],
    );
}

#[test]
fn speed_refuses_options_that_make_no_sense() {
    let refusal = |line, says| Refusal { line, says };
    assert_refused(
        &Place::new(),
        &[
            refusal("speed --rows 0", &["--rows 0", "a number from 1"]),
            refusal("speed --codes 0", &["--codes 0", "a number from 1"]),
            refusal("speed --dim 0", &["--dim 0", "a number from 1"]),
            refusal("speed --dim 5000", &["--dim 5000", "to 4096"]),
            refusal("speed --repeat 0", &["--repeat 0", "a number from 1"]),
            refusal("speed --threads 0", &["--threads 0", "a number from 1"]),
            refusal("speed --rows 1000000000 --dim 4096", &["--rows 1000000000", "at most"]),
            refusal("speed --rows 18446744073709551616", &["--rows", "18446744073709551616"]),
            refusal("speed --isa nonsense", &["--isa nonsense", "avx2"]),
            refusal("speed --metric dot", &["--metric dot", "cosine or l2"]),
            refusal("speed --op step --metric l2", &["--metric l2", "--op step"]),
            refusal("speed --op nonsense", &["nonsense", "search"]),
        ],
    );
}
