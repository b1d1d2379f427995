//! What this machine can do at best: multiply-adds in registers, and copies.

use core::hint::black_box;
use core::time::Duration;
use std::time::Instant;

use rayon::ThreadPool;
use rayon::prelude::*;
use vq_kernels::{Cpu, Isa};

/// A measurement lasts at least this long; its fastest part counts.
const BURST: Duration = Duration::from_millis(50);
/// Independent chains, more than latency × ports of any core so far (4 × 2), and still all in registers.
const CHAINS: usize = 12;
/// Links of each chain in a part of a burst: about a millisecond.
const LINKS: u32 = 1 << 18;

/// The least time that an op's work takes.
pub enum Limit<'a> {
    /// This many FMAs of f32 on the CPU's threads.
    Fmas { cpu: Cpu<'a>, count: f64 },
    /// This many dot products of four bytes.
    Dots { cpu: Cpu<'a>, count: f64 },
    /// This many bytes read and written, by a copy.
    Copies(Copies<'a>),
}

impl Limit<'_> {
    /// Measures it: seconds.
    pub fn seconds(&mut self) -> f64 {
        match self {
            Self::Fmas { cpu, count } => registers(*cpu, *count, chains),
            Self::Dots { cpu, count } => registers(*cpu, *count, dot_chains),
            Self::Copies(copies) => fastest(|| copies.copy()),
        }
    }
}

/// Seconds for `count` operations of a lane each, where `chains` does `CHAINS · LINKS` of a register each.
fn registers(cpu: Cpu, count: f64, chains: fn(Isa)) -> f64 {
    let rate = f64::from(LINKS) * CHAINS as f64 / fastest(|| chains(cpu.isa()));
    count / cpu.isa().lanes() as f64 / rate / cpu.threads() as f64
}

/// Seconds of the fastest call in a burst of them.
fn fastest(mut part: impl FnMut()) -> f64 {
    let (started, mut best) = (Instant::now(), f64::INFINITY);
    while started.elapsed() < BURST || best.is_infinite() {
        let before = Instant::now();
        part();
        best = best.min(before.elapsed().as_secs_f64().max(1e-9));
    }
    best
}

/// Two buffers of half the bytes each, copied on all threads.
pub struct Copies<'a> {
    pool: Option<&'a ThreadPool>,
    from: Vec<f32>,
    to: Vec<f32>,
}

impl<'a> Copies<'a> {
    /// A copy that reads and writes `bytes` in all.
    pub fn of_bytes(pool: Option<&'a ThreadPool>, bytes: usize) -> Self {
        let elements = (bytes / 2 / size_of::<f32>()).max(1);
        // Not zeros: pages that were never written would all be the same one.
        Self { pool, from: vec![1.0; elements], to: vec![2.0; elements] }
    }

    fn copy(&mut self) {
        match self.pool {
            Some(pool) => {
                let part = self.from.len().div_ceil(pool.current_num_threads());
                let (to, from) = (self.to.par_chunks_mut(part), self.from.par_chunks(part));
                pool.install(|| to.zip(from).for_each(|(to, from)| to.copy_from_slice(from)));
            }
            None => self.to.copy_from_slice(&self.from),
        }
        black_box(&mut self.to);
    }
}

/// Runs `CHAINS` chains of `LINKS` multiply-adds, on registers of `isa`.
fn chains(isa: Isa) {
    #[cfg(target_arch = "x86_64")]
    {
        if isa.lanes() == 16 {
            // SAFETY: the value `isa` comes from detection only, and only AVX-512 has 16 lanes.
            return unsafe { vectors::chains16() };
        }
        if isa.lanes() == 8 {
            // SAFETY: the value `isa` comes from detection only, and only AVX2 with FMA has 8.
            return unsafe { vectors::chains8() };
        }
    }
    #[cfg(target_arch = "aarch64")]
    if isa.lanes() == 8 {
        return vectors::chains8();
    }
    debug_assert!(isa == Isa::SCALAR, "every instruction set has its chains");
    scalar_chains();
}

/// [`chains`] of dot products of bytes; of FMAs, where there is no instruction for them.
fn dot_chains(isa: Isa) {
    #[cfg(target_arch = "x86_64")]
    {
        if Some(isa) == Isa::avx512_vnni() {
            // SAFETY: the value `isa` comes from detection only, and it is that of AVX-512 VNNI.
            return unsafe { vectors::dots16() };
        }
        if Some(isa) == Isa::avx2_vnni() {
            // SAFETY: the value `isa` comes from detection only, and it is that of AVX-VNNI.
            return unsafe { vectors::dots8() };
        }
        if Some(isa) == Isa::avx2() {
            // SAFETY: the value `isa` comes from detection only, and it is that of AVX2.
            return unsafe { vectors::dots8_avx2() };
        }
    }
    #[cfg(target_arch = "aarch64")]
    if Some(isa) == Isa::neon_dot() {
        // SAFETY: the value `isa` comes from detection only, and it is that of the dot products.
        return unsafe { vectors::dots8() };
    }
    chains(isa);
}

/// The factor and the term of every link: the chains tend to 2, far from subnormal and infinite numbers.
fn link() -> (f32, f32) {
    black_box((0.5, 1.0))
}

fn scalar_chains() {
    let (factor, term) = link();
    let mut sums = [term; CHAINS];
    for _ in 0..LINKS {
        for sum in &mut sums {
            *sum = multiply_add(*sum, factor, term);
        }
    }
    black_box(sums);
}

/// What an FMA costs at least on the build target. `f32::mul_add` without hardware would be a call of the C library.
#[inline(always)]
fn multiply_add(a: f32, b: f32, c: f32) -> f32 {
    if cfg!(any(target_feature = "fma", target_arch = "aarch64")) {
        a.mul_add(b, c)
    } else {
        (f64::from(a) * f64::from(b) + f64::from(c)) as f32
    }
}

#[cfg(target_arch = "x86_64")]
mod vectors {
    use core::arch::x86_64::*;
    use core::hint::black_box;

    use super::{CHAINS, LINKS, link};

    #[target_feature(enable = "avx2,fma")]
    pub fn chains8() {
        let (factor, term) = link();
        let (factor, term) = (_mm256_set1_ps(factor), _mm256_set1_ps(term));
        let mut sums = [term; CHAINS];
        for _ in 0..LINKS {
            for sum in &mut sums {
                *sum = _mm256_fmadd_ps(*sum, factor, term);
            }
        }
        black_box(sums);
    }

    #[target_feature(enable = "avx2,avxvnni")]
    pub fn dots8() {
        let (codes, row) = black_box((_mm256_set1_epi32(0x0102_0304), _mm256_set1_epi32(0x0101_0101)));
        let mut sums = [_mm256_setzero_si256(); CHAINS];
        for _ in 0..LINKS {
            for sum in &mut sums {
                *sum = _mm256_dpbusd_avx_epi32(*sum, codes, row);
            }
        }
        black_box(sums);
    }

    /// Without VNNI three instructions are one dot product.
    #[target_feature(enable = "avx2")]
    pub fn dots8_avx2() {
        let row = black_box(_mm256_set1_epi32(0x0101_0101));
        let (ones, mut sums) = (_mm256_set1_epi16(1), [row; CHAINS]);
        for _ in 0..LINKS {
            for sum in &mut sums {
                // Of the sum itself: else the products would be the same each time, and computed once.
                let pairs = _mm256_maddubs_epi16(*sum, row);
                *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(pairs, ones));
            }
        }
        black_box(sums);
    }

    #[target_feature(enable = "avx512f,avx512vnni")]
    pub fn dots16() {
        let (codes, row) = black_box((_mm512_set1_epi32(0x0102_0304), _mm512_set1_epi32(0x0101_0101)));
        let mut sums = [_mm512_setzero_si512(); CHAINS];
        for _ in 0..LINKS {
            for sum in &mut sums {
                *sum = _mm512_dpbusd_epi32(*sum, codes, row);
            }
        }
        black_box(sums);
    }

    #[target_feature(enable = "avx2,fma,avx512f")]
    pub fn chains16() {
        let (factor, term) = link();
        let (factor, term) = (_mm512_set1_ps(factor), _mm512_set1_ps(term));
        let mut sums = [term; CHAINS];
        for _ in 0..LINKS {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(*sum, factor, term);
            }
        }
        black_box(sums);
    }
}

/// Two registers for each link, as the crate's kernels take them.
#[cfg(target_arch = "aarch64")]
mod vectors {
    use core::arch::aarch64::*;
    use core::arch::asm;
    use core::hint::black_box;

    use super::{CHAINS, LINKS, link};

    pub fn chains8() {
        let (factor, term) = link();
        // SAFETY: every aarch64 machine that has an operating system has NEON.
        unsafe {
            let (factor, term) = (vdupq_n_f32(factor), vdupq_n_f32(term));
            let mut sums = [term; 2 * CHAINS];
            for _ in 0..LINKS {
                for sum in &mut sums {
                    *sum = vfmaq_f32(term, *sum, factor);
                }
            }
            black_box(sums);
        }
    }

    #[target_feature(enable = "dotprod")]
    pub fn dots8() {
        let (codes, row) = black_box((vdupq_n_s32(0x0102_0304), vdupq_n_s32(0x0101_0101)));
        let mut sums = [vdupq_n_s32(0); 2 * CHAINS];
        for _ in 0..LINKS {
            for sum in &mut sums {
                // SAFETY: this function's own target feature; it reads and writes these registers only.
                unsafe {
                    asm!("sdot {s:v}.4s, {c:v}.16b, {r:v}.16b", s = inout(vreg) *sum, c = in(vreg) codes,
                        r = in(vreg) row, options(pure, nomem, nostack, preserves_flags));
                }
            }
        }
        black_box(sums);
    }
}
