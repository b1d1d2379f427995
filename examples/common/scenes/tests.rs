//! A seed is a picture for good, and what is told of it agrees with it.

use super::shapes::Shape;
use super::*;

#[test]
fn a_seed_is_a_picture() {
    assert_eq!(render(5, 32), render(5, 32));
    assert_ne!(render(5, 32).pixels, render(6, 32).pixels);
}

#[test]
fn pictures_of_old_seeds_never_change() {
    // FNV-1a of the pixels' bits. Runs, baselines and committed pictures name scenes by seed.
    let hash = |picture: &Rgb| {
        let bytes = picture.pixels.iter().flat_map(|value| value.to_bits().to_le_bytes());
        bytes.fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3))
    };
    for (seed, size, expected) in [
        (1, 33, 0x9C2E_D53D_23D4_AAD6),
        (2, 64, 0x995D_9673_51A8_4832),
        (3, 64, 0xBAAE_A5E9_1369_D562),
        (5, 96, 0x0483_8779_DE25_72DB),
        (11, 48, 0x79EC_6831_28EB_6088),
        (1_000_003, 50, 0x7487_C80C_32A9_803C),
        (77, 64, 0x6AE0_B549_C833_6E04),
        (78, 64, 0x308B_EFDA_415E_44E7),
    ] {
        assert_eq!(hash(&render(seed, size)), expected, "seed {seed}, {size} px");
        assert_eq!(render_all(seed, size).rgb, render(seed, size), "seed {seed}, {size} px");
    }
}

#[test]
fn every_size_is_filled_with_values_in_range() {
    for (seed, size) in [(1, 0), (2, 1), (3, 2), (4, 7), (5, 64)] {
        let maps = render_all(seed, size);
        assert_eq!((maps.rgb.width, maps.rgb.height, maps.rgb.pixels.len()), (size, size, size * size * 3));
        assert!(maps.rgb.pixels.iter().all(|value| (0.0..=1.0).contains(value)), "seed {seed}, size {size}");
        assert_eq!(maps.surfaces.len(), size * size);
        for surface in &maps.surfaces {
            let [x, y, z] = surface.normal;
            assert!((x * x + y * y + z * z - 1.0).abs() < 1e-5 && z >= 0.0, "seed {seed}: {surface:?}");
            assert!(surface.depth > 0.2 && surface.depth <= 50.0, "seed {seed}: {surface:?}");
            assert_eq!(surface.thing > 0, surface.class >= Class::Ball, "seed {seed}: {surface:?}");
        }
    }
}

#[test]
fn patches_are_smooth_and_rough() {
    let mut spreads: Vec<f32> = Vec::new();
    for seed in 0..16 {
        let patches = super::super::patches::patch_rows(&[render(seed, 128)], 4).expect("patches");
        spreads.extend(patches.rows.chunks(patches.dim).map(|row| {
            let green: Vec<f32> = row.iter().skip(1).step_by(3).copied().collect();
            let mean = green.iter().sum::<f32>() / green.len() as f32;
            (green.iter().map(|value| (value - mean) * (value - mean)).sum::<f32>() / green.len() as f32).sqrt()
        }));
    }
    spreads.sort_by(f32::total_cmp);
    let quantile = |percent: usize| spreads[spreads.len() * percent / 100];
    assert!(quantile(98) > 5.0 * quantile(50), "median {}, 98 % {}", quantile(50), quantile(98));
}

/// Things' normals against the slopes of their own relief, by central differences.
#[test]
fn normals_are_the_slopes_of_the_relief() {
    let (mut compared, light) = ([0; 3], [0.0, -0.6, 0.8]);
    for seed in 0..60 {
        let scene = Scene::random(&mut SplitMix64::new(seed));
        for shape in &scene.shapes {
            let step = 2e-3 * shape.radius;
            let at = |x: f32, y: f32| shape.sample(x, y, 0.02 * shape.radius, light);
            let points = (-9..=9).flat_map(|a| (-9..=9).map(move |b| (a as f32 * 0.1 + 0.013, b as f32 * 0.1 + 0.017)));
            for (a, b) in points {
                let (x, y) = (shape.x + a * shape.radius, shape.y + b * shape.radius);
                let around = [at(x - step, y), at(x + step, y), at(x, y - step), at(x, y + step)];
                let middle = at(x, y);
                // Not at edges, where there is no slope, and not where a ball turns away.
                let flat = around.iter().all(|sample| {
                    let apart: f32 = sample.normal.iter().zip(middle.normal).map(|(p, q)| (p - q).abs()).sum();
                    sample.coverage == 1.0 && apart < 0.15
                });
                if !flat || middle.normal[2] < 0.4 {
                    continue;
                }
                let slope = |i: usize| (around[i + 1].relief - around[i].relief) * shape.radius / (2.0 * step);
                let expected = surface::unit([-slope(0), slope(2), 1.0]);
                for (found, expected) in middle.normal.iter().zip(expected) {
                    assert!((found - expected).abs() < 0.02, "seed {seed}, {:?}, {a}, {b}", shape.class());
                }
                compared[shape.class() as usize - Class::Ball as usize] += 1;
            }
        }
    }
    assert!(compared.iter().all(|&count| count > 1000), "{compared:?}");
}

#[test]
fn the_ground_is_a_plane_below_the_eye() {
    for seed in 0..12 {
        let (scene, size) = (Scene::random(&mut SplitMix64::new(seed)), 96);
        let maps = render_all(seed, size);
        for (at, surface) in maps.surfaces.iter().enumerate().filter(|(_, surface)| surface.class == scene.ground()) {
            let y = ((at / size) as f32 + 0.5) / size as f32;
            // A ray's depression times the distance is the height of the eye.
            let height = (y - (scene.view.horizon - surface::RISE)) * surface.depth;
            assert!((height - scene.view.eye).abs() < 1e-4 && surface.normal == [0.0, 1.0, 0.0], "seed {seed}");
        }
        // Distances do not jump where the ground ends at a wall.
        if scene.indoors() {
            let wall = scene.view.wall().depth;
            assert!((scene.view.ground_depth(scene.view.horizon) - wall).abs() < 1e-3 * wall);
        }
    }
}

#[test]
fn nearer_things_hide_farther_ones_and_boxes_hold_what_is_seen() {
    let mut hidden = 0;
    for seed in 0..40 {
        let (scene, size) = (Scene::random(&mut SplitMix64::new(seed)), 64);
        let maps = render_all(seed, size);
        let of = |thing: u8| maps.surfaces.iter().enumerate().filter(move |(_, surface)| surface.thing == thing);
        for seen in &maps.boxes {
            let [left, top, right, bottom] = seen.corners.map(|side| side * size as f64);
            let (mut columns, mut rows) = ((usize::MAX, 0), (usize::MAX, 0));
            for (at, surface) in of(seen.thing) {
                assert_eq!(surface.class, seen.class);
                columns = (columns.0.min(at % size), columns.1.max(at % size + 1));
                rows = (rows.0.min(at / size), rows.1.max(at / size + 1));
            }
            assert_eq!((columns.0 as f64, columns.1 as f64), (left, right), "seed {seed}");
            assert_eq!((rows.0 as f64, rows.1 as f64), (top, bottom), "seed {seed}");
        }
        let unboxed = scene.shapes.len() - maps.boxes.len();
        assert_eq!((1..=scene.shapes.len() as u8).filter(|&thing| of(thing).next().is_none()).count(), unboxed);
        let things = maps.surfaces.iter().filter(|surface| surface.thing > 0).count();
        assert!((maps.covered - things as f64 / (size * size) as f64).abs() < 1e-12);
        // Where outlines overlap it is the nearest that is seen.
        let inside = |shape: &Shape, x: f32, y: f32| shape.sample(x, y, 1.0 / size as f32, [0.0; 3]).coverage >= 0.5;
        for (at, surface) in maps.surfaces.iter().enumerate() {
            let (x, y) = (((at % size) as f32 + 0.5) / size as f32, ((at / size) as f32 + 0.5) / size as f32);
            let nearest = scene.shapes.iter().rposition(|shape| inside(shape, x, y)).map_or(0, |thing| thing + 1);
            assert_eq!(usize::from(surface.thing), nearest, "seed {seed}, {x}, {y}");
        }
        hidden += usize::from(maps.hidden > 0.0);
    }
    assert!((5..40).contains(&hidden), "{hidden} of 40");
}

#[test]
fn captions_are_lower_case_sentences_that_differ() {
    let captions: Vec<String> = (0..300).map(|seed| render_all(seed, 24).caption).collect();
    for caption in &captions {
        assert!(caption.chars().all(|c| c.is_ascii_lowercase() || c == ' ' || c == ','), "{caption}");
        assert!(!caption.contains("  ") && caption.split(' ').count() > 4, "{caption}");
        let ground = Class::ALL[3..9].iter().any(|class| caption.contains(class.name()));
        assert!(ground || ["floor", "table", "ground"].iter().any(|word| caption.contains(word)), "{caption}");
    }
    let mut different = captions.clone();
    different.sort();
    different.dedup();
    assert!(different.len() > 290, "{} of 300", different.len());
    // What is counted is there.
    for seed in 0..100 {
        let maps = render_all(seed, 48);
        for class in [Class::Ball, Class::Box, Class::Pyramid] {
            let named = maps.caption.contains(class.name());
            let seen = maps.boxes.iter().any(|seen| seen.class == class);
            assert!(seen || !named, "seed {seed}: {}", maps.caption);
            assert!(named || !seen || maps.caption.contains("other things"), "seed {seed}: {}", maps.caption);
        }
    }
}
