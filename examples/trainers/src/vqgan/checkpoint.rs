//! All that a training needs to go on, in one file, whole or absent.

use std::path::Path;

use burn::module::Module;
use burn::tensor::backend::Backend;

use super::config::Config;
use super::trainer::{Averaged, Opponent, TrainBackend, Trainer};
use crate::common::failure::{Context, Failure};
use crate::common::learning;
use crate::common::tensors::{SafetensorsFile, Tensor, write_safetensors};
use crate::optim::Optimizer;
use crate::params::{HostTensor, NamedTensors, load, tensors};

/// Its first line, so to say.
pub(super) const FORMAT: &str = "vq-kernels trainers checkpoint 1";

/// Prefixes of tensor names.
pub(super) const MODEL: &str = "model.";
pub(super) const AVERAGE: &str = "average.";
pub(super) const QUANTIZER: &str = "quantizer.";
pub(super) const AVERAGE_QUANTIZER: &str = "average_quantizer.";
const DISCRIMINATOR: &str = "discriminator.";
const MOMENTS: [&str; 2] = ["moments.weights", "moments.rest"];
const DISCRIMINATOR_MOMENTS: [&str; 2] = ["discriminator_moments.weights", "discriminator_moments.rest"];

/// Frozen centres are in their own file, which the configuration names by its hash.
fn is_trained(name: &str) -> bool {
    name != "source"
}

/// Which run a checkpoint belongs to: settings, data, frozen networks.
///
/// # Errors
/// None that a caller can cause: settings are always JSON.
pub fn identity(config: &Config, data: &str, perceptual: &str) -> Result<String, Failure> {
    let config = serde_json::to_value(config).context(|| "cannot write the settings down".into())?;
    Ok(serde_json::json!({ "config": config, "data": data, "perceptual": perceptual }).to_string())
}

impl<B: TrainBackend> Trainer<B> {
    /// Writes all that is needed to go on.
    ///
    /// # Errors
    /// Where the file cannot be written; what was under this name before then stays.
    pub fn save(&self, path: &Path, run: &str) -> Result<(), Failure> {
        let mut named = prefixed(MODEL, tensors(&self.model));
        let mut bytes: Vec<(&str, Vec<u8>)> = MOMENTS.into_iter().zip(self.optimizer.state()?).collect();
        if let Some(Opponent { network, optimizer }) = &self.opponent {
            named.extend(prefixed(DISCRIMINATOR, tensors(network)));
            bytes.extend(DISCRIMINATOR_MOMENTS.into_iter().zip(optimizer.state()?));
        }
        let averaged = self.averaged.as_ref();
        if let Some(Averaged { model, .. }) = averaged {
            named.extend(prefixed(AVERAGE, tensors(model)));
        }
        if let Some((name, _)) = named.iter().find(|(_, tensor)| tensor.values.iter().any(|x| !x.is_finite())) {
            let step = self.step;
            return Err(Failure::new(format!("step {step}: `{name}` is not finite; the last checkpoint still stands")));
        }
        let quantizer = self.quantizer.read(Clone::clone);
        let step = [self.step];
        let mut all: Vec<Tensor<'_>> =
            named.iter().map(|(name, tensor)| Tensor::new(name, &tensor.shape, &tensor.values)).collect();
        all.extend(bytes.iter().map(|(name, bytes)| Tensor::new(*name, &[bytes.len()], bytes.as_slice())));
        all.extend(learning::quantizer_tensors(QUANTIZER, &quantizer, is_trained));
        all.extend(learning::adam_tensors(QUANTIZER, &self.adam));
        if let Some(Averaged { quantizer, .. }) = averaged {
            all.extend(learning::quantizer_tensors(AVERAGE_QUANTIZER, quantizer, is_trained));
        }
        all.push(Tensor::new("last_hit", &[self.last_hit.len()], &self.last_hit));
        all.push(Tensor::new("step", &[1], &step));
        let metadata = [("format", FORMAT.to_owned()), ("run", run.to_owned())];
        write_safetensors(path, &all, &metadata.map(|(key, text)| (key.to_owned(), text)))
    }

    /// Takes up what [`save`](Self::save) wrote for the same `run`.
    ///
    /// # Errors
    /// A file of another program or run, or damaged; the training is then used up.
    pub fn resume(mut self, path: &Path, run: &str) -> Result<Self, Failure> {
        let mut file = open(path)?;
        let there = file.metadata("run").unwrap_or_default().to_owned();
        if there != run {
            return Err(Failure::new(format!(
                "`{}` belongs to another run; resume with the same options and data, or choose another --out\n  \
                 there: {there}\n  here:  {run}",
                path.display()
            )));
        }
        self.model = load_module(self.model, MODEL, &mut file)?;
        let moments = read_bytes(&mut file, MOMENTS)?;
        self.optimizer = Optimizer::new(&self.config.optimizer).restore(moments, &self.device)?;
        if let Some(opponent) = self.opponent {
            let network = load_module(opponent.network, DISCRIMINATOR, &mut file)?;
            let moments = read_bytes(&mut file, DISCRIMINATOR_MOMENTS)?;
            let optimizer = Optimizer::new(&self.config.optimizer).restore(moments, &self.device)?;
            self.opponent = Some(Opponent { network, optimizer });
        }
        if let Some(mut averaged) = self.averaged {
            averaged.model = load_module(averaged.model, AVERAGE, &mut file)?;
            learning::restore_quantizer(AVERAGE_QUANTIZER, &mut averaged.quantizer, &mut file, is_trained)?;
            self.averaged = Some(averaged);
        }
        self.quantizer.with(|quantizer| learning::restore_quantizer(QUANTIZER, quantizer, &mut file, is_trained))?;
        learning::restore_adam(QUANTIZER, &mut self.adam, &mut file)?;
        learning::fill(&mut self.last_hit, &mut file, "last_hit")?;
        let mut step = [0u64];
        learning::fill(&mut step, &mut file, "step")?;
        [self.step] = step;
        if self.step > self.config.steps {
            let (step, steps) = (self.step, self.config.steps);
            return Err(Failure::new(format!("`{}` is at step {step} of a run of {steps}", path.display())));
        }
        Ok(self)
    }
}

/// Opens a checkpoint of these trainers.
pub(super) fn open(path: &Path) -> Result<SafetensorsFile, Failure> {
    let file = SafetensorsFile::open(path)?;
    match file.metadata("format") {
        Some(FORMAT) => Ok(file),
        Some(other) => Err(Failure::new(format!("`{}` is `{other}`, expected `{FORMAT}`", path.display()))),
        None => Err(Failure::new(format!("`{}` is not a checkpoint of these trainers", path.display()))),
    }
}

/// Fills a module from the tensors under `prefix`.
pub(super) fn load_module<B: Backend, M: Module<B>>(
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

fn prefixed(prefix: &str, named: NamedTensors) -> NamedTensors {
    named.into_iter().map(|(name, tensor)| (format!("{prefix}{name}"), tensor)).collect()
}

fn read_bytes(file: &mut SafetensorsFile, names: [&str; 2]) -> Result<[Vec<u8>; 2], Failure> {
    let [first, second] = names;
    Ok([file.read(first)?, file.read(second)?])
}
