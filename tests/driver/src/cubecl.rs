//! What burn's CUDA backend (cubecl) calls besides, so that tensors of its own lie on these devices.

use core::ffi::{c_char, c_uint, c_void};
use std::alloc::{Layout, alloc, dealloc};

use crate::api::{cuModuleLoadDataEx, give};
use crate::{Code, Driver, INVALID_HANDLE, INVALID_VALUE, OUT_OF_MEMORY, call};

#[unsafe(no_mangle)]
pub extern "C" fn cuModuleLoadData(module: *mut usize, image: *const c_char) -> Code {
    cuModuleLoadDataEx(module, image, 0, core::ptr::null(), core::ptr::null())
}

/// Any attribute is taken: the machine has room for all that a kernel may ask for.
#[unsafe(no_mangle)]
pub extern "C" fn cuFuncSetAttribute(function: usize, _attribute: c_uint, _value: i32) -> Code {
    call(|driver| driver.functions.get(&function).map(drop).ok_or(INVALID_HANDLE))
}

/// What an allocation of the host begins with: its length, so that it can be given back.
const HEAD: usize = 64;

fn layout(bytes: usize) -> Option<Layout> {
    Layout::from_size_align(bytes.checked_add(HEAD)?, HEAD).ok()
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemAllocHost_v2(pointer: *mut *mut c_void, bytes: usize) -> Code {
    call(|_| {
        let layout = layout(bytes).ok_or(OUT_OF_MEMORY)?;
        // SAFETY: not of length 0.
        let start = unsafe { alloc(layout) };
        if start.is_null() {
            return Err(OUT_OF_MEMORY);
        }
        // SAFETY: room for the head, which is aligned, and for as many bytes behind it.
        let behind = unsafe {
            start.cast::<usize>().write(bytes);
            start.add(HEAD)
        };
        give(pointer, behind.cast())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemFreeHost(pointer: *mut c_void) -> Code {
    call(|driver| {
        if pointer.is_null() {
            return Err(INVALID_VALUE);
        }
        driver.finish_all()?;
        // SAFETY: `cuMemAllocHost_v2` gave it, with its length in front.
        unsafe {
            let start = pointer.cast::<u8>().sub(HEAD);
            dealloc(start, layout(start.cast::<usize>().read()).ok_or(INVALID_VALUE)?);
        }
        Ok(())
    })
}

/// `CUDA_MEMCPY2D`.
#[repr(C)]
pub struct Copy2D {
    from_x: usize,
    from_y: usize,
    from_kind: c_uint,
    from_host: *const u8,
    from_device: u64,
    from_array: usize,
    from_pitch: usize,
    to_x: usize,
    to_y: usize,
    to_kind: c_uint,
    to_host: *mut u8,
    to_device: u64,
    to_array: usize,
    to_pitch: usize,
    width: usize,
    height: usize,
}

const HOST: c_uint = 1;
const DEVICE: c_uint = 2;

/// Rows of bytes between the host and the device, each at its pitch.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpy2DAsync_v2(copy: *const Copy2D, stream: usize) -> Code {
    // SAFETY: where it is not null, there is one.
    let Some(copy) = (unsafe { copy.as_ref() }) else { return INVALID_VALUE };
    if copy.width == 0 || copy.height == 0 {
        return 0;
    }
    if copy.from_pitch < copy.width
        || copy.to_pitch < copy.width
        || [copy.from_x, copy.from_y, copy.to_x, copy.to_y] != [0; 4]
    {
        return INVALID_VALUE;
    }
    let rows = |driver: &mut Driver, stream| {
        (0..copy.height).try_for_each(|row| match (copy.from_kind, copy.to_kind) {
            (HOST, DEVICE) => {
                // SAFETY: readable for the rows at their pitch; pageable memory is copied before the call returns.
                let values =
                    unsafe { core::slice::from_raw_parts(copy.from_host.add(row * copy.from_pitch), copy.width) };
                driver.put(stream, copy.to_device + (row * copy.to_pitch) as u64, values.to_vec())
            }
            (DEVICE, HOST) => {
                let values = driver.read(stream, copy.from_device + (row * copy.from_pitch) as u64, copy.width)?;
                // SAFETY: writable for the rows at their pitch.
                unsafe {
                    core::ptr::copy_nonoverlapping(values.as_ptr(), copy.to_host.add(row * copy.to_pitch), copy.width)
                };
                Ok(())
            }
            _ => Err(INVALID_VALUE),
        })
    };
    call(|driver| driver.on(stream, rows))
}
