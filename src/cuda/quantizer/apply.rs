//! An optimizer on the host for parameters on the device.

use std::vec;
use std::vec::Vec;

use super::DeviceQuantizer;
use super::state::{DeviceState, bytes};
use crate::NO_CODE;
use crate::cuda::device::Stream;
use crate::cuda::memory::{DeviceMut, DeviceRef};
use crate::cuda::ops;
use crate::cuda::queue::Queue;
use crate::error::Result;
use crate::quantizer::{Learner, Update};

impl DeviceQuantizer<'_> {
    /// [`Quantizer::apply`](crate::quantizer::Quantizer::apply) for a quantizer on a device: layers, and of learned codes those that
    /// were hit, come to the host with their gradients and go back as `optimize` leaves them; then the codebook is brought up to
    /// date. The gradients are used up: a second call visits nothing. Nor does it after replays of a captured step, whose gradients
    /// are in [`gradients`](Self::gradients) and [`last_code_gradients`](Self::last_code_gradients).
    ///
    /// # Errors
    /// [`CudaError::Driver`](crate::cuda::CudaError::Driver).
    pub fn apply(&mut self, stream: &Stream, optimize: impl FnMut(Update<'_>)) -> Result<()> {
        self.apply_by(stream, |from, to| stream.read(from, to), |to, from| stream.write(to, from), optimize)
    }

    /// [`apply`](Self::apply) by the caller's own copies, `read(from, to)` and `write(to, from)`, each after all of the queue's work
    /// before it and done when it returns.
    ///
    /// # Errors
    /// What the queue refuses, and what `read` and `write` return.
    pub fn apply_by(
        &mut self,
        queue: &impl Queue,
        read: impl Fn(&DeviceRef<u8>, &mut [u8]) -> Result<()>,
        write: impl Fn(&mut DeviceMut<u8>, &[u8]) -> Result<()>,
        mut optimize: impl FnMut(Update<'_>),
    ) -> Result<()> {
        if self.applied {
            return Ok(());
        }
        let learns = self.learned > 0;
        let there = |(name, _): &(&str, _)| if name.starts_with("projector") { learns } else { self.gradients };
        let exact = self.gradients().filter(there).map(|(name, place)| {
            let mut exact = vec![0.0_f64; place.len()];
            read(&place.bytes(), bytemuck::cast_slice_mut(&mut exact))?;
            Ok((name, exact))
        });
        let exact = exact.collect::<Result<Vec<_>>>()?;
        for (name, place) in self.state_mut() {
            let found = exact.iter().find(|(found, _)| *found == name);
            let (DeviceState::F32(place), Some((_, exact))) = (place, found) else { continue };
            let gradient: Vec<f32> = exact.iter().map(|&g| g as f32).collect();
            let mut values = vec![0.0_f32; place.len()];
            read(&place.as_ref().bytes(), bytemuck::cast_slice_mut(&mut values))?;
            optimize(Update { name, offset: 0, values: &mut values, gradient: &gradient });
            write(&mut bytes(&place), bytemuck::cast_slice(&values))?;
        }
        if self.config.learner == Learner::Gradient {
            self.apply_to_codes(queue, &read, &write, optimize)?;
        }
        if matches!(self.config.learner, Learner::Gradient | Learner::Projector { .. }) {
            self.refresh_codes(queue)?;
        }
        self.applied = true;
        Ok(())
    }

    fn apply_to_codes(
        &self,
        queue: &impl Queue,
        read: &impl Fn(&DeviceRef<u8>, &mut [u8]) -> Result<()>,
        write: &impl Fn(&mut DeviceMut<u8>, &[u8]) -> Result<()>,
        mut optimize: impl FnMut(Update<'_>),
    ) -> Result<()> {
        let (k, dim, places) = (self.config.codes, self.config.dim, self.places);
        let (name, place) = match self.config.normalize {
            true => ("latent", places.latent),
            false => ("codebook", places.codebook),
        };
        let (hits, gradients) = self.last_code_gradients()?;
        let mut codes = vec![0_u32; hits.len()];
        read(&hits.bytes(), bytemuck::cast_slice_mut(&mut codes))?;
        codes.truncate(codes.iter().take_while(|&&code| code != NO_CODE).count());
        let hits = hits.range(0, codes.len());
        let [mut values, mut gradient] = [(); 2].map(|()| vec![0.0_f32; codes.len() * dim]);
        read(&gradients.data().range(0, gradient.len()).bytes(), bytemuck::cast_slice_mut(&mut gradient))?;
        // The gradients have served; their room takes the codes.
        let mut rows = self.arena.mat(self.code_gradients_place(), codes.len(), dim)?;
        ops::gather(queue, &hits, &self.arena.mat(place, k, dim)?.shared(), &mut rows)?;
        read(&rows.data().as_ref().bytes(), bytemuck::cast_slice_mut(&mut values))?;
        let each = values.chunks_exact_mut(dim).zip(gradient.chunks_exact(dim));
        for (&code, (values, gradient)) in codes.iter().zip(each) {
            optimize(Update { name, offset: code as usize * dim, values, gradient });
        }
        write(&mut bytes(&rows.data()), bytemuck::cast_slice(&values))?;
        self.scatter(queue, &hits, &rows.as_ref(), place)
    }
}
