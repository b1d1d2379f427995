//! Where kernels are launched: the one thing that ops ask of a stream.

use super::error::CudaError;
use super::memory::{DeviceMatMut, DeviceMatRef, DeviceMut, DeviceRef};
use crate::element::Element;
use crate::error::Result;

/// The PTX text of one `cuda/*.cu`, as it is committed and embedded.
#[derive(Debug)]
pub struct Image {
    /// Name of the source file.
    pub name: &'static str,
    /// The text.
    pub ptx: &'static str,
}

/// A kernel of an image.
#[derive(Clone, Copy, Debug)]
pub struct Kernel {
    /// The image that it is in.
    pub image: &'static Image,
    /// Its entry.
    pub name: &'static str,
}

impl Kernel {
    pub(crate) const fn new(image: &'static Image, name: &'static str) -> Self {
        Self { image, name }
    }

    /// Of three, the one for rows stored as `E`.
    pub(crate) fn of<E: Element>(image: &'static Image, [f32, f16, bf16]: [&'static str; 3]) -> Self {
        let name = match E::NAME {
            "f16" => f16,
            "bf16" => bf16,
            _ => f32,
        };
        Self { image, name }
    }
}

/// How many threads a kernel is launched on.
#[derive(Clone, Copy, Debug)]
pub struct Grid {
    /// Blocks, in three directions.
    pub blocks: [u32; 3],
    /// Threads in a block.
    pub threads: u32,
}

impl Grid {
    /// A one-dimensional grid of blocks of `threads` that covers `items` with `per_block` each.
    pub(crate) fn over(items: usize, per_block: usize, threads: u32) -> Self {
        // Rows are fewer than 2³², and a grid may have 2³¹ − 1 blocks: kernels with fewer than two items a block loop.
        Self { blocks: [items.div_ceil(per_block).clamp(1, (1 << 31) - 1) as u32, 1, 1], threads }
    }
}

/// An argument of a kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Arg {
    /// Four bytes.
    U32(u32),
    /// Eight bytes.
    U64(u64),
    /// Eight bytes: an address, 0 for none; and the [`Queue::id`] that its view was made for, 0 for any.
    Address {
        /// The address.
        address: u64,
        /// Whose work it may be given to.
        owner: u64,
    },
    /// Four bytes.
    F32(f32),
    /// Eight bytes.
    F64(f64),
}

impl From<u32> for Arg {
    fn from(value: u32) -> Self {
        Self::U32(value)
    }
}

impl From<i32> for Arg {
    fn from(value: i32) -> Self {
        Self::U32(value as u32)
    }
}

impl From<u64> for Arg {
    fn from(value: u64) -> Self {
        Self::U64(value)
    }
}

/// An extent, which the callers have checked to be below 2³².
impl From<usize> for Arg {
    fn from(value: usize) -> Self {
        debug_assert!(u32::try_from(value).is_ok());
        Self::U32(value as u32)
    }
}

impl From<f32> for Arg {
    fn from(value: f32) -> Self {
        Self::F32(value)
    }
}

impl From<f64> for Arg {
    fn from(value: f64) -> Self {
        Self::F64(value)
    }
}

impl Arg {
    /// The null address, for an argument that is left out.
    pub(crate) const NONE: Self = Self::Address { address: 0, owner: 0 };

    /// That no address among `args` is of a view that was made for another queue than `id`: what
    /// [`Queue::launch`] asks first.
    ///
    /// # Errors
    /// [`CudaError::OtherStream`] where one is.
    pub fn check_owner(args: &[Self], id: u64) -> Result<()> {
        let strange = |arg: &Self| matches!(arg, Self::Address { owner, .. } if *owner != 0 && *owner != id);
        if args.iter().any(strange) { Err(CudaError::OtherStream.into()) } else { Ok(()) }
    }
}

impl<T> From<&DeviceRef<'_, T>> for Arg {
    fn from(view: &DeviceRef<'_, T>) -> Self {
        view.arg(0)
    }
}

impl<T> From<&DeviceMut<'_, T>> for Arg {
    fn from(view: &DeviceMut<'_, T>) -> Self {
        view.arg(0)
    }
}

impl<T> From<&mut DeviceMut<'_, T>> for Arg {
    fn from(view: &mut DeviceMut<'_, T>) -> Self {
        view.arg(0)
    }
}

impl<T> From<&DeviceMatRef<'_, T>> for Arg {
    fn from(view: &DeviceMatRef<'_, T>) -> Self {
        view.data().arg(0)
    }
}

impl<T> From<&mut DeviceMatMut<'_, T>> for Arg {
    fn from(view: &mut DeviceMatMut<'_, T>) -> Self {
        view.data().arg(0)
    }
}

/// The null address for none.
impl<V> From<Option<V>> for Arg
where
    Arg: From<V>,
{
    fn from(view: Option<V>) -> Self {
        view.map_or(Self::NONE, Self::from)
    }
}

/// Runs kernels in the order in which they are launched: a [`Stream`](super::Stream), or what another framework
/// has for one.
///
/// # Safety
/// * [`launch`](Self::launch) runs the kernel, after all launched before, on the arguments as they are given, or
///   returns an error; it refuses an [`Arg::Address`] whose owner is neither 0 nor its [`id`](Self::id); addresses of views
///   made for it mean the same memory there.
/// * [`status`](Self::status) is the address of as many words as it says, aligned to 8 bytes and writable as long as
///   kernels run.
/// * [`processors`](Self::processors) is at least 1.
pub unsafe trait Queue {
    /// Launches `kernel`. Only ops call it.
    ///
    /// # Safety
    /// `args` are what the kernel takes.
    ///
    /// # Errors
    /// What the driver refuses.
    unsafe fn launch(&self, kernel: Kernel, grid: Grid, args: &[Arg]) -> Result<()>;

    /// What tells this queue from others: not 0. Views made for one queue are not taken by another, whose work their
    /// memory's owner does not wait for.
    fn id(&self) -> u64;

    /// Address of [`STATUS_WORDS`](super::status::STATUS_WORDS) u32 on the device, zeros at first, in which kernels note what only the data
    /// can show. [`status::decode`](super::status::decode) reads them.
    fn status(&self) -> u64;

    /// Number of multiprocessors: grids are cut to it.
    fn processors(&self) -> u32;
}
