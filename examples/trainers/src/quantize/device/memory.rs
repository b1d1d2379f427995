//! burn's device memory as the kernels see it, and whose turn it is.

use burn::backend::cuda::CudaDevice;
use burn::tensor::backend::Backend;
use burn::tensor::ops::FloatTensor;
use burn::tensor::{DType, FloatDType, Int, Tensor};
use vq_kernels::cuda::cudarc::driver::result;
use vq_kernels::cuda::{CudaError, DeviceMatRef, DeviceMut, DeviceRef, Stream};
use vq_kernels::{Error, Result};

/// Until all that this thread has asked of burn is done; its queue waits for those of the tensors that it has used.
pub fn wait_for_burn(device: &CudaDevice) -> Result<()> {
    Cuda::sync(device).map_err(|cause| CudaError::Other(format!("burn: {cause}")).into())
}

/// burn's CUDA backend.
pub type Cuda = burn::backend::Cuda;

/// Rows `[n, inputs]` one after the other, without the gaps that burn may leave between them.
pub struct Rows {
    values: Tensor<Cuda, 1>,
    pub n: usize,
    pub inputs: usize,
}

impl Rows {
    pub fn of(rows: Tensor<Cuda, 2>) -> Self {
        let [n, inputs] = rows.dims();
        Self { values: rows.cast(FloatDType::F32).reshape([n * inputs]), n, inputs }
    }

    pub fn view(&self) -> Result<DeviceMatRef<'_>> {
        DeviceMatRef::new(floats(&self.values)?, self.n, self.inputs)
    }
}

/// Room for f32 values.
pub fn room(len: usize, device: &CudaDevice) -> Tensor<Cuda, 1> {
    Tensor::empty([len], (device, DType::F32))
}

/// Room for codes.
pub fn room_for_codes(len: usize, device: &CudaDevice) -> Tensor<Cuda, 1, Int> {
    Tensor::empty([len], (device, DType::I32))
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

/// The elements of a tensor of f32.
pub fn floats(tensor: &Tensor<Cuda, 1>) -> Result<DeviceRef<'_, f32>> {
    let from = address(&tensor.clone().into_primitive().tensor(), DType::F32)?;
    // SAFETY: the tensor's elements, which nobody writes; every call here waits for its work before the tensor ends.
    Ok(unsafe { DeviceRef::from_raw(from, tensor.shape().num_elements()) })
}

/// The elements of a tensor of f32 that was made here, and that nobody else has.
pub fn floats_mut(tensor: &Tensor<Cuda, 1>) -> Result<DeviceMut<'_, f32>> {
    let to = address(&tensor.clone().into_primitive().tensor(), DType::F32)?;
    // SAFETY: as above, and its only user is the caller.
    Ok(unsafe { DeviceMut::from_raw(to, tensor.shape().num_elements()) })
}

/// The codes in a tensor of i32.
pub fn ints(tensor: &Tensor<Cuda, 1, Int>) -> Result<DeviceRef<'_, u32>> {
    let from = address(&tensor.clone().into_primitive(), DType::I32)?;
    // SAFETY: as those of `floats`; a code's bits are the same as u32.
    Ok(unsafe { DeviceRef::from_raw(from, tensor.shape().num_elements()) })
}

/// Room for codes in a tensor of i32 that was made here, and that nobody else has.
pub fn ints_mut(tensor: &Tensor<Cuda, 1, Int>) -> Result<DeviceMut<'_, u32>> {
    let to = address(&tensor.clone().into_primitive(), DType::I32)?;
    // SAFETY: as those of `floats_mut`.
    Ok(unsafe { DeviceMut::from_raw(to, tensor.shape().num_elements()) })
}

/// Copies `from` to `to`, of the same length, from device to device.
pub fn copy<T>(stream: &Stream, from: &DeviceRef<'_, T>, to: &mut DeviceMut<'_, T>) -> Result<()> {
    if from.len() != to.len() {
        return Err(Error::Shape { op: "copy", arg: "length", expected: to.len(), got: from.len() });
    }
    stream.device().context().bind_to_thread()?;
    let bytes = to.len() * size_of::<T>();
    // SAFETY: both are as long, and of this context.
    Ok(unsafe { result::memcpy_dtod_async(to.address(), from.address(), bytes, stream.raw().cu_stream()) }?)
}
