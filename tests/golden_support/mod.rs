//! What the tests of numbers share: views without ceremony, instruction sets, the unit of rounding.

use vq_kernels::{Cpu, Isa, MatMut, MatRef};

/// Half a unit in the last place of an f32 in `[1, 2)`: what one rounding may add, relatively.
pub const UNIT: f64 = 1.0 / (1u64 << 24) as f64;

/// All of `data` as rows of `cols` elements.
pub fn mat<T>(data: &[T], cols: usize) -> MatRef<'_, T> {
    MatRef::new(data, data.len() / cols, cols).unwrap()
}

/// As [`mat`], to be written to.
pub fn mat_mut<T>(data: &mut [T], cols: usize) -> MatMut<'_, T> {
    let rows = data.len() / cols;
    MatMut::new(data, rows, cols).unwrap()
}

/// The same numbers in f64.
pub fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&x| f64::from(x)).collect()
}

/// A processor for each instruction set of this machine.
pub fn cpus() -> impl Iterator<Item = Cpu<'static>> {
    Isa::available().map(Cpu::with_isa)
}
