//! The op's backward, for burn's [`Autodiff`] over any backend that runs the forward.

use std::sync::Arc;

use burn::backend::Autodiff;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::tensor::{Tensor, TensorPrimitive};
use vq_kernels::Result;

use super::host::Ticket;
use super::{Pass, QuantizeBackend, VectorQuantizer};

impl<B: QuantizeBackend, C: CheckpointStrategy> QuantizeBackend for Autodiff<B, C> {
    fn lend<const D: usize, R>(tensor: &Tensor<Self, D>, read: impl FnOnce(&[f32]) -> R) -> R {
        B::lend(&tensor.clone().inner(), read)
    }

    fn pass(quantizer: &VectorQuantizer, rows: Tensor<Self, 2>) -> Result<Pass<Self>> {
        let inner = rows.clone().inner();
        let ([n, width], device) = (inner.dims(), inner.device());
        let pass = B::lend(&inner, |values| quantizer.forward_on_host(values, n, width))?;
        let elements = pass.packed.len();
        let packed = B::make(pass.packed, [elements], &device).into_primitive().tensor();
        // The quantizer has parameters of its own: a parent that asks for gradients, even where the rows do not.
        let anchor = Tensor::<Self, 1>::zeros([1], &device).require_grad();
        let nodes = [rows.into_primitive().tensor().node, anchor.into_primitive().tensor().node];
        let packed = match Quantization.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(op) => {
                op.finish(Saved { quantizer: quantizer.clone(), ticket: pass.ticket, rows: inner }, packed)
            }
            OpsKind::UnTracked(op) => op.finish(packed),
        };
        let packed = Tensor::from_primitive(TensorPrimitive::Float(packed));
        Ok(Pass { packed, codes: pass.codes, report: pass.report })
    }
}

/// The op: parents are the rows, and the anchor of the quantizer's own parameters.
#[derive(Debug)]
struct Quantization;

/// What the backward needs: the rows are a handle, not a copy.
#[derive(Clone, Debug)]
struct Saved<B: QuantizeBackend> {
    quantizer: VectorQuantizer,
    ticket: Arc<Ticket>,
    rows: Tensor<B, 2>,
}

impl<B: QuantizeBackend> Backward<B, 2> for Quantization {
    type State = Saved<B>;

    fn backward(self, ops: Ops<Saved<B>, 2>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let packed = Tensor::<B, 1>::from_primitive(TensorPrimitive::Float(gradients.consume::<B>(&ops.node)));
        let Saved { quantizer, ticket, rows } = ops.state;
        let ([n, width], device) = (rows.dims(), rows.device());
        let gradient =
            B::lend(&rows, |values| B::lend(&packed, |packed| quantizer.backward_on_host(&ticket, values, n, packed)));
        // The anchor stands for what `apply` hands to an optimizer; it has no gradient of its own.
        let [parent, _anchor] = ops.parents;
        if let Some(parent) = parent {
            let gradient = B::make(gradient, [n, width], &device).into_primitive().tensor();
            gradients.register::<B>(parent.id, gradient);
        }
    }
}
