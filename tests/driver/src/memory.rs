//! Device memory.

use crate::streams::Work;
use crate::{Driver, INVALID_VALUE, OUT_OF_MEMORY, Result};

/// An allocation.
pub struct Block {
    pub device: usize,
    pub bytes: usize,
}

impl Driver {
    /// Memory that nobody has written; where memory is filled, with what no value is.
    pub fn allocate(&mut self, bytes: usize) -> Result<u64> {
        let (_, device) = self.current()?;
        self.refuse_in_capture()?;
        self.machine.select(device);
        let of = &mut self.devices[device];
        if bytes == 0 {
            return Err(INVALID_VALUE);
        }
        if bytes > of.memory - of.used {
            return Err(OUT_OF_MEMORY);
        }
        of.used += bytes;
        let address = self.machine.alloc("memory of the driver", bytes);
        if self.fills {
            self.machine.write(address, &vec![0xFF; bytes]);
        }
        self.memory.insert(address, Block { device, bytes });
        Ok(address)
    }

    /// Ends an allocation, now: whatever reads or writes it later fails.
    pub fn release(&mut self, address: u64) -> Result<()> {
        let block = self.memory.remove(&address).ok_or(INVALID_VALUE)?;
        self.devices[block.device].used -= block.bytes;
        self.machine.free(address);
        Ok(())
    }

    /// Whether bytes lie in one allocation, which is asked before a copy is queued, as drivers do.
    pub fn owned(&self, address: u64, bytes: usize) -> Result<()> {
        let inside = |(start, block): (&u64, &Block)| address - start + bytes as u64 <= block.bytes as u64;
        match bytes == 0 || self.memory.range(..=address).next_back().is_some_and(inside) {
            true => Ok(()),
            false => Err(INVALID_VALUE),
        }
    }

    /// Bytes of the device, after all work of the stream.
    pub fn read(&mut self, stream: usize, address: u64, bytes: usize) -> Result<Vec<u8>> {
        self.owned(address, bytes)?;
        self.synchronize(stream)?;
        self.machine.read(address, bytes).map_err(|fault| {
            eprintln!("virtual driver: {fault}");
            INVALID_VALUE
        })
    }

    /// Queues what writes memory.
    pub fn put(&mut self, stream: usize, address: u64, bytes: Vec<u8>) -> Result<()> {
        self.owned(address, bytes.len())?;
        self.queue(stream, Work::Write(address, bytes))
    }
}
