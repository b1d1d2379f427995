//! The targets on pseudo-random inputs, without libFuzzer: `drive <target|all> <runs> [seed]`.
//!
//! A failing input is cut and zeroed while it still fails, and printed as hexadecimal and into `crash-<target>`.

use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::time::Instant;

use vq_fuzz::{TARGETS, Target, bytes_of};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let usage = "drive <target|all> <runs> [seed]";
    let [name, runs, seed @ ..] = &arguments[..] else { panic!("{usage}") };
    let runs: u64 = runs.parse().expect(usage);
    let seed: u64 = seed.first().map_or(1, |seed| seed.parse().expect(usage));
    for target in TARGETS.iter().filter(|target| name == "all" || target.name == name) {
        let start = Instant::now();
        for n in 0..runs {
            let bytes = bytes_of(seed, n);
            if fails(target, &bytes) {
                report(target, bytes);
            }
        }
        if runs >= 20_000 {
            target.assert_reached();
        }
        let seconds = start.elapsed().as_secs_f64();
        println!("{}: {} runs in {seconds:.0} s, {:?}", target.name, target.runs(), target.reached());
    }
}

fn fails(target: &Target, bytes: &[u8]) -> bool {
    catch_unwind(AssertUnwindSafe(|| target.run(bytes))).is_err()
}

/// Shortens, then zeroes byte by byte; then fails as the input does.
fn report(target: &Target, mut bytes: Vec<u8>) -> ! {
    let hook = take_hook();
    set_hook(Box::new(|_| ()));
    while let Some((_, shorter)) = bytes.split_last().filter(|(_, shorter)| fails(target, shorter)) {
        bytes = shorter.to_vec();
    }
    for at in 0..bytes.len() {
        let byte = bytes[at];
        for simpler in (0..byte).take(8) {
            bytes[at] = simpler;
            if fails(target, &bytes) {
                break;
            }
            bytes[at] = byte;
        }
    }
    set_hook(hook);
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    println!("{}: fails on {hex}", target.name);
    std::fs::write(format!("crash-{}", target.name), &bytes).expect("a folder that can be written to");
    target.run(&bytes);
    unreachable!("it failed before");
}
