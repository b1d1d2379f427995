//! NVIDIA GPUs: finding a device, or saying why there is none.
//!
//! The crate builds without any CUDA file and runs without a driver: a missing one is an
//! [`Error`]. (cudarc still panics on a driver library that lacks symbols it needs.) The kernels' CUDA
//! twins are not part of this version.

use std::sync::{Arc, OnceLock};

use cudarc::driver::{CudaContext, DriverError, sys::CUresult};

use crate::error::{Error, Result};

/// Why a GPU cannot be used.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CudaError {
    /// No NVIDIA driver library is installed.
    DriverMissing,
    /// The driver is there, and has no device of that number.
    NoDevice {
        /// The number asked for.
        ordinal: usize,
    },
    /// The driver refused; the code is a `CUresult`.
    Driver(u32),
}

impl core::fmt::Display for CudaError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::DriverMissing => {
                write!(f, "no NVIDIA driver library (libcuda) is installed; use the CPU ops, or install the driver")
            }
            Self::NoDevice { ordinal } => write!(f, "there is no device number {ordinal}"),
            Self::Driver(code) => write!(f, "the driver refused with CUresult {code}"),
        }
    }
}

impl From<CudaError> for Error {
    fn from(error: CudaError) -> Self {
        Self::Cuda(error)
    }
}

/// A GPU.
#[derive(Clone, Debug)]
pub struct Device {
    context: Arc<CudaContext>,
}

impl Device {
    /// The device of that number.
    ///
    /// # Errors
    /// [`Error::Cuda`] with [`CudaError::DriverMissing`] where no driver is installed,
    /// [`CudaError::NoDevice`] where the driver has no such device, [`CudaError::Driver`] for all else.
    ///
    /// ```
    /// use vq_kernels::cuda::Device;
    /// match Device::probe(0) {
    ///     Ok(device) => println!("compute capability {:?}", device.compute_capability()?),
    ///     Err(error) => println!("{error}"),
    /// }
    /// # Ok::<(), vq_kernels::Error>(())
    /// ```
    pub fn probe(ordinal: usize) -> Result<Self> {
        if !driver_present() {
            return Err(CudaError::DriverMissing.into());
        }
        match CudaContext::new(ordinal) {
            Ok(context) => Ok(Self { context }),
            Err(DriverError(CUresult::CUDA_ERROR_INVALID_DEVICE | CUresult::CUDA_ERROR_NO_DEVICE)) => {
                Err(CudaError::NoDevice { ordinal }.into())
            }
            Err(DriverError(code)) => Err(CudaError::Driver(code as u32).into()),
        }
    }

    /// Major and minor compute capability.
    ///
    /// # Errors
    /// [`CudaError::Driver`] where the driver refuses.
    pub fn compute_capability(&self) -> Result<(i32, i32)> {
        self.context.compute_capability().map_err(|DriverError(code)| CudaError::Driver(code as u32).into())
    }

    /// cudarc's context of the device.
    pub fn context(&self) -> &Arc<CudaContext> {
        &self.context
    }
}

/// Whether the driver library loads. cudarc panics without it, so it is asked for first.
fn driver_present() -> bool {
    static PRESENT: OnceLock<bool> = OnceLock::new();
    let names: &[&str] = if cfg!(windows) { &["nvcuda.dll"] } else { &["libcuda.so.1", "libcuda.so"] };
    *PRESENT.get_or_init(|| {
        // SAFETY: loading the driver library runs its initializers, as any CUDA program does.
        names.iter().any(|name| unsafe { libloading::Library::new(*name) }.is_ok())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_driver_or_device_is_an_error() {
        match Device::probe(usize::from(u8::MAX)) {
            Ok(_) => panic!("nobody has 256 devices"),
            Err(Error::Cuda(CudaError::DriverMissing)) => assert!(!driver_present()),
            Err(Error::Cuda(CudaError::NoDevice { ordinal })) => assert_eq!(ordinal, 255),
            Err(other) => panic!("{other}"),
        }
    }
}
