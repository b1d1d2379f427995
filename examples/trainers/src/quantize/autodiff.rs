//! The op in the graph of burn's [`Autodiff`], over any backend that runs it.

use burn::backend::Autodiff;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::tensor::{Tensor, TensorPrimitive};
use vq_kernels::Result;

use super::{Claim, Pass, QuantizeBackend, VectorQuantizer};

impl<B: QuantizeBackend, C: CheckpointStrategy> QuantizeBackend for Autodiff<B, C> {
    fn lend<const D: usize, R>(tensor: &Tensor<Self, D>, read: impl FnOnce(&[f32]) -> R) -> R {
        B::lend(&tensor.clone().inner(), read)
    }

    fn pass(quantizer: &VectorQuantizer, rows: Tensor<Self, 2>) -> Result<Pass<Self>> {
        let inner = rows.clone().inner();
        let Pass { packed, codes, report, claim } = B::pass(quantizer, inner.clone())?;
        // The quantizer has parameters of its own: a parent that asks for gradients, even where the rows do not.
        let anchor = Tensor::<Self, 1>::zeros([1], &rows.device()).require_grad();
        let nodes = [rows.into_primitive().tensor().node, anchor.into_primitive().tensor().node];
        let packed = packed.into_primitive().tensor();
        let packed = match Quantization.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(op) => {
                let (quantizer, claim) = (quantizer.clone(), claim.clone());
                op.finish(Saved { quantizer, claim, rows: inner }, packed)
            }
            OpsKind::UnTracked(op) => op.finish(packed),
        };
        Ok(Pass { packed: Tensor::from_primitive(TensorPrimitive::Float(packed)), codes, report, claim })
    }

    fn pass_back(
        quantizer: &VectorQuantizer,
        claim: &Claim,
        rows: Tensor<Self, 2>,
        packed: Tensor<Self, 1>,
    ) -> Tensor<Self, 2> {
        Tensor::from_inner(B::pass_back(quantizer, claim, rows.inner(), packed.inner()))
    }

    fn encode(quantizer: &VectorQuantizer, rows: Tensor<Self, 2>) -> Result<Vec<u32>> {
        B::encode(quantizer, rows.inner())
    }

    fn decode(quantizer: &VectorQuantizer, codes: &[u32], device: &Self::Device) -> Result<Tensor<Self, 2>> {
        Ok(Tensor::from_inner(B::decode(quantizer, codes, device)?))
    }
}

/// The op: parents are the rows, and the anchor of the quantizer's own parameters.
#[derive(Debug)]
struct Quantization;

/// What the backward needs: the rows are a handle, not a copy.
#[derive(Clone, Debug)]
struct Saved<B: QuantizeBackend> {
    quantizer: VectorQuantizer,
    claim: Claim,
    rows: Tensor<B, 2>,
}

impl<B: QuantizeBackend> Backward<B, 2> for Quantization {
    type State = Saved<B>;

    fn backward(self, ops: Ops<Saved<B>, 2>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let packed = Tensor::<B, 1>::from_primitive(TensorPrimitive::Float(gradients.consume::<B>(&ops.node)));
        let Saved { quantizer, claim, rows } = ops.state;
        let gradient = B::pass_back(&quantizer, &claim, rows, packed);
        // The anchor stands for what `apply` hands to an optimizer; it has no gradient of its own.
        let [parent, _anchor] = ops.parents;
        if let Some(parent) = parent {
            gradients.register::<B>(parent.id, gradient.into_primitive().tensor());
        }
    }
}
