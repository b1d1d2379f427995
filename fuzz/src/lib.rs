//! Fuzz targets as plain functions over bytes; each compares every instruction set with the op's `reference` or with a
//! model of its own, and counts what it reached, so that a target that runs nothing fails.

mod ema;
mod files;
mod input;
mod kmeans;
mod lines;
mod loss;
mod normalize;
mod project;
mod quantizer;
mod restart;
mod search;
mod shapes;
mod usage;

// The programs' own readers, as the programs compile them.
#[allow(dead_code, unused_imports, missing_docs, reason = "the targets use a part")]
#[path = "../../examples/common"]
mod common {
    pub mod failure;
    pub mod files;
    pub mod tensors;
    pub use failure::Failure;
}
#[allow(dead_code, missing_docs, reason = "the targets use a part")]
#[path = "../../examples/quantize/book.rs"]
mod book;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use input::Input;
use vq_kernels::{Cpu, Isa};

/// A target: its name, what it runs, whether it runs ops on every tier, and the other marks that it must reach.
pub struct Target {
    pub name: &'static str,
    check: fn(&mut Input, &Reach),
    tiers: bool,
    marks: &'static [&'static str],
    reach: Reach,
}

/// How often each tier, and each mark, was reached.
#[derive(Default)]
pub struct Reach {
    runs: AtomicU64,
    tiers: [AtomicU64; 16],
    marks: [AtomicU64; 8],
}

impl Reach {
    const fn new() -> Self {
        Self {
            runs: AtomicU64::new(0),
            tiers: [const { AtomicU64::new(0) }; 16],
            marks: [const { AtomicU64::new(0) }; 8],
        }
    }

    /// An op has computed something on `cpu`'s tier.
    fn tier(&self, cpu: &Cpu) {
        let at = Isa::available().position(|isa| isa == cpu.isa()).expect("a Cpu's tier is available");
        self.tiers[at].fetch_add(1, Relaxed);
    }

    /// Mark `at` of the target's table.
    fn mark(&self, at: usize) {
        self.marks[at].fetch_add(1, Relaxed);
    }
}

const fn target(
    name: &'static str,
    tiers: bool,
    marks: &'static [&'static str],
    check: fn(&mut Input, &Reach),
) -> Target {
    Target { name, check, tiers, marks, reach: Reach::new() }
}

/// All targets. Those without tiers run ops that have one form only.
pub static TARGETS: [Target; 13] = [
    target("search", true, &["f32", "coarse", "pruned", "repacked", "u16", "half"], search::search),
    target("search_top", true, &["filled up", "blocks"], search::search_top),
    target("normalize", true, &["backward", "half"], normalize::normalize),
    target("project", true, &["backward", "half", "several blocks"], project::project),
    target("loss", true, &["rotation", "several blocks"], loss::loss),
    target("ema", true, &["merged", "coarsened", "means", "observed", "refused", "full"], ema::ema),
    target("restart", false, &["restarted", "waiting"], restart::restart),
    target("usage", false, &["pruned", "refused"], usage::usage),
    target(
        "quantizer",
        true,
        &["gradient", "ema", "projector", "frozen", "restored", "workers", "restarted", "not finite"],
        quantizer::quantizer,
    ),
    target("kmeans", true, &["refilled", "mini-batch", "seeds"], kmeans::kmeans),
    target("shapes", true, &["ok", "refused"], shapes::shapes),
    target("lines", true, &["coarse", "pruned", "repacked"], lines::lines),
    target("files", false, &["opened", "codes", "layer", "refused"], files::files),
];

impl Target {
    /// By name.
    ///
    /// # Panics
    /// Where there is none of that name.
    pub fn named(name: &str) -> &'static Self {
        TARGETS.iter().find(|target| target.name == name).expect("the name of a target")
    }

    /// Runs it on one input.
    ///
    /// # Panics
    /// Where it finds a bug.
    pub fn run(&self, bytes: &[u8]) {
        (self.check)(&mut Input::new(bytes), &self.reach);
        self.reach.runs.fetch_add(1, Relaxed);
    }

    pub fn runs(&self) -> u64 {
        self.reach.runs.load(Relaxed)
    }

    /// What has been reached how often, by name.
    pub fn reached(&self) -> Vec<(String, u64)> {
        let tiers = Isa::available().zip(&self.reach.tiers).map(|(isa, n)| (isa.name().to_owned(), n));
        let marks = self.marks.iter().zip(&self.reach.marks).map(|(mark, n)| ((*mark).to_owned(), n));
        let tiers = tiers.filter(|_| self.tiers);
        tiers.chain(marks).map(|(name, n)| (name, n.load(Relaxed))).collect()
    }

    /// # Panics
    /// Where a tier of this machine, or a mark, has never been reached; and where the machine has no vector tier.
    pub fn assert_reached(&self) {
        assert!(Isa::available().count() > 1, "no vector path on this machine: nothing is compared");
        for (what, n) in self.reached() {
            assert!(n > 0, "{}: `{what}` was never reached in {} runs", self.name, self.runs());
        }
    }
}

/// libFuzzer's entry: one input, and every so often a look at what has been reached so far.
pub fn run(name: &str, bytes: &[u8]) {
    let target = Target::named(name);
    target.run(bytes);
    if target.runs().is_power_of_two() && target.runs() >= 1 << 17 {
        target.assert_reached();
        eprintln!("{name}: {} runs, {:?}", target.runs(), target.reached());
    }
}

/// The `n`-th pseudo-random input of the plain drivers.
pub fn bytes_of(seed: u64, n: u64) -> Vec<u8> {
    let mut rng = vq_kernels::rng::Rng::new(seed, n);
    let len = 16 + rng.below(120) as usize;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend(rng.next_u64().to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}
