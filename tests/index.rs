//! Index files: what is written is read back, and nothing else is read.

mod common;

use common::mat;
use half::f16;
use vq_kernels::index::{self, ALIGN, Aligned, Codes, Index, Stored, VERSION};
use vq_kernels::{Error, Line, MAX_CODES, MAX_DIM, Metric};

/// An index at an aligned address.
struct File {
    lines: Vec<Line>,
    len: usize,
}

impl File {
    fn new(bytes: &[u8]) -> Self {
        let mut lines = vec![Line([0.0; 16]); bytes.len().div_ceil(64)];
        bytemuck::cast_slice_mut(&mut lines)[..bytes.len()].copy_from_slice(bytes);
        Self { lines, len: bytes.len() }
    }

    fn of<T: Stored>(codes: &[T], dim: usize, metric: Metric, scale: f32) -> Self {
        let rows = codes.len() / dim;
        let mut bytes = vec![0xAA; index::len::<T>(rows, dim)];
        index::write(mat(codes, rows, dim), metric, scale, &mut bytes).unwrap();
        Self::new(&bytes)
    }

    fn bytes(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.lines)[..self.len]
    }

    /// With other bytes at `at`, and the checksum that they ask for.
    fn forged(&self, at: usize, with: &[u8]) -> Self {
        let mut bytes = self.bytes().to_vec();
        bytes[at..at + with.len()].copy_from_slice(with);
        let crc = crc32c([&bytes[..40], &bytes[44..]].concat().as_slice());
        bytes[40..44].copy_from_slice(&crc.to_le_bytes());
        Self::new(&bytes)
    }
}

/// CRC-32C bit by bit, from its definition.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| (crc >> 1) ^ if crc & 1 == 1 { 0x82F6_3B78 } else { 0 };
    !bytes.iter().fold(u32::MAX, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), step))
}

/// The field that a refusal names.
fn refused(bytes: &[u8]) -> String {
    match Index::read(bytes) {
        Err(Error::File { field, .. }) => field.to_string(),
        Err(other) => format!("{other}"),
        Ok(_) => "nothing".to_string(),
    }
}

#[test]
fn every_type_and_metric_comes_back_in_place() {
    for (rows, dim) in [(1, 1), (3, 2), (65, 7), (4, MAX_DIM)] {
        for metric in [Metric::Cosine, Metric::L2] {
            let floats: Vec<f32> = common::paint(rows * dim, 1);
            let halves: Vec<f16> = floats.iter().map(|&x| f16::from_f32(x)).collect();
            let q7: Vec<i8> = (0..rows * dim).map(|i| (i * 37) as i8).collect();
            let q15: Vec<i16> = (0..rows * dim).map(|i| (i * 12_345) as i16).collect();
            let files = [
                File::of(&floats, dim, metric, 1.0),
                File::of(&halves, dim, metric, 1.0),
                File::of(&q7, dim, metric, 127.0),
                File::of(&q15, dim, metric, 0.25),
            ];
            let mut names = Vec::new();
            for (file, scale) in files.iter().zip([1.0, 1.0, 127.0, 0.25]) {
                let read = Index::read(file.bytes()).unwrap();
                let codes = read.codes();
                assert_eq!((read.metric(), read.scale()), (metric, scale));
                let (shape, at) = match codes {
                    Codes::F32(m) => (m.data() == floats).then_some(((m.rows(), m.cols()), m.data().as_ptr().addr())),
                    Codes::F16(m) => (m.data() == halves).then_some(((m.rows(), m.cols()), m.data().as_ptr().addr())),
                    Codes::Q7(m) => (m.data() == q7).then_some(((m.rows(), m.cols()), m.data().as_ptr().addr())),
                    Codes::Q15(m) => (m.data() == q15).then_some(((m.rows(), m.cols()), m.data().as_ptr().addr())),
                    _ => None,
                }
                .expect("the same codes");
                assert_eq!((shape, at), ((rows, dim), file.bytes().as_ptr().addr() + ALIGN));
                names.push(codes.name());
            }
            assert_eq!(names, ["f32", "f16", "q7", "q15"]);
        }
    }
}

/// The format is for good: these bytes were written by hand from its table.
#[test]
fn the_bytes_are_those_of_the_table() {
    let file = File::of(&[1i16, -2, 300], 3, Metric::L2, 2.0);
    let mut expected =
        b"VQINDEX\0\x01\x00\x03\x01\x01\0\0\0\x03\0\0\0\0\0\0\x40\x40\0\0\0\0\0\0\0\x46\0\0\0\0\0\0\0".to_vec();
    expected.extend([0; 24]);
    expected.extend([1, 0, 0xFE, 0xFF, 0x2C, 0x01]);
    let crc = crc32c(&[&expected[..40], &expected[44..]].concat());
    expected[40..44].copy_from_slice(&crc.to_le_bytes());
    assert_eq!(file.bytes(), expected);
    assert_eq!((VERSION, ALIGN, align_of::<Aligned<[u8; 3]>>()), (1, 64, 64));
}

fn small_files() -> [File; 4] {
    [
        File::of(&[1.5f32, -2.0, 0.25, 8.0], 2, Metric::L2, 1.0),
        File::of(&[f16::ONE, f16::MAX, f16::NAN], 3, Metric::Cosine, 1.0),
        File::of(&[1i8, -128, 127, 0, 5], 1, Metric::L2, 64.0),
        File::of(&[1i16, -32768, 7, 9], 4, Metric::Cosine, 32767.0),
    ]
}

#[test]
fn every_change_of_one_byte_is_refused() {
    for file in small_files() {
        assert_eq!(refused(file.bytes()), "nothing");
        let mut changed = File::new(file.bytes());
        for at in 0..file.len {
            for change in 1..=255u8 {
                bytemuck::cast_slice_mut::<_, u8>(&mut changed.lines)[at] ^= change;
                assert!(Index::read(changed.bytes()).is_err(), "byte {at} changed by {change:#x}");
                bytemuck::cast_slice_mut::<_, u8>(&mut changed.lines)[at] ^= change;
            }
        }
        assert_eq!(refused(changed.bytes()), "nothing");
    }
}

#[test]
fn every_truncation_every_extension_and_every_misaligned_address_is_refused() {
    for file in small_files() {
        for len in 0..file.len {
            assert_eq!(refused(&file.bytes()[..len]), "length", "{len} bytes");
        }
        for more in 1..=130 {
            let longer = [file.bytes(), &vec![0; more]].concat();
            assert_eq!(refused(File::new(&longer).bytes()), "length", "{more} bytes more");
        }
        for shift in 1..ALIGN {
            let shifted = File::new(&[&vec![0; shift], file.bytes()].concat());
            assert_eq!(refused(&shifted.bytes()[shift..]), "address", "shifted by {shift}");
        }
    }
}

#[test]
fn sound_checksums_do_not_save_unsound_headers() {
    let file = File::of(&[1.5f32, -2.0, 0.25, 8.0], 2, Metric::L2, 1.0);
    let fixed = File::of(&[1i8, 2, 3, 4], 2, Metric::L2, 1.0);
    let word = |value: u32| value.to_le_bytes();
    let long = |value: u64| value.to_le_bytes();
    let floats = |value: f32| value.to_le_bytes();
    assert_eq!(refused(file.forged(0, b"VQINDEX\0").bytes()), "nothing");
    assert_eq!(refused(file.forged(0, b"VQINDEY\0").bytes()), "magic");
    for version in [0u16, 2, 256, u16::MAX] {
        assert_eq!(refused(file.forged(8, &version.to_le_bytes()).bytes()), "version");
    }
    for element in 4..=255u8 {
        assert_eq!(refused(file.forged(10, &[element]).bytes()), "element");
    }
    for metric in 2..=255u8 {
        assert_eq!(refused(file.forged(11, &[metric]).bytes()), "metric");
    }
    // Elements of another size than those that are there.
    for element in [1u8, 2, 3] {
        assert_eq!(refused(file.forged(10, &[element]).bytes()), "length");
    }
    assert_eq!(refused(fixed.forged(10, &[0]).bytes()), "length");
    for (at, empty, large, most) in [(12, "number of codes", MAX_CODES, 1 << 24), (16, "dim", MAX_DIM, 4096)] {
        assert_eq!(large, most);
        assert_eq!(
            Index::read(file.forged(at, &word(0)).bytes()).unwrap_err(),
            Error::Empty { op: "index", arg: empty }
        );
        for got in [large as u32 + 1, u32::MAX] {
            let expected = Error::TooLarge { op: "index", arg: empty, max: large as u64, got: got.into() };
            assert_eq!(Index::read(file.forged(at, &word(got)).bytes()).unwrap_err(), expected);
        }
        for got in [1, 3, large as u32] {
            assert_eq!(refused(file.forged(at, &word(got)).bytes()), "length");
        }
    }
    // The most codes of the most dimensions: 2³⁸ bytes, beyond 32 bits.
    let most = [word(MAX_CODES as u32), word(MAX_DIM as u32)].concat();
    assert_eq!(refused(file.forged(12, &most).bytes()), "length");
    for offset in [0, 63, 128, 1 << 32 | 64, u64::MAX] {
        assert_eq!(refused(file.forged(24, &long(offset)).bytes()), "header");
    }
    for length in [0, 79, 81, 1 << 32 | 80, u64::MAX] {
        assert_eq!(refused(file.forged(32, &long(length)).bytes()), "length");
    }
    for at in 44..64 {
        assert_eq!(refused(file.forged(at, &[1]).bytes()), "header");
    }
    for scale in [0.5, 2.0] {
        assert_eq!(refused(file.forged(20, &floats(scale)).bytes()), "scale");
        assert_eq!(refused(fixed.forged(20, &floats(scale)).bytes()), "nothing");
    }
    for scale in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        for file in [&file, &fixed] {
            let expected = Error::Config { field: "scale", expected: "a finite number above 0" };
            assert_eq!(Index::read(file.forged(20, &floats(scale)).bytes()).unwrap_err(), expected);
        }
    }
}

#[test]
fn what_cannot_be_written_is_an_error() {
    let mut bytes = [9u8; 72];
    let (floats, fixed) = (mat(&[1.0f32, 2.0], 1, 2), mat(&[1i8; 8], 4, 2));
    let shape = Error::Shape { op: "index::write", arg: "number of bytes", expected: 72, got: 71 };
    assert_eq!(index::write(floats, Metric::L2, 1.0, &mut bytes[..71]), Err(shape));
    let config = |expected| Err(Error::Config { field: "scale", expected });
    assert_eq!(index::write(floats, Metric::L2, 2.0, &mut bytes), config("1 for floats"));
    for scale in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        assert_eq!(index::write(fixed, Metric::L2, scale, &mut bytes), config("a finite number above 0"));
    }
    let empty = Err(Error::Empty { op: "index::write", arg: "number of codes" });
    assert_eq!(index::write(mat::<i8>(&[], 0, 2), Metric::L2, 1.0, &mut bytes), empty);
    assert_eq!(bytes, [9; 72]);
    assert_eq!((index::len::<i16>(3, 5), index::len::<f32>(usize::MAX, 2)), (94, usize::MAX));
    assert_eq!((<f16 as Stored>::NAME, <i8 as Stored>::NAME), ("f16", "q7"));
}
