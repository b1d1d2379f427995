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

/// Blocks of 2 × 2 tiles in a part of a burst: about a millisecond.
const BLOCKS: u32 = 1 << 15;

/// The least time that an op's work takes.
pub enum Limit<'a> {
    /// This many FMAs of f32 on the CPU's threads.
    Fmas { cpu: Cpu<'a>, count: f64 },
    /// This many dot products of four bytes.
    Dots { cpu: Cpu<'a>, count: f64 },
    /// This many products of 32 codes, 32 rows and 32 slots in bf16, by the tiles of AMX.
    Tiles { cpu: Cpu<'a>, count: f64 },
    /// This many bytes read and written, by a copy.
    Copies(Copies<'a>),
}

impl Limit<'_> {
    /// Measures it: seconds.
    pub fn seconds(&mut self) -> f64 {
        match self {
            Self::Fmas { cpu, count } => registers(*cpu, *count, chains),
            Self::Dots { cpu, count } => registers(*cpu, *count, dot_chains),
            Self::Tiles { cpu, count } => {
                let blocks = f64::from(BLOCKS);
                fastest(tile_products) / blocks * *count / cpu.threads() as f64
            }
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
        if Some(isa) == Isa::avx512_vnni() || Some(isa) == Isa::amx() {
            // SAFETY: the value `isa` comes from detection only, and it has AVX-512 VNNI.
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
    {
        if Some(isa) == Isa::neon_dot() {
            // SAFETY: the value `isa` comes from detection only, and it is that of the dot products.
            return unsafe { vectors::dots8() };
        }
        if Some(isa) == Isa::neon_i8mm() {
            // SAFETY: the value `isa` comes from detection only, and it is that of the matrices.
            return unsafe { vectors::matrices8() };
        }
    }
    chains(isa);
}

/// Whether searches on `isa` may take tiles, as far as this process can know: the crate asks Linux in the same way.
pub fn has_tiles(isa: Isa) -> bool {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    if Some(isa) == Isa::amx() {
        const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
        const XFEATURE_XTILEDATA: libc::c_long = 18;
        // SAFETY: the call reads and writes no memory of ours.
        return unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) } == 0;
    }
    Isa::amx().is_some_and(|amx| amx == isa)
}

/// `BLOCKS` times four products of tiles, with A loaded each time: random numbers, as zeros take less power.
fn tile_products() {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    {
        let mut rng = vq_kernels::rng::Rng::new(0, 3);
        let tiles: Vec<u16> = (0..4 * 512).map(|_| (rng.normal().to_bits() >> 16) as u16).collect();
        // SAFETY: such a limit is asked for only after `has_tiles`; `tiles` are four tiles.
        unsafe { vectors::tile_products(tiles.as_ptr()) };
    }
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

    /// # Safety
    /// This process may use tiles; `tiles` are four of 1 KiB.
    #[cfg(target_os = "linux")]
    pub unsafe fn tile_products(tiles: *const u16) {
        let mut config = [0u8; 64];
        config[0] = 1;
        for tile in 0..8 {
            (config[16 + 2 * tile], config[48 + tile]) = (64, 16);
        }
        // SAFETY: the caller's claims; tiles are configured and released here.
        unsafe {
            core::arch::asm!(
                "ldtilecfg [{c}]", "tileloadd tmm6, [{t} + {s} + 2048]", "tileloadd tmm7, [{t} + {s} + 3072]",
                ".irp i, 0, 1, 2, 3\ntilezero tmm\\i\n.endr",
                "2:",
                "tileloadd tmm4, [{t} + {s}]", "tdpbf16ps tmm0, tmm4, tmm6", "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{t} + {s} + 1024]", "tdpbf16ps tmm2, tmm5, tmm6", "tdpbf16ps tmm3, tmm5, tmm7",
                "dec {n:e}", "jnz 2b", "tilerelease",
                c = in(reg) config.as_ptr(), t = in(reg) tiles, s = in(reg) 64usize, n = inout(reg) super::BLOCKS => _,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _, out("tmm4") _, out("tmm5") _,
                out("tmm6") _, out("tmm7") _, options(nostack),
            );
        }
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

    /// A product of matrices is as much as two of vectors.
    #[target_feature(enable = "i8mm")]
    pub fn matrices8() {
        let (codes, rows) = black_box((vdupq_n_s32(0x0102_0304), vdupq_n_s32(0x0101_0101)));
        let mut sums = [vdupq_n_s32(0); CHAINS];
        for _ in 0..LINKS {
            for sum in &mut sums {
                // SAFETY: this function's own target feature; it reads and writes these registers only.
                unsafe {
                    asm!("usmmla {s:v}.4s, {c:v}.16b, {r:v}.16b", s = inout(vreg) *sum, c = in(vreg) codes,
                        r = in(vreg) rows, options(pure, nomem, nostack, preserves_flags));
                }
            }
        }
        black_box(sums);
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
