//! Progress, Ctrl-C, and memory in use.

use core::fmt::Display;
use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use std::io::Write;
use std::time::Instant;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressFinish, ProgressStyle};

use super::failure::{Context, Failure, INTERRUPTED_CODE};
use super::files::remove_unfinished;

/// How often a log file, which has no bar, gets a line.
const PLAIN_EVERY: Duration = Duration::from_secs(10);

/// What a progress bar counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    /// Things, shown as plain numbers.
    Items,
    /// Bytes, shown as KiB, MiB, …
    Bytes,
}

impl Count {
    fn template(self) -> &'static str {
        match self {
            Self::Items => "{prefix} [{bar:30}] {pos}/{len} {per_sec} eta {eta} {wide_msg}",
            Self::Bytes => "{prefix} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} eta {eta} {wide_msg}",
        }
    }
}

/// A bar on the terminal; in a log file, a plain line every ten seconds instead.
pub struct Progress {
    bar: ProgressBar,
    label: String,
    started: Instant,
    /// `None` when the bar itself is visible, or when nothing is to be shown.
    last_line: Option<Instant>,
    printed: bool,
}

impl Progress {
    /// A bar on standard error that counts up to `total`.
    pub fn new(label: &str, total: u64, count: Count) -> Self {
        let mut progress = Self::on(ProgressDrawTarget::stderr(), label, total, count);
        progress.last_line = progress.bar.is_hidden().then(Instant::now);
        progress
    }

    /// Shows nothing, but warnings.
    pub fn hidden() -> Self {
        Self::on(ProgressDrawTarget::hidden(), "", 0, Count::Items)
    }

    fn on(target: ProgressDrawTarget, label: &str, total: u64, count: Count) -> Self {
        // The templates are constants; a bar in the default style is better than none should one be wrong.
        let style = ProgressStyle::with_template(count.template()).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::with_draw_target(Some(total), target)
            .with_style(style.progress_chars("=> "))
            .with_finish(ProgressFinish::Abandon);
        bar.set_prefix(label.to_owned());
        Self { bar, label: label.to_owned(), started: Instant::now(), last_line: None, printed: false }
    }

    /// `position` of the total is done; `message` is shown behind the bar.
    pub fn tick(&mut self, position: u64, message: impl Display) {
        self.bar.set_position(position);
        if self.last_line.is_some_and(|last| last.elapsed() >= PLAIN_EVERY) {
            self.last_line = Some(Instant::now());
            self.printed = true;
            eprintln!(
                "{}: {position}/{} after {:.0} s {message}",
                self.label,
                self.bar.length().unwrap_or(0),
                self.started.elapsed().as_secs_f64()
            );
        } else if self.last_line.is_none() && !self.bar.is_hidden() {
            self.bar.set_message(message.to_string());
        }
    }

    /// Prints a line to standard error without tearing the bar.
    pub fn warn(&self, message: impl Display) {
        self.bar.suspend(|| eprintln!("warning: {message}"));
    }

    /// Everything is done.
    pub fn done(self) {
        self.bar.finish();
        if self.printed {
            eprintln!("{}: done in {:.0} s", self.label, self.started.elapsed().as_secs_f64());
        }
    }
}

/// Prints to standard output, which may be a pipe that someone has closed.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).context(|| "cannot write to standard output".into())
}

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// From now on the first Ctrl-C only sets the flag that [`interrupted`] reads, and the second one ends the program at once.
pub fn catch_interrupts() -> Result<(), Failure> {
    ctrlc::set_handler(|| {
        if INTERRUPTED.swap(true, Ordering::Relaxed) {
            remove_unfinished();
            std::process::exit(INTERRUPTED_CODE.into());
        }
        eprintln!("\nstopping at the next safe point; press Ctrl-C again to stop at once");
    })
    .context(|| "cannot catch Ctrl-C".into())
}

/// Whether Ctrl-C was pressed: finish the step, save, and return [`Failure::interrupted`].
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// The most memory this process has held so far, in MB of 10^6 bytes; `None` where the system does not tell (only Linux does).
pub fn peak_rss_mb() -> Option<f64> {
    peak_of(&std::fs::read_to_string("/proc/self/status").ok()?)
}

fn peak_of(status: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
    Some(kib * 1024.0 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peak_memory_is_read_from_its_line() {
        for (status, expected) in [
            ("Name:\tx\nVmHWM:\t    1000 kB\nVmRSS:\t 5 kB\n", Some(1.024)),
            ("VmHWM:\t many kB\n", None),
            ("Name:\tx\n", None),
        ] {
            assert_eq!(peak_of(status), expected, "{status:?}");
        }
    }

    #[test]
    fn templates_are_well_formed() {
        for count in [Count::Items, Count::Bytes] {
            assert!(ProgressStyle::with_template(count.template()).is_ok(), "{count:?}");
        }
    }

    #[test]
    fn nothing_is_interrupted_before_ctrl_c() {
        assert!(!interrupted());
    }
}
