//! A directory of its own for each test, and the programs that run in it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use tempfile::TempDir;
use vq_kernels::rng::Rng;

/// The built program of this name, for the profile of the running test.
pub fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the test knows its own path");
    // target/PROFILE/deps/programs-HASH
    let profile = test.parent().and_then(Path::parent).expect("a test lies in a profile's deps");
    let path = profile.join("examples").join(name).with_extension(std::env::consts::EXE_EXTENSION);
    assert!(
        path.is_file(),
        "`{}` is not built: run cargo test without --test, or cargo build --examples (with the same --release) first",
        path.display()
    );
    path
}

/// Whether a test that takes long in a debug build is left out; says so.
pub fn too_slow(what: &str) -> bool {
    if cfg!(debug_assertions) {
        println!("skipped: {what} takes too long in a debug build; run with --release");
    }
    cfg!(debug_assertions)
}

/// What a program left behind.
#[derive(Debug)]
pub struct Done {
    pub line: String,
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Done {
    /// The exit code is 0.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, 0, "`{}` failed:\n{}", self.line, self.stderr);
        self
    }

    /// Standard output's only line, which is an object.
    #[track_caller]
    pub fn json(&self) -> Value {
        let lines: Vec<&str> = self.stdout.lines().collect();
        assert_eq!(lines.len(), 1, "`{}` printed:\n{}", self.line, self.stdout);
        let value: Value = serde_json::from_str(lines[0]).expect("a line of JSON");
        assert!(value.is_object(), "`{}` printed {value}", self.line);
        value
    }

    /// Standard error holds each of `parts`.
    #[track_caller]
    pub fn says(&self, parts: &[&str]) {
        for part in parts {
            assert!(self.stderr.contains(part), "`{}` does not say `{part}`:\n{}", self.line, self.stderr);
        }
    }
}

/// A temporary directory.
pub struct Place(TempDir);

impl Place {
    pub fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary directory"))
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    #[track_caller]
    pub fn bytes(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap_or_else(|cause| panic!("cannot read {name}: {cause}"))
    }

    #[track_caller]
    pub fn text(&self, name: &str) -> String {
        String::from_utf8(self.bytes(name)).expect("text")
    }

    pub fn write(&self, name: &str, bytes: &[u8]) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("a name in the directory")).expect("a directory");
        fs::write(path, bytes).expect("a file");
    }

    /// Writes the first `share` of a file under another name.
    pub fn write_cut(&self, whole: &str, share: f64, name: &str) {
        let bytes = self.bytes(whole);
        self.write(name, &bytes[..(bytes.len() as f64 * share) as usize]);
    }

    /// Every file, also those in directories and hidden ones.
    pub fn files(&self) -> Vec<String> {
        let (mut files, mut directories) = (Vec::new(), vec![self.0.path().to_owned()]);
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(directory).expect("a directory") {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    directories.push(path);
                } else {
                    let name = path.strip_prefix(self.0.path()).expect("a path below");
                    files.push(name.to_string_lossy().replace('\\', "/"));
                }
            }
        }
        files.sort();
        files
    }

    /// The files in one directory.
    pub fn files_in(&self, directory: &str) -> Vec<String> {
        let prefix = format!("{directory}/");
        self.files().iter().filter_map(|file| file.strip_prefix(&prefix).map(str::to_owned)).collect()
    }

    /// `program option value …`, to be run here; words are parted by spaces.
    pub fn command(&self, line: &str) -> Command {
        let mut words = line.split_whitespace();
        let mut command = Command::new(program(words.next().expect("a program's name")));
        command.args(words).current_dir(self.0.path()).env_remove("RUST_BACKTRACE");
        command
    }

    /// Runs a line to its end.
    #[track_caller]
    pub fn run(&self, line: &str) -> Done {
        self.finish(line, self.command(line))
    }

    /// Runs a command to its end, which is no panic and no signal.
    #[track_caller]
    pub fn finish(&self, line: &str, mut command: Command) -> Done {
        let output = command.stdin(Stdio::null()).output().expect("the program starts");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("a program prints text");
        let (stdout, stderr) = (text(output.stdout), text(output.stderr));
        let Some(code) = output.status.code() else {
            panic!("`{line}` ended by a signal ({}):\n{stderr}", output.status);
        };
        assert!(code != 101 && !stderr.contains("panicked"), "`{line}` panicked:\n{stderr}");
        Done { line: line.to_owned(), code, stdout, stderr }
    }

    /// Writes one tensor.
    pub fn write_tensor(&self, file: &str, name: &str, dtype: Dtype, shape: &[usize], bytes: &[u8]) {
        self.write_tensors(file, &[(name, dtype, shape.to_vec(), bytes.to_vec())]);
    }

    /// Writes tensors.
    pub fn write_tensors(&self, file: &str, tensors: &[(&str, Dtype, Vec<usize>, Vec<u8>)]) {
        let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
            (*name, TensorView::new(*dtype, shape.clone(), bytes).expect("bytes that fill the shape"))
        });
        self.write(file, &safetensors::serialize(views, None).expect("a header"));
    }

    /// Writes `x` [rows, values / rows] of f32.
    pub fn write_rows(&self, file: &str, rows: usize, values: &[f32]) {
        self.write_tensor(file, "x", Dtype::F32, &[rows, values.len() / rows], &f32_bytes(values));
    }

    /// Shape and values of an f32 tensor.
    #[track_caller]
    pub fn floats(&self, file: &str, name: &str) -> (Vec<usize>, Vec<f32>) {
        let bytes = self.bytes(file);
        let tensors = SafeTensors::deserialize(&bytes).expect("a sound file");
        let tensor = tensors.tensor(name).unwrap_or_else(|cause| panic!("`{file}`: {cause}"));
        assert_eq!(tensor.dtype(), Dtype::F32, "{name} in {file}");
        let (items, _) = tensor.data().as_chunks();
        (tensor.shape().to_vec(), items.iter().map(|&item| f32::from_le_bytes(item)).collect())
    }

    /// The codes that `quantize encode` wrote.
    #[track_caller]
    pub fn codes(&self, file: &str) -> Vec<u32> {
        let bytes = self.bytes(file);
        let tensors = SafeTensors::deserialize(&bytes).expect("a sound file");
        let tensor = tensors.tensor("codes").expect("codes");
        assert_eq!((tensor.dtype(), tensor.shape().len()), (Dtype::U32, 1), "codes in {file}");
        let (items, _) = tensor.data().as_chunks();
        items.iter().map(|&item| u32::from_le_bytes(item)).collect()
    }

    /// A setting beside the tensors.
    #[track_caller]
    pub fn setting(&self, file: &str, key: &str) -> String {
        let bytes = self.bytes(file);
        let (_, header) = SafeTensors::read_metadata(&bytes).expect("a sound file");
        let settings = header.metadata().as_ref().expect("settings");
        settings.get(key).unwrap_or_else(|| panic!("`{file}` has no setting {key}")).clone()
    }

    /// Names of the tensors, sorted.
    pub fn tensors(&self, file: &str) -> Vec<String> {
        let bytes = self.bytes(file);
        let tensors = SafeTensors::deserialize(&bytes).expect("a sound file");
        let mut names: Vec<String> = tensors.names().iter().map(|name| (*name).to_owned()).collect();
        names.sort();
        names
    }
}

/// The numbers as a file holds them.
pub fn f32_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}

/// Rows that lie in `clusters` groups: what a codebook is good for.
pub fn clustered(rows: usize, dim: usize, clusters: u64, seed: u64) -> Vec<f32> {
    let mut rng = Rng::new(seed, 0xC1);
    let centres: Vec<f32> = (0..clusters as usize * dim).map(|_| rng.normal()).collect();
    let mut values = Vec::with_capacity(rows * dim);
    for _ in 0..rows {
        let at = rng.below(clusters) as usize * dim;
        values.extend(centres[at..at + dim].iter().map(|centre| centre + 0.1 * rng.normal()));
    }
    values
}

/// A PNG file: a smooth gradient with a lighter square, different for each seed.
pub fn picture(width: u32, height: u32, seed: u64) -> Vec<u8> {
    let mut rng = Rng::new(seed, 0x91C);
    let [red, green, left, top] = [256, 256, u64::from(width), u64::from(height)].map(|n| rng.below(n) as u32);
    let image = image::RgbImage::from_fn(width, height, |x, y| {
        let square = if x >= left && y >= top { 60 } else { 0 };
        image::Rgb([(red + 3 * x + square) as u8, (green + 2 * y + square) as u8, (x * y / 8) as u8])
    });
    let mut bytes = std::io::Cursor::new(Vec::new());
    image.write_to(&mut bytes, image::ImageFormat::Png).expect("a picture");
    bytes.into_inner()
}

/// A tar archive of these files, in this order.
pub fn archive(files: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, bytes.as_slice()).expect("an entry");
    }
    archive.into_inner().expect("an archive")
}
