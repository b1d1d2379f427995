//! Encodes nothing: what the others' sizes are compared with.

#![no_std]
#![no_main]

use no_std::{expected::ROWS, index, run};

static NONE: [u16; ROWS] = [0; ROWS];

#[cortex_m_rt::entry]
fn main() -> ! {
    run("empty", [(index!("f32_cosine.vqi"), &NONE), (index!("f32_l2.vqi"), &NONE)], |_, _, _| Ok(()))
}
