//! Row-major matrix views: the only place where a length is checked against a shape.

use crate::error::{Error, Result};

/// A shared view of `rows × cols` elements, row after row without gaps.
#[derive(Clone, Copy, Debug)]
pub struct MatRef<'a, T = f32> {
    data: &'a [T],
    rows: usize,
    cols: usize,
}

/// An exclusive view of `rows × cols` elements, row after row without gaps.
#[derive(Debug)]
pub struct MatMut<'a, T = f32> {
    data: &'a mut [T],
    rows: usize,
    cols: usize,
}

fn check(len: usize, rows: usize, cols: usize) -> Result<()> {
    const OP: &str = "matrix";
    let expected = rows.checked_mul(cols).ok_or(Error::TooLarge {
        op: OP,
        arg: "rows * cols",
        max: usize::MAX as u64,
        got: u64::MAX,
    })?;
    crate::error::same(OP, "length of the data", expected, len)
}

impl<'a, T> MatRef<'a, T> {
    /// Views `data` as `rows × cols`.
    ///
    /// # Errors
    /// [`Error::Shape`] unless `data.len() == rows * cols`; [`Error::TooLarge`] where that product overflows.
    pub fn new(data: &'a [T], rows: usize, cols: usize) -> Result<Self> {
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
    pub fn data(&self) -> &'a [T] {
        self.data
    }

    /// Row `row`, or an empty slice where there is no such row.
    pub fn row(&self, row: usize) -> &'a [T] {
        match row < self.rows {
            true => &self.data[row * self.cols..][..self.cols],
            false => &[],
        }
    }

    /// The rows `first .. first + rows`, cut to those that exist.
    pub fn rows_from(&self, first: usize, rows: usize) -> Self {
        let first = first.min(self.rows);
        let rows = rows.min(self.rows - first);
        Self { data: &self.data[first * self.cols..][..rows * self.cols], rows, cols: self.cols }
    }
}

impl<'a, T> MatMut<'a, T> {
    /// Views `data` as `rows × cols`.
    ///
    /// # Errors
    /// [`Error::Shape`] unless `data.len() == rows * cols`; [`Error::TooLarge`] where that product overflows.
    pub fn new(data: &'a mut [T], rows: usize, cols: usize) -> Result<Self> {
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
    pub fn data(&mut self) -> &mut [T] {
        self.data
    }

    /// Row `row`, or an empty slice where there is no such row.
    pub fn row(&mut self, row: usize) -> &mut [T] {
        match row < self.rows {
            true => &mut self.data[row * self.cols..][..self.cols],
            false => &mut [],
        }
    }

    /// A shared view of the same elements.
    pub fn as_ref(&self) -> MatRef<'_, T> {
        MatRef { data: self.data, rows: self.rows, cols: self.cols }
    }

    /// A shorter-lived exclusive view of the same elements.
    pub fn reborrow(&mut self) -> MatMut<'_, T> {
        MatMut { data: self.data, rows: self.rows, cols: self.cols }
    }
}
