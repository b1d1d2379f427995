//! Philox4x32-10, a counter-based generator: the same picks on CPU and GPU, in any order.
//!
//! Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC 2011), §3.3.

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// Ten rounds of Philox on `counter` under `key`: four uniform words.
pub fn philox(mut key: [u32; 2], mut counter: [u32; 4]) -> [u32; 4] {
    for round in 0..10 {
        if round > 0 {
            key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
        }
        let a = u64::from(MULTIPLIERS[0]) * u64::from(counter[0]);
        let b = u64::from(MULTIPLIERS[1]) * u64::from(counter[2]);
        counter = [(b >> 32) as u32 ^ counter[1] ^ key[0], b as u32, (a >> 32) as u32 ^ counter[3] ^ key[1], a as u32];
    }
    counter
}

/// A stream of words under a 64-bit seed; word `i` of stream `s` is a pure function of `(seed, s, i)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rng {
    key: [u32; 2],
    stream: u64,
    next: u64,
}

impl Rng {
    /// Stream `stream` of `seed`.
    pub fn new(seed: u64, stream: u64) -> Self {
        Self { key: [seed as u32, (seed >> 32) as u32], stream, next: 0 }
    }

    /// The next 64 uniform bits.
    pub fn next_u64(&mut self) -> u64 {
        let (i, s) = (self.next, self.stream);
        self.next += 1;
        let words = philox(self.key, [i as u32, (i >> 32) as u32, s as u32, (s >> 32) as u32]);
        u64::from(words[0]) | u64::from(words[1]) << 32
    }

    /// Uniform in `[0, 1)`, a multiple of 2⁻⁵³.
    pub fn uniform(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Uniform in `0..n` (`n` of 0 gives 0), by the high word of a 128-bit product: bias below n·2⁻⁶⁴.
    pub fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.next_u64()) * u128::from(n)) >> 64) as u64
    }

    /// Standard normal, by Box and Muller; uses libm, so that every platform gives the same bits.
    pub fn normal(&mut self) -> f32 {
        let radius = libm::sqrt(-2.0 * libm::log(1.0 - self.uniform()));
        (radius * libm::cos(core::f64::consts::TAU * self.uniform())) as f32
    }
}

/// A keyed bijection of `0..n`: `permuted(i)` visits every index once, with no memory.
///
/// Four Feistel rounds of Philox on the smallest even number of bits that holds `n`, walking the
/// cycle until the image is below `n`.
#[derive(Clone, Copy, Debug)]
pub struct Permutation {
    key: [u32; 2],
    tweak: [u32; 2],
    n: u64,
    half_bits: u32,
}

impl Permutation {
    /// The bijection of `0..n` under `seed` and `step`; `n` up to 2⁶².
    pub fn new(seed: u64, step: u64, n: u64) -> Self {
        let bits = u64::BITS - n.saturating_sub(1).min((1 << 62) - 1).leading_zeros();
        Self {
            key: [seed as u32, (seed >> 32) as u32],
            tweak: [step as u32, (step >> 32) as u32],
            n: n.min(1 << 62),
            half_bits: bits.div_ceil(2).max(1),
        }
    }

    /// The image of `i`; `i` must be below `n`, and any other is returned as it is.
    pub fn permuted(&self, i: u64) -> u64 {
        if i >= self.n {
            return i;
        }
        let mut image = self.feistel(i);
        // The cycle that starts below n comes back below n; its expected length is at most 4.
        while image >= self.n {
            image = self.feistel(image);
        }
        image
    }

    fn feistel(&self, i: u64) -> u64 {
        let mask = (1u64 << self.half_bits) - 1;
        let (mut left, mut right) = (i >> self.half_bits, i & mask);
        for round in 0..4 {
            let mixed = philox(self.key, [right as u32, round, self.tweak[0], self.tweak[1]])[0];
            (left, right) = (right, left ^ (u64::from(mixed) & mask));
        }
        left << self.half_bits | right
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_gives_the_published_vectors() {
        // kat_vectors of Random123 1.14, philox4x32 10.
        assert_eq!(philox([0; 2], [0; 4]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox([u32::MAX; 2], [u32::MAX; 4]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        assert_eq!(
            philox([0xa409_3822, 0x299f_31d0], [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn permutation_visits_every_index_once() {
        let sizes = [1u64, 2, 3, 4, 5, 17, 64, 65, 1000, 4097];
        for n in sizes.into_iter().filter(|&n| !cfg!(miri) || n < 100) {
            let permutation = Permutation::new(7, 3, n);
            let mut seen = [false; 4097];
            for i in 0..n {
                let image = permutation.permuted(i) as usize;
                assert!(image < n as usize && !seen[image], "n = {n}, i = {i}");
                seen[image] = true;
            }
        }
    }

    #[test]
    fn permutations_of_other_steps_differ() {
        let image = |step| [0, 1, 2, 3, 4, 5, 6, 7].map(|i| Permutation::new(7, step, 1000).permuted(i));
        assert_ne!(image(0), image(1));
        assert_ne!(image(0), [0, 1, 2, 3, 4, 5, 6, 7]);
    }

    #[test]
    fn uniform_and_normal_have_their_moments() {
        let mut rng = Rng::new(1, 2);
        let n = if cfg!(miri) { 200 } else { 20_000 };
        let (mut mean, mut square, mut uniform) = (0.0, 0.0, 0.0);
        for _ in 0..n {
            let x = f64::from(rng.normal());
            mean += x;
            square += x * x;
            uniform += rng.uniform();
            assert!(rng.below(7) < 7);
        }
        let n = f64::from(n);
        let slack = if cfg!(miri) { 10.0 } else { 1.0 };
        let errors = [(mean / n).abs() / 0.03, (square / n - 1.0).abs() / 0.05, (uniform / n - 0.5).abs() / 0.01];
        assert!(errors.iter().all(|error| *error < slack), "{errors:?}");
    }
}
