//! Diffusion: images from noise, step by step (Ho et al. 2020), as 4M's and DiVAE's decoders do it.
//!
//! ```text
//! x0 ─ schedule (noise of a step) ─ network ─ target (what it predicts, its loss) ┐
//!                                          └─ hybrid (learned variance, bits)     ├─ training
//! losses of steps ─ importance (which steps are looked at, for the whole bound)
//! noise ─ sampler (DDPM, DDIM, guidance) ─ image
//! ```
//! Steps count from 0, the least noise. Tables are computed in f64 on the host; images are `[batch, channels, height,
//! width]` in [-1, 1]. What is drawn is a pure function of a seed and of a step or an image's number.

pub mod hybrid;
pub mod importance;
pub mod sampler;
pub mod schedule;
pub mod target;

pub use sampler::{Sampler, sample};
pub use schedule::{Diffusion, Schedule, noise, timesteps};
pub use target::{Objective, Prediction};
