//! Memory with its bounds and what of it has been written.

use super::race::Shadow;

/// Bits of a byte's state.
pub const WRITTEN: u8 = 1;
/// Under a `cp.async` that has not been waited for.
pub const PENDING: u8 = 2;
/// Between variables.
pub const GAP: u8 = 4;

/// Allocations lie this far apart, so that an address tells its allocation, and no overrun reaches the next.
const SPACING: u32 = 34;
/// Generic addresses of the windows.
pub const SHARED_WINDOW: u64 = 1 << 60;
pub const LOCAL_WINDOW: u64 = 1 << 61;
pub const PARAM_WINDOW: u64 = 1 << 62;
pub const WINDOW: u64 = 1 << 32;
/// Shared and local addresses begin here: a null pointer is out of bounds in every window.
pub const BASE: u64 = 1024;

/// The first odd multiple of `align` from `at`: aligned as asked, and no better.
pub fn odd_align(at: u64, align: u64) -> u64 {
    let up = at.next_multiple_of(align);
    if (up / align) & 1 == 1 { up } else { up + align }
}

/// Why an access fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    Bounds,
    Unwritten(usize),
    Pending(usize),
    Gap(usize),
    ReadOnly,
}

/// Whether all states are [`WRITTEN`]; in one comparison for the usual sizes.
fn all_written(state: &[u8]) -> bool {
    if let Ok(four) = <[u8; 4]>::try_from(state) {
        four == [WRITTEN; 4]
    } else if let Ok(sixteen) = <[u8; 16]>::try_from(state) {
        sixteen == [WRITTEN; 16]
    } else {
        state.iter().all(|s| *s == WRITTEN)
    }
}

#[derive(Default)]
pub struct Region {
    pub name: String,
    /// The device that it is on.
    pub device: usize,
    pub base: u64,
    pub data: Vec<u8>,
    pub state: Vec<u8>,
    pub read_only: bool,
    pub shadow: Shadow,
}

impl Region {
    pub fn new(name: &str, bytes: usize) -> Self {
        Region { name: name.into(), data: vec![0; bytes], state: vec![0; bytes], ..Region::default() }
    }

    fn span(&self, at: u64, len: usize) -> Result<core::ops::Range<usize>, Why> {
        let start = usize::try_from(at).map_err(|_| Why::Bounds)?;
        let end = start.checked_add(len).filter(|end| *end <= self.data.len()).ok_or(Why::Bounds)?;
        Ok(start..end)
    }

    /// The bytes at `at`, all of which must have been written.
    pub fn read(&self, at: u64, len: usize) -> Result<&[u8], Why> {
        let span = self.span(at, len)?;
        if !all_written(&self.state[span.clone()]) {
            return Err(self.why(span));
        }
        Ok(&self.data[span])
    }

    fn why(&self, span: core::ops::Range<usize>) -> Why {
        for at in span {
            match self.state[at] {
                s if s & GAP != 0 => return Why::Gap(at),
                s if s & PENDING != 0 => return Why::Pending(at),
                0 => return Why::Unwritten(at),
                _ => {}
            }
        }
        Why::Bounds
    }

    /// Whether the bytes may be written.
    pub fn writable(&self, at: u64, len: usize) -> Result<core::ops::Range<usize>, Why> {
        let span = self.span(at, len)?;
        if self.state[span.clone()].iter().any(|s| *s > WRITTEN) {
            return Err(self.why(span));
        }
        if self.read_only {
            return Err(Why::ReadOnly);
        }
        Ok(span)
    }

    /// Gives its memory back.
    pub fn end(&mut self) {
        (self.data, self.state, self.shadow) = Default::default();
    }

    pub fn write(&mut self, at: u64, bytes: &[u8]) -> Result<(), Why> {
        let span = self.writable(at, bytes.len())?;
        self.data[span.clone()].copy_from_slice(bytes);
        self.state[span].fill(WRITTEN);
        Ok(())
    }
}

/// All allocations of a machine.
#[derive(Default)]
pub struct Global {
    pub regions: Vec<Region>,
    /// The device that allocates, or whose kernel runs.
    pub device: usize,
    /// Sectors of 32 bytes that warps have read or written, lanes of one access that are in a row in the same one counted once.
    pub sectors: u64,
    /// That of the lane before.
    pub sector: u64,
}

impl Global {
    pub fn alloc(&mut self, name: &str, bytes: usize, align: u64) -> u64 {
        assert!(bytes < 1 << (SPACING - 1), "an allocation of {bytes} bytes");
        let base = ((self.regions.len() as u64 + 1) << SPACING) + align;
        self.regions.push(Region { base, device: self.device, ..Region::new(name, bytes) });
        base
    }

    /// Counts a lane's access, which is aligned to its size.
    pub fn count(&mut self, address: u64) {
        if self.sector != address / 32 {
            self.sectors += 1;
            self.sector = address / 32;
        }
    }

    /// As `find`, in memory that the device's kernels reach: its own.
    pub fn reach(&self, address: u64) -> Option<(usize, u64)> {
        self.find(address).filter(|(region, _)| self.regions[*region].device == self.device)
    }

    /// The region an address lies in or behind, and the offset there.
    pub fn find(&self, address: u64) -> Option<(usize, u64)> {
        let index = (address >> SPACING).checked_sub(1)? as usize;
        let offset = address.checked_sub(self.regions.get(index)?.base)?;
        Some((index, offset))
    }
}
