//! Where the ops run.

use rayon::ThreadPool;
use vq_kernels::{Cpu, Isa};

use super::failure::{Context, Failure};

/// More than any machine has; beyond it a mistyped number would take all memory for stacks.
const MOST_THREADS: usize = 1024;

/// An instruction set, and threads where there is more than one.
pub struct Processor {
    isa: Isa,
    pool: Option<ThreadPool>,
}

impl Processor {
    /// From the values of `--isa` and `--threads`.
    pub fn new(isa: &str, threads: usize) -> Result<Self, Failure> {
        let isa = Isa::from_name(isa).context(|| format!("--isa {isa}"))?;
        if !(1..=MOST_THREADS).contains(&threads) {
            return Err(Failure::new(format!("--threads {threads}: give a number from 1 to {MOST_THREADS}")));
        }
        let build = || rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        let pool = (threads > 1).then(build).transpose();
        Ok(Self { isa, pool: pool.context(|| format!("cannot start {threads} threads"))? })
    }

    /// As the ops' first argument.
    pub fn cpu(&self) -> Cpu<'_> {
        let cpu = Cpu::with_isa(self.isa);
        match &self.pool {
            Some(pool) => cpu.with_pool(pool),
            None => cpu,
        }
    }

    /// The threads, where there is more than one.
    pub fn pool(&self) -> Option<&ThreadPool> {
        self.pool.as_ref()
    }
}
