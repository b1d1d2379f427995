//! Codes in f32: contract A.

#![no_std]
#![no_main]

use no_std::{expected, index, run};
use vq_kernels::index::{Codes, Index};
use vq_kernels::{Cpu, MatRef, Result, ops};

#[cortex_m_rt::entry]
fn main() -> ! {
    let cosine = (index!("f32_cosine.vqi"), &expected::F32_COSINE);
    run("f32", [cosine, (index!("f32_l2.vqi"), &expected::F32_L2)], encode)
}

fn encode(index: &'static [u8], x: MatRef, codes: &mut [u16]) -> Result<()> {
    let (cpu, index) = (Cpu::new(), Index::read(index)?);
    let Codes::F32(codebook) = index.codes() else { no_std::fail("not f32") };
    // One row at a time, as they come.
    for (row, code) in codes.chunks_mut(1).enumerate() {
        ops::search_unpacked(&cpu, x.rows_from(row, 1), None, codebook, index.metric(), code, None)?;
    }
    Ok(())
}
