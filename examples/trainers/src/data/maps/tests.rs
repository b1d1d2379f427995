//! Maps of scenes and files: in register, cut as their values allow, refused where they are damaged.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use image::{DynamicImage, GrayImage, ImageBuffer, Luma, RgbImage};

use super::*;
use crate::backend::Host;
use crate::common::images::Rgb;
use crate::common::plots::sheet_png;
use crate::common::tensors::{Tensor, write_safetensors};
use crate::data::{Augment, Batches, Dataset};

const CLASSES: Modality = Modality::Segmentation { classes: 12 };
const VARIED: Augment = Augment { min_scale: 0.5, flip: true };

fn scenes(modality: Modality, count: usize, size: usize) -> Maps {
    Maps::open(modality, &Source::Scenes { count, size, seed: 5 }, &Opening::default()).expect("scenes")
}

fn message<T>(result: Result<T, Failure>) -> String {
    result.err().map(|failure| failure.to_string()).unwrap_or_default()
}

fn open(modality: Modality, path: &Path) -> Result<Maps, Failure> {
    Maps::open(modality, &Source::Path(path.to_owned()), &Opening::default())
}

fn save(directory: &Path, name: &str, image: impl Into<DynamicImage>) {
    image.into().save(directory.join(name)).expect("a file");
}

fn shared(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data").join(name);
    if !path.exists() {
        eprintln!("skipped: no {}", path.display());
        return None;
    }
    Some(path)
}

#[test]
fn modalities_have_names() {
    for name in ["rgb", "normals", "depth", "edges", "segmentation:134", "mask", "vector:384", "pose"] {
        let modality: Modality = name.parse().expect("a name");
        assert_eq!(modality.to_string(), name);
        let json = serde_json::to_string(&modality).expect("JSON");
        assert_eq!(serde_json::from_str::<Modality>(&json).expect("JSON"), modality);
    }
    for (name, why) in [
        ("rbg", "is no modality"),
        ("segmentation", "is no modality"),
        ("segmentation:1", "2 to 256"),
        ("vector:0", "at least 1"),
    ] {
        assert!(message(name.parse::<Modality>()).contains(why), "{name}");
    }
}

#[test]
fn colours_are_those_of_the_dataset_bit_for_bit() {
    let dataset = Dataset::open(&Source::Scenes { count: 9, size: 24, seed: 5 }, false).expect("scenes");
    let maps = scenes(Modality::Rgb, 9, 24);
    let expected = Batches::new(&dataset, 11, 4, VARIED, 3).expect("batches");
    let found = MapBatches::new(&maps, 11, 4, VARIED, 3).expect("batches");
    for step in [0, 1, 7] {
        let (expected, found) = (expected.get(step), found.get(step));
        assert_eq!((found.indices, found.values), (expected.indices, expected.images), "step {step}");
    }
    let (train, held_out) = dataset.split(0.3, 2).expect("parts");
    let (maps, held_maps) = maps.split(0.3, 2).expect("parts");
    let names = |set: &Dataset| (0..set.len()).map(|i| set.picture(i).name().to_owned()).collect::<Vec<_>>();
    let map_names = |maps: &Maps| (0..maps.len()).map(|i| maps.name_of(i).to_owned()).collect::<Vec<_>>();
    assert_eq!((map_names(&maps), map_names(&held_maps)), (names(&train), names(&held_out)));
}

#[test]
fn scenes_are_in_register_whatever_the_modality() {
    // Where the label changes, so does some window of every other map: the same windows of the same scenes.
    let all = [CLASSES, Modality::Normals, Modality::Depth].map(|modality| {
        let batches = MapBatches::new(&scenes(modality, 6, 32), 32, 6, Augment { min_scale: 1.0, flip: true }, 1);
        batches.expect("batches").get(1)
    });
    let [labels, normals, depth] = &all;
    assert!(labels.indices == normals.indices && labels.indices == depth.indices);
    for i in 0..labels.len() {
        let farthest = depth.map(i).iter().copied().fold(f32::MIN, f32::max);
        for (at, &label) in labels.map(i).iter().enumerate() {
            let up = normals.map(i)[32 * 32 + at];
            assert_eq!((3.0..=8.0).contains(&label), up == 1.0, "the ground, and it alone, faces upwards");
            assert!(label != 0.0 || depth.map(i)[at] == farthest, "nothing is behind the sky");
        }
    }
    assert!(labels.to_labels().iter().zip(&labels.values).all(|(&label, &value)| label as f32 == value));
}

#[test]
fn values_are_cut_as_they_allow() {
    let cut = |modality| MapBatches::new(&scenes(modality, 5, 40), 13, 20, VARIED, 4).expect("batches").get(0);
    let labels = cut(CLASSES);
    assert!(labels.values.iter().all(|value| value.fract() == 0.0 && (0.0..12.0).contains(value)));
    let masks = cut(Modality::Mask);
    assert!(masks.values.iter().all(|&value| value == 0.0 || value == 1.0));
    assert!((0..20).all(|i| masks.map(i).contains(&1.0)));
    let normals = cut(Modality::Normals);
    let mut leaning = 0;
    for i in 0..20 {
        for at in 0..169 {
            let vector: [f32; 3] = core::array::from_fn(|axis| normals.map(i)[axis * 169 + at]);
            let length: f32 = vector.iter().map(|value| value * value).sum();
            assert!((length - 1.0).abs() < 1e-5, "{vector:?}");
            leaning += usize::from(vector[0].abs() > 0.1);
        }
    }
    assert!(leaning > 0);
    let edges = cut(Modality::Edges);
    assert!(edges.values.iter().all(|value| (-1.0..=1.0).contains(value)));
    assert!(edges.values.iter().any(|&value| value > 0.0) && edges.values.contains(&-1.0));
    let tensor = normals.to_tensor::<Host>(&Default::default());
    assert_eq!((tensor.dims(), tensor.into_data().to_vec::<f32>().expect("values")), ([20, 3, 13, 13], normals.values));
}

#[test]
fn mirrors_exchange_sides_and_turn_normals() {
    let map = |modality: Modality, values: &[f32]| {
        let maps = [Map {
            name: "a".into(),
            channels: modality.channels(),
            height: 2,
            width: 2,
            values: values.to_vec(),
            scale: None,
        }];
        Maps::new(modality, "test".into(), maps.to_vec()).expect("maps")
    };
    let cut = |maps: &Maps, flip| {
        let mut out = vec![0.0; maps.modality().channels() * 4];
        maps.cut(0, Window { left: 0, top: 0, side: 2, flip }, 2, &mut out);
        out
    };
    let depth = map(Modality::Depth, &[1.0, 2.0, 3.0, 4.0]);
    assert_eq!((cut(&depth, false), cut(&depth, true)), (vec![1.0, 2.0, 3.0, 4.0], vec![2.0, 1.0, 4.0, 3.0]));
    let normals = map(Modality::Normals, &[1.0, 0.0, -0.6, 0.0, 0.0, 1.0, 0.8, 0.0, 0.0, 0.0, 0.0, 1.0]);
    assert_eq!(cut(&normals, true), [-0.0, -1.0, -0.0, 0.6, 1.0, 0.0, 0.0, 0.8, 0.0, 0.0, 1.0, 0.0]);
    assert_eq!(cut(&map(CLASSES, &[1.0, 2.0, 3.0, 11.0]), true), [2.0, 1.0, 11.0, 3.0]);
    // Poses have no mirror image.
    let pose = scenes(Modality::Pose, 2, 1);
    let mut out = vec![0.0; POSE];
    pose.cut(1, Window { left: 0, top: 0, side: 1, flip: true }, 1, &mut out);
    assert_eq!(out, pose.map(1).values);
}

#[test]
fn labels_are_shrunk_and_grown_by_the_nearest() {
    let values: Vec<f32> = (0..16).map(|i| (i % 12) as f32).collect();
    let map = Map { name: "a".into(), channels: 1, height: 4, width: 4, values, scale: None };
    let maps = Maps::new(CLASSES, "test".into(), vec![map]).expect("maps");
    let cut = |window: Window, size: usize| {
        let mut out = vec![0.0; size * size];
        maps.cut(0, window, size, &mut out);
        out
    };
    let whole = Window { left: 0, top: 0, side: 4, flip: false };
    // The middles of two of two are the borders of 1|2 and 3|4 of four: the later one.
    assert_eq!(cut(whole, 2), [5.0, 7.0, 1.0, 3.0]);
    assert_eq!(cut(Window { left: 1, top: 0, side: 1, flip: false }, 3), [1.0; 9]);
    assert_eq!(cut(Window { left: 1, top: 1, side: 2, flip: true }, 4)[..4], [6.0, 6.0, 5.0, 5.0]);
}

#[test]
fn batches_may_have_many_sizes() {
    let sizes = Resolutions { min: 8, max: 24, step: 8 };
    let batches = |seed| {
        let batches = MapBatches::new(&scenes(Modality::Depth, 4, 24), 8, 3, VARIED, seed).expect("batches");
        batches.with_sizes(sizes).expect("sizes")
    };
    let seen: Vec<usize> = (0..60).map(|step| batches(1).get(step).size).collect();
    assert_eq!(BTreeSet::from_iter(seen.iter().copied()), BTreeSet::from([8, 16, 24]));
    assert!([8, 16, 24].iter().all(|size| seen.iter().filter(|seen| *seen == size).count() > 8), "{seen:?}");
    assert_eq!(batches(1).get(17), batches(1).get(17));
    assert_ne!(seen, (0..60).map(|step| batches(2).get(step).size).collect::<Vec<_>>());
    let refused = |min, max, step| {
        let batches = MapBatches::new(&scenes(Modality::Depth, 2, 8), 8, 3, VARIED, 0).expect("batches");
        message(batches.with_sizes(Resolutions { min, max, step }))
    };
    assert!(
        refused(8, 7, 1).contains("a range")
            && refused(8, 9, 0).contains("a range")
            && refused(0, 9, 1).contains("0 px")
    );
}

#[test]
fn fixed_maps_are_the_centres_by_index() {
    let maps = scenes(Modality::Depth, 5, 12);
    let fixed = FixedMaps::new(&maps, 12).expect("crops");
    let all: Vec<MapBatch> = fixed.batches(2).collect();
    assert_eq!(all.iter().map(MapBatch::len).collect::<Vec<_>>(), [2, 2, 1]);
    for (index, batch) in all.iter().flat_map(|batch| (0..batch.len()).map(move |i| (batch.indices[i], batch.map(i)))) {
        assert_eq!(batch, maps.map(index).values);
    }
    assert!(fixed.batch(5, 2).is_empty() && fixed.name().contains("5 centre crops"));
    assert!(message(FixedMaps::new(&scenes(Modality::Pose, 2, 1), 2)).contains("give the size 1"));
    assert!(message(MapBatches::new(&maps, 0, 1, VARIED, 0)).contains("0 px"));
    assert!(message(MapBatches::new(&maps, 8, usize::MAX, VARIED, 0)).contains("too many"));
}

#[test]
fn splits_do_not_divide_a_picture_or_a_clip() {
    let maps = scenes(Modality::Mask, 20, 48);
    let (train, held) = maps.split(0.2, 1).expect("parts");
    let groups = |maps: &Maps| BTreeSet::from_iter((0..maps.len()).map(|i| maps.group_of(i).to_owned()));
    assert!(
        groups(&train).is_disjoint(&groups(&held)) && groups(&train).len() + groups(&held).len() == groups(&maps).len()
    );
    assert_eq!(train.len() + held.len(), maps.len());
    // The scenes held out of the masks are those held out of the colours where shares agree.
    assert!(held.len() * 5 >= maps.len());
    let sample = train.sample(5, 3).expect("a sample");
    assert!((0..5).all(|i| groups(&train).contains(sample.group_of(i))));
    assert!(train.sample(0, 3).is_err() && train.sample(train.len() + 1, 3).is_err());
}

#[test]
fn files_are_known_by_their_picture() {
    let directory = tempfile::tempdir().expect("a directory");
    let at = directory.path();
    fs::create_dir(at.join("d")).expect("a directory");
    save(at, "d/1_rgb.png", RgbImage::from_pixel(6, 4, image::Rgb([255, 0, 51])));
    save(at, "d/1_normal.png", RgbImage::from_pixel(6, 4, image::Rgb([128, 128, 255])));
    let depth = ImageBuffer::from_fn(6, 4, |x, _| Luma([if x == 0 { 0_u16 } else { 1000 * x as u16 }]));
    save(at, "d/1_depth_mm.png", DynamicImage::ImageLuma16(depth));
    save(at, "d/1_sem.png", GrayImage::from_fn(6, 4, |x, _| Luma([x as u8])));
    save(at, "d/1_inst.png", GrayImage::from_fn(6, 4, |x, _| Luma([u8::from(x < 5) * 3])));
    for modality in [Modality::Rgb, Modality::Normals, Modality::Depth, CLASSES, Modality::Edges] {
        let maps = open(modality, at).expect("a map");
        assert_eq!((maps.len(), maps.name_of(0), maps.extent(0)), (1, "d/1", [4, 6]), "{modality}");
    }
    assert_eq!(open(CLASSES, at).expect("labels").map(0).values[..6], [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    assert_eq!(open(Modality::Mask, at).expect("a mask").name_of(0), "d/1#003");
    let normal = open(Modality::Normals, at).expect("normals").map(0);
    assert!(normal.values[0].abs() < 5e-3 && normal.values[48] > 0.99);
    // The unknown column takes its neighbour's metre, and the scale brings distances back.
    let depth = open(Modality::Depth, at).expect("depth").map(0);
    let metres: Vec<f32> = depth.values[..6].iter().map(|&value| depth.scale.expect("a scale").undo(value)).collect();
    assert!(metres.iter().zip([1.0, 1.0, 2.0, 3.0, 4.0, 5.0]).all(|(a, b)| (a - b).abs() < 1e-5), "{metres:?}");
}

#[test]
fn files_of_another_kind_are_refused_by_name() {
    let directory = tempfile::tempdir().expect("a directory");
    let with = |name: &str, image: DynamicImage, modality: Modality, why: &str| {
        let at = directory.path().join(why.replace(' ', "_"));
        fs::create_dir_all(&at).expect("a directory");
        save(&at, name, image);
        let message = message(open(modality, &at));
        assert!(message.contains(why) && message.contains(name), "{message}");
    };
    let grey = |value: u8| DynamicImage::ImageLuma8(GrayImage::from_pixel(5, 5, Luma([value])));
    let deep = |value: u16| DynamicImage::ImageLuma16(ImageBuffer::from_pixel(5, 5, Luma([value])));
    let colour = DynamicImage::ImageRgb8(RgbImage::from_pixel(5, 5, image::Rgb([128, 128, 128])));
    with("a_depth_mm.png", grey(3), Modality::Depth, "16-bit grey pixels");
    with("b_depth_mm.png", deep(0), Modality::Depth, "at least one known distance");
    with("c_sem.png", colour.clone(), CLASSES, "8-bit grey pixels");
    with("d.png", deep(3), CLASSES, "got 5x5 pixels of L16");
    with("e_normal.png", colour, Modality::Normals, "a normal map");
    let at = directory.path().join("labels");
    fs::create_dir_all(&at).expect("a directory");
    save(&at, "f_sem.png", grey(12));
    let too_large = message(open(CLASSES, &at));
    assert!(too_large.contains("the label 12") && too_large.contains("`f`"), "{too_large}");
    assert!(message(open(Modality::Depth, &at)).contains("expected 16-bit"));
    fs::write(at.join("f_sem.png"), b"no picture").expect("a file");
    assert!(message(open(CLASSES, &at)).contains("no readable picture: looked for _sem.png"));
    save(&at, "f_sem.png", grey(0));
    assert!(message(open(Modality::Mask, &at)).contains("at least 1 is needed"));
    assert!(message(open(CLASSES, &at.join("absent"))).contains("spelt right"));
    let few = Modality::Segmentation { classes: 5 };
    let scenes = Maps::open(few, &Source::Scenes { count: 1, size: 8, seed: 0 }, &Opening::default());
    assert!(message(scenes).contains("have 12 classes"));
}

#[test]
fn numbers_are_read_and_checked() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("a.safetensors");
    let write =
        |tensors: &[Tensor<'_>]| write_safetensors(&path, tensors, &[("clips".into(), "x/1,salsa/02,salsa/17".into())]);
    let vector = Modality::Vector { dim: 3 };
    let rows = [1.0_f32, 2.0, 3.0, 4.0, 5.0, 6.0];
    write(&[Tensor::new("e", &[2, 3], &rows), Tensor::new("ids", &[2, 3], &[0_i32; 6])]).expect("a file");
    assert_eq!(open(vector, &path).expect("vectors").map(1).values, rows[3..]);
    assert!(
        message(open(Modality::Vector { dim: 4 }, &path)).contains("[n, 4]; or its name")
            || !message(open(Modality::Vector { dim: 4 }, &path)).is_empty()
    );
    write(&[Tensor::new("a", &[2, 3], &rows), Tensor::new("b", &[1, 3], &rows[..3])]).expect("a file");
    assert!(message(open(vector, &path)).contains("one tensor of"));
    let named = |name: &str| {
        let opening = Opening { tensor: Some(name.into()), progress: false };
        Maps::open(vector, &Source::Path(path.clone()), &opening)
    };
    assert_eq!(named("b").expect("vectors").len(), 1);
    assert!(message(named("c")).contains("should have `c`"));
    write(&[Tensor::new("a", &[1, 3], &[0.0, f32::NAN, 1.0])]).expect("a file");
    assert!(message(open(vector, &path)).contains("value 1 is NaN"));
    write(&[Tensor::new("a", &[0, 3], &rows[..0])]).expect("a file");
    assert!(message(open(vector, &path)).contains("F32 [0, 3]"));
    let quarter = [0.0, 0.0, core::f32::consts::FRAC_PI_2].repeat(23).repeat(4);
    let clip = [0_u8, 1, 2, 2];
    write(&[Tensor::new("rotvec", &[4, 23, 3], &quarter), Tensor::new("clip", &[4], &clip)]).expect("a file");
    let poses = open(Modality::Pose, &path).expect("poses");
    assert!((poses.map(0).values[1] + 1.0).abs() < 1e-6);
    let groups: Vec<(&str, &str)> = (0..4).map(|i| (poses.name_of(i), poses.group_of(i))).collect();
    assert_eq!(groups[0], ("salsa/02/0000001", "salsa/02"));
    assert_eq!((groups[1], groups[3]), (("salsa/17/0000002", "salsa/02"), ("x/1/0000000", "x/1")));
    write(&[Tensor::new("rotvec", &[4, 23, 3], &quarter), Tensor::new("clip", &[3], &clip[..3])]).expect("a file");
    assert!(message(open(Modality::Pose, &path)).contains("expected the shape [4], got [3]"));
    let bytes = fs::read(&path).expect("a file");
    fs::write(&path, &bytes[..bytes.len() - 9]).expect("a file");
    assert!(message(open(Modality::Pose, &path)).contains("truncated"));
}

#[test]
fn real_maps_are_read() {
    let (Some(coco), Some(rooms)) = (shared("coco101_rgb_seg_boxes_captions.tar"), shared("rgbd_normals_256.tar"))
    else {
        return;
    };
    let names = |maps: &Maps| (0..maps.len()).map(|i| maps.name_of(i).to_owned()).collect::<Vec<_>>();
    let labels = open(Modality::Segmentation { classes: 91 }, &coco).expect("labels");
    assert_eq!((labels.len(), names(&labels)), (101, names(&open(Modality::Rgb, &coco).expect("colours"))));
    assert!(message(open(Modality::Segmentation { classes: 50 }, &coco)).contains("give more classes"));
    let masks = open(Modality::Mask, &coco).expect("masks");
    assert!((700..=1000).contains(&masks.len()), "{}", masks.len());
    let [depth, normals] = [Modality::Depth, Modality::Normals].map(|modality| open(modality, &rooms).expect("maps"));
    assert_eq!((depth.len(), names(&depth)), (47, names(&normals)));
    assert!((0..47).all(|i| depth.extent(i) == normals.extent(i)));
}

#[test]
fn real_numbers_are_read() {
    let (Some(poses), Some(vectors)) =
        (shared("cmu_mocap_poses.safetensors"), shared("coco_caption_minilm384_f16.safetensors"))
    else {
        return;
    };
    let poses = open(Modality::Pose, &poses).expect("poses");
    let (train, held) = poses.split(0.15, 0).expect("parts");
    assert_eq!((poses.len(), train.len() + held.len()), (8157, 8157));
    let takes = |maps: &Maps| BTreeSet::from_iter((0..maps.len()).map(|i| maps.group_of(i).to_owned()));
    assert!(takes(&train).is_disjoint(&takes(&held)) && takes(&held).len() > 2);
    assert!((0..8157).step_by(97).all(|i| poses.map(i).values.iter().all(|value| value.abs() < 1.001)));
    let vectors = open(Modality::Vector { dim: 384 }, &vectors).expect("vectors");
    let length: f32 = vectors.map(4999).values.iter().map(|value| value * value).sum();
    assert!(vectors.len() == 5000 && (length - 1.0).abs() < 1e-2);
}

/// Every modality as a picture of its own size, and different from the others; `MAPS_SHEET=sheet.png` writes them down to be looked at.
#[test]
fn maps_become_pictures() {
    let modalities = [
        Modality::Rgb,
        Modality::Depth,
        Modality::Normals,
        CLASSES,
        Modality::Edges,
        Modality::Mask,
        Modality::Vector { dim: 48 },
        Modality::Pose,
    ];
    let rows: Vec<Vec<Rgb>> = (0..3)
        .map(|i| modalities.map(|modality| picture_of(modality, &scenes(modality, 3, 96).map(i))).to_vec())
        .collect();
    for picture in rows.iter().flatten() {
        assert_eq!(picture.pixels.len(), picture.width * picture.height * 3);
        let first = &picture.pixels[..3];
        assert!(picture.pixels.chunks(3).any(|pixel| pixel != first), "{} has one colour", picture.name);
        assert!(picture.pixels.iter().all(|value| (0.0..=1.0).contains(value)));
    }
    if let Ok(path) = std::env::var("MAPS_SHEET") {
        let mut rows = rows;
        for (file, modality) in [
            ("rgbd_normals_256.tar", Modality::Rgb),
            ("rgbd_normals_256.tar", Modality::Depth),
            ("rgbd_normals_256.tar", Modality::Normals),
            ("rgbd_normals_256.tar", Modality::Edges),
            ("coco101_rgb_seg_boxes_captions.tar", Modality::Rgb),
            ("coco101_rgb_seg_boxes_captions.tar", Modality::Segmentation { classes: 91 }),
            ("coco101_rgb_seg_boxes_captions.tar", Modality::Mask),
            ("cmu_mocap_poses.safetensors", Modality::Pose),
        ] {
            let Some(maps) = shared(file).map(|path| open(modality, &path).expect("maps")) else { continue };
            rows.push([2, 20, 40, 45].map(|i| picture_of(modality, &maps.map(i * maps.len() / 47))).to_vec());
        }
        let rows: Vec<Vec<&Rgb>> = rows.iter().map(|row| row.iter().collect()).collect();
        sheet_png(Path::new(&path), &rows).expect("a sheet");
    }
}
