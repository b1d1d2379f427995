//! What a training minimizes: reconstruction, perceptual and adversarial losses.
//!
//! Scalars are tensors `[1]`. The quantizer's own terms are in [`quantize`](crate::quantize).

pub mod adversarial;
pub mod perceptual;
pub mod reconstruction;

pub use perceptual::Perceptual;

#[cfg(test)]
pub(crate) mod gradients;
