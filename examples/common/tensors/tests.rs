//! What is written comes back; what is damaged is refused by name.

use std::fs;
use std::path::PathBuf;

use half::{bf16, f16};

use super::*;

fn scratch() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("t.safetensors");
    (directory, path)
}

#[test]
fn tensors_and_metadata_come_back() {
    let (_directory, path) = scratch();
    let rows: Vec<f32> = (0..600_000_u32).map(|i| i as f32 * 0.5).collect();
    let tensors = [
        Tensor::new("small", &[3], &[1_i8, -2, 3]),
        Tensor::new("rows", &[200_000, 3], &rows),
        Tensor::new("seed", &[1], &[u64::MAX]),
        Tensor::new("none", &[0, 4], &[0_u32; 0]),
    ];
    let metadata: Vec<_> = (0..20).map(|i| (format!("key{i}"), format!("\"{i}\"\n"))).collect();
    write_safetensors(&path, &tensors, &metadata).expect("a write");
    let first = fs::read(&path).expect("the bytes");
    write_safetensors(&path, &tensors, &metadata).expect("a write");
    assert_eq!(first, fs::read(&path).expect("the bytes"), "the same call gives the same bytes");
    safetensors::SafeTensors::deserialize(&first).expect("the crate accepts the file");

    let mut file = SafetensorsFile::open(&path).expect("a sound file");
    assert_eq!(file.names(), ["seed", "rows", "none", "small"]);
    assert_eq!((file.metadata("key7"), file.metadata("other")), (Some("\"7\"\n"), None));
    assert_eq!(file.info("rows"), Some((Dtype::F32, vec![200_000, 3])));
    assert_eq!(file.info("other"), None);
    assert_eq!(file.read::<f32>("rows"), Ok(rows.clone()));
    assert_eq!(file.read::<i8>("small"), Ok(vec![1, -2, 3]));
    assert_eq!(file.read::<u64>("seed"), Ok(vec![u64::MAX]));
    assert_eq!(file.read::<u32>("none"), Ok(vec![]));
    let mut part = vec![7.0];
    file.read_rows_f32("rows", 199_998, 2, &mut part).expect("the last rows");
    assert_eq!(part, rows[599_994..]);
}

#[test]
fn narrow_rows_are_widened() {
    let (_directory, path) = scratch();
    let half: Vec<f16> = [1.5, -2.0, 0.25, 8.0].map(f16::from_f32).to_vec();
    let brain: Vec<bf16> = [1.5, -2.0, 0.25, 8.0].map(bf16::from_f32).to_vec();
    write_safetensors(
        &path,
        &[
            Tensor::new("half", &[2, 2], &half),
            Tensor::new("brain", &[2, 2], &brain),
            Tensor::new("byte", &[2, 2], &[1_i8, 2, -128, 127]),
        ],
        &[],
    )
    .expect("a write");
    let mut file = SafetensorsFile::open(&path).expect("a sound file");
    let mut row = Vec::new();
    for (name, expected) in [("half", [0.25, 8.0]), ("brain", [0.25, 8.0]), ("byte", [-128.0, 127.0])] {
        file.read_rows_f32(name, 1, 1, &mut row).expect(name);
        assert_eq!(row, expected, "{name}");
    }
}

#[test]
fn wrong_requests_name_file_tensor_expected_and_got() {
    let (_directory, path) = scratch();
    write_safetensors(
        &path,
        &[Tensor::new("codes", &[4], &[1_u32, 2, 3, 4]), Tensor::new("rows", &[2, 2], &[0_f32; 4])],
        &[],
    )
    .expect("a write");
    let mut file = SafetensorsFile::open(&path).expect("a sound file");
    let mut out = Vec::new();
    for (failure, parts) in [
        (file.read::<f32>("codes").err(), ["`codes`", "expected F32", "got U32"]),
        (file.read::<f32>("book").err(), ["no tensor `book`", "codes", "rows"]),
        (file.read_rows_f32("codes", 0, 1, &mut out).err(), ["`codes`", "[rows, dim]", "[4]"]),
        (file.read_rows_f32("rows", 1, 2, &mut out).err(), ["`rows`", "1..1 + 2", "it has 2"]),
        (file.read_rows_f32("rows", usize::MAX, 2, &mut out).err(), ["`rows`", "+ 2", "it has 2"]),
    ] {
        let message = failure.expect("a refusal").to_string();
        assert!(message.contains("t.safetensors") && parts.iter().all(|part| message.contains(part)), "{message}");
    }
    for wrong in
        [&[Tensor::new("a", &[3], &[1_u8, 2])][..], &[Tensor::new("a", &[1], &[1_u8]), Tensor::new("a", &[1], &[2_u8])]]
    {
        assert!(write_safetensors(&path, wrong, &[]).is_err());
    }
}

#[test]
fn damaged_files_are_refused() {
    let (_directory, path) = scratch();
    write_safetensors(&path, &[Tensor::new("codes", &[64], &[9_u32; 64])], &[]).expect("a write");
    let whole = fs::read(&path).expect("the bytes");
    let longer = [&whole[..], &[0]].concat();
    let huge = [&u64::MAX.to_le_bytes()[..], &whole[8..]].concat();
    for (bytes, why) in [
        (&whole[..whole.len() - 1], "truncated"),
        (&whole[..20], "claims"),
        (&whole[..5], "too few"),
        (&[], "too few"),
        (&longer, "1 more"),
        (&huge, "claims"),
        (&[0; 64], "EOF"),
    ] {
        fs::write(&path, bytes).expect("a damaged file");
        let message = SafetensorsFile::open(&path).map(|_| ()).expect_err(why).to_string();
        assert!(message.contains(why) && message.contains("t.safetensors"), "{message}");
    }
    for cut in 0..whole.len() {
        fs::write(&path, &whole[..cut]).expect("a damaged file");
        assert!(SafetensorsFile::open(&path).is_err(), "{cut} bytes");
    }
}

#[test]
fn a_stream_appears_only_when_complete() {
    let (directory, path) = scratch();
    let mut codes = StreamWriter::<u32>::create(&path, "codes", &[5], &[]).expect("a stream");
    codes.push(&[1, 2, 3]).expect("a chunk");
    assert!(codes.push(&[4, 5, 6]).is_err(), "one too many");
    assert!(codes.finish().is_err(), "two are missing");
    assert_eq!(fs::read_dir(directory.path()).expect("the directory").count(), 0);

    let mut rows = StreamWriter::<f32>::create(&path, "rows", &[2, 2], &[("k".into(), "v".into())]).expect("a stream");
    rows.push(&[1.0, 2.0, 3.0]).and_then(|()| rows.push(&[4.0])).expect("chunks need not be whole rows");
    assert!(!path.exists());
    rows.finish().expect("complete");
    let mut file = SafetensorsFile::open(&path).expect("a sound file");
    assert_eq!(file.read::<f32>("rows"), Ok(vec![1.0, 2.0, 3.0, 4.0]));
    assert_eq!(file.info("rows"), Some((Dtype::F32, vec![2, 2])));
    assert!(StreamWriter::<f32>::create(&path, "rows", &[usize::MAX, 2], &[]).is_err());
}
