//! What talks to a CUDA driver: devices, contexts, streams, loading, graphs, and the errors of each.
//!
//! These tests run on the driver of `tests/driver`, whose devices are the virtual machine (`.ci/device` builds it and puts
//! it in the loader's path), as they want devices that are too old, too small or cannot compile. With any other driver, or
//! none, they only see that the device is found or that its absence is an error.
#![cfg(feature = "cuda")]

mod common;
#[path = "device/graphs.rs"]
mod graphs;

use std::sync::Arc;

use common::{mat, paint};
use cudarc::driver::{CudaContext, CudaSlice, DevicePtr, result, sys};
use vq_kernels::cuda::quantizer::DeviceQuantizer;
use vq_kernels::cuda::{
    CudaError, Device, DeviceMatMut, DeviceMatRef, DeviceMut, DeviceRef, PackedDeviceCodebook, Stream, ops,
};
use vq_kernels::ops::Search;
use vq_kernels::quantizer::Config;
use vq_kernels::{Cpu, Error, MatRef, Metric, NO_CODE, PackedCodebook};

/// Ordinals of the virtual driver's devices.
const WHOLE: [usize; 2] = [0, 1];
const OLD: usize = 2;
const SMALL: usize = 3;
const REFUSING: usize = 4;

/// Whether the virtual driver is there; says so where it is not.
fn virtual_driver() -> bool {
    let found = Device::probe(0).ok().and_then(|device| device.context().name().ok());
    let found = found.is_some_and(|name| name.starts_with("virtual machine"));
    if !found {
        assert!(
            std::env::var_os("VQ_REQUIRE_DRIVER").is_none(),
            "VQ_REQUIRE_DRIVER is set, and device 0 is not virtual"
        );
        eprintln!("skipped: no virtual driver in the loader's path; `.ci/device` runs these tests on it");
    }
    found
}

fn cuda(error: Error) -> CudaError {
    match error {
        Error::Cuda(error) => error,
        other => panic!("another error: {other}"),
    }
}

/// Rows, codes and their buffers on a device, for searches.
struct Case {
    stream: Stream,
    x: CudaSlice<f32>,
    storage: CudaSlice<u32>,
    found: CudaSlice<u32>,
    codebook: CudaSlice<f32>,
    expected: Vec<u32>,
}

const ROWS: usize = 70;
const CODES: usize = 150;
const DIM: usize = 8;

impl Case {
    fn new(device: &Device, seed: u64) -> Self {
        let stream = device.stream().expect("a stream");
        let (x, codes) = (paint(ROWS * DIM, seed), paint(CODES * DIM, seed + 1));
        let packed = PackedCodebook::new(mat(&codes, CODES, DIM), Metric::L2).expect("finite codes");
        let mut expected = vec![0; ROWS];
        vq_kernels::ops::search(&Cpu::new(), mat(&x, ROWS, DIM), None, &packed, &mut expected, None).expect("shapes");
        let raw = stream.raw().clone();
        let len = PackedDeviceCodebook::storage_len(CODES, DIM, Metric::L2).expect("a shape");
        Self {
            x: raw.clone_htod(&x).expect("memory"),
            codebook: raw.clone_htod(&codes).expect("memory"),
            storage: raw.alloc_zeros(len).expect("memory"),
            found: raw.alloc_zeros(ROWS).expect("memory"),
            expected,
            stream,
        }
    }

    /// Packs and searches; with `around`, which gets the search as a call.
    fn search_with(
        &mut self,
        around: impl FnOnce(&Stream, &mut dyn FnMut() -> vq_kernels::Result<()>) -> vq_kernels::Result<()>,
    ) -> vq_kernels::Result<()> {
        let stream = &self.stream;
        let codebook = DeviceMatRef::new(DeviceRef::new(&self.codebook, stream)?, CODES, DIM)?;
        let storage = DeviceMut::new(&mut self.storage, stream)?;
        let packed = PackedDeviceCodebook::pack(stream, codebook, Metric::L2, storage)?;
        let mut room =
            stream.raw().alloc_zeros::<u8>(ops::search_workspace_len(stream, ROWS, &packed)).expect("memory");
        let x = DeviceMatRef::new(DeviceRef::new(&self.x, stream)?, ROWS, DIM)?;
        let (mut found, mut room) = (DeviceMut::new(&mut self.found, stream)?, DeviceMut::new(&mut room, stream)?);
        around(stream, &mut || ops::search(stream, &x, None, &packed, &mut found, None, Search::Auto, &mut room))
    }

    fn search(&mut self) -> vq_kernels::Result<()> {
        self.search_with(|_, search| search())
    }

    #[track_caller]
    fn assert_found(&self) {
        self.stream.check().expect("nothing noted");
        assert_eq!(self.stream.raw().clone_dtoh(&self.found).expect("a copy"), self.expected);
    }
}

#[test]
fn devices_are_found_or_their_absence_is_an_error() {
    if !virtual_driver() {
        match Device::probe(1 << 20).map(drop).map_err(cuda) {
            Err(CudaError::DriverMissing | CudaError::NoDevice { ordinal: 0x10_0000 }) => return,
            other => panic!("a million devices: {other:?}"),
        }
    }
    let device = Device::probe(WHOLE[0]).expect("device 0");
    assert_eq!(device.compute_capability().expect("known"), (9, 0));
    for missing in [5, 99, usize::MAX] {
        assert_eq!(cuda(Device::probe(missing).expect_err("no such device")), CudaError::NoDevice { ordinal: missing });
    }
    let old = cuda(Device::probe(OLD).expect_err("too old"));
    assert_eq!(old, CudaError::TooOldDevice { capability: (7, 5), needed: (8, 0) });
    // What was refused leaves nothing behind.
    Case::new(&device, 1).search().expect("launches");
}

/// Whether this is the process of a test that cannot share one with others: `variable` tells, which is set to `value`
/// there. In any other the test is run in such a process, where the driver is virtual.
fn alone(test: &str, variable: &str, value: &str) -> bool {
    if std::env::var_os(variable).is_some() {
        return true;
    }
    if virtual_driver() {
        let this = std::env::current_exe().expect("a test's own file");
        let done = std::process::Command::new(this).env(variable, value).args(["--exact", test]).output();
        let done = done.expect("starts");
        let said = String::from_utf8_lossy(&done.stdout);
        assert!(done.status.success() && said.contains("1 passed"), "{said}");
    }
    false
}

/// The version is the process's.
#[test]
fn a_driver_that_is_too_old() {
    if alone("a_driver_that_is_too_old", "VQ_DRIVER_VERSION", "12010") {
        let refused = cuda(Device::probe(0).map(drop).expect_err("CUDA 12.1"));
        assert_eq!(refused, CudaError::TooOldDriver { version: (12, 1), needed: (12, 4) });
    }
}

/// A device is lost for a whole process.
#[test]
fn a_kernel_reaches_no_other_device() {
    if !alone("a_kernel_reaches_no_other_device", "VQ_LOSES_A_DEVICE", "1") {
        return;
    }
    let [here, there] = WHOLE.map(|ordinal| Device::probe(ordinal).expect("a device"));
    let (mut case, mut other) = (Case::new(&here, 70), Case::new(&there, 71));
    for case in [&mut case, &mut other] {
        case.search().expect("launches");
        case.assert_found();
    }
    let foreign = DeviceRef::new(&other.x, &other.stream).expect("its own").address();
    // SAFETY: a claim that is false: the device that is told to cannot read there.
    let x = unsafe { DeviceRef::<f32>::from_raw(foreign, ROWS * DIM) };
    let x = DeviceMatRef::new(x, ROWS, DIM).expect("a shape");
    let mut room = case.stream.raw().alloc_zeros::<f32>(ROWS * DIM).expect("memory");
    let out = DeviceMut::new(&mut room, &case.stream).expect("its own");
    let mut out = DeviceMatMut::new(out, ROWS, DIM).expect("a shape");
    ops::normalize(&case.stream, &x, &mut out, None).expect("it is found when it runs");
    for _ in 0..2 {
        assert_eq!(cuda(case.stream.check().expect_err("an illegal address")), CudaError::Driver(700));
    }
    other.search().expect("the other device is as before");
    other.assert_found();
}

/// Two devices and two streams of one, used by four threads at once.
#[test]
fn devices_and_streams_side_by_side() {
    if !virtual_driver() {
        return;
    }
    let devices = WHOLE.map(|ordinal| Device::probe(ordinal).expect("a device"));
    std::thread::scope(|scope| {
        for seed in 0..4 {
            let device = &devices[seed as usize % 2];
            scope.spawn(move || {
                let mut case = Case::new(device, 10 * seed);
                for _ in 0..3 {
                    case.search().expect("launches");
                    case.assert_found();
                }
            });
        }
    });
}

/// A context of the device besides the one that all share.
/// burn's streams wait for events that are destroyed at once: the wait stays.
#[test]
fn a_stream_waits_for_an_event_that_is_gone() {
    if !virtual_driver() {
        return;
    }
    let device = Device::probe(WHOLE[0]).expect("a device");
    let [first, second] = [(); 2].map(|()| device.stream().expect("a stream"));
    let memory = first.raw().alloc_zeros::<u32>(4).expect("memory");
    let address = memory.device_ptr(first.raw()).0;
    first.raw().synchronize().expect("done");
    for waits in [false, true] {
        let values = [7 + u32::from(waits); 4];
        // SAFETY: all of the memory, and a stream of its context.
        unsafe { result::memcpy_htod_async(address, &values, first.raw().cu_stream()) }.expect("a copy");
        let event = first.raw().record_event(None).expect("an event");
        if waits {
            second.raw().wait(&event).expect("the same context");
        }
        drop(event);
        let mut found = [0; 4];
        // SAFETY: all of the memory; what writes it is waited for, or shows in the values.
        let view = unsafe { DeviceRef::from_raw(address, 4) };
        second.read(&view, &mut found).expect("values");
        // Work of another stream runs late where nobody waits for it.
        assert_eq!(found == values, waits);
        first.raw().synchronize().expect("done");
    }
}

fn second_context(ordinal: usize) -> Arc<CudaContext> {
    let (mut device, mut context) = (0, core::ptr::null_mut());
    // SAFETY: places for one result each; the context is made here, and goes to its new owner.
    unsafe {
        sys::cuDeviceGet(&mut device, ordinal as i32).result().expect("a device");
        sys::cuCtxCreate_v4(&mut context, core::ptr::null_mut(), 0, device).result().expect("a context");
        CudaContext::from_raw_context(ordinal, device, context).expect("a context")
    }
}

#[test]
fn memory_of_another_context_is_refused() {
    if !virtual_driver() {
        return;
    }
    let device = Device::probe(WHOLE[0]).expect("a device");
    let mut here = Case::new(&device, 20);
    // Another device's; and another context's of the same device.
    let there = Device::probe(WHOLE[1]).expect("a device");
    let other = Device::of(second_context(WHOLE[0])).expect("the same device");
    for foreign in [&there, &other] {
        let mut case = Case::new(foreign, 21);
        assert_eq!(
            cuda(DeviceRef::new(&case.x, &here.stream).map(drop).expect_err("foreign")),
            CudaError::OtherContext
        );
        let refused = DeviceMut::new(&mut case.found, &here.stream).map(drop).expect_err("foreign");
        assert_eq!(cuda(refused), CudaError::OtherContext);
        let refused = Stream::on(&device, case.stream.raw().clone()).map(drop).expect_err("foreign");
        assert_eq!(cuda(refused), CudaError::OtherContext);
        case.search().expect("its own stream");
        case.assert_found();
    }
    // A view that was made for another stream of the same context.
    let second = device.stream().expect("a stream");
    let x = DeviceMatRef::new(DeviceRef::new(&here.x, &second).expect("same context"), ROWS, DIM).expect("a shape");
    let mut copy = here.stream.raw().alloc_zeros::<f32>(ROWS * DIM).expect("memory");
    let out = DeviceMut::new(&mut copy, &here.stream).expect("same context");
    let mut out = DeviceMatMut::new(out, ROWS, DIM).expect("a shape");
    let refused = ops::normalize(&here.stream, &x, &mut out, None).expect_err("of another stream");
    assert_eq!(cuda(refused), CudaError::OtherStream);
    drop((x, out));
    let view = DeviceRef::new(&here.x, &second).expect("same context");
    let refused = here.stream.read(&view, &mut [0.0; ROWS * DIM]).expect_err("of another stream");
    assert_eq!(cuda(refused), CudaError::OtherStream);
    drop(view);
    here.search().expect("nothing is left behind");
    here.assert_found();
}

#[test]
fn a_device_without_room_is_an_error_and_stays_usable() {
    if !virtual_driver() {
        return;
    }
    let device = Device::probe(SMALL).expect("a device");
    let mut case = Case::new(&device, 30);
    // A quantizer that would fit a larger device.
    let config = Config { inputs: 64, dim: 32, codes: 10_000, ..Config::default() };
    let len = DeviceQuantizer::memory_len(&case.stream, &config, 1024).expect("a configuration");
    let refused = case.stream.raw().alloc_zeros::<u8>(len).map(drop).expect_err("1 MiB");
    assert_eq!(CudaError::from(refused), CudaError::OutOfMemory);
    // Streams allocate their status: until there is no room for that.
    let filled: Vec<_> = core::iter::from_fn(|| case.stream.raw().alloc_zeros::<u8>(1 << 14).ok()).collect();
    let small: Vec<_> = core::iter::from_fn(|| case.stream.raw().alloc_zeros::<u8>(4).ok()).collect();
    assert_eq!(cuda(device.stream().map(drop).expect_err("no room")), CudaError::OutOfMemory);
    drop((filled, small));
    // They are freed in the stream's order: until then there is no room.
    case.stream.check().expect("nothing noted");
    case.search().expect("room again");
    case.assert_found();
}

#[test]
fn an_image_that_does_not_load_says_why() {
    if !virtual_driver() {
        return;
    }
    let device = Device::probe(REFUSING).expect("a device");
    let mut case = Case::new(&device, 40);
    for _ in 0..2 {
        match cuda(case.search().expect_err("it compiles nothing")) {
            CudaError::Image { name, log } => {
                assert!(!name.is_empty() && log.contains("this device compiles nothing"), "{name}: {log}");
            }
            other => panic!("another error: {other}"),
        }
    }
    assert!(matches!(cuda(device.load().expect_err("nor these")), CudaError::Image { .. }));
    case.stream.check().expect("the context is as before");
    assert_eq!(case.stream.raw().clone_dtoh(&case.x).expect("a copy").len(), ROWS * DIM);
}

#[test]
fn what_the_data_shows_comes_with_the_next_check_and_no_later() {
    if !virtual_driver() {
        return;
    }
    let device = Device::probe(WHOLE[0]).expect("a device");
    let mut case = Case::new(&device, 60);
    let raw = case.stream.raw().clone();
    let codes = raw.clone_htod(&[0, CODES as u32, 1, NO_CODE]).expect("memory");
    let mut out = raw.alloc_zeros::<f32>(4 * DIM).expect("memory");
    {
        let codebook = DeviceRef::new(&case.codebook, &case.stream).expect("same context");
        let codebook = DeviceMatRef::new(codebook, CODES, DIM).expect("a shape");
        let codes = DeviceRef::new(&codes, &case.stream).expect("same context");
        let out = DeviceMut::new(&mut out, &case.stream).expect("same context");
        let mut out = DeviceMatMut::new(out, 4, DIM).expect("a shape");
        ops::gather(&case.stream, &codes, &codebook, &mut out).expect("launches");
    }
    let noted = case.stream.check().expect_err("a code that does not exist");
    let values = [0.0; DIM * CODES];
    let here = MatRef::new(&values, CODES, DIM).expect("a shape");
    let mut room = [0.0; 4 * DIM];
    let out = vq_kernels::MatMut::new(&mut room, 4, DIM).expect("a shape");
    let expected = vq_kernels::ops::gather(&Cpu::new(), &[0, CODES as u32, 1, NO_CODE], here, out);
    assert_eq!(noted, expected.expect_err("the same on the CPU"));
    case.search().expect("launches");
    case.assert_found();
}
