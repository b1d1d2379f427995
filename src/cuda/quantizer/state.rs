//! What a quantizer must keep, on the device and between it and the CPU's.

use std::vec::Vec;

use super::DeviceQuantizer;
use crate::cuda::device::Stream;
use crate::cuda::memory::{DeviceMut, DeviceRef};
use crate::error::{Error, Result, same};
use crate::quantizer::{Quantizer, StateMut, StateRef};

/// A named tensor's place on the device.
pub enum DeviceState<'v> {
    /// f32 values.
    F32(DeviceMut<'v, f32>),
    /// f64 values.
    F64(DeviceMut<'v, f64>),
    /// The step's number.
    U64(DeviceMut<'v, u64>),
}

impl DeviceQuantizer<'_> {
    /// Names and places of the state, as [`Quantizer::state`] names them.
    ///
    /// After values were written, [`refresh`](Self::refresh).
    pub fn state_mut(&mut self) -> Vec<(&'static str, DeviceState<'_>)> {
        use DeviceState::{F32, F64, U64};
        let (arena, places) = (&self.arena, &self.places);
        let mut state = std::vec![("codebook", F32(arena.at(places.codebook)))];
        let some = [
            ("latent", places.latent),
            ("source", places.source),
            ("project_in.weight", places.project_in.weight),
            ("project_in.bias", places.project_in.bias),
            ("project_out.weight", places.project_out.weight),
            ("project_out.bias", places.project_out.bias),
            ("projector.weight", places.projector.weight),
            ("projector.bias", places.projector.bias),
        ];
        let there = some.into_iter().filter(|(_, place)| place.len > 0);
        state.extend(there.map(|(name, place)| (name, F32(arena.at(place)))));
        state.extend([
            ("cluster_size", F32(arena.at(places.cluster_size))),
            ("exposure", F32(arena.at(places.exposure))),
            ("last_seen", F64(arena.at(places.last_seen))),
            ("rows_seen", F64(arena.at(places.rows_seen))),
            ("step", U64(arena.at(places.step))),
        ]);
        state
    }

    /// Takes the state of the CPU's quantizer.
    ///
    /// # Errors
    /// [`Error::Config`] where the configurations differ; [`CudaError::Driver`](crate::cuda::CudaError::Driver).
    pub fn upload(&mut self, stream: &Stream, quantizer: &Quantizer) -> Result<()> {
        self.write(quantizer, |place, bytes| stream.write(place, bytes))?;
        self.refresh(stream)
    }

    /// Writes the state into the CPU's quantizer, once all work is done.
    ///
    /// # Errors
    /// [`Error::Config`] where the configurations differ; [`CudaError::Driver`](crate::cuda::CudaError::Driver).
    pub fn download(&mut self, stream: &Stream, quantizer: &mut Quantizer) -> Result<()> {
        self.read(quantizer, |place, bytes| stream.read(place, bytes))
    }

    fn same_config(&self, quantizer: &Quantizer) -> Result<()> {
        match self.config == *quantizer.config() {
            true => Ok(()),
            false => Err(Error::Config { field: "quantizer", expected: "the same configuration on both sides" }),
        }
    }

    /// Copies every tensor of `quantizer` by `copy(place, bytes)`; then [`refresh`](Self::refresh).
    ///
    /// # Errors
    /// [`Error::Config`] where the configurations differ; what `copy` returns.
    pub fn write(
        &mut self,
        quantizer: &Quantizer,
        copy: impl Fn(&mut DeviceMut<u8>, &[u8]) -> Result<()>,
    ) -> Result<()> {
        self.same_config(quantizer)?;
        let state = quantizer.state();
        for (name, place) in self.state_mut() {
            let values = state.iter().find(|(found, _)| *found == name).map(|(_, values)| *values);
            match (place, values) {
                (DeviceState::F32(place), Some(StateRef::F32(values))) => {
                    same("upload", name, place.len(), values.len())?;
                    copy(&mut bytes(&place), bytemuck::cast_slice(values))?;
                }
                (DeviceState::F64(place), Some(StateRef::F64(values))) => {
                    same("upload", name, place.len(), values.len())?;
                    copy(&mut bytes(&place), bytemuck::cast_slice(values))?;
                }
                (DeviceState::U64(place), Some(StateRef::U64(values))) => {
                    same("upload", name, place.len(), values.len())?;
                    copy(&mut bytes(&place), bytemuck::cast_slice(values))?;
                }
                _ => {
                    return Err(Error::Config { field: name, expected: "a tensor of that name and type in the state" });
                }
            }
        }
        Ok(())
    }

    /// Copies every tensor into `quantizer` by `copy(place, bytes)`.
    ///
    /// # Errors
    /// [`Error::Config`] where the configurations differ; what `copy` returns.
    pub fn read(
        &mut self,
        quantizer: &mut Quantizer,
        copy: impl Fn(&DeviceRef<u8>, &mut [u8]) -> Result<()>,
    ) -> Result<()> {
        self.same_config(quantizer)?;
        let state = self.state_mut();
        quantizer.restore(|name, place| {
            let found = state.iter().find(|(found, _)| *found == name).map(|(_, place)| place);
            match (place, found) {
                (StateMut::F32(to), Some(DeviceState::F32(from))) => {
                    same("download", name, from.len(), to.len())?;
                    copy(&from.as_ref().bytes(), bytemuck::cast_slice_mut(to))
                }
                (StateMut::F64(to), Some(DeviceState::F64(from))) => {
                    same("download", name, from.len(), to.len())?;
                    copy(&from.as_ref().bytes(), bytemuck::cast_slice_mut(to))
                }
                (StateMut::U64(to), Some(DeviceState::U64(from))) => {
                    same("download", name, from.len(), to.len())?;
                    copy(&from.as_ref().bytes(), bytemuck::cast_slice_mut(to))
                }
                _ => Err(Error::Config { field: name, expected: "a tensor of that name and type in the state" }),
            }
        })
    }
}

/// The bytes of a place.
pub(super) fn bytes<'v, T>(place: &DeviceMut<'v, T>) -> DeviceMut<'v, u8> {
    // SAFETY: all of the view, which is not used while this one is.
    unsafe { place.place(0, place.len() * size_of::<T>()) }
}
