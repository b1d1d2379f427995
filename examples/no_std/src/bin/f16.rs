//! Codes in f16: contract A.

#![no_std]
#![no_main]

use no_std::{expected, index, run};
use vq_kernels::index::{Codes, Index};
use vq_kernels::{Cpu, MatRef, Result, ops};

#[cortex_m_rt::entry]
fn main() -> ! {
    let cosine = (index!("f16_cosine.vqi"), &expected::F16_COSINE);
    run("f16", [cosine, (index!("f16_l2.vqi"), &expected::F16_L2)], encode)
}

fn encode(index: &'static [u8], x: MatRef, codes: &mut [u16]) -> Result<()> {
    let (cpu, index) = (Cpu::new(), Index::read(index)?);
    let Codes::F16(codebook) = index.codes() else { no_std::fail("not f16") };
    // One row at a time, as they come.
    for (row, code) in codes.chunks_mut(1).enumerate() {
        ops::search_unpacked(&cpu, x.rows_from(row, 1), None, codebook, index.metric(), code, None)?;
    }
    Ok(())
}
