//! Vectors and poses from safetensors files.

use std::path::Path;

use super::poses::{JOINTS, POSE, matrices};
use super::stored::{Stored, Values};
use crate::common::failure::Failure;
use crate::common::tensors::{Dtype, SafetensorsFile};

/// Rotation vectors of poses, the number of each pose's clip, and the metadata with the clips' names, separated by commas.
const ROTATIONS: &str = "rotvec";
const CLIP: &str = "clip";
const CLIPS: &str = "clips";

/// Two dancers of one take: numbers of the second are so much higher than those of the first (see the data's README: salsa n and n + 15).
const PARTNERS: (&str, usize) = ("salsa", 15);

/// A tensor's name and its number of rows.
type Named = (String, usize);

/// The tensor asked for, or the only one of numbers that has the shape `[n, …]` with these extents.
fn find(file: &SafetensorsFile, tensor: Option<&str>, extents: &[usize]) -> Result<Named, Failure> {
    let is_float = |dtype| matches!(dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16);
    let fits = |name: &String| match file.info(name) {
        Some((dtype, shape)) => match shape.split_first() {
            Some((&rows, rest)) if is_float(dtype) && rest == extents && rows > 0 => Some((name.clone(), rows)),
            _ => None,
        },
        None => None,
    };
    let names: Vec<String> = file.names().into_iter().filter(|name| tensor.is_none_or(|asked| asked == name)).collect();
    let mut found: Vec<Named> = names.iter().filter_map(fits).collect();
    if let (Some(only), true) = (found.pop(), found.is_empty()) {
        return Ok(only);
    }
    let tensors: Vec<String> = file
        .names()
        .iter()
        .filter_map(|name| file.info(name).map(|(dtype, shape)| format!("`{name}` {dtype} {shape:?}")))
        .collect();
    let place = file.path().display();
    let wanted = format!("f32, f16 or bf16 numbers of the shape [n, {}]", join(extents));
    Err(Failure::new(match tensor {
        Some(name) => format!("`{place}` should have `{name}` with {wanted}; it has {}", tensors.join(", ")),
        None => {
            format!("`{place}` should have one tensor of {wanted}, or its name be given; it has {}", tensors.join(", "))
        }
    }))
}

fn join(extents: &[usize]) -> String {
    extents.iter().map(usize::to_string).collect::<Vec<_>>().join(", ")
}

/// The values of a vector of the tensor asked for, or of the only one of rank 2 that holds floats.
///
/// # Errors
/// A file that cannot be read, without such a tensor, or with several of different widths.
pub fn vector_width(path: &Path, tensor: Option<&str>) -> Result<usize, Failure> {
    let file = SafetensorsFile::open(path)?;
    let width = |name: &String| match file.info(name) {
        Some((Dtype::F32 | Dtype::F16 | Dtype::BF16, shape)) => match *shape {
            [_, dim] if dim > 0 && tensor.is_none_or(|asked| asked == name) => Some(dim),
            _ => None,
        },
        _ => None,
    };
    let mut widths: Vec<usize> = file.names().iter().filter_map(width).collect();
    widths.dedup();
    match *widths {
        [dim] => Ok(dim),
        _ => Err(Failure::new(format!(
            "`{}` should have one tensor of f32, f16 or bf16 numbers of the shape [n, d], or its name be given; it has `{}`",
            path.display(),
            file.names().join("`, `")
        ))),
    }
}

/// The rows of `[n, dim]`, named by their place.
pub(super) fn vectors(path: &Path, tensor: Option<&str>, dim: usize) -> Result<Vec<Stored>, Failure> {
    let mut file = SafetensorsFile::open(path)?;
    let (name, rows) = find(&file, tensor, &[dim])?;
    let mut values = Vec::new();
    file.read_rows_f32(&name, 0, rows, &mut values)?;
    let stored = |(row, values): (usize, &[f32])| {
        Stored::new(format!("{name}/{row:07}"), [dim, 1, 1], Values::Floats(values.to_vec()))
    };
    Ok(values.chunks_exact(dim).enumerate().map(stored).collect())
}

/// Poses as rotation matrices: `rotvec [n, 23, 3]` in radians, or a tensor `[n, 207]` as it is; with `clip [n]`, poses of one clip, and of its
/// partner's, are of one group.
pub(super) fn poses(path: &Path, tensor: Option<&str>) -> Result<Vec<Stored>, Failure> {
    let mut file = SafetensorsFile::open(path)?;
    let rotations = tensor.map_or_else(|| file.info(ROTATIONS).is_some(), |name| name == ROTATIONS);
    let (name, rows) =
        if rotations { find(&file, Some(ROTATIONS), &[JOINTS, 3])? } else { find(&file, tensor, &[POSE])? };
    let mut values = Vec::new();
    file.read_rows_f32(&name, 0, rows, &mut values)?;
    let each = if rotations { 3 * JOINTS } else { POSE };
    let clips = clips(&mut file, rows)?;
    let stored = |(row, pose): (usize, &[f32])| {
        let pose = if rotations { matrices(pose) } else { pose.to_vec() };
        let clip = clips.get(row);
        let (name, group) = match clip {
            Some(clip) => (format!("{clip}/{row:07}"), Some(take(clip))),
            None => (format!("{name}/{row:07}"), None),
        };
        Stored { group, ..Stored::new(name, [POSE, 1, 1], Values::Floats(pose)) }
    };
    Ok(values.chunks_exact(each).enumerate().map(stored).collect())
}

/// The name of each pose's clip; nothing where the file knows of no clips.
fn clips(file: &mut SafetensorsFile, rows: usize) -> Result<Vec<String>, Failure> {
    let Some((_, shape)) = file.info(CLIP) else { return Ok(Vec::new()) };
    if shape != [rows] {
        let place = file.path().display();
        return Err(Failure::new(format!("`{place}`, tensor `{CLIP}`: expected the shape [{rows}], got {shape:?}")));
    }
    let numbers = file.read::<u8>(CLIP)?;
    let names: Vec<&str> = file.metadata(CLIPS).map(|names| names.split(',').collect()).unwrap_or_default();
    let name =
        |number: u8| names.get(usize::from(number)).map_or_else(|| format!("clip-{number:03}"), |&name| name.into());
    Ok(numbers.into_iter().map(name).collect())
}

/// The take that a clip is of.
fn take(clip: &str) -> String {
    let (folder, apart) = PARTNERS;
    match clip.split_once('/').map(|(of, number)| (of, number.parse::<usize>())) {
        Some((of, Ok(number))) if of == folder && number > apart => format!("{of}/{:02}", number - apart),
        _ => clip.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partners_are_of_one_take() {
        for (clip, expected) in [
            ("salsa/03", "salsa/03"),
            ("salsa/18", "salsa/03"),
            ("indian/18", "indian/18"),
            ("x", "x"),
            ("salsa/b", "salsa/b"),
        ] {
            assert_eq!(take(clip), expected);
        }
    }
}
