//! Products of tiles in bf16: AMX. Stable Rust has no intrinsics for it, so that a whole sweep is one `asm!` block.
//!
//! Tiles are 16 rows of 64 bytes. C tiles are 16 codes × 16 rows in f32: A tiles hold 16 codes, 32 slots of each, and B
//! tiles 16 rows. So a lane of a register is one row throughout, and the maximum over codes takes no shuffles.
//! Registers: C in tmm0 to tmm3 (2 × 2 tiles), A in tmm4 and tmm5, B in tmm6 and tmm7.

#[cfg(test)]
#[path = "amx/emulator.rs"]
pub(crate) mod emulator;
#[cfg(test)]
#[path = "amx/search.rs"]
mod search;
#[cfg(test)]
#[path = "amx/tests.rs"]
mod tests;

use core::arch::asm;
use core::arch::x86_64::{__cpuid, __cpuid_count, __m512};
use core::mem::{MaybeUninit, offset_of};
use core::sync::atomic::{AtomicU8, Ordering};

use crate::codebook::Line;
use crate::simd::Kernel;

/// Codes that share a maximum: two steps of the sweep.
const GROUP: usize = 64;
/// Rows that go through the codes together: two tiles.
pub(crate) const PANEL_ROWS: usize = 32;

/// Whether the processor has AMX with products of bf16, and the operating system its state. Asks for nothing.
///
/// Looked up once: on a virtual machine each CPUID leaves it, and three of them took 19 µs for every `Cpu::new()`.
pub(super) fn detected() -> bool {
    static DETECTED: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *DETECTED.get_or_init(look)
}

fn look() -> bool {
    const OSXSAVE: u32 = 1 << 27;
    const AMX_BF16: u32 = 1 << 22;
    const AMX_TILE: u32 = 1 << 24;
    /// The tiles' configuration and data.
    const STATES: u32 = 3 << 17;
    #[allow(unused_unsafe, reason = "unsafe in older versions")]
    // SAFETY: every x86-64 has CPUID, and leaf 7 where leaf 0 says so.
    let (features, extended) = unsafe {
        if __cpuid(0).eax < 7 {
            return false;
        }
        (__cpuid(1).ecx, __cpuid_count(7, 0).edx)
    };
    if features & OSXSAVE == 0 || extended & (AMX_TILE | AMX_BF16) != AMX_TILE | AMX_BF16 {
        return false;
    }
    let states: u32;
    // SAFETY: OSXSAVE says that XGETBV may be used; it writes two registers.
    unsafe { asm!("xgetbv", in("ecx") 0, out("eax") states, out("edx") _, options(nomem, nostack, preserves_flags)) };
    states & STATES == STATES
}

/// The right to use tiles: the processor has them, AVX-512 F, BW and VNNI, and the operating system lets this process use them.
#[derive(Clone, Copy)]
pub(crate) struct Tiles(());

impl Tiles {
    /// Asks the operating system, once in a process. For the tier `amx` alone, whose value is proof of the rest.
    pub fn ask() -> Option<Self> {
        const UNKNOWN: u8 = 0;
        const ALLOWED: u8 = 1;
        const REFUSED: u8 = 2;
        static ANSWER: AtomicU8 = AtomicU8::new(UNKNOWN);
        #[cfg(test)]
        if let Some(answer) = emulator::ANSWER.get() {
            return answer.then_some(Self(()));
        }
        // Two threads that ask at once get the same answer.
        let allowed = match ANSWER.load(Ordering::Relaxed) {
            UNKNOWN => {
                let allowed = request_permission();
                ANSWER.store(if allowed { ALLOWED } else { REFUSED }, Ordering::Relaxed);
                allowed
            }
            answer => answer == ALLOWED,
        };
        allowed.then_some(Self(()))
    }

    /// Runs `kernel` on registers of 16 lanes.
    #[inline(never)]
    pub fn run<K: Kernel>(self, kernel: K) -> K::Output {
        super::assert_environment();
        // SAFETY: `self` is proof of these features.
        unsafe { entry(kernel) }
    }
}

/// `arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)`: Linux lets no process use tiles that has not asked.
fn request_permission() -> bool {
    const ARCH_PRCTL: isize = 158;
    const ARCH_REQ_XCOMP_PERM: usize = 0x1023;
    const XFEATURE_XTILEDATA: usize = 18;
    let mut result = ARCH_PRCTL;
    // SAFETY: Linux's system call; it reads and writes no memory of ours, and overwrites rcx and r11.
    unsafe {
        asm!(
            "syscall",
            inout("rax") result, in("rdi") ARCH_REQ_XCOMP_PERM, in("rsi") XFEATURE_XTILEDATA,
            out("rcx") _, out("r11") _, options(nostack),
        );
    }
    result == 0
}

#[target_feature(enable = "avx2,fma,avx512f,avx512bw")]
fn entry<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: this function's own target features are those of the type.
    unsafe { kernel.run::<__m512>() }
}

/// Where a sweep reads and writes; `asm!` reads it field by field.
#[repr(C, align(64))]
pub(crate) struct Sweep {
    /// Two times four C tiles: those of the last 32 codes are stored while those before are compared.
    ring: [MaybeUninit<f32>; 2 * 4 * 256],
    config: Config,
    codes: *const Line,
    half_norms: *const f32,
    rows: *const u32,
    maxima: *mut f32,
    groups: usize,
    panels: usize,
    steps: usize,
}

/// What LDTILECFG reads: the extents of the tiles.
#[repr(C)]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl Sweep {
    #[inline(always)]
    pub fn new() -> Self {
        let each = |of_tile: u8| core::array::from_fn(|tile| if tile < 8 { of_tile } else { 0 });
        let row_bytes = each(64).map(u16::from);
        Self {
            ring: [MaybeUninit::uninit(); 2 * 4 * 256],
            config: Config { palette: 1, start_row: 0, reserved: [0; 14], row_bytes, rows: each(16) },
            codes: core::ptr::null(),
            half_norms: core::ptr::null(),
            rows: core::ptr::null(),
            maxima: core::ptr::null_mut(),
            groups: 0,
            panels: 0,
            steps: 0,
        }
    }

    /// The largest score of each group of 64 codes for each row, into `maxima` `[panels][groups][32 rows]`.
    ///
    /// `codes` `[groups][2][steps][32]`: see `codebook::bf16`; `half_norms` `[groups][64]`, none for cosine; `rows`
    /// `[panels][steps][2 tiles][16][16 rows]`: pairs of slots, 32 in a step. A score is the sum of the products of slots, as TDPBF16PS adds them up, and h. Where a score is NaN, so may be
    /// any maximum.
    #[inline(always)]
    pub fn maxima(
        &mut self,
        _: Tiles,
        codes: &[Line],
        half_norms: Option<&[f32]>,
        rows: &[u32],
        steps: usize,
        maxima: &mut [f32],
    ) {
        assert!(steps > 0, "codes of something");
        let (groups, panels) = (codes.len() / (GROUP * steps), rows.len() / (PANEL_ROWS * 16 * steps));
        assert!(groups > 0 && panels > 0, "a sweep of something");
        assert!(codes.len() == groups * GROUP * steps && rows.len() == panels * PANEL_ROWS * 16 * steps, "whole tiles");
        assert!(maxima.len() == panels * groups * PANEL_ROWS, "room for all maxima");
        assert!(half_norms.is_none_or(|h| h.len() == groups * GROUP), "an h for each code");
        self.codes = codes.as_ptr();
        self.half_norms = half_norms.map_or(core::ptr::null(), <[f32]>::as_ptr);
        (self.rows, self.maxima) = (rows.as_ptr(), maxima.as_mut_ptr());
        (self.groups, self.panels, self.steps) = (groups, panels, steps);
        // SAFETY: the slices have the lengths that the sweeps read and write; `Tiles` is proof of the features.
        unsafe {
            match (steps, half_norms) {
                (1, None) => narrow_cosine(self),
                (1, Some(_)) => narrow_l2(self),
                (_, None) => wide_cosine(self),
                (_, Some(_)) => wide_l2(self),
            }
        }
    }
}

// The parts of a sweep. `t` is the `Sweep`, whose ring comes first; `s` is 64, the stride of every tile; `a` the next
// codes, `b` the panel's rows, `h` the group's h, `o` the next maxima; `g`, `n` and `k` count groups, panels and steps; `bytes` are those
// of a tile's rows and its neighbour's in all steps.
// `$new` and `$old` are halves of the ring, 0 or 4096 bytes into it; `$h` is where the h of the 32 codes begin.

/// The largest scores of the 16 codes of C tile `$tile` so far, in four registers for its 16 rows.
macro_rules! compare {
    (cosine, $tile:tt, $old:tt, $h:tt, $a:tt, $b:tt, $c:tt, $d:tt) => {
        concat!(
            ".irp r, 0, 1, 2, 3\n",
            "vmaxps zmm",
            $a,
            ", zmm",
            $a,
            ", [{t} + ",
            $old,
            " + 1024*",
            $tile,
            " + 256*\\r]\n",
            "vmaxps zmm",
            $b,
            ", zmm",
            $b,
            ", [{t} + ",
            $old,
            " + 1024*",
            $tile,
            " + 256*\\r + 64]\n",
            "vmaxps zmm",
            $c,
            ", zmm",
            $c,
            ", [{t} + ",
            $old,
            " + 1024*",
            $tile,
            " + 256*\\r + 128]\n",
            "vmaxps zmm",
            $d,
            ", zmm",
            $d,
            ", [{t} + ",
            $old,
            " + 1024*",
            $tile,
            " + 256*\\r + 192]\n",
            ".endr\n",
        )
    };
    // With h; two tiles at a time, as they share it. The larger of a score that is NaN and of the best is the best.
    (l2, $tile:tt, $old:tt, $h:tt, $best:tt, $other:tt, $code:tt) => {
        concat!(
            "vbroadcastss zmm9, dword ptr [{h} + ",
            $h,
            " + 32*",
            $tile,
            " + 16*\\r + 4*",
            $code,
            "]\n",
            "vaddps zmm10, zmm9, [{t} + ",
            $old,
            " + 1024*",
            $tile,
            " + 256*\\r + 64*",
            $code,
            "]\n",
            "vaddps zmm11, zmm9, [{t} + ",
            $old,
            " + 1024*",
            $tile,
            " + 1024 + 256*\\r + 64*",
            $code,
            "]\n",
            "vmaxps zmm",
            $best,
            ", zmm10, zmm",
            $best,
            "\n",
            "vmaxps zmm",
            $other,
            ", zmm11, zmm",
            $other,
            "\n",
        )
    };
    (l2, $tile:tt, $old:tt, $h:tt) => {
        concat!(
            ".irp r, 0, 1, 2, 3\n",
            compare!(l2, $tile, $old, $h, 0, 4, 0),
            compare!(l2, $tile, $old, $h, 1, 5, 1),
            compare!(l2, $tile, $old, $h, 2, 6, 2),
            compare!(l2, $tile, $old, $h, 3, 7, 3),
            ".endr\n",
        )
    };
}

/// A quarter of what is to be done with the scores of 32 codes; it needs the C tiles up to `$quarter`.
macro_rules! quarter {
    (cosine, 0, $old:tt, $h:tt) => {
        compare!(cosine, 0, $old, $h, 0, 1, 2, 3)
    };
    (cosine, 1, $old:tt, $h:tt) => {
        compare!(cosine, 1, $old, $h, 4, 5, 6, 7)
    };
    (cosine, 2, $old:tt, $h:tt) => {
        compare!(cosine, 2, $old, $h, 0, 1, 2, 3)
    };
    (cosine, 3, $old:tt, $h:tt) => {
        compare!(cosine, 3, $old, $h, 4, 5, 6, 7)
    };
    (l2, 1, $old:tt, $h:tt) => {
        compare!(l2, 0, $old, $h)
    };
    (l2, 3, $old:tt, $h:tt) => {
        compare!(l2, 2, $old, $h)
    };
    (l2, $_:tt, $old:tt, $h:tt) => {
        ""
    };
}

macro_rules! quarters {
    ($metric:tt, $old:tt, $h:tt) => {
        concat!(
            quarter!($metric, 0, $old, $h),
            quarter!($metric, 1, $old, $h),
            quarter!($metric, 2, $old, $h),
            quarter!($metric, 3, $old, $h),
        )
    };
}

macro_rules! store {
    ($tile:tt, $half:tt) => {
        concat!("tilestored [{t} + {s} + ", $half, " + 1024*", $tile, "], tmm", $tile, "\n")
    };
}

/// The scores of the next 32 codes. Each C tile is stored two products after its own, so that nothing waits for it: the
/// last two of the 32 codes before, `$old`, are stored here. Between, the scores of those are compared.
macro_rules! block {
    // One step: B stays.
    (narrow, $metric:tt, $new:tt, $old:tt, $h:tt) => {
        concat!(
            "tileloadd tmm4, [{a} + {s}]\n",
            "tilezero tmm0\ntdpbf16ps tmm0, tmm4, tmm6\n",
            store!(2, $old),
            quarter!($metric, 0, $old, $h),
            "tilezero tmm1\ntdpbf16ps tmm1, tmm4, tmm7\n",
            store!(3, $old),
            quarter!($metric, 1, $old, $h),
            "tileloadd tmm5, [{a} + {s} + 1024]\nadd {a}, 2048\n",
            "tilezero tmm2\ntdpbf16ps tmm2, tmm5, tmm6\n",
            store!(0, $new),
            quarter!($metric, 2, $old, $h),
            "tilezero tmm3\ntdpbf16ps tmm3, tmm5, tmm7\n",
            store!(1, $new),
            quarter!($metric, 3, $old, $h),
        )
    };
    // Nothing before.
    (narrow, $metric:tt, $new:tt) => {
        concat!(
            "tileloadd tmm6, [{b} + {s}]\ntileloadd tmm7, [{b} + {s} + 1024]\ntileloadd tmm4, [{a} + {s}]\n",
            "tilezero tmm0\ntdpbf16ps tmm0, tmm4, tmm6\n",
            "tilezero tmm1\ntdpbf16ps tmm1, tmm4, tmm7\n",
            "tileloadd tmm5, [{a} + {s} + 1024]\nadd {a}, 2048\n",
            "tilezero tmm2\ntdpbf16ps tmm2, tmm5, tmm6\n",
            store!(0, $new),
            "tilezero tmm3\ntdpbf16ps tmm3, tmm5, tmm7\n",
            store!(1, $new),
        )
    };
    // Several steps: A and B pass by.
    (wide, $metric:tt, $new:tt, $old:tt, $h:tt) => {
        concat!(
            "tileloadd tmm4, [{a} + {s}]\ntileloadd tmm6, [{b} + {s}]\n",
            "tilezero tmm0\ntdpbf16ps tmm0, tmm4, tmm6\n",
            store!(2, $old),
            "tileloadd tmm7, [{b} + {s} + 1024]\n",
            "tilezero tmm1\ntdpbf16ps tmm1, tmm4, tmm7\n",
            store!(3, $old),
            "tileloadd tmm5, [{a} + {s} + 1024]\n",
            "tilezero tmm2\ntdpbf16ps tmm2, tmm5, tmm6\n",
            "tilezero tmm3\ntdpbf16ps tmm3, tmm5, tmm7\n",
            quarters!($metric, $old, $h),
            block!(steps),
            store!(0, $new),
            store!(1, $new),
        )
    };
    (wide, $metric:tt, $new:tt) => {
        concat!(
            "tilezero tmm0\ntilezero tmm1\ntilezero tmm2\ntilezero tmm3\n",
            "mov {k}, [{t} + {steps}]\n",
            block!(loop),
            store!(0, $new),
            store!(1, $new)
        )
    };
    // The steps after the first.
    (steps) => {
        concat!("mov {k}, [{t} + {steps}]\ndec {k}\nadd {a}, 2048\nadd {b}, 2048\n", block!(loop))
    };
    (loop) => {
        concat!(
            "22:\n",
            "tileloadd tmm4, [{a} + {s}]\ntileloadd tmm6, [{b} + {s}]\ntdpbf16ps tmm0, tmm4, tmm6\n",
            "tileloadd tmm7, [{b} + {s} + 1024]\ntdpbf16ps tmm1, tmm4, tmm7\n",
            "tileloadd tmm5, [{a} + {s} + 1024]\ntdpbf16ps tmm2, tmm5, tmm6\ntdpbf16ps tmm3, tmm5, tmm7\n",
            "add {a}, 2048\nadd {b}, 2048\ndec {k}\njnz 22b\n",
            "sub {b}, {bytes}\n",
        )
    };
}

/// The maxima of a group, and the next group's begin.
macro_rules! finish {
    () => {
        concat!(
            "vmaxps zmm0, zmm0, zmm1\nvmaxps zmm2, zmm2, zmm3\nvmaxps zmm4, zmm4, zmm5\nvmaxps zmm6, zmm6, zmm7\n",
            "vmaxps zmm0, zmm0, zmm2\nvmaxps zmm4, zmm4, zmm6\n",
            "vmovups [{o}], zmm0\nvmovups [{o} + 64], zmm4\nadd {o}, 128\nadd {h}, 256\n",
        )
    };
}

macro_rules! sweep {
    ($(#[$doc:meta])* $name:ident, $width:tt, $metric:tt) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// What the fields of `sweep` lead to has the extents that [`Sweep::maxima`] states; the process may use tiles.
        #[target_feature(enable = "avx512f")]
        unsafe fn $name(sweep: &mut Sweep) {
            // SAFETY: reads codes, rows and h, and writes maxima, of the caller's extents, and the ring. Tiles are
            // configured and released here; the configuration is one of palette 1.
            unsafe {
                asm!(
                    concat!(
                        "ldtilecfg [{t} + {config}]\n",
                        "mov {b}, [{t} + {rows}]\nmov {o}, [{t} + {maxima}]\nmov {n}, [{t} + {panels}]\n",
                        "mov {bytes}, [{t} + {steps}]\nshl {bytes}, 11\n",
                        "mov {k:e}, 0xff800000\nvpbroadcastd zmm8, {k:e}\n",
                        "20:\n",
                        "mov {a}, [{t} + {codes}]\nmov {h}, [{t} + {half_norms}]\nmov {g}, [{t} + {groups}]\n",
                        block!($width, $metric, 0),
                        "21:\n",
                        ".irp r, 0, 1, 2, 3, 4, 5, 6, 7\nvmovaps zmm\\r, zmm8\n.endr\n",
                        block!($width, $metric, 4096, 0, 0),
                        "dec {g}\njz 23f\n",
                        block!($width, $metric, 0, 4096, 128),
                        finish!(),
                        "jmp 21b\n",
                        "23:\n",
                        store!(2, 4096), store!(3, 4096), quarters!($metric, 4096, 128),
                        finish!(),
                        "add {b}, {bytes}\ndec {n}\njnz 20b\n",
                        "tilerelease\nvzeroupper\n",
                    ),
                    t = in(reg) core::ptr::from_mut(sweep), s = in(reg) 64usize, a = out(reg) _, b = out(reg) _, h = out(reg) _, o = out(reg) _,
                    g = out(reg) _, n = out(reg) _, k = out(reg) _, bytes = out(reg) _,
                    config = const offset_of!(Sweep, config), codes = const offset_of!(Sweep, codes),
                    half_norms = const offset_of!(Sweep, half_norms), rows = const offset_of!(Sweep, rows),
                    maxima = const offset_of!(Sweep, maxima), groups = const offset_of!(Sweep, groups),
                    panels = const offset_of!(Sweep, panels), steps = const offset_of!(Sweep, steps),
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    out("zmm0") _, out("zmm1") _, out("zmm2") _, out("zmm3") _, out("zmm4") _, out("zmm5") _,
                    out("zmm6") _, out("zmm7") _, out("zmm8") _, out("zmm9") _, out("zmm10") _, out("zmm11") _,
                    out("zmm12") _, out("zmm13") _, out("zmm14") _, out("zmm15") _,
                    options(nostack),
                );
            }
        }
    };
}

sweep!(
    /// Codes and rows of one step, scores as they are.
    narrow_cosine, narrow, cosine
);
sweep!(
    /// Codes and rows of one step, and h.
    narrow_l2, narrow, l2
);
sweep!(
    /// Codes and rows of several steps, scores as they are.
    wide_cosine, wide, cosine
);
sweep!(
    /// Codes and rows of several steps, and h.
    wide_l2, wide, l2
);
