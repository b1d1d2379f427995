//! The quantizer on an NVIDIA GPU, on the memory of burn's own tensors: no row passes through the host.
//!
//! burn's CUDA backend is cubecl 0.10, whose client hands out a tensor's address (`get_resource`) but not its CUDA stream,
//! which is a private one that waits for nobody. So both sides work in turns: burn's queue is waited for before the kernels
//! are launched on a stream of their own, and that stream before burn goes on. Both use the device's primary context,
//! in which addresses are the same. A turn costs the host a wait, a few microseconds, and no copy but three of a training
//! step from device to device (the output, its gradient, the gradient at the rows), and of two numbers each way.
//!
//! It has run on the virtual driver of `tests/driver`, with burn's own kernels, where it has the bits of the host's path
//! (`.ci/device burn`), and on no device yet.
//!
//! ```no_run
//! use burn::backend::cuda::{Cuda, CudaDevice};
//! use burn::backend::Autodiff;
//! use burn::tensor::{Distribution, Tensor};
//! # use trainers::quantize;
//! use quantize::DeviceVectorQuantizer;
//! use vq_kernels::quantizer::{Config, Initial, Quantizer};
//!
//! let device = CudaDevice::new(0);
//! let host = Quantizer::new(Config { inputs: 12, dim: 4, codes: 64, ..Config::default() }, Initial::Normal)?;
//! let quantizer = DeviceVectorQuantizer::new(&device, &host, 256)?; // passes of up to 256 rows
//! let rows = Tensor::<Autodiff<Cuda>, 2>::random([256, 12], Distribution::Default, &device).require_grad();
//!
//! let quantized = quantizer.forward(rows.clone())?;
//! let reconstruction = (quantized.output - rows.clone().detach()).powi_scalar(2).mean();
//! let gradients = (reconstruction + quantized.commitment_loss * 0.25 + quantized.codebook_loss).backward();
//! let report = quantizer.update()?; // statistics, moving averages, restart
//! assert!(rows.grad(&gradients).is_some() && report.active > 0);
//! # Ok::<(), vq_kernels::Error>(())
//! ```

mod autodiff;
mod memory;
#[cfg(test)]
mod tests;

use core::fmt;
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use burn::backend::cuda::{Cuda, CudaDevice};
use burn::tensor::{DType, Int, IntDType, Tensor, TensorData};
use vq_kernels::cuda::cudarc::driver::{CudaSlice, DevicePtr};
use vq_kernels::cuda::quantizer::{DeviceQuantizer, REPORT_WORDS, decode_report};
use vq_kernels::cuda::{Device, DeviceMatMut, DeviceMatRef, DeviceMut, Stream};
use vq_kernels::quantizer::{Loss, Quantizer, Report};
use vq_kernels::{Error, Result};

use super::host::lock;
use memory::{copy, flat, floats, floats_mut, ints, ints_mut, wait_for_burn};

pub use autodiff::DeviceQuantized;

/// A [`DeviceQuantizer`] that works on burn's tensors, where they lie. Clones are handles to the same one.
///
/// One pass at a time: while the backward of a [`forward`](Self::forward) may still come, calls that would overwrite what
/// it needs are refused ([`Error::Order`]). The optimizer is the caller's, on the views that [`with`](Self::with) shows.
#[derive(Clone)]
pub struct DeviceVectorQuantizer(Arc<Mutex<There>>);

/// The state on the device, and whose turn it is.
struct There {
    // Its views do not borrow the memory, which is dropped after it.
    quantizer: DeviceQuantizer<'static>,
    stream: Stream,
    device: CudaDevice,
    /// The last pass, until its update.
    pass: Option<Rows>,
    /// Alive while the last pass's backward may still come.
    pending: Weak<Ticket>,
    /// What went wrong in a backward, which cannot return it.
    failed: Option<Error>,
    _memory: CudaSlice<u8>,
}

/// A pass's claim on the state that its backward needs.
#[derive(Debug)]
struct Ticket;

/// Rows `[n, inputs]` one after the other, which backward and update read again.
struct Rows {
    values: Tensor<Cuda, 1>,
    n: usize,
    inputs: usize,
}

impl Rows {
    fn view(&self) -> Result<DeviceMatRef<'_>> {
        DeviceMatRef::new(floats(&self.values)?, self.n, self.inputs)
    }
}

impl DeviceVectorQuantizer {
    /// `quantizer`'s state on `device`, for passes of up to `rows` rows.
    ///
    /// # Errors
    /// No driver, no such device, too old a chip or driver, no room for the state; [`Error::Empty`] for no rows.
    pub fn new(device: &CudaDevice, quantizer: &Quantizer, rows: usize) -> Result<Self> {
        let stream = Device::probe(device.index)?.stream()?;
        let config = *quantizer.config();
        let len = DeviceQuantizer::memory_len(&stream, &config, rows)?;
        let memory = stream.raw().alloc_zeros::<u8>(len)?;
        let address = memory.device_ptr(stream.raw()).0;
        // SAFETY: the memory is this struct's own, of that length, and lives as long as the view's only user.
        let view = unsafe { DeviceMut::from_raw(address, len) };
        let mut there = DeviceQuantizer::new(&stream, config, rows, view)?;
        there.upload(&stream, quantizer)?;
        let device = device.clone();
        let (pass, pending, failed) = (None, Weak::new(), None);
        let there = There { quantizer: there, stream, device, pass, pending, failed, _memory: memory };
        Ok(Self(Arc::new(Mutex::new(there))))
    }

    /// Shows the quantizer, its state and gradients, and the stream that it works on, which is waited for afterwards.
    ///
    /// # Errors
    /// What `change` returns; [`Error::Cuda`] where the device fails.
    pub fn with<R>(&self, change: impl FnOnce(&mut DeviceQuantizer<'static>, &Stream) -> Result<R>) -> Result<R> {
        let there = &mut *self.lock();
        let changed = change(&mut there.quantizer, &there.stream)?;
        there.stream.check()?;
        Ok(changed)
    }

    /// The codes of `rows` `[rows, inputs]`, any number, as i32: −1 for a row that has none (it is not finite).
    ///
    /// # Errors
    /// [`Error::Shape`] where the rows are not `inputs` wide; [`Error::Order`] while a backward may still come;
    /// [`Error::Cuda`] where the device fails.
    pub fn encode(&self, rows: Tensor<Cuda, 2>) -> Result<Tensor<Cuda, 1, Int>> {
        let there = &mut *self.lock();
        there.settled("encode")?;
        let [n, inputs] = rows.dims();
        let codes = there.codes(n);
        if n > 0 {
            let rows = Rows { values: flat(rows), n, inputs };
            wait_for_burn(&there.device)?;
            there.quantizer.encode(&there.stream, &rows.view()?, None, &mut ints_mut(&codes)?)?;
            there.stream.check()?;
        }
        Ok(codes)
    }

    /// The output `[codes, inputs]` for `codes`, as [`encode`](Self::encode) gives them.
    ///
    /// # Errors
    /// [`Error::CodeOutOfRange`] for a code that does not exist; [`Error::Order`] while a backward may still come;
    /// [`Error::Cuda`] where the device fails.
    pub fn decode(&self, codes: Tensor<Cuda, 1, Int>) -> Result<Tensor<Cuda, 2>> {
        let there = &mut *self.lock();
        there.settled("decode")?;
        let ([n], inputs) = (codes.dims(), there.quantizer.config().inputs);
        let output = there.floats(n * inputs);
        if n > 0 {
            let codes = codes.cast(IntDType::I32);
            wait_for_burn(&there.device)?;
            let mut to = DeviceMatMut::new(floats_mut(&output)?, n, inputs)?;
            there.quantizer.decode(&there.stream, &ints(&codes)?, &mut to)?;
            there.stream.check()?;
        }
        Ok(output.reshape([n, inputs]))
    }

    /// After the backward of the last [`forward`](Self::forward): takes it into the statistics, moves averaged codes,
    /// replaces stale ones. Gradients for an optimizer are then in [`gradients`](DeviceQuantizer::gradients) and
    /// [`last_code_gradients`](DeviceQuantizer::last_code_gradients), and after it
    /// [`refresh_codes`](DeviceQuantizer::refresh_codes) is called; all three through [`with`](Self::with).
    ///
    /// # Errors
    /// [`Error::Order`] where no pass came since the last update, or while its backward may still come (it is not to
    /// come any more once all that was made of its results is dropped); what failed in the backward;
    /// [`Error::Overflow`] where more than 2²² rows fell to one code; [`Error::Cuda`] where the device fails.
    pub fn update(&self) -> Result<Report> {
        let there = &mut *self.lock();
        there.settled("update")?;
        if let Some(failed) = there.failed.take() {
            return Err(failed);
        }
        let pass = there.pass.take().ok_or(Error::Order { op: "update", expected: "forward" })?;
        if pass.n == 0 {
            return Ok(Report::default());
        }
        wait_for_burn(&there.device)?;
        there.quantizer.update(&there.stream, &pass.view()?, None)?;
        there.report()
    }

    fn lock(&self) -> MutexGuard<'_, There> {
        lock(&self.0)
    }
}

impl fmt::Debug for DeviceVectorQuantizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceVectorQuantizer").finish_non_exhaustive()
    }
}

impl There {
    /// A pass's output `[n * inputs]` and its two terms behind it, its codes, and the claim that its backward needs.
    fn forward(
        &mut self,
        rows: Tensor<Cuda, 2>,
    ) -> Result<(Tensor<Cuda, 1>, Tensor<Cuda, 1, Int>, Report, Arc<Ticket>)> {
        self.settled("forward")?;
        let [n, inputs] = rows.dims();
        let (packed, codes) = (self.floats(n * inputs + 2), self.codes(n));
        let pass = Rows { values: flat(rows), n, inputs };
        wait_for_burn(&self.device)?;
        let mut report = Report::default();
        if n > 0 {
            self.quantizer.forward(&self.stream, &pass.view()?, None)?;
            copy(&self.stream, &self.quantizer.last_output(), &mut floats_mut(&packed)?.range(0, n * inputs))?;
            copy(&self.stream, &self.quantizer.last_codes(), &mut ints_mut(&codes)?)?;
            report = self.report()?;
        }
        let terms = [report.loss.codebook as f32, report.loss.commitment as f32];
        self.stream.write(&mut floats_mut(&packed)?.range(n * inputs, 2), &terms)?;
        let ticket = Arc::new(Ticket);
        (self.pass, self.pending, self.failed) = (Some(pass), Arc::downgrade(&ticket), None);
        Ok((packed, codes, report, ticket))
    }

    /// From the gradient at what `forward` packed to that at the rows, `[n * inputs]`.
    fn backward(&mut self, packed: Tensor<Cuda, 1>) -> Result<Tensor<Cuda, 1>> {
        let pass = self.pass.as_ref().ok_or(Error::Order { op: "backward", expected: "forward" })?;
        let elements = pass.n * pass.inputs;
        let gradient = self.floats(elements);
        if pass.n > 0 {
            wait_for_burn(&self.device)?;
            let (packed, mut terms) = (floats(&packed)?, [0.0_f32; 2]);
            self.stream.read(&packed.range(elements, 2), &mut terms)?;
            let finite = terms.iter().all(|term| term.is_finite());
            // Derivatives by the terms that are not finite move no codes, and show at the rows, where the caller looks.
            let terms = if finite { terms.map(f64::from) } else { [0.0; 2] };
            let terms = Loss { codebook: terms[0], commitment: terms[1] };
            self.quantizer.backward(&self.stream, &pass.view()?, None, terms, |stream, output| {
                copy(stream, &packed.range(0, elements), &mut output.data())
            })?;
            copy(&self.stream, &self.quantizer.last_input_gradient(), &mut floats_mut(&gradient)?)?;
            self.stream.check()?;
            if !finite {
                return Ok(nan(elements, &self.device));
            }
        }
        Ok(gradient)
    }

    /// Nothing may be overwritten that a backward still needs.
    fn settled(&self, op: &'static str) -> Result<()> {
        match self.pending.strong_count() {
            0 => Ok(()),
            _ => Err(Error::Order { op, expected: "the last forward's backward, or its results dropped" }),
        }
    }

    /// The last step's report, once all work is done.
    fn report(&self) -> Result<Report> {
        let mut words = [0; REPORT_WORDS];
        self.stream.read(&self.quantizer.last_report(), &mut words)?;
        self.stream.check()?;
        Ok(decode_report(&words, self.quantizer.config().dim))
    }

    fn floats(&self, len: usize) -> Tensor<Cuda, 1> {
        Tensor::empty([len], (&self.device, DType::F32))
    }

    fn codes(&self, len: usize) -> Tensor<Cuda, 1, Int> {
        Tensor::empty([len], (&self.device, DType::I32))
    }
}

/// A gradient that nobody takes for one.
fn nan(len: usize, device: &CudaDevice) -> Tensor<Cuda, 1> {
    Tensor::from_data(TensorData::full([len], f32::NAN), (device, DType::F32))
}
