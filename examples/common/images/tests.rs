//! Every kind of picture becomes RGB; damaged input is named, never fatal to the rest.

use std::fs::{self, File};
use std::io::Write;

use image::{GrayImage, ImageBuffer, ImageFormat, Luma, RgbImage, Rgba};

use super::*;

fn png(image: impl Into<DynamicImage>) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.into().write_to(&mut bytes, ImageFormat::Png).expect("a PNG in memory");
    bytes.into_inner()
}

fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for &(name, bytes) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        archive.append_data(&mut header, name, bytes).expect("an entry in memory");
    }
    archive.into_inner().expect("an archive in memory")
}

#[test]
fn label_maps_are_told_from_pictures() {
    for (name, expected) in [
        ("a.png", true),
        ("a/b.JPEG", true),
        ("796_n04229816_ski_mask.jpg", true),
        ("frame_mask.png", false),
        ("1_sem.png", false),
        ("1_normal.jpg", false),
        ("._a.jpg", false),
        ("a.gif", false),
        ("png", false),
    ] {
        assert_eq!(is_picture(Path::new(name)), expected, "{name}");
    }
}

fn grey(value: u8) -> Vec<u8> {
    png(GrayImage::from_pixel(3, 2, Luma([value])))
}

#[test]
fn every_kind_of_picture_becomes_rgb() {
    let sixteen: ImageBuffer<Luma<u16>, Vec<u16>> = ImageBuffer::from_pixel(1, 1, Luma([65_535]));
    for (bytes, expected, why) in [
        (grey(51), [0.2; 3], "grey"),
        (png(RgbImage::from_pixel(1, 1, image::Rgb([255, 0, 51]))), [1.0, 0.0, 0.2], "rgb"),
        (png(DynamicImage::ImageLuma16(sixteen)), [1.0; 3], "16 bits"),
        (png(image::RgbaImage::from_pixel(1, 1, Rgba([255, 0, 255, 51]))), [0.2, 0.0, 0.2], "alpha, on black"),
    ] {
        let image = rgb(why.into(), decode(&bytes).expect(why));
        assert_eq!(image.pixels.len(), image.width * image.height * 3, "{why}");
        assert!(
            image.pixels.iter().zip(expected).all(|(got, expected)| (got - expected).abs() < 1e-6),
            "{why}: {:?}",
            image.pixels
        );
    }
}

#[test]
fn directories_and_archives_give_the_same_pictures() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let files: [(&str, &[u8]); 6] = [
        ("z.PNG", &grey(1)),
        ("a/b.png", &grey(2)),
        ("a/b_sem.png", &grey(3)),
        ("notes.json", b"{}"),
        ("broken.jpg", b"no picture"),
        ("c.jpeg", &grey(4)),
    ];
    let tree = directory.path().join("tree");
    fs::create_dir_all(tree.join("a")).expect("a directory");
    for (name, bytes) in files {
        fs::write(tree.join(name), bytes).expect("a file");
    }
    let archive = directory.path().join("pictures.tar");
    fs::write(&archive, tar_of(&files)).expect("an archive");
    let images = load_images(&tree, false).expect("three pictures");
    assert_eq!(images.iter().map(|image| &*image.name).collect::<Vec<_>>(), ["a/b.png", "c.jpeg", "z.PNG"]);
    assert_eq!(load_images(&archive, false), Ok(images));
}

#[test]
fn places_without_pictures_are_errors_that_say_why() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let place = |name: &str, bytes: &[u8]| {
        let path = directory.path().join(name);
        File::create(&path).and_then(|mut file| file.write_all(bytes)).expect("a file");
        path
    };
    let whole = tar_of(&[("a.png", &grey(1)), ("b.png", &grey(2))]);
    for (path, why) in [
        (directory.path().join("absent"), "check that the path"),
        (directory.path().to_owned(), "looked for .png"),
        (place("empty.tar", b""), "looked for .png"),
        (place("text.tar", &b"not an archive at all\n".repeat(99)), "uncompressed tar"),
        (place("cut.tar", &whole[..520]), "truncated inside `a.png`"),
        (place("label.tar", &tar_of(&[("x_depth_mm.png", &grey(1))])), "looked for .png"),
    ] {
        let message = load_images(&path, false).expect_err(why).to_string();
        assert!(message.contains(why) && message.contains(&path.display().to_string()), "{message}");
    }
}

#[test]
fn holding_out_depends_on_names_and_seed_alone() {
    let image = |i: usize| Rgb { name: format!("{i}.png"), width: 1, height: 1, pixels: vec![0.0; 3] };
    let names =
        |images: &[Rgb]| images.iter().map(|image| image.name.clone()).collect::<std::collections::BTreeSet<_>>();
    for (count, share, expected) in [(10, 0.2, 2), (10, 0.0, 1), (10, 1.0, 9), (2, 0.5, 1), (100, 0.1, 10)] {
        let (train, held) = hold_out((0..count).map(image).collect(), share, 7).expect("a split");
        assert_eq!((train.len(), held.len()), (count - expected, expected));
        let (_, again) = hold_out((0..count).rev().map(image).collect(), share, 7).expect("a split");
        assert_eq!(names(&held), names(&again));
    }
    let part = |seed| names(&hold_out((0..100).map(image).collect(), 0.5, seed).expect("a split").1);
    assert_ne!(part(1), part(2));
    assert!(hold_out(vec![image(0)], 0.5, 1).is_err());
    assert!(hold_out(vec![image(0), image(1)], f64::NAN, 1).is_err());
}

#[test]
fn groups_are_held_out_whole() {
    let groups: Vec<String> = (0..60).map(|i| format!("clip {}", i / 6)).collect();
    let names: Vec<&str> = groups.iter().map(|group| &**group).collect();
    for (share, expected) in [(0.0, 6), (0.2, 12), (0.25, 18), (1.0, 54)] {
        let held = held_out(&names, share, 3).expect("a split");
        assert_eq!(held.iter().filter(|&&side| side).count(), expected, "{share}");
        assert!(held.chunks(6).all(|clip| clip.iter().all(|&side| side == clip[0])), "{share}");
    }
    let message = held_out(&["one"; 9], 0.5, 3).expect_err("one group").to_string();
    assert!(message.contains("all of one group, `one`"), "{message}");
}
