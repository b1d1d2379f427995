//! Files of tokens.

use core::ops::Range;
use std::path::Path;

use clap::ValueEnum;

use super::about::About;
use crate::common::failure::{Context, Failure};
use crate::common::tensors::{Dtype, SafetensorsFile, Tensor, write_safetensors};
use crate::data::maps::Scale;

/// Its first line, so to say.
const FORMAT: &str = "vq-kernels tokens 1";

/// Tensors: tokens; of texts where each begins and the last ends; of distances the mean and the deviation of each map.
const TOKENS: &str = "tokens";
const OFFSETS: &str = "offsets";
const SCALES: &str = "scales";

/// How many bits a token takes in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Width {
    /// 32: any codebook.
    U32,
    /// 16: at most 65,536 codes.
    U16,
}

impl Width {
    /// Refuses a codebook whose tokens do not all fit.
    ///
    /// # Errors
    /// Names both, and the width that has room.
    pub fn check(self, codes: usize) -> Result<(), Failure> {
        let most = match self {
            Self::U32 => 1 << 32,
            Self::U16 => 1_u64 << 16,
        };
        match codes as u64 <= most {
            true => Ok(()),
            false => Err(Failure::new(format!(
                "tokens of a codebook of {codes} codes do not fit into 16 bits, which hold {most}: give --width u32"
            ))),
        }
    }
}

/// Tokens of samples, with the tokenizer that made them.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenFile {
    /// The tokenizer.
    pub about: About,
    /// The samples' names, in order; none where they are lines of a text.
    pub names: Vec<String>,
    /// All tokens, sample by sample.
    pub tokens: Vec<u32>,
    /// Where the tokens of each text begin, and where the last ones end: one more than there are texts. Nothing where all
    /// samples have as many tokens.
    pub offsets: Vec<u64>,
    /// What each map of distances was standardised by, in metres, which no token tells; else nothing.
    pub scales: Vec<Scale>,
}

impl TokenFile {
    /// No samples yet.
    pub fn new(about: About) -> Self {
        let offsets = if about.tokens().is_none() { vec![0] } else { Vec::new() };
        Self { about, names: Vec::new(), tokens: Vec::new(), offsets, scales: Vec::new() }
    }

    /// How many samples.
    pub fn len(&self) -> usize {
        match self.about.tokens() {
            Some(each) => self.tokens.len() / each.max(1),
            None => self.offsets.len().saturating_sub(1),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The tokens of samples, as many of them as there are.
    pub fn of(&self, samples: Range<usize>) -> &[u32] {
        let place = |sample: usize| match self.about.tokens() {
            Some(each) => sample.saturating_mul(each),
            None => self.offsets.get(sample).map_or(self.tokens.len(), |&offset| offset as usize),
        };
        let end = place(samples.end).min(self.tokens.len());
        self.tokens.get(place(samples.start).min(end)..end).unwrap_or_default()
    }

    /// Refuses a token that the codebook does not have.
    ///
    /// # Errors
    /// Names the token, its sample and place, and the codebook's size.
    pub fn check_tokens(&self, path: &Path) -> Result<(), Failure> {
        let codes = self.about.codes;
        let Some(at) = self.tokens.iter().position(|&token| token as usize >= codes) else { return Ok(()) };
        let sample = (0..self.len()).find(|&sample| self.of(0..sample + 1).len() > at).unwrap_or_default();
        Err(Failure::new(format!(
            "`{}`: token {} of sample {sample}, place {}, does not exist: the codebook has {codes} codes",
            path.display(),
            self.tokens[at],
            at - self.of(0..sample).len()
        )))
    }

    /// Writes the file, whole or not at all.
    ///
    /// # Errors
    /// Where it cannot be written; tokens that do not exist or do not fit into the width.
    pub fn save(&self, path: &Path, width: Width) -> Result<(), Failure> {
        width.check(self.about.codes)?;
        self.check_tokens(path)?;
        let describe = || format!("cannot write `{}`", path.display());
        let metadata = [
            ("format", FORMAT.to_owned()),
            ("tokenizer", serde_json::to_string(&self.about).context(describe)?),
            ("names", serde_json::to_string(&self.names).context(describe)?),
        ];
        let metadata = metadata.map(|(key, text)| (key.to_owned(), text));
        let shape = match self.about.tokens() {
            Some(each) => vec![self.len(), each],
            None => vec![self.tokens.len()],
        };
        let narrow: Vec<u16> = match width {
            // None is cut: `check` and `check_tokens` hold them below 65,536.
            Width::U16 => self.tokens.iter().filter_map(|&token| u16::try_from(token).ok()).collect(),
            Width::U32 => Vec::new(),
        };
        let scales: Vec<f32> = self.scales.iter().flat_map(|&Scale { mean, deviation }| [mean, deviation]).collect();
        let mut tensors = vec![match width {
            Width::U32 => Tensor::new(TOKENS, &shape, &self.tokens),
            Width::U16 => Tensor::new(TOKENS, &shape, &narrow),
        }];
        if self.about.tokens().is_none() {
            tensors.push(Tensor::new(OFFSETS, &[self.offsets.len()], &self.offsets));
        }
        if !scales.is_empty() {
            tensors.push(Tensor::new(SCALES, &[self.scales.len(), 2], &scales));
        }
        write_safetensors(path, &tensors, &metadata)
    }

    /// Reads a file, and checks that it fits together; the tokens themselves are checked by
    /// [`check_tokens`](Self::check_tokens).
    ///
    /// # Errors
    /// A file that cannot be read, is no file of tokens, or does not fit together.
    pub fn load(path: &Path) -> Result<Self, Failure> {
        let mut file = SafetensorsFile::open(path)?;
        let refuse = |why: String| Failure::new(format!("`{}` is no sound file of tokens: {why}", path.display()));
        match file.metadata("format") {
            Some(FORMAT) => {}
            Some(other) => return Err(refuse(format!("it is `{other}`, expected `{FORMAT}`"))),
            None => return Err(refuse("it does not say so; `tokenize` makes such a file".into())),
        }
        let text = |key: &str| file.metadata(key).unwrap_or_default().to_owned();
        let what = || refuse("its description cannot be read".into()).to_string();
        let about: About = serde_json::from_str(&text("tokenizer")).context(what)?;
        let names: Vec<String> = serde_json::from_str(&text("names")).context(what)?;
        let Some((dtype, shape)) = file.info(TOKENS) else {
            return Err(refuse(format!("it has no tensor `{TOKENS}`")));
        };
        let tokens: Vec<u32> = match dtype {
            Dtype::U16 => file.read::<u16>(TOKENS)?.into_iter().map(u32::from).collect(),
            Dtype::U32 => file.read(TOKENS)?,
            other => return Err(refuse(format!("its tokens are {other}, expected U32 or U16"))),
        };
        let (samples, offsets) = match (about.tokens(), shape.as_slice()) {
            (Some(each), &[samples, found]) if found == each && each > 0 => (samples, Vec::new()),
            (None, &[_]) => {
                let offsets: Vec<u64> = file.read(OFFSETS)?;
                let ends = [offsets.first().copied(), offsets.last().copied()];
                if ends != [Some(0), Some(tokens.len() as u64)] || !offsets.is_sorted() {
                    return Err(refuse(format!("its offsets do not divide its {} tokens", tokens.len())));
                }
                (offsets.len() - 1, offsets)
            }
            (Some(each), _) => return Err(refuse(format!("its tokens are {shape:?}, expected [samples, {each}]"))),
            (None, _) => return Err(refuse(format!("its tokens are {shape:?}, expected one after the other"))),
        };
        if !names.is_empty() && names.len() != samples {
            return Err(refuse(format!("it has {} names for {samples} samples", names.len())));
        }
        let scales = match file.info(SCALES) {
            None => Vec::new(),
            Some((_, shape)) if shape == [samples, 2] => {
                scales(&file.read(SCALES)?).ok_or_else(|| refuse("its scales are no numbers, or not above 0".into()))?
            }
            Some((_, shape)) => return Err(refuse(format!("its scales are {shape:?}, expected [{samples}, 2]"))),
        };
        Ok(Self { about, names, tokens, offsets, scales })
    }
}

/// Means and deviations in turn.
fn scales(values: &[f32]) -> Option<Vec<Scale>> {
    let (pairs, _) = values.as_chunks();
    let scale = |&[mean, deviation]: &[f32; 2]| {
        (mean.is_finite() && deviation.is_finite() && deviation > 0.0).then_some(Scale { mean, deviation })
    };
    pairs.iter().map(scale).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::data::maps::Modality;
    use crate::tokens::about::Sample;

    fn about(codes: usize, text: bool) -> About {
        let sample = if text { Sample::Text } else { Sample::Map { modality: Modality::Rgb, size: 8 } };
        let grid = if text { [0, 0] } else { [1, 3] };
        About { kind: "vqgan".into(), name: "a/b".into(), hash: "0123456789abcdef".into(), codes, grid, sample }
    }

    fn refusal<T>(result: Result<T, Failure>, expected: &str) {
        let failure = result.err().unwrap_or_else(|| panic!("not refused: {expected}")).to_string();
        assert!(failure.contains(expected), "{failure}");
    }

    #[test]
    fn tokens_come_back_in_either_width() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("t.safetensors");
        let grid = TokenFile {
            names: vec!["x".into(), "ä/\"y".into()],
            tokens: vec![0, 65_535, 7, 1, 2, 3],
            ..TokenFile::new(about(65_536, false))
        };
        let text =
            TokenFile { tokens: vec![5, 6, 7, 8], offsets: vec![0, 3, 3, 4], ..TokenFile::new(about(30_000, true)) };
        for (file, samples) in [(&grid, 2), (&text, 3)] {
            for width in [Width::U16, Width::U32] {
                file.save(&path, width).expect("a file");
                assert_eq!(&TokenFile::load(&path).expect("the file"), file);
            }
            assert_eq!(file.len(), samples);
        }
        assert_eq!((grid.of(1..2), grid.of(0..9)), (&[1, 2, 3][..], &grid.tokens[..]));
        assert_eq!((text.of(0..1), text.of(1..2), text.of(1..3)), (&[5, 6, 7][..], &[][..], &[8][..]));
        let wide = TokenFile { tokens: vec![65_536, 0, 0], ..TokenFile::new(about(65_537, false)) };
        refusal(wide.save(&path, Width::U16), "65537 codes do not fit into 16 bits");
        wide.save(&path, Width::U32).expect("a file");
        assert_eq!(TokenFile::load(&path).expect("the file").tokens, wide.tokens);
    }

    #[test]
    fn scales_come_back_or_are_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("t.safetensors");
        let scale = |mean, deviation| Scale { mean, deviation };
        let file = TokenFile {
            tokens: vec![1; 6],
            scales: vec![scale(2.5, 0.5), scale(-1.0, 3.0)],
            ..TokenFile::new(about(10, false))
        };
        file.save(&path, Width::U32).expect("a file");
        assert_eq!(TokenFile::load(&path).expect("the file"), file);
        for (scales, expected) in [
            (vec![scale(1.0, 1.0)], "its scales are [1, 2], expected [2, 2]"),
            (vec![scale(1.0, 1.0), scale(f32::NAN, 1.0)], "no numbers"),
            (vec![scale(1.0, 1.0), scale(1.0, 0.0)], "not above 0"),
        ] {
            TokenFile { scales, ..file.clone() }.save(&path, Width::U32).expect("a file");
            refusal(TokenFile::load(&path), expected);
        }
    }

    #[test]
    fn tokens_that_do_not_exist_are_named() {
        let path = Path::new("t");
        let file = TokenFile { tokens: vec![0, 1, 9, 1, 10, 1], ..TokenFile::new(about(10, false)) };
        refusal(file.check_tokens(path), "token 10 of sample 1, place 1, does not exist: the codebook has 10 codes");
        let file = TokenFile { tokens: vec![9, 9, 11], offsets: vec![0, 2, 2, 3], ..TokenFile::new(about(10, true)) };
        refusal(file.check_tokens(path), "token 11 of sample 2, place 0");
        refusal(file.save(path, Width::U32), "token 11 of sample 2");
    }

    #[test]
    fn only_sound_files_are_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("t.safetensors");
        let file = TokenFile { tokens: vec![1; 6], ..TokenFile::new(about(10, false)) };
        let save = |file: &TokenFile| file.save(&path, Width::U32).expect("a file");
        save(&TokenFile { names: vec!["one".into()], ..file.clone() });
        refusal(TokenFile::load(&path), "1 names for 2 samples");
        let uneven = TokenFile { about: About { grid: [2, 2], ..about(10, false) }, ..file.clone() };
        assert!(uneven.save(&path, Width::U32).is_err_and(|failure| failure.to_string().contains("t.safetensors")));
        for offsets in [vec![], vec![0], vec![0, 5], vec![1, 6], vec![0, 4, 2, 6]] {
            save(&TokenFile { offsets, about: about(10, true), ..file.clone() });
            refusal(TokenFile::load(&path), "its offsets do not divide its 6 tokens");
        }
        save(&file);
        let whole = fs::read(&path).expect("bytes");
        fs::write(&path, &whole[..whole.len() - 1]).expect("damage");
        refusal(TokenFile::load(&path), "not a sound safetensors file");
        write_safetensors(&path, &[Tensor::new("tokens", &[1], &[1_u32])], &[]).expect("a file");
        refusal(TokenFile::load(&path), "it does not say so");
    }
}
