//! Reading: the header at once, and then a tensor or a range of its rows.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

use super::Scalar;
use crate::common::failure::{At, Context, Failure};

/// The format's own limit on its header, checked before so much is allocated.
const LARGEST_HEADER: u64 = 100_000_000;

/// Bytes read at a time, so that converting needs no second copy of a large tensor.
const CHUNK: usize = 1 << 20;

/// An open safetensors file, of which only the header is in memory.
pub struct SafetensorsFile {
    path: PathBuf,
    file: File,
    header: Metadata,
    /// Where the tensors' bytes begin.
    data: u64,
}

impl SafetensorsFile {
    /// Opens a file, and checks that its header is sound and that all the bytes it promises are there.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        let mut file = File::open(path).at("read", path)?;
        let about = file.metadata().at("read", path)?;
        let refuse = |why: String| Failure::new(format!("`{}` is not a sound safetensors file: {why}", path.display()));
        if !about.is_file() {
            return Err(refuse("it is not a regular file".into()));
        }
        if about.len() < 8 {
            return Err(refuse(format!("it has {} bytes, too few for a header; make or fetch it again", about.len())));
        }
        let mut length = [0; 8];
        file.read_exact(&mut length).at("read", path)?;
        let length = u64::from_le_bytes(length);
        if length > LARGEST_HEADER.min(about.len() - 8) {
            return Err(refuse(format!("it has {} bytes, and its header claims {length}", about.len())));
        }
        let mut text = Vec::new();
        (&file).take(length).read_to_end(&mut text).at("read", path)?;
        let header: Metadata = serde_json::from_slice(&text).map_err(|cause| refuse(cause.to_string()))?;
        let data = 8 + length;
        let expected = data.saturating_add(header.data_len() as u64);
        if about.len() < expected {
            return Err(refuse(format!(
                "it is truncated: it has {} bytes of {expected}; make or fetch it again",
                about.len()
            )));
        }
        if about.len() > expected {
            return Err(refuse(format!(
                "it has {} bytes, {} more than its header tells",
                about.len(),
                about.len() - expected
            )));
        }
        Ok(Self { path: path.to_owned(), file, header, data })
    }

    /// The file's path, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The tensors' names, in the order of the file.
    pub fn names(&self) -> Vec<String> {
        self.header.offset_keys()
    }

    /// Type and shape of a tensor, or `None` if there is no such tensor.
    pub fn info(&self, name: &str) -> Option<(Dtype, Vec<usize>)> {
        self.header.info(name).map(|info| (info.dtype, info.shape.clone()))
    }

    /// The text that the file's metadata has under `key`.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.header.metadata().as_ref()?.get(key).map(String::as_str)
    }

    /// A whole tensor, which must hold numbers of exactly this type.
    pub fn read<T: Scalar>(&mut self, name: &str) -> Result<Vec<T>, Failure> {
        let info = self.find(name)?;
        if info.dtype != T::DTYPE {
            return Err(self.refuse(name, &format!("expected {}, got {}", T::DTYPE, info.dtype)));
        }
        let (start, end) = info.data_offsets;
        let mut values = self.reserve(name, (end - start) / size_of::<T>())?;
        self.decode(start, end - start, &mut values, T::decode)?;
        Ok(values)
    }

    /// Puts rows `first_row..first_row + rows` of a tensor `[rows, …]` into `out`, as f32: from F32, F16, BF16, or I8 as whole numbers.
    pub fn read_rows_f32(
        &mut self,
        name: &str,
        first_row: usize,
        rows: usize,
        out: &mut Vec<f32>,
    ) -> Result<(), Failure> {
        let info = self.find(name)?;
        let (all, dim) = match info.shape.as_slice() {
            [all, rest @ ..] if !rest.is_empty() => (*all, rest.iter().product::<usize>()),
            other => return Err(self.refuse(name, &format!("expected shape [rows, dim], got {other:?}"))),
        };
        let decode = match info.dtype {
            Dtype::F32 => f32::decode,
            Dtype::F16 => |bytes: &[u8], out: &mut Vec<f32>| widen(bytes, out, f16::to_f32),
            Dtype::BF16 => |bytes: &[u8], out: &mut Vec<f32>| widen(bytes, out, bf16::to_f32),
            Dtype::I8 => |bytes: &[u8], out: &mut Vec<f32>| widen(bytes, out, |value: i8| f32::from(value)),
            other => {
                return Err(self.refuse(name, &format!("expected F32, F16, BF16 or I8, got {other}")));
            }
        };
        if first_row.checked_add(rows).is_none_or(|end| end > all) {
            return Err(
                self.refuse(name, &format!("rows {first_row}..{first_row} + {rows} were asked for, and it has {all}"))
            );
        }
        // No overflow: the header's check bounds all · dim · row size by the file's length.
        let row_bytes = dim * info.dtype.bitsize() / 8;
        *out = self.reserve_again(name, core::mem::take(out), rows * dim)?;
        self.decode(info.data_offsets.0 + first_row * row_bytes, rows * row_bytes, out, decode)
    }

    fn find(&self, name: &str) -> Result<TensorInfo, Failure> {
        let known = || self.names().join("`, `");
        self.header.info(name).cloned().ok_or_else(|| {
            Failure::new(format!("`{}` has no tensor `{name}`, only `{}`", self.path.display(), known()))
        })
    }

    fn refuse(&self, name: &str, why: &str) -> Failure {
        Failure::new(format!("`{}`, tensor `{name}`: {why}", self.path.display()))
    }

    fn reserve<T>(&self, name: &str, count: usize) -> Result<Vec<T>, Failure> {
        self.reserve_again(name, Vec::new(), count)
    }

    fn reserve_again<T>(&self, name: &str, mut values: Vec<T>, count: usize) -> Result<Vec<T>, Failure> {
        values.clear();
        values.try_reserve_exact(count).context(|| self.refuse(name, "does not fit in memory").to_string())?;
        Ok(values)
    }

    /// Reads `length` bytes from `start` of the data, a chunk at a time. Chunks hold whole numbers, as they are multiples of 8 bytes.
    fn decode<T>(
        &mut self,
        start: usize,
        length: usize,
        values: &mut Vec<T>,
        decode: impl Fn(&[u8], &mut Vec<T>),
    ) -> Result<(), Failure> {
        self.file.seek(SeekFrom::Start(self.data + start as u64)).at("read", &self.path)?;
        let mut bytes = vec![0; length.min(CHUNK)];
        let mut left = length;
        while left > 0 {
            bytes.truncate(left);
            self.file.read_exact(&mut bytes).at("read", &self.path)?;
            decode(&bytes, values);
            left -= bytes.len();
        }
        Ok(())
    }
}

fn widen<T: Scalar>(bytes: &[u8], out: &mut Vec<f32>, convert: impl Fn(T) -> f32) {
    let mut narrow = Vec::with_capacity(bytes.len() / size_of::<T>());
    T::decode(bytes, &mut narrow);
    out.extend(narrow.into_iter().map(convert));
}
