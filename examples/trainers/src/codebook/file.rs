//! The codebook's file: the centres, and what they are centres of.

use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use vq_kernels::{MAX_CODES, MAX_DIM};

use super::work::Settings;
use crate::common::failure::{Context, Failure};
use crate::common::tensors::{Dtype, SafetensorsFile, Tensor, write_safetensors};

/// The tensors' names.
const CENTRES: &str = "centres";
const GROUP_CODES: &str = "group_codes";

/// A codebook in memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Centres {
    /// `[codes, dim]`, row-major, all finite.
    pub values: Vec<f32>,
    /// Number of codes.
    pub codes: usize,
    /// Dimensions of a code: the width of the encoder's features.
    pub dim: usize,
    /// [`hash_of`] the values.
    pub hash: String,
    /// What they are centres of; `None` where the file comes from elsewhere and does not tell.
    pub about: Option<About>,
}

/// What a codebook was made of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct About {
    /// What was asked for.
    pub settings: Settings,
    /// What came of it.
    pub figures: Figures,
}

/// Figures of a codebook and of the vectors it was made of. Lengths are Euclidean.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// Feature vectors.
    pub vectors: u64,
    /// Distinct ones, counted in each group.
    pub distinct_vectors: u64,
    /// Mean length of a vector.
    pub mean_norm: f64,
    /// The shortest vector's length.
    pub least_norm: f64,
    /// The longest vector's length.
    pub largest_norm: f64,
    /// Mean squared distance of a vector from the mean of all.
    pub variance: f64,
    /// Share of the features that are exactly 0, as a ReLU leaves them.
    pub zeros: f64,
    /// Groups that were clustered apart.
    pub groups: usize,
    /// Of those, groups that got no code, as there are fewer codes than groups.
    pub groups_without_codes: usize,
    /// Mean squared distance of a vector from its centre, in the groups that have any, as the last pass of k-means found it.
    pub inertia: f64,
    /// Distinct centres: two groups may share a vector, as of a white background.
    pub distinct_codes: usize,
    /// Mean length of a centre.
    pub mean_code_norm: f64,
}

/// SHA-256, in hexadecimal, of the values' bits in little-endian order.
pub fn hash_of(values: &[f32]) -> String {
    let mut hash = Sha256::new();
    let mut bytes = Vec::new();
    for chunk in values.chunks(1 << 16) {
        bytes.clear();
        bytes.extend(chunk.iter().flat_map(|value| value.to_le_bytes()));
        hash.update(&bytes);
    }
    hex(hash)
}

/// The end of a hash, in hexadecimal.
pub(crate) fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Writes a codebook, whole or not at all; `group_codes` are the codes of each group, in order.
pub(super) fn save(path: &Path, values: &[f32], group_codes: &[u32], about: &About) -> Result<String, Failure> {
    let hash = hash_of(values);
    let json = |value: serde_json::Result<String>| value.context(|| "cannot describe the codebook".into());
    let features = &about.settings.features;
    let metadata = [
        ("encoder", features.encoder.clone()),
        ("data", features.data.clone()),
        ("hash", hash.clone()),
        ("settings", json(serde_json::to_string(&about.settings))?),
        ("figures", json(serde_json::to_string(&about.figures))?),
    ];
    let metadata = metadata.map(|(key, text)| (key.to_owned(), text));
    let dim = features.width;
    let tensors = [
        Tensor::new(CENTRES, &[values.len() / dim.max(1), dim], values),
        Tensor::new(GROUP_CODES, &[group_codes.len()], group_codes),
    ];
    write_safetensors(path, &tensors, &metadata)?;
    Ok(hash)
}

/// Reads a codebook and checks all of it.
///
/// A file of other origin needs only the tensor `centres` `[codes, dim]` of F32; where it names a hash, that holds.
///
/// # Errors
/// A file that cannot be read or is truncated, a missing tensor, another type or shape, values that are not finite,
/// and a hash that is not that of the values.
pub fn load(path: &Path) -> Result<Centres, Failure> {
    let mut file = SafetensorsFile::open(path)?;
    let refuse = |why: String| Failure::new(format!("`{}` is no codebook: {why}", path.display()));
    let Some((dtype, shape)) = file.info(CENTRES) else {
        return Err(refuse(format!(
            "it has no tensor `{CENTRES}`, only `{}`; build_codebook makes such a file",
            file.names().join("`, `")
        )));
    };
    if dtype != Dtype::F32 {
        return Err(refuse(format!("`{CENTRES}` holds {dtype}, expected F32")));
    }
    let &[codes, dim] = shape.as_slice() else {
        return Err(refuse(format!("`{CENTRES}` has the shape {shape:?}, expected [codes, dim]")));
    };
    if !(1..=MAX_CODES).contains(&codes) || !(1..=MAX_DIM).contains(&dim) {
        return Err(refuse(format!(
            "`{CENTRES}` has the shape {shape:?}, expected 1 to {MAX_CODES} codes of 1 to {MAX_DIM} dimensions"
        )));
    }
    let values: Vec<f32> = file.read(CENTRES)?;
    if let Some(at) = values.iter().position(|value| !value.is_finite()) {
        return Err(refuse(format!("code {}, dimension {}, is {}", at / dim, at % dim, values[at])));
    }
    let hash = hash_of(&values);
    if let Some(told) = file.metadata("hash").filter(|told| *told != hash) {
        return Err(refuse(format!("its centres' SHA-256 is {hash}, but it says {told}: make or fetch it again")));
    }
    let about = match (file.metadata("settings"), file.metadata("figures")) {
        (Some(settings), Some(figures)) => {
            let what = || refuse("its description cannot be read".into()).to_string();
            let settings = serde_json::from_str(settings).context(what)?;
            Some(About { settings, figures: serde_json::from_str(figures).context(what)? })
        }
        _ => None,
    };
    if let Some(about) = &about
        && (about.settings.codes, about.settings.features.width) != (codes, dim)
    {
        let settings = &about.settings;
        return Err(refuse(format!(
            "it has {codes} codes of {dim} dimensions, but was made for {} of {}",
            settings.codes, settings.features.width
        )));
    }
    Ok(Centres { values, codes, dim, hash, about })
}
