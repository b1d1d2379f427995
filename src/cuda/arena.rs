//! One piece of the caller's memory, divided into places.

use core::marker::PhantomData;

use crate::cuda::memory::{DeviceMatMut, DeviceMut};
use crate::error::Result;

/// What every place starts at a multiple of.
const ALIGNMENT: usize = 256;

/// A place for `len` elements.
#[derive(Debug)]
pub(super) struct Place<T> {
    offset: usize,
    pub len: usize,
    elements: PhantomData<T>,
}

impl<T> Clone for Place<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Place<T> {}

/// Lays out places one after the other.
#[derive(Default)]
pub(super) struct Layout {
    pub end: usize,
}

impl Layout {
    pub fn place<T>(&mut self, len: usize) -> Place<T> {
        let offset = self.end;
        self.end = offset.saturating_add(len.saturating_mul(size_of::<T>())).saturating_add(ALIGNMENT - 1);
        self.end = self.end / ALIGNMENT * ALIGNMENT;
        Place { offset, len, elements: PhantomData }
    }
}

/// The memory that places were laid out for.
pub(super) struct Arena<'a> {
    memory: DeviceMut<'a, u8>,
}

impl<'a> Arena<'a> {
    /// # Errors
    /// [`CudaError::Misaligned`](crate::cuda::CudaError::Misaligned) unless it starts at a multiple of 16.
    pub fn new(memory: DeviceMut<'a, u8>) -> Result<Self> {
        memory.aligned(16)?;
        Ok(Self { memory })
    }

    /// The elements of a place. Its caller uses a place by one exclusive view at a time.
    pub fn at<T>(&self, place: Place<T>) -> DeviceMut<'a, T> {
        // SAFETY: places do not overlap and lie within the memory, whose length was checked against the layout's
        // end and which is this arena's alone; one view at a time is the callers' part, all in this module.
        unsafe { self.memory.place(place.offset, place.len) }
    }

    /// The first `rows · cols` elements of a place as a matrix.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) where the place is smaller.
    pub fn mat<T>(&self, place: Place<T>, rows: usize, cols: usize) -> Result<DeviceMatMut<'a, T>> {
        crate::error::same("arena", "room", rows * cols, (rows * cols).min(place.len))?;
        DeviceMatMut::new(self.at(Place { len: rows * cols, ..place }), rows, cols)
    }

    /// The first `len` elements of a place.
    pub fn first<T>(&self, place: Place<T>, len: usize) -> DeviceMut<'a, T> {
        self.at(Place { len: len.min(place.len), ..place })
    }
}
