//! The quantizer on an NVIDIA GPU, on the memory of burn's own tensors: no row passes through the host.
//!
//! burn's CUDA backend is cubecl 0.10, whose client hands out a tensor's address (`get_resource`) but not its CUDA stream,
//! which is a private one that waits for nobody. So both sides work in turns: burn's queue is waited for before the kernels
//! are launched on a stream of their own, and that stream before burn goes on. Both use the device's primary context,
//! in which addresses are the same. A turn costs the host a wait, a few microseconds, and no copy but two of a training
//! step from device to device (the output, and the gradient that `head` returns).
//!
//! **Nothing of this has run on a device yet**; it compiles. The test below compares it with the host's path, bit for
//! bit: `cargo test --release -p trainers --features cuda --lib quantize::device` on a machine with a GPU.
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
//! let mut quantizer = DeviceVectorQuantizer::new(&device, &host, 256)?; // steps of up to 256 rows
//! let rows = Tensor::<Autodiff<Cuda>, 2>::random([256, 12], Distribution::Default, &device).require_grad();
//! let target = rows.clone().inner();
//!
//! let step = quantizer.train_step(rows.clone().inner(), |output| {
//!     // The rest of the model: from the output to the loss's gradient there.
//!     let output = Tensor::<Autodiff<Cuda>, 2>::from_inner(output).require_grad();
//!     let loss = (output.clone() - Tensor::from_inner(target)).powi_scalar(2).mean();
//!     output.grad(&loss.backward()).expect("the loss depends on it")
//! })?;
//! // Back through the encoder: a sum whose gradient at the rows is the one that the step found.
//! let gradients = (rows * Tensor::from_inner(step.input_gradient)).sum().backward();
//! # Ok::<(), vq_kernels::Error>(())
//! ```

use burn::backend::cuda::{Cuda, CudaDevice};
use burn::tensor::backend::Backend;
use burn::tensor::ops::FloatTensor;
use burn::tensor::{DType, FloatDType, Int, IntDType, Tensor};
use vq_kernels::cuda::cudarc::driver::{CudaSlice, DevicePtr, result};
use vq_kernels::cuda::quantizer::{DeviceQuantizer, REPORT_WORDS, decode_report};
use vq_kernels::cuda::{Device, DeviceMatMut, DeviceMatRef, DeviceMut, DeviceRef, Stream};
use vq_kernels::quantizer::{Quantizer, Report};
use vq_kernels::{Error, Result};

/// A [`DeviceQuantizer`] that works on burn's tensors, where they lie.
///
/// It belongs to one thread at a time. The optimizer is the caller's, on the views that
/// [`quantizer`](Self::quantizer) gives, in turn with [`stream`](Self::stream).
pub struct DeviceVectorQuantizer {
    // Its views do not borrow the memory, which is dropped after it.
    quantizer: DeviceQuantizer<'static>,
    stream: Stream,
    device: CudaDevice,
    _memory: CudaSlice<u8>,
}

/// What [`DeviceVectorQuantizer::train_step`] found.
#[derive(Clone, Debug)]
pub struct DeviceStep {
    /// The loss's gradient at the rows, `[rows, inputs]`.
    pub input_gradient: Tensor<Cuda, 2>,
    /// The loss terms, counts and mean length.
    pub report: Report,
}

impl DeviceVectorQuantizer {
    /// `quantizer`'s state on `device`, for training steps of up to `rows` rows.
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
        Ok(Self { quantizer: there, stream, device: device.clone(), _memory: memory })
    }

    /// The quantizer on the device: its state, gradients and last step.
    pub fn quantizer(&mut self) -> &mut DeviceQuantizer<'static> {
        &mut self.quantizer
    }

    /// The stream that it works on.
    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// The codes of `rows` `[rows, inputs]`, any number, as i32: −1 for a row that has none (it is not finite).
    ///
    /// # Errors
    /// [`Error::Shape`] where the rows are not `inputs` wide; [`Error::Cuda`] where the device fails.
    pub fn encode(&mut self, rows: Tensor<Cuda, 2>) -> Result<Tensor<Cuda, 1, Int>> {
        let [n, width] = rows.dims();
        let codes = Tensor::<Cuda, 1, Int>::empty([n], (&self.device, DType::I32));
        if n > 0 {
            let (x, to) = (flat(rows), address(&codes.clone().into_primitive(), DType::I32)?);
            let x = view(&x, n, width)?;
            // SAFETY: n integers of a tensor that nobody else has; a code's bits are the same as u32.
            let mut to = unsafe { DeviceMut::from_raw(to, n) };
            self.wait_for_burn()?;
            self.quantizer.encode(&self.stream, &x, None, &mut to)?;
            self.stream.check()?;
        }
        Ok(codes)
    }

    /// The output `[codes, inputs]` for `codes`, as [`encode`](Self::encode) gives them.
    ///
    /// # Errors
    /// [`Error::CodeOutOfRange`] for a code that does not exist; [`Error::Cuda`] where the device fails.
    pub fn decode(&mut self, codes: Tensor<Cuda, 1, Int>) -> Result<Tensor<Cuda, 2>> {
        let ([n], inputs) = (codes.dims(), self.quantizer.config().inputs);
        let output = self.empty(n * inputs);
        if n > 0 {
            let codes = codes.cast(IntDType::I32);
            // SAFETY: n integers of a tensor that lives until the work on it is done.
            let from = unsafe { DeviceRef::from_raw(address(&codes.clone().into_primitive(), DType::I32)?, n) };
            let mut to = view_mut(&output, n, inputs)?;
            self.wait_for_burn()?;
            self.quantizer.decode(&self.stream, &from, &mut to)?;
            self.stream.check()?;
        }
        Ok(output.reshape([n, inputs]))
    }

    /// One step of the quantizer on `rows` `[rows, inputs]`, up to as many as it was made for. `head` is the rest of the
    /// model: it is given the output `[rows, inputs]`, and returns the loss's gradient there.
    ///
    /// Then [`gradients`](DeviceQuantizer::gradients) are there for the optimizer, and after it
    /// [`refresh_codes`](DeviceQuantizer::refresh_codes) is called.
    ///
    /// # Errors
    /// [`Error::Shape`] where the rows or the gradient have another shape, [`Error::TooLarge`] for too many rows,
    /// [`Error::Overflow`] where more than 2²² rows fell to one code; [`Error::Cuda`] where the device fails.
    pub fn train_step(
        &mut self,
        rows: Tensor<Cuda, 2>,
        head: impl FnOnce(Tensor<Cuda, 2>) -> Tensor<Cuda, 2>,
    ) -> Result<DeviceStep> {
        let [n, width] = rows.dims();
        let (output, input_gradient) = (self.empty(n * width), self.empty(n * width));
        if n == 0 {
            return Ok(DeviceStep { input_gradient: input_gradient.reshape([n, width]), report: Report::default() });
        }
        let x = flat(rows);
        let x = view(&x, n, width)?;
        self.wait_for_burn()?;
        let device = &self.device;
        self.quantizer.train_step(&self.stream, &x, None, |stream, made, gradient| {
            copy(stream, made.data().address(), view_mut(&output, n, width)?)?;
            stream.check()?;
            let found = head(output.reshape([n, width]));
            if found.dims() != [n, width] {
                let got = found.shape().num_elements();
                return Err(Error::Shape { op: "train_step", arg: "gradient", expected: n * width, got });
            }
            let found = flat(found);
            let from = view(&found, n, width)?;
            wait_for_burn(device)?;
            copy(stream, from.data().address(), gradient.rows_from(0, n))?;
            // The gradient's tensor ends here.
            stream.check()
        })?;
        let mut words = [0; REPORT_WORDS];
        copy(&self.stream, self.quantizer.last_input_gradient().address(), view_mut(&input_gradient, n, width)?)?;
        self.stream.read(&self.quantizer.last_report(), &mut words)?;
        self.stream.check()?;
        let report = decode_report(&words, self.quantizer.config().dim);
        Ok(DeviceStep { input_gradient: input_gradient.reshape([n, width]), report })
    }

    fn empty(&self, len: usize) -> Tensor<Cuda, 1> {
        Tensor::empty([len], (&self.device, DType::F32))
    }

    fn wait_for_burn(&self) -> Result<()> {
        wait_for_burn(&self.device)
    }
}

/// Until all that this thread has asked of burn is done; its queue waits for those of the tensors that it has used.
fn wait_for_burn(device: &CudaDevice) -> Result<()> {
    let failed = Error::Config { field: "device", expected: "one on which burn's own work succeeds" };
    <Cuda>::sync(device).map_err(|_| failed)
}

/// The rows one after the other, without the gaps that burn may leave between them, in f32.
fn flat(rows: Tensor<Cuda, 2>) -> Tensor<Cuda, 1> {
    let elements = rows.shape().num_elements();
    rows.cast(FloatDType::F32).reshape([elements])
}

/// Where a tensor's elements begin on the device, for as long as the tensor lives.
fn address(tensor: &FloatTensor<Cuda>, dtype: DType) -> Result<u64> {
    let strange = Error::Config { field: "tensor", expected: "elements of 4 bytes without gaps in burn's own memory" };
    if tensor.dtype != dtype || !tensor.is_contiguous() {
        return Err(strange);
    }
    let resource = tensor.client.get_resource(tensor.handle.clone()).map_err(|_| strange)?;
    Ok(resource.resource().ptr)
}

fn view(tensor: &Tensor<Cuda, 1>, rows: usize, cols: usize) -> Result<DeviceMatRef<'_>> {
    let from = address(&tensor.clone().into_primitive().tensor(), DType::F32)?;
    // SAFETY: the tensor's elements, which nobody writes; every call here waits for its work before the tensor ends.
    DeviceMatRef::new(unsafe { DeviceRef::from_raw(from, tensor.shape().num_elements()) }, rows, cols)
}

/// Of a tensor that was made here, and that nobody else has.
fn view_mut(tensor: &Tensor<Cuda, 1>, rows: usize, cols: usize) -> Result<DeviceMatMut<'_>> {
    let to = address(&tensor.clone().into_primitive().tensor(), DType::F32)?;
    // SAFETY: as above, and its only user is the caller.
    DeviceMatMut::new(unsafe { DeviceMut::from_raw(to, tensor.shape().num_elements()) }, rows, cols)
}

/// Copies as many elements as `to` has, from device to device.
fn copy(stream: &Stream, from: u64, mut to: DeviceMatMut) -> Result<()> {
    let bytes = to.rows() * to.cols() * size_of::<f32>();
    stream.device().context().bind_to_thread()?;
    // SAFETY: both are as long by the callers' shapes, and of this context.
    Ok(unsafe { result::memcpy_dtod_async(to.data().address(), from, bytes, stream.raw().cu_stream()) }?)
}

#[cfg(test)]
mod tests {
    use burn::tensor::TensorData;
    use vq_kernels::quantizer::{Config, Initial};
    use vq_kernels::{Cpu, MatMut, MatRef, NO_CODE};

    use super::*;

    /// Whole steps, codes and decoded rows, on burn's device memory and on the host: the same bits.
    #[test]
    fn the_hosts_bits() {
        if let Err(error) = Device::probe(0) {
            eprintln!("skipped, for want of a device: {error}");
            return;
        }
        let (n, cpu, device) = (100, Cpu::new(), CudaDevice::new(0));
        let config = Config { inputs: 20, dim: 6, codes: 300, ..Config::default() };
        let mut host = Quantizer::new(config, Initial::Normal).expect("a quantizer");
        let mut there = DeviceVectorQuantizer::new(&device, &host, n).expect("a device");
        let values = |seed: u32| -> Vec<f32> {
            (0..n * 20)
                .map(|i| ((i as u32).wrapping_mul(2_654_435_761).wrapping_add(seed * 977) >> 9) as f32 / 4e6 - 1.0)
                .collect()
        };
        let tensor = |values: &[f32]| {
            Tensor::<Cuda, 2>::from_data(TensorData::new(values.to_vec(), [n, 20]), (&device, DType::F32))
        };
        let same = |found: Tensor<Cuda, 2>, expected: &[f32]| {
            let found = found.into_data().to_vec::<f32>().expect("f32");
            assert!(found.iter().map(|x| x.to_bits()).eq(expected.iter().map(|x| x.to_bits())));
        };
        for step in 0..4 {
            let (x, gradient) = (values(step), values(100 + step));
            let rows = MatRef::new(&x, n, 20).expect("shapes");
            host.train_step(&cpu, rows, None, |_, to| to.copy_from_slice(&gradient)).expect("a step");
            let found = there.train_step(tensor(&x), |output| {
                same(output, host.last_output());
                tensor(&gradient)
            });
            same(found.expect("a step").input_gradient, host.last_input_gradient());
            host.apply(&cpu, |_| ()).expect("nothing that can fail");
        }
        let mut x = values(77);
        x[43] = f32::NAN;
        let mut codes = vec![0; n];
        host.encode(&cpu, MatRef::new(&x, n, 20).expect("shapes"), None, &mut codes).expect("shapes");
        assert_eq!(codes[2], NO_CODE);
        let found = there.encode(tensor(&x)).expect("codes");
        let numbers = found.clone().into_data().to_vec::<i32>().expect("i32");
        assert!(numbers.iter().map(|&k| k as u32).eq(codes.iter().copied()));
        let mut output = vec![0.0; n * 20];
        host.decode(&cpu, &codes, MatMut::new(&mut output, n, 20).expect("shapes")).expect("codes");
        same(there.decode(found).expect("rows"), &output);
    }
}
