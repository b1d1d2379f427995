//! The metadata's fields: what a number says about a picture, and between which bounds.

/// A field of metadata.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Field {
    /// In lower-case words joined by `_`.
    pub name: &'static str,
    /// The greatest value that is told apart; the least is 0. Values beyond the bounds count as the bounds.
    pub max: f64,
    /// Whether only whole numbers occur.
    pub whole: bool,
    /// What 4M calls it, and the factor from our unit to its own; nothing where it has no such field.
    pub published: Option<(&'static str, f64)>,
}

const fn whole(name: &'static str, max: f64, published: &'static str) -> Field {
    Field { name, max, whole: true, published: Some((published, 1.0)) }
}

const fn share(name: &'static str, max: f64, published: Option<(&'static str, f64)>) -> Field {
    Field { name, max, whole: false, published }
}

/// All fields, after 4M's metadata modality (sizes, caption lengths, counts of things, statistics of colours).
pub const FIELDS: [Field; 15] = [
    // Width and height in pixels.
    whole("width", 4095.0, "original_width"),
    whole("height", 4095.0, "original_height"),
    // Of the first caption.
    whole("caption_chars", 300.0, "caption_n_chars"),
    whole("caption_words", 60.0, "caption_n_words"),
    // Things with a box, and how many classes they are of.
    whole("things", 127.0, "n_coco_instances"),
    whole("classes", 31.0, "coco_instance_diversity"),
    // Hasler and Süsstrunk 2003, in shares of white instead of 255.
    share("colourfulness", 0.7, Some(("colorfulness", 255.0))),
    // The mean of the grey values, and their standard deviation, in shares of white.
    share("brightness", 1.0, Some(("brightness", 255.0))),
    share("contrast", 0.5, Some(("contrast", 255.0))),
    // The mean of (max − min) / max over the three colours.
    share("saturation", 1.0, Some(("saturation", 255.0))),
    // Of the histogram of 256 grey values, in bits.
    share("entropy", 8.0, Some(("entropy", 1.0))),
    // The share of the picture inside any box.
    share("boxed", 1.0, None),
    // The share of the picture that things cover; of rendered scenes.
    share("covered", 1.0, None),
    // The share of things' outlines that other things hide; of rendered scenes.
    share("hidden", 1.0, Some(("occlusion_score", 1.0))),
    // Where the ground begins, from the top; of rendered scenes.
    share("horizon", 1.0, None),
];
