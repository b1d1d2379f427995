//! Where an op's buffers lie, and what it has written to them.

use core::ops::{Deref, DerefMut};

use vq_kernels::ops::search::Candidate;

use super::common::{canonical, canonical64};
use super::pages::{Edge, Guarded};

/// Where an op's buffers lie.
#[derive(Clone, Copy)]
pub enum Place {
    Plain,
    Between(Edge),
}

/// Elements in a [`Place`].
pub enum Buffer<T> {
    Plain(Vec<T>),
    Between(Guarded<T>),
}

impl<T> AsRef<[T]> for Buffer<T> {
    fn as_ref(&self) -> &[T] {
        self
    }
}

impl<T> AsMut<[T]> for Buffer<T> {
    fn as_mut(&mut self) -> &mut [T] {
        self
    }
}

impl<T> Deref for Buffer<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        match self {
            Self::Plain(values) => values,
            Self::Between(values) => values,
        }
    }
}

impl<T> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        match self {
            Self::Plain(values) => values,
            Self::Between(values) => values,
        }
    }
}

impl Place {
    pub fn input<T: Copy>(self, values: &[T]) -> Buffer<T> {
        match self {
            Self::Plain => Buffer::Plain(values.to_vec()),
            Self::Between(edge) => Buffer::Between(Guarded::input(edge, values)),
        }
    }

    pub fn output<T: Copy>(self, value: T, len: usize) -> Buffer<T> {
        self.state(&vec![value; len])
    }

    pub fn state<T: Copy>(self, values: &[T]) -> Buffer<T> {
        match self {
            Self::Plain => Buffer::Plain(values.to_vec()),
            Self::Between(edge) => Buffer::Between(Guarded::output(edge, values)),
        }
    }
}

/// What ops have written, to be compared by bits.
#[derive(Default, PartialEq)]
pub struct Written(Vec<u8>);

impl Written {
    pub fn f32(&mut self, values: &[f32]) {
        values.iter().for_each(|&x| self.0.extend(canonical(x).to_ne_bytes()));
    }
    pub fn f64(&mut self, values: &[f64]) {
        values.iter().for_each(|&x| self.0.extend(canonical64(x).to_ne_bytes()));
    }
    pub fn ints<T: Copy + Into<i64>>(&mut self, values: &[T]) {
        values.iter().for_each(|&x| self.0.extend(x.into().to_ne_bytes()));
    }
    pub fn counts(&mut self, values: &[u64]) {
        values.iter().for_each(|x| self.0.extend(x.to_ne_bytes()));
    }
    pub fn best(&mut self, values: &[Candidate]) {
        values.iter().for_each(|best| {
            self.ints(&[best.code]);
            self.f32(&[best.score]);
        });
    }
}
