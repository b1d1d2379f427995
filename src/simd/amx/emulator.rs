//! AMX in software, for machines without it: a handler of SIGILL executes the instructions that the sweeps are made of,
//! and no others, on tiles of the faulting thread. So the machine code that is tested is the one that is shipped.
//!
//! What a processor would raise an exception for is recorded as a [`Fault`], and the instruction does nothing; memory is
//! read and written with the real protection of pages. TDPBF16PS follows the pseudocode of Intel's manual (volume 2,
//! TDPBF16PS; the same in Bochs): the even and the odd slots of a code each in a chain of FMAs over the pairs in order,
//! from +0; the two sums are added, and then to C. Every operation rounds to nearest even, takes subnormal operands as
//! zeros, and makes zeros of subnormal results (which are those that are subnormal after rounding).

use core::arch::global_asm;
use core::cell::{Cell, UnsafeCell};
use core::ffi::{c_int, c_void};
use std::sync::{Once, OnceLock};

use crate::simd::{Isa, Tier, native};

std::thread_local! {
    /// What [`Tiles::ask`](super::Tiles::ask) is answered on this thread; none where Linux answers.
    pub static ANSWER: Cell<Option<bool>> = const { Cell::new(None) };
    static MACHINE: UnsafeCell<Machine> = const { UnsafeCell::new(Machine::NEW) };
}

/// What a processor would not have done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// An instruction that needs a configuration, where there is none.
    NotConfigured,
    /// A configuration that LDTILECFG refuses.
    Configuration,
    /// Tiles of a product that are not three, or whose extents do not fit.
    Operands,
    /// Memory that cannot be read or written.
    Memory,
}

/// How often what was executed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Executed {
    pub configured: usize,
    pub released: usize,
    pub zeros: usize,
    pub loads: usize,
    pub stores: usize,
    pub products: usize,
}

type Tile = [[u8; 64]; 16];

struct Machine {
    configured: bool,
    rows: [usize; 8],
    row_bytes: [usize; 8],
    tiles: [Tile; 8],
    executed: Executed,
    fault: Option<Fault>,
}

impl Machine {
    const NEW: Self = Self {
        configured: false,
        rows: [0; 8],
        row_bytes: [0; 8],
        tiles: [[[0; 64]; 16]; 8],
        executed: Executed { configured: 0, released: 0, zeros: 0, loads: 0, stores: 0, products: 0 },
        fault: None,
    };
}

/// The tier `amx` on a machine without it, where that has the rest; says so where it has not. Machines with AMX run the
/// integration tests on it.
pub fn isa() -> Option<Isa> {
    if super::detected() {
        std::eprintln!("skipped: this machine has AMX, and nothing is emulated");
        return None;
    }
    if Isa::avx512_vnni().is_none() {
        std::eprintln!("skipped: no AVX-512 VNNI, so that AMX cannot be emulated");
        return None;
    }
    install();
    ANSWER.set(Some(true));
    Some(Isa(Tier::Native(native::Tier::Amx)))
}

/// Runs `program`, and returns what was executed on this thread, and the first fault.
pub fn watched<T>(program: impl FnOnce() -> T) -> (T, Executed, Option<Fault>) {
    install();
    // SAFETY: the machine is this thread's, and no reference outlives a statement.
    MACHINE.with(|machine| unsafe { *machine.get() = Machine::NEW });
    let value = program();
    // SAFETY: as above.
    let (executed, fault) = MACHINE.with(|machine| unsafe { ((*machine.get()).executed, (*machine.get()).fault) });
    (value, executed, fault)
}

/// [`watched`], of a program that must not fault, and must release what it configures.
pub fn clean<T>(program: impl FnOnce() -> T) -> (T, Executed) {
    let (value, executed, fault) = watched(program);
    assert_eq!((fault, executed.configured), (None, executed.released));
    (value, executed)
}

static OLD_SEGV: OnceLock<libc::sigaction> = OnceLock::new();

fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let on = |signal: c_int, handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void), stack: c_int| {
            // SAFETY: zero bits are a value of the structures; the handler has the form that SA_SIGINFO asks for.
            unsafe {
                let (mut new, mut old): (libc::sigaction, libc::sigaction) = core::mem::zeroed();
                new.sa_sigaction = handler as *const () as usize;
                new.sa_flags = libc::SA_SIGINFO | stack;
                assert_eq!(libc::sigaction(signal, &new, &mut old), 0, "sigaction");
                old
            }
        };
        let _ = on(libc::SIGILL, illegal, 0);
        let _ = OLD_SEGV.set(on(libc::SIGSEGV, segmentation, libc::SA_ONSTACK));
    });
}

// The only instruction of the emulator that touches a program's memory: where it faults, the handler of SIGSEGV goes on
// behind it.
global_asm!(
    "vq_emulator_copy:",
    "mov rcx, rdx",
    "vq_emulator_move:",
    "rep movsb",
    "vq_emulator_moved:",
    "mov rax, rcx",
    "ret",
);

unsafe extern "C" {
    /// Copies `count` bytes; returns how many it did not, since they are not accessible.
    fn vq_emulator_copy(to: *mut u8, from: *const u8, count: usize) -> usize;
    static vq_emulator_move: u8;
    static vq_emulator_moved: u8;
}

extern "C" fn segmentation(_: c_int, _: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: Linux passes a context of this form; the symbols are those above.
    unsafe {
        let rip = &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs[libc::REG_RIP as usize];
        if *rip == (&raw const vq_emulator_move) as i64 {
            *rip = (&raw const vq_emulator_moved) as i64;
        } else {
            // Not the emulator's: what was there before sees it when it faults again.
            let old = OLD_SEGV.get().map_or(core::ptr::null(), core::ptr::from_ref);
            libc::sigaction(libc::SIGSEGV, old, core::ptr::null_mut());
        }
    }
}

extern "C" fn illegal(_: c_int, _: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: Linux passes a context of this form; at its RIP are the bytes of an instruction, of which no more are read
    // than it has.
    unsafe {
        let registers = &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs;
        let rip = registers[libc::REG_RIP as usize];
        let machine = MACHINE.with(UnsafeCell::get);
        match Instruction::decode(rip as *const u8, registers) {
            Some((instruction, len)) => {
                if let Err(fault) = (*machine).execute(instruction) {
                    (*machine).fault.get_or_insert(fault);
                }
                registers[libc::REG_RIP as usize] = rip + len as i64;
            }
            None => {
                // Not the emulator's: the process ends when it faults again.
                libc::signal(libc::SIGILL, libc::SIG_DFL);
            }
        }
    }
}

/// A place in memory: where row 0 of a tile is, and from each row to the next.
#[derive(Clone, Copy)]
struct Place {
    base: usize,
    stride: usize,
}

#[derive(Clone, Copy)]
enum Instruction {
    Configure(usize),
    Release,
    Zero(usize),
    Load(usize, Place),
    Store(usize, Place),
    Product { c: usize, a: usize, b: usize },
}

impl Instruction {
    /// The instruction at `rip` and its length; none where it is not one of AMX's that is known here.
    ///
    /// # Safety
    /// An instruction's bytes are at `rip`.
    unsafe fn decode(rip: *const u8, registers: &[i64; 23]) -> Option<(Self, usize)> {
        // SAFETY: each byte is read only after those before it have announced it.
        let byte = |i: usize| unsafe { *rip.add(i) };
        if byte(0) != 0xc4 {
            return None;
        }
        // VEX of three bytes, map 0F38, W0, 128 bits; X and B extend index and base.
        let (first, second) = (byte(1), byte(2));
        let (extended_index, extended_base) = (first >> 6 & 1 ^ 1, first >> 5 & 1 ^ 1);
        if first & 0x9f != 0x82 || second & 0x84 != 0 {
            return None;
        }
        let (vector, prefix) = (usize::from(!(second >> 3) & 15), second & 3);
        let (opcode, modrm) = (byte(3), byte(4));
        let (mode, reg, rm) = (modrm >> 6, usize::from(modrm >> 3 & 7), modrm & 7);
        const NONE: u8 = 0;
        const F3: u8 = 2;
        const F2: u8 = 3;
        match (opcode, prefix, mode) {
            (0x49, NONE, 3) if modrm == 0xc0 && vector == 0 => return Some((Self::Release, 5)),
            (0x49, F2, 3) if rm == 0 && vector == 0 => return Some((Self::Zero(reg), 5)),
            (0x5c, F3, 3) if vector < 8 => {
                return Some((Self::Product { c: reg, a: usize::from(rm), b: vector }, 5));
            }
            (0x49 | 0x4b, _, 0..=2) if vector == 0 => {}
            _ => return None,
        }
        let general = |number: u8| {
            const ORDER: [c_int; 16] = [
                libc::REG_RAX,
                libc::REG_RCX,
                libc::REG_RDX,
                libc::REG_RBX,
                libc::REG_RSP,
                libc::REG_RBP,
                libc::REG_RSI,
                libc::REG_RDI,
                libc::REG_R8,
                libc::REG_R9,
                libc::REG_R10,
                libc::REG_R11,
                libc::REG_R12,
                libc::REG_R13,
                libc::REG_R14,
                libc::REG_R15,
            ];
            registers[ORDER[usize::from(number)] as usize] as usize
        };
        let (mut len, mut base, mut index) = (5, rm, None);
        if rm == 4 {
            let sib = byte(5);
            let (scale, number) = (sib >> 6, sib >> 3 & 7 | extended_index << 3);
            (len, base) = (6, sib & 7);
            index = (number != 4).then(|| general(number) << scale);
        }
        if mode == 0 && base == 5 {
            return None;
        }
        let displacement = match mode {
            0 => 0,
            1 => isize::from(byte(len) as i8),
            _ => i32::from_le_bytes(core::array::from_fn(|i| byte(len + i))) as isize,
        };
        len += [0, 1, 4][usize::from(mode)];
        let base = general(base | extended_base << 3).wrapping_add_signed(displacement);
        match (opcode, prefix, index) {
            (0x49, NONE, index) if reg == 0 => Some((Self::Configure(base + index.unwrap_or(0)), len)),
            // Without an index the instructions are not valid.
            (0x4b, F2, Some(stride)) => Some((Self::Load(reg, Place { base, stride }), len)),
            (0x4b, F3, Some(stride)) => Some((Self::Store(reg, Place { base, stride }), len)),
            _ => None,
        }
    }
}

impl Machine {
    fn execute(&mut self, instruction: Instruction) -> Result<(), Fault> {
        match instruction {
            Instruction::Configure(place) => {
                self.executed.configured += 1;
                return self.configure(place);
            }
            Instruction::Release => {
                self.executed.released += 1;
                self.configured = false;
                self.tiles = Self::NEW.tiles;
                return Ok(());
            }
            _ if !self.configured => return Err(Fault::NotConfigured),
            Instruction::Zero(tile) => {
                self.executed.zeros += 1;
                self.extents(tile)?;
                self.tiles[tile] = [[0; 64]; 16];
            }
            Instruction::Load(tile, place) => {
                self.executed.loads += 1;
                let (rows, bytes) = self.extents(tile)?;
                let mut loaded = [[0; 64]; 16];
                for (row, loaded) in loaded[..rows].iter_mut().enumerate() {
                    let from = place.base.wrapping_add(row.wrapping_mul(place.stride));
                    copy(loaded.as_mut_ptr(), from as *const u8, bytes)?;
                }
                self.tiles[tile] = loaded;
            }
            Instruction::Store(tile, place) => {
                self.executed.stores += 1;
                let (rows, bytes) = self.extents(tile)?;
                for (row, stored) in self.tiles[tile][..rows].iter().enumerate() {
                    let to = place.base.wrapping_add(row.wrapping_mul(place.stride));
                    copy(to as *mut u8, stored.as_ptr(), bytes)?;
                }
            }
            Instruction::Product { c, a, b } => {
                self.executed.products += 1;
                let (c_extents, a_extents, b_extents) = (self.extents(c)?, self.extents(a)?, self.extents(b)?);
                let fit = c_extents.0 == a_extents.0 && c_extents.1 == b_extents.1 && 4 * b_extents.0 == a_extents.1;
                if c == a || a == b || b == c || !fit {
                    return Err(Fault::Operands);
                }
                let (a, b) = (self.tiles[a], self.tiles[b]);
                for (c, a) in self.tiles[c][..c_extents.0].iter_mut().zip(&a) {
                    // SAFETY: `isa` has found AVX-512; programs of tests that have products ask it first.
                    unsafe { product(c, a, &b[..b_extents.0]) };
                }
            }
        }
        Ok(())
    }

    fn extents(&self, tile: usize) -> Result<(usize, usize), Fault> {
        let extents = (self.rows[tile], self.row_bytes[tile]);
        let valid = extents.0 > 0 && extents.1 > 0 && extents.1.is_multiple_of(4);
        if valid { Ok(extents) } else { Err(Fault::Operands) }
    }

    fn configure(&mut self, place: usize) -> Result<(), Fault> {
        let mut bytes = [0u8; 64];
        copy(bytes.as_mut_ptr(), place as *const u8, 64)?;
        (self.configured, self.tiles) = (false, Self::NEW.tiles);
        if bytes[0] == 0 {
            return Ok(());
        }
        let reserved = [2..16, 32..48, 56..64].into_iter().flatten().any(|i| bytes[i] != 0);
        for tile in 0..8 {
            self.row_bytes[tile] = usize::from(u16::from_le_bytes([bytes[16 + 2 * tile], bytes[17 + 2 * tile]]));
            self.rows[tile] = usize::from(bytes[48 + tile]);
        }
        let extents = self.rows.iter().zip(&self.row_bytes);
        let wrong = extents.into_iter().any(|(&r, &b)| r > 16 || b > 64 || (r == 0) != (b == 0));
        if bytes[0] != 1 || bytes[1] != 0 || reserved || wrong {
            return Err(Fault::Configuration);
        }
        self.configured = true;
        Ok(())
    }
}

fn copy(to: *mut u8, from: *const u8, count: usize) -> Result<(), Fault> {
    // SAFETY: one of the sides is the emulator's own and has the bytes; the other is the program's, and where it is not
    // accessible, the handler of SIGSEGV goes on behind the copy.
    if unsafe { vq_emulator_copy(to, from, count) } == 0 { Ok(()) } else { Err(Fault::Memory) }
}

/// One row of C: `c[n] += Σ a[2k] b[k][2n] + Σ a[2k+1] b[k][2n+1]`.
#[target_feature(enable = "avx2,fma,avx512f")]
fn product(c: &mut [u8; 64], a: &[u8; 64], b: &[[u8; 64]]) {
    let wide = |bytes: &[u8; 64], slot: usize| {
        zero_subnormal(f32::from_bits(u32::from(u16::from_le_bytes([bytes[2 * slot], bytes[2 * slot + 1]])) << 16))
    };
    let mut sums = [[0.0f32; 16]; 2];
    for (k, b) in b.iter().enumerate() {
        for (odd, sums) in sums.iter_mut().enumerate() {
            let a = wide(a, 2 * k + odd);
            let b: [f32; 16] = core::array::from_fn(|n| wide(b, 2 * n + odd));
            let mut tiny = false;
            for (sum, b) in sums.iter_mut().zip(b) {
                let next = a.mul_add(b, *sum);
                tiny |= next.abs() <= f32::MIN_POSITIVE && next != 0.0;
                *sum = next;
            }
            if tiny {
                // Rare: flushed one by one. What was 0 before is no smaller for it.
                sums.iter_mut().for_each(|sum| *sum = flush(*sum));
            }
        }
    }
    for (n, c) in c.chunks_exact_mut(4).enumerate() {
        let old = zero_subnormal(f32::from_le_bytes([c[0], c[1], c[2], c[3]]));
        let new = flush(old + flush(sums[0][n] + sums[1][n]));
        c.copy_from_slice(&new.to_le_bytes());
    }
}

/// DAZ.
#[inline(always)]
fn zero_subnormal(x: f32) -> f32 {
    if x.abs() < f32::MIN_POSITIVE { 0.0f32.copysign(x) } else { x }
}

/// FTZ of what was rounded with subnormal numbers. (Between 2⁻¹²⁶(1 − 2⁻²⁴) and 2⁻¹²⁶(1 − 2⁻²⁵) that makes 2⁻¹²⁶ of what
/// the processor makes 0 of; the bound has room for either.)
#[inline(always)]
fn flush(x: f32) -> f32 {
    zero_subnormal(x)
}

/// Memory that ends where no access is possible.
pub struct Guarded {
    start: *mut u8,
    len: usize,
    mapped: usize,
}

impl Guarded {
    /// `len` bytes of zeros, a multiple of 64, with an inaccessible page right behind them.
    pub fn new(len: usize) -> Self {
        const PAGE: usize = 4096;
        let body = len.next_multiple_of(PAGE);
        // SAFETY: a new mapping, whose last page is then made inaccessible.
        let start = unsafe {
            let (read_write, private) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
            let start = libc::mmap(core::ptr::null_mut(), body + PAGE, read_write, private, -1, 0);
            assert!(start != libc::MAP_FAILED, "mmap");
            assert_eq!(libc::mprotect(start.add(body), PAGE, libc::PROT_NONE), 0, "mprotect");
            start.cast::<u8>().add(body - len)
        };
        Self { start, len, mapped: body + PAGE }
    }

    pub fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: `len` bytes from `start` are mapped, and this borrow is the only one.
        unsafe { core::slice::from_raw_parts_mut(self.start, self.len) }
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        let first = self.start as usize & !4095;
        // SAFETY: the whole mapping, which nothing borrows any more.
        unsafe { libc::munmap(first as *mut c_void, self.mapped) };
    }
}
