//! A queue that runs the committed PTX on the virtual machine, or, where `VQ_KERNELS_DEVICE` is a device's number, on
//! that device: what a GPU is to the twins' tests.

use core::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use bytemuck::Pod;
use cudarc::driver::{CudaSlice, DevicePtr};
use vq_kernels::cuda::{
    Arg, CudaError, Device, DeviceMatMut, DeviceMatRef, DeviceMut, DeviceRef, Grid, IMAGES, Image, Kernel, Queue,
    Stream, status,
};
use vq_kernels::{Error, Result};

use crate::vm::{self, Fault, Machine, MmaError, Module, Options};

/// A device and its only stream.
pub struct Gpu {
    memory: Memory,
    launched: RefCell<BTreeSet<&'static str>>,
    status: u64,
    processors: u32,
}

/// Where buffers lie and kernels run.
enum Memory {
    Virtual {
        machine: Machine,
        modules: RefCell<BTreeMap<&'static str, Rc<Module>>>,
        /// Where faults are looked for, the first: not an error of the test, then, but of the launch.
        fault: Option<RefCell<Option<Fault>>>,
    },
    Device {
        stream: Stream,
        buffers: RefCell<Vec<CudaSlice<u8>>>,
    },
}

// SAFETY: each launch is executed to its end before the next, or handed to a stream, on the arguments as given.
unsafe impl Queue for Gpu {
    unsafe fn launch(&self, kernel: Kernel, grid: Grid, args: &[Arg]) -> Result<()> {
        Arg::check_owner(args, self.id())?;
        self.launched.borrow_mut().insert(kernel.name);
        let (machine, modules, fault) = match &self.memory {
            Memory::Virtual { machine, modules, fault } => (machine, modules, fault),
            // SAFETY: the caller's claim.
            Memory::Device { stream, .. } => return unsafe { stream.launch(kernel, grid, args) },
        };
        let args: Vec<vm::Arg> = args
            .iter()
            .map(|arg| match *arg {
                Arg::U32(value) => vm::Arg::U32(value),
                Arg::U64(value) | Arg::Address { address: value, .. } => vm::Arg::U64(value),
                Arg::F32(value) => vm::Arg::F32(value),
                Arg::F64(value) => vm::Arg::F64(value),
            })
            .collect();
        let module = parsed(modules, kernel.image);
        let done = machine.launch(&module, kernel.name, grid.blocks, [grid.threads, 1, 1], 0, &args);
        match (done, fault) {
            (Ok(()), _) => Ok(()),
            (Err(found), Some(place)) => {
                place.borrow_mut().get_or_insert(found);
                Err(CudaError::Driver(700).into())
            }
            // A fault is a bug of the kernel, not an error of the op.
            (Err(found), None) => panic!("{found}"),
        }
    }

    fn id(&self) -> u64 {
        1
    }

    fn status(&self) -> u64 {
        self.status
    }

    fn processors(&self) -> u32 {
        self.processors
    }
}

impl Default for Gpu {
    fn default() -> Self {
        Self::new(MmaError::Worst { seed: 1 }, 2)
    }
}

impl Gpu {
    pub fn new(mma: MmaError, processors: u32) -> Self {
        let memory = match std::env::var("VQ_KERNELS_DEVICE") {
            Ok(ordinal) => {
                let ordinal = ordinal.parse().expect("VQ_KERNELS_DEVICE is a device's number");
                let stream = Device::probe(ordinal).and_then(|device| device.stream()).expect("a device");
                Memory::Device { stream, buffers: RefCell::default() }
            }
            Err(_) => Memory::Virtual {
                machine: Machine::new(Options { mma, schedule: 7 }),
                modules: RefCell::default(),
                fault: None,
            },
        };
        let mut gpu = Self { memory, launched: RefCell::default(), status: 0, processors };
        gpu.status = gpu.upload(&[0u32; status::STATUS_WORDS]).address();
        gpu
    }

    /// The virtual machine with a text of its own for the image of that name.
    pub fn with_text(image: &'static str, text: &str) -> Self {
        let module = Module::parse(text).unwrap_or_else(|error| panic!("{image}: {error}"));
        let machine = Machine::new(Options { mma: MmaError::Exact, schedule: 7 });
        // What runs on for ever is a fault, too.
        machine.set_budget(1 << 22);
        let modules = RefCell::new(BTreeMap::from([(image, Rc::new(module))]));
        let memory = Memory::Virtual { machine, modules, fault: Some(RefCell::default()) };
        let mut gpu = Self { memory, launched: RefCell::default(), status: 0, processors: 2 };
        gpu.status = gpu.upload(&[0u32; status::STATUS_WORDS]).address();
        gpu
    }

    /// The first fault, where they are [looked for](Self::with_text).
    pub fn fault(&self) -> Option<Fault> {
        match &self.memory {
            Memory::Virtual { fault: Some(fault), .. } => fault.borrow_mut().take(),
            _ => None,
        }
    }

    /// An uninitialised buffer.
    pub fn room<T>(&self, len: usize) -> DeviceMut<'static, T> {
        let bytes = len * size_of::<T>();
        let address = match &self.memory {
            Memory::Virtual { machine, .. } => machine.alloc("room", bytes),
            Memory::Device { stream, buffers } => {
                // What is not written stays recognizable; or unwritten, for the tool that looks for that.
                let buffer = match std::env::var_os("VQ_KERNELS_UNWRITTEN") {
                    // SAFETY: bytes, of which every value is one.
                    Some(_) => unsafe { stream.raw().alloc::<u8>(bytes.max(1)) },
                    None => stream.raw().clone_htod(&vec![0xA5u8; bytes.max(1)]),
                }
                .expect("device memory");
                let address = buffer.device_ptr(stream.raw()).0;
                buffers.borrow_mut().push(buffer);
                address
            }
        };
        // SAFETY: the memory is kept for good, and nobody else has the address.
        unsafe { DeviceMut::from_raw(address, len) }
    }

    pub fn write(&self, address: u64, bytes: &[u8]) {
        match &self.memory {
            Memory::Virtual { machine, .. } => machine.write(address, bytes),
            Memory::Device { stream, .. } => {
                // SAFETY: the address is that of a buffer of at least as many bytes.
                let mut view = unsafe { DeviceMut::from_raw(address, bytes.len()) };
                stream.write(&mut view, bytes).expect("a copy");
            }
        }
    }

    pub fn bytes(&self, address: u64, len: usize) -> Vec<u8> {
        match &self.memory {
            Memory::Virtual { machine, .. } => machine.read(address, len).unwrap_or_else(|fault| panic!("{fault}")),
            Memory::Device { stream, .. } => {
                let mut bytes = vec![0; len];
                // SAFETY: the address is that of a buffer of at least as many bytes.
                let view = unsafe { DeviceRef::from_raw(address, len) };
                stream.read(&view, &mut bytes).expect("a copy");
                bytes
            }
        }
    }

    /// A buffer that holds `data`.
    pub fn upload<T: Pod>(&self, data: &[T]) -> DeviceMut<'static, T> {
        let room = self.room(data.len());
        self.write(room.address(), bytemuck::cast_slice(data));
        room
    }

    /// Writes all of a matrix.
    pub fn fill<T: Pod>(&self, view: &mut DeviceMatMut<T>, data: &[T]) {
        assert_eq!(view.rows() * view.cols(), data.len());
        self.write(view.data().address(), bytemuck::cast_slice(data));
    }

    /// `data` to be read by kernels.
    pub fn slice<T: Pod>(&self, data: &[T]) -> DeviceRef<'static, T> {
        let room = self.upload(data);
        // SAFETY: the machine keeps the memory for good, and nobody writes it.
        unsafe { DeviceRef::from_raw(room.address(), room.len()) }
    }

    pub fn mat<T: Pod>(&self, data: &[T], rows: usize, cols: usize) -> DeviceMatRef<'static, T> {
        DeviceMatRef::new(self.slice(data), rows, cols).expect("the test's own length is right")
    }

    pub fn mat_room<T>(&self, rows: usize, cols: usize) -> DeviceMatMut<'static, T> {
        DeviceMatMut::new(self.room(rows * cols), rows, cols).expect("the length is right by construction")
    }

    /// What kernels have written; every element must have been.
    pub fn read<T: Pod>(&self, view: &DeviceMut<T>) -> Vec<T> {
        bytemuck::pod_collect_to_vec(&self.bytes(view.address(), view.len() * size_of::<T>()))
    }

    pub fn read_ref<T: Pod>(&self, view: &DeviceRef<T>) -> Vec<T> {
        bytemuck::pod_collect_to_vec(&self.bytes(view.address(), view.len() * size_of::<T>()))
    }

    pub fn read_mat<T: Pod>(&self, view: &mut DeviceMatMut<T>) -> Vec<T> {
        self.read(&view.data())
    }

    /// What kernels have noted since the last call.
    pub fn check(&self) -> Result<()> {
        let size = 4 * status::STATUS_WORDS;
        let words: Vec<u32> = bytemuck::pod_collect_to_vec(&self.bytes(self.status, size));
        self.write(self.status, &vec![0; size]);
        status::decode(words.try_into().expect("as many words as were read"))
    }

    /// Launches a kernel that no op launches: a reference.
    pub fn run(&self, image: &str, name: &'static str, items: usize, threads: u32, args: &[Arg]) {
        let image = self::image(image);
        let blocks = [items.div_ceil(threads as usize).max(1) as u32, 1, 1];
        // SAFETY: the caller's arguments are the kernel's: the machine finds any that are not.
        unsafe { self.launch(Kernel { image, name }, Grid { blocks, threads }, args) }.expect("faults panic");
    }

    /// Whether the kernel has been launched here.
    pub fn ran(&self, kernel: &str) -> bool {
        self.launched.borrow().contains(kernel)
    }

    /// Every kernel of the image has been launched here: none is skipped silently.
    pub fn assert_all_ran(&self, name: &str) {
        let (module, launched) = (parsed(&RefCell::default(), image(name)), self.launched.borrow());
        let missing: Vec<&str> = module.kernels().filter(|kernel| !launched.contains(kernel)).collect();
        assert!(missing.is_empty(), "{name}: never launched: {missing:?}");
    }
}

fn parsed(modules: &RefCell<BTreeMap<&'static str, Rc<Module>>>, image: &'static Image) -> Rc<Module> {
    // `cuda/mutate.py` gives the texts of broken kernels, to see that a test here turns red.
    let text = match std::env::var("VQ_KERNELS_PTX") {
        Ok(folder) => std::fs::read_to_string(format!("{folder}/{}.ptx", image.name)).expect("PTX in VQ_KERNELS_PTX"),
        Err(_) => image.ptx.to_owned(),
    };
    let parse = || Rc::new(Module::parse(&text).unwrap_or_else(|error| panic!("{}: {error}", image.name)));
    modules.borrow_mut().entry(image.name).or_insert_with(parse).clone()
}

/// The embedded image of that name.
pub fn image(name: &str) -> &'static Image {
    IMAGES.iter().copied().find(|image| image.name == name).unwrap_or_else(|| panic!("no image {name}"))
}

/// The op refuses.
#[track_caller]
pub fn refused(result: Result<()>) -> Error {
    result.expect_err("must be refused")
}
