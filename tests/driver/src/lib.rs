//! A CUDA driver whose devices are the virtual machine of `tests/ptx_vm`: as much of `libcuda` as cudarc and the crate
//! call, so that what talks to a driver runs on a machine without one.
//!
//! Work is queued and runs late: when a call must wait for it, or when the order of events asks for it. A copy, a
//! release or a kernel that relies on an order which nobody has asked for meets memory that is not ready.
//!
//! | device | what it is |
//! |---|---|
//! | 0, 1 | capability 9.0 |
//! | 2 | capability 7.5 |
//! | 3 | 1 MiB of memory |
//! | 4 | its compiler refuses every image |
//!
//! A device's kernels reach its own memory only. Whatever is refused while a stream is captured ends that capture: all that
//! follows is refused, and so is the graph.
//!
//! `VQ_DRIVER_VERSION=12010` makes it the driver of CUDA 12.1; `VQ_DRIVER_TRACE=1` prints each launch and how many warp
//! instructions of PTX it executed; `VQ_DRIVER_FILLED=1` lets kernels read memory that nobody has written, as burn's do where
//! they then leave the value aside.

mod api;
mod contexts;
mod cubecl;
mod memory;
mod streams;
#[path = "../../ptx_vm/vm/mod.rs"]
mod vm;

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::{Mutex, MutexGuard, PoisonError};

use vm::{Machine, MmaError, Options};

use contexts::Device;
use memory::Block;
use streams::{Event, Stream, Work};

/// A number of the driver's `CUresult`.
type Code = i32;
type Result<T> = core::result::Result<T, Code>;

const INVALID_VALUE: Code = 1;
const OUT_OF_MEMORY: Code = 2;
const NO_DEVICE: Code = 100;
const INVALID_DEVICE: Code = 101;
const INVALID_CONTEXT: Code = 201;
const INVALID_PTX: Code = 218;
const INVALID_HANDLE: Code = 400;
const NOT_FOUND: Code = 500;
const NOT_READY: Code = 600;
const ILLEGAL_ADDRESS: Code = 700;
const CAPTURE_UNSUPPORTED: Code = 900;
const CAPTURE_INVALIDATED: Code = 901;
const CAPTURE_ISOLATION: Code = 905;
const CAPTURED_EVENT: Code = 907;

/// All that the driver knows. Handles are numbers that are given once.
struct Driver {
    machine: Machine,
    devices: [Device; 5],
    /// The device of each context; a context's own handle is its default stream's as well.
    contexts: HashMap<usize, usize>,
    streams: HashMap<usize, Stream>,
    events: HashMap<usize, Event>,
    /// With the context that each was loaded for.
    modules: HashMap<usize, (usize, Rc<vm::Module>)>,
    /// Their module's handle, and their name.
    functions: HashMap<usize, (usize, String)>,
    graphs: HashMap<usize, Vec<Work>>,
    memory: BTreeMap<u64, Block>,
    /// Images that have been decoded, by their text.
    decoded: HashMap<String, Rc<vm::Module>>,
    handles: usize,
    /// Whether launches are printed, with the instructions that they took.
    traces: bool,
    /// Whether memory that nobody has written may be read.
    fills: bool,
}

// SAFETY: what is inside, counted references among it, is reached through the lock alone.
unsafe impl Send for Driver {}

impl Driver {
    fn new() -> Self {
        let options = Options { mma: MmaError::Worst { seed: 1 }, schedule: 7 };
        Self {
            machine: Machine::new(options),
            devices: contexts::devices(),
            contexts: HashMap::new(),
            streams: HashMap::new(),
            events: HashMap::new(),
            modules: HashMap::new(),
            functions: HashMap::new(),
            graphs: HashMap::new(),
            memory: BTreeMap::new(),
            decoded: HashMap::new(),
            handles: 0x1000,
            traces: std::env::var_os("VQ_DRIVER_TRACE").is_some(),
            fills: std::env::var_os("VQ_DRIVER_FILLED").is_some(),
        }
    }

    /// A number that no other handle has; none is 0, 1 or 2, which mean default streams.
    fn handle(&mut self) -> usize {
        self.handles += 16;
        self.handles
    }
}

thread_local! {
    /// The calling thread's context, or 0.
    static CURRENT: Cell<usize> = const { Cell::new(0) };
}

/// Runs a call of the interface: its result is the call's.
fn call(body: impl FnOnce(&mut Driver) -> Result<()>) -> Code {
    match body(lock().get_or_insert_with(Driver::new)) {
        Ok(()) => 0,
        Err(code) => code,
    }
}

fn lock() -> MutexGuard<'static, Option<Driver>> {
    static DRIVER: Mutex<Option<Driver>> = Mutex::new(None);
    DRIVER.lock().unwrap_or_else(PoisonError::into_inner)
}
