//! The quantizer on an NVIDIA GPU, on the memory of burn's own tensors: no row passes through the host.
//!
//! burn's CUDA backend is cubecl 0.10, whose client hands out a tensor's address (`get_resource`) but not its CUDA stream,
//! which is a thread's own and waits for nobody. So both sides work in turns: addresses are asked for, which joins what
//! other threads do to those tensors; burn's queue is waited for; the kernels run on a stream of their own, which is waited for
//! before burn goes on. Both use the device's primary context, in which addresses are the same. A training step copies
//! output, codes and two gradients from device to device, and a report and four numbers to and from the host.
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
use std::sync::{Arc, Mutex, MutexGuard};

use burn::backend::cuda::{Cuda, CudaDevice};
use burn::tensor::{DType, Int, IntDType, Tensor};
use vq_kernels::cuda::cudarc::driver::{CudaSlice, CudaStream, DevicePtr};
use vq_kernels::cuda::quantizer::{DeviceQuantizer, REPORT_WORDS, decode_report};
use vq_kernels::cuda::{Device, DeviceMatMut, DeviceMatRef, DeviceMut, Stream};
use vq_kernels::quantizer::{Loss, Quantizer, Report};
use vq_kernels::{Error, Result};

use super::host::lock;
use memory::{copy, flat, floats, floats_mut, ints, ints_mut, wait_for_burn};

pub use autodiff::DeviceQuantized;

/// A [`DeviceQuantizer`] that works on burn's tensors, where they lie. Clones are handles to the same one.
///
/// A pass is one [`forward`](Self::forward), its backward, and [`update`](Self::update). Whatever comes between, another
/// forward or an encode, ends it: a backward that comes after all gives NaN, and the next call returns why. The optimizer
/// is the caller's, on the views that [`with`](Self::with) shows, of f64 gradients where there are projections: it suits codes
/// that are averaged, or frozen, without more.
#[derive(Clone)]
pub struct DeviceVectorQuantizer(Arc<Mutex<Shared>>);

/// What handles share.
struct Shared {
    // Its views do not borrow the memory, which is dropped after it.
    quantizer: DeviceQuantizer<'static>,
    stream: Stream,
    device: CudaDevice,
    /// The last pass, until its update.
    pass: Option<Passed>,
    /// Passes so far.
    passes: u64,
    /// What went wrong in a backward, which cannot return it.
    failed: Option<Error>,
    _memory: CudaSlice<u8>,
}

/// Rows `[n, inputs]` one after the other.
struct Rows {
    values: Tensor<Cuda, 1>,
    n: usize,
    inputs: usize,
}

impl Rows {
    fn of(rows: Tensor<Cuda, 2>) -> Self {
        let [n, inputs] = rows.dims();
        Self { values: flat(rows), n, inputs }
    }

    fn view(&self) -> Result<DeviceMatRef<'_>> {
        DeviceMatRef::new(floats(&self.values)?, self.n, self.inputs)
    }
}

/// What backward and update read again.
struct Passed {
    number: u64,
    rows: Rows,
    codes: Tensor<Cuda, 1, Int>,
}

/// A pass's results.
struct Pass {
    number: u64,
    /// The output `[n * inputs]`, then the two terms.
    packed: Tensor<Cuda, 1>,
    codes: Tensor<Cuda, 1, Int>,
    report: Report,
}

/// Waits for a stream's work where it ends, on whatever path: tensors that are dropped after it may be burn's again.
struct Fence(Arc<CudaStream>);

impl Drop for Fence {
    fn drop(&mut self) {
        // An error here has been returned before, or the next call meets it.
        let _ = self.0.synchronize();
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
        let (device, pass, passes, failed) = (device.clone(), None, 0, None);
        let shared = Shared { quantizer: there, stream, device, pass, passes, failed, _memory: memory };
        Ok(Self(Arc::new(Mutex::new(shared))))
    }

    /// Shows the quantizer, its state and gradients, and the stream that it works on, which is waited for afterwards.
    /// `change` must not call this handle or its clones, nor a backward.
    ///
    /// # Errors
    /// What `change` returns; [`Error::Cuda`] where the device fails.
    pub fn with<R>(&self, change: impl for<'q> FnOnce(&mut DeviceQuantizer<'q>, &Stream) -> Result<R>) -> Result<R> {
        let shared = &mut *self.lock();
        let _fence = shared.fence();
        let changed = change(&mut shared.quantizer, &shared.stream)?;
        shared.stream.check()?;
        Ok(changed)
    }

    /// The codes of `rows` `[rows, inputs]`, any number, as i32: −1 for a row that has none (it is not finite).
    ///
    /// # Errors
    /// [`Error::Shape`] where the rows are not `inputs` wide; what failed in a backward; [`Error::Cuda`] where the device fails.
    pub fn encode(&self, rows: Tensor<Cuda, 2>) -> Result<Tensor<Cuda, 1, Int>> {
        let shared = &mut *self.lock();
        shared.end_pass()?;
        let rows = Rows::of(rows);
        let codes = shared.codes(rows.n);
        if rows.n > 0 {
            let _fence = shared.fence();
            let (x, mut to) = (rows.view()?, ints_mut(&codes)?);
            wait_for_burn(&shared.device)?;
            shared.quantizer.encode(&shared.stream, &x, None, &mut to)?;
            shared.stream.check()?;
        }
        Ok(codes)
    }

    /// The output `[codes, inputs]` for `codes`, as [`encode`](Self::encode) gives them.
    ///
    /// # Errors
    /// [`Error::CodeOutOfRange`] for a code that does not exist; what failed in a backward; [`Error::Cuda`] where the
    /// device fails.
    pub fn decode(&self, codes: Tensor<Cuda, 1, Int>) -> Result<Tensor<Cuda, 2>> {
        let shared = &mut *self.lock();
        shared.end_pass()?;
        let ([n], inputs) = (codes.dims(), shared.quantizer.config().inputs);
        let (codes, output) = (codes.cast(IntDType::I32), shared.floats(n * inputs));
        if n > 0 {
            let _fence = shared.fence();
            let (from, mut to) = (ints(&codes)?, DeviceMatMut::new(floats_mut(&output)?, n, inputs)?);
            wait_for_burn(&shared.device)?;
            shared.quantizer.decode(&shared.stream, &from, &mut to)?;
            shared.stream.check()?;
        }
        Ok(output.reshape([n, inputs]))
    }

    /// After the backward of the last [`forward`](Self::forward): takes it into the statistics, moves averaged codes,
    /// replaces stale ones. Where no backward came, the terms weigh as the configuration says. Gradients for an optimizer
    /// are then in [`gradients`](DeviceQuantizer::gradients) and
    /// [`last_code_gradients`](DeviceQuantizer::last_code_gradients), and after it
    /// [`refresh_codes`](DeviceQuantizer::refresh_codes) is called; all three through [`with`](Self::with).
    ///
    /// # Errors
    /// [`Error::Order`] where no pass came since the last update, or something came between; what failed in the backward,
    /// whose pass is then over; [`Error::Overflow`] where more than 2²² rows fell to one code; [`Error::Cuda`] where the
    /// device fails.
    pub fn update(&self) -> Result<Report> {
        let shared = &mut *self.lock();
        let pass = shared.pass.take();
        shared.end_pass()?;
        let rows = pass.ok_or(Error::Order { op: "update", expected: "forward" })?.rows;
        if rows.n == 0 {
            return Ok(Report::default());
        }
        let _fence = shared.fence();
        let x = rows.view()?;
        wait_for_burn(&shared.device)?;
        shared.quantizer.update(&shared.stream, &x, None)?;
        shared.report()
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        lock(&self.0)
    }
}

impl fmt::Debug for DeviceVectorQuantizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceVectorQuantizer").finish_non_exhaustive()
    }
}

impl Shared {
    fn forward(&mut self, rows: Tensor<Cuda, 2>) -> Result<Pass> {
        self.end_pass()?;
        let rows = Rows::of(rows);
        let elements = rows.n * rows.inputs;
        let (packed, codes) = (self.floats(elements + 2), self.codes(rows.n));
        let _fence = self.fence();
        let mut report = Report::default();
        let mut to = floats_mut(&packed)?;
        if rows.n > 0 {
            let (x, mut codes) = (rows.view()?, ints_mut(&codes)?);
            wait_for_burn(&self.device)?;
            self.quantizer.forward(&self.stream, &x, None)?;
            copy(&self.stream, &self.quantizer.last_output(), &mut to.range(0, elements))?;
            copy(&self.stream, &self.quantizer.last_codes(), &mut codes)?;
            report = self.report()?;
        } else {
            wait_for_burn(&self.device)?;
        }
        let terms = [report.loss.codebook as f32, report.loss.commitment as f32];
        self.stream.write(&mut to.range(elements, 2), &terms)?;
        drop(to);
        self.passes += 1;
        let number = self.passes;
        self.pass = Some(Passed { number, rows, codes: codes.clone() });
        Ok(Pass { number, packed, codes, report })
    }

    /// From the gradient at what [`forward`](Self::forward) packed to that at the rows, `[n, inputs]`.
    fn backward(&mut self, number: u64, packed: Tensor<Cuda, 1>) -> Result<Tensor<Cuda, 2>> {
        let of_it = self.pass.as_ref().filter(|pass| pass.number == number);
        let Passed { rows, codes, .. } =
            of_it.ok_or(Error::Order { op: "backward", expected: "its forward, and no other call since," })?;
        let (n, inputs) = (rows.n, rows.inputs);
        let (elements, gradient) = (n * inputs, self.floats(n * inputs));
        if n == 0 {
            return Ok(gradient.reshape([n, inputs]));
        }
        let mut terms = [0.0_f32; 2];
        {
            let _fence = self.fence();
            let (x, from, mut to) = (rows.view()?, floats(&packed)?, floats_mut(&gradient)?);
            wait_for_burn(&self.device)?;
            self.stream.read(&from.range(elements, 2), &mut terms)?;
            // Derivatives by the terms that are not finite move no codes, and show at the rows, where the caller looks.
            let weighed = if finite(terms) { terms.map(f64::from) } else { [0.0; 2] };
            let weighed = Loss { codebook: weighed[0], commitment: weighed[1] };
            self.quantizer.backward(&self.stream, &x, None, weighed, |stream, output| {
                copy(stream, &from.range(0, elements), &mut output.data())
            })?;
            copy(&self.stream, &self.quantizer.last_input_gradient(), &mut to)?;
            self.stream.check()?;
        }
        // The kernels drop what is not finite; here it must reach whoever looks for an overflow, at rows that have a code.
        let at_output = packed.slice(0..elements).reshape([n, inputs]);
        let coded = codes.clone().not_equal_elem(-1).reshape([n, 1]);
        let wild = match finite(terms) {
            true => (at_output * 0.0).sum_dim(1).is_nan().bool_and(coded),
            false => coded,
        };
        Ok(gradient.reshape([n, inputs]).mask_fill(wild.expand([n, inputs]), f32::NAN))
    }

    /// The last pass is over, whatever it has come to; what failed in a backward is told.
    fn end_pass(&mut self) -> Result<()> {
        self.pass = None;
        self.failed.take().map_or(Ok(()), Err)
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

    fn floats(&self, len: usize) -> Tensor<Cuda, 1> {
        Tensor::empty([len], (&self.device, DType::F32))
    }

    fn codes(&self, len: usize) -> Tensor<Cuda, 1, Int> {
        Tensor::empty([len], (&self.device, DType::I32))
    }
}

fn finite(terms: [f32; 2]) -> bool {
    terms.iter().all(|term| term.is_finite())
}
