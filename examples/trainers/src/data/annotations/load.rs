//! Where annotations come from: rendered scenes, COCO's JSON, and tables of captions.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::Path;

use serde::Deserialize;

use super::statistics::statistics;
use super::{Annotated, LabelledBox};
use crate::common::failure::{At, Context, Failure};
use crate::common::folder::read_file;
use crate::common::images::visit_images;
use crate::common::scenes::render_all;
use crate::data::drawn;

/// The file of a COCO folder that all annotations are in.
const COCO_FILE: &str = "annotations.json";

/// What [`Source::Scenes`](crate::data::Source::Scenes) of the same numbers shows: one caption, a box for every thing that is seen, and every field.
///
/// # Errors
/// Where a number is 0 or absurd, or Ctrl-C was pressed.
pub fn from_scenes(count: usize, size: usize, seed: u64) -> Result<Vec<Annotated>, Failure> {
    if count == 0 {
        return Err(Failure::new("annotations of 0 scenes were asked for: give at least 1"));
    }
    drawn(count, size, seed, false, |scene, size| {
        let maps = render_all(scene, size);
        let boxes = maps.boxes.iter().map(|seen| {
            let [x0, y0, x1, y1] = seen.corners;
            LabelledBox { class: seen.class.name().into(), x0, y0, x1, y1 }
        });
        let mut metadata = statistics(&maps.rgb);
        let shares = [("covered", maps.covered), ("hidden", maps.hidden), ("horizon", maps.horizon)];
        metadata.extend(shares.map(|(name, value)| (name.to_owned(), value)));
        completed(maps.rgb.name.clone(), vec![maps.caption.clone()], boxes.collect(), metadata)
    })
}

/// Adds the fields that captions and boxes tell.
fn completed(
    name: String,
    captions: Vec<String>,
    boxes: Vec<LabelledBox>,
    mut metadata: Vec<(String, f64)>,
) -> Annotated {
    let mut add = |name: &str, value: usize| metadata.push((name.into(), value as f64));
    if let Some(first) = captions.first() {
        add("caption_chars", first.chars().count());
        add("caption_words", first.split_whitespace().count());
    }
    add("things", boxes.len());
    add("classes", boxes.iter().map(|labelled| &labelled.class).collect::<BTreeSet<_>>().len());
    metadata.push(("boxed".into(), boxed_share(&boxes)));
    Annotated { name, captions, boxes, metadata }
}

/// The share of the picture inside any box: the union's area, by strips between the boxes' upper and lower sides.
pub(super) fn boxed_share(boxes: &[LabelledBox]) -> f64 {
    let mut heights: Vec<f64> = boxes.iter().flat_map(|b| [b.y0, b.y1]).collect();
    heights.sort_by(f64::total_cmp);
    let mut spans: Vec<&LabelledBox> = boxes.iter().collect();
    spans.sort_by(|a, b| a.x0.total_cmp(&b.x0));
    let strip = |pair: &[f64]| {
        let &[top, bottom] = pair else { return 0.0 };
        let (mut covered, mut end) = (0.0, 0.0_f64);
        for span in spans.iter().filter(|span| span.y0 <= top && span.y1 >= bottom) {
            covered += (span.x1 - span.x0.max(end)).max(0.0);
            end = end.max(span.x1);
        }
        covered * (bottom - top)
    };
    heights.windows(2).map(strip).sum::<f64>().clamp(0.0, 1.0)
}

#[derive(Deserialize)]
struct Coco {
    images: Vec<CocoImage>,
    categories: Vec<CocoCategory>,
}

#[derive(Deserialize)]
struct CocoCategory {
    id: u32,
    name: String,
}

#[derive(Deserialize)]
struct CocoImage {
    file: String,
    width: f64,
    height: f64,
    #[serde(default)]
    captions: Vec<String>,
    #[serde(default)]
    objects: Vec<CocoObject>,
}

#[derive(Deserialize)]
struct CocoObject {
    category_id: u32,
    /// Left, top, width and height in pixels.
    bbox: [f64; 4],
    #[serde(default)]
    iscrowd: u8,
}

/// The annotations of a folder or tar archive of pictures with an `annotations.json`, sorted by name.
///
/// The file has `images`, each with `file`, `width`, `height`, `captions` and `objects` (`category_id`, `bbox` as left, top, width and height in
/// pixels, `iscrowd`), and `categories` with `id` and `name`: COCO's fields, gathered by image. Boxes are cut off at the picture's sides; crowds are
/// left out, as they are no single thing. Statistics of colours are those of the picture, where the folder has it.
///
/// # Errors
/// Where the file is missing or not of this form, names an unknown category, or holds a box or a size that is none.
pub fn from_coco(path: &Path) -> Result<Vec<Annotated>, Failure> {
    let text = read_file(path, COCO_FILE)?;
    let place = || format!("`{}` of `{}`", COCO_FILE, path.display());
    let coco: Coco = serde_json::from_slice(&text).context(place)?;
    let classes: BTreeMap<u32, String> =
        coco.categories.into_iter().map(|category| (category.id, category.name)).collect();
    let mut known = BTreeMap::new();
    visit_images(path, false, |image| {
        known.insert(image.name.clone(), statistics(&image));
    })?;
    let mut all = Vec::with_capacity(coco.images.len());
    for image in coco.images {
        let refuse = |why: String| Failure::new(format!("{}, `{}`: {why}", place(), image.file));
        let (width, height) = (image.width, image.height);
        if !(width >= 1.0 && height >= 1.0 && width.is_finite() && height.is_finite()) {
            return Err(refuse(format!("the size should be at least 1x1, got {width}x{height}")));
        }
        let mut boxes = Vec::new();
        for object in image.objects.iter().filter(|object| object.iscrowd == 0) {
            let id = object.category_id;
            let class = classes.get(&id).ok_or_else(|| refuse(format!("no category has the id {id}")))?;
            let [left, top, wide, high] = object.bbox;
            let within = |side: f64, whole: f64| (side / whole).clamp(0.0, 1.0);
            let (x0, y0) = (within(left, width), within(top, height));
            let (x1, y1) = (within(left + wide, width), within(top + high, height));
            boxes.push(LabelledBox { class: class.to_lowercase(), x0, y0, x1, y1 });
        }
        let sizes = || vec![("width".to_owned(), width), ("height".to_owned(), height)];
        let metadata = known.get(&image.file).cloned().unwrap_or_else(sizes);
        let annotated = completed(image.file, image.captions, boxes, metadata);
        annotated.check().context(place)?;
        all.push(annotated);
    }
    if all.is_empty() {
        return Err(Failure::new(format!("{} names no image", place())));
    }
    all.sort_by(|left, right| left.name.cmp(&right.name));
    Ok(all)
}

/// Captions from a table: in each line a picture's number or name, a tab, and a caption; lines of one picture are gathered
/// at its first.
///
/// # Errors
/// Where the file cannot be read, is empty or not UTF-8, or a line has no tab or no caption.
pub fn captions_tsv(path: &Path) -> Result<Vec<Annotated>, Failure> {
    let text = fs::read_to_string(path).at("read", path)?;
    let (mut pictures, mut places) = (Vec::<Annotated>::new(), HashMap::new());
    for (number, line) in (1..).zip(text.lines()) {
        match line.split_once('\t') {
            Some((name, caption)) if !caption.trim().is_empty() => {
                let place = *places.entry(name).or_insert(pictures.len());
                if place == pictures.len() {
                    pictures.push(Annotated { name: name.to_owned(), ..Annotated::default() });
                }
                pictures[place].captions.push(caption.trim().to_owned());
            }
            _ => {
                let refused = path.display();
                return Err(Failure::new(format!(
                    "`{refused}`, line {number}: expected a picture's number, a tab and a caption, got `{}`",
                    line.chars().take(40).collect::<String>()
                )));
            }
        }
    }
    match pictures.is_empty() {
        true => Err(Failure::new(format!("`{}` has no caption", path.display()))),
        false => Ok(pictures),
    }
}
