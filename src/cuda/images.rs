//! The committed PTX.

use super::queue::Image;

macro_rules! images {
    ($($static:ident = $name:literal),* $(,)?) => {
        $(pub(crate) static $static: Image =
            Image { name: $name, ptx: include_str!(concat!("../../cuda/ptx/", $name, ".ptx")) };)*
        /// Every image, in the order of the pipeline.
        pub static IMAGES: &[&Image] = &[$(&$static),*];
    };
}

images! {
    PROJECT = "project",
    NORMALIZE = "normalize",
    PACK = "pack",
    SEARCH = "search",
    SEARCH_TOP = "search_top",
    GATHER = "gather",
    LOSS = "loss",
    EMA = "ema",
    USAGE = "usage",
    RESTART = "restart",
    KMEANS = "kmeans",
    KMEANS_PASS = "kmeans_pass",
    QUANTIZER = "quantizer",
}
