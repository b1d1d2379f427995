//! SqueezeNet v1.1 (Iandola et al. 2016), to its last fire module.

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

use super::layers::{Channelwise, FrozenConv, pool_ceil};
use super::weights::Weights;
use crate::common::Failure;

/// Channels of relu_conv1, fire3, fire5, fire6, fire7, fire8 and fire9: the layers of LPIPS.
pub(super) const WIDTHS: [usize; 7] = [64, 128, 256, 384, 384, 512, 512];

/// Each of the three pools still has a whole window.
pub(super) const SMALLEST_INPUT: usize = 25;

/// Squeezed channels, and twice the channels of each expansion, of fire2 to fire9.
const FIRES: [[usize; 2]; 8] = [[16, 128], [16, 128], [32, 256], [32, 256], [48, 384], [48, 384], [64, 512], [64, 512]];

/// Where torchvision's `features` has fire2 to fire9.
const TORCHVISION: [usize; 8] = [3, 4, 6, 7, 9, 10, 11, 12];

/// A fire module: 1 × 1 to few channels, then 1 × 1 and 3 × 3 side by side.
#[derive(Module, Debug)]
pub struct Fire<B: Backend> {
    squeeze: FrozenConv<B>,
    expand1x1: FrozenConv<B>,
    expand3x3: FrozenConv<B>,
}

impl<B: Backend> Fire<B> {
    fn forward(&self, input: Tensor<B, 4>) -> Tensor<B, 4> {
        let squeezed = self.squeeze.relu(input);
        Tensor::cat(vec![self.expand1x1.relu(squeezed.clone()), self.expand3x3.relu(squeezed)], 1)
    }
}

/// SqueezeNet v1.1 without its classifier.
///
/// Caffe's weights (forresti/SqueezeNet) and torchvision's are separate trainings with inputs of their own.
#[derive(Module, Debug)]
pub struct SqueezeNet<B: Backend> {
    input: Channelwise<B>,
    conv1: FrozenConv<B>,
    fires: Vec<Fire<B>>,
    caffe: bool,
}

impl<B: Backend> SqueezeNet<B> {
    /// Reads Caffe's or torchvision's weights, whichever the names are.
    ///
    /// # Errors
    /// Missing, misshaped or non-float tensors, by name.
    pub fn load(weights: &mut Weights, device: &B::Device) -> Result<Self, Failure> {
        let caffe = weights.has("fire2/squeeze1x1.weight");
        // Caffe's first convolution wants B, G, R.
        let (input, conv1) = if caffe {
            let conv1 = FrozenConv::load(weights, "conv1", [64, 3, 3, 3], [2, 0], device)?;
            (Channelwise::caffe(device), conv1.flip_input_channels())
        } else {
            let conv1 = FrozenConv::load(weights, "features.0", [64, 3, 3, 3], [2, 0], device)?;
            (Channelwise::lpips(device), conv1)
        };
        let mut channels = 64;
        let mut fires = Vec::with_capacity(FIRES.len());
        for (at, [squeezed, expanded]) in FIRES.into_iter().enumerate() {
            let [squeeze, expand1x1, expand3x3] = if caffe {
                ["squeeze1x1", "expand1x1", "expand3x3"].map(|part| format!("fire{}/{part}", at + 2))
            } else {
                ["squeeze", "expand1x1", "expand3x3"].map(|part| format!("features.{}.{part}", TORCHVISION[at]))
            };
            let half = expanded / 2;
            fires.push(Fire {
                squeeze: FrozenConv::load(weights, &squeeze, [squeezed, channels, 1, 1], [1, 0], device)?,
                expand1x1: FrozenConv::load(weights, &expand1x1, [half, squeezed, 1, 1], [1, 0], device)?,
                expand3x3: FrozenConv::load(weights, &expand3x3, [half, squeezed, 3, 3], [1, 1], device)?,
            });
            channels = expanded;
        }
        Ok(Self { input, conv1, fires, caffe })
    }

    /// Whether the weights are Caffe's: to those, the linear weights of LPIPS were not fitted.
    pub fn is_caffe(&self) -> bool {
        self.caffe
    }

    /// relu_conv1, fire3, fire5, fire6, fire7, fire8 and fire9.
    pub(super) fn taps(&self, images: Tensor<B, 4>) -> Vec<Tensor<B, 4>> {
        let mut x = self.conv1.relu(self.input.forward(images));
        let mut taps = vec![x.clone()];
        for (number, fire) in (2..).zip(&self.fires) {
            x = fire.forward(pooled_before(number, x));
            if !matches!(number, 2 | 4) {
                taps.push(x.clone());
            }
        }
        taps
    }

    /// fire8: 512 channels, 14 × 14 from 227 × 227 pixels.
    pub(super) fn fire8(&self, images: Tensor<B, 4>) -> Tensor<B, 4> {
        let x = self.conv1.relu(self.input.forward(images));
        (2..=8).zip(&self.fires).fold(x, |x, (number, fire)| fire.forward(pooled_before(number, x)))
    }
}

/// The pools stand before fire2, fire4 and fire6.
fn pooled_before<B: Backend>(fire: usize, x: Tensor<B, 4>) -> Tensor<B, 4> {
    if matches!(fire, 2 | 4 | 6) { pool_ceil(x) } else { x }
}
