//! Which steps a training looks at, where their losses differ by magnitudes: the whole bound's (Nichol and Dhariwal 2021, section 3.3).

use crate::common::failure::Failure;
use crate::common::random::generator;

/// Losses of each step that are remembered.
const HISTORY: usize = 10;

/// The share of draws that stays uniform.
const UNIFORM: f64 = 0.001;

/// Bytes of a step's losses in a checkpoint: their number, and room for all.
const BYTES: usize = 1 + 4 * HISTORY;

/// Importance sampling of steps by √E[loss²] (there, eq. 18): the last ten losses of each step, uniform until all have ten.
#[derive(Clone, Debug, PartialEq)]
pub struct LossSampler {
    /// Each step's last losses, oldest first.
    history: Vec<Vec<f32>>,
}

impl LossSampler {
    /// Of so many steps, with no losses yet.
    pub fn new(steps: usize) -> Self {
        Self { history: vec![Vec::new(); steps.max(1)] }
    }

    /// Each step's probability.
    pub fn probabilities(&self) -> Vec<f64> {
        let steps = self.history.len() as f64;
        if self.history.iter().any(|losses| losses.len() < HISTORY) {
            return vec![steps.recip(); self.history.len()];
        }
        let root = |losses: &Vec<f32>| {
            (losses.iter().map(|&loss| f64::from(loss).powi(2)).sum::<f64>() / HISTORY as f64).sqrt()
        };
        let weights: Vec<f64> = self.history.iter().map(root).collect();
        let sum: f64 = weights.iter().sum();
        match sum > 0.0 {
            true => weights.iter().map(|weight| (1.0 - UNIFORM) * weight / sum + UNIFORM / steps).collect(),
            false => vec![steps.recip(); self.history.len()],
        }
    }

    /// Steps for a batch, and what each image's loss is multiplied by, 1/(T p_t), so that the mean stays that of uniform draws.
    pub fn draw(&self, seed: u64, step: u64, batch: usize) -> (Vec<usize>, Vec<f32>) {
        let probabilities = self.probabilities();
        let draw = |sample: u64| {
            let mut rest =
                (generator("diffusion steps", seed, step, sample).next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
            let found = probabilities.iter().position(|p| {
                rest -= p;
                rest < 0.0
            });
            found.unwrap_or(probabilities.len() - 1)
        };
        let t: Vec<usize> = (0..batch as u64).map(draw).collect();
        let weights = t.iter().map(|&t| (1.0 / (probabilities[t] * probabilities.len() as f64)) as f32).collect();
        (t, weights)
    }

    /// Remembers the unweighted losses of a batch's steps; one that is not finite is left out.
    pub fn remember(&mut self, t: &[usize], losses: &[f32]) {
        for (&t, &loss) in t.iter().zip(losses).filter(|(_, loss)| loss.is_finite()) {
            if let Some(history) = self.history.get_mut(t) {
                if history.len() == HISTORY {
                    history.remove(0);
                }
                history.push(loss);
            }
        }
    }

    /// For a checkpoint.
    pub fn to_bytes(&self) -> Vec<u8> {
        let step = |losses: &Vec<f32>| {
            let mut bytes = vec![losses.len() as u8];
            bytes.extend(losses.iter().flat_map(|loss| loss.to_le_bytes()));
            bytes.resize(BYTES, 0);
            bytes
        };
        self.history.iter().flat_map(step).collect()
    }

    /// Takes up what [`to_bytes`](Self::to_bytes) wrote.
    ///
    /// # Errors
    /// Bytes of another number of steps, or damaged; nothing changes then.
    pub fn restore(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let step = |bytes: &[u8]| {
            let (&count, losses) = bytes.split_first()?;
            let losses = losses.chunks_exact(4).filter_map(|bytes| Some(f32::from_le_bytes(bytes.try_into().ok()?)));
            let losses: Vec<f32> = losses.take(usize::from(count)).filter(|loss| loss.is_finite()).collect();
            (losses.len() == usize::from(count)).then_some(losses)
        };
        let history: Option<Vec<_>> = bytes.chunks(BYTES).map(step).collect();
        match history {
            Some(history) if bytes.len() == self.history.len() * BYTES => self.history = history,
            _ => {
                let steps = self.history.len();
                return Err(Failure::new(format!("{} bytes are not the losses of {steps} steps", bytes.len())));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
