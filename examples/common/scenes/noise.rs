//! Smooth random textures from lattices of hashed numbers.

/// A number in `0..1` for a lattice point.
fn lattice(x: i32, y: i32, seed: u32) -> f32 {
    // The last steps of MurmurHash3: neighbouring points must not look alike.
    let mut h =
        (x as u32).wrapping_mul(0x8DA6_B343) ^ (y as u32).wrapping_mul(0xD816_3841) ^ seed.wrapping_mul(0x9E37_79B9);
    h = (h ^ (h >> 16)).wrapping_mul(0x85EB_CA6B);
    h = (h ^ (h >> 13)).wrapping_mul(0xC2B2_AE35);
    (h >> 8) as f32 / (1_u32 << 24) as f32
}

/// Value noise in `0..1`: one hump or hollow per unit of length.
pub fn value(x: f32, y: f32, seed: u32) -> f32 {
    let (left, top) = (x.floor(), y.floor());
    let (u, v) = (ease(x - left), ease(y - top));
    let (x, y) = (left as i32, top as i32);
    let line = |y| {
        let (a, b) = (lattice(x, y, seed), lattice(x.wrapping_add(1), y, seed));
        a + (b - a) * u
    };
    let (a, b) = (line(y), line(y.wrapping_add(1)));
    a + (b - a) * v
}

/// Octaves of [`value`], each twice as fine and half as strong, scaled to `0..1`.
pub fn octaves(x: f32, y: f32, seed: u32, count: u32) -> f32 {
    let (mut sum, mut strength, mut total, mut scale) = (0.0, 1.0, 0.0, 1.0);
    for octave in 0..count {
        sum += strength * value(x * scale, y * scale, seed.wrapping_add(octave));
        total += strength;
        strength *= 0.5;
        // Not quite 2: lattices of different octaves must not line up.
        scale *= 1.97;
    }
    sum / total
}

/// From 0 to 1 with a level start and end, for `t` in `0..=1`.
pub fn ease(t: f32) -> f32 {
    t * t * (3.0 - 2.0 * t)
}

/// 0 up to `low`, 1 from `high` on, smooth between.
pub fn step(low: f32, high: f32, x: f32) -> f32 {
    ease(((x - low) / (high - low)).clamp(0.0, 1.0))
}
