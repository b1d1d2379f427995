//! A training that is killed, interrupted and starved of disk ends with the bits of an undisturbed one.
//!
//! `soak supervise <folder> <steps> <kills>` runs itself: once in peace, and once with SIGKILL at random instants, SIGINT,
//! a file size limit and, where it may mount one, a full file system. `soak train <folder> <steps>` is what it runs.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use vq_kernels::ops::restart::Rule;
use vq_kernels::quantizer::{Config, Initial, Quantizer, StateMut, StateRef};
use vq_kernels::rng::Rng;
use vq_kernels::{Cpu, Error, MatRef};

const ROWS: usize = 16;
const INPUTS: usize = 6;
/// Steps between two saves.
const EVERY: u64 = 300;
/// What a shell reports for SIGINT; and this program's own code for a state that could not be saved.
const INTERRUPTED: u8 = 130;
const NOT_SAVED: u8 = 3;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |text: &String| text.parse().expect("a number");
    match &arguments[..] {
        [what, folder, steps] if what == "train" => train(Path::new(folder), number(steps)),
        [what, folder, steps, kills] if what == "supervise" => {
            supervise(Path::new(folder), number(steps), number(kills));
            ExitCode::SUCCESS
        }
        _ => panic!("soak train <folder> <steps> | soak supervise <folder> <steps> <kills>"),
    }
}

// -- the training

fn quantizer() -> Quantizer {
    let restart = Some(Rule { patience: 2.0, ..Rule::default() });
    let config = Config { inputs: INPUTS, dim: 4, codes: 24, restart, ..Config::default() };
    Quantizer::new(config, Initial::Normal).expect("a valid configuration")
}

/// Eight clusters that move every 2,000 steps, so that codes die; now and then rows, or all of them, that are not finite.
fn batch(step: u64) -> (Vec<f32>, Option<Vec<f32>>) {
    let mut rng = Rng::new(1, step);
    let mut x = Vec::with_capacity(ROWS * INPUTS);
    for _ in 0..ROWS {
        let mut centre = Rng::new(2 + step / 2000, rng.below(8));
        x.extend((0..INPUTS).map(|_| (centre.uniform() - 0.5 + 0.1 * rng.uniform()) as f32));
    }
    if step.is_multiple_of(37) {
        x.fill(f32::NAN);
    }
    if step % 11 == 3 {
        x[rng.below((ROWS * INPUTS) as u64) as usize] =
            [f32::NAN, f32::INFINITY, f32::NEG_INFINITY][(step % 3) as usize];
    }
    let weights = step.is_multiple_of(5).then(|| (0..ROWS).map(|_| rng.uniform() as f32).collect());
    (x, weights)
}

fn train(folder: &Path, steps: u64) -> ExitCode {
    static STOP: AtomicBool = AtomicBool::new(false);
    ctrlc::set_handler(|| STOP.store(true, Ordering::Relaxed)).expect("the only handler");
    let (cpu, mut quantizer, mut restarted) = (Cpu::new(), quantizer(), 0);
    if let Ok(bytes) = fs::read(folder.join("state")) {
        load(&mut quantizer, &bytes);
    }
    while quantizer.step() < steps {
        let step = quantizer.step();
        let (x, weights) = batch(step);
        let rows = MatRef::new(&x, ROWS, INPUTS).expect("its own shape");
        let report = quantizer.train_step(&cpu, rows, weights.as_deref(), |output, gradient| {
            let of = |y: f32, x: f32| if x.is_finite() { (y - x).clamp(-2.0, 2.0) / ROWS as f32 } else { 0.0 };
            gradient.iter_mut().zip(output.data().iter().zip(&x)).for_each(|(g, (y, x))| *g = of(*y, *x));
        });
        restarted += report.expect("the shapes agree").restart.restarted;
        let descended = quantizer.apply(&cpu, |update| {
            update.values.iter_mut().zip(update.gradient).for_each(|(v, g)| *v -= (0.05 * g).clamp(-0.1, 0.1));
        });
        descended.expect("nothing a caller can cause");
        let (done, stopped) = (quantizer.step(), STOP.load(Ordering::Relaxed));
        if done.is_multiple_of(steps / 8) {
            println!("step {done}: {} KiB resident, {restarted} codes restarted", resident());
        }
        let due = done.is_multiple_of(EVERY) || done == steps || stopped;
        let saved = if due { save(folder, &quantizer) } else { Ok(()) };
        if let Err(error) = saved {
            eprintln!("step {done}: not saved: {error}");
            return ExitCode::from(NOT_SAVED);
        }
        if stopped && done < steps {
            return ExitCode::from(INTERRUPTED);
        }
    }
    ExitCode::SUCCESS
}

/// All tensors, little-endian, and a sum of all bytes: whole under a temporary name, then renamed.
fn save(folder: &Path, quantizer: &Quantizer) -> io::Result<()> {
    let mut bytes = Vec::new();
    for (_, tensor) in quantizer.state() {
        match tensor {
            StateRef::F32(values) => values.iter().for_each(|x| bytes.extend(x.to_le_bytes())),
            StateRef::F64(values) => values.iter().for_each(|x| bytes.extend(x.to_le_bytes())),
            StateRef::U64(values) => values.iter().for_each(|x| bytes.extend(x.to_le_bytes())),
        }
    }
    bytes.extend(sum(&bytes).to_le_bytes());
    let part = folder.join("state.part");
    // In pieces, so that a kill may come between two.
    let written =
        File::create(&part).and_then(|mut file| bytes.chunks(256).try_for_each(|piece| file.write_all(piece)));
    written.and_then(|()| fs::rename(&part, folder.join("state"))).inspect_err(|_| drop(fs::remove_file(&part)))
}

fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xCBF2_9CE4_8422_2325, |h, byte| (h ^ u64::from(*byte)).wrapping_mul(0x100_0000_01B3))
}

fn load(quantizer: &mut Quantizer, bytes: &[u8]) {
    let (mut rest, check) = bytes.split_at(bytes.len() - 8);
    assert_eq!(sum(rest).to_le_bytes(), check, "a state that is whole");
    fn take<const N: usize>(rest: &mut &[u8]) -> [u8; N] {
        let (piece, after) = rest.split_first_chunk().expect("a state of this configuration");
        *rest = after;
        *piece
    }
    let restored = quantizer.restore(|_, place| {
        match place {
            StateMut::F32(to) => to.iter_mut().for_each(|x| *x = f32::from_le_bytes(take(&mut rest))),
            StateMut::F64(to) => to.iter_mut().for_each(|x| *x = f64::from_le_bytes(take(&mut rest))),
            StateMut::U64(to) => to.iter_mut().for_each(|x| *x = u64::from_le_bytes(take(&mut rest))),
        }
        Ok::<(), Error>(())
    });
    restored.expect("a state that a quantizer had");
    assert!(rest.is_empty());
}

/// Kilobytes of memory that are resident; 0 where the system does not tell.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()).map_or(0, |n| n.parse().unwrap_or(0))
}

// -- the supervisor

fn supervise(folder: &Path, steps: u64, kills: u64) {
    let [calm, wild] = ["calm", "wild"].map(|name| folder.join(name));
    for folder in [&calm, &wild] {
        fs::create_dir_all(folder).expect("a folder that can be written to");
        assert!(!folder.join("state").exists(), "{} holds an earlier run", folder.display());
    }
    let disk = Disk::mount(&wild);
    let start = Instant::now();
    let output = start_in(&calm, steps, false).wait_with_output().expect("a child of ours");
    assert!(output.status.success(), "the undisturbed run");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let took = start.elapsed();
    println!("undisturbed, {took:.1?}:\n{text}");
    check_memory(&text);
    // By progress, so that their number does not depend on the machine's speed: 0.6 of a share on average.
    let share = steps as f64 / kills as f64;
    let (mut rng, mut count) = (Rng::new(7, 0), [0u64; 5]);
    let [killed, interrupted, limited, full, ended] = [0, 1, 2, 3, 4];
    while count[ended] == 0 {
        let disturbances: u64 = count.iter().sum();
        let how = match disturbances % 20 {
            4 | 14 => interrupted,
            9 => limited,
            19 if disk.is_some() => full,
            _ => killed,
        };
        let ballast = wild.join("ballast");
        if how == full {
            fill(&ballast);
        }
        let before = fs::read(wild.join("state")).ok();
        let mut child = start_in(&wild, steps, how == limited);
        if how == killed || how == interrupted {
            let until = step_in(&wild) + (1.2 * share * rng.uniform()) as u64;
            while step_in(&wild) < until && child.try_wait().expect("a child of ours").is_none() {
                std::thread::sleep(Duration::from_millis(1));
            }
            // And anywhere between two saves, or within one.
            std::thread::sleep(Duration::from_micros(rng.below(10_000)));
        }
        match how {
            0 => child.kill().expect("a child of ours"),
            1 => interrupt(&child),
            _ => {}
        }
        let code = child.wait_with_output().expect("a child of ours").status.code();
        match (how, code) {
            (_, Some(0)) => count[ended] += 1,
            (0, None) => count[killed] += 1,
            (1, Some(code)) if code == i32::from(INTERRUPTED) => count[interrupted] += 1,
            // SIGINT came before its handler was there.
            (1, None) => count[killed] += 1,
            (2 | 3, Some(code)) if code == i32::from(NOT_SAVED) => {
                count[how] += 1;
                assert_eq!(fs::read(wild.join("state")).ok(), before, "a failed save leaves the state as it was");
                assert!(!wild.join("state.part").exists(), "a failed save leaves nothing behind");
            }
            _ => panic!("disturbance {how} ended with {code:?}"),
        }
        if how == full {
            fs::remove_file(&ballast).expect("the ballast");
        }
    }
    let [calm_state, wild_state] = [&calm, &wild].map(|folder| fs::read(folder.join("state")).expect("a final state"));
    drop(disk);
    println!(
        "disturbed, {:.1?}: {} times SIGKILL, {} SIGINT, {} over the file size limit, {} with a full disk",
        start.elapsed() - took,
        count[killed],
        count[interrupted],
        count[limited],
        count[full]
    );
    assert!(calm_state == wild_state, "the final states differ");
    assert!(count[killed] >= kills, "{} kills, {kills} were asked for: more steps, or fewer kills", count[killed]);
    println!("the final states of {steps} steps are equal, bit for bit ({} bytes)", calm_state.len());
}

fn start_in(folder: &Path, steps: u64, limited: bool) -> Child {
    let program = std::env::current_exe().expect("this program");
    let mut command = match limited {
        false => Command::new(&program),
        // One block of 512 or 1,024 bytes, less than a state takes; a write beyond it is an error instead of a signal.
        true => {
            let mut shell = Command::new("bash");
            shell.args(["-c", "trap '' XFSZ; ulimit -f 1; exec \"$0\" \"$@\""]).arg(&program);
            shell
        }
    };
    let quiet = if limited { Stdio::null() } else { Stdio::piped() };
    let command = command.arg("train").arg(folder).arg(steps.to_string()).stdout(quiet).stderr(Stdio::null());
    command.spawn().expect("this program again")
}

/// The step that a folder's state has come to: its last tensor, before the sum.
fn step_in(folder: &Path) -> u64 {
    let bytes = fs::read(folder.join("state")).unwrap_or_default();
    let step = bytes.len().checked_sub(16).and_then(|at| bytes[at..].first_chunk());
    step.map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

fn interrupt(child: &Child) {
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(sent.expect("the program `kill`").success());
}

/// Fills a small file system.
fn fill(ballast: &Path) {
    let mut file = File::create(ballast).expect("a file on the small disk");
    while file.write_all(&[0; 1024]).is_ok() {}
}

/// A small file system, unmounted at the end.
struct Disk(PathBuf);

impl Disk {
    fn mount(folder: &Path) -> Option<Self> {
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"]).arg(folder).status();
        let mounted = mounted.is_ok_and(|status| status.success());
        if !mounted {
            println!("no small disk can be mounted here: only the file size limit makes saves fail");
        }
        mounted.then(|| Self(folder.to_owned()))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Nothing is lost where it stays mounted: it is memory of this machine's.
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

/// The last half's memory is that of the first eighth, but for a megabyte.
fn check_memory(text: &str) {
    let resident = |line: &str| line.split_whitespace().nth(2).and_then(|n| n.parse::<u64>().ok());
    let points: Vec<u64> = text.lines().filter_map(resident).collect();
    assert!(points.len() >= 8, "a line for each eighth");
    let (first, last) = (points[0], points[points.len() / 2..].iter().max().expect("some"));
    assert!(*last <= first + 1024, "memory grows: {points:?} KiB");
}
