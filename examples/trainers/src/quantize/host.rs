//! The op on the host's memory.

use std::sync::Arc;

use vq_kernels::quantizer::{Loss, Report};
use vq_kernels::{MatRef, NO_CODE, Result};

use super::VectorQuantizer;
use super::shared::{Ticket, lock};

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
        shared.check()?;
        let quantizer = shared.home()?;
        let report = quantizer.forward(&self.cpu(), MatRef::new(values, rows, width)?, None)?;
        let output = quantizer.last_output();
        let mut packed = Vec::with_capacity(output.len() + 2);
        packed.extend_from_slice(output);
        packed.extend([report.loss.codebook as f32, report.loss.commitment as f32]);
        let codes = quantizer.last_codes().to_vec();
        Ok(HostPass { packed, codes, report, ticket: shared.claim() })
    }

    /// The op's backward: from the gradient at what `forward_on_host` packed to that at the rows.
    pub(super) fn backward_on_host(&self, ticket: &Ticket, values: &[f32], rows: usize, packed: &[f32]) -> Vec<f32> {
        let mut shared = self.lock();
        let mut copy = lock(ticket).take();
        let quantizer = shared.of_pass(&mut copy);
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

#[cfg(test)]
mod tests {
    use burn::backend::{Autodiff, Flex};
    use burn::tensor::{Distribution, Tensor};
    use vq_kernels::quantizer::{Config, Initial, Quantizer};

    use super::*;

    #[test]
    fn no_copy_is_made_where_backward_comes_first() {
        type B = Autodiff<Flex>;
        let config = Config { codes: 16, ..Config::default() };
        let quantizer = VectorQuantizer::new(Quantizer::new(config, Initial::Normal).expect("a quantizer"));
        let pending = || quantizer.lock().pending();
        let rows = Tensor::<B, 2>::random([20, 32], Distribution::Default, &Default::default()).require_grad();
        // A backward elsewhere in the same graph, before the op's own, leaves the op alone.
        for elsewhere in [false, true] {
            let quantized = quantizer.forward(rows.clone() * 2.0).expect("a pass");
            assert!(pending());
            if elsewhere {
                (rows.clone() * 3.0).sum().backward();
                assert!(pending());
            }
            quantized.output.sum().backward();
            assert!(!pending());
        }
        // On a backend without gradients no backward can come.
        quantizer.forward(rows.inner()).expect("a pass");
        assert!(!pending());
    }
}
