//! Every picture can be cut, every epoch visits each picture once, and nothing depends on anything but seeds and numbers.

use std::fs;
use std::path::Path;

use image::{DynamicImage, ImageBuffer, Luma, LumaA, RgbImage, RgbaImage};

use super::*;
use crate::backend::Host;
use crate::common::images::{Rgb, hold_out};
use crate::common::random::SplitMix64;

fn scenes(count: usize, size: usize) -> Dataset {
    Dataset::open(&Source::Scenes { count, size, seed: 5 }, false).expect("scenes")
}

/// A picture whose pixels tell their place: red is the column, green the row.
fn ruler(name: &str, width: usize, height: usize) -> Picture {
    let place = |i: usize| [(i % width) as f32 / 255.0, (i / width) as f32 / 255.0, 1.0];
    let pixels = (0..width * height).flat_map(place).collect();
    Picture::from(Rgb { name: name.into(), width, height, pixels })
}

fn message<T>(result: Result<T, Failure>) -> String {
    result.err().map(|failure| failure.to_string()).unwrap_or_default()
}

fn save(directory: &Path, name: &str, image: impl Into<DynamicImage>) {
    image.into().save(directory.join(name)).expect("a file");
}

/// A palette picture of one red pixel: `image` writes none, so here is one byte by byte.
#[rustfmt::skip]
const PALETTE_PNG: [u8; 82] = [
    0x89, b'P', b'N', b'G', 0x0D, 0x0A, 0x1A, 0x0A, // signature
    0, 0, 0, 13, b'I', b'H', b'D', b'R', 0, 0, 0, 1, 0, 0, 0, 1, 8, 3, 0, 0, 0, 0x28, 0xCB, 0x34, 0xBB, // 1 x 1, indexed
    0, 0, 0, 3, b'P', b'L', b'T', b'E', 255, 0, 0, 0x19, 0xE2, 0x09, 0x37, // red
    0, 0, 0, 10, b'I', b'D', b'A', b'T', 0x78, 0x9C, 0x63, 0x60, 0, 0, 0, 2, 0, 1, 0x48, 0xAF, 0xA4, 0x71, // index 0
    0, 0, 0, 0, b'I', b'E', b'N', b'D', 0xAE, 0x42, 0x60, 0x82, // end
];

#[test]
fn every_kind_of_file_gives_crops_and_broken_ones_are_skipped() {
    let directory = tempfile::tempdir().expect("a directory");
    let at = directory.path();
    save(at, "alpha.png", RgbaImage::from_pixel(3, 5, image::Rgba([255, 0, 0, 51])));
    save(at, "grey.png", image::GrayImage::from_pixel(9, 4, Luma([51])));
    save(at, "grey_alpha.png", image::GrayAlphaImage::from_pixel(2, 2, LumaA([255, 51])));
    fs::write(at.join("palette.png"), PALETTE_PNG).expect("a file");
    save(at, "rgb.png", RgbImage::from_pixel(20, 30, image::Rgb([51, 51, 51])));
    let deep: ImageBuffer<Luma<u16>, Vec<u16>> = ImageBuffer::from_pixel(6, 6, Luma([13_107]));
    save(at, "sixteen.png", DynamicImage::ImageLuma16(deep));
    save(at, "tiny.png", RgbImage::from_pixel(1, 1, image::Rgb([51, 0, 255])));
    fs::write(at.join("broken.png"), b"no picture").expect("a file");
    fs::write(at.join("cut.png"), &PALETTE_PNG[..50]).expect("a file");
    let dataset = Dataset::open(&Source::Path(at.to_owned()), false).expect("pictures");
    let fifth = -0.6;
    let expected: [(&str, [f32; 3]); 7] = [
        ("alpha.png", [fifth, -1.0, -1.0]),
        ("grey.png", [fifth; 3]),
        ("grey_alpha.png", [fifth; 3]),
        ("palette.png", [1.0, -1.0, -1.0]),
        ("rgb.png", [fifth; 3]),
        ("sixteen.png", [fifth; 3]),
        ("tiny.png", [fifth, -1.0, 1.0]),
    ];
    assert_eq!(dataset.len(), expected.len());
    let batch = Batches::new(&dataset, 7, 7, Augment { min_scale: 0.3, flip: true }, 1).expect("batches").get(0);
    for (i, &index) in batch.indices.iter().enumerate() {
        let (name, colour) = expected[index];
        assert_eq!(dataset.picture(index).name(), name);
        for (plane, value) in batch.image(i).chunks_exact(49).zip(colour) {
            assert!(plane.iter().all(|x| (x - value).abs() < 1e-6), "{name}: {plane:?}");
        }
    }
    let tensor = batch.to_tensor::<Host>(&Default::default());
    assert_eq!((tensor.dims(), tensor.into_data().to_vec::<f32>().expect("values")), ([7, 3, 7, 7], batch.images));
}

#[test]
fn places_without_pictures_are_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let open = |path: &Path| message(Dataset::open(&Source::Path(path.to_owned()), false));
    assert!(open(directory.path()).contains("no readable picture"));
    assert!(open(&directory.path().join("absent")).contains("spelt right"));
    fs::write(directory.path().join("broken.jpg"), b"no").expect("a file");
    assert!(open(directory.path()).contains("no readable picture"));
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(PALETTE_PNG.len() as u64);
    archive.append_data(&mut header, "a.png", &PALETTE_PNG[..]).expect("an entry");
    let whole = archive.into_inner().expect("an archive");
    let path = directory.path().join("a.tar");
    fs::write(&path, &whole).expect("a file");
    assert_eq!(Dataset::open(&Source::Path(path.clone()), false).map(|dataset| dataset.len()).ok(), Some(1));
    fs::write(&path, &whole[..512 + 40]).expect("a file");
    assert!(open(&path).contains("truncated inside `a.png`"), "{}", open(&path));
}

#[test]
fn absurd_sizes_are_refused() {
    let dataset = scenes(3, 8);
    let batches =
        |size, batch, min_scale| message(Batches::new(&dataset, size, batch, Augment { min_scale, flip: false }, 0));
    assert!(batches(0, 1, 1.0).contains("images of 0 px"));
    assert!(batches(usize::MAX, 1, 1.0).contains("give a size"));
    assert!(batches(8, 0, 1.0).contains("at least 1 image"));
    assert!(batches(8, usize::MAX, 1.0).contains("too many for one batch"));
    for scale in [0.0, -1.0, 1.5, f32::NAN] {
        assert!(batches(8, 1, scale).contains("least scale"), "{scale}");
    }
    assert!(message(fixed_crops(&dataset, 0, 1, 0)).contains("images of 0 px"));
    assert!(message(fixed_crops(&dataset, 8, 0, 0)).contains("at least 1 crop"));
    for source in [(0, 8), (2, 0), (2, usize::MAX)].map(|(count, size)| Source::Scenes { count, size, seed: 0 }) {
        assert!(Dataset::open(&source, false).is_err(), "{source:?}");
    }
    assert!(message(scenes(1, 8).split(0.5, 0)).contains("at least 2 pictures, got 1"));
    assert!(message(dataset.split(f64::NAN, 0)).contains("between 0 and 1"));
    assert!(dataset.sample(0, 0).is_err() && dataset.sample(4, 0).is_err() && dataset.shrunk(0).is_err());
    let empty = Picture::from(Rgb { name: "e".into(), width: 2, height: 2, pixels: vec![0.0] });
    assert!(message(Dataset::new("d".into(), vec![empty])).contains("no pixel"));
}

#[test]
fn an_epoch_visits_each_picture_once_in_its_own_order() {
    let dataset = scenes(23, 4);
    let batches = Batches::new(&dataset, 4, 5, Augment::FOUR_M, 9).expect("batches");
    let seen: Vec<usize> = (0..23).flat_map(|step| batches.get(step).indices).collect();
    let epochs: Vec<&[usize]> = seen.chunks_exact(23).collect();
    for epoch in &epochs {
        let mut sorted = epoch.to_vec();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..23).collect::<Vec<_>>());
    }
    assert_eq!(epochs.len(), 5);
    assert!(epochs[0] != epochs[1] && epochs[1] != epochs[2]);
    assert_eq!((batches.steps_per_epoch(), batches.epochs(23)), (5, 5.0));
    // A batch may hold more than the whole dataset.
    let wide = Batches::new(&dataset, 4, 60, Augment::FOUR_M, 9).expect("batches");
    assert_eq!(wide.get(0).indices, seen[..60]);
}

#[test]
fn a_step_is_a_pure_function_of_seed_and_number() {
    let dataset = scenes(6, 12);
    let batches =
        |seed, batch| Batches::new(&dataset, 8, batch, Augment { min_scale: 0.5, flip: true }, seed).expect("batches");
    let first = batches(1, 4);
    let (five, again) = (first.get(5), batches(1, 4));
    assert_eq!(five, again.get(5));
    assert_ne!(five.images, batches(2, 4).get(5).images);
    assert_eq!(first.get(u64::MAX).len(), 4);
    // The same pictures are cut anew in the next epoch, whatever the batch size.
    let (one, two) = (batches(1, 6).get(0), batches(1, 6).get(1));
    let of = |batch: &HostBatch, picture: usize| {
        let place = batch.indices.iter().position(|&index| index == picture).expect("a picture");
        batch.image(place).to_vec()
    };
    assert!((0..6).all(|picture| of(&one, picture) != of(&two, picture)));
    assert_eq!(of(&one, five_of(&first)), first.get(0).image(0));
}

fn five_of(batches: &Batches) -> usize {
    batches.get(0).indices[0]
}

#[test]
fn windows_stay_inside_and_use_the_whole_range() {
    let picture = ruler("r", 50, 30);
    let mut random = SplitMix64::new(4);
    let windows: Vec<Window> = (0..2000).map(|_| picture.random_window(0.4, true, &mut random)).collect();
    assert!(windows.iter().all(|w| w.left + w.side <= 50 && w.top + w.side <= 30 && (12..=30).contains(&w.side)));
    for side in [12, 30] {
        assert!(windows.iter().any(|w| w.side == side), "{side}");
    }
    assert!(windows.iter().any(|w| w.left == 0) && windows.iter().any(|w| w.left + w.side == 50));
    let flipped = windows.iter().filter(|w| w.flip).count();
    assert!((880..1120).contains(&flipped), "{flipped} of 2000");
    assert!((0..99).all(|_| {
        let window = picture.random_window(1.0, false, &mut random);
        window.side == 30 && window.top == 0 && !window.flip
    }));
    assert_eq!(picture.centre(), Window { left: 10, top: 0, side: 30, flip: false });
    assert_eq!(ruler("t", 1, 1).random_window(0.01, true, &mut random).side, 1);
}

#[test]
fn cutting_takes_the_window_mirrors_and_resizes() {
    let picture = ruler("r", 20, 10);
    let cut = |window: Window, size: usize| {
        let mut out = vec![0.0; 3 * size * size];
        picture.cut(window, size, &mut out);
        out.into_iter().map(|value| (value + 1.0) * 127.5).collect::<Vec<f32>>()
    };
    let near = |found: &[f32], expected: &[f32]| {
        found.len() == expected.len() && found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-3)
    };
    let window = Window { left: 5, top: 2, side: 2, flip: false };
    let same = cut(window, 2);
    assert!(near(&same, &[5.0, 6.0, 5.0, 6.0, 2.0, 2.0, 3.0, 3.0, 255.0, 255.0, 255.0, 255.0]), "{same:?}");
    let mirrored = cut(Window { flip: true, ..window }, 2);
    assert!(near(&mirrored, &[6.0, 5.0, 6.0, 5.0, 2.0, 2.0, 3.0, 3.0, 255.0, 255.0, 255.0, 255.0]), "{mirrored:?}");
    // Eight columns, 4 to 11, become four: each the mean of two and, less, of their neighbours, of which the border has one.
    let halved = cut(Window { left: 4, top: 0, side: 8, flip: false }, 4);
    assert!(near(&halved[..4], &[4.0 + 5.0 / 7.0, 6.5, 8.5, 10.0 + 2.0 / 7.0]), "{halved:?}");
    // One pixel becomes many of the same.
    let grown = cut(Window { left: 7, top: 3, side: 1, flip: true }, 5);
    assert!(near(&grown[..25], &[7.0; 25]) && near(&grown[25..50], &[3.0; 25]), "{grown:?}");
}

#[test]
fn fixed_crops_begin_with_the_centres_and_never_change() {
    let dataset = scenes(5, 24);
    let crops = fixed_crops(&dataset, 8, 12, 3).expect("crops");
    let centres: Vec<usize> = (0..5).map(|i| crops.picture_of(i)).collect();
    let mut sorted = centres.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, [0, 1, 2, 3, 4]);
    for (i, &picture) in centres.iter().enumerate() {
        let mut centre = vec![0.0; 3 * 64];
        dataset.picture(picture).cut(dataset.picture(picture).centre(), 8, &mut centre);
        assert_eq!(crops.crop(i), centre);
    }
    // Rounds two and three are other crops of the same pictures.
    assert_eq!([crops.picture_of(5), crops.picture_of(10)], [centres[0]; 2]);
    assert!(crops.crop(0) != crops.crop(5) && crops.crop(5) != crops.crop(10));
    // The same by number, by batch, in a longer set, and from another dataset of the same pictures.
    let longer = fixed_crops(&scenes(5, 24), 8, 500, 3).expect("crops");
    let batches: Vec<HostBatch> = crops.batches(5).collect();
    assert_eq!(batches.iter().map(HostBatch::len).collect::<Vec<_>>(), [5, 5, 2]);
    for (i, image) in batches.iter().flat_map(|batch| (0..batch.len()).map(|i| batch.image(i))).enumerate() {
        assert_eq!((image, image), (&*crops.crop(i), &*longer.crop(i)), "crop {i}");
    }
    assert!(crops.batch(12, 5).is_empty() && crops.batch(usize::MAX, usize::MAX).is_empty());
    assert!(crops.name().contains("5 centre crops and 7 random crops of 0.5 to 1"), "{}", crops.name());
    let whole = crops.clone().augmented(Augment::VQGAN_LC).expect("crops");
    assert_eq!((whole.crop(5), whole.crop(0)), (crops.crop(0), crops.crop(0)));
}

#[test]
fn splits_and_samples_keep_every_picture_once() {
    let dataset = scenes(40, 4);
    let (train, held_out) = dataset.split(0.25, 2).expect("parts");
    assert_eq!((train.len(), held_out.len()), (30, 10));
    let names = |set: &Dataset| (0..set.len()).map(|i| set.picture(i).name().to_owned()).collect::<Vec<_>>();
    let mut together = [names(&train), names(&held_out)].concat();
    together.sort();
    assert_eq!(together, names(&dataset));
    // The other programs hold out the same pictures.
    let images =
        (0..40).map(|i| Rgb { name: dataset.picture(i).name().into(), width: 0, height: 0, pixels: Vec::new() });
    let (_, expected) = hold_out(images.collect(), 0.25, 2).expect("parts");
    assert_eq!(names(&held_out), expected.into_iter().map(|image| image.name).collect::<Vec<_>>());
    let (few, many) = (train.sample(7, 1).expect("a sample"), train.sample(14, 1).expect("a sample"));
    assert_eq!((few.len(), many.len()), (7, 14));
    assert!(names(&few).iter().all(|name| names(&many).contains(name)));
    assert!(names(&many).iter().all(|name| names(&train).contains(name)));
    assert_ne!(names(&few), names(&train.sample(7, 2).expect("a sample")));
}

#[test]
fn groups_are_directories_or_single_files() {
    let pictures = ["b/y.png", "flat.png", "a/c/x.png", "b/z.png"].map(|name| ruler(name, 2, 2)).to_vec();
    let dataset = Dataset::new("d".into(), pictures).expect("pictures");
    let groups: Vec<(&str, Vec<usize>)> = dataset.groups().into_iter().collect();
    assert_eq!(groups, [("a/c", vec![0]), ("b", vec![1, 2]), ("flat.png", vec![3])]);
    assert_eq!(dataset.group_of(2), "b");
}

#[test]
fn shrinking_keeps_proportions_and_small_pictures() {
    let dataset = Dataset::new("d".into(), vec![ruler("a", 40, 20), ruler("b", 7, 9)]).expect("pictures");
    let small = dataset.shrunk(10).expect("pictures");
    let size = |i: usize| (small.picture(i).width(), small.picture(i).height());
    assert_eq!((size(0), size(1)), ((20, 10), (7, 9)));
    assert!(Arc::ptr_eq(&dataset.shrunk(20).expect("pictures").pictures, &dataset.pictures));
}
