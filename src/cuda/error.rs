//! Why a GPU cannot be used, or has refused.

use std::string::String;

use cudarc::driver::DriverError;

use crate::error::Error;

/// Why a GPU cannot be used, or has refused.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CudaError {
    /// No NVIDIA driver library is installed.
    DriverMissing,
    /// The driver is there, and has no device of that number.
    NoDevice {
        /// The number asked for.
        ordinal: usize,
    },
    /// The device is older than the kernels' instructions.
    TooOldDevice {
        /// Its compute capability, major and minor.
        capability: (i32, i32),
        /// The least that is needed.
        needed: (i32, i32),
    },
    /// The driver is older than the kernels' text.
    TooOldDriver {
        /// The CUDA version that the driver speaks, as in 12.4.
        version: (i32, i32),
        /// The least that is needed.
        needed: (i32, i32),
    },
    /// The driver did not take a kernel image.
    Image {
        /// Name of the image.
        name: &'static str,
        /// What the driver's compiler said.
        log: String,
    },
    /// The device has no room for an allocation.
    OutOfMemory,
    /// A buffer belongs to another context, and so maybe to another device, than the stream.
    OtherContext,
    /// A view was made for another stream than the one that was to use it.
    OtherStream,
    /// An address is not aligned as the kernels read it.
    Misaligned {
        /// What the address must be a multiple of, in bytes.
        alignment: usize,
    },
    /// The driver refused; the code is a `CUresult`.
    Driver(u32),
    /// Work of another library on the same device failed, which whoever ties the two together waited for: what that library said.
    /// Nothing in this crate returns it.
    Other(String),
}

impl core::fmt::Display for CudaError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::DriverMissing => {
                write!(f, "no NVIDIA driver library (libcuda) is installed; use the CPU ops, or install the driver")
            }
            Self::NoDevice { ordinal } => write!(f, "there is no device number {ordinal}"),
            Self::TooOldDevice { capability: (major, minor), needed } => write!(
                f,
                "the device has compute capability {major}.{minor}, the kernels need {}.{}; use the CPU ops",
                needed.0, needed.1
            ),
            Self::TooOldDriver { version: (major, minor), needed } => write!(
                f,
                "the driver speaks CUDA {major}.{minor}, the kernels need {}.{}; update the driver",
                needed.0, needed.1
            ),
            Self::Image { name, log } => write!(f, "the driver does not take the kernels of {name}: {log}"),
            Self::OutOfMemory => write!(f, "the device is out of memory"),
            Self::OtherContext => write!(f, "a buffer belongs to another context than the stream"),
            Self::OtherStream => write!(f, "a view was made for another stream: make one for each stream"),
            Self::Misaligned { alignment } => write!(f, "an address is not a multiple of {alignment} bytes"),
            Self::Driver(code) => write!(f, "the driver refused with CUresult {code}"),
            Self::Other(said) => write!(f, "another library's work on the device failed: {said}"),
        }
    }
}

impl CudaError {
    /// Why the driver refused the image of that name, with what its compiler wrote to `log`, which ends at a zero.
    pub(crate) fn of_image(name: &'static str, error: DriverError, log: &[u8]) -> Self {
        let log = log.split(|&byte| byte == 0).next().unwrap_or(log);
        match Self::from(error) {
            Self::OutOfMemory => Self::OutOfMemory,
            error if log.is_empty() => Self::Image { name, log: std::format!("{error}") },
            _ => Self::Image { name, log: String::from_utf8_lossy(log).into_owned() },
        }
    }
}

impl From<CudaError> for Error {
    fn from(error: CudaError) -> Self {
        Self::Cuda(error)
    }
}

/// cudarc's error, which cannot be formatted where there is no driver.
impl From<DriverError> for CudaError {
    fn from(DriverError(code): DriverError) -> Self {
        match code {
            cudarc::driver::sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => Self::OutOfMemory,
            code => Self::Driver(code as u32),
        }
    }
}

impl From<DriverError> for Error {
    fn from(error: DriverError) -> Self {
        CudaError::from(error).into()
    }
}

#[cfg(test)]
mod tests {
    use cudarc::driver::sys::CUresult;

    use super::*;

    #[test]
    fn an_out_of_memory_device_is_told_apart() {
        let full = DriverError(CUresult::CUDA_ERROR_OUT_OF_MEMORY);
        assert_eq!(Error::from(full), Error::Cuda(CudaError::OutOfMemory));
        assert_eq!(CudaError::of_image("search", full, b"no room\0"), CudaError::OutOfMemory);
        let other = DriverError(CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
        assert_eq!(Error::from(other), Error::Cuda(CudaError::Driver(700)));
    }

    #[test]
    fn an_image_that_does_not_load_tells_what_the_compiler_said() {
        let error = DriverError(CUresult::CUDA_ERROR_INVALID_PTX);
        let told = CudaError::of_image("search", error, b"ptxas fatal: line 7\0\0garbage").to_string();
        assert_eq!(told, "the driver does not take the kernels of search: ptxas fatal: line 7");
        // Nothing said, or all of the room used: no zero at the end.
        assert!(CudaError::of_image("pack", error, &[0; 4]).to_string().ends_with("refused with CUresult 218"));
        assert!(CudaError::of_image("pack", error, b"cut of").to_string().ends_with("pack: cut of"));
    }
}
