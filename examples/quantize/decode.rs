//! `decode`: codes from a file to the rows that they stand for.

use std::path::{Path, PathBuf};

use clap::Args;
use vq_kernels::{Cpu, MatMut, MatRef, NO_CODE, ops};

use crate::book::{Book, check_output, missing, refuse};
use crate::common::Failure;
use crate::common::tensors::{Dtype, SafetensorsFile, StreamWriter};
use crate::common::terminal::{Count, Progress, interrupted};

/// Rows in memory at a time.
const BLOCK: usize = 8192;

/// What `decode` is asked for.
#[derive(Args)]
pub struct Options {
    /// Safetensors file with `codebook` [codes, dim].
    #[arg(long)]
    codebook: PathBuf,
    /// Safetensors file with `codes` [rows] in u32; 4294967295 stands for a code of zeros.
    #[arg(long)]
    input: PathBuf,
    /// Where `x` [rows, width] goes.
    #[arg(long)]
    output: PathBuf,
    /// The codes themselves, without what the codebook says about projecting and scaling.
    #[arg(long)]
    raw: bool,
}

/// Writes the row of each code.
pub fn decode(options: &Options) -> Result<(), Failure> {
    check_output(&options.output, [&options.codebook, &options.input])?;
    let cpu = Cpu::new();
    let mut book = Book::open(&options.codebook)?;
    let codes = read_codes(&options.input, &book)?;
    let linear = if options.raw { None } else { book.project_out()? };
    let width = linear.as_ref().map_or(book.dim, |linear| linear.outputs());
    let mut output = StreamWriter::<f32>::create(&options.output, "x", &[codes.len(), width], &[])?;
    let codebook = book.read_codes()?;
    let codebook = MatRef::new(&codebook, book.codes, book.dim)?;

    let mut progress = Progress::new("decoding", codes.len() as u64, Count::Items);
    let (mut q, mut x, mut done) = (Vec::new(), Vec::new(), 0);
    for codes in codes.chunks(BLOCK) {
        if interrupted() {
            return Err(Failure::interrupted());
        }
        q.resize(codes.len() * book.dim, 0.0);
        ops::gather(&cpu, codes, codebook, MatMut::new(&mut q, codes.len(), book.dim)?)?;
        if let Some(linear) = &linear {
            linear.forward(&cpu, &q, codes.len(), &mut x)?;
        }
        let rows = if linear.is_some() { &mut x } else { &mut q };
        if !options.raw {
            book.affine.leave(rows);
        }
        output.push(rows)?;
        done += codes.len();
        progress.tick(done as u64, "");
    }
    output.finish()?;
    progress.done();
    eprintln!("rows          {done} of {width} dimensions");
    Ok(())
}

/// All codes, each of which exists in `book`: four bytes a row, so they are read at once.
fn read_codes(path: &Path, book: &Book) -> Result<Vec<u32>, Failure> {
    let mut file = SafetensorsFile::open(path)?;
    let (dtype, shape) = file.info("codes").ok_or_else(|| missing(&file, "codes"))?;
    if dtype != Dtype::U32 {
        return Err(refuse(&file, "codes", format!("expected U32, got {dtype}")));
    }
    match shape.as_slice() {
        [0] => return Err(refuse(&file, "codes", "it is empty: it has no rows".into())),
        [_] => {}
        _ => return Err(refuse(&file, "codes", format!("expected shape [rows], got {shape:?}"))),
    }
    let codes = file.read::<u32>("codes")?;
    match codes.iter().position(|&code| code != NO_CODE && code as usize >= book.codes) {
        Some(row) => {
            let why = format!(
                "row {row} has code {}, but `{}` has only {} codes",
                codes[row],
                book.path().display(),
                book.codes
            );
            Err(refuse(&file, "codes", why))
        }
        None => Ok(codes),
    }
}
