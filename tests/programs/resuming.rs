//! `train_codebook` killed and interrupted: it goes on to the same bits.

use core::time::Duration;
use std::os::unix::fs::MetadataExt;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use vq_kernels::rng::Rng;

use crate::place::{Done, Place, too_slow};

const STEPS: u64 = 200;
/// Far beyond any wait here: then something hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// A run of which a step takes about a millisecond; the log has every second step.
fn line(learn: &str, out: &str) -> String {
    format!(
        "train_codebook --learn {learn} --scenes 4 --codes 512 --steps {STEPS} --batch 1024 --save-every 5 --out {out}"
    )
}

/// What must not depend on how often a run was stopped; the checkpoint, too.
fn results(place: &Place, out: &str) -> [Vec<u8>; 6] {
    ["codebook.safetensors", "checkpoint.safetensors", "log.jsonl", "usage.svg", "counts.svg", "reconstruction.png"]
        .map(|name| place.bytes(&format!("{out}/{name}")))
}

#[track_caller]
fn assert_same_results(place: &Place, out: &str, expected: &str) {
    assert_eq!(place.text(&format!("{out}/log.jsonl")), place.text(&format!("{expected}/log.jsonl")), "{out}");
    assert!(results(place, out) == results(place, expected), "{out}: other bytes than {expected}");
}

fn spawn(place: &Place, line: &str) -> Child {
    place.command(line).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts")
}

/// Whether `fact` comes true before the program ends.
#[track_caller]
fn wait_for(child: &mut Child, mut fact: impl FnMut() -> bool) -> bool {
    let started = Instant::now();
    loop {
        if fact() {
            return true;
        }
        if child.try_wait().expect("a child").is_some() {
            return false;
        }
        assert!(started.elapsed() < PATIENCE, "nothing happens");
        std::thread::sleep(Duration::from_micros(500));
    }
}

/// Which file is under the checkpoint's name: each save makes a new one.
fn checkpoint(place: &Place, out: &str) -> Option<(u64, i64)> {
    let about = std::fs::metadata(place.path(out).join("checkpoint.safetensors")).ok()?;
    Some((about.ino(), about.mtime_nsec()))
}

/// The step after which the program says that it goes on.
fn resumed_at(done: &Done) -> u64 {
    let at = done.stderr.lines().find_map(|line| line.strip_prefix("resuming at step "));
    at.and_then(|step| step.parse().ok()).unwrap_or_else(|| panic!("no step in:\n{}", done.stderr))
}

#[test]
fn a_killed_run_goes_on_to_the_same_bytes() {
    if too_slow("training again and again") {
        return;
    }
    const KILLS: usize = 6;
    for (seed, learn) in (0..).zip(["ema", "gradient", "projector", "plain"]) {
        let place = Place::new();
        place.run(&line(learn, "whole")).ok();
        let mut rng = Rng::new(seed, 0x4111);
        let mut kills = 0;
        for kill in 0..KILLS {
            let before = checkpoint(&place, "killed");
            let resume = if before.is_some() { " --resume" } else { "" };
            let mut child = spawn(&place, &(line(learn, "killed") + resume));
            // The first falls anywhere, also before there is a checkpoint; the others after a save.
            let saved = kill == 0 || wait_for(&mut child, || checkpoint(&place, "killed") != before);
            std::thread::sleep(Duration::from_micros(rng.below(30_000)));
            if !saved || child.try_wait().expect("a child").is_some() {
                break;
            }
            child.kill().expect("a child to kill");
            child.wait().expect("a child");
            kills += 1;
            if checkpoint(&place, "killed").is_none() {
                let done = place.run(&(line(learn, "killed") + " --resume"));
                assert_eq!(done.code, 1, "{learn}: resumed from nothing");
                done.says(&["killed/checkpoint.safetensors", "leave out --resume"]);
            }
        }
        let done = place.run(&(line(learn, "killed") + " --resume")).ok();
        let step = resumed_at(&done);
        println!("{learn}: {kills} kills, the last run goes on at step {step}");
        assert!(kills >= 2 && step >= 5 && step.is_multiple_of(5), "{learn}: {kills} kills, step {step}");
        assert_same_results(&place, "killed", "whole");
    }
}

#[test]
fn an_interrupted_run_saves_exits_with_130_and_goes_on_to_the_same_bytes() {
    if too_slow("training again and again") {
        return;
    }
    for learn in ["ema", "gradient", "projector", "plain"] {
        let place = Place::new();
        place.run(&line(learn, "whole")).ok();
        // A checkpoint comes from the interruption alone.
        let line = line(learn, "stopped").replace("--save-every 5", "--save-every 1000");
        for (stop, lines) in [3, 20, 40].into_iter().enumerate() {
            let resume = if stop > 0 { " --resume" } else { "" };
            let mut child = spawn(&place, &format!("{line}{resume}"));
            let log = place.path("stopped/log.jsonl");
            let logged = || std::fs::read_to_string(&log).map_or(0, |text| text.lines().count());
            assert!(wait_for(&mut child, || logged() >= lines), "{learn}: it ended before step {}", 2 * lines);
            let kill = format!("kill -INT {}", child.id());
            assert!(Command::new("sh").args(["-c", &kill]).status().expect("a shell").success());
            let output = child.wait_with_output().expect("a child");
            let stderr = String::from_utf8(output.stderr).expect("text");
            assert_eq!(output.status.code(), Some(130), "{learn}:\n{stderr}");
            assert_eq!(output.stdout, b"", "{learn}");
            for part in ["saved at step", "--resume"] {
                assert!(stderr.contains(part), "{learn}: no `{part}` in:\n{stderr}");
            }
            let files = place.files_in("stopped");
            assert_eq!(files, ["checkpoint.safetensors", "log.jsonl"], "{learn}: what is not finished is not written");
        }
        let done = place.run(&format!("{line} --resume")).ok();
        let step = resumed_at(&done);
        assert!((6..STEPS).contains(&step), "{learn}: stopped at step {step}");
        assert_same_results(&place, "stopped", "whole");
    }
}

#[test]
fn a_finished_run_resumed_writes_the_same_files_again() {
    let place = Place::new();
    let line = "train_codebook --scenes 3 --codes 32 --steps 7 --batch 64 --save-every 3 --out";
    place.run(&format!("{line} a")).ok();
    place.run(&format!("{line} b")).ok();
    for name in ["codebook.safetensors", "usage.svg"] {
        std::fs::remove_file(place.path("b").join(name)).expect("a file");
    }
    assert_eq!(resumed_at(&place.run(&format!("{line} b --resume")).ok()), 7);
    assert_same_results(&place, "b", "a");
    assert_eq!(place.files_in("b"), place.files_in("a"));
}

#[test]
fn lines_that_a_crash_left_after_the_checkpoint_leave_the_log() {
    let place = Place::new();
    let line = "train_codebook --scenes 3 --codes 32 --steps 7 --batch 64 --out";
    place.run(&format!("{line} a")).ok();
    place.run(&format!("{line} b")).ok();
    let log = place.text("a/log.jsonl");
    place.write("b/log.jsonl", format!("{log}{{\"step\":8}}\n{{\"step\":9,\"mea").as_bytes());
    place.run(&format!("{line} b --resume")).ok();
    assert_eq!(place.text("b/log.jsonl"), log);
}

#[test]
fn a_new_run_in_an_old_place_is_not_mixed_with_the_old_one() {
    if too_slow("training again and again") {
        return;
    }
    let place = Place::new();
    place.run(&line("ema", "whole")).ok();
    // Killed before its own first checkpoint: the one that is there belongs to the finished run.
    let line = line("ema", "again").replace("--save-every 5", "--save-every 1000");
    place.run(&line).ok();
    let mut child = spawn(&place, &line);
    // The log starts anew, so for a while there is none.
    let logged = || std::fs::read_to_string(place.path("again/log.jsonl")).unwrap_or_default().lines().count() as u64;
    assert!(wait_for(&mut child, || (3..STEPS / 2).contains(&logged())), "it ended too soon");
    child.kill().expect("a child to kill");
    child.wait().expect("a child");
    let done = place.run(&format!("{line} --resume"));
    // To say that there is nothing to go on with is as good as to go on.
    if done.code == 0 {
        assert_same_results(&place, "again", "whole");
    } else {
        done.says(&["again/checkpoint.safetensors"]);
    }
}
