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
    /// A PNG file each; labels as the values of their pixels, distances of a known scale as millimetres in 16 bits, all else
    /// as people look at it.
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
    metres: bool,
}

impl<'a> Writer<'a> {
    /// Of `count` samples, into a directory that exists; `metres` says that distances are in metres.
    ///
    /// # Errors
    /// Pictures of what has none; a file that cannot be written.
    pub fn new(
        out: &'a Path,
        sample: &'a Sample,
        format: Option<Format>,
        names: &'a [String],
        count: usize,
        metres: bool,
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
                let mut metadata = vec![("names".to_owned(), names), ("samples".to_owned(), sample.to_string())];
                if metres {
                    metadata.push(("unit".to_owned(), "metre".to_owned()));
                }
                let shape = match sample {
                    Sample::Map { modality, .. } if modality.is_vector() => vec![count, channels],
                    _ => vec![count, channels, height, width],
                };
                (Some(StreamWriter::create(&place, "values", &shape, &metadata)?), place)
            }
        };
        Ok(Self { out, sample, names, values, place, metres })
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
            let path = self.out.join(file_name(number, &name, modality, self.metres));
            match modality {
                Modality::Segmentation { .. } => label_png(&path, values, [width, height])?,
                Modality::Depth if self.metres => distance_png(&path, values, [width, height])?,
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
fn file_name(number: usize, name: &str, modality: Modality, metres: bool) -> String {
    // A dot in front of the last part is a folder's.
    let stem = name.rsplit_once('.').filter(|(_, ending)| !ending.contains('/')).map_or(name, |(stem, _)| stem);
    let harmless = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
    let stem: String = stem.chars().take(LONGEST_NAME).map(harmless).collect();
    let ending = match modality {
        Modality::Normals => "_normal",
        Modality::Segmentation { .. } => "_sem",
        Modality::Mask => "_mask",
        Modality::Depth if metres => "_depth_mm",
        Modality::Rgb | Modality::Depth | Modality::Edges | Modality::Vector { .. } | Modality::Pose => "",
    };
    format!("{number:06}_{stem}{ending}.png")
}

/// Labels as an 8-bit grey picture; they are below 256.
fn label_png(path: &Path, labels: &[f32], [width, height]: [usize; 2]) -> Result<(), Failure> {
    // A cast saturates.
    let pixels: Vec<u8> = labels.iter().map(|&label| label as u8).collect();
    grey_png(path, &pixels, [width, height], ExtendedColorType::L8)
}

/// Metres as millimetres of a 16-bit grey picture, as the loader reads them: 1 at least, as 0 stands for unknown.
fn distance_png(path: &Path, metres: &[f32], size: [usize; 2]) -> Result<(), Failure> {
    let millimetres = metres.iter().map(|&metres| (metres * 1000.0).round().max(1.0) as u16);
    // The encoder takes samples in the machine's order of bytes.
    let pixels: Vec<u8> = millimetres.flat_map(u16::to_ne_bytes).collect();
    grey_png(path, &pixels, size, ExtendedColorType::L16)
}

fn grey_png(path: &Path, pixels: &[u8], [width, height]: [usize; 2], kind: ExtendedColorType) -> Result<(), Failure> {
    write_atomic(path, |file| {
        let written = PngEncoder::new(file).write_image(pixels, width as u32, height as u32, kind);
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
            assert_eq!(file_name(3, name, Modality::Rgb, false), expected);
        }
        assert_eq!(file_name(12, "a", Modality::Segmentation { classes: 3 }, false), "000012_a_sem.png");
        assert_eq!(file_name(0, "a", Modality::Depth, false), "000000_a.png");
    }

    #[test]
    fn distances_are_read_again_as_they_were() {
        use crate::data::Source;
        use crate::data::maps::{Maps, Opening};

        let folder = tempfile::tempdir().expect("a folder");
        let sample = Sample::Map { modality: Modality::Depth, size: 2 };
        let names = ["room/1".to_owned()];
        let mut writer =
            Writer::new(folder.path(), &sample, Some(Format::Png), &names, 1, true).expect("a folder to write to");
        writer.add(0, &[0.5, 1.25, 2.0, 65.0]).expect("a picture");
        writer.finish().expect("all");
        let source = Source::Path(folder.path().to_owned());
        let maps = Maps::open(Modality::Depth, &source, &Opening::default()).expect("the picture");
        let (map, scale) = (maps.map(0), maps.scale_of(0).expect("a scale"));
        assert_eq!(map.name, "000000_room_1");
        let metres: Vec<f32> = map.values.iter().map(|&value| scale.undo(value)).collect();
        for (found, expected) in metres.iter().zip([0.5, 1.25, 2.0, 65.0]) {
            assert!((found - expected).abs() < 1e-4, "{found} for {expected}");
        }
    }
}
