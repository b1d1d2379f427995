//! On the host: the codebooks as index files, rows, and the codes that the contracts ask for, by the `reference` loops.

use std::error::Error;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::{env, fs};

use half::f16;
use vq_kernels::index::{self, Stored};
use vq_kernels::ops::{self, fixed, search};
use vq_kernels::rng::Rng;
use vq_kernels::{Cpu, Fixed, MatMut, MatRef, Metric};

/// Neither a multiple of four codes nor of two elements, so that all tails are run.
const CODES: usize = 250;
const DIM: usize = 31;
const ROWS: usize = 64;

/// Codes with a twin, 100 codes further on; the first of them are equal to it.
const TWINS: usize = 40;
const EQUAL: usize = 8;

const METRICS: [Metric; 2] = [Metric::Cosine, Metric::L2];

fn main() -> Result<(), Box<dyn Error>> {
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    fs::copy("memory.x", out.join("memory.x"))?;
    println!("cargo:rustc-link-search={}", out.display());
    println!("cargo:rerun-if-changed=memory.x");
    println!("cargo:rerun-if-changed=build.rs");

    let cpu = Cpu::new();
    // Half of the rows lie near a code that has a twin: an equal one, where the lower must win, or one that differs in
    // the last bits, where the winner depends on the rounding of each multiply-add.
    let (mut rows, mut codes) = (unit(&cpu, ROWS, 1)?, unit(&cpu, CODES, 2)?);
    codes.copy_within(0..TWINS * DIM, 100 * DIM);
    let mut rng = Rng::new(3, 0);
    for c in &mut codes[(100 + EQUAL) * DIM..(100 + TWINS) * DIM] {
        *c = f32::from_bits(c.to_bits() + rng.below(3) as u32 - 1);
    }
    for (row, code) in rows.chunks_exact_mut(DIM).zip(codes.chunks_exact(DIM)).take(TWINS) {
        row.iter_mut().zip(code).for_each(|(x, c)| *x = *x * 0.2 + c);
    }
    // The ends of the integers, whose products two at a time fit no i32.
    codes[200 * DIM..201 * DIM].fill(-9.0);
    rows[60 * DIM..61 * DIM].fill(-9.0);
    let (x, book) = (MatRef::new(&rows, ROWS, DIM)?, MatRef::new(&codes, CODES, DIM)?);

    let mut source = format!("pub const ROWS: usize = {ROWS};\npub const DIM: usize = {DIM};\n");
    let bits: Vec<String> = rows.iter().map(|x| format!("f32::from_bits({})", x.to_bits())).collect();
    writeln!(source, "pub static X: [f32; {}] = [{}];", bits.len(), bits.join(", "))?;
    let halves: Vec<f16> = codes.iter().map(|&c| f16::from_f32(c)).collect();
    let widened: Vec<f32> = halves.iter().map(|c| c.to_f32()).collect();
    for metric in METRICS {
        let name = metric.name();
        let unfused = by_floats_unfused(x, book, metric);
        let differ = by_floats(x, book, metric).iter().zip(&unfused).filter(|(a, b)| a != b).count();
        assert!(differ >= 3, "{name}: only {differ} codes tell fused from unfused arithmetic");
        fs::write(out.join(format!("f32_{name}.vqi")), file(book, metric, 1.0)?)?;
        constant(&mut source, &format!("F32_{name}"), &by_floats(x, book, metric));
        fs::write(out.join(format!("f16_{name}.vqi")), file(MatRef::new(&halves, CODES, DIM)?, metric, 1.0)?)?;
        constant(&mut source, &format!("F16_{name}"), &by_floats(x, MatRef::new(&widened, CODES, DIM)?, metric));
        for (kind, found, bytes) in
            [by_integers::<i8>(x, book, metric, 127.0)?, by_integers::<i16>(x, book, metric, 32767.0)?]
        {
            fs::write(out.join(format!("{kind}_{name}.vqi")), bytes)?;
            constant(&mut source, &format!("{}_{name}", kind.to_uppercase()), &found);
        }
    }
    fs::write(out.join("expected.rs"), source)?;
    Ok(())
}

/// Random rows of unit length.
fn unit(cpu: &Cpu, rows: usize, seed: u64) -> vq_kernels::Result<Vec<f32>> {
    let mut rng = Rng::new(seed, 0);
    let raw: Vec<f32> = (0..rows * DIM).map(|_| rng.normal()).collect();
    let mut unit = vec![0.0; raw.len()];
    ops::normalize(cpu, MatRef::new(&raw, rows, DIM)?, MatMut::new(&mut unit, rows, DIM)?, None)?;
    Ok(unit)
}

fn file<T: Stored>(book: MatRef<T>, metric: Metric, scale: f32) -> vq_kernels::Result<Vec<u8>> {
    let mut bytes = vec![0; index::len::<T>(book.rows(), book.cols())];
    index::write(book, metric, scale, &mut bytes)?;
    Ok(bytes)
}

/// Contract A.
fn by_floats(x: MatRef, book: MatRef, metric: Metric) -> Vec<u32> {
    let mut found = vec![0; ROWS];
    search::reference(x, book, metric, &mut found, None);
    found
}

/// Contract A as it must not be: products rounded before they are added.
fn by_floats_unfused(x: MatRef, book: MatRef, metric: Metric) -> Vec<u32> {
    let chain = |a: &[f32], b: &[f32], start: f32| a.iter().zip(b).fold(start, |s, (a, b)| s + a * b);
    let best = |row: usize| {
        let score = |k: usize| match metric {
            Metric::Cosine => chain(x.row(row), book.row(k), 0.0),
            Metric::L2 => chain(x.row(row), book.row(k), -0.5 * chain(book.row(k), book.row(k), 0.0)),
        };
        // Of equal ones the lowest.
        (1..CODES).fold(0, |best, k| if score(k) > score(best) { k } else { best }) as u32
    };
    (0..ROWS).map(best).collect()
}

/// Contract B: its name, its codes, its index.
fn by_integers<F: Fixed + Stored + Default>(
    x: MatRef,
    book: MatRef,
    metric: Metric,
    scale: f32,
) -> vq_kernels::Result<(&'static str, Vec<u32>, Vec<u8>)> {
    let (cpu, mut rows, mut codes) = (Cpu::new(), vec![F::default(); ROWS * DIM], vec![F::default(); CODES * DIM]);
    ops::to_fixed(&cpu, x, scale, MatMut::new(&mut rows, ROWS, DIM)?)?;
    ops::to_fixed(&cpu, book, scale, MatMut::new(&mut codes, CODES, DIM)?)?;
    let (rows, codes, mut found) = (MatRef::new(&rows, ROWS, DIM)?, MatRef::new(&codes, CODES, DIM)?, vec![0; ROWS]);
    fixed::reference(rows, codes, metric, &mut found, None);
    Ok((<F as Stored>::NAME, found, file(codes, metric, scale)?))
}

/// Adds a table of codes to the source.
fn constant(source: &mut String, name: &str, codes: &[u32]) {
    // Writing to a string cannot fail.
    let _ = writeln!(source, "pub static {}: [u16; {}] = {codes:?};", name.to_uppercase(), codes.len());
}
