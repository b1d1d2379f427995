//! The metadata's fields: what a number says about a picture, and between which bounds.

/// A field of metadata. Its place in [`FIELDS`] is its number in token sequences, which must not change.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Field {
    /// In lower-case words joined by `_`.
    pub name: &'static str,
    /// The least value that is told apart.
    pub min: f64,
    /// The greatest; values beyond the bounds count as the bounds.
    pub max: f64,
    /// Whether only whole numbers occur.
    pub whole: bool,
}

const fn whole(name: &'static str, max: f64) -> Field {
    Field { name, min: 0.0, max, whole: true }
}

const fn share(name: &'static str, max: f64) -> Field {
    Field { name, min: 0.0, max, whole: false }
}

/// All fields, after 4M's metadata modality (sizes, caption lengths, counts of things, statistics of colours).
pub const FIELDS: [Field; 15] = [
    // Width and height in pixels.
    whole("width", 4095.0),
    whole("height", 4095.0),
    // Of the first caption.
    whole("caption_chars", 300.0),
    whole("caption_words", 60.0),
    // Things with a box, and how many classes they are of.
    whole("things", 127.0),
    whole("classes", 31.0),
    // The mean of the grey values, and their standard deviation, in shares of white.
    share("brightness", 1.0),
    share("contrast", 0.5),
    // The mean of (max − min) / max over the three colours.
    share("saturation", 1.0),
    // Hasler and Süsstrunk 2003, in shares of white instead of 255.
    share("colourfulness", 0.7),
    // Of the histogram of 256 grey values, in bits.
    share("entropy", 8.0),
    // The share of the picture inside any box.
    share("boxed", 1.0),
    // The share of the picture that things cover; of rendered scenes.
    share("covered", 1.0),
    // The share of things' outlines that other things hide; of rendered scenes.
    share("hidden", 1.0),
    // Where the ground begins, from the top; of rendered scenes.
    share("horizon", 1.0),
];
