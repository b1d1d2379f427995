//! SplitMix64: the same numbers on every machine, from a seed.

use core::f64::consts::TAU;

/// A generator of 64-bit numbers (Steele, Lea and Flood 2014); not for secrets.
#[derive(Debug, Clone)]
pub struct SplitMix64(u64);

impl SplitMix64 {
    /// A generator that starts from `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform in `low..high`; every value is exact in f32 before scaling.
    pub fn uniform(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * ((self.next_u64() >> 40) as f32 / (1_u32 << 24) as f32)
    }

    /// Normal, of mean 0 and variance 1 (Box and Muller 1958).
    pub fn normal(&mut self) -> f64 {
        let [radius, angle] = [(); 2].map(|()| f64::from(self.uniform(0.0, 1.0)));
        (-2.0 * (1.0 - radius).ln()).sqrt() * (TAU * angle).cos()
    }

    /// Uniform in `0..n`, or 0 for `n = 0`; the bias of `n / 2^64` does not matter here.
    pub fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.next_u64()) * n as u128) >> 64) as usize
    }
}

/// A number that depends on every byte of `name` and on `seed`.
pub fn hash_name(name: &str, seed: u64) -> u64 {
    name.bytes().fold(seed, |state, byte| SplitMix64::new(state ^ u64::from(byte)).next_u64())
}

/// A generator for one thing, as an image or a row: other numbers for every purpose, seed, round (as a step or an epoch) and index.
pub fn generator(purpose: &str, seed: u64, round: u64, index: u64) -> SplitMix64 {
    let mixed = |state: u64, part: u64| SplitMix64::new(state ^ part).next_u64();
    SplitMix64::new(mixed(mixed(hash_name(purpose, seed), round), index))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_numbers_are_the_published_ones() {
        let mut random = SplitMix64::new(1_234_567);
        assert_eq!([random.next_u64(), random.next_u64()], [6_457_827_717_110_365_317, 3_203_168_211_198_807_973]);
    }

    #[test]
    fn draws_stay_in_range() {
        let mut random = SplitMix64::new(3);
        for _ in 0..1000 {
            assert!((-2.0..5.0).contains(&random.uniform(-2.0, 5.0)));
            assert!(random.below(7) < 7);
        }
        assert_eq!(random.below(0), 0);
    }

    #[test]
    fn normal_numbers_have_a_normal_number_s_moments() {
        let mut random = SplitMix64::new(5);
        let values: Vec<f64> = (0..40_000).map(|_| random.normal()).collect();
        // E x, E x², E x³, E x⁴, to six deviations of a mean of 40,000.
        for (power, expected, deviation) in [(1, 0.0, 1.0), (2, 1.0, 1.42), (3, 0.0, 3.88), (4, 3.0, 9.8)] {
            let mean = values.iter().map(|value| value.powi(power)).sum::<f64>() / 40_000.0;
            assert!((mean - expected).abs() < 6.0 * deviation / 200.0, "moment {power} is {mean}");
        }
    }
}
