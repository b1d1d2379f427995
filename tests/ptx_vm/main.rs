//! The PTX machine's own tests: instructions against Rust, and programs that are broken in one place.

mod arithmetic;
mod checks;
mod devices;
mod floats;
mod programs;
mod races;
mod vm;
mod warps;

use vm::{Arg, Machine, MmaError, Module, Options};

/// What stands before the kernels of a text.
const HEAD: &str = ".version 8.4\n.target sm_80\n.address_size 64\n";

fn machine() -> Machine {
    Machine::new(Options { mma: MmaError::Exact, schedule: 1 })
}

/// A machine for each of some orders of warps and blocks.
fn machines() -> impl Iterator<Item = Machine> {
    (0..6).map(|schedule| Machine::new(Options { mma: MmaError::Exact, schedule }))
}

fn parse(text: &str) -> Module {
    Module::parse(text).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

fn words<const N: usize>(bytes: &[u8]) -> Vec<[u8; N]> {
    bytes.chunks_exact(N).map(|c| c.try_into().expect("chunks of N")).collect()
}

fn u32s(bytes: &[u8]) -> Vec<u32> {
    words(bytes).into_iter().map(u32::from_le_bytes).collect()
}

fn u64s(bytes: &[u8]) -> Vec<u64> {
    words(bytes).into_iter().map(u64::from_le_bytes).collect()
}

fn f32s(bytes: &[u8]) -> Vec<f32> {
    words(bytes).into_iter().map(f32::from_le_bytes).collect()
}

fn upload(machine: &Machine, name: &str, bytes: &[u8]) -> Arg {
    let address = machine.alloc(name, bytes.len());
    machine.write(address, bytes);
    Arg::U64(address)
}

/// A generator of test data.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 ^ (self.0 >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd) >> 1
    }

    /// In [-1, 1).
    fn unit(&mut self) -> f32 {
        (self.next() >> 39) as f32 / (1 << 23) as f32 - 1.0
    }
}
