//! Captured graphs: replays, training steps, and captures that end.

use cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode, CUstreamCaptureStatus};
use cudarc::driver::{CudaGraph, DriverError};
use vq_kernels::cuda::quantizer::DeviceQuantizer;
use vq_kernels::cuda::{CudaError, Device, DeviceMatRef, DeviceMut, DeviceRef, Stream, ops};
use vq_kernels::ops::restart::Rule;
use vq_kernels::quantizer::{Config, Initial, Quantizer, StateRef};
use vq_kernels::{Cpu, MatMut, Result};

use crate::common::{assert_same_bits, assert_same_bits64, mat, paint};
use crate::{Case, WHOLE, cuda, second_context, virtual_driver};

/// What `body` launches, as a graph; its own error first.
fn captured(stream: &Stream, body: impl FnOnce() -> Result<()>) -> Result<CudaGraph> {
    stream.raw().begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).expect("a stream of its own");
    let called = body();
    let graph = ended(stream);
    called.map(|()| graph.expect("captured").expect("something was"))
}

fn ended(stream: &Stream) -> core::result::Result<Option<CudaGraph>, DriverError> {
    stream.raw().end_capture(CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH)
}

/// A device with a context that no other test uses.
fn own_device() -> Device {
    Device::of(second_context(WHOLE[0])).expect("a device")
}

#[test]
fn a_captured_graph_searches_again_and_again() {
    if !virtual_driver() {
        return;
    }
    // The driver refuses to load during a capture, and that is all it costs.
    let context = second_context(WHOLE[0]);
    let mut unloaded = Case::new(&Device::of(context.clone()).expect("a device"), 51);
    let refused = unloaded.search_with(|stream, search| captured(stream, search).map(drop)).map_err(cuda);
    assert!(matches!(refused, Err(CudaError::Image { .. } | CudaError::Driver(900))), "{refused:?}");
    unloaded.search().expect("as before");
    unloaded.assert_found();

    // What one `Device` has loaded, all of the context have.
    Device::of(context.clone()).expect("the same").load().expect("loads");
    let mut case = Case::new(&Device::of(context).expect("the same"), 50);
    let searched = case.search_with(|stream, search| {
        let graph = captured(stream, search)?;
        for _ in 0..3 {
            graph.launch().expect("replays");
        }
        stream.check()
    });
    searched.expect("nothing noted");
    case.assert_found();
}

#[test]
fn a_refused_call_ends_its_capture() {
    if !virtual_driver() {
        return;
    }
    const MODE: CUstreamCaptureMode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    let device = own_device();
    device.load().expect("loads");
    let mut case = Case::new(&device, 52);
    let status = |stream: &Stream| stream.raw().capture_status().expect("known");
    let searched = case.search_with(|stream, search| {
        stream.raw().begin_capture(MODE).expect("a stream of its own");
        search().expect("captured");
        // Another thread is not held up, nor does it disturb.
        std::thread::scope(|scope| {
            let other = scope.spawn(|| {
                let mut other = Case::new(&device, 53);
                other.search().expect("launches");
                other.assert_found();
            });
            other.join().expect("found");
        });
        assert_eq!(status(stream), CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_ACTIVE);
        // Nothing can be waited for: the first refusal says so, what follows is refused for it.
        assert_eq!(stream.check().map_err(cuda), Err(CudaError::Driver(900)));
        assert_eq!(status(stream), CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_INVALIDATED);
        assert_eq!(search().map_err(cuda), Err(CudaError::Driver(901)));
        assert_eq!(stream.check().map_err(cuda), Err(CudaError::Driver(901)));
        let error = ended(stream).map(drop).expect_err("no graph");
        assert_eq!(CudaError::from(error), CudaError::Driver(901));
        // The stream is as before.
        assert_eq!(status(stream), CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE);
        let graph = captured(stream, search)?;
        graph.launch().expect("replays");
        stream.check()
    });
    searched.expect("nothing noted");
    case.assert_found();
}

/// The step's number is the device's, so that each replay restarts codes by an order of its own.
#[test]
fn a_captured_step_is_a_step_in_each_replay() {
    if !virtual_driver() {
        return;
    }
    const ROWS: usize = 70;
    // Patience of a tenth of a hit: codes are judged at once.
    let rule = Rule { patience: 0.1, ..Rule::default() };
    let config = Config { inputs: 20, dim: 6, codes: 300, restart: Some(rule), ..Config::default() };
    let (cpu, device) = (Cpu::new(), own_device());
    device.load().expect("loads");
    let stream = device.stream().expect("a stream");
    let mut here = Quantizer::new(config, Initial::Normal).expect("a configuration");
    let len = DeviceQuantizer::memory_len(&stream, &config, ROWS).expect("a configuration");
    let mut memory = stream.raw().alloc_zeros::<u8>(len).expect("memory");
    let memory = DeviceMut::new(&mut memory, &stream).expect("its own");
    let mut there = DeviceQuantizer::new(&stream, config, ROWS, memory).expect("a configuration");
    there.upload(&stream, &here).expect("the same configuration");
    let x = stream.raw().alloc_zeros::<f32>(ROWS * config.inputs).expect("memory");
    let x = DeviceMatRef::new(DeviceRef::new(&x, &stream).expect("its own"), ROWS, config.inputs).expect("a shape");
    let graph = captured(&stream, || {
        // A head that is an op: the gradient is the output at unit length.
        there.train_step(&stream, &x, None, |queue, output, gradient| ops::normalize(queue, output, gradient, None))
    });
    let graph = graph.expect("captured");
    for step in 1..=3 {
        let rows = paint(ROWS * config.inputs, 80 + step);
        // SAFETY: all of the buffer, whose readers follow on the stream.
        let mut place = unsafe { DeviceMut::from_raw(x.data().address(), rows.len()) };
        stream.write(&mut place, &rows).expect("a copy");
        graph.launch().expect("replays");
        stream.check().expect("nothing noted");
        here.train_step(&cpu, mat(&rows, ROWS, config.inputs), None, |output, gradient| {
            let gradient = MatMut::new(gradient, ROWS, config.inputs).expect("a shape");
            vq_kernels::ops::normalize(&cpu, output, gradient, None).expect("shapes");
        })
        .expect("a step");
        assert!(here.last_restarted().len() > 20, "step {step}: {}", here.last_restarted().len());
        let mut back = Quantizer::new(config, Initial::Normal).expect("a configuration");
        there.download(&stream, &mut back).expect("a copy");
        assert_eq!(back.step(), step);
        for ((name, here), (_, there)) in here.state().into_iter().zip(back.state()) {
            let context = format!("{name}, step {step}");
            match (here, there) {
                (StateRef::F32(here), StateRef::F32(there)) => assert_same_bits(there, here, &context),
                (StateRef::F64(here), StateRef::F64(there)) => assert_same_bits64(there, here, &context),
                (StateRef::U64(here), StateRef::U64(there)) => assert_eq!(there, here, "{context}"),
                _ => panic!("{context}: another type"),
            }
        }
        let (mut counted, mut codes) = ([0], vec![0; ROWS]);
        stream.read(&there.step(), &mut counted).expect("a copy");
        stream.read(&there.last_codes(), &mut codes).expect("a copy");
        assert_eq!((counted, codes.as_slice()), ([step], here.last_codes()));
    }
}
