//! The one error of the example programs: a sentence for the person at the terminal.

use core::fmt;
use std::io;
use std::path::Path;
use std::process::ExitCode;

/// What a shell reports for a program that Ctrl-C ended: 128 + SIGINT.
pub const INTERRUPTED_CODE: u8 = 130;

/// Why a program stops: what it was doing, to which file, what went wrong and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    message: String,
    interrupted: bool,
}

impl Failure {
    /// A failure with this message.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), interrupted: false }
    }

    /// The person pressed Ctrl-C and the program saved what it could: [`run_main`] then exits with 130.
    pub fn interrupted() -> Self {
        Self { message: "interrupted".into(), interrupted: true }
    }

    /// An operation on a file failed: names the file and, where the cause has a usual cure, the cure.
    pub fn io(action: &str, path: &Path, cause: &io::Error) -> Self {
        let message = format!("cannot {action} `{}`: {cause}", path.display());
        Self::new(match cure(cause.kind()) {
            Some(cure) => format!("{message}; {cure}"),
            None => message,
        })
    }
}

fn cure(kind: io::ErrorKind) -> Option<&'static str> {
    match kind {
        io::ErrorKind::NotFound => Some("check that the path is spelt right and that its directory exists"),
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
            Some("a file is in the way: choose another place")
        }
        io::ErrorKind::PermissionDenied => Some("choose a place that you may read and write"),
        io::ErrorKind::ReadOnlyFilesystem => Some("choose a place on a disk that can be written"),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Some("free some space and run again: no half-written file was left")
        }
        io::ErrorKind::UnexpectedEof => Some("the file ends too early: make or fetch it again"),
        _ => None,
    }
}

impl From<vq_kernels::Error> for Failure {
    fn from(error: vq_kernels::Error) -> Self {
        Self::new(error.to_string())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl core::error::Error for Failure {}

/// Turns any printable error into a [`Failure`] that says what was being done.
pub trait Context<T> {
    /// Puts `what` in front of the cause: `what: cause`. Not for [`Failure::interrupted`], which would become an ordinary failure.
    fn context(self, what: impl FnOnce() -> String) -> Result<T, Failure>;
}

impl<T, E: fmt::Display> Context<T> for Result<T, E> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T, Failure> {
        self.map_err(|cause| Failure::new(format!("{}: {cause}", what())))
    }
}

/// Turns an input or output error into a [`Failure`] that names the file.
pub trait At<T> {
    /// `action` completes "cannot …", as in "cannot write `codebook.safetensors`".
    fn at(self, action: &str, path: &Path) -> Result<T, Failure>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, action: &str, path: &Path) -> Result<T, Failure> {
        self.map_err(|cause| Failure::io(action, path, &cause))
    }
}

/// Runs a program: a failure is printed to standard error and becomes exit code 1, or 130 after Ctrl-C.
pub fn run_main(program: impl FnOnce() -> Result<(), Failure>) -> ExitCode {
    match program() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) if failure.interrupted => {
            eprintln!("{failure}");
            ExitCode::from(INTERRUPTED_CODE)
        }
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn context_goes_in_front_of_the_cause() {
        let result: Result<u8, _> = "x".parse::<u8>().context(|| "--codes".into());
        assert_eq!(result, Err(Failure::new("--codes: invalid digit found in string")));
    }

    #[test]
    fn io_failures_name_the_file_and_the_cure() {
        for (kind, cure) in [
            (io::ErrorKind::NotFound, "spelt right"),
            (io::ErrorKind::PermissionDenied, "may read and write"),
            (io::ErrorKind::StorageFull, "free some space"),
            (io::ErrorKind::UnexpectedEof, "fetch it again"),
        ] {
            let message = Failure::io("read", Path::new("a/b.tar"), &kind.into()).to_string();
            assert!(message.starts_with("cannot read `a/b.tar`: ") && message.contains(cure), "{message}");
        }
    }

    #[test]
    fn exit_codes_tell_failure_from_interruption() {
        assert_eq!(run_main(|| Ok(())), ExitCode::SUCCESS);
        assert_eq!(run_main(|| Err(Failure::new("no"))), ExitCode::FAILURE);
        assert_eq!(run_main(|| Err(Failure::interrupted())), ExitCode::from(130));
    }
}
