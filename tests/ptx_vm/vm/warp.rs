//! The state of a warp: registers, where its lanes are, and what they wait for.

use std::collections::VecDeque;

use super::FaultKind;
use super::isa::{Constant, Kernel, Lanes, Op, Pred, PredSrc, Slot, Special};
use super::memory::{self, GAP, Region};
use super::race::bits;

/// Why an instruction fails; who catches it knows the instruction.
#[derive(Debug)]
pub struct Trap {
    pub kind: FaultKind,
    pub lane: u32,
    pub detail: String,
}

impl Trap {
    pub fn new(kind: FaultKind, lane: u32, detail: impl Into<String>) -> Box<Trap> {
        Box::new(Trap { kind, lane, detail: detail.into() })
    }
}

pub type Step<T> = Result<T, Box<Trap>>;

/// A `cp.async` on its way.
#[derive(Clone, Copy)]
pub struct Copy {
    pub at: u64,
    pub bytes: [u8; 16],
    pub len: usize,
    pub pc: u32,
}

/// One lane's copies: those not committed, and the groups.
#[derive(Default)]
pub struct Queue {
    pub open: Vec<Copy>,
    pub groups: VecDeque<Vec<Copy>>,
}

pub struct Warp {
    pub index: u32,
    regs: Vec<Lanes>,
    written: Vec<u32>,
    preds: Vec<u32>,
    preds_written: Vec<u32>,
    pub carry: u32,
    pub carry_written: u32,
    /// Where each lane is; lanes of `group` are at `at` instead.
    pub pc: [u32; 32],
    pub group: u32,
    pub at: u32,
    /// The lowest place of another lane that can run: there the group may meet it.
    pub next: u32,
    pub live: u32,
    /// Lanes that wait for others of the warp at a `.sync` instruction.
    pub waiting: u32,
    /// Lanes that wait at a barrier of the block.
    pub barred: u32,
    pub local: Vec<Region>,
    pub queues: Vec<Queue>,
}

/// What the constants of a kernel need to know.
pub struct Places<'a> {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub dynamic_shared: u32,
    pub globals: &'a [u64],
    pub shared: &'a [u64],
}

impl Warp {
    pub fn new(kernel: &Kernel, index: u32) -> Self {
        let local = (0..32).map(|_| Region::new("local", kernel.local_bytes as usize)).collect();
        Warp {
            index,
            regs: vec![[0; 32]; kernel.slots],
            written: vec![0; kernel.slots],
            preds: vec![0; kernel.preds],
            preds_written: vec![0; kernel.preds],
            carry: 0,
            carry_written: 0,
            pc: [0; 32],
            group: 0,
            at: 0,
            next: u32::MAX,
            live: 0,
            waiting: 0,
            barred: 0,
            local,
            queues: (0..32).map(|_| Queue::default()).collect(),
        }
    }

    /// At the start of block `ctaid`: nothing is written but constants.
    pub fn reset(&mut self, kernel: &Kernel, places: &Places, ctaid: [u32; 3], local_gaps: &[u8]) {
        let threads: u32 = places.block.iter().product();
        let first = 32 * self.index;
        let lanes = threads.saturating_sub(first).min(32);
        self.live = if lanes == 32 { u32::MAX } else { (1 << lanes) - 1 };
        self.written.fill(0);
        self.preds_written.fill(0);
        self.carry_written = 0;
        (self.waiting, self.barred) = (0, 0);
        self.pc = [0; 32];
        (self.group, self.at, self.next) = (self.live, 0, u32::MAX);
        for (slot, constant) in &kernel.constants {
            let slot = *slot as usize;
            self.written[slot] = u32::MAX;
            self.regs[slot] = match constant {
                Constant::Bits(bits) => [*bits; 32],
                Constant::Global(var, add) => [places.globals[*var].wrapping_add(*add as u64); 32],
                Constant::Shared(var, add) => [places.shared[*var].wrapping_add(*add as u64); 32],
                Constant::Local(var, add) => [(memory::BASE + kernel.local[*var]).wrapping_add(*add as u64); 32],
                Constant::Special(special) => {
                    core::array::from_fn(|lane| u64::from(self.special(*special, places, ctaid, lane as u32)))
                }
            };
        }
        for region in &mut self.local {
            region.state.copy_from_slice(local_gaps);
        }
        for queue in &mut self.queues {
            queue.open.clear();
            queue.groups.clear();
        }
    }

    fn special(&self, special: Special, places: &Places, ctaid: [u32; 3], lane: u32) -> u32 {
        let [x, y, _] = places.block;
        let thread = 32 * self.index + lane;
        match special {
            Special::Tid(axis) => [thread % x, thread / x % y, thread / (x * y)][axis as usize],
            Special::Ntid(axis) => places.block[axis as usize],
            Special::Ctaid(axis) => ctaid[axis as usize],
            Special::Nctaid(axis) => places.grid[axis as usize],
            Special::LaneId => lane,
            Special::WarpId => self.index,
            Special::NWarpId => places.block.iter().product::<u32>().div_ceil(32),
            Special::MaskEq => 1 << lane,
            Special::MaskLt => (1 << lane) - 1,
            Special::MaskLe => (2u32 << lane).wrapping_sub(1),
            Special::MaskGt => !(2u32 << lane).wrapping_sub(1),
            Special::MaskGe => !((1 << lane) - 1),
            Special::DynamicShared => places.dynamic_shared,
            Special::Clock => 0,
        }
    }

    /// The register, which `mask` must have written.
    pub fn get(&self, slot: Slot, mask: u32) -> Step<&Lanes> {
        let missing = mask & !self.written[slot as usize];
        if missing != 0 {
            return Err(Trap::new(FaultKind::Uninitialised, missing.trailing_zeros(), "a register is read first"));
        }
        Ok(&self.regs[slot as usize])
    }

    pub fn set(&mut self, slot: Slot, mask: u32, values: &Lanes) {
        let reg = &mut self.regs[slot as usize];
        if mask == u32::MAX {
            *reg = *values;
        } else {
            for lane in bits(mask) {
                reg[lane] = values[lane];
            }
        }
        self.written[slot as usize] |= mask;
    }

    /// A copy that takes along which lanes are written.
    pub fn copy(&mut self, d: Slot, a: Slot, mask: u32) {
        let values = self.regs[a as usize];
        let written = self.written[a as usize];
        self.set(d, mask, &values);
        self.written[d as usize] &= written | !mask;
    }

    /// Makes lanes of a register unwritten: the instruction's result is undefined there.
    pub fn poison(&mut self, slot: Slot, mask: u32) {
        self.written[slot as usize] &= !mask;
    }

    pub fn pred(&self, source: PredSrc, mask: u32) -> Step<u32> {
        let missing = mask & !self.preds_written[source.pred as usize];
        if missing != 0 {
            return Err(Trap::new(FaultKind::Uninitialised, missing.trailing_zeros(), "a predicate is read first"));
        }
        let value = self.preds[source.pred as usize];
        Ok(if source.not { !value } else { value })
    }

    pub fn set_pred(&mut self, pred: Pred, mask: u32, value: u32) {
        let reg = &mut self.preds[pred as usize];
        *reg = *reg & !mask | value & mask;
        self.preds_written[pred as usize] |= mask;
    }

    pub fn copy_pred(&mut self, d: Pred, a: PredSrc, mask: u32) {
        let value = self.preds[a.pred as usize];
        let written = self.preds_written[a.pred as usize];
        self.set_pred(d, mask, if a.not { !value } else { value });
        self.preds_written[d as usize] &= written | !mask;
    }

    /// Writes the group's place back to its lanes.
    pub fn park(&mut self) {
        for lane in bits(self.group) {
            self.pc[lane] = self.at;
        }
        self.group = 0;
    }

    /// Chooses the lanes that run next: of those that can, the ones that are furthest behind.
    pub fn regroup(&mut self) {
        self.park();
        let ready = self.live & !self.waiting & !self.barred;
        (self.at, self.next) = (u32::MAX, u32::MAX);
        for lane in bits(ready) {
            let pc = self.pc[lane];
            if pc < self.at {
                (self.next, self.at, self.group) = (self.at, pc, 1 << lane);
            } else if pc == self.at {
                self.group |= 1 << lane;
            } else {
                self.next = self.next.min(pc);
            }
        }
    }

    /// A lane that waits for others of its warp that can no longer come.
    pub fn stuck(&self, kernel: &Kernel) -> Option<(u32, Box<Trap>)> {
        if self.group != 0 || self.waiting == 0 || self.barred != 0 {
            return None;
        }
        let lane = self.waiting.trailing_zeros();
        let pc = self.pc[lane as usize];
        let here = bits(self.waiting).filter(|l| self.pc[*l] == pc).fold(0u32, |m, l| m | 1 << l);
        let aligned = matches!(kernel.code[pc as usize].op, Op::Sync(None, _));
        let kind = if aligned { FaultKind::Barrier } else { FaultKind::Deadlock };
        let detail = format!("lanes {here:#x} wait here for others that never come; lanes {:#x} live", self.live);
        Some((pc, Trap::new(kind, lane, detail)))
    }
}

/// The state of fresh local memory.
pub fn local_gaps(kernel: &Kernel, sizes: impl Iterator<Item = (usize, u64)>) -> Vec<u8> {
    let mut state = vec![GAP; kernel.local_bytes as usize];
    for (var, size) in sizes {
        let at = kernel.local[var] as usize;
        state[at..at + size as usize].fill(0);
    }
    state
}
