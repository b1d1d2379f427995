//! What a training minimizes: losses of images, of other maps, of features, and against an adversary.
//!
//! Scalars are tensors `[1]`. The quantizer's own terms are in [`quantize`](crate::quantize).

pub mod adversarial;
pub mod coverage;
pub mod maps;
pub mod perceptual;
pub mod reconstruction;

pub use perceptual::Perceptual;

#[cfg(test)]
pub(crate) mod gradients;
