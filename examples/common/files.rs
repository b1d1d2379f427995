//! Files that are whole or absent, and a log of JSON lines.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde_json::Value;
use tempfile::TempPath;

use super::failure::{At, Failure};

/// Enough that a write costs one system call per megabyte.
const BUFFER: usize = 1 << 20;

/// Temporary files of the moment: what a second Ctrl-C, which ends the program at once, still removes.
static UNFINISHED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// Removes the temporary files of all unfinished [`AtomicFile`]s.
pub fn remove_unfinished() {
    let files = UNFINISHED.lock().map(|files| files.clone()).unwrap_or_default();
    for file in files {
        // The program ends here; a file that cannot be removed has no one left to tell.
        let _ = fs::remove_file(file);
    }
}

/// An entry of [`UNFINISHED`], for as long as it lives.
struct Unfinished(PathBuf);

impl Unfinished {
    fn new(path: &Path) -> Self {
        if let Ok(mut files) = UNFINISHED.lock() {
            files.push(path.to_owned());
        }
        Self(path.to_owned())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Ok(mut files) = UNFINISHED.lock() {
            files.retain(|file| *file != self.0);
        }
    }
}

/// A file in the making: a temporary neighbour of `path`, renamed by [`commit`](Self::commit) and removed when dropped before.
pub struct AtomicFile {
    buffer: BufWriter<File>,
    temporary: TempPath,
    unfinished: Unfinished,
    path: PathBuf,
}

impl AtomicFile {
    /// Starts a file; its directory must exist.
    pub fn create(path: &Path) -> Result<Self, Failure> {
        let Some(name) = path.file_name() else {
            return Err(Failure::new(format!(
                "cannot write `{}`: the path does not end in a file name",
                path.display()
            )));
        };
        let prefix = format!(".{}.{}.", name.to_string_lossy(), std::process::id());
        // `make_in` rather than `tempfile_in`: the result gets the usual permissions of a new file, not the private ones of a temporary.
        let temporary = tempfile::Builder::new()
            .prefix(&prefix)
            .suffix(".part")
            .make_in(directory(path), |temporary| File::create_new(temporary))
            .at("create", path)?;
        // Its own `Write` would add the temporary name to every message.
        let (file, temporary) = temporary.into_parts();
        let unfinished = Unfinished::new(&temporary);
        Ok(Self { buffer: BufWriter::with_capacity(BUFFER, file), temporary, unfinished, path: path.to_owned() })
    }

    /// The name under which the file will appear.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Puts the finished file in its place, and replaces what was there.
    pub fn commit(self) -> Result<(), Failure> {
        let Self { buffer, temporary, unfinished, path } = self;
        let file = buffer.into_inner().map_err(io::IntoInnerError::into_error).at("write", &path)?;
        // Before the rename: after a power failure the new name must not stand for missing bytes.
        file.sync_all().at("write", &path)?;
        // Windows does not rename open files.
        drop(file);
        temporary.persist(&path).map_err(|cause| Failure::io("rename the finished file to", &path, &cause.error))?;
        drop(unfinished);
        sync_directory(directory(&path)).at("write the directory of", &path)
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.buffer.flush()
    }
}

fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Makes the rename itself durable; other systems than Unix neither need nor allow it.
fn sync_directory(directory: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(directory)?.sync_all() } else { Ok(()) }
}

/// Writes a file whole or not at all: what `write` produces appears under `path` only when all of it is on the disk.
pub fn write_atomic(path: &Path, write: impl FnOnce(&mut dyn Write) -> Result<(), Failure>) -> Result<(), Failure> {
    let mut file = AtomicFile::create(path)?;
    write(&mut file)?;
    file.commit()
}

/// Makes the output directory, and finds out now rather than after the training whether it can be written.
pub fn create_writable(out: &Path) -> Result<(), Failure> {
    fs::create_dir_all(out).at("create", out)?;
    tempfile::tempfile_in(out).at("write to", out)?;
    Ok(())
}

/// Removes a file, where there is one.
pub fn remove(file: &Path) -> Result<(), Failure> {
    match fs::remove_file(file) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(Failure::io("remove", file, &cause)),
        _ => Ok(()),
    }
}

/// Appends one JSON line to a log, which is created when absent.
pub fn append_line(path: &Path, line: &Value) -> Result<(), Failure> {
    let mut log = OpenOptions::new().create(true).append(true).open(path).at("open", path)?;
    // One write per line: a reader that follows the log never sees half of one.
    log.write_all(format!("{line}\n").as_bytes()).at("append to", path)
}

/// Keeps the lines of a log that satisfy `keep`, as on resuming from a checkpoint older than the log's end.
///
/// A line that is not JSON goes as well: it is what a crash left of an [`append_line`]. A log that does not exist stays so.
pub fn truncate_log(path: &Path, keep: impl Fn(&Value) -> bool) -> Result<(), Failure> {
    if !fs::exists(path).at("read", path)? {
        return Ok(());
    }
    let mut log = BufReader::new(File::open(path).at("read", path)?);
    write_atomic(path, |out| {
        let mut line = Vec::new();
        while log.read_until(b'\n', &mut line).at("read", path)? > 0 {
            if serde_json::from_slice(&line).is_ok_and(|value| keep(&value)) {
                out.write_all(line.trim_ascii_end()).and_then(|()| out.write_all(b"\n")).at("write", path)?;
            }
            line.clear();
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).expect("the test's own directory");
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn a_failed_write_leaves_the_old_file_and_nothing_else() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("a.txt");
        write_atomic(&path, |out| out.write_all(b"old").at("write", &path)).expect("a first write");
        let failed = write_atomic(&path, |out| {
            out.write_all(b"new").at("write", &path)?;
            Err(Failure::new("stop"))
        });
        assert_eq!(failed, Err(Failure::new("stop")));
        assert_eq!(fs::read(&path).expect("the old file"), b"old");
        assert_eq!(names(directory.path()), ["a.txt"]);
    }

    #[test]
    fn a_place_that_cannot_be_written_is_named() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        for path in [directory.path().join("absent/a.txt"), directory.path().to_owned()] {
            let failure = write_atomic(&path, |_| Ok(())).expect_err("no such place");
            assert!(failure.to_string().contains(&path.display().to_string()), "{failure}");
        }
        assert!(write_atomic(Path::new("/"), |_| Ok(())).is_err());
        assert!(names(directory.path()).is_empty());
    }

    #[test]
    fn a_resumed_log_loses_later_and_torn_lines() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("log.jsonl");
        truncate_log(&path, |_| true).expect("an absent log is fine");
        assert!(!path.exists());
        for step in 1..=3 {
            append_line(&path, &json!({ "step": step })).expect("a line");
        }
        OpenOptions::new()
            .append(true)
            .open(&path)
            .and_then(|mut log| log.write_all(b"{\"step\":"))
            .expect("a torn line");
        truncate_log(&path, |line| line.get("step").and_then(Value::as_u64).is_some_and(|step| step <= 2))
            .expect("a rewrite");
        append_line(&path, &json!({ "step": 3 })).expect("a line");
        assert_eq!(fs::read_to_string(&path).expect("the log"), "{\"step\":1}\n{\"step\":2}\n{\"step\":3}\n");
    }
}
