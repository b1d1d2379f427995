//! Everything that a quantizer must keep to go on exactly, as named plain slices.

use alloc::vec::Vec;

use super::Quantizer;
use crate::error::{Error, Result, same};
use crate::matrix::MatRef;

/// A named tensor's values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum StateRef<'a> {
    /// f32 values.
    F32(&'a [f32]),
    /// f64 values.
    F64(&'a [f64]),
    /// u64 values.
    U64(&'a [u64]),
}

/// A named tensor's place.
#[derive(Debug)]
pub enum StateMut<'a> {
    /// f32 values.
    F32(&'a mut [f32]),
    /// f64 values.
    F64(&'a mut [f64]),
    /// u64 values.
    U64(&'a mut [u64]),
}

impl Quantizer {
    /// Names and values of the whole state between two steps (after [`apply`](Self::apply)): codes, layers,
    /// moving averages, counters. With the same configuration, [`restore`](Self::restore) of it goes on
    /// with the same bits.
    pub fn state(&self) -> Vec<(&'static str, StateRef<'_>)> {
        use StateRef::{F32, F64, U64};
        let mut state = alloc::vec![("codebook", F32(&self.codebook))];
        if !self.latent.is_empty() {
            state.push(("latent", F32(&self.latent)));
        }
        if !self.source.is_empty() {
            state.push(("source", F32(&self.source)));
        }
        for ([weight, bias], linear, _) in self.layers.named() {
            state.extend([(weight, F32(&linear.weight)), (bias, F32(&linear.bias))]);
        }
        state.extend([
            ("cluster_size", F32(&self.activity.cluster_size)),
            ("exposure", F32(&self.activity.exposure)),
            ("last_seen", F64(&self.activity.last_seen)),
            ("rows_seen", F64(core::slice::from_ref(&self.activity.rows_seen))),
            ("step", U64(core::slice::from_ref(&self.step))),
        ]);
        state
    }

    /// Fills every tensor of the state through `read`, which is given its name and place. What `read`
    /// leaves alone stays as it is; nothing is derived from it again (the codebook is a tensor of its own).
    ///
    /// # Errors
    /// What `read` returns, and [`Error::Config`] for values that no state has. The quantizer is then
    /// partly overwritten and must not be used.
    pub fn restore<E: From<Error>>(
        &mut self,
        mut read: impl FnMut(&'static str, StateMut<'_>) -> core::result::Result<(), E>,
    ) -> core::result::Result<(), E> {
        use StateMut::{F32, F64, U64};
        read("codebook", F32(&mut self.codebook))?;
        if !self.latent.is_empty() {
            read("latent", F32(&mut self.latent))?;
        }
        if !self.source.is_empty() {
            read("source", F32(&mut self.source))?;
        }
        for ([weight, bias], linear, _) in self.layers.named_mut() {
            read(weight, F32(&mut linear.weight))?;
            read(bias, F32(&mut linear.bias))?;
        }
        read("cluster_size", F32(&mut self.activity.cluster_size))?;
        read("exposure", F32(&mut self.activity.exposure))?;
        read("last_seen", F64(&mut self.activity.last_seen))?;
        read("rows_seen", F64(core::slice::from_mut(&mut self.activity.rows_seen)))?;
        read("step", U64(core::slice::from_mut(&mut self.step)))?;
        self.check_state()?;
        self.phase = super::Phase::Idle;
        self.gradients = Default::default();
        self.pass = Default::default();
        let codebook = MatRef::new(&self.codebook, self.config.codes, self.config.dim)?;
        Ok(self.packed.repack(codebook)?)
    }

    /// [`restore`](Self::restore) from what [`state`](Self::state) returned.
    ///
    /// # Errors
    /// [`Error::Config`] for a missing tensor or one of another type, [`Error::Shape`] for one of another
    /// length; the quantizer is then partly overwritten and must not be used.
    pub fn restore_from(&mut self, state: &[(&str, StateRef<'_>)]) -> Result<()> {
        self.restore(|name, place| {
            let found = state.iter().find(|(found, _)| *found == name).map(|(_, values)| *values);
            match (place, found) {
                (StateMut::F32(to), Some(StateRef::F32(from))) => copy(name, to, from),
                (StateMut::F64(to), Some(StateRef::F64(from))) => copy(name, to, from),
                (StateMut::U64(to), Some(StateRef::U64(from))) => copy(name, to, from),
                _ => Err(Error::Config { field: name, expected: "a tensor of that name and type in the state" }),
            }
        })
    }

    fn check_state(&self) -> Result<()> {
        let activity = &self.activity;
        let averages = activity.cluster_size.iter().chain(&activity.exposure);
        let rows = activity.last_seen.iter().chain(core::slice::from_ref(&activity.rows_seen));
        match averages.into_iter().all(|x| *x >= 0.0 && x.is_finite())
            && rows.into_iter().all(|x| (0.0..=self.activity.rows_seen).contains(x))
            && activity.rows_seen.is_finite()
        {
            true => Ok(()),
            false => Err(Error::Config { field: "state", expected: "finite averages and counters of at least 0" }),
        }
    }
}

fn copy<T: Copy>(name: &'static str, to: &mut [T], from: &[T]) -> Result<()> {
    same("restore", name, to.len(), from.len())?;
    to.copy_from_slice(from);
    Ok(())
}
