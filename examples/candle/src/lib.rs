//! A vector quantizer as [candle](candle_core) custom ops: forward and backward by `vq_kernels` on the CPU.
//!
//! ```
//! use candle_core::{Device, Tensor, Var};
//! let rows = Var::randn(0f32, 1., (200, 8), &Device::Cpu)?; // what an encoder would return
//! let codebook = Var::randn(0f32, 1., (50, 8), &Device::Cpu)?;
//! let quantized = vq_candle::quantize(&rows, &codebook)?;
//! let reconstruction = (quantized.output - rows.detach())?.sqr()?.mean_all()?;
//! // Weigh the terms as you like: their derivatives arrive in the backward by the chain rule.
//! let loss = (reconstruction + quantized.codebook_loss + (quantized.commitment_loss * 0.25)?)?;
//! let gradients = loss.backward()?;
//! assert!(gradients.get(&rows).is_some() && gradients.get(&codebook).is_some());
//! # Ok::<(), candle_core::Error>(())
//! ```
//! Rows and codes are compared by L2 distance; for the cosine, normalize both with candle's ops first. The search keeps
//! no `rows × codes` matrix. Ops run on the calling thread; `vq_kernels::Cpu::with_pool` is the place for more.
//!
//! `cargo run --release --manifest-path examples/candle/Cargo.toml` trains an autoencoder with a codebook in seconds.
//! On a GPU the ops return candle's "no cuda implementation": move rows with `to_device(&Device::Cpu)`.

use std::borrow::Cow;
use std::sync::Arc;

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp2, DType, Error, Layout, Result, Shape, Tensor, bail};
use vq_kernels::ops::ema::{Statistics, exponent};
use vq_kernels::ops::loss::{SquaredError, squared_error, squared_error_backward, straight_through_backward};
use vq_kernels::{Cpu, MatMut, MatRef, Metric, NO_CODE, PackedCodebook, ops};

/// What [`quantize`] returns.
#[derive(Clone, Debug)]
pub struct Quantized {
    /// The code of each row, `[rows, dim]`, in the rows' type; its gradient goes straight through to the rows.
    pub output: Tensor,
    /// `mean ‖sg(x) − e‖²`, a scalar: moves codes towards rows.
    pub codebook_loss: Tensor,
    /// `mean ‖x − sg(e)‖²`, a scalar: moves rows towards codes.
    pub commitment_loss: Tensor,
    /// Each row's code, `[rows]` of u32; [`NO_CODE`] for a row with an infinity or NaN: it quantizes to zeros and has
    /// no gradient.
    pub codes: Tensor,
}

/// Quantizes `rows` `[rows, dim]` to the nearest codes of `codebook` `[codes, dim]` (van den Oord et al., "Neural
/// discrete representation learning", NeurIPS 2017, eq. 3). Arithmetic is f32: other float types are widened.
///
/// # Errors
/// Where either is not a matrix of floats on the CPU, the widths differ, or the codebook is empty.
pub fn quantize(rows: &Tensor, codebook: &Tensor) -> Result<Quantized> {
    let dtype = rows.dtype();
    let (rows, codebook) = (widened(rows, "rows")?, widened(codebook, "codebook")?);
    let codes = assign(&rows, &codebook)?;
    let (n, dim) = rows.dims2()?;
    let packed = rows.apply_op2(&codebook, Quantize { codes: codes.to_vec1()?.into() })?;
    let output = packed.narrow(0, 0, n * dim)?.reshape((n, dim))?.to_dtype(dtype)?;
    let (codebook_loss, commitment_loss) = (packed.get(n * dim)?, packed.get(n * dim + 1)?);
    Ok(Quantized { output, codebook_loss, commitment_loss, codes })
}

/// The nearest code of each of `rows` `[rows, dim]` in `codebook` `[codes, dim]`: `[rows]` of u32, untracked.
///
/// # Errors
/// As [`quantize`].
pub fn assign(rows: &Tensor, codebook: &Tensor) -> Result<Tensor> {
    widened(rows, "rows")?.apply_op2_no_bwd(&widened(codebook, "codebook")?, &Assign)
}

fn widened(tensor: &Tensor, what: &str) -> Result<Tensor> {
    match tensor.dtype().is_float() {
        true => tensor.to_dtype(DType::F32),
        false => bail!("{what}: expected floats, got {:?}", tensor.dtype()),
    }
}

/// Rows and codebook to codes.
struct Assign;

impl CustomOp2 for Assign {
    fn name(&self) -> &'static str {
        "vq-assign"
    }

    fn cpu_fwd(
        &self,
        rows: &CpuStorage,
        l1: &Layout,
        codebook: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (rows, codebook) = (Matrix::of(rows, l1, "rows")?, Matrix::of(codebook, l2, "codebook")?);
        let (x, mut codes) = (rows.view()?, vec![NO_CODE; rows.rows]);
        let packed = PackedCodebook::new(codebook.view()?, Metric::L2).map_err(Error::wrap)?;
        ops::search(&Cpu::new(), x, None, &packed, &mut codes, None).map_err(Error::wrap)?;
        // An infinity may win a code, but has no gradient.
        let finite = |row: usize| x.row(row).iter().all(|x| x.is_finite());
        codes.iter_mut().enumerate().filter(|(row, _)| !finite(*row)).for_each(|(_, code)| *code = NO_CODE);
        let shape = Shape::from(codes.len());
        Ok((CpuStorage::U32(codes), shape))
    }
}

/// Rows and codebook to output and the two loss terms. A custom op has one output: the output's elements, then the
/// terms, are one vector, so that the derivatives by all three arrive together.
struct Quantize {
    codes: Arc<[u32]>,
}

impl CustomOp2 for Quantize {
    fn name(&self) -> &'static str {
        "vq-quantize"
    }

    fn cpu_fwd(
        &self,
        rows: &CpuStorage,
        l1: &Layout,
        codebook: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (rows, codebook) = (Matrix::of(rows, l1, "rows")?, Matrix::of(codebook, l2, "codebook")?);
        let ([n, dim], cpu) = ([rows.rows, rows.cols], Cpu::new());
        let (mut packed, mut error) = (vec![0.0; n * dim], SquaredError::default());
        let output = MatMut::new(&mut packed, n, dim).map_err(Error::wrap)?;
        ops::gather(&cpu, &self.codes, codebook.view()?, output).map_err(Error::wrap)?;
        let output = MatRef::new(&packed, n, dim).map_err(Error::wrap)?;
        squared_error(&cpu, rows.view()?, output, &self.codes, None, &mut error).map_err(Error::wrap)?;
        // Both terms have the same value; they differ in what they move.
        packed.extend([error.mean(dim) as f32; 2]);
        let shape = Shape::from(packed.len());
        Ok((CpuStorage::F32(packed), shape))
    }

    fn bwd(
        &self,
        rows: &Tensor,
        codebook: &Tensor,
        packed: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let ((n, dim), k, cpu) = (rows.dims2()?, codebook.dim(0)?, Cpu::new());
        let [x, codes, packed, gradient] = [rows, codebook, packed, gradient].map(values);
        let (x, codes, packed, gradient) = (x?, codes?, packed?, gradient?);
        let coded = self.codes.iter().filter(|&&code| code != NO_CODE).count();
        let by_term = |term: usize| 2.0 * f64::from(gradient[n * dim + term]) / (coded.max(1) * dim) as f64;
        let matrix = |values, rows| MatRef::new(values, rows, dim).map_err(Error::wrap);
        let (x, quantized, from_output) =
            (matrix(&x, n)?, matrix(&packed[..n * dim], n)?, matrix(&gradient[..n * dim], n)?);
        // -- rows: straight through, and commitment
        let mut at_rows = vec![0.0; n * dim];
        let mut dx = MatMut::new(&mut at_rows, n, dim).map_err(Error::wrap)?;
        straight_through_backward(&cpu, &self.codes, from_output, dx.reborrow()).map_err(Error::wrap)?;
        squared_error_backward(&cpu, x, quantized, &self.codes, None, by_term(1) as f32, dx).map_err(Error::wrap)?;
        // -- codes: n e − Σx from exact sums, the same bits in any order of rows
        let mut sums =
            Statistics::new(k, dim, exponent(x, &self.codes, None).map_err(Error::wrap)?).map_err(Error::wrap)?;
        sums.accumulate(&cpu, x, &self.codes, None).map_err(Error::wrap)?;
        let (mut at_codes, scale) = (vec![0.0; k * dim], by_term(0));
        for code in sums.hits() {
            let (code, at) = (code as usize, code as usize * dim);
            for (i, sum) in sums.sum(code).enumerate() {
                at_codes[at + i] = (scale * (sums.weight(code) * f64::from(codes[at + i]) - sum)) as f32;
            }
        }
        let device = rows.device();
        Ok((Some(Tensor::from_vec(at_rows, (n, dim), device)?), Some(Tensor::from_vec(at_codes, (k, dim), device)?)))
    }
}

fn values(tensor: &Tensor) -> Result<Vec<f32>> {
    tensor.flatten_all()?.to_vec1()
}

/// An f32 matrix in memory; copied only where its layout is strided.
struct Matrix<'a> {
    values: Cow<'a, [f32]>,
    rows: usize,
    cols: usize,
}

impl<'a> Matrix<'a> {
    fn of(storage: &'a CpuStorage, layout: &Layout, what: &str) -> Result<Self> {
        let CpuStorage::F32(all) = storage else { bail!("{what}: expected f32, got {:?}", storage.dtype()) };
        let &[rows, cols] = layout.dims() else { bail!("{what}: expected [rows, dim], got {:?}", layout.dims()) };
        let values = match layout.contiguous_offsets() {
            Some((start, end)) => Cow::Borrowed(&all[start..end]),
            None => {
                let (first, stride) = (layout.start_offset(), layout.stride());
                let at = |i: usize| all[first + i / cols * stride[0] + i % cols * stride[1]];
                Cow::Owned((0..rows * cols).map(at).collect())
            }
        };
        Ok(Self { values, rows, cols })
    }

    fn view(&self) -> Result<MatRef<'_>> {
        MatRef::new(&self.values, self.rows, self.cols).map_err(Error::wrap)
    }
}
