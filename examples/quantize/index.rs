//! `index`: a codebook as one file for microcontrollers, read in place; and what such a file holds.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use half::f16;
use vq_kernels::index::{self, Codes, Index, Stored};
use vq_kernels::{Cpu, Fixed, Line, MatMut, MatRef, Metric, ops};

use crate::book::{Book, check_output, parse_metric};
use crate::common::Failure;
use crate::common::failure::At;
use crate::common::files::write_atomic;

/// What `index` is asked for.
#[derive(Args)]
pub struct Options {
    /// Safetensors file with `codebook` [codes, dim].
    #[arg(long)]
    codebook: PathBuf,
    /// Where the index goes.
    #[arg(long)]
    output: PathBuf,
    /// What its elements are.
    #[arg(long, value_enum, default_value_t = Element::F32)]
    element: Element,
    /// What fixed-point codes are multiplied by [default: so that the largest element is the largest integer].
    #[arg(long)]
    scale: Option<f32>,
    /// How rows and codes are compared: cosine or l2 [default: what the codebook says, else cosine].
    #[arg(long)]
    metric: Option<String>,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Element {
    F32,
    F16,
    Q7,
    Q15,
}

/// Writes the index.
pub fn index(options: &Options) -> Result<(), Failure> {
    check_output(&options.output, [&options.codebook])?;
    let mut book = Book::open(&options.codebook)?;
    let metric = match &options.metric {
        Some(name) => parse_metric(name).ok_or_else(|| Failure::new(format!("--metric {name}: give cosine or l2")))?,
        None => book.metric.unwrap_or(Metric::Cosine),
    };
    let values = book.read_codes()?;
    let codes = MatRef::new(&values, book.codes, book.dim)?;
    let largest = values.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
    let broken = || {
        let path = book.path().display();
        Failure::new(format!("`{path}` holds NaN, infinities or nothing but zeros, which have no scale in fixed point"))
    };
    let scale = |most: f32| match options.scale {
        Some(scale) => Ok(scale),
        None if largest > 0.0 && largest.is_finite() && !values.iter().any(|x| x.is_nan()) => Ok(most / largest),
        None => Err(broken()),
    };
    let bytes = match options.element {
        Element::F32 | Element::F16 if options.scale.is_some() => {
            return Err(Failure::new("--scale is for --element q7 and q15; leave it out"));
        }
        Element::F32 => bytes(codes, metric, 1.0)?,
        Element::F16 if largest.is_finite() && f16::from_f32(largest).is_infinite() => {
            return Err(Failure::new(format!("the largest element, {largest}, is beyond f16; take --element f32")));
        }
        Element::F16 => {
            let narrow: Vec<f16> = values.iter().map(|&x| f16::from_f32(x)).collect();
            bytes(MatRef::new(&narrow, book.codes, book.dim)?, metric, 1.0)?
        }
        Element::Q7 => fixed_bytes::<i8>(codes, metric, scale(i8::MAX.into())?)?,
        Element::Q15 => fixed_bytes::<i16>(codes, metric, scale(i16::MAX.into())?)?,
    };
    write_atomic(&options.output, |out| out.write_all(&bytes).at("write", &options.output))
}

fn bytes<T: Stored>(codes: MatRef<T>, metric: Metric, scale: f32) -> Result<Vec<u8>, Failure> {
    let mut bytes = vec![0; index::len::<T>(codes.rows(), codes.cols())];
    index::write(codes, metric, scale, &mut bytes)?;
    Ok(bytes)
}

fn fixed_bytes<F: Fixed + Stored + Default>(codes: MatRef, metric: Metric, scale: f32) -> Result<Vec<u8>, Failure> {
    let (rows, cols) = (codes.rows(), codes.cols());
    let mut fixed = vec![F::default(); rows * cols];
    ops::to_fixed(&Cpu::new(), codes, scale, MatMut::new(&mut fixed, rows, cols)?)?;
    bytes(MatRef::new(&fixed, rows, cols)?, metric, scale)
}

/// What an index holds, in a line; none where the file is something else.
pub fn describe(path: &Path) -> Result<Option<String>, Failure> {
    let mut file = File::open(path).at("read", path)?;
    let len = file.metadata().at("read", path)?.len();
    let mut magic = [0; 8];
    if len < 8 || file.read_exact(&mut magic).is_err() || &magic != b"VQINDEX\0" {
        return Ok(None);
    }
    // Lines lie as an index must.
    let len = usize::try_from(len).map_err(|_| Failure::new(format!("`{}` is too large", path.display())))?;
    let mut lines = vec![Line([0.0; 16]); len.div_ceil(64)];
    let bytes = &mut bytemuck::cast_slice_mut(&mut lines)[..len];
    bytes[..8].copy_from_slice(&magic);
    file.read_exact(&mut bytes[8..]).at("read", path)?;
    let index = Index::read(bytes).map_err(|cause| Failure::new(format!("`{}`: {cause}", path.display())))?;
    let (codes, dim) = match index.codes() {
        Codes::F32(codes) => (codes.rows(), codes.cols()),
        Codes::F16(codes) => (codes.rows(), codes.cols()),
        Codes::Q7(codes) => (codes.rows(), codes.cols()),
        Codes::Q15(codes) => (codes.rows(), codes.cols()),
        _ => return Err(Failure::new(format!("`{}` holds elements that this program does not know", path.display()))),
    };
    let (element, metric, scale) = (index.codes().name(), index.metric().name(), index.scale());
    Ok(Some(format!("  index     {codes} codes of {dim} dimensions in {element}, {metric}, scale {scale}")))
}
