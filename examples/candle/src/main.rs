//! Trains an autoencoder with a codebook on synthetic 4×4 patches, in seconds: the loss falls, and most codes are used.

use std::collections::HashSet;

use candle_core::{Device, Result, Tensor, Var};
use vq_candle::quantize;
use vq_kernels::rng::Rng;

const PATCHES: usize = 4096;
const PIXELS: usize = 16;
const DIM: usize = 8;
const CODES: usize = 256;
const BATCH: usize = 512;

fn main() -> Result<()> {
    let (first, last) = train(1000, true)?;
    println!("loss {first:.4} -> {last:.4}");
    Ok(())
}

/// Trains for `steps`; returns the loss of the first and the last step.
fn train(steps: usize, print: bool) -> Result<(f32, f32)> {
    let device = Device::Cpu;
    let patches = waves(&device)?;
    let mut rng = Rng::new(0, 0);
    let mut linear = |inputs: usize, outputs: usize| {
        let values: Vec<f32> = (0..inputs * outputs).map(|_| rng.normal() / (inputs as f32).sqrt()).collect();
        Var::from_tensor(&Tensor::from_vec(values, (inputs, outputs), &device)?)
    };
    let (encoder, decoder) = (linear(PIXELS, DIM)?, linear(DIM, PIXELS)?);
    // Codes start as encoded patches, every 16th: where the data are.
    let every_16th = Tensor::arange_step(0u32, PATCHES as u32, (PATCHES / CODES) as u32, &device)?;
    let codebook = Var::from_tensor(&unit(&patches.index_select(&every_16th, 0)?.matmul(&encoder)?)?)?;
    // Gradient descent. The codebook term is a mean, of which a code has its share of the rows: hence the larger step.
    let rates = [(&encoder, 0.2), (&decoder, 0.2), (&codebook, 0.1 * (CODES * DIM) as f64)];
    let mut losses = (0.0, 0.0);
    for step in 0..steps {
        let batch = patches.narrow(0, step * BATCH % PATCHES, BATCH)?;
        let quantized = quantize(&unit(&batch.matmul(&encoder)?)?, &unit(&codebook)?)?;
        let reconstruction = (quantized.output.matmul(&decoder)? - &batch)?.sqr()?.mean_all()?;
        let terms = (quantized.codebook_loss + (quantized.commitment_loss * 0.25)?)?;
        let loss = (&reconstruction + terms)?;
        let gradients = loss.backward()?;
        for (var, rate) in rates {
            if let Some(gradient) = gradients.get(var) {
                var.set(&(var.as_tensor() - (gradient * rate)?)?)?;
            }
        }
        losses.1 = loss.to_scalar()?;
        if step == 0 {
            losses.0 = losses.1;
        }
        if print && (step % 100 == 0 || step + 1 == steps) {
            let all = vq_candle::assign(&unit(&patches.matmul(&encoder)?)?, &unit(&codebook)?)?.to_vec1::<u32>()?;
            let used = all.into_iter().collect::<HashSet<_>>().len();
            let rmse = reconstruction.to_scalar::<f32>()?.sqrt();
            println!("step {step:>3}: loss {:.4}, rmse {rmse:.4}, {used} of {CODES} codes used", losses.1);
        }
    }
    Ok(losses)
}

/// Rows of length 1: codes are compared by cosine, and the volume of rows cannot grow.
fn unit(rows: &Tensor) -> Result<Tensor> {
    rows.broadcast_div(&rows.sqr()?.sum_keepdim(1)?.sqrt()?)
}

/// 4×4 patches of plane waves: direction and phase go through all combinations, evenly mixed.
fn waves(device: &Device) -> Result<Tensor> {
    let mut pixels = Vec::with_capacity(PATCHES * PIXELS);
    for i in 0..PATCHES {
        // Two irrational steps cover the square of angle × phase evenly (Weyl).
        let turn = |step: f32| (i as f32 * step).fract() * core::f32::consts::TAU;
        let (angle, phase) = (turn(0.618_034), turn(0.414_213_56));
        for pixel in 0..PIXELS {
            let (x, y) = ((pixel % 4) as f32 - 1.5, (pixel / 4) as f32 - 1.5);
            pixels.push((0.9 * (x * angle.cos() + y * angle.sin()) + phase).sin());
        }
    }
    Tensor::from_vec(pixels, (PATCHES, PIXELS), device)
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_training_lowers_the_loss() {
        let (first, last) = super::train(60, false).expect("a training");
        assert!(last < 0.5 * first, "{first} to {last}");
    }
}
