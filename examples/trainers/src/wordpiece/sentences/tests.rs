//! Sentences say what they were given, and nothing else is read.

use super::*;
use crate::common::random::SplitMix64;
use crate::data::annotations::{Annotated, LabelledBox};
use crate::wordpiece::classes::Classes;

fn named(class: &str, [x0, y0, x1, y1]: [f64; 4]) -> Detection {
    LabelledBox { class: class.into(), x0, y0, x1, y1 }.into()
}

fn refusal<T>(result: Result<T, Failure>, expected: &str) {
    let failure = result.err().unwrap_or_else(|| panic!("not refused: {expected}")).to_string();
    assert!(failure.contains(expected), "{failure}");
}

#[test]
fn boxes_are_said_in_the_published_form() {
    let classes = Classes::coco();
    let boxes = [
        named("hot dog", [0.5, 0.5, 1.0, 1.0]),
        named("person", [0.1, 0.2, 0.3005, 0.4]),
        Detection { score: 0.59, ..named("cat", [0.0; 4]) },
        Detection { score: 0.6, ..named("tie", [0.2, 0.1, 0.9, 0.9]) },
    ];
    let text = |form: BoxForm| boxes_text(&boxes, &form, &classes).expect("a sentence");
    // 0.5 · 999 = 499.5 goes to the even neighbour, as Python's `round` does; equal distances keep their order.
    let (person, dog, tie) = (
        "v0=100 v1=200 v2=300 v3=400 person",
        "v0=500 v1=500 v2=999 v3=999 hot dog",
        "v0=200 v1=100 v2=899 v3=899 tie",
    );
    assert_eq!(text(BoxForm::default()), format!("{person} {tie} {dog}"));
    let form = BoxForm { order: Order::Area, ..BoxForm::default() };
    assert_eq!(text(form), format!("{tie} {dog} {person}"));
    assert_eq!(text(BoxForm { most: Some(2), ..form }), format!("{dog} {person}"));
    assert_eq!(text(BoxForm { order: Order::Score, ..form }), format!("{dog} {person} {tie}"));
    assert_eq!(text(BoxForm { threshold: 2.0, ..form }), "");
    assert_eq!(boxes_of("", &classes).expect("no boxes"), []);
}

#[test]
fn boxes_come_back_within_half_a_bin() {
    let (classes, mut random) = (Classes::coco(), SplitMix64::new(1));
    let mut worst = 0.0_f64;
    for _ in 0..2000 {
        let mut draw = || random.next_u64() as f64 / u64::MAX as f64;
        let [mut x, mut y] = [[draw(), draw()], [draw(), draw()]];
        [&mut x, &mut y].into_iter().for_each(|pair| pair.sort_by(f64::total_cmp));
        let one = named("zebra", [x[0], y[0], x[1], y[1]]);
        let text = boxes_text(core::slice::from_ref(&one), &BoxForm::default(), &classes).expect("a sentence");
        let back = boxes_of(&text, &classes).expect("a box");
        let [LabelledBox { class, x0, y0, x1, y1 }] = back.as_slice() else { panic!("one box") };
        assert_eq!(class, "zebra");
        for (was, is) in [(x[0], x0), (y[0], y0), (x[1], x1), (y[1], y1)] {
            worst = worst.max((was - is).abs());
        }
        assert_eq!(boxes_text(&[back[0].clone().into()], &BoxForm::default(), &classes).expect("again"), text);
    }
    assert!((0.45 / 999.0..=0.5 / 999.0 + 1e-12).contains(&worst), "{worst}");
}

#[test]
fn impossible_boxes_and_broken_sentences_are_refused() {
    let classes = Classes::coco();
    let form = BoxForm::default();
    for sides in [[-0.1, 0.0, 1.0, 1.0], [0.0, 0.0, 1.1, 1.0], [0.5, 0.0, 0.4, 1.0], [f64::NAN, 0.0, 1.0, 1.0]] {
        refusal(boxes_text(&[named("dog", sides)], &form, &classes), "should lie inside 0..1");
    }
    refusal(boxes_text(&[named("unicorn", [0.0; 4])], &form, &classes), "`unicorn` is unknown");
    let unsure = Detection { score: f64::NAN, ..named("dog", [0.0; 4]) };
    refusal(boxes_text(&[unsure], &form, &classes), "not a number");
    for (text, expected) in [
        ("v0=1 v1=2 v2=3", "word 3 is the end, expected `v3=0`"),
        ("v0=1 v1=2 v2=3 v3=4", "expected the name of a class"),
        ("v0=1 v1=2 v2=3 v3=1000 dog", "word 3 is `v3=1000`"),
        ("v0=1 v2=2 v1=3 v3=4 dog", "word 1 is `v2=2`"),
        ("v0=9 v1=2 v2=3 v3=4 dog", "box 0 are in the wrong order"),
        ("v0=1 v1=2 v2=3 v3=4 dog dog", "`dog dog` is unknown"),
        ("a dog", "word 0 is `a`"),
    ] {
        refusal(boxes_of(text, &classes), expected);
    }
}

/// By hand from the published rules: sides in steps of 32 px, `int((v - min) / (max - min) * 49)`, bounds 4.5 and 5.5.
#[test]
fn metadata_is_said_in_the_published_form() {
    let of = |name: &str| field(name).expect(name);
    for (name, value, expected) in [
        ("original_width", 640.0, "v1=0 v0=20"),
        ("original_height", 31.0, "v1=1 v0=0"),
        ("original_height", 1e9, "v1=1 v0=999"),
        ("caption_n_chars", 47.0, "v1=2 v0=47"),
        ("n_coco_instances", -3.0, "v1=7 v0=0"),
        ("colorfulness", 75.0, "v1=9 v0=24"),
        ("brightness", 255.0, "v1=10 v0=49"),
        ("brightness", 254.9, "v1=10 v0=48"),
        ("contrast", 1e6, "v1=11 v0=49"),
        ("entropy", -1.0, "v1=13 v0=0"),
        ("geometric_complexity", 0.375, "v1=17 v0=24"),
        ("watermark_score", 0.5, "v1=19 v0=1"),
        ("aesthetic_score", 4.4, "v1=20 v0=0"),
        ("aesthetic_score", 5.0, "v1=20 v0=1"),
        ("aesthetic_score", 5.5, "v1=20 v0=2"),
    ] {
        assert_eq!(metadata_text(&[(of(name), value)], None).expect(name), expected);
    }
    let values = [(0, 640.0), (3, 10.0), (20, 5.0)];
    assert_eq!(metadata_text(&values, None).expect("a sentence"), "v1=0 v0=20 v1=3 v0=10 v1=20 v0=1");
    let all: Vec<(usize, f64)> = (0..FIELDS.len()).map(|number| (number, 1.0)).collect();
    let text = |seed: u64| metadata_text(&all, Some(seed)).expect("a sentence");
    assert_eq!(text(3), text(3));
    assert_ne!(text(3), text(4));
    let mut numbers: Vec<usize> =
        metadata_of(&text(3)).expect("fields").into_iter().map(|(number, _)| number).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..FIELDS.len()).collect::<Vec<_>>());
}

#[test]
fn every_bin_of_every_field_comes_back() {
    for (number, field) in FIELDS.iter().enumerate() {
        for bin in 0..field.bins.count() {
            let text = format!("v1={number} v0={bin}");
            let values = metadata_of(&text).expect("a field");
            assert_eq!(metadata_text(&values, None).expect("a sentence"), text, "{}", field.name);
        }
    }
    for (text, expected) in [
        ("v1=21 v0=0", "no field 21"),
        ("v1=9 v0=50", "`colorfulness` has 50 bins"),
        ("v1=2 v0=5 v1=2 v0=5", "comes twice"),
        ("v0=5 v1=2", "word 0 is `v0=5`"),
        ("v1=2", "word 1 is the end"),
    ] {
        refusal(metadata_of(text), expected);
    }
    refusal(metadata_text(&[(21, 0.0)], None), "no field 21");
    refusal(metadata_text(&[(2, f64::NAN)], None), "got NaN");
    refusal(metadata_text(&[(2, 1.0), (2, 1.0)], None), "comes twice");
}

#[test]
fn annotations_become_4ms_fields_in_its_units() {
    let metadata = [("width", 640.0), ("brightness", 0.5), ("horizon", 0.4)].map(|(name, v)| (name.to_owned(), v));
    let picture = Annotated { metadata: metadata.into(), ..Annotated::default() };
    assert_eq!(metadata_of_picture(&picture), [(0, 640.0), (10, 127.5)]);
}

#[test]
fn instances_are_said_in_the_published_form_and_come_back() {
    let instance = |first: u32| Instance { bounds: [3, 4, 5, 224], mask: (first..first + 16).collect() };
    let points = [
        Point { x: 7, y: 9, instances: vec![] },
        Point { x: 0, y: 999, instances: vec![instance(505), instance(0)] },
        Point { x: 1, y: 1, instances: vec![instance(MOST_MASK_TOKEN - 15)] },
    ];
    let text = instances_text(&points, None).expect("a sentence");
    let start = "point v0=9 v1=7 none point v0=999 v1=0 polygon v0=3 v1=4 v2=5 v3=224 \
                 v0=505 v0=506 v0=507 v0=508 v0=509 v0=510 v0=511 v1=0 v1=1";
    assert!(text.starts_with(start) && text.ends_with("v1=999"), "{text}");
    assert_eq!(instances_of(&text).expect("points"), points);
    let mixed = instances_of(&instances_text(&points, Some(5)).expect("a sentence")).expect("points");
    for point in &points {
        let there = mixed.iter().find(|other| other.x == point.x).expect("the point");
        assert!(point.instances.iter().all(|one| there.instances.contains(one)));
    }
    let one = |instance: Instance| instances_text(&[Point { x: 0, y: 0, instances: vec![instance] }], None);
    refusal(one(Instance { bounds: [0, 0, 1000, 1], mask: vec![] }), "a coordinate is 1000 px");
    refusal(one(Instance { bounds: [2, 0, 1, 1], mask: vec![] }), "wrong order");
    refusal(one(Instance { bounds: [0; 4], mask: vec![MOST_MASK_TOKEN + 1] }), "at most 1511 can be said");
    for (text, expected) in [
        ("none", "expected `point`"),
        ("point v0=1 v1=2", "word 3 is the end, expected `none` or `polygon`"),
        ("point v0=1 v1=2 none none", "word 4 is `none`, expected `point`"),
        ("point v0=1 v1=2 polygon v0=1 v1=1 v2=0 v3=1", "wrong order"),
        ("point v0=1 v1=2 polygon v0=1 v1=1 v2=1 v3=1 v0=512", "word 8 is `v0=512`"),
        ("point v0=1 v1=2 polygon v0=1 v1=1 v2=1 v3=1 v2=5", "word 8 is `v2=5`"),
    ] {
        refusal(instances_of(text), expected);
    }
}

#[test]
fn palettes_are_said_in_the_published_form_and_come_back() {
    let colours = [[0, 128, 255], [7, 8, 9]];
    let text = palette_text(&colours).expect("a sentence");
    assert_eq!(text, "v1=2 v0=0 v0=128 v0=255 v0=7 v0=8 v0=9");
    assert_eq!(palette_of(&text).expect("a palette"), colours);
    refusal(palette_text(&[]), "1 to 7 colours, got 0");
    refusal(palette_text(&[[0; 3]; 8]), "got 8");
    for (text, expected) in [
        ("v0=1", "word 0 is `v0=1`"),
        ("v1=8", "8 colours"),
        ("v1=1 v0=1 v0=2", "word 3 is the end"),
        ("v1=1 v0=1 v0=2 v0=256", "word 3 is `v0=256`"),
        ("v1=1 v0=1 v0=2 v0=3 v0=4", "word 4 is `v0=4`, expected the end"),
    ] {
        refusal(palette_of(text), expected);
    }
}

/// By hand from the published rules: `round(499.5 g + 499.5)`, `round(166.5 s + 499.5)`, `round(49.95 c + 49.95)`.
#[test]
fn people_are_said_in_the_published_form_and_come_back() {
    let person = Person {
        bounds: [0.1, 0.2, 0.3005, 1.0],
        global: [-1.0, 1.0, 0.0, 0.5, 0.0, 0.0, 0.0, 0.0, 0.999],
        pose: [0, 511, 512, MOST_POSE_TOKEN, 4, 5, 6, 7],
        shape: [-3.0, 3.0, 0.0, 1.0, -9.0, 9.0, 0.0, 0.0, 0.0, 0.1],
        camera: [-1.0, 19.0, 0.0],
    };
    let text = people_text(core::slice::from_ref(&person), None).expect("a sentence");
    assert_eq!(
        text,
        "human v0=100 v1=200 v2=300 v3=999 pose v0=0 v0=511 v1=0 v1=999 v0=4 v0=5 v0=6 v0=7 \
         global v0=0 v0=999 v0=500 v0=749 v0=500 v0=500 v0=500 v0=500 v0=999 \
         camera v0=0 v0=999 v0=50 shape v0=0 v0=999 v0=500 v0=666 v0=0 v0=999 v0=500 v0=500 v0=500 v0=516"
    );
    let back = people_of(&text).expect("people");
    assert_eq!(people_text(&back, None).expect("a sentence"), text);
    let [back] = back.as_slice() else { panic!("one person") };
    assert_eq!(back.pose, person.pose);
    for (was, is) in person.global.iter().zip(back.global) {
        assert!((was - is).abs() <= 1.0 / 999.0 + 1e-12, "{was} came back as {is}");
    }
    let two = [person.clone(), person.clone()];
    let mixed = |seed: u64| people_text(&two, Some(seed)).expect("a sentence");
    assert_eq!(mixed(1), mixed(1));
    assert!((2..9).any(|seed| mixed(seed) != mixed(1)), "the order depends on the seed");
    assert_eq!(people_of(&mixed(3)).expect("people"), [back.clone(), back.clone()]);
    assert_eq!((people_text(&[], None).expect("nobody"), people_of("none").expect("nobody")), ("none".into(), vec![]));
    refusal(people_text(&[Person { bounds: [0.5, 0.0, 0.4, 1.0], ..person.clone() }], None), "box of person 0");
    refusal(people_text(&[Person { camera: [f64::NAN; 3], ..person.clone() }], None), "`camera` is NaN");
    refusal(people_text(&[Person { pose: [MOST_POSE_TOKEN + 1; 8], ..person }], None), "at most 1511 can be said");
    let start = "human v0=1 v1=1 v2=2 v3=2";
    for (text, expected) in [
        ("", "word 0 is the end, expected `human` or `none`"),
        ("none none", "expected the end"),
        ("a dog", "word 0 is `a`, expected `human`"),
        (start, "word 5 is the end, expected one of"),
        (&format!("{start} camera v0=0 v0=0 v0=0 camera"), "word 9 is `camera`"),
        (&format!("{start} pose v2=5"), "word 6 is `v2=5`"),
        ("human v0=2 v1=1 v2=1 v3=2", "wrong order"),
    ] {
        refusal(people_of(text), expected);
    }
}
