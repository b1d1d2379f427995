//! What the op asks of a burn backend.

use std::sync::Arc;

use burn::backend::Flex;
use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor, TensorData};
use vq_kernels::quantizer::Report;
use vq_kernels::{MatMut, MatRef, NO_CODE, Result};

use super::VectorQuantizer;
use super::shared::Ticket;

/// A backend that can run the op.
///
/// By the defaults the kernels run on the host: rows are copied there and results back, so that any backend joins by
/// `impl QuantizeBackend for X {}`, with the same codes and bits. [`Flex`], which computes on the host, lends its memory
/// without a copy; `burn::backend::Cuda` (feature `cuda`) keeps the quantizer on the device, and no row passes through the
/// host. [`Autodiff`](burn::backend::Autodiff) over any of them adds the backward.
pub trait QuantizeBackend: Backend {
    /// Calls `read` with the values of `tensor` (f32) in row-major order.
    ///
    /// # Panics
    /// Where the device fails to hand out its memory, as burn's own [`Tensor::into_data`] does.
    fn lend<const D: usize, R>(tensor: &Tensor<Self, D>, read: impl FnOnce(&[f32]) -> R) -> R {
        copied(tensor, read)
    }

    /// A tensor of `shape` on `device` from its values in row-major order.
    fn make<const D: usize>(values: Vec<f32>, shape: [usize; D], device: &Self::Device) -> Tensor<Self, D> {
        Tensor::from_data(TensorData::new(values, shape), (device, DType::F32))
    }

    /// The op's forward on `rows` (f32), as [`VectorQuantizer::forward`] calls it.
    ///
    /// # Errors
    /// As [`VectorQuantizer::forward`].
    fn pass(quantizer: &VectorQuantizer, rows: Tensor<Self, 2>) -> Result<Pass<Self>> {
        let [n, width] = rows.dims();
        let pass = Self::lend(&rows, |values| quantizer.forward_on_host(values, n, width))?;
        let elements = pass.packed.len();
        let packed = Self::make(pass.packed, [elements], &rows.device());
        Ok(Pass { packed, codes: pass.codes, report: pass.report, claim: Claim(pass.ticket) })
    }

    /// The backward of that pass, from the gradient at what it packed to that at `rows`.
    fn pass_back(
        quantizer: &VectorQuantizer,
        claim: &Claim,
        rows: Tensor<Self, 2>,
        packed: Tensor<Self, 1>,
    ) -> Tensor<Self, 2> {
        let [n, width] = rows.dims();
        let back = |values: &[f32]| Self::lend(&packed, |p| quantizer.backward_on_host(&claim.0, values, n, p));
        Self::make(Self::lend(&rows, back), [n, width], &rows.device())
    }

    /// Codes of `rows` (f32), as [`VectorQuantizer::encode`] calls it.
    ///
    /// # Errors
    /// As [`VectorQuantizer::encode`].
    fn encode(quantizer: &VectorQuantizer, rows: Tensor<Self, 2>) -> Result<Vec<u32>> {
        let [n, width] = rows.dims();
        let (cpu, mut codes) = (quantizer.cpu(), vec![NO_CODE; n]);
        Self::lend(&rows, |values| {
            quantizer.read(|quantizer| quantizer.encode(&cpu, MatRef::new(values, n, width)?, None, &mut codes))?
        })?;
        Ok(codes)
    }

    /// Rows for codes, as [`VectorQuantizer::decode`] calls it.
    ///
    /// # Errors
    /// As [`VectorQuantizer::decode`].
    fn decode(quantizer: &VectorQuantizer, codes: &[u32], device: &Self::Device) -> Result<Tensor<Self, 2>> {
        let (cpu, inputs) = (quantizer.cpu(), quantizer.config().inputs);
        let mut values = vec![0.0; codes.len() * inputs];
        let output = MatMut::new(&mut values, codes.len(), inputs)?;
        quantizer.read(|quantizer| quantizer.decode(&cpu, codes, output))??;
        Ok(Self::make(values, [codes.len(), inputs], device))
    }
}

/// What the op's forward returns: burn's custom ops have one output, so that all tracked results are in one tensor.
#[derive(Clone, Debug)]
pub struct Pass<B: Backend> {
    /// Output rows one after the other, then the codebook and the commitment loss: `[rows * inputs + 2]`.
    pub packed: Tensor<B, 1>,
    /// Each row's code.
    pub codes: Vec<u32>,
    /// The loss terms in f64 and counts.
    pub report: Report,
    /// What its backward shows.
    pub claim: Claim,
}

/// A pass's claim on the quantizer, until its backward.
#[derive(Clone, Debug)]
pub struct Claim(pub(super) Arc<Ticket>);

/// [`QuantizeBackend::lend`] through a copy.
fn copied<B: Backend, const D: usize, R>(tensor: &Tensor<B, D>, read: impl FnOnce(&[f32]) -> R) -> R {
    let data = tensor.to_data().convert::<f32>();
    match data.as_slice() {
        Ok(values) => read(values),
        Err(error) => unreachable!("data converted to f32 is f32: {error:?}"),
    }
}

impl QuantizeBackend for Flex {
    fn lend<const D: usize, R>(tensor: &Tensor<Self, D>, read: impl FnOnce(&[f32]) -> R) -> R {
        // The primitive is a handle; only strided views have no slice to lend.
        let primitive = tensor.clone().into_primitive().tensor();
        match primitive.as_slice::<f32>() {
            Some(values) => read(values),
            None => copied(tensor, read),
        }
    }
}
