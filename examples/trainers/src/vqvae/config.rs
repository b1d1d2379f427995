//! All that defines a run.

use serde::{Deserialize, Serialize};

use crate::common::failure::Failure;
use crate::data::Augment;
use crate::data::maps::{Resolutions, Scale};
use crate::metrics::maps::Distance;
use crate::nets::vit::VitConfig;
use crate::shell::{Codes, Settings};

/// What samples are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Modality {
    /// Colour images in [-1, 1].
    Rgb,
    /// Maps of classes, each pixel with one of so many; the encoder sees a trained vector for each.
    Labels {
        /// The number of classes.
        classes: usize,
    },
    /// Maps of another network's features.
    Features,
    /// Masks of 0 and 1.
    Masks,
}

impl Modality {
    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rgb => "RGB",
            Self::Labels { .. } => "labels",
            Self::Features => "features",
            Self::Masks => "masks",
        }
    }
}

/// How a reconstruction is judged in training.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Reconstruction {
    /// Mean squared error.
    L2,
    /// Mean absolute error.
    L1,
    /// Squared near 0, absolute further away: 4M's for features.
    SmoothL1,
    /// 1 − cosine over the channels of each position.
    Cosine,
    /// Cross-entropy of classes.
    CrossEntropy,
    /// Binary cross-entropy of masks.
    Bce,
    /// What 4M has under that name, a softmax behind a sigmoid: for comparison.
    #[value(name = "bce-4m")]
    Bce4m,
}

impl Reconstruction {
    /// The distance that it is of two maps of numbers; none of classes and masks.
    pub fn distance(self) -> Option<Distance> {
        match self {
            Self::L2 => Some(Distance::L2),
            Self::L1 => Some(Distance::L1),
            Self::SmoothL1 => Some(Distance::SmoothL1),
            Self::Cosine => Some(Distance::Cosine),
            Self::CrossEntropy | Self::Bce | Self::Bce4m => None,
        }
    }

    fn fits(self, modality: Modality) -> bool {
        match modality {
            Modality::Labels { .. } => self == Self::CrossEntropy,
            Modality::Masks => matches!(self, Self::Bce | Self::Bce4m),
            Modality::Rgb | Modality::Features => self.distance().is_some(),
        }
    }
}

/// All that defines a run, but its data and its frozen networks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// What samples are.
    pub modality: Modality,
    /// From samples to latents; of labels, its channels are those of a class's vector.
    pub encoder: VitConfig,
    /// From quantized latents to samples; of labels, its channels are the classes'.
    pub decoder: VitConfig,
    /// The quantizer.
    pub codes: Codes,
    /// The loss.
    pub loss: Reconstruction,
    /// Weight of the distance in a frozen network's features, of colour images.
    pub perceptual: f64,
    /// Weight of `mean ‖z − sg(e)‖²`: latents towards codes, on un-normalized latents, which keeps their volume.
    pub commitment: f64,
    /// How training crops vary.
    pub augment: Augment,
    /// Sizes that training batches have, one each by lot; without any, the networks' own. 4M adapts tokenizers so to 448 px.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sizes: Option<Resolutions>,
    /// Of features: the mean and the deviation of all values of the training set, all channels together, in which losses are also given. 4M takes
    /// features as they come, which are of about 1; SqueezeNet's are of hundreds.
    pub scale: Scale,
    /// How long, how fast, from which seed.
    pub settings: Settings,
}

impl Config {
    /// Height and width of samples.
    pub fn size(&self) -> usize {
        self.encoder.image_size
    }

    /// Tokens of a sample's side.
    pub fn grid(&self) -> usize {
        self.encoder.grid()
    }

    /// Tokens of a sample.
    pub fn tokens(&self) -> usize {
        self.grid() * self.grid()
    }

    /// # Errors
    /// The setting that does not fit, and what would.
    pub fn check(&self) -> Result<(), Failure> {
        let refuse = |what: String| Err(Failure::new(what));
        let (encoder, decoder) = (&self.encoder, &self.decoder);
        encoder.check()?;
        decoder.check()?;
        if (encoder.image_size, encoder.patch) != (decoder.image_size, decoder.patch) {
            return refuse("the encoder's and the decoder's image and patch must be equal".into());
        }
        let [inputs, outputs] = [encoder.channels, decoder.channels];
        match self.modality {
            Modality::Rgb if [inputs, outputs] != [3, 3] => {
                return refuse(format!("colour images have 3 channels, not {inputs} and {outputs}"));
            }
            Modality::Labels { classes } if classes != outputs => {
                return refuse(format!("{classes} classes take a decoder of as many channels, not of {outputs}"));
            }
            Modality::Masks if [inputs, outputs] != [1, 1] => {
                return refuse(format!("masks have 1 channel, not {inputs} and {outputs}"));
            }
            Modality::Features if inputs != outputs => {
                return refuse(format!("features of {inputs} channels cannot become features of {outputs}"));
            }
            _ => {}
        }
        if !self.loss.fits(self.modality) {
            return refuse(format!(
                "--loss {:?} is not for {}: labels have cross-entropy, masks bce or bce-4m, images and features l2, l1, smooth-l1 or cosine",
                self.loss,
                self.modality.name()
            ));
        }
        for (name, weight) in [("--perceptual-weight", self.perceptual), ("--commitment", self.commitment)] {
            if !(weight.is_finite() && weight >= 0.0) {
                return refuse(format!("{name} {weight}: expected a number of at least 0"));
            }
        }
        if self.perceptual > 0.0 && self.modality != Modality::Rgb {
            return refuse(format!("--perceptual-weight is for colour images, not for {}", self.modality.name()));
        }
        if !(self.scale.deviation > 0.0 && self.scale.deviation.is_finite() && self.scale.mean.is_finite()) {
            return refuse(format!(
                "features of mean {} and deviation {} cannot be scaled",
                self.scale.mean, self.scale.deviation
            ));
        }
        if let Some(Resolutions { min, max, step }) = self.sizes {
            let whole = |size: usize| size > 0 && size.is_multiple_of(encoder.patch);
            if self.modality == Modality::Features || ![min, max, step].into_iter().all(whole) || min > max {
                return refuse(format!(
                    "sizes from {min} to {max} by steps of {step}: give images, labels or masks, and whole patches of {}",
                    encoder.patch
                ));
            }
        }
        self.codes.check()?;
        self.augment.check()?;
        self.settings.check()
    }
}
