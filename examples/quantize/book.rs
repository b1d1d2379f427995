//! A codebook's file: the codes, and what happens to rows on their way to them and back.

use std::fs;
use std::path::Path;

use vq_kernels::{Cpu, MAX_CODES, MAX_DIM, MatMut, MatRef, Metric, ops};

use crate::common::Failure;
use crate::common::tensors::{Dtype, SafetensorsFile};

/// An open codebook, of which only shapes and settings are in memory.
pub struct Book {
    file: SafetensorsFile,
    /// Number of codes.
    pub codes: usize,
    /// Dimensions of a code.
    pub dim: usize,
    /// How its codes were learned to be compared, where the file tells.
    pub metric: Option<Metric>,
    /// Whether its rows were normalized before they were compared.
    pub normalize: bool,
    /// Rows enter as `(x − mean) / scale`, and leave as `x · scale + mean`.
    pub affine: Affine,
}

impl Book {
    /// Opens a file, and checks the shape of its codes and its settings.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        let file = SafetensorsFile::open(path)?;
        let (codes, dim) = floats(&file, "codebook", ["codes", "dim"])?;
        for (what, extent, most) in [("codes", codes, MAX_CODES), ("dimensions", dim, MAX_DIM)] {
            if extent > most {
                return Err(refuse(&file, "codebook", format!("it has {extent} {what}, at most {most} are possible")));
            }
        }
        let metric = setting(&file, "metric", "cosine or l2", parse_metric)?;
        let normalize = setting(&file, "normalize", "true or false", |text| text.parse().ok())?;
        let finite = |text: &str| text.parse().ok().filter(|x: &f64| x.is_finite());
        let mean = setting(&file, "mean", "a finite number", finite)?;
        let divisor = |text: &str| finite(text).filter(|&x| x != 0.0);
        let scale = setting(&file, "scale", "a finite number other than 0", divisor)?;
        let affine = Affine { mean: mean.unwrap_or(0.0), scale: scale.unwrap_or(1.0) };
        Ok(Self { file, codes, dim, metric, normalize: normalize.unwrap_or(false), affine })
    }

    /// The file's path, for messages.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// The codes, `[codes, dim]`.
    pub fn read_codes(&mut self) -> Result<Vec<f32>, Failure> {
        let mut values = Vec::new();
        self.file.read_rows_f32("codebook", 0, self.codes, &mut values)?;
        Ok(values)
    }

    /// The projection of rows into the codes' space, where the file has one.
    pub fn project_in(&mut self) -> Result<Option<Linear>, Failure> {
        self.linear("project_in", |linear| ("outputs", linear.outputs()))
    }

    /// The projection of codes into the rows' space, where the file has one.
    pub fn project_out(&mut self) -> Result<Option<Linear>, Failure> {
        self.linear("project_out", |linear| ("inputs", linear.inputs))
    }

    /// A layer whose side towards the codes, given by `side`, must have their dimensions.
    fn linear(&mut self, name: &str, side: fn(&Linear) -> (&str, usize)) -> Result<Option<Linear>, Failure> {
        let [weight, bias] = ["weight", "bias"].map(|part| format!("{name}.{part}"));
        if self.file.info(&weight).is_none() && self.file.info(&bias).is_none() {
            return Ok(None);
        }
        let (outputs, inputs) = floats(&self.file, &weight, ["outputs", "inputs"])?;
        match self.file.info(&bias) {
            Some((_, shape)) if shape == [outputs] => {}
            Some((_, shape)) => {
                return Err(refuse(&self.file, &bias, format!("expected shape [{outputs}], got {shape:?}")));
            }
            None => return Err(missing(&self.file, &bias)),
        }
        let linear = Linear { weight: self.file.read(&weight)?, bias: self.file.read(&bias)?, inputs };
        match side(&linear) {
            (_, extent) if extent == self.dim => Ok(Some(linear)),
            (what, extent) => {
                let why = format!("it has {extent} {what}, and the codes have {} dimensions", self.dim);
                Err(refuse(&self.file, &weight, why))
            }
        }
    }
}

/// A linear layer, `y = x·weightᵀ + bias`.
pub struct Linear {
    weight: Vec<f32>,
    bias: Vec<f32>,
    /// Width of the rows that it takes.
    pub inputs: usize,
}

impl Linear {
    /// Width of the rows that it gives.
    pub fn outputs(&self) -> usize {
        self.bias.len()
    }

    /// Projects `rows` rows of `x` into `y`.
    pub fn forward(&self, cpu: &Cpu, x: &[f32], rows: usize, y: &mut Vec<f32>) -> Result<(), Failure> {
        y.resize(rows * self.outputs(), 0.0);
        let weight = MatRef::new(&self.weight, self.outputs(), self.inputs)?;
        let y = MatMut::new(y, rows, self.outputs())?;
        Ok(ops::project(cpu, MatRef::new(x, rows, self.inputs)?, weight, Some(&self.bias), y)?)
    }
}

/// A shift and a scale for all elements, in f64 and rounded once.
#[derive(Clone, Copy)]
pub struct Affine {
    mean: f64,
    scale: f64,
}

impl Affine {
    /// Whether it changes anything.
    pub fn is_identity(self) -> bool {
        self.mean == 0.0 && self.scale == 1.0
    }

    /// To mean 0 and scale 1.
    pub fn enter(self, x: &mut [f32]) {
        if !self.is_identity() {
            x.iter_mut().for_each(|x| *x = ((f64::from(*x) - self.mean) / self.scale) as f32);
        }
    }

    /// Back to the rows' own mean and scale.
    pub fn leave(self, x: &mut [f32]) {
        if !self.is_identity() {
            x.iter_mut().for_each(|x| *x = (f64::from(*x) * self.scale + self.mean) as f32);
        }
    }
}

/// A setting from a file's metadata; a value that `parse` does not take is refused.
fn setting<T>(
    file: &SafetensorsFile,
    key: &str,
    expected: &str,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<Option<T>, Failure> {
    let Some(text) = file.metadata(key) else { return Ok(None) };
    parse(text).map(Some).ok_or_else(|| {
        let path = file.path().display();
        Failure::new(format!("`{path}`: its metadata has {key} = `{text}`, expected {expected}"))
    })
}

/// `cosine` or `l2`.
pub fn parse_metric(name: &str) -> Option<Metric> {
    [Metric::Cosine, Metric::L2].into_iter().find(|metric| metric.name() == name)
}

/// The extents of a matrix of floats, neither of them 0; `extents` are their names.
pub fn floats(file: &SafetensorsFile, name: &str, extents: [&str; 2]) -> Result<(usize, usize), Failure> {
    let (dtype, shape) = file.info(name).ok_or_else(|| missing(file, name))?;
    let [a, b] = extents;
    let &[rows, cols] = shape.as_slice() else {
        return Err(refuse(file, name, format!("expected shape [{a}, {b}], got {shape:?}")));
    };
    if !matches!(dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16) {
        return Err(refuse(file, name, format!("expected F32, F16 or BF16, got {dtype}")));
    }
    match (rows, cols) {
        (0, _) | (_, 0) => Err(refuse(file, name, format!("it is empty: [{a}, {b}] is {shape:?}"))),
        extents => Ok(extents),
    }
}

/// The failure that names a file and its tensor.
pub fn refuse(file: &SafetensorsFile, name: &str, why: String) -> Failure {
    Failure::new(format!("`{}`, tensor `{name}`: {why}", file.path().display()))
}

/// The failure that tells which tensors there are instead.
pub fn missing(file: &SafetensorsFile, name: &str) -> Failure {
    let there = match file.names().as_slice() {
        [] => "; it has none at all".to_owned(),
        names => format!(", only `{}`", names.join("`, `")),
    };
    Failure::new(format!("`{}` has no tensor `{name}`{there}", file.path().display()))
}

/// Refuses an output that would replace one of the files it is made from, or that cannot be a file.
pub fn check_output<const N: usize>(output: &Path, inputs: [&Path; N]) -> Result<(), Failure> {
    let refuse = |why| Err(Failure::new(format!("--output `{}` {why}; choose another name", output.display())));
    // A path that does not resolve is no existing file, and is reported by whoever opens it.
    let Ok(place) = fs::canonicalize(output) else { return Ok(()) };
    if place.is_dir() {
        return refuse("is a directory");
    }
    match inputs.iter().any(|input| fs::canonicalize(input).is_ok_and(|input| input == place)) {
        true => refuse("is also an input, which it would replace"),
        false => Ok(()),
    }
}
