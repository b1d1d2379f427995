//! A vocabulary gives back what it is given, and is the same whenever it is trained.

use core::slice;
use std::collections::BTreeSet;
use std::fs;

use super::check::{atomic_values, boxes, metadata};
use super::sentences::{BoxForm, boxes_text};
use super::*;
use crate::common::failure::Failure;
use crate::data::annotations::{Annotated, LabelledBox};

const TEXTS: [&str; 5] = [
    "A man's dog - a Café-dog! - sits.",
    "Two people ride bikes near a traffic light",
    "the hot dogs and the hot dog",
    "people people biking bikes",
    "野口 naïve ﬁne",
];

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

fn recipe(vocabulary: usize) -> Recipe {
    Recipe { vocabulary, ..Recipe::default() }
}

fn trained() -> WordPiece {
    train(&recipe(4500), &strings(&TEXTS)).expect("a vocabulary")
}

fn refusal<T>(result: Result<T, Failure>, expected: &str) {
    let failure = result.err().unwrap_or_else(|| panic!("not refused: {expected}")).to_string();
    assert!(failure.contains(expected), "{failure}");
}

#[test]
fn texts_come_back_as_their_words() {
    let vocabulary = trained();
    for (text, expected) in [
        ("A man's dog - a Café-dog! - sits.", "a man ' s dog - a cafe - dog ! - sits ."),
        ("  Two\tPEOPLE\u{0} ride ", "two people ride"),
        ("hot dogs- hot dog and hot", "hot dogs - hot dog and hot"),
        ("\u{91ce}\u{53e3}", "\u{91ce} \u{53e3}"),
        ("nai\u{308}ve", "naive"),
        ("v0=5 v3=999 dog [S_7] [SOS]", "v0=5 v3=999 dog [S_7] [SOS]"),
        ("", ""),
    ] {
        let ids = vocabulary.encode(text).expect("tokens");
        assert_eq!(vocabulary.normalized(text).expect("words"), expected);
        assert_eq!(vocabulary.decode(&ids).expect("text"), expected);
        assert!(!ids.contains(&vocabulary.unknown()), "{text:?}: {ids:?}");
    }
    // Every character is known at every place of a word; one that never came is not.
    let tokens = |text: &str| vocabulary.encode(text).expect("tokens");
    assert!(tokens("zzgod").contains(&vocabulary.unknown()) != TEXTS.concat().contains('z'));
    assert!(!tokens("sdrawkcab").contains(&vocabulary.unknown()));
    assert_eq!(tokens("dog \u{3b1} dog").get(1), Some(&vocabulary.unknown()));
    assert_eq!(tokens(&"a".repeat(101)), [vocabulary.unknown()]);
    assert_eq!(vocabulary.decode(&tokens(&"a".repeat(100))).expect("text"), "a".repeat(100));
}

#[test]
fn special_tokens_have_their_places_and_values_are_atomic() {
    let vocabulary = trained();
    for (token, id) in [(PAD, 0), (UNK, 1), (SOS, 2), (EOS, 3), ("[S_0]", 4), ("v0=0", 204), ("v3=999", 4203)] {
        assert_eq!(vocabulary.id(token), Some(id));
        assert_eq!(vocabulary.encode(token).expect("tokens"), [id]);
    }
    assert_eq!(vocabulary.encode("Hot Dog").expect("tokens"), [vocabulary.id("hot dog").expect("a class")]);
    assert_eq!(atomic_values(&vocabulary).expect("a count"), 4000);
    // One value more, and it is no value: nothing of it may pass for `v0=100`.
    let value_tokens = 204..4204;
    let ids = vocabulary.encode("v0=1000 xv0=1").expect("tokens");
    assert!(ids.iter().all(|id| !value_tokens.contains(id)), "{ids:?}");
}

#[test]
fn the_same_texts_give_the_same_file() {
    // Ties all over: each pair of letters comes once or twice.
    let texts: Vec<String> = (0..400_u32).map(|i| format!("{:x}{:o} k{i}q", i * 7919, i * 31)).collect();
    let folder = tempfile::tempdir().expect("a folder");
    let mut files = BTreeSet::new();
    for order in 0..6 {
        let mut texts = texts.clone();
        texts.rotate_left(order * 61);
        let vocabulary = train(&recipe(4700), &texts).expect("a vocabulary");
        assert_eq!(vocabulary.len(), 4700, "it was cut off among ties");
        let path = folder.path().join("tokenizer.json");
        vocabulary.save(&path).expect("a file");
        files.insert(fs::read(&path).expect("bytes"));
        let loaded = WordPiece::load(&path).expect("the file");
        assert_eq!((loaded.hash(), loaded.classes()), (vocabulary.hash(), vocabulary.classes()));
        assert_eq!(loaded.encode(&texts[0]).expect("tokens"), vocabulary.encode(&texts[0]).expect("tokens"));
    }
    assert_eq!(files.len(), 1, "the same bytes");
}

#[test]
fn more_frequent_pairs_are_joined_first() {
    let vocabulary = trained();
    // `people` comes three times, and there is room: it is one token; `sdrawkcab` never came.
    assert_eq!(vocabulary.encode("people").expect("tokens").len(), 1);
    assert!(vocabulary.encode("sdrawkcab").expect("tokens").len() > 3);
    let few = train(&Recipe { min_frequency: 3, ..recipe(4500) }, &strings(&TEXTS)).expect("a vocabulary");
    assert!(few.len() < vocabulary.len());
    assert_eq!(few.encode("people").expect("tokens").len(), 1);
    assert!(few.encode("ride").expect("tokens").len() > 1);
}

#[test]
fn capital_letters_and_accents_stay_where_asked() {
    let recipe = Recipe { lowercase: false, classes: Classes::default(), ..recipe(4500) };
    let vocabulary = train(&recipe, &strings(&TEXTS)).expect("a vocabulary");
    let text = "A Café - dog";
    assert_eq!(vocabulary.decode(&vocabulary.encode(text).expect("tokens")).expect("text"), text);
    assert_eq!(vocabulary.classes(), &Classes::default());
}

#[test]
fn what_cannot_be_trained_or_read_is_refused() {
    refusal(train(&recipe(30_000), &strings(&["", " \t "])), "no word to train on");
    refusal(train(&recipe(4284), &strings(&TEXTS)), "give at least 43");
    refusal(train(&recipe(0), &strings(&TEXTS)), "is too small: special tokens take 4284");
    let capital = Recipe { classes: Classes::new(["TV".to_owned()]).expect("a name"), ..recipe(4500) };
    refusal(train(&capital, &strings(&TEXTS)), "the class `TV` would come back as `tv`");
    let vocabulary = trained();
    let most = vocabulary.len() as u32;
    refusal(vocabulary.decode(&[5, most]), &format!("token {most} at place 1: the vocabulary has {most} tokens"));

    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("t.json");
    refusal(WordPiece::load(&path), "t.json");
    vocabulary.save(&path).expect("a file");
    let whole = fs::read_to_string(&path).expect("text");
    for (text, expected) in [
        (String::new(), "is no tokenizer.json"),
        ("{}".into(), "is no tokenizer.json"),
        (whole[..whole.len() / 2].into(), "is no tokenizer.json"),
        (whole.replacen("\"[PAD]\"", "\"[XYZ]\"", 2), "`[PAD]` should be token 0"),
        (whole.replace("v2=77\"", "v2=x77\""), "`v2=77` should be a token of its own"),
        (whole.replace("\"type\": \"WordPiece\",\n    \"unk", "\"type\": \"WordLevel\",\n    \"unk"), "t.json"),
    ] {
        fs::write(&path, text).expect("a file");
        refusal(WordPiece::load(&path), expected);
    }
}

#[test]
fn pictures_come_back() {
    let vocabulary = trained();
    let one = |class: &str, x0: f64| LabelledBox { class: class.into(), x0, y0: 0.25, x1: 0.9, y1: 1.0 };
    let picture = Annotated {
        name: "p".into(),
        boxes: vec![one("hot dog", 0.7), one("hair drier", 0.1), one("dog", 0.1003)],
        metadata: vec![("width".into(), 640.0), ("entropy".into(), 7.1)],
        ..Annotated::default()
    };
    let pictures = [picture, Annotated::default()];
    let report = boxes(&vocabulary, &pictures).expect("boxes");
    assert_eq!((report.pictures, report.things, report.tokens, report.differing), (1, 3, 15, 0));
    assert!(report.worst <= 0.5 / 999.0 + 1e-12 && report.worst > 0.0, "{}", report.worst);
    let report = metadata(&vocabulary, &pictures, 3).expect("metadata");
    assert_eq!((report.pictures, report.things, report.tokens, report.differing), (1, 2, 4, 0));
    let none = [Annotated { boxes: vec![one("unicorn", 0.1)], name: "u".into(), ..Annotated::default() }];
    refusal(boxes(&vocabulary, &none), "`u`: the class `unicorn` is unknown");
    let sentence = boxes_text(slice::from_ref(&one("dog", 0.0).into()), &BoxForm::default(), vocabulary.classes());
    assert_eq!(vocabulary.encode(&sentence.expect("a sentence")).expect("tokens").len(), 5);
}
