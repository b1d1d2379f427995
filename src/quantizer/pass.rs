//! The rows of a step on their way through the layer, and their gradients on the way back.

use alloc::vec::Vec;

use super::parameters::Layers;
use super::{Config, Estimator, Loss, Quantizer, Report};
use crate::NO_CODE;
use crate::cpu::Cpu;
use crate::error::Result;
use crate::matrix::{MatMut, MatRef};
use crate::ops;
use crate::ops::loss::{self, SquaredError};
use crate::ops::restart::Restarted;

/// A step's rows, kept from step to step so that nothing is allocated again.
#[derive(Clone, Debug, Default)]
pub(super) struct Pass {
    pub z: Vec<f32>,
    pub unit: Vec<f32>,
    pub norms: Vec<f32>,
    pub codes: Vec<u32>,
    pub weights: Option<Vec<f32>>,
    pub quantized: Vec<f32>,
    pub output: Vec<f32>,
    pub doutput: Vec<f32>,
    pub dquantized: Vec<f32>,
    pub dz: Vec<f32>,
    pub dx: Vec<f32>,
    pub scratch: Vec<u32>,
    pub restarted: Vec<Restarted>,
}

impl Quantizer {
    /// `z`, unit rows, codes and quantized rows of the pass.
    pub(super) fn forward(&mut self, cpu: &Cpu, x: MatRef, weights: Option<&[f32]>) -> Result<()> {
        let (rows, dim) = (x.rows(), self.config.dim);
        let pass = &mut self.pass;
        pass.z.clear();
        pass.unit.clear();
        if let Some(linear) = &self.layers.project_in {
            pass.z.resize(rows * dim, 0.0);
            linear.forward(cpu, x, MatMut::new(&mut pass.z, rows, dim)?)?;
        }
        if self.config.normalize {
            pass.unit.resize(rows * dim, 0.0);
            pass.norms.resize(rows, 0.0);
            let z = unnormalized(&self.config, &pass.z, x)?;
            ops::normalize(cpu, z, MatMut::new(&mut pass.unit, rows, dim)?, Some(&mut pass.norms))?;
        }
        let mut codes = core::mem::take(&mut pass.codes);
        codes.resize(rows, NO_CODE);
        let found =
            ops::search(cpu, searched(&self.config, &pass.unit, &pass.z, x)?, weights, &self.packed, &mut codes, None);
        self.pass.codes = codes;
        found?;
        // An infinity may win a code, but has no gradient: rows that are not finite are not trained on.
        let rows_seen = searched(&self.config, &self.pass.unit, &self.pass.z, x)?;
        for (row, code) in self.pass.codes.iter_mut().enumerate() {
            let finite = |row: &[f32]| row.iter().all(|x| x.is_finite());
            if *code != NO_CODE && !(finite(x.row(row)) && finite(rows_seen.row(row))) {
                *code = NO_CODE;
            }
        }
        self.pass.quantized.resize(rows * dim, 0.0);
        let codebook = MatRef::new(&self.codebook, self.config.codes, dim)?;
        ops::gather(cpu, &self.pass.codes, codebook, MatMut::new(&mut self.pass.quantized, rows, dim)?)
    }

    /// The loss terms, with the commitment's sum for its gradient.
    pub(super) fn losses(&mut self, cpu: &Cpu, x: MatRef, weights: Option<&[f32]>) -> Result<(Report, SquaredError)> {
        let (rows, dim, pass) = (x.rows(), self.config.dim, &self.pass);
        let quantized = MatRef::new(&pass.quantized, rows, dim)?;
        let z = unnormalized(&self.config, &pass.z, x)?;
        let (mut codebook, mut commitment) = (SquaredError::default(), SquaredError::default());
        loss::squared_error(cpu, z, quantized, &pass.codes, weights, &mut commitment)?;
        match self.config.normalize {
            true => loss::squared_error(
                cpu,
                searched(&self.config, &pass.unit, &pass.z, x)?,
                quantized,
                &pass.codes,
                weights,
                &mut codebook,
            )?,
            false => codebook = commitment,
        }
        let coded = pass.codes.iter().filter(|&&k| k != NO_CODE).count();
        let wanted = weights.map_or(rows, |w| w.iter().filter(|&&w| w > 0.0).count());
        let lengths = (0..rows).filter(|&row| pass.codes[row] != NO_CODE).map(|row| match self.config.normalize {
            true => f64::from(pass.norms[row]),
            false => libm::sqrt(z.row(row).iter().map(|&x| f64::from(x) * f64::from(x)).sum()),
        });
        let report = Report {
            loss: Loss { codebook: codebook.mean(dim), commitment: commitment.mean(dim) },
            rows: coded,
            without_code: wanted - coded,
            mean_norm: lengths.sum::<f64>() / coded.max(1) as f64,
            ..Report::default()
        };
        Ok((report, commitment))
    }

    /// From the head's gradient to that at `x`, and the projections' own.
    pub(super) fn backward(
        &mut self,
        cpu: &Cpu,
        x: MatRef,
        weights: Option<&[f32]>,
        commitment: SquaredError,
        head: impl FnOnce(MatRef, &mut [f32]),
    ) -> Result<()> {
        let (rows, dim, inputs) = (x.rows(), self.config.dim, self.config.inputs);
        let pass = &mut self.pass;
        pass.doutput.clear();
        pass.doutput.resize(rows * inputs, 0.0);
        // -- output and its gradient, back to the quantized rows
        match &self.layers.project_out {
            Some(linear) => {
                pass.output.resize(rows * inputs, 0.0);
                let quantized = MatRef::new(&pass.quantized, rows, dim)?;
                linear.forward(cpu, quantized, MatMut::new(&mut pass.output, rows, inputs)?)?;
                head(MatRef::new(&pass.output, rows, inputs)?, &mut pass.doutput);
                clear_uncoded(&pass.codes, inputs, &mut pass.doutput);
                let doutput = MatRef::new(&pass.doutput, rows, inputs)?;
                self.gradients.layers[Layers::PROJECT_OUT].of(cpu, linear, doutput, quantized)?;
                pass.dquantized.resize(rows * dim, 0.0);
                ops::project_backward_input(
                    cpu,
                    doutput,
                    linear.weight(),
                    MatMut::new(&mut pass.dquantized, rows, dim)?,
                )?;
            }
            None => {
                head(MatRef::new(&pass.quantized, rows, dim)?, &mut pass.doutput);
                core::mem::swap(&mut pass.dquantized, &mut pass.doutput);
            }
        }
        // -- the estimator, to the rows that were searched
        pass.dz.resize(rows * dim, 0.0);
        let (dquantized, quantized) =
            (MatRef::new(&pass.dquantized, rows, dim)?, MatRef::new(&pass.quantized, rows, dim)?);
        let dz = MatMut::new(&mut pass.dz, rows, dim)?;
        match self.config.estimator {
            Estimator::StraightThrough => loss::straight_through_backward(cpu, &pass.codes, dquantized, dz)?,
            Estimator::Rotation => {
                let searched = searched(&self.config, &pass.unit, &pass.z, x)?;
                loss::rotation_backward(cpu, searched, quantized, &pass.codes, dquantized, dz)?;
            }
        }
        // -- the norm's true gradient, to z
        if self.config.normalize {
            core::mem::swap(&mut pass.dquantized, &mut pass.dz);
            let (unit, dunit) = (MatRef::new(&pass.unit, rows, dim)?, MatRef::new(&pass.dquantized, rows, dim)?);
            ops::normalize_backward(cpu, unit, &pass.norms, dunit, MatMut::new(&mut pass.dz, rows, dim)?)?;
        }
        clear_uncoded(&pass.codes, dim, &mut pass.dz);
        // -- commitment, on un-normalized rows
        let elements = commitment.weight * dim as f64;
        if elements > 0.0 {
            let scale = (2.0 * self.config.commitment / elements) as f32;
            let z = unnormalized(&self.config, &pass.z, x)?;
            let dz = MatMut::new(&mut pass.dz, rows, dim)?;
            loss::squared_error_backward(
                cpu,
                z,
                MatRef::new(&pass.quantized, rows, dim)?,
                &pass.codes,
                weights,
                scale,
                dz,
            )?;
        }
        // -- to x
        match &self.layers.project_in {
            Some(linear) => {
                let dz = MatRef::new(&pass.dz, rows, dim)?;
                // The weight's gradient multiplies by x: 0 · NaN must not come in from rows without a code.
                let trained = match pass.codes.contains(&NO_CODE) {
                    true => {
                        let mut copy = x.data().to_vec();
                        clear_uncoded(&pass.codes, inputs, &mut copy);
                        Some(copy)
                    }
                    false => None,
                };
                let x = trained.as_deref().map_or(Ok(x), |copy| MatRef::new(copy, rows, inputs))?;
                self.gradients.layers[Layers::PROJECT_IN].of(cpu, linear, dz, x)?;
                pass.dx.resize(rows * inputs, 0.0);
                ops::project_backward_input(cpu, dz, linear.weight(), MatMut::new(&mut pass.dx, rows, inputs)?)?;
            }
            None => {
                pass.dx.clear();
                pass.dx.extend_from_slice(&pass.dz);
            }
        }
        Ok(())
    }
}

/// The rows that search sees: the last of unit rows, projected rows and `x` that there is.
fn searched<'a>(config: &Config, unit: &'a [f32], z: &'a [f32], x: MatRef<'a>) -> Result<MatRef<'a>> {
    match config.normalize {
        true => MatRef::new(unit, x.rows(), config.dim),
        false => unnormalized(config, z, x),
    }
}

/// Rows before normalization: projected, or `x` itself.
fn unnormalized<'a>(config: &Config, z: &'a [f32], x: MatRef<'a>) -> Result<MatRef<'a>> {
    if config.factorize { MatRef::new(z, x.rows(), config.dim) } else { Ok(x) }
}

/// Zeros the rows that have no code.
fn clear_uncoded(codes: &[u32], cols: usize, rows: &mut [f32]) {
    for (row, _) in codes.iter().enumerate().filter(|(_, code)| **code == NO_CODE) {
        rows[row * cols..(row + 1) * cols].fill(0.0);
    }
}
