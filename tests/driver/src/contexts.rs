//! Devices, contexts and images.

use std::rc::Rc;

use crate::streams::Stream;
use crate::vm::Module;
use crate::{
    CURRENT, Code, Driver, ILLEGAL_ADDRESS, INVALID_CONTEXT, INVALID_DEVICE, INVALID_HANDLE, INVALID_PTX, NOT_FOUND,
    Result,
};

/// A device.
pub struct Device {
    pub capability: (i32, i32),
    /// Bytes that may be allocated at a time.
    pub memory: usize,
    /// Bytes that are.
    pub used: usize,
    pub compiles: bool,
    /// Its first context, which all share who ask for it.
    pub primary: Option<usize>,
    /// A kernel has failed: nothing works any more, as after an illegal access.
    pub lost: bool,
}

pub fn devices() -> [Device; 5] {
    let whole =
        |capability| Device { capability, memory: 1 << 32, used: 0, compiles: true, primary: None, lost: false };
    let [small, refusing] = [Device { memory: 1 << 20, ..whole((9, 0)) }, Device { compiles: false, ..whole((9, 0)) }];
    [whole((9, 0)), whole((9, 0)), whole((7, 5)), small, refusing]
}

impl Driver {
    pub fn device(&mut self, ordinal: i32) -> Result<&mut Device> {
        usize::try_from(ordinal).ok().and_then(|at| self.devices.get_mut(at)).ok_or(INVALID_DEVICE)
    }

    /// The calling thread's context and its device.
    pub fn current(&mut self) -> Result<(usize, usize)> {
        let context = CURRENT.get();
        let device = *self.contexts.get(&context).ok_or(INVALID_CONTEXT)?;
        match self.devices[device].lost {
            true => Err(ILLEGAL_ADDRESS),
            false => Ok((context, device)),
        }
    }

    /// A context of the device, with its default stream.
    pub fn new_context(&mut self, ordinal: i32) -> Result<usize> {
        self.device(ordinal)?;
        let context = self.handle();
        self.contexts.insert(context, ordinal as usize);
        self.streams.insert(context, Stream::of(context));
        Ok(context)
    }

    pub fn primary_context(&mut self, ordinal: i32) -> Result<usize> {
        match self.device(ordinal)?.primary {
            Some(context) => Ok(context),
            None => {
                let context = self.new_context(ordinal)?;
                self.device(ordinal)?.primary = Some(context);
                Ok(context)
            }
        }
    }

    /// Decodes an image; what the compiler says goes with the refusal.
    pub fn load(&mut self, text: &str) -> core::result::Result<usize, (Code, String)> {
        let (_, device) = self.current().map_err(|code| (code, String::new()))?;
        self.refuse_in_capture().map_err(|code| (code, String::new()))?;
        if !self.devices[device].compiles {
            return Err((
                INVALID_PTX,
                "ptxas application ptx input, line 1; fatal: this device compiles nothing".into(),
            ));
        }
        let module = match self.decoded.get(text) {
            Some(module) => module.clone(),
            None => {
                let module = Rc::new(Module::parse(text).map_err(|error| (INVALID_PTX, error))?);
                self.decoded.insert(text.into(), module.clone());
                module
            }
        };
        let handle = self.handle();
        self.modules.insert(handle, module);
        Ok(handle)
    }

    pub fn function(&mut self, module: usize, name: &str) -> Result<usize> {
        self.current()?;
        let module = self.modules.get(&module).ok_or(INVALID_HANDLE)?.clone();
        if !module.kernels().any(|kernel| kernel == name) {
            return Err(NOT_FOUND);
        }
        let handle = self.handle();
        self.functions.insert(handle, (module, name.into()));
        Ok(handle)
    }
}
