//! Where the networks run.

use core::str::FromStr;

use burn::backend::{Autodiff, Flex};

use crate::common::failure::Failure;

/// The host's processor, without gradients.
pub type Host = Flex;

/// The host's processor, with gradients.
pub type HostTrain = Autodiff<Flex>;

/// An NVIDIA GPU, with gradients.
#[cfg(feature = "cuda")]
pub type CudaTrain = Autodiff<burn::backend::Cuda>;

/// A device by name: `cpu`, or `cuda` with a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// The host's processor.
    Cpu,
    /// An NVIDIA GPU, by its number.
    Cuda(usize),
}

impl FromStr for Device {
    type Err = Failure;

    fn from_str(text: &str) -> Result<Self, Failure> {
        let number = |text: &str| text.parse().ok();
        let device = match text.split_once(':') {
            None if text == "cpu" => Some(Self::Cpu),
            None if text == "cuda" => Some(Self::Cuda(0)),
            Some(("cuda", text)) => number(text).map(Self::Cuda),
            _ => None,
        };
        device.ok_or_else(|| Failure::new(format!("`{text}` is no device: expected cpu, cuda, or cuda:1")))
    }
}

impl Device {
    /// Makes sure that the device is there before a network is put on it.
    ///
    /// # Errors
    /// A GPU in a build without the feature `cuda`; no driver, no such device, too old a chip or driver.
    pub fn probe(self) -> Result<(), Failure> {
        match self {
            Self::Cpu => Ok(()),
            #[cfg(feature = "cuda")]
            Self::Cuda(ordinal) => Ok(vq_kernels::cuda::Device::probe(ordinal).map(|_| ())?),
            #[cfg(not(feature = "cuda"))]
            Self::Cuda(_) => Err(Failure::new(
                "this program was built for the processor alone: build it with --features cuda, or take --device cpu",
            )),
        }
    }
}

/// Calls a function that is generic over a training backend with the device's: `on_device!(device, run(options))`
/// becomes `run::<HostTrain>(options, &Default::default())` or its like.
#[macro_export]
macro_rules! on_device {
    ($device:expr, $function:ident, $($argument:expr),*) => {{
        let device: $crate::backend::Device = $device;
        device.probe()?;
        match device {
            $crate::backend::Device::Cpu => $function::<$crate::backend::HostTrain>($($argument,)* Default::default()),
            #[cfg(feature = "cuda")]
            $crate::backend::Device::Cuda(ordinal) => $function::<$crate::backend::CudaTrain>(
                $($argument,)* burn::backend::cuda::CudaDevice::new(ordinal),
            ),
            #[cfg(not(feature = "cuda"))]
            $crate::backend::Device::Cuda(_) => unreachable!("refused by `probe`"),
        }
    }};
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_told_by_name() {
        for (text, device) in [("cpu", Device::Cpu), ("cuda", Device::Cuda(0)), ("cuda:3", Device::Cuda(3))] {
            assert_eq!(text.parse::<Device>(), Ok(device));
        }
        for text in ["", "gpu", "cuda:", "cuda:-1", "cpu:0"] {
            let refused = text.parse::<Device>().expect_err("no device").to_string();
            assert!(refused.contains("expected cpu, cuda, or cuda:1"), "{refused}");
        }
    }
}
