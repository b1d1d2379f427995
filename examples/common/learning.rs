//! A quantizer with its optimizer: a step of both, and both in a checkpoint.

use vq_kernels::Cpu;
use vq_kernels::quantizer::{Learner, Quantizer, StateMut, StateRef};

use super::adam::{Adam, Constants};
use super::failure::{Context, Failure};
use super::tensors::{SafetensorsFile, Scalar, Tensor};

/// Room for the moments of all that `quantizer` trains by gradient.
pub fn optimizer(quantizer: &Quantizer, constants: Constants) -> Adam {
    let mut adam = Adam { constants, ..Adam::default() };
    let config = quantizer.config();
    for (name, values) in quantizer.state() {
        let StateRef::F32(values) = values else { continue };
        let codes = matches!(name, "codebook" | "latent");
        let trained = match codes {
            true => config.learner == Learner::Gradient && (name == "latent") == config.normalize,
            false => name.ends_with(".weight") || name.ends_with(".bias"),
        };
        if trained {
            adam.register(name, values.len(), if codes { config.dim } else { values.len() });
        }
    }
    adam
}

/// The optimizer's part of a step: forgets the moments of restarted codes, and updates what is trained.
pub fn apply(quantizer: &mut Quantizer, adam: &mut Adam, cpu: &Cpu, lr: f64) -> Result<(), Failure> {
    forget(adam, quantizer.last_restarted().iter().map(|restarted| restarted.code));
    Ok(quantizer.apply(cpu, |update| adam.update(update, lr))?)
}

/// Forgets the moments of codes that are others now.
pub fn forget(adam: &mut Adam, restarted: impl IntoIterator<Item = u32>) {
    for code in restarted {
        adam.forget("codebook", code as usize);
        adam.forget("latent", code as usize);
    }
}

/// The quantizer's state, under its own names: of the tensors that `keep` asks for.
pub fn quantizer_tensors<'a>(prefix: &str, quantizer: &'a Quantizer, keep: fn(&str) -> bool) -> Vec<Tensor<'a>> {
    let tensor = |(name, values)| {
        let name = format!("{prefix}{name}");
        match values {
            StateRef::F32(values) => Tensor::new(name, &[values.len()], values),
            StateRef::F64(values) => Tensor::new(name, &[values.len()], values),
            StateRef::U64(values) => Tensor::new(name, &[values.len()], values),
        }
    };
    quantizer.state().into_iter().filter(|(name, _)| keep(name)).map(tensor).collect()
}

/// Takes up what [`quantizer_tensors`] wrote; what was not kept stays as it is.
pub fn restore_quantizer(
    prefix: &str,
    quantizer: &mut Quantizer,
    file: &mut SafetensorsFile,
    keep: fn(&str) -> bool,
) -> Result<(), Failure> {
    quantizer.restore(|name, place| {
        if !keep(name) {
            return Ok(());
        }
        let name = format!("{prefix}{name}");
        match place {
            StateMut::F32(values) => fill(values, file, &name),
            StateMut::F64(values) => fill(values, file, &name),
            StateMut::U64(values) => fill(values, file, &name),
        }
    })
}

/// The optimizer's moments.
pub fn adam_tensors<'a>(prefix: &str, adam: &'a Adam) -> Vec<Tensor<'a>> {
    let mut tensors = Vec::new();
    for (name, moments) in &adam.tensors {
        let [first, second, updates] = moment_names(prefix, name);
        tensors.push(Tensor::new(first, &[moments.first.len()], &moments.first));
        tensors.push(Tensor::new(second, &[moments.second.len()], &moments.second));
        tensors.push(Tensor::new(updates, &[moments.updates.len()], &moments.updates));
    }
    tensors
}

/// Takes up what [`adam_tensors`] wrote.
pub fn restore_adam(prefix: &str, adam: &mut Adam, file: &mut SafetensorsFile) -> Result<(), Failure> {
    for (name, moments) in &mut adam.tensors {
        let [first, second, updates] = moment_names(prefix, name);
        fill(&mut moments.first, file, &first)?;
        fill(&mut moments.second, file, &second)?;
        fill(&mut moments.updates, file, &updates)?;
    }
    Ok(())
}

fn moment_names(prefix: &str, name: &str) -> [String; 3] {
    ["first", "second", "updates"].map(|moment| format!("{prefix}adam.{name}.{moment}"))
}

/// A whole tensor of the file, which must have as many values as there is room for.
pub fn fill<T: Scalar>(to: &mut [T], file: &mut SafetensorsFile, name: &str) -> Result<(), Failure> {
    let values = file.read::<T>(name)?;
    if values.len() != to.len() {
        let (found, expected) = (values.len(), to.len());
        return Err(Failure::new(format!("`{name}` has {found} values, expected {expected}")))
            .context(|| format!("cannot take up `{}`", file.path().display()));
    }
    to.copy_from_slice(&values);
    Ok(())
}
