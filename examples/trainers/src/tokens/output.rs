//! Samples as files.

use std::path::{Path, PathBuf};

use clap::ValueEnum;
use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder};

use super::about::Sample;
use crate::common::failure::{At, Context, Failure};
use crate::common::files::write_atomic;
use crate::common::plots::sheet_png;
use crate::common::tensors::StreamWriter;
use crate::data::maps::{Map, Modality, picture_of};

/// Longer names of samples are cut in names of files.
const LONGEST_NAME: usize = 100;

/// What samples are written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A PNG file each; labels as the values of their pixels, all else as people look at it.
    Png,
    /// One safetensors file with the tensor `values`: `[samples, channels, height, width]`, or `[samples, values]` of vectors.
    Safetensors,
}

impl Format {
    /// What loses nothing and can be read again.
    fn of(sample: &Sample) -> Self {
        match sample {
            Sample::Map { modality: Modality::Depth | Modality::Vector { .. } | Modality::Pose, .. }
            | Sample::Features { .. }
            | Sample::Text => Self::Safetensors,
            Sample::Map { .. } => Self::Png,
        }
    }
}

/// Writes samples as they come.
pub struct Writer<'a> {
    out: &'a Path,
    sample: &'a Sample,
    names: &'a [String],
    values: Option<StreamWriter<f32>>,
    place: PathBuf,
}

impl<'a> Writer<'a> {
    /// Of `count` samples, into a directory that exists.
    ///
    /// # Errors
    /// Pictures of what has none; a file that cannot be written.
    pub fn new(
        out: &'a Path,
        sample: &'a Sample,
        format: Option<Format>,
        names: &'a [String],
        count: usize,
    ) -> Result<Self, Failure> {
        let format = format.unwrap_or_else(|| Format::of(sample));
        let [channels, height, width] = sample.shape();
        let (values, place) = match (format, sample) {
            (Format::Png, Sample::Map { .. }) => (None, out.to_owned()),
            (Format::Png, _) => {
                return Err(Failure::new(format!("{sample} has no pictures: give --format safetensors")));
            }
            (Format::Safetensors, _) => {
                let place = out.join("values.safetensors");
                let names = serde_json::to_string(names).context(|| "cannot write the names down".into())?;
                let metadata = [("names".to_owned(), names), ("samples".to_owned(), sample.to_string())];
                let shape = match sample {
                    Sample::Map { modality, .. } if modality.is_vector() => vec![count, channels],
                    _ => vec![count, channels, height, width],
                };
                (Some(StreamWriter::create(&place, "values", &shape, &metadata)?), place)
            }
        };
        Ok(Self { out, sample, names, values, place })
    }

    /// Writes samples, the first of which is number `from`.
    ///
    /// # Errors
    /// Where a file cannot be written.
    pub fn add(&mut self, from: usize, values: &[f32]) -> Result<(), Failure> {
        if let Some(writer) = &mut self.values {
            return writer.push(values);
        }
        let Sample::Map { modality, .. } = *self.sample else { return Ok(()) };
        let [channels, height, width] = self.sample.shape();
        for (number, values) in (from..).zip(values.chunks_exact(self.sample.values().max(1))) {
            let name = self.names.get(number).cloned().unwrap_or_default();
            let path = self.out.join(file_name(number, &name, modality));
            match modality {
                Modality::Segmentation { .. } => label_png(&path, values, [width, height])?,
                _ => {
                    let map = Map { name, channels, height, width, values: values.to_vec(), scale: None };
                    sheet_png(&path, &[vec![&picture_of(modality, &map)]])?;
                }
            }
        }
        Ok(())
    }

    /// Everything is written; where it is.
    ///
    /// # Errors
    /// Where a file cannot be written.
    pub fn finish(self) -> Result<PathBuf, Failure> {
        if let Some(writer) = self.values {
            writer.finish()?;
        }
        Ok(self.place)
    }
}

/// A name inside the directory, whatever the sample is called: its number, the name's harmless characters, and the ending
/// by which the modality is known again.
fn file_name(number: usize, name: &str, modality: Modality) -> String {
    // A dot in front of the last part is a folder's.
    let stem = name.rsplit_once('.').filter(|(_, ending)| !ending.contains('/')).map_or(name, |(stem, _)| stem);
    let harmless = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
    let stem: String = stem.chars().take(LONGEST_NAME).map(harmless).collect();
    let ending = match modality {
        Modality::Normals => "_normal",
        Modality::Segmentation { .. } => "_sem",
        Modality::Mask => "_mask",
        Modality::Rgb | Modality::Depth | Modality::Edges | Modality::Vector { .. } | Modality::Pose => "",
    };
    format!("{number:06}_{stem}{ending}.png")
}

/// Labels as an 8-bit grey picture; they are below 256.
fn label_png(path: &Path, labels: &[f32], [width, height]: [usize; 2]) -> Result<(), Failure> {
    // A cast saturates.
    let pixels: Vec<u8> = labels.iter().map(|&label| label as u8).collect();
    write_atomic(path, |file| {
        let encoder = PngEncoder::new(file);
        let written = encoder.write_image(&pixels, width as u32, height as u32, ExtendedColorType::L8);
        written.context(|| format!("cannot write `{}`", path.display()))
    })
}

/// Writes `text.txt`, a line each.
///
/// # Errors
/// Where it cannot be written.
pub fn write_texts(out: &Path, lines: &[String]) -> Result<PathBuf, Failure> {
    let path = out.join("text.txt");
    write_atomic(&path, |file| lines.iter().try_for_each(|line| writeln!(file, "{line}").at("write", &path)))?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_leads_out_of_the_directory() {
        for (name, expected) in [
            ("a/7.png", "000003_a_7.png"),
            ("../../etc/passwd", "000003_______etc_passwd.png"),
            ("", "000003_.png"),
            ("C:\\x\u{0}y.jpg", "000003_C__x_y.png"),
            (&"n".repeat(300), &format!("000003_{}.png", "n".repeat(100))),
        ] {
            assert_eq!(file_name(3, name, Modality::Rgb), expected);
        }
        assert_eq!(file_name(12, "a", Modality::Segmentation { classes: 3 }), "000012_a_sem.png");
    }
}
