//! A program, run as a person runs it.
#![allow(dead_code, reason = "each test file uses a part")]

use core::time::Duration;
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use trainers::common::random::SplitMix64;

/// A program, and the options of a toy that takes it a second or so.
pub struct Program {
    pub path: &'static str,
    pub toy: &'static [&'static str],
}

impl Program {
    pub fn command(&self, out: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.path);
        command.args(self.toy).args(arguments).arg("--out").arg(out).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub fn run(&self, out: &Path, arguments: &[&str]) -> Output {
        self.command(out, arguments).output().expect("the program starts")
    }

    /// Its summary.
    pub fn succeeds(&self, out: &Path, arguments: &[&str]) -> Value {
        let output = self.run(out, &[arguments, &["--json"]].concat());
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {errors}");
        serde_json::from_slice(&output.stdout).expect("one line of JSON")
    }

    /// What it says.
    pub fn refuses(&self, out: &Path, arguments: &[&str]) -> String {
        let output = self.run(out, arguments);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {errors}");
        assert!(!errors.contains("panicked"), "{errors}");
        errors
    }

    /// Asserts that a run, resumed and killed again at as many instants by lot, logs the undisturbed run's steps, to the last bit.
    pub fn goes_on_after(&self, kills: usize, directory: &Path, arguments: &[&str], steps: usize) {
        let (whole, killed) = (directory.join("whole"), directory.join("killed"));
        let steps_text = steps.to_string();
        let every = ["--steps", &steps_text, "--save-every", "2", "--log-every", "1"];
        let arguments = [arguments, &every].concat();
        self.succeeds(&whole, &arguments);
        let read = |out: &Path| fs::read_to_string(out.join("log.jsonl")).unwrap_or_default();
        let expected = read(&whole);
        assert!(expected.lines().count() >= steps, "{}", expected.lines().count());
        let checkpoint = killed.join("checkpoint.safetensors");
        let (mut random, mut done) = (SplitMix64::new(1), 0);
        let resume = || if checkpoint.exists() { vec!["--resume"] } else { Vec::new() };
        while done < kills {
            let extra = resume();
            let mut child =
                self.command(&killed, &[&arguments, &extra[..]].concat()).spawn().expect("the program starts");
            std::thread::sleep(Duration::from_millis(30 + random.below(400) as u64));
            match child.try_wait().expect("a child") {
                Some(status) => {
                    // It was done before the blow: begin again.
                    assert!(status.success());
                    fs::remove_dir_all(&killed).expect("the run's own directory");
                }
                None => {
                    child.kill().expect("a kill");
                    child.wait().expect("its end");
                    done += usize::from(!extra.is_empty());
                    // What is there of the log is the same up to the line that the blow cut.
                    let log = read(&killed);
                    let lines = log.rfind('\n').map_or("", |end| &log[..end]).lines();
                    lines.zip(expected.lines()).for_each(|(line, expected)| assert_eq!(line, expected));
                }
            }
        }
        self.succeeds(&killed, &[&arguments, &resume()[..]].concat());
        assert_eq!(read(&killed), expected);
        let [killed, whole] = [&killed, &whole].map(|out| fs::read(out.join("checkpoint.safetensors")));
        assert!(killed.expect("a checkpoint") == whole.expect("a checkpoint"), "the last checkpoints differ");
    }
}

/// Asserts that files are there and have something in them.
pub fn has_files(out: &Path, names: &[&str]) {
    for name in names {
        assert!(fs::metadata(out.join(name)).is_ok_and(|about| about.len() > 0), "{name} of {}", out.display());
    }
}
