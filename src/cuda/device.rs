//! Devices, their streams, and the kernels that were loaded for them.

use core::ffi::{c_uint, c_void};
use core::mem::MaybeUninit;
use std::collections::HashMap;
use std::ffi::CString;
use std::string::String;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::vec::Vec;

use bytemuck::Pod;
use cudarc::driver::sys::{self, CUdevice_attribute, CUfunction, CUjit_option, CUmodule, CUresult};
use cudarc::driver::{CudaContext, CudaSlice, CudaStream, DevicePtr, DriverError, result};

use super::error::CudaError;
use super::memory::{DeviceMut, DeviceRef};
use super::queue::{Arg, Grid, Image, Kernel, Queue};
use super::status::{self, STATUS_WORDS};
use crate::error::{Result, same};

/// The kernels are compiled for compute capability 8.0 …
const CAPABILITY: (i32, i32) = (8, 0);
/// … and PTX ISA 8.4, which is CUDA 12.4's.
const DRIVER: (i32, i32) = (12, 4);

/// A GPU, with the kernels that have been loaded for its context: once, however many `Device`s there are of it.
#[derive(Clone)]
pub struct Device {
    context: Arc<CudaContext>,
    modules: Arc<Modules>,
    processors: u32,
}

impl core::fmt::Debug for Device {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Device").field("ordinal", &self.context.ordinal()).finish_non_exhaustive()
    }
}

impl Device {
    /// The device of that number.
    ///
    /// # Errors
    /// [`Error::Cuda`](crate::Error::Cuda) with [`CudaError::DriverMissing`] where no driver is installed,
    /// [`CudaError::NoDevice`] where the driver has no such device, [`CudaError::TooOldDevice`] and
    /// [`CudaError::TooOldDriver`] where the kernels cannot run, [`CudaError::Driver`] for all else.
    ///
    /// ```
    /// use vq_kernels::cuda::Device;
    /// match Device::probe(0) {
    ///     Ok(device) => println!("compute capability {:?}", device.compute_capability()?),
    ///     Err(error) => println!("{error}"),
    /// }
    /// # Ok::<(), vq_kernels::Error>(())
    /// ```
    pub fn probe(ordinal: usize) -> Result<Self> {
        if !driver_present() {
            return Err(CudaError::DriverMissing.into());
        }
        // cudarc narrows it to an i32.
        if i32::try_from(ordinal).is_err() {
            return Err(CudaError::NoDevice { ordinal }.into());
        }
        match CudaContext::new(ordinal) {
            Ok(context) => Self::of(context),
            Err(DriverError(CUresult::CUDA_ERROR_INVALID_DEVICE | CUresult::CUDA_ERROR_NO_DEVICE)) => {
                Err(CudaError::NoDevice { ordinal }.into())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The device of a context that another framework made.
    ///
    /// # Errors
    /// As [`probe`](Self::probe).
    pub fn of(context: Arc<CudaContext>) -> Result<Self> {
        let mut version = 0;
        // SAFETY: the driver is there, as it made the context; it writes one integer.
        unsafe { sys::cuDriverGetVersion(&mut version) }.result()?;
        let version = (version / 1000, version % 1000 / 10);
        let capability = context.compute_capability()?;
        if capability < CAPABILITY {
            return Err(CudaError::TooOldDevice { capability, needed: CAPABILITY }.into());
        }
        if version < DRIVER {
            return Err(CudaError::TooOldDriver { version, needed: DRIVER }.into());
        }
        let processors = context.attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
        Ok(Self { modules: Modules::of(&context), context, processors: processors.max(1) as u32 })
    }

    /// Major and minor compute capability.
    ///
    /// # Errors
    /// [`CudaError::Driver`] where the driver refuses.
    pub fn compute_capability(&self) -> Result<(i32, i32)> {
        Ok(self.context.compute_capability()?)
    }

    /// cudarc's context of the device.
    pub fn context(&self) -> &Arc<CudaContext> {
        &self.context
    }

    /// A new stream.
    ///
    /// # Errors
    /// [`CudaError::OutOfMemory`], [`CudaError::Driver`].
    pub fn stream(&self) -> Result<Stream> {
        Stream::on(self, self.context.new_stream()?)
    }

    /// Loads all kernels now, rather than each at its first launch: for graphs, during whose capture nothing may be
    /// loaded.
    ///
    /// # Errors
    /// [`CudaError::Image`] with what the driver's compiler said.
    pub fn load(&self) -> Result<()> {
        self.context.bind_to_thread()?;
        super::images::IMAGES.iter().try_for_each(|image| {
            self.with_module(image, |module| {
                // `.visible .entry name(`: a driver may load a kernel only when it is asked for by name.
                let entries = image.ptx.split(".visible .entry ").skip(1);
                entries.filter_map(|rest| rest.split('(').next()).try_for_each(|name| module.function(name).map(drop))
            })
        })
    }

    fn with_module<T>(&self, image: &'static Image, use_it: impl FnOnce(&mut Module) -> Result<T>) -> Result<T> {
        let mut modules = lock(&self.modules.0);
        if !modules.contains_key(image.name) {
            modules.insert(image.name, Module::load(&self.context, image)?);
        }
        match modules.get_mut(image.name) {
            Some(module) => use_it(module),
            None => Err(CudaError::Image { name: image.name, log: String::from("not loaded") }.into()),
        }
    }
}

/// The loaded images of a context, by name.
#[derive(Default)]
struct Modules(Mutex<HashMap<&'static str, Module>>);

impl Modules {
    /// Those that the context has already, or none.
    fn of(context: &CudaContext) -> Arc<Self> {
        static LOADED: Mutex<Vec<(usize, Weak<Modules>)>> = Mutex::new(Vec::new());
        let mut loaded = lock(&LOADED);
        // Modules keep their context: a handle that is given anew is that of a context which has none any more.
        loaded.retain(|(_, modules)| modules.strong_count() > 0);
        let handle = context.cu_ctx() as usize;
        let found = loaded.iter().find(|(of, _)| *of == handle).and_then(|(_, modules)| modules.upgrade());
        found.unwrap_or_else(|| {
            let modules = Arc::new(Modules::default());
            loaded.push((handle, Arc::downgrade(&modules)));
            modules
        })
    }
}

/// A panic elsewhere leaves what is locked here whole: entries are put in complete.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A loaded image.
struct Module {
    context: Arc<CudaContext>,
    module: CUmodule,
    functions: HashMap<&'static str, CUfunction>,
}

// SAFETY: the driver's handles may be used from any thread that has bound the context.
unsafe impl Send for Module {}

impl Module {
    fn load(context: &Arc<CudaContext>, image: &'static Image) -> Result<Self> {
        const LOG: usize = 8192;
        let text = CString::new(image.ptx).unwrap_or_default();
        let mut log = std::vec![0u8; LOG];
        let mut options = [CUjit_option::CU_JIT_ERROR_LOG_BUFFER, CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES];
        let mut values = [log.as_mut_ptr().cast::<c_void>(), LOG as *mut c_void];
        let mut module = MaybeUninit::uninit();
        // SAFETY: the text ends with a zero; the log has as many bytes as the second option says; both
        // arrays have two entries; the context is bound by the caller.
        let loaded = unsafe {
            let (options, values) = (options.as_mut_ptr(), values.as_mut_ptr());
            sys::cuModuleLoadDataEx(module.as_mut_ptr(), text.as_ptr().cast(), 2 as c_uint, options, values)
        };
        if let Err(error) = loaded.result() {
            return Err(CudaError::of_image(image.name, error, &log).into());
        }
        // SAFETY: the driver has written it, as it succeeded.
        let module = unsafe { module.assume_init() };
        Ok(Self { context: context.clone(), module, functions: HashMap::new() })
    }

    fn function(&mut self, name: &'static str) -> Result<CUfunction> {
        if let Some(&function) = self.functions.get(name) {
            return Ok(function);
        }
        // SAFETY: the module is loaded.
        let function = unsafe { result::module::get_function(self.module, CString::new(name).unwrap_or_default()) }?;
        self.functions.insert(name, function);
        Ok(function)
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        // Nothing can be done about a failure here; the context frees what is left. Kernels may still run.
        if self.context.bind_to_thread().is_ok() && self.context.synchronize().is_ok() {
            // SAFETY: the module is loaded, and its functions are not used after this.
            let _ = unsafe { result::module::unload(self.module) };
        }
    }
}

/// A stream of a device: the first argument of every op.
///
/// Everything is asynchronous. What only the data on the device can show (a code that does not exist, a
/// weight outside `0..=1`) is noted there; [`check`](Self::check) waits and returns the first of it.
pub struct Stream {
    device: Device,
    stream: Arc<CudaStream>,
    // Kept for its address, which kernels note refusals at.
    _status: CudaSlice<u32>,
    status: u64,
}

impl Stream {
    /// On a stream that another framework made.
    ///
    /// # Errors
    /// [`CudaError::OtherContext`] where it is one of another context; [`CudaError::OutOfMemory`],
    /// [`CudaError::Driver`].
    pub fn on(device: &Device, stream: Arc<CudaStream>) -> Result<Self> {
        if stream.context().cu_ctx() != device.context.cu_ctx() {
            return Err(CudaError::OtherContext.into());
        }
        let words = stream.alloc_zeros::<u32>(STATUS_WORDS)?;
        let status = words.device_ptr(&stream).0;
        Ok(Self { device: device.clone(), stream, _status: words, status })
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// cudarc's stream.
    pub fn raw(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// Waits for all work, and returns the first refusal that kernels have noted since the last call.
    ///
    /// # Errors
    /// As the ops' [status](super::status::decode); [`CudaError::Driver`] where the work itself failed.
    pub fn check(&self) -> Result<()> {
        let mut words = [0u32; STATUS_WORDS];
        // SAFETY: the stream's own words, which live as long as it does.
        let view = unsafe { DeviceRef::from_raw(self.status, STATUS_WORDS) };
        self.read(&view, &mut words)?;
        // What guards of cudarc's memory could not return.
        self.device.context.check_err()?;
        if words[0] != 0 {
            // SAFETY: as above.
            let mut view = unsafe { DeviceMut::from_raw(self.status, STATUS_WORDS) };
            self.write(&mut view, &[0; STATUS_WORDS])?;
        }
        status::decode(words)
    }

    /// Copies all of `view` into `values`, once all work before is done.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) where the lengths differ; [`CudaError::Driver`].
    pub fn read<T: Pod>(&self, view: &DeviceRef<T>, values: &mut [T]) -> Result<()> {
        same("read", "number of values", view.len(), values.len())?;
        self.device.context.bind_to_thread()?;
        // SAFETY: the view is readable for as many elements, by its maker's claim; the copy has its place among the
        // stream's work, and is done before `values` is used.
        unsafe { result::memcpy_dtoh_async(values, view.address(), self.stream.cu_stream()) }?;
        Ok(self.stream.synchronize()?)
    }

    /// Copies `values` over all of `view`, after all work before and before all that follows.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) where the lengths differ; [`CudaError::Driver`].
    pub fn write<T: Pod>(&self, view: &mut DeviceMut<T>, values: &[T]) -> Result<()> {
        same("write", "number of values", view.len(), values.len())?;
        self.device.context.bind_to_thread()?;
        // SAFETY: the view is writable for as many elements, by its maker's claim; the copy has its place among the
        // stream's work, and is done before `values` can change.
        unsafe { result::memcpy_htod_async(view.address(), values, self.stream.cu_stream()) }?;
        Ok(self.stream.synchronize()?)
    }

    pub(crate) fn check_context(&self, other: &Arc<CudaStream>) -> Result<()> {
        match other.context().cu_ctx() == self.stream.context().cu_ctx() {
            true => Ok(()),
            false => Err(CudaError::OtherContext.into()),
        }
    }
}

// SAFETY: the driver runs kernels of a stream in their order, on the arguments' bytes.
unsafe impl Queue for Stream {
    unsafe fn launch(&self, kernel: Kernel, grid: Grid, args: &[Arg]) -> Result<()> {
        Arg::check_owner(args, self.id())?;
        self.device.context.bind_to_thread()?;
        let function = self.device.with_module(kernel.image, |module| module.function(kernel.name))?;
        let mut pointers: Vec<*mut c_void> = args
            .iter()
            .map(|arg| match arg {
                Arg::U32(value) => core::ptr::from_ref(value).cast_mut().cast(),
                Arg::U64(value) | Arg::Address { address: value, .. } => core::ptr::from_ref(value).cast_mut().cast(),
                Arg::F32(value) => core::ptr::from_ref(value).cast_mut().cast(),
                Arg::F64(value) => core::ptr::from_ref(value).cast_mut().cast(),
            })
            .collect();
        let [x, y, z] = grid.blocks;
        // SAFETY: the function is the kernel's, which takes these arguments by the caller's claim; the driver
        // copies them before it returns.
        let launched = unsafe {
            sys::cuLaunchKernel(
                function,
                x,
                y,
                z,
                grid.threads,
                1,
                1,
                0,
                self.stream.cu_stream(),
                pointers.as_mut_ptr(),
                core::ptr::null_mut(),
            )
        };
        Ok(launched.result()?)
    }

    fn id(&self) -> u64 {
        // The legacy default stream is the null handle.
        (self.stream.cu_stream() as u64).max(1)
    }

    fn status(&self) -> u64 {
        self.status
    }

    fn processors(&self) -> u32 {
        self.device.processors
    }
}

/// Whether the driver library loads. cudarc panics without it, so it is asked for first.
fn driver_present() -> bool {
    static PRESENT: OnceLock<bool> = OnceLock::new();
    let names: &[&str] = if cfg!(windows) { &["nvcuda.dll"] } else { &["libcuda.so.1", "libcuda.so"] };
    *PRESENT.get_or_init(|| {
        // SAFETY: loading the driver library runs its initializers, as any CUDA program does.
        names.iter().any(|name| unsafe { libloading::Library::new(*name) }.is_ok())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    #[test]
    fn a_missing_driver_or_device_is_an_error() {
        match Device::probe(usize::from(u8::MAX)) {
            Ok(_) => panic!("nobody has 256 devices"),
            Err(Error::Cuda(CudaError::DriverMissing)) => assert!(!driver_present()),
            Err(Error::Cuda(CudaError::NoDevice { ordinal })) => assert_eq!(ordinal, 255),
            Err(other) => panic!("{other}"),
        }
    }
}
