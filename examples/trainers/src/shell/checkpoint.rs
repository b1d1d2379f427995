//! All that a training needs to go on, in one file, whole or absent.

use std::path::Path;

use burn::module::{AutodiffModule, Module};
use burn::tensor::backend::{AutodiffBackend, Backend};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::common::failure::{Context, Failure};
use crate::common::learning;
use crate::common::tensors::{SafetensorsFile, Scalar, Tensor, write_safetensors};
use crate::optim::{Optimizer, OptimizerConfig};
use crate::params::{HostTensor, NamedTensors, load};

/// Its first line, so to say.
const FORMAT: &str = "vq-kernels trainers checkpoint 1";

/// The kind of checkpoints that do not name it: they came first.
const FIRST_KIND: &str = "vqgan";

/// An open checkpoint.
pub struct Checkpoint {
    file: SafetensorsFile,
    run: Value,
}

/// What one kind of training keeps besides its [`State`](super::State): an adversary, for one.
#[derive(Default)]
pub struct Extra {
    /// Tensors under their whole names.
    pub tensors: NamedTensors,
    /// An optimizer's moments, or what a task remembers, by name.
    pub bytes: Vec<(&'static str, Vec<u8>)>,
}

/// Which run a checkpoint belongs to: what kind of tokenizer, its settings, data, frozen networks.
///
/// # Errors
/// None that a caller can cause: settings are always JSON.
pub fn identity(kind: &str, config: &impl Serialize, data: &str, frozen: &str) -> Result<String, Failure> {
    let config = serde_json::to_value(config).context(|| "cannot write the settings down".into())?;
    let mut run = serde_json::json!({ "config": config, "data": data, "perceptual": frozen });
    if let (true, Some(fields)) = (kind != FIRST_KIND, run.as_object_mut()) {
        fields.insert("kind".into(), kind.into());
    }
    Ok(run.to_string())
}

impl Checkpoint {
    /// Opens a checkpoint of these trainers.
    ///
    /// # Errors
    /// A file that is none, or not whole.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        let file = SafetensorsFile::open(path)?;
        match file.metadata("format") {
            Some(FORMAT) => {}
            Some(other) => {
                return Err(Failure::new(format!("`{}` is `{other}`, expected `{FORMAT}`", path.display())));
            }
            None => return Err(Failure::new(format!("`{}` is not a checkpoint of these trainers", path.display()))),
        }
        let refuse = || format!("cannot read the settings in `{}`", path.display());
        let run = serde_json::from_str(file.metadata("run").unwrap_or_default()).context(refuse)?;
        Ok(Self { file, run })
    }

    /// Opens a checkpoint of one kind of tokenizer.
    ///
    /// # Errors
    /// As [`open`](Self::open); one of another kind.
    pub fn of_kind(path: &Path, kind: &str) -> Result<Self, Failure> {
        let checkpoint = Self::open(path)?;
        match checkpoint.kind() {
            found if found == kind => Ok(checkpoint),
            found => Err(Failure::new(format!(
                "`{}` is a checkpoint of a {found}, expected one of a {kind}",
                path.display()
            ))),
        }
    }

    /// Opens a checkpoint to go on with the run that [`identity`] names.
    ///
    /// # Errors
    /// As [`open`](Self::open); one of another run, with both.
    pub fn of_run(path: &Path, run: &str) -> Result<Self, Failure> {
        let checkpoint = Self::open(path)?;
        let there = checkpoint.file.metadata("run").unwrap_or_default();
        match there == run {
            true => Ok(checkpoint),
            false => Err(Failure::new(format!(
                "`{}` belongs to another run; resume with the same options and data, or choose another --out\n  \
                 there: {there}\n  here:  {run}",
                path.display()
            ))),
        }
    }

    /// Writes a checkpoint.
    pub(super) fn write(path: &Path, run: &str, tensors: &[Tensor<'_>]) -> Result<(), Failure> {
        let metadata = [("format", FORMAT.to_owned()), ("run", run.to_owned())];
        write_safetensors(path, tensors, &metadata.map(|(key, text)| (key.to_owned(), text)))
    }

    /// Its path, for messages.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// What kind of tokenizer it is of: `vqgan`, `vqvae`, `divae`, `mlp_vqvae`.
    pub fn kind(&self) -> &str {
        self.run["kind"].as_str().unwrap_or(FIRST_KIND)
    }

    /// The name of the data that it was trained on.
    pub fn data(&self) -> &str {
        self.run["data"].as_str().unwrap_or_default()
    }

    /// Its settings.
    ///
    /// # Errors
    /// Settings of another kind of tokenizer.
    pub fn config<C: DeserializeOwned>(&self) -> Result<C, Failure> {
        let refuse = || format!("cannot read the settings in `{}`", self.path().display());
        serde_json::from_value(self.run["config"].clone()).context(refuse)
    }

    /// Steps that were taken.
    ///
    /// # Errors
    /// A damaged file.
    pub fn step(&mut self) -> Result<u64, Failure> {
        let mut step = [0u64];
        self.fill("step", &mut step)?;
        Ok(step[0])
    }

    /// Whether any tensor's name begins so.
    pub fn has(&self, prefix: &str) -> bool {
        self.file.names().iter().any(|name| name.starts_with(prefix))
    }

    /// A whole tensor, which must have as many values as there is room for.
    ///
    /// # Errors
    /// A missing tensor, or one of another length.
    pub fn fill<T: Scalar>(&mut self, name: &str, to: &mut [T]) -> Result<(), Failure> {
        learning::fill(to, &mut self.file, name)
    }

    /// The tensors.
    pub fn file(&mut self) -> &mut SafetensorsFile {
        &mut self.file
    }

    /// A module of the tensors under `prefix`.
    ///
    /// # Errors
    /// As [`load_module`].
    pub fn module<B: Backend, M: Module<B>>(&mut self, prefix: &str, module: M) -> Result<M, Failure> {
        load_module(module, prefix, &mut self.file)
    }

    /// An optimizer with the moments that were saved under these names.
    ///
    /// # Errors
    /// Moments that are missing or damaged.
    pub fn optimizer<M: AutodiffModule<B>, B: AutodiffBackend>(
        &mut self,
        [weights, rest]: [&str; 2],
        config: &OptimizerConfig,
        device: &B::Device,
    ) -> Result<Optimizer<M, B>, Failure> {
        let moments = [self.file.read(weights)?, self.file.read(rest)?];
        Optimizer::new(config).restore(moments, device)
    }
}

/// Fills a module from a file's tensors under `prefix`.
///
/// # Errors
/// A missing tensor, or one of another shape, by name.
pub fn load_module<B: Backend, M: Module<B>>(
    module: M,
    prefix: &str,
    file: &mut SafetensorsFile,
) -> Result<M, Failure> {
    load(module, |name| {
        let name = format!("{prefix}{name}");
        let shape = file.info(&name).map(|(_, shape)| shape).unwrap_or_default();
        Ok(HostTensor { shape, values: file.read(&name)? })
    })
}
