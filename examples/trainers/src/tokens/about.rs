//! What a tokenizer is, as its files of tokens have it.

use core::fmt;

use serde::{Deserialize, Serialize};

use crate::data::maps::Modality;

/// What a tokenizer makes tokens of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sample {
    /// Pictures, maps and vectors of a known meaning.
    Map {
        /// The meaning.
        modality: Modality,
        /// Height and width; 1 of a vector.
        size: usize,
    },
    /// Another network's features.
    Features {
        /// Their number at each position.
        channels: usize,
        /// Height and width.
        size: usize,
    },
    /// Sentences.
    Text,
}

impl Sample {
    /// Channels, height and width; of a text, nothing.
    pub fn shape(&self) -> [usize; 3] {
        match *self {
            Self::Map { modality, size } => [modality.channels(), size, size],
            Self::Features { channels, size } => [channels, size, size],
            Self::Text => [0; 3],
        }
    }

    /// Numbers of a sample.
    pub fn values(&self) -> usize {
        self.shape().iter().product()
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Map { modality, .. } if modality.is_vector() => write!(f, "{modality}"),
            Self::Map { modality, size } => write!(f, "{modality} of {size}x{size}"),
            Self::Features { channels, size } => write!(f, "features of {channels}x{size}x{size}"),
            Self::Text => f.write_str("text"),
        }
    }
}

/// What a tokenizer is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct About {
    /// `vqgan`, `vqvae`, `divae`, `mlp_vqvae` or `wordpiece`.
    pub kind: String,
    /// Its file.
    pub name: String,
    /// SHA-256, in hexadecimal: of a checkpoint's bytes, of a vocabulary's content.
    pub hash: String,
    /// How many different tokens there are: they are `0..codes`.
    pub codes: usize,
    /// Rows and columns of a sample's tokens, in raster order; 0 of a text, which has as many as it takes.
    pub grid: [usize; 2],
    /// What they are tokens of.
    pub sample: Sample,
}

impl About {
    /// Tokens of a sample; `None` of a text.
    pub fn tokens(&self) -> Option<usize> {
        (self.sample != Sample::Text).then(|| self.grid.iter().product())
    }

    /// In a few words, for messages.
    pub fn words(&self) -> String {
        let Self { kind, name, hash, .. } = self;
        format!("the {kind} `{name}` (SHA-256 {})", hash.get(..12).unwrap_or(hash))
    }
}
