//! The ops on NVIDIA GPUs: hand-tuned kernels that give the CPU's bits.
//!
//! [`Device::probe`] finds a device or says why there is none. Every op of [`crate::ops`] has its twin in
//! [`ops`]: the same name, the same order of arguments, the same contract; the first argument is the
//! [`Stream`] (or any [`Queue`]) in place of the [`Cpu`](crate::Cpu). Buffers are [`DeviceRef`], [`DeviceMut`] and the
//! matrices over them: views of cudarc's memory, or of any owner's by address.
//!
//! Kernels are PTX text in this crate, compiled by the driver when they are first used: neither building nor
//! running needs a CUDA toolkit, and a missing driver is an [`Error`](crate::Error). Everything is asynchronous on the caller's
//! stream; outputs and workspaces are the caller's, and nothing is allocated. So all of it can be captured in a graph:
//! after [`Device::load`], with views that were made before the capture began and live until it has ended (cudarc orders
//! streams by events when views come and go); memory, stream and device must outlive the graph.
//!
//! ```rust,no_run
//! fn nearest(x: &[f32], codes: &[f32], dim: usize) -> Result<Vec<u32>, Box<dyn std::error::Error>> {
//!     use vq_kernels::cuda::{Device, DeviceMatRef, DeviceMut, DeviceRef, PackedDeviceCodebook, ops};
//!     use vq_kernels::{Metric, ops::Search};
//!
//!     let stream = Device::probe(0)?.stream()?; // no driver, no device, too old: each its own error
//!     let (rows, count) = (x.len() / dim, codes.len() / dim);
//!     let cuda = stream.raw().clone(); // cudarc's stream: the memory is yours
//!     let (x, codes) = (cuda.clone_htod(x)?, cuda.clone_htod(codes)?);
//!     let mut storage = cuda.alloc_zeros::<u32>(PackedDeviceCodebook::storage_len(count, dim, Metric::Cosine)?)?;
//!     let mut found = cuda.alloc_zeros::<u32>(rows)?;
//!     {
//!         let codes = DeviceMatRef::new(DeviceRef::new(&codes, &stream)?, count, dim)?;
//!         let packed = PackedDeviceCodebook::pack(&stream, codes, Metric::Cosine, DeviceMut::new(&mut storage, &stream)?)?;
//!         let mut room = cuda.alloc_zeros::<u8>(ops::search_workspace_len(&stream, rows, &packed))?;
//!         let x = DeviceMatRef::new(DeviceRef::new(&x, &stream)?, rows, dim)?;
//!         let (mut found, mut room) = (DeviceMut::new(&mut found, &stream)?, DeviceMut::new(&mut room, &stream)?);
//!         ops::search(&stream, &x, None, &packed, &mut found, None, Search::Auto, &mut room)?;
//!     }
//!     stream.check()?; // waits, and tells what only the data could show
//!     Ok(cuda.clone_dtoh(&found)?)
//! }
//! ```

mod arena;
mod codebook;
mod device;
mod error;
mod images;
pub mod kmeans;
mod memory;
pub mod ops;
pub mod quantizer;
mod queue;
pub mod status;

/// The version of cudarc whose streams and memory these are.
pub use cudarc;

pub use codebook::PackedDeviceCodebook;
pub use device::{Device, Stream};
pub use error::CudaError;
pub use images::IMAGES;
pub use memory::{DeviceMatMut, DeviceMatRef, DeviceMut, DeviceRef};
pub use queue::{Arg, Grid, Image, Kernel, Queue};
