//! A machine that executes PTX as an NVIDIA GPU does, and says where a program errs: accesses out of bounds, misaligned
//! or to what was never written, data races, and barriers that not all reach.
//!
//! Warps run in lockstep with a program counter per lane; of the lanes of a warp those furthest behind run. Shared and
//! global memory have a shadow that knows which accesses are ordered by barriers; see `race`.

#![allow(dead_code)] // Each of the test targets that include this uses a part.

mod access;
mod block;
mod builder;
mod decode;
mod decode_alu;
mod exec;
mod float;
mod int;
mod isa;
mod lanes;
mod lex;
mod matrix;
mod memory;
mod operand;
mod parse;
pub mod race;
mod warp;

use core::cell::RefCell;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};
use std::collections::HashMap;

use isa::Space;
use memory::{Global, WRITTEN, Why};

/// Parsed PTX text.
pub struct Module {
    parsed: parse::Parsed,
    id: u64,
}

impl Module {
    /// Decodes all of the text; what is not understood is an error that names its line.
    pub fn parse(ptx: &str) -> Result<Module, String> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Ok(Module { parsed: parse::module(ptx)?, id: NEXT.fetch_add(1, Ordering::Relaxed) })
    }

    pub fn kernels(&self) -> impl Iterator<Item = &str> {
        self.parsed.kernels.iter().map(|k| k.name.as_str())
    }

    /// Bytes of each parameter.
    pub fn parameter_sizes(&self, kernel: &str) -> Option<Vec<usize>> {
        let found = self.parsed.kernels.iter().find(|k| k.name == kernel)?;
        Some(found.params.iter().map(|param| param.size as usize).collect())
    }

    /// `.maxntid` or `.reqntid`.
    pub fn max_threads(&self, kernel: &str) -> Option<u32> {
        self.parsed.kernels.iter().find(|k| k.name == kernel)?.max_threads
    }
}

/// What the sums of `mma` in f32 are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MmaError {
    /// Rounded once.
    Exact,
    /// As far off as hardware may be: n · 2⁻²² · (|c| + Σ |a b|) for n products, up or down by the seed.
    Worst { seed: u64 },
}

pub struct Options {
    pub mma: MmaError,
    /// Seed of the order in which blocks, and the warps of a block, run.
    pub schedule: u64,
}

/// An argument of a kernel.
#[derive(Clone, Copy, Debug)]
pub enum Arg {
    U64(u64),
    U32(u32),
    F32(f32),
    F64(f64),
    I32(i32),
    I64(i64),
}

impl Arg {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Arg::U64(v) => v.to_le_bytes().to_vec(),
            Arg::I64(v) => v.to_le_bytes().to_vec(),
            Arg::F64(v) => v.to_le_bytes().to_vec(),
            Arg::U32(v) => v.to_le_bytes().to_vec(),
            Arg::I32(v) => v.to_le_bytes().to_vec(),
            Arg::F32(v) => v.to_le_bytes().to_vec(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    OutOfBounds,
    Uninitialised,
    Misaligned,
    SharedRace,
    GlobalRace,
    /// Not reached by the threads that must, or in different ways.
    Barrier,
    Deadlock,
    Unsupported,
    BadLaunch,
    /// The budget of instructions is spent.
    Limit,
    /// Data of a `cp.async` that nobody has waited for.
    AsyncPending,
}

/// The first error of a launch.
#[derive(Clone, Debug)]
pub struct Fault {
    pub kind: FaultKind,
    pub kernel: String,
    /// Of the PTX text; 0 where no instruction is at fault.
    pub line: usize,
    pub instruction: String,
    pub block: [u32; 3],
    /// In the block.
    pub thread: u32,
    pub detail: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{:?} in {}", self.kind, self.kernel)?;
        if self.line > 0 {
            write!(f, ", line {}: {}; block {:?}, thread {}", self.line, self.instruction, self.block, self.thread)?;
        }
        write!(f, ": {}", self.detail)
    }
}

impl core::error::Error for Fault {}

impl Fault {
    fn launch(kind: FaultKind, kernel: &str, detail: String) -> Fault {
        let (kernel, instruction) = (kernel.to_string(), String::new());
        Fault { kind, kernel, line: 0, instruction, block: [0; 3], thread: 0, detail }
    }
}

struct State {
    global: Global,
    /// Addresses of the variables of modules that have been launched, on each device.
    modules: HashMap<(u64, usize), Vec<u64>>,
    executed: u64,
    budget: u64,
}

/// Device memory, and how kernels run.
pub struct Machine {
    options: Options,
    state: RefCell<State>,
}

impl Machine {
    pub fn new(options: Options) -> Self {
        let state = State { global: Global::default(), modules: HashMap::new(), executed: 0, budget: 1 << 30 };
        Machine { options, state: RefCell::new(state) }
    }

    /// Sets the number of warp instructions that a launch may execute; 2³⁰ otherwise.
    pub fn set_budget(&self, instructions: u64) {
        self.state.borrow_mut().budget = instructions;
    }

    /// Goes on as another device: what is allocated is its own, and all that its kernels reach. The host reaches all.
    pub fn select(&self, device: usize) {
        self.state.borrow_mut().global.device = device;
    }

    /// Memory that nobody has written, aligned to 256 bytes and no better.
    pub fn alloc(&self, name: &str, bytes: usize) -> u64 {
        self.state.borrow_mut().global.alloc(name, bytes, 256)
    }

    /// Ends an allocation: its addresses are out of bounds from here on.
    pub fn free(&self, address: u64) {
        let global = &mut self.state.borrow_mut().global;
        match global.find(address) {
            Some((region, 0)) => global.regions[region].end(),
            _ => panic!("{address:#x} begins no allocation"),
        }
    }

    /// Copies to the device.
    pub fn write(&self, address: u64, bytes: &[u8]) {
        let global = &mut self.state.borrow_mut().global;
        let found = global.find(address);
        let done = found.map(|(region, at)| global.regions[region].write(at, bytes));
        assert!(matches!(done, Some(Ok(()))), "a write of {} bytes at {address:#x} is out of bounds", bytes.len());
    }

    /// Copies from the device.
    pub fn read(&self, address: u64, len: usize) -> Result<Vec<u8>, Fault> {
        let global = &self.state.borrow().global;
        let fault = |kind, detail| Err(Fault::launch(kind, "(a read by the host)", detail));
        let Some((region, at)) = global.find(address) else {
            return fault(FaultKind::OutOfBounds, format!("address {address:#x} is in no allocation"));
        };
        let region = &global.regions[region];
        match region.read(at, len) {
            Ok(bytes) => Ok(bytes.to_vec()),
            Err(Why::Bounds) => fault(
                FaultKind::OutOfBounds,
                format!("{len} bytes at {at} of {}, which has {}", region.name, region.data.len()),
            ),
            Err(why) => fault(FaultKind::Uninitialised, format!("{len} bytes at {at} of {}: {why:?}", region.name)),
        }
    }

    /// Warp instructions so far.
    pub fn executed(&self) -> u64 {
        self.state.borrow().executed
    }

    /// Bytes of global memory that warps have read or written so far, in sectors of 32.
    pub fn traffic(&self) -> u64 {
        32 * self.state.borrow().global.sectors
    }

    /// Runs a kernel to its end, or to the first fault.
    pub fn launch(
        &self,
        module: &Module,
        kernel: &str,
        grid: [u32; 3],
        block: [u32; 3],
        dynamic_shared: u32,
        args: &[Arg],
    ) -> Result<(), Fault> {
        let args: Vec<Vec<u8>> = args.iter().map(Arg::bytes).collect();
        self.launch_bytes(module, kernel, grid, block, dynamic_shared, &args)
    }

    /// The same with the bytes of each argument, which may be a structure.
    pub fn launch_bytes(
        &self,
        module: &Module,
        kernel: &str,
        grid: [u32; 3],
        block: [u32; 3],
        dynamic_shared: u32,
        args: &[Vec<u8>],
    ) -> Result<(), Fault> {
        let bad = |detail: String| Fault::launch(FaultKind::BadLaunch, kernel, detail);
        let parsed = &module.parsed;
        let found = parsed.kernels.iter().find(|k| k.name == kernel);
        let code = found.ok_or_else(|| bad("no such kernel".into()))?;
        let params = parameters(code, args).map_err(bad)?;
        check_shape(parsed, code, grid, block, dynamic_shared).map_err(bad)?;
        let state = &mut *self.state.borrow_mut();
        let place = (module.id, state.global.device);
        let globals = state.modules.entry(place).or_insert_with(|| variables(parsed, &mut state.global)).clone();
        let launch = block::Launch {
            parsed,
            kernel: code,
            grid,
            block,
            dynamic_shared,
            params: &params,
            globals: &globals,
            mma: self.options.mma,
            schedule: self.options.schedule,
            budget: state.budget,
        };
        block::launch(&launch, &mut state.global, &mut state.executed).map_err(|failure| {
            let line = code.code.get(failure.pc as usize).map_or(0, |i| i.line as usize);
            Fault {
                kind: failure.trap.kind,
                kernel: kernel.into(),
                line,
                instruction: parsed.lines.get(line.wrapping_sub(1)).cloned().unwrap_or_default(),
                block: failure.block,
                thread: 32 * failure.warp + failure.trap.lane,
                detail: failure.trap.detail,
            }
        })
    }
}

/// The parameters' bytes.
fn parameters(kernel: &isa::Kernel, args: &[Vec<u8>]) -> Result<Vec<u8>, String> {
    if args.len() != kernel.params.len() {
        return Err(format!("{} arguments for {} parameters", args.len(), kernel.params.len()));
    }
    let mut out = vec![0; kernel.param_bytes as usize];
    for (i, (bytes, param)) in args.iter().zip(&kernel.params).enumerate() {
        if bytes.len() != param.size as usize {
            return Err(format!("argument {i} has {} bytes, its parameter {}", bytes.len(), param.size));
        }
        out[param.offset as usize..][..bytes.len()].copy_from_slice(bytes);
    }
    Ok(out)
}

fn check_shape(
    parsed: &parse::Parsed,
    kernel: &isa::Kernel,
    grid: [u32; 3],
    block: [u32; 3],
    dynamic: u32,
) -> Result<(), String> {
    let product = |dims: [u32; 3]| dims.iter().try_fold(1u32, |p, d| p.checked_mul(*d));
    let [_, y, z] = grid;
    match product(grid) {
        Some(blocks) if (1..1 << 31).contains(&blocks) && y < 1 << 16 && z < 1 << 16 => {}
        _ => return Err(format!("a grid of {grid:?}")),
    }
    let threads = product(block).filter(|t| (1..=1024).contains(t) && block[2] <= 64);
    let threads = threads.ok_or_else(|| format!("a block of {block:?}"))?;
    if let Some(max) = kernel.max_threads
        && (threads > max || kernel.required_threads && threads != max)
    {
        return Err(format!("{threads} threads where the kernel is bounded to {max}"));
    }
    let fixed: u64 = kernel.shared.iter().map(|v| parsed.variables[*v].size).sum();
    // 163 KiB is what a block of an sm_80 can have, 48 KiB of it in variables.
    if fixed > 48 << 10 || fixed + u64::from(dynamic) > 163 << 10 {
        return Err(format!("{fixed} + {dynamic} bytes of shared memory"));
    }
    Ok(())
}

/// Makes the module's variables in constant and global memory.
fn variables(parsed: &parse::Parsed, global: &mut Global) -> Vec<u64> {
    let place = |v: &isa::Variable| {
        if !matches!(v.space, Space::Global | Space::Const) {
            return 0;
        }
        let address = global.alloc(&v.name, v.init.len(), v.align);
        if let Some(region) = global.regions.last_mut() {
            region.data.copy_from_slice(&v.init);
            region.state.fill(WRITTEN);
            region.read_only = v.space == Space::Const;
        }
        address
    };
    parsed.variables.iter().map(place).collect()
}
