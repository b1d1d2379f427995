//! Output that has no room: a full disk, a limit on files, a full or closed standard output.

use std::process::{Command, Stdio};

use safetensors::Dtype;

use crate::place::{Place, clustered, f32_bytes, program};
use crate::refusals::write_rows;

/// Lines that print their result, with the files they need in place.
const PRINTING: [&str; 4] = [
    "speed --op normalize --rows 8 --codes 8 --dim 4 --repeat 1 --json",
    "quantize encode --codebook book.st --input x.st --output codes.st --json",
    "quantize inspect book.st",
    "train_codebook --scenes 2 --codes 16 --steps 1 --batch 64 --out o --json",
];

fn printing_place() -> Place {
    let place = Place::new();
    write_rows(&place);
    place.write_tensor("book.st", "codebook", Dtype::F32, &[8, 12], &f32_bytes(&clustered(8, 12, 8, 1)));
    place
}

/// All lines are tried before the test fails.
#[track_caller]
fn assert_told(outputs: impl Iterator<Item = (&'static str, std::process::Output)>, cause: &str) {
    let mut faults = Vec::new();
    for (line, output) in outputs {
        let stderr = String::from_utf8_lossy(&output.stderr);
        let says = stderr.contains("standard output") && stderr.contains(cause) && !stderr.contains("panicked");
        if output.status.code() != Some(1) || !says {
            let first = stderr.lines().find(|line| line.contains("panicked")).unwrap_or(&stderr);
            faults.push(format!("`{line}` ends with {}: {first}", output.status));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_standard_output_is_told() {
    let place = printing_place();
    let outputs = PRINTING.into_iter().map(|line| {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("Linux has it");
        (line, place.command(line).stdout(full).output().expect("the program starts"))
    });
    assert_told(outputs, "No space left");
}

#[test]
fn a_closed_pipe_is_told() {
    let place = printing_place();
    let outputs = PRINTING.into_iter().map(|line| {
        // Closed before the program starts, which may be quick.
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        (line, place.command(line).stdout(writer).output().expect("the program starts"))
    });
    assert_told(outputs, "Broken pipe");
}

/// Programs that write, and the file of which the last byte has no room; `full` is the small place.
const WRITING: [(&str, &str); 3] = [
    ("quantize encode --codebook book.st --input many.st --output full/codes.st", "full/codes.st"),
    ("quantize decode --codebook book.st --input codes.st --output full/y.st", "full/y.st"),
    ("train_codebook --features many.st --codes 4096 --batch 64 --steps 2 --out full/run", "checkpoint.safetensors"),
];

/// A codebook, and rows and codes of which the results need more than 64 KiB.
fn writing_place() -> Place {
    let place = printing_place();
    place.write_rows("many.st", 30_000, &clustered(30_000, 12, 5, 2));
    place.write_tensor("codes.st", "codes", Dtype::U32, &[30_000], &vec![0; 120_000]);
    std::fs::create_dir(place.path("full")).expect("a directory");
    place
}

/// Runs a line in a shell, after `before` and, whatever came of it, before `after`.
fn in_shell(place: &Place, wrapper: &[&str], before: &str, line: &str, after: &str) -> std::process::Output {
    let mut words = line.split_whitespace();
    let script = format!("{before} && {{ \"$@\"; code=$?; {after}; exit $code; }}");
    let mut command = Command::new(wrapper[0]);
    command.args(&wrapper[1..]).args(["-c", &script, "sh"]).arg(program(words.next().expect("a program")));
    command.args(words).current_dir(place.path("")).env_remove("RUST_BACKTRACE").stdin(Stdio::null());
    command.output().expect("a shell")
}

#[track_caller]
fn assert_no_room(output: &std::process::Output, line: &str, says: &[&str]) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "`{line}` ends with {}:\n{stderr}", output.status);
    for part in says {
        assert!(stderr.contains(part), "`{line}` does not say `{part}`:\n{stderr}");
    }
    assert!(!stderr.contains("panicked"), "`{line}`:\n{stderr}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_told_and_keeps_no_half_of_a_file() {
    const MOUNT: &str = "mount -t tmpfs -o size=64k none full";
    let wrapper = ["unshare", "--user", "--map-root-user", "--mount", "sh"];
    let place = writing_place();
    let mut probe = Command::new(wrapper[0]);
    probe.args(&wrapper[1..]).args(["-c", MOUNT]).current_dir(place.path(""));
    match probe.output() {
        Ok(output) if output.status.success() => {}
        refused => {
            println!("skipped: no small file system can be mounted here: {refused:?}");
            return;
        }
    }
    for (line, name) in WRITING {
        let output = in_shell(&place, &wrapper, MOUNT, line, "find full -type f > listing");
        assert_no_room(&output, line, &[name, "No space left", "free some space"]);
        let listing = place.text("listing");
        assert!(listing.lines().all(|file| file == "full/run/log.jsonl"), "`{line}` left\n{listing}");
    }
}

#[test]
fn a_limit_on_the_size_of_files_is_told_and_keeps_no_half_of_a_file() {
    let place = writing_place();
    for (line, name) in WRITING {
        // Without the trap, the system ends the program by a signal.
        let output = in_shell(&place, &["sh"], "trap '' XFSZ && ulimit -f 64", line, "true");
        assert_no_room(&output, line, &[name, "File too large"]);
        let left = place.files_in("full");
        assert!(left.iter().all(|file| file == "run/log.jsonl"), "`{line}` left {left:?}");
    }
}
