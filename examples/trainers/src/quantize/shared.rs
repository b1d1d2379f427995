//! Where a quantizer is, and whose turn it is.

use core::any::Any;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use vq_kernels::quantizer::{Config, Quantizer, Report, Update};
use vq_kernels::{Error, Result};

/// What handles share.
pub(super) struct Shared {
    /// The quantizer; where it is elsewhere, a copy of it as it was when it was last looked at.
    host: Quantizer,
    /// The quantizer, where it is not on the host.
    away: Option<Box<dyn Away>>,
    /// The last pass on the host, alive while its backward may still come.
    pending: Weak<Ticket>,
    /// What went wrong in a backward, which cannot return it.
    pub failed: Option<Error>,
}

/// A pass's claim on the quantizer: on the host, a copy of it once another call has changed the original.
pub(super) type Ticket = Mutex<Option<Box<Quantizer>>>;

/// A quantizer elsewhere than in the host's memory, as the calls see it that ask for no tensors.
pub(super) trait Away: Any + Send {
    /// Brings the host's copy up to date.
    fn download(&mut self, host: &mut Quantizer) -> Result<()>;
    /// As [`VectorQuantizer::update`](super::VectorQuantizer::update).
    fn update(&mut self) -> Result<Report>;
    /// As [`VectorQuantizer::apply`](super::VectorQuantizer::apply).
    fn apply(&mut self, optimize: &mut dyn FnMut(Update<'_>)) -> Result<()>;
    /// As [`VectorQuantizer::last_codes`](super::VectorQuantizer::last_codes).
    fn last_codes(&self) -> &[u32];
    /// As [`VectorQuantizer::last_restarted`](super::VectorQuantizer::last_restarted).
    fn last_restarted(&self) -> &[u32];
}

impl Shared {
    pub fn new(host: Quantizer) -> Self {
        Self { host, away: None, pending: Weak::new(), failed: None }
    }

    pub fn config(&self) -> &Config {
        self.host.config()
    }

    /// What is on the host, whether or not the quantizer is.
    pub fn copy(&self) -> &Quantizer {
        &self.host
    }

    /// The quantizer to look at, wherever it is.
    pub fn host(&mut self) -> Result<&Quantizer> {
        if let Some(away) = &mut self.away {
            away.download(&mut self.host)?;
        }
        Ok(&self.host)
    }

    /// The quantizer to be changed on the host, where it is from now on.
    pub fn home(&mut self) -> Result<&mut Quantizer> {
        self.host()?;
        self.away = None;
        self.settle();
        Ok(&mut self.host)
    }

    /// Leaves a pass whose backward may still come a copy of the quantizer, before it changes.
    fn settle(&mut self) {
        if let Some(ticket) = core::mem::take(&mut self.pending).upgrade() {
            *lock(&ticket) = Some(Box::new(self.host.clone()));
        }
    }

    /// The quantizer that a backward on the host asks for: the original, or its pass's copy.
    pub fn of_pass<'q>(&'q mut self, copy: &'q mut Option<Box<Quantizer>>) -> &'q mut Quantizer {
        copy.as_deref_mut().unwrap_or(&mut self.host)
    }

    /// A claim for the pass that has just been made on the host.
    pub fn claim(&mut self) -> Arc<Ticket> {
        let ticket = Arc::default();
        self.pending = Arc::downgrade(&ticket);
        ticket
    }

    /// The quantizer where it is, if not on the host.
    pub fn away(&mut self) -> Option<&mut dyn Away> {
        self.away.as_deref_mut()
    }

    /// The quantizer has gone to `away`, a copy of [`home`](Self::home).
    #[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "no backend here keeps it elsewhere"))]
    pub fn leave(&mut self, away: impl Away) {
        self.away = Some(Box::new(away));
    }

    /// Tells what went wrong in a backward.
    pub fn check(&mut self) -> Result<()> {
        self.failed.take().map_or(Ok(()), Err)
    }

    /// Whether a backward on the host may still come.
    #[cfg(test)]
    pub fn pending(&self) -> bool {
        self.pending.strong_count() > 0
    }
}

/// Locks; a panic of a caller's closure elsewhere is that caller's, and no reason for another one here.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
