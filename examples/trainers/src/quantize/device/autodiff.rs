//! The op's forward and backward in burn's graph.

use burn::backend::Autodiff;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::cuda::Cuda;
use burn::tensor::{DType, Int, Tensor, TensorData, TensorPrimitive};
#[cfg(doc)]
use vq_kernels::Error;
use vq_kernels::Result;
use vq_kernels::quantizer::Report;

use super::super::{split, widened};
use super::{DeviceVectorQuantizer, Pass};

/// What [`DeviceVectorQuantizer::forward`] returns: as [`Quantized`](super::super::Quantized), with codes on the device.
#[derive(Clone, Debug)]
pub struct DeviceQuantized<C: CheckpointStrategy> {
    /// Quantized rows `[rows, inputs]`, in the type of the rows that came.
    pub output: Tensor<Autodiff<Cuda, C>, 2>,
    /// `mean ‖sg(z) − e‖²`, unweighted, `[1]`.
    pub codebook_loss: Tensor<Autodiff<Cuda, C>, 1>,
    /// `mean ‖z − sg(e)‖²`, unweighted, on un-normalized rows, `[1]`.
    pub commitment_loss: Tensor<Autodiff<Cuda, C>, 1>,
    /// Each row's code as i32; −1 where it has none.
    pub codes: Tensor<Cuda, 1, Int>,
    /// The loss terms in f64, rows without a code, mean length of the rows.
    pub report: Report,
}

impl DeviceVectorQuantizer {
    /// A training pass of `rows` `[rows, inputs]`, tracked, whether or not the rows are: the quantizer has parameters of its
    /// own.
    ///
    /// Where a row's gradient at the output is not finite, or a term's derivative, that at the row is NaN.
    ///
    /// # Errors
    /// [`Error::Shape`] where the rows are not `inputs` wide, [`Error::TooLarge`] for more rows than it was made for; what
    /// failed in an earlier backward; [`Error::Cuda`] where the device fails.
    pub fn forward<C: CheckpointStrategy>(&self, rows: Tensor<Autodiff<Cuda, C>, 2>) -> Result<DeviceQuantized<C>> {
        let (rows, dtype) = widened(rows);
        let shape = rows.dims();
        let Pass { number, packed, codes, report } = self.lock().forward(rows.clone().inner())?;
        // The quantizer has parameters of its own: a parent that asks for gradients, even where the rows do not.
        let anchor = Tensor::<Autodiff<Cuda, C>, 1>::from_floats([0.0], &rows.device()).require_grad();
        let nodes = [rows.into_primitive().tensor().node, anchor.into_primitive().tensor().node];
        let packed = packed.into_primitive().tensor();
        let packed = match Quantization.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(op) => op.finish(Saved { quantizer: self.clone(), number, shape }, packed),
            OpsKind::UnTracked(op) => op.finish(packed),
        };
        let packed = Tensor::from_primitive(TensorPrimitive::Float(packed));
        let (output, codebook_loss, commitment_loss) = split(packed, shape);
        Ok(DeviceQuantized { output: output.cast(dtype), codebook_loss, commitment_loss, codes, report })
    }
}

/// The op: parents are the rows, and the anchor of the quantizer's own parameters.
#[derive(Debug)]
struct Quantization;

/// What the backward needs.
#[derive(Clone, Debug)]
struct Saved {
    quantizer: DeviceVectorQuantizer,
    number: u64,
    shape: [usize; 2],
}

impl Backward<Cuda, 2> for Quantization {
    type State = Saved;

    fn backward(self, ops: Ops<Saved, 2>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let packed = Tensor::<Cuda, 1>::from_primitive(TensorPrimitive::Float(gradients.consume::<Cuda>(&ops.node)));
        let (Saved { quantizer, number, shape }, device) = (ops.state, packed.device());
        let mut shared = quantizer.lock();
        let gradient = shared.backward(number, packed).unwrap_or_else(|failed| {
            shared.failed = Some(failed);
            Tensor::from_data(TensorData::full(shape, f32::NAN), (&device, DType::F32))
        });
        // The anchor has no gradient of its own.
        if let [Some(parent), _] = ops.parents {
            gradients.register::<Cuda>(parent.id, gradient.into_primitive().tensor());
        }
    }
}
