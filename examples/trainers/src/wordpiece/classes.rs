//! Names of classes: single tokens, whether of one word or of several.

use std::fs;
use std::path::Path;

use crate::common::failure::{At, Failure};

/// The 80 classes of COCO's things (Lin et al. 2014), as 4M lists them.
#[rustfmt::skip]
pub const COCO: [&str; 80] = [
    "airplane", "apple", "backpack", "banana", "baseball bat", "baseball glove", "bear", "bed", "bench", "bicycle",
    "bird", "boat", "book", "bottle", "bowl", "broccoli", "bus", "cake", "car", "carrot",
    "cat", "cell phone", "chair", "clock", "couch", "cow", "cup", "dining table", "dog", "donut",
    "elephant", "fire hydrant", "fork", "frisbee", "giraffe", "hair drier", "handbag", "horse", "hot dog", "keyboard",
    "kite", "knife", "laptop", "microwave", "motorcycle", "mouse", "orange", "oven", "parking meter", "person",
    "pizza", "potted plant", "refrigerator", "remote", "sandwich", "scissors", "sheep", "sink", "skateboard", "skis",
    "snowboard", "spoon", "sports ball", "stop sign", "suitcase", "surfboard", "teddy bear", "tennis racket", "tie", "toaster",
    "toilet", "toothbrush", "traffic light", "train", "truck", "tv", "umbrella", "vase", "wine glass", "zebra",
];

/// Longer names are taken for a mistake, and so are more of them.
const LONGEST: usize = 100;
const MOST: usize = 20_000;

/// A list of distinct names, in the order of their tokens.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Classes(Vec<String>);

impl Classes {
    /// [`COCO`].
    pub fn coco() -> Self {
        Self(COCO.map(str::to_owned).into())
    }

    /// These names; a repeated one counts once.
    ///
    /// # Errors
    /// A name that is empty, long, no plain words (letters, digits, `-`, `'`, `(`, `)`, `_`, `/`, `.`, `,`, `&` between
    /// single spaces), or a value token; too many names.
    pub fn new(names: impl IntoIterator<Item = String>) -> Result<Self, Failure> {
        let mut all: Vec<String> = Vec::new();
        let mut seen = std::collections::HashSet::new();
        for name in names {
            let plain = |c: char| c.is_alphanumeric() || "-'()_/.,&".contains(c);
            let words = || name.split(' ').all(|word| !word.is_empty() && word.chars().all(plain));
            if name.len() > LONGEST || !words() {
                return Err(Failure::new(format!(
                    "`{}` is no name of a class: give words of letters, digits and -'()_/.,& with single spaces between \
                     them, at most {LONGEST} bytes",
                    name.chars().take(LONGEST).collect::<String>().escape_debug()
                )));
            }
            if seen.insert(name.clone()) {
                all.push(name);
            }
        }
        match all.len() {
            0..=MOST => Ok(Self(all)),
            many => Err(Failure::new(format!("{many} names of classes are too many: at most {MOST}"))),
        }
    }

    /// `coco`, `none`, or a text file with a name in each line.
    ///
    /// # Errors
    /// A file that cannot be read or has no name, and as [`new`](Self::new).
    pub fn open(text: &str) -> Result<Self, Failure> {
        match text {
            "coco" => Ok(Self::coco()),
            "none" => Ok(Self::default()),
            path => {
                let path = Path::new(path);
                let lines = fs::read_to_string(path).at("read", path)?;
                let names = lines.lines().map(str::trim).filter(|name| !name.is_empty());
                let classes = Self::new(names.map(str::to_owned))?;
                match classes.0.is_empty() {
                    true => Err(Failure::new(format!("`{}` has no name of a class", path.display()))),
                    false => Ok(classes),
                }
            }
        }
    }

    /// The names, in the order of their tokens.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// The names of both, those of `self` first.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn and(self, others: impl IntoIterator<Item = String>) -> Result<Self, Failure> {
        Self::new(self.0.into_iter().chain(others))
    }

    /// Refuses a name that is not in the list.
    ///
    /// # Errors
    /// Names it and some that are.
    pub fn check(&self, name: &str) -> Result<(), Failure> {
        if self.0.iter().any(|known| known == name) {
            return Ok(());
        }
        let some = self.0.iter().take(10).map(String::as_str).collect::<Vec<_>>().join("`, `");
        let more = if self.0.len() > 10 { ", …" } else { "" };
        Err(Failure::new(match self.0.is_empty() {
            true => format!("the class `{name}` is unknown: the vocabulary was trained with --classes none"),
            false => format!("the class `{name}` is unknown; known are `{some}`{more} ({} in all)", self.0.len()),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_words_and_count_once() {
        let classes = Classes::new(["ski", "ski", "hot dog"].map(str::to_owned)).expect("names");
        assert_eq!(classes.names().collect::<Vec<_>>(), ["ski", "hot dog"]);
        assert_eq!(Classes::coco().and(COCO.map(str::to_owned)).expect("names"), Classes::coco());
        for bad in ["", " ", "hot  dog", " dog", "dog ", "a\tb", "v0=3", "[PAD]", &"x".repeat(101)] {
            let failure = Classes::new([bad.to_owned()]).expect_err(bad).to_string();
            assert!(failure.contains("no name of a class"), "{failure}");
        }
        let failure = Classes::coco().check("unicorn").expect_err("unknown").to_string();
        assert!(failure.contains("`unicorn`") && failure.contains("(80 in all)"), "{failure}");
        assert!(Classes::default().check("dog").expect_err("none").to_string().contains("--classes none"));
    }
}
