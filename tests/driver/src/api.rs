//! The C interface: what each call is named and takes.
//!
//! Pointers are the caller's, which is cudarc or the crate: valid for what the driver's interface says of them, which is
//! what every `SAFETY` here rests on.

use core::ffi::{CStr, c_char, c_uint, c_void};
use std::collections::HashMap;

use crate::streams::{Capture, Event, Forbids, Stream, Work};
use crate::{
    CAPTURE_INVALIDATED, CAPTURE_UNSUPPORTED, CURRENT, Code, Driver, INVALID_HANDLE, INVALID_VALUE, NO_DEVICE, Result,
    call,
};

/// Writes a result where the caller wants it.
pub fn give<T>(place: *mut T, value: T) -> Result<()> {
    if place.is_null() {
        return Err(INVALID_VALUE);
    }
    // SAFETY: not null, so a place for one.
    unsafe { place.write(value) };
    Ok(())
}

/// A name that the caller gives.
fn text(pointer: *const c_char) -> Result<String> {
    // SAFETY: ends with a zero.
    let text = unsafe { pointer.as_ref() }.map(|start| unsafe { CStr::from_ptr(start) });
    Ok(text.ok_or(INVALID_VALUE)?.to_string_lossy().into_owned())
}

// -- the driver and its devices

#[unsafe(no_mangle)]
pub extern "C" fn cuInit(_flags: c_uint) -> Code {
    0
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDriverGetVersion(version: *mut i32) -> Code {
    let asked = std::env::var("VQ_DRIVER_VERSION").ok().and_then(|text| text.parse().ok());
    call(|_| give(version, asked.unwrap_or(13000)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetCount(count: *mut i32) -> Code {
    call(|driver| give(count, driver.devices.len() as i32))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGet(device: *mut i32, ordinal: i32) -> Code {
    call(|driver| {
        driver.device(ordinal)?;
        give(device, ordinal)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetName(name: *mut c_char, len: i32, _device: i32) -> Code {
    let virtual_name = c"virtual machine of tests/ptx_vm".to_bytes_with_nul();
    call(|_| {
        if (len as usize) < virtual_name.len() {
            return Err(INVALID_VALUE);
        }
        // SAFETY: room for `len` bytes.
        unsafe { core::ptr::copy_nonoverlapping(virtual_name.as_ptr().cast(), name, virtual_name.len()) };
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceTotalMem_v2(bytes: *mut usize, device: i32) -> Code {
    call(|driver| give(bytes, driver.device(device)?.memory))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetAttribute(value: *mut i32, attribute: c_uint, device: i32) -> Code {
    call(|driver| {
        let of = driver.device(device)?;
        let of_device = match attribute {
            // Threads of a block; its sides, and a grid's; a warp.
            1..=4 => 1024,
            5 => i32::MAX,
            6 | 7 => 0xFFFF,
            10 => 32,
            // Multiprocessors; capability, major and minor; shared memory of a block; whether there are memory pools.
            16 => 3,
            75 => of.capability.0,
            76 => of.capability.1,
            97 => 227 << 10,
            115 => 1,
            _ => return Err(INVALID_VALUE),
        };
        give(value, of_device)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> Code {
    call(|driver| {
        let (_, device) = driver.current()?;
        let of = &driver.devices[device];
        give(free, of.memory - of.used)?;
        give(total, of.memory)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGetErrorName(code: Code, name: *mut *const c_char) -> Code {
    call(|_| give(name, error_text(code)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGetErrorString(code: Code, text: *mut *const c_char) -> Code {
    call(|_| give(text, error_text(code)))
}

fn error_text(code: Code) -> *const c_char {
    let text = match code {
        crate::OUT_OF_MEMORY => c"out of memory",
        crate::ILLEGAL_ADDRESS => c"an illegal memory access was encountered",
        CAPTURE_UNSUPPORTED => c"operation not permitted when stream is capturing",
        CAPTURE_INVALIDATED => c"operation failed due to a previous error during capture",
        crate::INVALID_PTX => c"a PTX JIT compilation failed",
        NO_DEVICE => c"no CUDA-capable device is detected",
        _ => c"an error of the virtual driver",
    };
    text.as_ptr()
}

// -- contexts

#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxRetain(context: *mut usize, device: i32) -> Code {
    call(|driver| give(context, driver.primary_context(device)?))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxRelease_v2(_device: i32) -> Code {
    0
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxCreate_v4(context: *mut usize, _parameters: *mut c_void, _flags: c_uint, device: i32) -> Code {
    call(|driver| give(context, driver.new_context(device)?))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxDestroy_v2(context: usize) -> Code {
    call(|driver| {
        driver.streams.retain(|_, stream| stream.context != context);
        driver.contexts.remove(&context).map(drop).ok_or(INVALID_HANDLE)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxGetCurrent(context: *mut usize) -> Code {
    call(|_| give(context, CURRENT.get()))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSetCurrent(context: usize) -> Code {
    call(|driver| match context == 0 || driver.contexts.contains_key(&context) {
        true => {
            CURRENT.set(context);
            Ok(())
        }
        false => Err(INVALID_HANDLE),
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSynchronize() -> Code {
    call(|driver| {
        driver.refuse_in_capture()?;
        driver.finish_all()
    })
}

// -- streams and events

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamCreate(stream: *mut usize, _flags: c_uint) -> Code {
    call(|driver| {
        let (context, _) = driver.current()?;
        let handle = driver.handle();
        driver.streams.insert(handle, Stream::of(context));
        give(stream, handle)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamDestroy_v2(stream: usize) -> Code {
    call(|driver| {
        let stream = driver.stream(stream)?;
        driver.finish(stream)?;
        driver.streams.remove(&stream);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamSynchronize(stream: usize) -> Code {
    call(|driver| driver.on(stream, Driver::synchronize))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamWaitEvent(stream: usize, event: usize, _flags: c_uint) -> Code {
    call(|driver| driver.on(stream, |driver, stream| driver.wait(stream, event)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventCreate(event: *mut usize, _flags: c_uint) -> Code {
    call(|driver| {
        driver.current()?;
        let handle = driver.handle();
        driver.events.insert(handle, Event::default());
        give(event, handle)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventDestroy_v2(event: usize) -> Code {
    call(|driver| driver.destroy(event))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventRecord(event: usize, stream: usize) -> Code {
    call(|driver| driver.on(stream, |driver, stream| driver.record(event, stream)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventSynchronize(event: usize) -> Code {
    call(|driver| driver.reach(event))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventQuery(event: usize) -> Code {
    call(|driver| driver.query(event))
}

/// A millisecond, always: there is no clock. (A second version of the call is of CUDA 12.8: not of all drivers that are
/// promised to do.)
#[unsafe(no_mangle)]
pub extern "C" fn cuEventElapsedTime(milliseconds: *mut f32, start: usize, end: usize) -> Code {
    call(|driver| {
        driver.query(start)?;
        driver.query(end)?;
        give(milliseconds, 1.0)
    })
}

// -- memory

#[unsafe(no_mangle)]
pub extern "C" fn cuMemAlloc_v2(address: *mut u64, bytes: usize) -> Code {
    call(|driver| give(address, driver.allocate(bytes)?))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemAllocAsync(address: *mut u64, bytes: usize, stream: usize) -> Code {
    call(|driver| driver.on(stream, |driver, _| give(address, driver.allocate(bytes)?)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemFree_v2(address: u64) -> Code {
    call(|driver| {
        driver.refuse_in_capture()?;
        driver.finish_all()?;
        driver.release(address)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemFreeAsync(address: u64, stream: usize) -> Code {
    call(|driver| {
        driver.on(stream, |driver, stream| {
            driver.owned(address, 1)?;
            driver.queue(stream, Work::Release(address))
        })
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD8Async(address: u64, value: u8, bytes: usize, stream: usize) -> Code {
    call(|driver| driver.on(stream, |driver, stream| driver.put(stream, address, vec![value; bytes])))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyHtoDAsync_v2(to: u64, from: *const u8, bytes: usize, stream: usize) -> Code {
    // SAFETY: readable for as many bytes; pageable memory is copied before the call returns.
    let values = unsafe { core::slice::from_raw_parts(from, bytes) }.to_vec();
    call(|driver| driver.on(stream, |driver, stream| driver.put(stream, to, values)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyDtoHAsync_v2(to: *mut u8, from: u64, bytes: usize, stream: usize) -> Code {
    call(|driver| {
        driver.on(stream, |driver, stream| {
            let values = driver.read(stream, from, bytes)?;
            // SAFETY: writable for as many bytes.
            unsafe { core::ptr::copy_nonoverlapping(values.as_ptr(), to, bytes) };
            Ok(())
        })
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: usize) -> Code {
    call(|driver| {
        driver.on(stream, |driver, stream| {
            driver.owned(to, bytes)?;
            driver.owned(from, bytes)?;
            driver.queue(stream, Work::Copy { to, from, bytes })
        })
    })
}

// -- kernels

/// The options' numbers of the log and of its length.
const ERROR_LOG: c_uint = 5;
const ERROR_LOG_BYTES: c_uint = 6;

#[unsafe(no_mangle)]
pub extern "C" fn cuModuleLoadDataEx(
    module: *mut usize,
    image: *const c_char,
    options: c_uint,
    keys: *const c_uint,
    values: *const *mut c_void,
) -> Code {
    call(|driver| {
        let options: HashMap<c_uint, *mut c_void> = (0..options as usize)
            // SAFETY: both have as many entries.
            .map(|at| unsafe { (*keys.add(at), *values.add(at)) })
            .collect();
        let (code, said) = match driver.load(&text(image)?) {
            Ok(handle) => return give(module, handle),
            Err(refused) => refused,
        };
        if let (Some(log), Some(bytes)) = (options.get(&ERROR_LOG), options.get(&ERROR_LOG_BYTES)) {
            let kept = said.len().min((*bytes as usize).saturating_sub(1));
            // SAFETY: the log has room for as many bytes as its option says.
            unsafe { core::ptr::copy_nonoverlapping(said.as_ptr(), log.cast(), kept) };
        }
        Err(code)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuModuleGetFunction(function: *mut usize, module: usize, name: *const c_char) -> Code {
    call(|driver| give(function, driver.function(module, &text(name)?)?))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuModuleUnload(module: usize) -> Code {
    call(|driver| {
        driver.finish_all()?;
        driver.modules.remove(&module).map(drop).ok_or(INVALID_HANDLE)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuLaunchKernel(
    function: usize,
    grid_x: c_uint,
    grid_y: c_uint,
    grid_z: c_uint,
    block_x: c_uint,
    block_y: c_uint,
    block_z: c_uint,
    shared: c_uint,
    stream: usize,
    arguments: *const *const c_void,
    _extra: *const *mut c_void,
) -> Code {
    let (grid, block) = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
    call(|driver| driver.on(stream, |driver, stream| launch(driver, function, grid, block, shared, stream, arguments)))
}

fn launch(
    driver: &mut Driver,
    function: usize,
    grid: [u32; 3],
    block: [u32; 3],
    shared: u32,
    stream: usize,
    arguments: *const *const c_void,
) -> Result<()> {
    let (module, kernel) = driver.functions.get(&function).ok_or(INVALID_HANDLE)?.clone();
    let (context, module) = driver.modules.get(&module).ok_or(INVALID_HANDLE)?.clone();
    if driver.streams[&stream].context != context {
        return Err(INVALID_HANDLE);
    }
    let sizes = module.parameter_sizes(&kernel).ok_or(INVALID_HANDLE)?;
    let argument = |(at, size): (usize, usize)| {
        // SAFETY: one address for each parameter …
        let place = unsafe { *arguments.add(at) };
        // SAFETY: … at which it lies, with as many bytes as the kernel says.
        unsafe { core::slice::from_raw_parts(place.cast::<u8>(), size) }.to_vec()
    };
    let args = sizes.into_iter().enumerate().map(argument).collect();
    // What a driver refuses at once: an empty or too large grid or block.
    if grid.contains(&0)
        || block.contains(&0)
        || block.iter().map(|&n| u64::from(n)).product::<u64>() > 1024
        || grid[1].max(grid[2]) > 0xFFFF
    {
        return Err(INVALID_VALUE);
    }
    driver.queue(stream, Work::Launch { module, kernel, grid, block, shared, args })
}

// -- graphs

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamBeginCapture_v2(stream: usize, mode: c_uint) -> Code {
    call(|driver| {
        if stream <= 2 {
            return Err(CAPTURE_UNSUPPORTED);
        }
        let stream = driver.stream(stream)?;
        let of = driver.streams.get_mut(&stream).ok_or(INVALID_HANDLE)?;
        match of.capture {
            Some(_) => Err(INVALID_VALUE),
            None => {
                let forbids = match mode {
                    0 => Forbids::All,
                    1 => Forbids::Thread(std::thread::current().id()),
                    _ => Forbids::Nobody,
                };
                of.capture = Some(Capture { work: Vec::new(), spoiled: false, forbids });
                Ok(())
            }
        }
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamIsCapturing(stream: usize, status: *mut c_uint) -> Code {
    call(|driver| {
        let stream = driver.stream(stream)?;
        // None; active; invalidated.
        give(status, driver.streams[&stream].capture.as_ref().map_or(0, |capture| 1 + c_uint::from(capture.spoiled)))
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamEndCapture(stream: usize, graph: *mut usize) -> Code {
    call(|driver| {
        let stream = driver.stream(stream)?;
        let capture = driver.streams.get_mut(&stream).and_then(|stream| stream.capture.take()).ok_or(INVALID_VALUE)?;
        if capture.spoiled {
            give(graph, 0)?;
            return Err(CAPTURE_INVALIDATED);
        }
        let handle = driver.handle();
        driver.graphs.insert(handle, capture.work);
        give(graph, handle)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphInstantiateWithFlags(executable: *mut usize, graph: usize, _flags: u64) -> Code {
    call(|driver| {
        let recorded = driver.graphs.get(&graph).ok_or(INVALID_HANDLE)?.clone();
        let handle = driver.handle();
        driver.graphs.insert(handle, recorded);
        give(executable, handle)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphLaunch(executable: usize, stream: usize) -> Code {
    call(|driver| {
        let recorded = driver.graphs.get(&executable).ok_or(INVALID_HANDLE)?.clone();
        driver.on(stream, |driver, stream| recorded.into_iter().try_for_each(|work| driver.queue(stream, work)))
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphUpload(_executable: usize, _stream: usize) -> Code {
    0
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphDestroy(graph: usize) -> Code {
    call(|driver| driver.graphs.remove(&graph).map(drop).ok_or(INVALID_HANDLE))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphExecDestroy(executable: usize) -> Code {
    call(|driver| driver.graphs.remove(&executable).map(drop).ok_or(INVALID_HANDLE))
}
