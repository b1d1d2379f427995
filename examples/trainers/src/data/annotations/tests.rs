//! Annotations of scenes and of real pictures, and what damaged ones say.

use std::fs;
use std::path::{Path, PathBuf};

use super::*;
use crate::wordpiece::sentences;

fn message<T>(result: Result<T, Failure>) -> String {
    result.err().map(|failure| failure.to_string()).unwrap_or_default()
}

fn shared(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data").join(name);
    path.exists().then_some(path)
}

#[test]
fn scenes_have_every_field_inside_its_range() {
    let all = from_scenes(30, 64, 2).expect("annotations");
    assert_eq!(all, from_scenes(30, 64, 2).expect("annotations"));
    assert_ne!(all, from_scenes(30, 64, 3).expect("annotations"));
    for scene in &all {
        scene.check().expect("sound");
        assert_eq!(scene.captions.len(), 1);
        for field in FIELDS {
            let value = scene.field(field.name).unwrap_or_else(|| panic!("{} has no {}", scene.name, field.name));
            assert!((0.0..=field.max).contains(&value), "{}: {value}", field.name);
            assert!(!field.whole || value.fract() == 0.0, "{}: {value}", field.name);
        }
        assert_eq!(scene.field("things"), Some(scene.boxes.len() as f64));
        let (boxed, covered) = (scene.field("boxed"), scene.field("covered"));
        assert!(boxed >= covered, "{}: boxes hold {boxed:?}, things cover {covered:?}", scene.name);
    }
    // Values differ from scene to scene: they say something.
    for field in FIELDS.iter().filter(|field| !["width", "height"].contains(&field.name)) {
        let values: Vec<Option<f64>> = all.iter().map(|scene| scene.field(field.name)).collect();
        assert!(values.iter().any(|value| *value != values[0]), "{}", field.name);
    }
}

#[test]
fn fields_have_names_of_their_own() {
    let mut names = FIELDS.map(|field| field.name);
    names.sort_unstable();
    assert!(names.windows(2).all(|pair| pair[0] != pair[1]));
    assert!(FIELDS.iter().all(|field| field.max > 0.0));
    for (published, _) in FIELDS.iter().filter_map(|field| field.published) {
        assert!(sentences::field(published).is_some(), "4M has no field `{published}`");
    }
}

#[test]
fn unions_count_overlaps_once() {
    let part = |x0, y0, x1, y1| LabelledBox { class: "a".into(), x0, y0, x1, y1 };
    let share = |boxes: Vec<LabelledBox>| load::boxed_share(&boxes);
    assert_eq!(share(Vec::new()), 0.0);
    assert_eq!(share(vec![part(0.25, 0.0, 0.75, 0.5)]), 0.25);
    let crossed = share(vec![part(0.0, 0.25, 1.0, 0.5), part(0.5, 0.0, 0.75, 1.0), part(0.0, 0.25, 1.0, 0.5)]);
    assert!((crossed - (0.25 + 0.25 - 0.0625)).abs() < 1e-12, "{crossed}");
}

const COCO: &str = r#"{"categories": [{"id": 3, "name": "Traffic light"}], "images": [
    {"file": "b.png", "width": 20, "height": 10, "captions": ["One  lamp."], "objects": [
        {"category_id": 3, "bbox": [5.0, -2.0, 10.0, 7.0]}, {"category_id": 3, "bbox": [0, 0, 20, 10], "iscrowd": 1}]},
    {"file": "a.png", "width": 2, "height": 1}]}"#;

#[test]
fn coco_boxes_become_shares_and_damage_is_named() {
    let directory = tempfile::tempdir().expect("a directory");
    let at = directory.path();
    image::RgbImage::from_pixel(20, 10, image::Rgb([255, 0, 0])).save(at.join("b.png")).expect("a picture");
    assert!(message(from_coco(at)).contains("has no file `annotations.json`"));
    let read = |text: &str| {
        fs::write(at.join("annotations.json"), text).expect("a file");
        from_coco(at)
    };
    let all = read(COCO).expect("annotations");
    assert_eq!(all.iter().map(|image| &*image.name).collect::<Vec<_>>(), ["a.png", "b.png"]);
    assert_eq!(all[1].boxes, [LabelledBox { class: "traffic light".into(), x0: 0.25, y0: 0.0, x1: 0.75, y1: 0.5 }]);
    let fields = ["width", "caption_words", "things", "boxed", "saturation"].map(|name| all[1].field(name));
    assert_eq!(fields, [20.0, 2.0, 1.0, 0.25, 1.0].map(Some));
    assert_eq!((all[0].field("width"), all[0].field("saturation"), all[0].captions.len()), (Some(2.0), None, 0));
    for (from, to, why) in [
        ("\"category_id\": 3", "\"category_id\": 4", "no category has the id 4"),
        ("[5.0, -2.0, 10.0, 7.0]", "[25.0, -2.0, 10.0, 7.0]", "x0 < x1"),
        ("[5.0, -2.0, 10.0, 7.0]", "[5.0, -2.0, 10.0]", "annotations.json"),
        ("\"width\": 20", "\"width\": 0", "at least 1x1"),
        ("{\"file\"", "{\"fill\"", "file"),
    ] {
        let message = message(read(&COCO.replace(from, to)));
        assert!(message.contains(why), "{message}");
    }
    assert!(message(read("{\"categories\": [], \"images\": []}")).contains("names no image"));
    assert!(message(read(&COCO[..99])).contains("EOF"));
}

#[test]
fn tables_of_captions_are_gathered_by_picture() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("captions.tsv");
    let read = |text: &[u8]| {
        fs::write(&path, text).expect("a file");
        captions_tsv(&path)
    };
    let all = read("7\tA dog.\n12\tÜber the sea \n7\tAn old dog.\n".as_bytes()).expect("captions");
    let found: Vec<(&str, usize)> = all.iter().map(|image| (&*image.name, image.captions.len())).collect();
    assert_eq!(found, [("7", 2), ("12", 1)], "in the table's order");
    assert_eq!(all[1].captions, ["Über the sea"]);
    for (text, why) in
        [(&b""[..], "no caption"), (b"7\tA\n8 B\n", "line 2"), (b"7\t \n", "line 1"), (b"\xFF\xFE\t", "UTF-8")]
    {
        let message = message(read(text));
        assert!(message.contains(why), "{message}");
    }
}

#[test]
fn real_annotations_are_read_whole() {
    let (Some(coco), Some(table)) = (shared("coco101_rgb_seg_boxes_captions.tar"), shared("coco_val2017_captions.tsv"))
    else {
        eprintln!("skipped: no ../shared/data");
        return;
    };
    let all = from_coco(&coco).expect("annotations");
    let captions: usize = all.iter().map(|image| image.captions.len()).sum();
    assert_eq!((all.len(), captions), (101, 505));
    assert!(all.iter().all(|image| image.field("entropy").is_some()), "every picture is there");
    assert!(all.iter().map(|image| image.boxes.len()).sum::<usize>() > 900);
    let pictures = captions_tsv(&table).expect("captions");
    assert_eq!(pictures.len(), 5000);
    assert_eq!(pictures.iter().map(|picture| picture.captions.len()).sum::<usize>(), 25_014);
}
