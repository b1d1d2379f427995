//! Loads, stores, atomics and asynchronous copies.

use super::FaultKind;
use super::exec::{Env, locate};
use super::isa::{Access, Addr, Atom, AtomKind, Lanes, Slot, Space, Ty, low};
use super::lanes::Word;
use super::memory::{BASE, PENDING, Region, Why};
use super::race::{Conflict, Kind, Who, bits};
use super::warp::{Copy, Step, Trap, Warp};

/// Where an access goes.
#[derive(Clone, Copy)]
enum Place {
    Global(usize, u64),
    Shared(u64),
    Local(u64),
    Param(u64),
}

impl Addr {
    fn of(&self, bases: &Lanes, lane: usize) -> u64 {
        let sum = bases[lane].wrapping_add(self.offset as u64);
        if self.wide { sum } else { low(sum, 32) }
    }
}

fn place(env: &mut Env, space: Space, address: u64, len: usize, lane: usize) -> Step<Place> {
    let (space, address) = if space == Space::Generic { locate(address) } else { (space, address) };
    if !address.is_multiple_of(len as u64) {
        let detail = format!("{len} bytes at {space:?} address {address:#x}");
        return Err(Trap::new(FaultKind::Misaligned, lane as u32, detail));
    }
    let offset = address.checked_sub(BASE);
    Ok(match (space, offset) {
        (Space::Shared, Some(offset)) => Place::Shared(offset),
        (Space::Local, Some(offset)) => Place::Local(offset),
        (Space::Param, _) => Place::Param(address),
        (Space::Global | Space::Const | Space::Generic, _) => match env.global.reach(address) {
            Some((region, offset)) => {
                env.global.count(address);
                Place::Global(region, offset)
            }
            None => {
                let detail = format!("{len} bytes at address {address:#x}, which is in no allocation of the device");
                return Err(Trap::new(FaultKind::OutOfBounds, lane as u32, detail));
            }
        },
        _ => {
            let detail = format!("{len} bytes at {space:?} address {address:#x}, before the first variable");
            return Err(Trap::new(FaultKind::OutOfBounds, lane as u32, detail));
        }
    })
}

fn refused(region: &Region, why: Why, at: u64, len: usize, lane: usize) -> Box<Trap> {
    let (name, size) = (&region.name, region.data.len());
    let (kind, detail) = match why {
        Why::Bounds => (FaultKind::OutOfBounds, format!("{len} bytes at {at} of {name}, which has {size}")),
        Why::Gap(byte) => (FaultKind::OutOfBounds, format!("byte {byte} of {name} memory is between variables")),
        Why::ReadOnly => (FaultKind::OutOfBounds, format!("a store to constant {name}")),
        Why::Unwritten(byte) => {
            (FaultKind::Uninitialised, format!("{len} bytes at {at} of {name}: byte {byte} was never written"))
        }
        Why::Pending(byte) => {
            (FaultKind::AsyncPending, format!("{len} bytes at {at} of {name}: byte {byte} awaits a cp.async"))
        }
    };
    Trap::new(kind, lane as u32, detail)
}

/// Records the access, unless its place is the thread's own.
fn touch(env: &mut Env, place: Place, len: usize, kind: Kind, who: &Who) -> Step<()> {
    let (result, fault, what) = match place {
        Place::Global(region, at) => {
            let region = &mut env.global.regions[region];
            if region.read_only {
                return Ok(());
            }
            (region.shadow.touch(at as usize, len, kind, who, &env.order), FaultKind::GlobalRace, (&*region, at))
        }
        Place::Shared(at) => {
            let region = &mut env.shared;
            (region.shadow.touch(at as usize, len, kind, who, &env.order), FaultKind::SharedRace, (&*region, at))
        }
        Place::Local(_) | Place::Param(_) => return Ok(()),
    };
    result.map_err(|conflict| {
        let Conflict { block, thread, pc, kind: other } = conflict;
        let block = match block {
            Some(block) if block == who.block => String::new(),
            Some(block) => format!(" of block {block} (of all in order)"),
            None => " of another block".into(),
        };
        let line =
            pc.and_then(|pc| env.kernel.code.get(pc as usize)).map_or(String::new(), |i| format!(", line {}", i.line));
        let (region, at) = what;
        let detail = format!(
            "{kind:?} of {len} bytes at {at} of {}, unordered after a {other:?} by thread {thread}{block}{line}",
            region.name
        );
        Trap::new(fault, who.lane, detail)
    })
}

/// The value in little-endian bytes.
fn value(bytes: &[u8]) -> u64 {
    if let Ok(four) = <[u8; 4]>::try_from(bytes) {
        return u64::from(u32::from_le_bytes(four));
    }
    bytes.iter().rev().fold(0, |v, b| v << 8 | u64::from(*b))
}

impl Warp {
    fn who(&self, env: &Env, lane: usize) -> Who {
        Who { block: env.block, warp: self.index, lane: lane as u32, pc: self.at }
    }

    /// Checks a load and gives its bytes.
    fn fetch(&mut self, env: &mut Env, space: Space, address: u64, len: usize, lane: usize) -> Step<[u8; 16]> {
        let place = place(env, space, address, len, lane)?;
        let mut out = [0; 16];
        let (region, at) = match place {
            Place::Global(region, at) => (&env.global.regions[region], at),
            Place::Shared(at) => (&env.shared, at),
            Place::Local(at) => (&self.local[lane], at),
            Place::Param(at) => {
                let bytes = usize::try_from(at).ok().and_then(|at| env.params.get(at..)?.get(..len));
                let Some(bytes) = bytes else {
                    let detail = format!("{len} bytes at {at} of the parameters");
                    return Err(Trap::new(FaultKind::OutOfBounds, lane as u32, detail));
                };
                out[..len].copy_from_slice(bytes);
                return Ok(out);
            }
        };
        let bytes = region.read(at, len).map_err(|why| refused(region, why, at, len, lane))?;
        out[..len].copy_from_slice(bytes);
        touch(env, place, len, Kind::Read, &self.who(env, lane))?;
        Ok(out)
    }

    fn put(&mut self, env: &mut Env, space: Space, address: u64, bytes: &[u8], lane: usize) -> Step<()> {
        let len = bytes.len();
        let place = place(env, space, address, len, lane)?;
        let (region, at) = match place {
            Place::Global(region, at) => (&mut env.global.regions[region], at),
            Place::Shared(at) => (&mut env.shared, at),
            Place::Local(at) => (&mut self.local[lane], at),
            Place::Param(_) => {
                return Err(Trap::new(FaultKind::OutOfBounds, lane as u32, "a store to the parameters"));
            }
        };
        if let Err(why) = region.write(at, bytes) {
            return Err(refused(region, why, at, len, lane));
        }
        touch(env, place, len, Kind::Write, &self.who(env, lane))
    }

    pub fn load(&mut self, env: &mut Env, access: &Access, mask: u32) -> Step<()> {
        let bases = *self.get(access.addr.base, mask)?;
        let (size, n) = (access.ty.bytes() as usize, access.regs.len());
        let mut out = [[0; 32]; 4];
        for lane in bits(mask) {
            let bytes = self.fetch(env, access.addr.space, access.addr.of(&bases, lane), size * n, lane)?;
            for (out, bytes) in out.iter_mut().zip(bytes[..size * n].chunks_exact(size)) {
                let bits = value(bytes);
                out[lane] = if access.ty.signed() {
                    let shift = 64 - access.ty.bits();
                    low(((bits << shift) as i64 >> shift) as u64, access.reg_bits)
                } else {
                    bits
                };
            }
        }
        for (reg, out) in access.regs.iter().zip(&out) {
            if let Some(reg) = reg {
                self.set(*reg, mask, out);
            }
        }
        Ok(())
    }

    pub fn store(&mut self, env: &mut Env, access: &Access, mask: u32) -> Step<()> {
        let bases = *self.get(access.addr.base, mask)?;
        let (size, n) = (access.ty.bytes() as usize, access.regs.len());
        let mut values = [[0; 32]; 4];
        for (reg, values) in access.regs.iter().flatten().zip(&mut values) {
            *values = *self.get(*reg, mask)?;
        }
        for lane in bits(mask) {
            let mut bytes = [0; 16];
            for (bytes, values) in bytes.chunks_exact_mut(size).zip(&values[..n]) {
                bytes.copy_from_slice(&values[lane].to_le_bytes()[..size]);
            }
            self.put(env, access.addr.space, access.addr.of(&bases, lane), &bytes[..size * n], lane)?;
        }
        Ok(())
    }

    pub fn atomic(&mut self, env: &mut Env, atom: &Atom, mask: u32) -> Step<()> {
        let bases = *self.get(atom.addr.base, mask)?;
        let (b, c) = (*self.get(atom.b, mask)?, *self.get(atom.c, mask)?);
        let len = atom.ty.bytes() as usize;
        let mut out = [0; 32];
        for lane in bits(mask) {
            let place = place(env, atom.addr.space, atom.addr.of(&bases, lane), len, lane)?;
            let (region, at) = match place {
                Place::Global(region, at) => (&mut env.global.regions[region], at),
                Place::Shared(at) => (&mut env.shared, at),
                Place::Local(_) | Place::Param(_) => {
                    return Err(Trap::new(FaultKind::Unsupported, lane as u32, "an atomic on local memory"));
                }
            };
            let old = region.read(at, len).map(value);
            let flush = matches!(place, Place::Global(..)) && atom.ty == Ty::F32;
            let done = old.and_then(|old| {
                out[lane] = old;
                if flush && atom.kind == AtomKind::Add {
                    let sum = flushed(f32::get(flushed(f32::get(old))) + f32::get(flushed(f32::get(b[lane]))));
                    return region.write(at, &sum.to_le_bytes()[..len]);
                }
                region.write(at, &update(atom, old, b[lane], c[lane]).to_le_bytes()[..len])
            });
            if let Err(why) = done {
                return Err(refused(region, why, at, len, lane));
            }
            touch(env, place, len, Kind::Atomic, &self.who(env, lane))?;
        }
        if let Some(d) = atom.d {
            self.set(d, mask, &out);
        }
        Ok(())
    }

    pub fn cp_async(
        &mut self,
        env: &mut Env,
        dst: &Addr,
        src: &Addr,
        size: u32,
        src_size: Option<Slot>,
        mask: u32,
    ) -> Step<()> {
        let (to, from) = (*self.get(dst.base, mask)?, *self.get(src.base, mask)?);
        let sizes = match src_size {
            Some(slot) => *self.get(slot, mask)?,
            None => [u64::from(size); 32],
        };
        let len = size as usize;
        for lane in bits(mask) {
            let take = sizes[lane] as usize;
            if take > len {
                let detail = format!("{take} source bytes for a copy of {len}");
                return Err(Trap::new(FaultKind::OutOfBounds, lane as u32, detail));
            }
            let address = src.of(&from, lane);
            if !address.is_multiple_of(u64::from(size)) {
                let detail = format!("a copy of {len} bytes from {address:#x}");
                return Err(Trap::new(FaultKind::Misaligned, lane as u32, detail));
            }
            let mut bytes = [0; 16];
            if take == len {
                bytes = self.fetch(env, Space::Global, address, len, lane)?;
            } else {
                // Byte by byte: the source size need not be a power of two.
                for (i, byte) in bytes[..take].iter_mut().enumerate() {
                    *byte = self.fetch(env, Space::Global, address.wrapping_add(i as u64), 1, lane)?[0];
                }
            }
            let place = place(env, Space::Shared, dst.of(&to, lane), len, lane)?;
            let Place::Shared(at) = place else { continue };
            let span = match env.shared.writable(at, len) {
                Ok(span) => span,
                Err(why) => return Err(refused(&env.shared, why, at, len, lane)),
            };
            // The copy may land at once, so it must not meet older accesses now ...
            touch(env, place, len, Kind::Write, &self.who(env, lane))?;
            env.shared.state[span].fill(PENDING);
            self.queues[lane].open.push(Copy { at, bytes, len, pc: self.at });
        }
        Ok(())
    }

    pub fn cp_commit(&mut self, mask: u32) {
        for lane in bits(mask) {
            let queue = &mut self.queues[lane];
            queue.groups.push_back(core::mem::take(&mut queue.open));
        }
    }

    /// Lands all groups but the last `left`.
    pub fn cp_wait(&mut self, env: &mut Env, left: usize, mask: u32) -> Step<()> {
        for lane in bits(mask) {
            while self.queues[lane].groups.len() > left {
                for copy in self.queues[lane].groups.pop_front().unwrap_or_default() {
                    let at = copy.at as usize;
                    env.shared.data[at..at + copy.len].copy_from_slice(&copy.bytes[..copy.len]);
                    env.shared.state[at..at + copy.len].fill(super::memory::WRITTEN);
                    // ... and it may land late, so others need a barrier behind the wait.
                    let who = Who { pc: copy.pc, ..self.who(env, lane) };
                    touch(env, Place::Shared(copy.at), copy.len, Kind::Write, &who)?;
                }
            }
        }
        Ok(())
    }

    /// 16 bytes of shared memory for `ldmatrix`, as a read by `lane`.
    pub fn matrix_row(&mut self, env: &mut Env, address: u64, lane: usize) -> Step<[u8; 16]> {
        self.fetch(env, Space::Shared, address, 16, lane)
    }

    pub fn address(&self, addr: &Addr, bases: &Lanes, lane: usize) -> u64 {
        addr.of(bases, lane)
    }
}

/// Sums of f32 in global memory take subnormal numbers for zeros of their sign, as the ISA says.
fn flushed(x: f32) -> u64 {
    (if x.is_subnormal() { 0f32.copysign(x) } else { x }).put()
}

/// What an atomic leaves in memory.
fn update(atom: &Atom, old: u64, b: u64, c: u64) -> u64 {
    let narrow = atom.ty.bits() == 32;
    let signed = |x: u64| if narrow { i64::from(x as u32 as i32) } else { x as i64 };
    match atom.kind {
        AtomKind::Add => match atom.ty {
            Ty::F32 => (f32::get(old) + f32::get(b)).put(),
            Ty::F64 => (f64::get(old) + f64::get(b)).put(),
            _ => old.wrapping_add(b),
        },
        AtomKind::Min if atom.ty.signed() => {
            if signed(b) < signed(old) {
                b
            } else {
                old
            }
        }
        AtomKind::Max if atom.ty.signed() => {
            if signed(b) > signed(old) {
                b
            } else {
                old
            }
        }
        AtomKind::Min => old.min(b),
        AtomKind::Max => old.max(b),
        AtomKind::And => old & b,
        AtomKind::Or => old | b,
        AtomKind::Xor => old ^ b,
        AtomKind::Exch => b,
        AtomKind::Cas => {
            if old == b {
                c
            } else {
                old
            }
        }
        AtomKind::Inc => {
            if old >= b {
                0
            } else {
                old + 1
            }
        }
        AtomKind::Dec => {
            if old == 0 || old > b {
                b
            } else {
                old - 1
            }
        }
    }
}
