//! AlexNet in the form of "One weird trick" (Krizhevsky 2014), its convolutions.

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

use super::layers::{Channelwise, FrozenConv, pool};
use super::weights::Weights;
use crate::common::Failure;

/// Channels of relu1 to relu5: the layers of LPIPS.
pub(super) const WIDTHS: [usize; 5] = [64, 192, 384, 256, 256];

/// Both pools still have a whole window.
pub(super) const SMALLEST_INPUT: usize = 31;

/// Where torchvision's `features` has the convolutions: number, kernel, stride, padding.
const CONVS: [[usize; 4]; 5] = [[0, 11, 4, 2], [3, 5, 1, 2], [6, 3, 1, 1], [8, 3, 1, 1], [10, 3, 1, 1]];

/// AlexNet without its last pool and its classifier, for torchvision's weights.
#[derive(Module, Debug)]
pub struct AlexNet<B: Backend> {
    input: Channelwise<B>,
    convs: Vec<FrozenConv<B>>,
}

impl<B: Backend> AlexNet<B> {
    /// Reads torchvision's weights: `features.{n}.weight` and `features.{n}.bias`.
    ///
    /// # Errors
    /// Missing, misshaped or non-float tensors, by name.
    pub fn load(weights: &mut Weights, device: &B::Device) -> Result<Self, Failure> {
        let mut channels = 3;
        let mut convs = Vec::with_capacity(CONVS.len());
        for ([number, kernel, stride, padding], width) in CONVS.into_iter().zip(WIDTHS) {
            let (name, shape) = (format!("features.{number}"), [width, channels, kernel, kernel]);
            convs.push(FrozenConv::load(weights, &name, shape, [stride, padding], device)?);
            channels = width;
        }
        Ok(Self { input: Channelwise::lpips(device), convs })
    }

    /// relu1 to relu5; pools stand after the first two.
    pub(super) fn taps(&self, images: Tensor<B, 4>) -> Vec<Tensor<B, 4>> {
        let mut x = self.input.forward(images);
        let mut taps = Vec::with_capacity(self.convs.len());
        for (at, conv) in self.convs.iter().enumerate() {
            x = conv.relu(if matches!(at, 1 | 2) { pool(x, 3) } else { x });
            taps.push(x.clone());
        }
        taps
    }
}
