//! Views of device memory: what [`MatRef`](crate::MatRef) and slices are on the CPU.

use core::marker::PhantomData;

use cudarc::driver::{DevicePtr, DevicePtrMut, SyncOnDrop};

use super::device::Stream;
use super::error::CudaError;
use super::queue::{Arg, Queue};
use crate::error::{Error, Result, same};

/// A shared view of `len` elements on a device.
pub struct DeviceRef<'a, T> {
    address: u64,
    len: usize,
    owner: u64,
    // cudarc's ordering of streams: records the use of the memory when the view ends.
    _guard: Option<SyncOnDrop<'a>>,
    elements: PhantomData<&'a T>,
}

/// An exclusive view of `len` elements on a device.
pub struct DeviceMut<'a, T> {
    address: u64,
    len: usize,
    owner: u64,
    _guard: Option<SyncOnDrop<'a>>,
    elements: PhantomData<&'a mut T>,
}

impl<'a, T> DeviceRef<'a, T> {
    /// Memory of cudarc, for work on `stream`.
    ///
    /// # Errors
    /// [`CudaError::OtherContext`] where it belongs to another context than the stream.
    pub fn new(memory: &'a impl DevicePtr<T>, stream: &'a Stream) -> Result<Self> {
        stream.check_context(memory.stream())?;
        let (address, guard) = memory.device_ptr(stream.raw());
        Ok(Self { address, len: memory.len(), owner: stream.id(), _guard: Some(guard), elements: PhantomData })
    }

    /// Memory of any owner.
    ///
    /// # Safety
    /// As long as work that was given the view is under way, `len` elements from `address` on, aligned as `T` is, are
    /// readable by the device, initialized, and written by nobody else.
    pub unsafe fn from_raw(address: u64, len: usize) -> Self {
        Self { address, len, owner: 0, _guard: None, elements: PhantomData }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Address on the device.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// The same memory as bytes.
    pub(crate) fn bytes(&self) -> DeviceRef<'_, u8> {
        let (address, len, owner) = (self.address, self.len * size_of::<T>(), self.owner);
        DeviceRef { address, len, owner, _guard: None, elements: PhantomData }
    }

    /// As a kernel's argument, from byte `offset` on.
    pub(crate) fn arg(&self, offset: usize) -> Arg {
        Arg::Address { address: self.address + offset as u64, owner: self.owner }
    }

    /// Elements `first .. first + len`, cut to those that exist.
    pub fn range(&self, first: usize, len: usize) -> DeviceRef<'_, T> {
        let first = first.min(self.len);
        let address = self.address + (first * size_of::<T>()) as u64;
        DeviceRef { address, len: len.min(self.len - first), owner: self.owner, _guard: None, elements: PhantomData }
    }
}

impl<'a, T> DeviceMut<'a, T> {
    /// Memory of cudarc, for work on `stream`.
    ///
    /// # Errors
    /// [`CudaError::OtherContext`] where it belongs to another context than the stream.
    pub fn new(memory: &'a mut impl DevicePtrMut<T>, stream: &'a Stream) -> Result<Self> {
        stream.check_context(memory.stream())?;
        let len = memory.len();
        let (address, guard) = memory.device_ptr_mut(stream.raw());
        Ok(Self { address, len, owner: stream.id(), _guard: Some(guard), elements: PhantomData })
    }

    /// Memory of any owner.
    ///
    /// # Safety
    /// As long as work that was given the view is under way, `len` elements from `address` on, aligned as `T` is, are
    /// readable and writable by the device, and used by nobody else.
    pub unsafe fn from_raw(address: u64, len: usize) -> Self {
        Self { address, len, owner: 0, _guard: None, elements: PhantomData }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Address on the device.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// As a kernel's argument, from byte `offset` on.
    pub(crate) fn arg(&self, offset: usize) -> Arg {
        self.as_ref().arg(offset)
    }

    /// Elements of another type from byte `offset` on, for as long as the memory itself.
    ///
    /// # Safety
    /// They are within this view, and used by no other view at the same time.
    pub(crate) unsafe fn place<U>(&self, offset: usize, len: usize) -> DeviceMut<'a, U> {
        let (address, owner) = (self.address + offset as u64, self.owner);
        DeviceMut { address, len, owner, _guard: None, elements: PhantomData }
    }

    /// The same elements, only read from now on.
    pub(crate) fn shared(self) -> DeviceRef<'a, T> {
        DeviceRef {
            address: self.address,
            len: self.len,
            owner: self.owner,
            _guard: self._guard,
            elements: PhantomData,
        }
    }

    /// A shared view of the same elements.
    pub fn as_ref(&self) -> DeviceRef<'_, T> {
        DeviceRef { address: self.address, len: self.len, owner: self.owner, _guard: None, elements: PhantomData }
    }

    /// Elements `first .. first + len`, cut to those that exist.
    pub fn range(&mut self, first: usize, len: usize) -> DeviceMut<'_, T> {
        let DeviceRef { address, len, owner, .. } = self.as_ref().range(first, len);
        DeviceMut { address, len, owner, _guard: None, elements: PhantomData }
    }

    /// Checks that the address is a multiple of `alignment`.
    pub(crate) fn aligned(&self, alignment: usize) -> Result<()> {
        match self.address.is_multiple_of(alignment as u64) {
            true => Ok(()),
            false => Err(CudaError::Misaligned { alignment }.into()),
        }
    }

    /// `len` elements of another type from byte `offset` on: a part of a workspace.
    pub(crate) fn part<U>(&mut self, offset: usize, len: usize) -> DeviceMut<'_, U> {
        debug_assert!(offset + len * size_of::<U>() <= self.len * size_of::<T>());
        DeviceMut { address: self.address + offset as u64, len, owner: self.owner, _guard: None, elements: PhantomData }
    }
}

/// A shared view of `rows × cols` elements on a device, row after row without gaps.
pub struct DeviceMatRef<'a, T = f32> {
    data: DeviceRef<'a, T>,
    rows: usize,
    cols: usize,
}

/// An exclusive view of `rows × cols` elements on a device, row after row without gaps.
pub struct DeviceMatMut<'a, T = f32> {
    data: DeviceMut<'a, T>,
    rows: usize,
    cols: usize,
}

fn check(len: usize, rows: usize, cols: usize) -> Result<()> {
    const OP: &str = "device matrix";
    let overflow = Error::TooLarge { op: OP, arg: "rows * cols", max: usize::MAX as u64, got: u64::MAX };
    same(OP, "length of the data", rows.checked_mul(cols).ok_or(overflow)?, len)
}

impl<'a, T> DeviceMatRef<'a, T> {
    /// Views `data` as `rows × cols`.
    ///
    /// # Errors
    /// [`Error::Shape`] unless `data.len() == rows * cols`; [`Error::TooLarge`] where that product overflows.
    pub fn new(data: DeviceRef<'a, T>, rows: usize, cols: usize) -> Result<Self> {
        check(data.len(), rows, cols)?;
        Ok(Self { data, rows, cols })
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// All elements, row after row.
    pub fn data(&self) -> &DeviceRef<'a, T> {
        &self.data
    }

    /// The rows `first .. first + rows`, cut to those that exist.
    pub fn rows_from(&self, first: usize, rows: usize) -> DeviceMatRef<'_, T> {
        let first = first.min(self.rows);
        let rows = rows.min(self.rows - first);
        DeviceMatRef { data: self.data.range(first * self.cols, rows * self.cols), rows, cols: self.cols }
    }
}

impl<'a, T> DeviceMatMut<'a, T> {
    /// Views `data` as `rows × cols`.
    ///
    /// # Errors
    /// [`Error::Shape`] unless `data.len() == rows * cols`; [`Error::TooLarge`] where that product overflows.
    pub fn new(data: DeviceMut<'a, T>, rows: usize, cols: usize) -> Result<Self> {
        check(data.len(), rows, cols)?;
        Ok(Self { data, rows, cols })
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// All elements, row after row.
    pub fn data(&mut self) -> DeviceMut<'_, T> {
        self.data.range(0, self.data.len())
    }

    /// The rows `first .. first + rows`, cut to those that exist.
    pub fn rows_from(&mut self, first: usize, rows: usize) -> DeviceMatMut<'_, T> {
        let first = first.min(self.rows);
        let rows = rows.min(self.rows - first);
        DeviceMatMut { data: self.data.range(first * self.cols, rows * self.cols), rows, cols: self.cols }
    }

    /// The same elements, to be read while nothing writes them: launches follow each other on one queue.
    pub(crate) fn alias(&self) -> DeviceMatRef<'a, T> {
        // SAFETY: all of the view; that kernels which read and which write it are launched in turn is the callers' part.
        let data = unsafe { self.data.place(0, self.data.len()) };
        DeviceMatRef { data: data.shared(), rows: self.rows, cols: self.cols }
    }

    /// The same elements, only read from now on.
    pub(crate) fn shared(self) -> DeviceMatRef<'a, T> {
        DeviceMatRef { data: self.data.shared(), rows: self.rows, cols: self.cols }
    }

    /// A shared view of the same elements.
    pub fn as_ref(&self) -> DeviceMatRef<'_, T> {
        DeviceMatRef { data: self.data.as_ref(), rows: self.rows, cols: self.cols }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codebook::Metric;
    use crate::cuda::codebook::PackedDeviceCodebook;
    use crate::cuda::ops;
    use crate::cuda::queue::{Grid, Kernel};
    use crate::ops::search::Search;

    /// Runs nothing, and refuses what a stream refuses.
    struct Quiet(u64);

    // SAFETY: no kernel is run.
    unsafe impl Queue for Quiet {
        unsafe fn launch(&self, _: Kernel, _: Grid, args: &[Arg]) -> Result<()> {
            Arg::check_owner(args, self.id())
        }
        fn id(&self) -> u64 {
            self.0
        }
        fn status(&self) -> u64 {
            64
        }
        fn processors(&self) -> u32 {
            2
        }
    }

    fn lent<T>(len: usize, owner: u64) -> DeviceMut<'static, T> {
        DeviceMut { address: 4096, len, owner, _guard: None, elements: PhantomData }
    }

    fn mat<T>(rows: usize, cols: usize, owner: u64) -> DeviceMatMut<'static, T> {
        DeviceMatMut { data: lent(rows * cols, owner), rows, cols }
    }

    /// Whatever is made of a view (parts, ranges, rows) is still its queue's.
    #[test]
    fn views_of_another_queue_are_refused() {
        let queue = Quiet(1);
        let other = Err(Error::Cuda(CudaError::OtherStream));
        let search = |x: u64, book: u64, codes: u64, room: u64| {
            let storage = PackedDeviceCodebook::storage_len(5, 4, Metric::L2)?;
            let packing = Quiet(book.max(1));
            let book = PackedDeviceCodebook::pack(&packing, mat(5, 4, book).shared(), Metric::L2, lent(storage, book))?;
            let len = ops::search_workspace_len(&queue, 6, &book);
            let (x, mut codes, mut room) = (mat::<f32>(8, 4, x), lent::<u32>(7, codes), lent(len, room));
            let (x, x_codes) = (x.as_ref(), &mut codes.range(1, 6));
            ops::search(&queue, &x.rows_from(1, 6), None, &book, x_codes, None, Search::Coarse, &mut room)
        };
        assert_eq!(search(1, 1, 1, 1), Ok(()));
        // Those of any owner, by address.
        assert_eq!(search(0, 0, 0, 0), Ok(()));
        for [x, book, codes, room] in [[2, 1, 1, 1], [1, 2, 1, 1], [1, 1, 2, 1], [1, 1, 1, 2]] {
            assert_eq!(search(x, book, codes, room), other, "{x} {book} {codes} {room}");
        }
        let gather = |codes: u64, book: u64, out: u64| {
            ops::gather(&queue, &lent::<u32>(3, codes).shared(), &mat::<f32>(5, 4, book).shared(), &mut mat(3, 4, out))
        };
        assert_eq!(gather(1, 0, 1), Ok(()));
        for [codes, book, out] in [[2, 1, 1], [1, 2, 1], [1, 1, 2]] {
            assert_eq!(gather(codes, book, out), other);
        }
        let project = |owners: [u64; 6]| {
            let [x, weight, bias, y, unit, norms] = owners;
            let (x, weight, bias) =
                (mat::<f32>(6, 5, x).shared(), mat::<f32>(4, 5, weight).shared(), lent::<f32>(4, bias).shared());
            let (mut y, mut unit, mut norms) = (mat(6, 4, y), mat(6, 4, unit), lent(6, norms));
            ops::project_normalize(&queue, &x, &weight, Some(&bias), &mut y, &mut unit, Some(&mut norms))
        };
        assert_eq!(project([1; 6]), Ok(()));
        for strange in 0..6 {
            assert_eq!(project(core::array::from_fn(|arg| if arg == strange { 2 } else { 1 })), other, "{strange}");
        }
    }
}
