//! The quantizer on an NVIDIA GPU, on the memory of burn's own tensors: no row passes through the host.
//!
//! burn's CUDA backend is cubecl 0.10, whose client hands out a tensor's address (`get_resource`) but not its CUDA stream,
//! which is a thread's own and waits for nobody. So both sides work in turns: addresses are asked for, which joins what
//! other threads do to those tensors; burn's queue is waited for; the kernels run on a stream of their own, which is waited for
//! before burn goes on. Both use the device's primary context, in which addresses are the same. A training step copies
//! output, codes and two gradients from device to device; to and from the host go the rows' codes, the restarted codes, a report and four
//! numbers, what `apply` gives to an optimizer, and a copy of the state where one is asked for (`read`).
//!
//! It has run on the virtual driver of `tests/driver`, with burn's own kernels, where it has the bits of the host's path
//! (`.ci/device burn`), and on no device yet.

mod memory;
mod op;
#[cfg(test)]
mod tests;

use core::any::Any;
use std::sync::Arc;

use burn::backend::cuda::CudaDevice;
use burn::tensor::{Int, Tensor};
use vq_kernels::cuda::cudarc::driver::{CudaSlice, CudaStream, DevicePtr};
use vq_kernels::cuda::quantizer::{DeviceQuantizer, DeviceState, REPORT_WORDS, decode_report};
use vq_kernels::cuda::{Device, DeviceMut, Stream};
use vq_kernels::quantizer::{Quantizer, Report, Update};
use vq_kernels::{Error, Result};

use super::shared::{Away, Shared, Ticket};
use memory::{Cuda, Rows, wait_for_burn};

/// A quantizer that lives on a device.
struct Resident {
    // Its views do not borrow the memory, which is dropped after it.
    quantizer: DeviceQuantizer<'static>,
    stream: Stream,
    device: CudaDevice,
    /// The most rows of a pass.
    rows: usize,
    /// The last pass, until its update.
    pass: Option<Passed>,
    codes: Vec<u32>,
    restarted: Vec<u32>,
    /// Whether the host's copy is as the state here.
    known: bool,
    _memory: CudaSlice<u8>,
}

/// What backward and update read again.
struct Passed {
    claim: Arc<Ticket>,
    rows: Rows,
    codes: Tensor<Cuda, 1, Int>,
}

/// Waits for a stream's work where it ends, on whatever path: tensors that are dropped after it may be burn's again.
struct Fence(Arc<CudaStream>);

impl Drop for Fence {
    fn drop(&mut self) {
        // An error here has been returned before, or the next call meets it.
        let _ = self.0.synchronize();
    }
}

impl Resident {
    /// The quantizer on `device`, where it goes if it is not there. Passes of `least` rows must fit; where it is to go there, of `rows`.
    fn of<'s>(shared: &'s mut Shared, device: &CudaDevice, least: usize, rows: usize) -> Result<&'s mut Self> {
        shared.check()?;
        if !Self::found(shared).is_some_and(|there| there.device == *device && there.rows >= least) {
            let there = Self::new(device, shared.home()?, rows.max(1))?;
            shared.leave(there);
        }
        match Self::found(shared) {
            Some(there) => Ok(there),
            None => unreachable!("it has just been brought there"),
        }
    }

    fn found(shared: &mut Shared) -> Option<&mut Self> {
        (shared.away()? as &mut dyn Any).downcast_mut()
    }

    fn new(device: &CudaDevice, quantizer: &Quantizer, rows: usize) -> Result<Self> {
        let stream = Device::probe(device.index)?.stream()?;
        let config = *quantizer.config();
        let len = DeviceQuantizer::memory_len(&stream, &config, rows)?;
        let memory = stream.raw().alloc_zeros::<u8>(len)?;
        let address = memory.device_ptr(stream.raw()).0;
        // SAFETY: the memory is this struct's own, of that length, and lives as long as the view's only user.
        let view = unsafe { DeviceMut::from_raw(address, len) };
        let mut there = DeviceQuantizer::new(&stream, config, rows, view)?;
        there.upload(&stream, quantizer)?;
        Ok(Self {
            quantizer: there,
            stream,
            device: device.clone(),
            rows,
            pass: None,
            codes: Vec::new(),
            restarted: Vec::new(),
            known: false,
            _memory: memory,
        })
    }

    fn fence(&self) -> Fence {
        Fence(Arc::clone(self.stream.raw()))
    }

    /// The last step's report, once all work is done.
    fn report(&self) -> Result<Report> {
        let mut words = [0; REPORT_WORDS];
        self.stream.read(&self.quantizer.last_report(), &mut words)?;
        self.stream.check()?;
        Ok(decode_report(&words, self.quantizer.config().dim))
    }
}

impl Away for Resident {
    fn download(&mut self, host: &mut Quantizer) -> Result<()> {
        if self.known {
            return Ok(());
        }
        // Centres are frozen: the host has them.
        let centres = self.quantizer.state_mut().into_iter().find_map(|(name, place)| match place {
            DeviceState::F32(place) if name == "source" => Some(place.address()),
            _ => None,
        });
        let Self { quantizer, stream, .. } = self;
        quantizer.read(host, |from, to| match Some(from.address()) == centres {
            true => Ok(()),
            false => stream.read(from, to),
        })?;
        self.known = true;
        Ok(())
    }

    fn update(&mut self) -> Result<Report> {
        let rows = self.pass.take().ok_or(Error::Order { op: "update", expected: "forward" })?.rows;
        self.restarted.clear();
        if rows.n == 0 {
            return Ok(Report::default());
        }
        let _fence = self.fence();
        let x = rows.view()?;
        wait_for_burn(&self.device)?;
        self.known = false;
        self.quantizer.update(&self.stream, &x, None)?;
        let report = self.report()?;
        let mut restarted = vec![Default::default(); report.restart.restarted];
        self.stream.read(&self.quantizer.last_restarted().range(0, restarted.len()), &mut restarted)?;
        self.restarted.extend(restarted.iter().map(|one| one.code));
        Ok(report)
    }

    fn apply(&mut self, optimize: &mut dyn FnMut(Update<'_>)) -> Result<()> {
        let _fence = self.fence();
        self.known = false;
        self.quantizer.apply(&self.stream, optimize)?;
        self.stream.check()
    }

    fn last_codes(&self) -> &[u32] {
        &self.codes
    }

    fn last_restarted(&self) -> &[u32] {
        &self.restarted
    }
}
