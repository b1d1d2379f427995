//! Rows and codes in q15: contract B.

#![no_std]
#![no_main]

use no_std::{expected, index, run};
use vq_kernels::index::{Codes, Index};
use vq_kernels::{Cpu, MatMut, MatRef, Result, ops};

#[cortex_m_rt::entry]
fn main() -> ! {
    let cosine = (index!("q15_cosine.vqi"), &expected::Q15_COSINE);
    run("q15", [cosine, (index!("q15_l2.vqi"), &expected::Q15_L2)], encode)
}

fn encode(index: &'static [u8], x: MatRef, codes: &mut [u16]) -> Result<()> {
    let (cpu, index) = (Cpu::new(), Index::read(index)?);
    let Codes::Q15(codebook) = index.codes() else { no_std::fail("not q15") };
    // One row at a time, as they come.
    for (row, code) in codes.chunks_mut(1).enumerate() {
        let mut fixed = [0i16; expected::DIM];
        ops::to_fixed(&cpu, x.rows_from(row, 1), index.scale(), MatMut::new(&mut fixed, 1, expected::DIM)?)?;
        let x = MatRef::new(&fixed, 1, expected::DIM)?;
        ops::search_fixed(&cpu, x, None, codebook, index.metric(), code, None)?;
    }
    Ok(())
}
