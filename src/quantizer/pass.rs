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

/// A step's rows, kept from step to step so that its large buffers are allocated once.
#[derive(Clone, Debug, Default)]
pub(super) struct Pass {
    /// Rows before normalization: projected, or a copy of what came in.
    pub z: Vec<f32>,
    pub unit: Vec<f32>,
    pub norms: Vec<f32>,
    pub codes: Vec<u32>,
    pub weights: Option<Vec<f32>>,
    pub quantized: Vec<f32>,
    /// Quantized rows, projected back; empty where there is no projection.
    pub output: Vec<f32>,
    pub doutput: Vec<f32>,
    pub dquantized: Vec<f32>,
    pub dz: Vec<f32>,
    pub dx: Vec<f32>,
    pub commitment: SquaredError,
    pub scratch: Vec<u32>,
    pub restarted: Vec<Restarted>,
}

impl Pass {
    /// The rows that search sees.
    pub fn searched(&self, config: &Config) -> &[f32] {
        if config.normalize { &self.unit } else { &self.z }
    }

    /// What the layer returns.
    pub fn output(&self, config: &Config) -> &[f32] {
        if config.factorize { &self.output } else { &self.quantized }
    }
}

impl Quantizer {
    /// `z`, unit rows, codes, quantized rows and output of the pass.
    pub(super) fn pass_rows(&mut self, cpu: &Cpu, x: MatRef, weights: Option<&[f32]>) -> Result<()> {
        let (rows, dim) = (x.rows(), self.config.dim);
        let pass = &mut self.pass;
        pass.z.clear();
        match &self.layers.project_in {
            Some(linear) => {
                pass.z.resize(rows * dim, 0.0);
                linear.forward(cpu, x, MatMut::new(&mut pass.z, rows, dim)?)?;
            }
            None => pass.z.extend_from_slice(x.data()),
        }
        if self.config.normalize {
            pass.unit.resize(rows * dim, 0.0);
            pass.norms.resize(rows, 0.0);
            let unit = MatMut::new(&mut pass.unit, rows, dim)?;
            ops::normalize(cpu, MatRef::new(&pass.z, rows, dim)?, unit, Some(&mut pass.norms))?;
        }
        let mut codes = core::mem::take(&mut pass.codes);
        codes.resize(rows, NO_CODE);
        let seen = MatRef::new(pass.searched(&self.config), rows, dim)?;
        self.packed.prepare(cpu, seen)?;
        let found = ops::search(cpu, seen, weights, &self.packed, &mut codes, None);
        // An infinity may win a code, but has no gradient: rows that are not finite are not trained on.
        let finite = |row: &[f32]| row.iter().all(|x| x.is_finite());
        for (row, code) in codes.iter_mut().enumerate() {
            if *code != NO_CODE && !(finite(x.row(row)) && finite(seen.row(row))) {
                *code = NO_CODE;
            }
        }
        self.pass.codes = codes;
        found?;
        self.pass.quantized.resize(rows * dim, 0.0);
        let codebook = MatRef::new(&self.codebook, self.config.codes, dim)?;
        ops::gather(cpu, &self.pass.codes, codebook, MatMut::new(&mut self.pass.quantized, rows, dim)?)?;
        if let Some(linear) = &self.layers.project_out {
            self.pass.output.resize(rows * self.config.inputs, 0.0);
            let quantized = MatRef::new(&self.pass.quantized, rows, dim)?;
            linear.forward(cpu, quantized, MatMut::new(&mut self.pass.output, rows, self.config.inputs)?)?;
        }
        Ok(())
    }

    /// The loss terms; the pass keeps the commitment's sum for its gradient.
    pub(super) fn losses(&mut self, cpu: &Cpu, weights: Option<&[f32]>) -> Result<Report> {
        let (rows, dim, pass) = (self.pass.codes.len(), self.config.dim, &self.pass);
        let quantized = MatRef::new(&pass.quantized, rows, dim)?;
        let z = MatRef::new(&pass.z, rows, dim)?;
        let (mut codebook, mut commitment) = (SquaredError::default(), SquaredError::default());
        loss::squared_error(cpu, z, quantized, &pass.codes, weights, &mut commitment)?;
        let searched = MatRef::new(pass.searched(&self.config), rows, dim)?;
        loss::squared_error(cpu, searched, quantized, &pass.codes, weights, &mut codebook)?;
        let coded = pass.codes.iter().filter(|&&k| k != NO_CODE).count();
        let wanted = weights.map_or(rows, |w| w.iter().filter(|&&w| w > 0.0).count());
        let lengths = (0..rows).filter(|&row| pass.codes[row] != NO_CODE).map(|row| match self.config.normalize {
            true => f64::from(pass.norms[row]),
            false => crate::simd::sqrt(z.row(row).iter().map(|&x| f64::from(x) * f64::from(x)).sum()),
        });
        let report = Report {
            loss: Loss { codebook: codebook.mean(dim), commitment: commitment.mean(dim) },
            rows: coded,
            without_code: wanted - coded,
            mean_norm: lengths.sum::<f64>() / coded.max(1) as f64,
            ..Report::default()
        };
        self.pass.commitment = commitment;
        Ok(report)
    }

    /// From the gradient at the output (in `pass.doutput`) to that at `x`, and the projections' own.
    pub(super) fn pass_gradients(&mut self, cpu: &Cpu, x: MatRef, commitment_weight: f64) -> Result<()> {
        let (rows, dim, inputs) = (x.rows(), self.config.dim, self.config.inputs);
        let pass = &mut self.pass;
        // -- back to the quantized rows
        match &self.layers.project_out {
            Some(linear) => {
                let quantized = MatRef::new(&pass.quantized, rows, dim)?;
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
            None => core::mem::swap(&mut pass.dquantized, &mut pass.doutput),
        }
        // -- the estimator, to the rows that were searched
        pass.dz.resize(rows * dim, 0.0);
        let (dquantized, quantized) =
            (MatRef::new(&pass.dquantized, rows, dim)?, MatRef::new(&pass.quantized, rows, dim)?);
        let dz = MatMut::new(&mut pass.dz, rows, dim)?;
        match self.config.estimator {
            Estimator::StraightThrough => loss::straight_through_backward(cpu, &pass.codes, dquantized, dz)?,
            Estimator::Rotation => {
                let searched = if self.config.normalize { &pass.unit } else { &pass.z };
                let searched = MatRef::new(searched, rows, dim)?;
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
        // A row of tiny length has a gradient beyond f32: it would make NaN of the weights' (∞ · 0).
        let finite = |row: &[f32]| row.iter().all(|x| x.is_finite());
        pass.dz.chunks_exact_mut(dim).filter(|row| !finite(row)).for_each(|row| row.fill(0.0));
        // -- commitment, on un-normalized rows
        let elements = pass.commitment.weight * dim as f64;
        if elements > 0.0 {
            // Weights near the smallest f32 would take the factor out of its range: beyond it, no gradient.
            let scale = Some((2.0 * commitment_weight / elements) as f32).filter(|s| s.is_finite());
            let (scale, z) = (scale.unwrap_or(0.0), MatRef::new(&pass.z, rows, dim)?);
            let dz = MatMut::new(&mut pass.dz, rows, dim)?;
            loss::squared_error_backward(
                cpu,
                z,
                MatRef::new(&pass.quantized, rows, dim)?,
                &pass.codes,
                pass.weights.as_deref(),
                scale,
                dz,
            )?;
        }
        // -- to x
        match &self.layers.project_in {
            Some(linear) => {
                let dz = MatRef::new(&pass.dz, rows, dim)?;
                // The weight's gradient multiplies by x: 0 · NaN must not come in from rows without a code.
                let uncoded = pass.codes.iter().enumerate().filter(|(_, code)| **code == NO_CODE);
                let mut trained = Vec::new();
                if uncoded.into_iter().any(|(row, _)| !x.row(row).iter().all(|x| x.is_finite())) {
                    trained.extend_from_slice(x.data());
                    clear_uncoded(&pass.codes, inputs, &mut trained);
                }
                let x = if trained.is_empty() { x } else { MatRef::new(&trained, rows, inputs)? };
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

/// Zeros the rows that have no code.
fn clear_uncoded(codes: &[u32], cols: usize, rows: &mut [f32]) {
    for (row, _) in codes.iter().enumerate().filter(|(_, code)| **code == NO_CODE) {
        rows[row * cols..(row + 1) * cols].fill(0.0);
    }
}
