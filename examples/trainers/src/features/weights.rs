//! Weights by name and expected shape, from a safetensors file.

use std::path::Path;

use burn::module::{Param, ParamId};
use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};
use half::{bf16, f16};

use crate::common::Failure;
use crate::common::random::hash_name;
use crate::common::tensors::{Dtype, SafetensorsFile};

/// How many names a message shows of a file that is something else.
const SHOWN_NAMES: usize = 6;

/// An open file of weights, stored as F32, F16 or BF16.
pub struct Weights {
    file: SafetensorsFile,
}

impl Weights {
    /// Opens a safetensors file.
    ///
    /// # Errors
    /// A file that cannot be read, is truncated or is not in the format.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        Ok(Self { file: SafetensorsFile::open(path)? })
    }

    /// Whether the file has a tensor of this name.
    pub fn has(&self, name: &str) -> bool {
        self.file.info(name).is_some()
    }

    /// The shape of a tensor of known rank, from which a network's size is told.
    ///
    /// # Errors
    /// A missing tensor, or one of another rank.
    pub fn shape<const D: usize>(&self, name: &str) -> Result<[usize; D], Failure> {
        let (_, shape) = self.file.info(name).ok_or_else(|| self.missing(name))?;
        <[usize; D]>::try_from(shape.as_slice())
            .map_err(|_| self.refuse(name, &format!("has the shape {shape:?}, expected {D} dimensions")))
    }

    /// A tensor's values as f32; it must have this shape.
    ///
    /// # Errors
    /// A missing tensor, one of another shape or of whole numbers, and one that holds NaN or infinity.
    pub fn values(&mut self, name: &str, expected: &[usize]) -> Result<Vec<f32>, Failure> {
        let (dtype, shape) = self.file.info(name).ok_or_else(|| self.missing(name))?;
        if shape != expected {
            return Err(self.refuse(
                name,
                &format!("has the shape {shape:?}, expected {expected:?}: these weights are of another network"),
            ));
        }
        let values = match dtype {
            Dtype::F32 => self.file.read::<f32>(name)?,
            Dtype::F16 => self.file.read::<f16>(name)?.into_iter().map(f16::to_f32).collect(),
            Dtype::BF16 => self.file.read::<bf16>(name)?.into_iter().map(bf16::to_f32).collect(),
            other => return Err(self.refuse(name, &format!("holds {other}, expected F32, F16 or BF16"))),
        };
        match values.iter().position(|value| !value.is_finite()) {
            None => Ok(values),
            Some(at) => Err(self.refuse(name, &format!("holds {} at {at}: the file is damaged", values[at]))),
        }
    }

    /// A tensor as a frozen parameter of this shape.
    ///
    /// # Errors
    /// As [`values`](Self::values).
    pub fn param<B: Backend, const D: usize>(
        &mut self,
        name: &str,
        shape: [usize; D],
        device: &B::Device,
    ) -> Result<Param<Tensor<B, D>>, Failure> {
        Ok(frozen(name, self.values(name, &shape)?, shape, device))
    }

    /// The failure of a file that is none of the `expected` networks.
    pub fn unknown(&self, expected: &str) -> Failure {
        let names = self.file.names();
        let shown = names.iter().take(SHOWN_NAMES).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        let more = if names.len() > SHOWN_NAMES { ", …" } else { "" };
        Failure::new(format!(
            "`{}` is of no known network: it has the tensors {shown}{more}; expected {expected}",
            self.file.path().display()
        ))
    }

    /// A failure about one tensor.
    pub(super) fn refuse(&self, name: &str, why: &str) -> Failure {
        Failure::new(format!("`{}`: tensor `{name}` {why}", self.file.path().display()))
    }

    fn missing(&self, name: &str) -> Failure {
        self.refuse(name, "is missing: the file is incomplete, or of another network")
    }
}

/// A parameter that is not trained, numbered by its name.
pub(crate) fn frozen<B: Backend, const D: usize>(
    name: &str,
    values: Vec<f32>,
    shape: [usize; D],
    device: &B::Device,
) -> Param<Tensor<B, D>> {
    let tensor = Tensor::from_data(TensorData::new(values, shape), device);
    Param::initialized(ParamId::from(hash_name(name, 0)), tensor)
}
