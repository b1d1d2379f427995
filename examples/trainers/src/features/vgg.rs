//! VGG16 (Simonyan and Zisserman 2015, configuration D), its convolutions.

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

use super::layers::{Channelwise, FrozenConv, pool};
use super::weights::Weights;
use crate::common::Failure;

/// Channels of relu1_2, relu2_2, relu3_3, relu4_3 and relu5_3: the layers of LPIPS.
pub(super) const WIDTHS: [usize; 5] = [64, 128, 256, 512, 512];

/// Each of the four pools still has a whole window.
pub(super) const SMALLEST_INPUT: usize = 16;

/// Where torchvision's `features` has the convolutions, stage by stage; pools stand between the stages.
const STAGES: [&[usize]; 5] = [&[0, 2], &[5, 7], &[10, 12, 14], &[17, 19, 21], &[24, 26, 28]];

/// VGG16 without its last pool and its classifier, for torchvision's weights.
#[derive(Module, Debug)]
pub struct Vgg16<B: Backend> {
    input: Channelwise<B>,
    stages: Vec<Vec<FrozenConv<B>>>,
}

impl<B: Backend> Vgg16<B> {
    /// Reads torchvision's weights: `features.{n}.weight` and `features.{n}.bias`.
    ///
    /// # Errors
    /// Missing, misshaped or non-float tensors, by name.
    pub fn load(weights: &mut Weights, device: &B::Device) -> Result<Self, Failure> {
        let mut channels = 3;
        let mut stages = Vec::with_capacity(STAGES.len());
        for (stage, width) in STAGES.into_iter().zip(WIDTHS) {
            let mut convs = Vec::with_capacity(stage.len());
            for number in stage {
                let shape = [width, channels, 3, 3];
                convs.push(FrozenConv::load(weights, &format!("features.{number}"), shape, [1, 1], device)?);
                channels = width;
            }
            stages.push(convs);
        }
        Ok(Self { input: Channelwise::lpips(device), stages })
    }

    /// relu1_2, relu2_2, relu3_3, relu4_3 and relu5_3.
    pub(super) fn taps(&self, images: Tensor<B, 4>) -> Vec<Tensor<B, 4>> {
        let mut x = self.input.forward(images);
        let mut taps = Vec::with_capacity(self.stages.len());
        for (at, stage) in self.stages.iter().enumerate() {
            x = if at == 0 { x } else { pool(x, 2) };
            x = stage.iter().fold(x, |x, conv| conv.relu(x));
            taps.push(x.clone());
        }
        taps
    }
}
