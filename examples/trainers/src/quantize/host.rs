//! The op on the host's memory, and whose turn it is: a pass keeps its claim on the quantizer until its backward.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use vq_kernels::quantizer::{Loss, Quantizer, Report};
use vq_kernels::{MatRef, NO_CODE, Result};

use super::VectorQuantizer;

/// What handles share.
pub(super) struct Shared {
    pub quantizer: Quantizer,
    /// The last pass, alive while its backward may still come.
    pub pending: Weak<Ticket>,
}

/// A pass's claim on the quantizer: a copy of it, once another call has changed the original.
pub(super) type Ticket = Mutex<Option<Box<Quantizer>>>;

/// A forward pass on the host: the op's one output, and the claim that its backward needs.
pub(super) struct HostPass {
    /// Output rows, then the codebook and the commitment loss: `[rows * inputs + 2]`.
    pub packed: Vec<f32>,
    pub codes: Vec<u32>,
    pub report: Report,
    pub ticket: Arc<Ticket>,
}

impl VectorQuantizer {
    /// The op's forward on rows `[rows, width]` in memory.
    pub(super) fn forward_on_host(&self, values: &[f32], rows: usize, width: usize) -> Result<HostPass> {
        let mut shared = self.lock();
        shared.settle();
        let quantizer = &mut shared.quantizer;
        let report = quantizer.forward(&self.cpu(), MatRef::new(values, rows, width)?, None)?;
        let output = quantizer.last_output();
        let mut packed = Vec::with_capacity(output.len() + 2);
        packed.extend_from_slice(output);
        packed.extend([report.loss.codebook as f32, report.loss.commitment as f32]);
        let codes = quantizer.last_codes().to_vec();
        let ticket = Arc::default();
        shared.pending = Arc::downgrade(&ticket);
        Ok(HostPass { packed, codes, report, ticket })
    }

    /// The op's backward: from the gradient at what `forward_on_host` packed to that at the rows.
    pub(super) fn backward_on_host(&self, ticket: &Ticket, values: &[f32], rows: usize, packed: &[f32]) -> Vec<f32> {
        let mut shared = self.lock();
        let mut copy = lock(ticket).take();
        let quantizer = copy.as_deref_mut().unwrap_or(&mut shared.quantizer);
        let (output, terms) = packed.split_at(values.len());
        let terms = Loss { codebook: f64::from(terms[0]), commitment: f64::from(terms[1]) };
        // Derivatives by the terms that are not finite move no codes, and show at the rows, where the caller looks.
        let finite = terms.codebook.is_finite() && terms.commitment.is_finite();
        let weighed = if finite { terms } else { Loss::default() };
        let width = quantizer.config().inputs;
        let done = MatRef::new(values, rows, width).and_then(|x| quantizer.backward(&self.cpu(), x, output, weighed));
        match done {
            Ok(()) => {
                let mut gradient = quantizer.last_input_gradient().to_vec();
                let each = gradient.chunks_exact_mut(width).zip(output.chunks_exact(width)).zip(quantizer.last_codes());
                for ((gradient, output), _) in each.filter(|(_, code)| **code != NO_CODE) {
                    // The kernels drop what is not finite; here it must reach whoever looks for an overflow.
                    if !(finite && output.iter().all(|g| g.is_finite())) {
                        gradient.fill(f32::NAN);
                    }
                }
                gradient
            }
            // Extents are those of the forward, and nothing came between that did not leave a copy.
            Err(error) => unreachable!("the backward of a pass that has been made: {error}"),
        }
    }
}

impl Shared {
    /// Leaves a pass whose backward may still come a copy of the quantizer, before it changes.
    pub fn settle(&mut self) {
        if let Some(ticket) = core::mem::take(&mut self.pending).upgrade() {
            *lock(&ticket) = Some(Box::new(self.quantizer.clone()));
        }
    }
}

/// Locks; a panic of a caller's closure elsewhere is that caller's, and no reason for another one here.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use burn::backend::{Autodiff, Flex};
    use burn::tensor::{Distribution, Tensor};
    use vq_kernels::quantizer::{Config, Initial};

    use super::*;

    fn pending(quantizer: &VectorQuantizer) -> bool {
        quantizer.lock().pending.strong_count() > 0
    }

    #[test]
    fn no_copy_is_made_where_backward_comes_first() {
        type B = Autodiff<Flex>;
        let config = Config { codes: 16, ..Config::default() };
        let quantizer = VectorQuantizer::new(Quantizer::new(config, Initial::Normal).expect("a quantizer"));
        let rows = Tensor::<B, 2>::random([20, 32], Distribution::Default, &Default::default()).require_grad();
        // A backward elsewhere in the same graph, before the op's own, leaves the op alone.
        for elsewhere in [false, true] {
            let quantized = quantizer.forward(rows.clone() * 2.0).expect("a pass");
            assert!(pending(&quantizer));
            if elsewhere {
                (rows.clone() * 3.0).sum().backward();
                assert!(pending(&quantizer));
            }
            quantized.output.sum().backward();
            assert!(!pending(&quantizer));
        }
        // On a backend without gradients no backward can come.
        quantizer.forward(rows.inner()).expect("a pass");
        assert!(!pending(&quantizer));
    }
}
