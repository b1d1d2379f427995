//! Encodes without an allocator, and trains where there is one.
#![no_std]

use vq_kernels::{Cpu, Line, MatMut, MatRef, Metric, PackedCodebook, Packing, Result, ops};

/// Codes of two unit rows, on the stack alone.
pub fn encode(codebook: &[f32; 64 * 8], x: &[f32; 2 * 8]) -> Result<[u16; 2]> {
    const LINES: usize = PackedCodebook::lines_len(64, 8, Metric::Cosine, Packing::F32);
    let (mut storage, mut unit, mut codes) = ([Line([0.0; 16]); LINES], [0.0; 16], [0; 2]);
    let packed = PackedCodebook::pack_into(MatRef::new(codebook, 64, 8)?, Metric::Cosine, Packing::F32, &mut storage[..])?;
    let cpu = Cpu::new();
    ops::normalize(&cpu, MatRef::new(x, 2, 8)?, MatMut::new(&mut unit, 2, 8)?, None)?;
    ops::search(&cpu, MatRef::new(&unit, 2, 8)?, None, &packed, &mut codes, None)?;
    Ok(codes)
}

/// One step of the default quantizer.
#[cfg(any(feature = "std", feature = "alloc"))]
pub fn step(x: &[f32]) -> Result<f64> {
    use vq_kernels::quantizer::{Config, Initial, Quantizer};
    let config = Config { codes: 64, ..Config::default() };
    let mut quantizer = Quantizer::new(config, Initial::Normal)?;
    let x = MatRef::new(x, x.len() / config.inputs, config.inputs)?;
    let report = quantizer.train_step(&Cpu::new(), x, None, |_, _| {})?;
    Ok(report.loss.commitment)
}
