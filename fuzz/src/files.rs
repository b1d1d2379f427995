//! The programs' reader of codebook files: any bytes give a codebook of a sound shape or a refusal.

use std::io::Write;

use crate::Reach;
use crate::book::Book;
use crate::input::Input;

const OPENED: usize = 0;
const CODES: usize = 1;
const LAYER: usize = 2;
const REFUSED: usize = 3;

/// A header that may be sound: names, types, shapes and extents of the kind that the reader looks for.
fn header(input: &mut Input) -> (String, usize) {
    let (codes, dim, inputs) = (1 + input.below(5), 1 + input.below(5), 1 + input.below(4));
    let shapes =
        [("codebook", vec![codes, dim]), ("project_in.weight", vec![dim, inputs]), ("project_in.bias", vec![dim])];
    let out = [("project_out.weight", vec![inputs, dim]), ("project_out.bias", vec![inputs])];
    let (mut at, mut entries) = (0usize, Vec::new());
    let count = 1 + input.below(5);
    for (name, mut shape) in shapes.into_iter().chain(out).take(count) {
        let (dtype, size) = match input.below(20) {
            0 => ("F16", 2),
            1 => ("BF16", 2),
            2 => ("I8", 1),
            3 => ("F64", 8),
            _ => ("F32", 4),
        };
        match input.below(40) {
            0 => shape.push(1),
            1 => shape[0] = input.pick(&[usize::MAX, 1 << 62, 1 << 32, 0, 1 << 25]),
            2 => shape.clear(),
            _ => {}
        }
        let bytes = shape.iter().fold(size, |product: usize, &n| product.saturating_mul(n));
        let end = if input.once_in(40) { at.saturating_add(input.below(9)) } else { at.saturating_add(bytes) };
        let name = if input.once_in(16) { "codebook" } else { name };
        entries.push(format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[{at},{end}]}}"#));
        at = end;
    }
    if !input.once_in(3) {
        let value = input.pick(&["cosine", "l2", "true", "false", "0.5", "-1e999", "0", "nan", "", "\\u0000"]);
        let key = input.pick(&["metric", "normalize", "mean", "scale"]);
        entries.push(format!(r#""__metadata__":{{"{key}":"{value}"}}"#));
    }
    (format!("{{{}}}", entries.join(",")), at)
}

pub fn files(input: &mut Input, reach: &Reach) {
    let mut bytes = match input.once_in(6) {
        true => input.rest(),
        false => {
            let (header, data) = header(input);
            let claimed = header.len() as u64 + if input.once_in(40) { input.bits() % 9 } else { 0 };
            let mut bytes = claimed.to_le_bytes().to_vec();
            bytes.extend(header.as_bytes());
            bytes.extend((0..data.min(4096)).map(|_| input.bits() as u8));
            bytes
        }
    };
    for _ in 0..input.pick(&[0, 0, 0, 0, 0, 0, 1, 3]) {
        let at = input.below(bytes.len());
        bytes.get_mut(at).into_iter().for_each(|byte| *byte ^= 1 << (input.bits() % 8));
    }
    if input.once_in(16) {
        bytes.truncate(input.below(bytes.len() + 1));
    }
    // In memory, where there is a file system for that.
    let folder = if std::path::Path::new("/dev/shm").is_dir() { "/dev/shm" } else { "/tmp" };
    let mut file = tempfile::NamedTempFile::new_in(folder).expect("room for a small file");
    file.write_all(&bytes).expect("room for a small file");
    let Ok(mut book) = Book::open(file.path()) else { return reach.mark(REFUSED) };
    reach.mark(OPENED);
    assert!(book.codes > 0 && book.dim > 0);
    if let Ok(codes) = book.read_codes() {
        assert_eq!(codes.len(), book.codes * book.dim);
        reach.mark(CODES);
    }
    let mut x = vec![1.0f32; 4];
    book.affine.enter(&mut x);
    book.affine.leave(&mut x);
    for (layer, inwards) in [(book.project_in(), true), (book.project_out(), false)] {
        let Ok(Some(layer)) = layer else { continue };
        let (mut y, cpu) = (Vec::new(), vq_kernels::Cpu::new());
        assert_eq!(if inwards { layer.outputs() } else { layer.inputs }, book.dim);
        layer.forward(&cpu, &vec![0.5; 2 * layer.inputs], 2, &mut y).expect("rows of its width");
        assert_eq!(y.len(), 2 * layer.outputs());
        reach.mark(LAYER);
    }
}
