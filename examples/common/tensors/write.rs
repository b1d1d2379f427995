//! Writing: a few tensors at once, or one tensor whose rows come in chunks.

use core::marker::PhantomData;
use std::borrow::Cow;
use std::io::Write;
use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::Metadata;
use serde_json::{Map, Value, json};

use super::Scalar;
use crate::common::failure::{At, Context, Failure};
use crate::common::files::{AtomicFile, write_atomic};

/// Numbers encoded at a time: the only copy that is made of big data.
const CHUNK: usize = 1 << 16;

/// A named tensor that borrows its numbers.
pub struct Tensor<'a> {
    name: Cow<'a, str>,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: usize,
    values: Box<dyn Encode + 'a>,
}

impl<'a> Tensor<'a> {
    /// `values` in C order; [`write_safetensors`] checks that they fill `shape`.
    pub fn new<T: Scalar>(name: impl Into<Cow<'a, str>>, shape: &[usize], values: &'a [T]) -> Self {
        let name = name.into();
        Self { name, dtype: T::DTYPE, shape: shape.to_vec(), bytes: size_of_val(values), values: Box::new(values) }
    }
}

/// Numbers of some type, ready to be written.
trait Encode {
    fn encode_to(&self, file: &mut dyn Write) -> std::io::Result<()>;
}

impl<T: Scalar> Encode for &[T] {
    fn encode_to(&self, file: &mut dyn Write) -> std::io::Result<()> {
        let mut bytes = Vec::new();
        for chunk in self.chunks(CHUNK) {
            bytes.clear();
            T::encode(chunk, &mut bytes);
            file.write_all(&bytes)?;
        }
        Ok(())
    }
}

/// Writes tensors and text metadata to `path`, whole or not at all. The same call gives the same bytes.
pub fn write_safetensors(path: &Path, tensors: &[Tensor<'_>], metadata: &[(String, String)]) -> Result<(), Failure> {
    let mut order: Vec<&Tensor<'_>> = tensors.iter().collect();
    // Wide numbers first keeps every tensor aligned for readers that map the file.
    order.sort_by_key(|tensor| core::cmp::Reverse(tensor.dtype.bitsize()));
    let entries: Vec<Entry<'_>> =
        order.iter().map(|tensor| (&*tensor.name, tensor.dtype, &*tensor.shape, tensor.bytes)).collect();
    let header = header(path, &entries, metadata)?;
    write_atomic(path, |file| {
        file.write_all(&header).at("write", path)?;
        order.iter().try_for_each(|tensor| tensor.values.encode_to(file).at("write", path))
    })
}

/// Name, type, shape and size in bytes of a tensor.
type Entry<'a> = (&'a str, Dtype, &'a [usize], usize);

/// The start of the file, for tensors that follow in this order. Own code because the safetensors crate writes its metadata in random order.
fn header(path: &Path, entries: &[Entry<'_>], metadata: &[(String, String)]) -> Result<Vec<u8>, Failure> {
    let refuse = || format!("cannot write `{}`", path.display());
    let mut map = Map::new();
    if !metadata.is_empty() {
        let texts: Map<String, Value> =
            metadata.iter().map(|(key, text)| (key.clone(), Value::from(text.as_str()))).collect();
        map.insert("__metadata__".into(), texts.into());
    }
    let mut start = 0_usize;
    for &(name, dtype, shape, bytes) in entries {
        let end = start.checked_add(bytes).ok_or("the tensors are larger than any file").context(refuse)?;
        let info = json!({ "dtype": dtype, "shape": shape, "data_offsets": [start, end] });
        if map.insert(name.to_owned(), info).is_some() {
            return Err(Failure::new(format!("{}: two tensors are named `{name}`", refuse())));
        }
        start = end;
    }
    let map = Value::from(map);
    let mut text = map.to_string().into_bytes();
    // The crate's own check: sizes, shapes and offsets agree.
    serde_json::from_value::<Metadata>(map).context(refuse)?;
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut header = (text.len() as u64).to_le_bytes().to_vec();
    header.append(&mut text);
    Ok(header)
}

/// One tensor, `[rows]` or `[rows, dim]`, whose numbers come in chunks. Nothing appears under its name before [`finish`](Self::finish).
pub struct StreamWriter<T> {
    file: AtomicFile,
    shape: Vec<usize>,
    expected: usize,
    written: usize,
    numbers: PhantomData<T>,
}

impl<T: Scalar> StreamWriter<T> {
    /// Starts the file of a tensor whose whole shape is known.
    pub fn create(path: &Path, name: &str, shape: &[usize], metadata: &[(String, String)]) -> Result<Self, Failure> {
        let count =
            |shape: &[usize]| shape.iter().try_fold(size_of::<T>(), |product, &extent| product.checked_mul(extent));
        let bytes = count(shape).ok_or_else(|| {
            Failure::new(format!("cannot write `{}`: shape {shape:?} is larger than any file", path.display()))
        })?;
        let header = header(path, &[(name, T::DTYPE, shape, bytes)], metadata)?;
        let mut file = AtomicFile::create(path)?;
        file.write_all(&header).at("write", path)?;
        Ok(Self { file, shape: shape.to_vec(), expected: bytes / size_of::<T>(), written: 0, numbers: PhantomData })
    }

    /// Appends numbers, in C order.
    pub fn push(&mut self, values: &[T]) -> Result<(), Failure> {
        if values.len() > self.expected - self.written {
            return Err(self.wrong_count(self.written.saturating_add(values.len())));
        }
        values.encode_to(&mut self.file).at("write", self.file.path())?;
        self.written += values.len();
        Ok(())
    }

    /// Puts the file in its place once every number has come.
    pub fn finish(self) -> Result<(), Failure> {
        if self.written != self.expected {
            return Err(self.wrong_count(self.written));
        }
        self.file.commit()
    }

    fn wrong_count(&self, got: usize) -> Failure {
        Failure::new(format!(
            "cannot write `{}`: shape {:?} holds {} numbers, got {got}",
            self.file.path().display(),
            self.shape,
            self.expected
        ))
    }
}
