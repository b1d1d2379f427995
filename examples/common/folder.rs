//! A directory with its directories, or an uncompressed tar archive: files by name, in either.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};

use super::failure::{At, Failure};
use super::terminal::{Count, Progress};

/// Larger files are taken for damaged: a few bytes of header must not claim all memory.
const LARGEST_FILE: u64 = 256 << 20;

/// What a visitor gets: a file's path inside the folder with `/` between the parts, its bytes, and where to warn.
pub type Visit<'a> = dyn FnMut(String, std::io::Result<Vec<u8>>, &Progress) -> Result<(), Failure> + 'a;

/// Hands over the files that `keep` chooses by their paths inside: those of a directory sorted, those of an archive as they come.
///
/// `label` names a progress bar, where one is wanted.
pub fn visit_files(
    path: &Path,
    label: Option<&str>,
    keep: &dyn Fn(&Path) -> bool,
    visit: &mut Visit<'_>,
) -> Result<(), Failure> {
    let about = fs::metadata(path).at("read", path)?;
    let bar = |total, count| label.map_or_else(Progress::hidden, |label| Progress::new(label, total, count));
    if !about.is_dir() {
        return visit_tar(path, bar(about.len(), Count::Bytes), keep, visit);
    }
    let files = files_below(path, keep)?;
    let mut progress = bar(files.len() as u64, Count::Items);
    for (done, name) in files.into_iter().enumerate() {
        let bytes = File::open(path.join(&name)).and_then(read_bounded);
        visit(slashed(&name), bytes, &progress)?;
        progress.tick(done as u64 + 1, "");
    }
    progress.done();
    Ok(())
}

/// Whether any file's path inside the folder fulfils `is`; nothing but names is read.
pub fn any_file(path: &Path, is: &dyn Fn(&Path) -> bool) -> Result<bool, Failure> {
    if fs::metadata(path).at("read", path)?.is_dir() {
        return Ok(!files_below(path, is)?.is_empty());
    }
    let mut archive = tar::Archive::new(File::open(path).at("read", path)?);
    for entry in archive.entries_with_seek().map_err(|cause| not_a_tar(path, &cause))? {
        let entry = entry.map_err(|cause| not_a_tar(path, &cause))?;
        let name = entry.path().map_err(|cause| not_a_tar(path, &cause))?;
        if entry.header().entry_type().is_file() && is(&name) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The bytes of one file of the folder.
pub fn read_file(path: &Path, name: &str) -> Result<Vec<u8>, Failure> {
    let mut found = None;
    visit_files(path, None, &|file| slashed(file) == name, &mut |_, bytes, _| {
        found = Some(bytes.at("read", &path.join(name))?);
        Ok(())
    })?;
    found.ok_or_else(|| Failure::new(format!("`{}` has no file `{name}`", path.display())))
}

/// With `/` between the parts.
fn slashed(name: &Path) -> String {
    name.iter().map(OsStr::to_string_lossy).collect::<Vec<_>>().join("/")
}

/// Paths relative to `root`, sorted. Linked directories are not entered, so that a link to a parent cannot loop.
fn files_below(root: &Path, keep: &dyn Fn(&Path) -> bool) -> Result<Vec<PathBuf>, Failure> {
    let mut files = Vec::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).at("read", &directory)? {
            let entry = entry.at("read", &directory)?;
            let path = entry.path();
            if entry.file_type().at("read", &path)?.is_dir() {
                directories.push(path);
            } else if let Ok(inside) = path.strip_prefix(root)
                && keep(inside)
                && path.is_file()
            {
                files.push(inside.to_owned());
            }
        }
    }
    files.sort();
    Ok(files)
}

fn visit_tar(
    path: &Path,
    mut progress: Progress,
    keep: &dyn Fn(&Path) -> bool,
    visit: &mut Visit<'_>,
) -> Result<(), Failure> {
    let mut archive = tar::Archive::new(BufReader::new(File::open(path).at("read", path)?));
    for entry in archive.entries().map_err(|cause| not_a_tar(path, &cause))? {
        let entry = entry.map_err(|cause| not_a_tar(path, &cause))?;
        let end = entry.raw_file_position().saturating_add(entry.size());
        let name = entry.path().map_err(|cause| not_a_tar(path, &cause))?.into_owned();
        if entry.header().entry_type().is_file() && keep(&name) {
            let size = entry.size();
            let bytes = read_bounded(entry);
            // The archive reader takes a missing end for an early end of the entry.
            if bytes.as_ref().is_ok_and(|bytes| (bytes.len() as u64) < size) {
                return Err(Failure::new(format!(
                    "`{}` is truncated inside `{}`: make or fetch it again",
                    path.display(),
                    name.display()
                )));
            }
            visit(slashed(&name), bytes, &progress)?;
            progress.tick(end, "");
        }
    }
    progress.done();
    Ok(())
}

/// What the archive reader objects to: the disk's own troubles keep their cause; its other messages quote the file's bytes, which are no text.
fn not_a_tar(path: &Path, cause: &std::io::Error) -> Failure {
    match cause.kind() {
        ErrorKind::Other | ErrorKind::InvalidData | ErrorKind::InvalidInput | ErrorKind::UnexpectedEof => {
            let refused = path.display();
            Failure::new(format!(
                "`{refused}` is neither a directory nor a whole, uncompressed tar archive: unpack it, or make or fetch it again"
            ))
        }
        _ => Failure::io("read", path, cause),
    }
}

fn read_bounded(source: impl Read) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    source.take(LARGEST_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST_FILE {
        return Err(std::io::Error::other(format!("larger than {} MiB", LARGEST_FILE >> 20)));
    }
    Ok(bytes)
}
