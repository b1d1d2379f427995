//! What the programs share: their fixtures, and the measuring of code and stack.
//!
//! Without `core::fmt`, so that a program's size beyond that of `empty` is what encoding costs.

#![no_std]

use core::arch::asm;
use core::panic::PanicInfo;
use core::ptr;
use cortex_m_rt as _;
use semihosting::io::{Write, stdout};
use semihosting::process;
use vq_kernels::{MatRef, Result};

/// Made by `build.rs`: rows, and the codes that they must get.
pub mod expected {
    #![allow(missing_docs)]
    include!(concat!(env!("OUT_DIR"), "/expected.rs"));
}

use expected::{DIM, ROWS, X};

/// An index file of `build.rs`, in flash.
#[macro_export]
macro_rules! index {
    ($name:literal) => {{
        use vq_kernels::index::Aligned;
        static INDEX: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/", $name)));
        &INDEX.0
    }};
}

/// An index, and the codes that the rows have in it.
pub type Case = (&'static [u8], &'static [u16; ROWS]);

/// Most bytes of stack that encoding may take.
const MOST_STACK: usize = 2048;

/// Encodes the rows in each index, and compares, measures, prints and exits: with 0 where all is as it must be.
pub fn run(name: &str, cases: [Case; 2], encode: fn(&'static [u8], MatRef, &mut [u16]) -> Result<()>) -> ! {
    let (mut stack, mut constants, mut ticks) = (0, 0, [0; 2]);
    for ((index, expected), ticks) in cases.into_iter().zip(&mut ticks) {
        let mut codes = [0; ROWS];
        let start = clock();
        let used = stack_used(|| match MatRef::new(&X, ROWS, DIM).and_then(|x| encode(index, x, &mut codes)) {
            Ok(()) => {}
            Err(_) => fail("refused"),
        });
        *ticks = start.wrapping_sub(clock()) & CLOCK_MASK;
        if codes != *expected {
            fail("codes differ");
        }
        stack = stack.max(used);
        constants += size_of_val(index) + size_of_val(expected);
    }
    let [text, rodata] = sizes();
    constants = rodata.saturating_sub(constants + size_of_val(&X));
    print(name);
    for (what, value) in
        [(" text ", text), (" constants ", constants), (" stack ", stack), (" codes ", 2 * ROWS), (" ticks ", ticks[0])]
    {
        print(what);
        print_number(value);
    }
    print("\n");
    if stack > MOST_STACK {
        fail("too much stack");
    }
    process::exit(0)
}

/// SysTick has 24 bits.
const CLOCK_MASK: usize = 0xFF_FFFF;

/// The processor's clock, which counts down. Under QEMU's `-icount shift=0` an instruction takes a nanosecond of it.
fn clock() -> usize {
    const CONTROL: *mut usize = ptr::without_provenance_mut(0xE000_E010);
    const RELOAD: *mut usize = ptr::without_provenance_mut(0xE000_E014);
    const CURRENT: *mut usize = ptr::without_provenance_mut(0xE000_E018);
    const ENABLED_BY_THE_PROCESSORS_CLOCK: usize = 5;
    // SAFETY: SysTick's registers, at the same addresses on every Cortex-M; nothing else here uses them.
    unsafe {
        RELOAD.write_volatile(CLOCK_MASK);
        CONTROL.write_volatile(ENABLED_BY_THE_PROCESSORS_CLOCK);
        CURRENT.read_volatile()
    }
}

unsafe extern "C" {
    // What cortex-m-rt's linker script defines: addresses, not values.
    static __stext: u32;
    static __etext: u32;
    static __srodata: u32;
    static __erodata: u32;
    static __sheap: u32;
}

/// Bytes of code and of constants in this program.
fn sizes() -> [usize; 2] {
    let [stext, etext] = [&raw const __stext, &raw const __etext].map(<*const u32>::addr);
    let [srodata, erodata] = [&raw const __srodata, &raw const __erodata].map(<*const u32>::addr);
    [etext - stext, erodata - srodata]
}

/// Bytes of stack below its caller's that `task` takes: the deepest word that no longer has the colour that all had.
#[inline(never)]
fn stack_used(task: impl FnOnce()) -> usize {
    const COLOUR: u32 = 0xC0DE_57AC;
    /// For this function's own frame and the loops' below it.
    const OWN: usize = 256;
    let sp: usize;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, sp", out(reg) sp, options(nomem, nostack, preserves_flags)) };
    let bottom = (&raw const __sheap).cast_mut();
    let words = (sp - OWN - bottom.addr()) / 4;
    for i in 0..words {
        // SAFETY: between the statics and this frame nothing lies but free stack; there is no heap and no interrupt.
        unsafe { ptr::write_volatile(bottom.add(i), COLOUR) };
    }
    call(task);
    let untouched = (0..words).take_while(|&i| {
        // SAFETY: as above.
        unsafe { ptr::read_volatile(bottom.add(i)) == COLOUR }
    });
    sp - bottom.addr() - 4 * untouched.count()
}

/// Calls `task` in a frame of its own: inlined, its stack would lie in a frame that is not measured.
#[inline(never)]
fn call(task: impl FnOnce()) {
    task();
}

fn print(text: &str) {
    if let Ok(mut out) = stdout() {
        // A host that does not listen cannot be told.
        let _ = out.write_all(text.as_bytes());
    }
}

fn print_number(value: usize) {
    let (mut digits, mut first, mut rest) = ([b'0'; 10], 9, value);
    while rest > 9 {
        digits[first] += (rest % 10) as u8;
        (rest, first) = (rest / 10, first - 1);
    }
    digits[first] += rest as u8;
    print(core::str::from_utf8(&digits[first..]).unwrap_or("?"));
}

/// Says why, and exits with 1.
pub fn fail(why: &str) -> ! {
    print(why);
    print("\n");
    process::exit(1)
}

#[panic_handler]
fn panic(info: &PanicInfo) -> ! {
    if let Some(place) = info.location() {
        print(place.file());
        print(":");
        print_number(place.line() as usize);
        print(" ");
    }
    fail("panicked")
}
