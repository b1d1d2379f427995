//! Another tokenizer's encoder and codes, which are not trained further.

use std::path::Path;

use burn::module::{Module, Param};
use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};
use sha2::{Digest, Sha256};

use super::config::Config;
use super::model::Divae;
use super::tokenizer;
use crate::codebook::hex;
use crate::common::failure::{Context, Failure};
use crate::nets::Encoder;
use crate::nets::vit::{VitConfig, VitEncoder};
use crate::params::{load_named, tensors};
use crate::quantize::{QuantizeBackend, VectorQuantizer};
use crate::shell::{Checkpoint, Codes, Files, SharedPool};
use crate::vqvae;

/// An encoder and its codes.
#[derive(Clone, Debug)]
pub(super) struct Frozen<B: QuantizeBackend> {
    /// From samples to latents.
    pub encoder: VitEncoder<B>,
    /// The codes.
    pub quantizer: VectorQuantizer,
    /// The encoder's sizes.
    pub config: VitConfig,
    /// The codes' settings.
    pub codes: Codes,
}

impl<B: QuantizeBackend> Frozen<B> {
    /// Of a checkpoint of `train_vqvae` or `train_divae`, or of a run's directory.
    ///
    /// # Errors
    /// A file of another kind, or damaged.
    pub fn open(path: &Path, pool: Option<SharedPool>, device: &B::Device) -> Result<Self, Failure> {
        let path = &Files::checkpoint_at(path);
        let kind = Checkpoint::open(path)?.kind().to_owned();
        match kind.as_str() {
            "vqvae" => {
                let tokenizer = vqvae::tokenizer::Tokenizer::<B>::open(path, pool, device.clone())?;
                let (config, model) = (tokenizer.config, tokenizer.model);
                match model.encoder {
                    Encoder::Vit(encoder) if model.cls_emb.is_none() => Ok(Self {
                        encoder,
                        quantizer: tokenizer.quantizer,
                        config: config.encoder,
                        codes: config.codes,
                    }),
                    _ => Err(Failure::new(format!(
                        "`{}` is a tokenizer of classes or of convolutions: a frozen encoder must be a transformer over images",
                        path.display()
                    ))),
                }
            }
            "divae" => {
                let tokenizer = tokenizer::Tokenizer::<B>::open(path, pool, device.clone())?;
                let config = tokenizer.config;
                let (encoder, quantizer) = (tokenizer.model.encoder, tokenizer.quantizer);
                Ok(Self { encoder, quantizer, config: config.encoder, codes: config.codes })
            }
            other => Err(Failure::new(format!(
                "`{}` is a checkpoint of a {other}: an encoder is taken from one of train_vqvae or train_divae",
                path.display()
            ))),
        }
    }

    /// Fits a configuration to this encoder: its sizes, codes and hash.
    ///
    /// # Errors
    /// An encoder of other channels or of images of another size.
    pub fn fit(&self, config: &mut Config) -> Result<(), Failure> {
        let (here, there) = (config.kind.channels(), self.config.channels);
        if here != there {
            return Err(Failure::new(format!(
                "--encoder: it takes {there} channels, and {} has {here}",
                config.kind.modality()
            )));
        }
        config.decoder.condition = self.codes.dim;
        config.encoder = self.config.clone();
        config.codes = self.codes.clone();
        config.frozen = Some(self.hash()?);
        config.check().context(|| "--encoder does not go with the other settings".into())
    }

    /// Puts encoder and codes into a model to be trained: they are saved with it, and not trained.
    ///
    /// # Errors
    /// None that a caller can cause: [`fit`](Self::fit) made the model for them.
    pub fn put<T: Backend>(&self, model: Divae<T>, device: &T::Device) -> Result<Divae<T>, Failure> {
        let encoder = load_named(model.encoder, &tensors(&self.encoder), "a frozen encoder")?.no_grad();
        let values = TensorData::new(self.codebook()?, [self.codes.codes, self.codes.dim]);
        let codebook = Param::from_tensor(Tensor::from_data(values, device)).set_require_grad(false);
        Ok(Divae { encoder, codebook: Some(codebook), ..model })
    }

    /// SHA-256 of all values.
    fn hash(&self) -> Result<String, Failure> {
        let mut hash = Sha256::new();
        for (name, tensor) in tensors(&self.encoder) {
            hash.update(name);
            tensor.values.iter().for_each(|value| hash.update(value.to_le_bytes()));
        }
        let codebook = self.codebook()?;
        codebook.iter().for_each(|value| hash.update(value.to_le_bytes()));
        Ok(hex(hash))
    }

    /// The codes, `[codes, dim]`.
    fn codebook(&self) -> Result<Vec<f32>, Failure> {
        Ok(self.quantizer.read(|quantizer| quantizer.codebook().data().to_vec())?)
    }
}
