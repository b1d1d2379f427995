//! Adam (Kingma and Ba, ICLR 2015, algorithm 1), with moments kept by tensor name.
//!
//! Rows of the codebook that were not hit are not visited, so their moments stay (the sparse form); each
//! row counts its own steps for the bias correction.

use std::collections::BTreeMap;

use vq_kernels::quantizer::Update;

/// Adam's constants.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Constants {
    /// Decay of the first moments.
    pub beta1: f64,
    /// Decay of the second moments.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
}

impl Default for Constants {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.99, epsilon: 1e-8 }
    }
}

/// Moments of one tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Moments {
    /// Moving average of the gradient.
    pub first: Vec<f32>,
    /// Moving average of its square.
    pub second: Vec<f32>,
    /// Updates that each row (of `row_len` values) has had.
    pub updates: Vec<u32>,
    row_len: usize,
}

impl Moments {
    /// No updates yet, of `len` values in rows of `row_len`.
    pub fn new(len: usize, row_len: usize) -> Self {
        Self { first: vec![0.0; len], second: vec![0.0; len], updates: vec![0; len / row_len], row_len }
    }
}

/// The optimizer: one set of moments for each tensor.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Adam {
    /// Its constants.
    pub constants: Constants,
    /// Moments by the tensor's name.
    pub tensors: BTreeMap<String, Moments>,
}

impl Adam {
    /// Room for a tensor of `len` values that is updated in pieces of `row_len`.
    pub fn register(&mut self, name: &str, len: usize, row_len: usize) {
        self.tensors.insert(name.to_owned(), Moments::new(len, row_len.max(1)));
    }

    /// One update of the values at hand.
    pub fn update(&mut self, update: Update<'_>, lr: f64) {
        let Constants { beta1, beta2, epsilon } = self.constants;
        let Some(moments) = self.tensors.get_mut(update.name) else { return };
        let at = update.offset..update.offset + update.values.len();
        let row = update.offset / moments.row_len;
        moments.updates[row] += 1;
        let t = f64::from(moments.updates[row]);
        let (correct1, correct2) = (1.0 - beta1.powf(t), 1.0 - beta2.powf(t));
        let (first, second) = (&mut moments.first[at.clone()], &mut moments.second[at]);
        for (((value, &g), m), v) in update.values.iter_mut().zip(update.gradient).zip(first).zip(second) {
            let g = f64::from(g);
            *m = (beta1 * f64::from(*m) + (1.0 - beta1) * g) as f32;
            *v = (beta2 * f64::from(*v) + (1.0 - beta2) * g * g) as f32;
            let step = f64::from(*m) / correct1 / ((f64::from(*v) / correct2).sqrt() + epsilon);
            *value = (f64::from(*value) - lr * step) as f32;
        }
    }

    /// Forgets the moments of one row: its code has just been replaced.
    pub fn forget(&mut self, name: &str, row: usize) {
        let Some(moments) = self.tensors.get_mut(name) else { return };
        let at = row * moments.row_len..(row + 1) * moments.row_len;
        moments.first[at.clone()].fill(0.0);
        moments.second[at].fill(0.0);
        moments.updates[row] = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_step_is_the_learning_rate_against_the_gradient() {
        let mut adam = Adam::default();
        adam.register("w", 2, 2);
        let mut values = [1.0f32, 1.0];
        adam.update(Update { name: "w", offset: 0, values: &mut values, gradient: &[0.5, -3.0] }, 0.01);
        assert!((values[0] - 0.99).abs() < 1e-6 && (values[1] - 1.01).abs() < 1e-6);
    }
}
