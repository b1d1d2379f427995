//! Executes the instructions of a warp.

use super::FaultKind;
use super::MmaError;
use super::float;
use super::int;
use super::isa::{Bar, Carry, CarryKind, Collective, Kernel, Op, Setp, Slot, Space, low};
use super::memory::{Global, LOCAL_WINDOW, PARAM_WINDOW, Region, SHARED_WINDOW, WINDOW};
use super::race::{Order, bits};
use super::warp::{Step, Trap, Warp};

/// What the warps of a block share.
pub struct Env<'a> {
    pub kernel: &'a Kernel,
    pub params: &'a [u8],
    pub global: &'a mut Global,
    pub shared: Region,
    pub order: Order,
    pub block: u32,
    pub mma: MmaError,
    pub executed: u64,
    pub budget: u64,
}

/// Why a warp stops running.
pub enum Flow {
    /// Its turn is over, it is done, or all its lanes wait.
    Turn,
    /// These lanes are at a barrier, at `warp.at`.
    Barrier(Bar, u32),
}

/// Where the base of generic addresses of a space lies.
pub fn window(space: Space) -> u64 {
    match space {
        Space::Shared => SHARED_WINDOW,
        Space::Local => LOCAL_WINDOW,
        Space::Param => PARAM_WINDOW,
        Space::Generic | Space::Global | Space::Const => 0,
    }
}

/// The space of a generic address, and the address there.
pub fn locate(address: u64) -> (Space, u64) {
    for space in [Space::Shared, Space::Local, Space::Param] {
        if let Some(offset) = address.checked_sub(window(space)).filter(|offset| *offset < WINDOW) {
            return (space, offset);
        }
    }
    (Space::Global, address)
}

impl Warp {
    /// Runs up to `turn` instructions.
    pub fn run(&mut self, env: &mut Env, turn: u32) -> Step<Flow> {
        let kernel = env.kernel;
        for _ in 0..turn {
            if self.group == 0 {
                break;
            }
            env.executed += 1;
            env.global.sector = u64::MAX;
            let instr = &kernel.code[self.at as usize];
            let mask = match instr.guard {
                None => self.group,
                Some(guard) => self.group & self.pred(guard, self.group)?,
            };
            match &instr.op {
                Op::Bra(target) => {
                    if mask == self.group {
                        self.at = *target;
                    } else if mask == 0 {
                        self.at += 1;
                    } else {
                        let rest = self.group & !mask;
                        self.at += 1;
                        self.group = rest;
                        self.park();
                        self.at = *target;
                        self.group = mask;
                        self.regroup();
                        continue;
                    }
                }
                _ if mask == 0 => self.at += 1,
                Op::Exit => {
                    self.at += 1;
                    self.live &= !mask;
                    self.group &= !mask;
                    // Those who wait for others look again who is left.
                    self.waiting = 0;
                    self.regroup();
                    continue;
                }
                Op::Sync(members, collective) => {
                    if mask != self.group {
                        // Who the guard leaves out goes ahead.
                        self.group &= !mask;
                        self.at += 1;
                        self.park();
                        self.at -= 1;
                        self.group = mask;
                        self.next = self.next.min(self.at + 1);
                    }
                    if let Some(flow) = self.sync(env, *members, collective)? {
                        return Ok(flow);
                    }
                    continue;
                }
                op => {
                    self.execute(env, op, mask)?;
                    self.at += 1;
                }
            }
            if self.at >= self.next {
                self.regroup();
            }
        }
        Ok(Flow::Turn)
    }

    /// An instruction for which lanes wait for each other.
    fn sync(&mut self, env: &mut Env, members: Option<Slot>, collective: &Collective) -> Step<Option<Flow>> {
        let at = self.at;
        if let Collective::Bar(bar) = collective
            && !bar.aligned
        {
            return Ok(Some(Flow::Barrier(*bar, self.group)));
        }
        let arrived = bits(self.waiting).filter(|l| self.pc[*l] == at).fold(self.group, |m, l| m | 1 << l);
        let mut left = arrived;
        let mut done = 0;
        if let Some(slot) = members {
            let masks = *self.get(slot, arrived)?;
            while left != 0 {
                let lane = left.trailing_zeros();
                let mask = masks[lane as usize] as u32;
                let same = bits(left).filter(|l| masks[*l] as u32 == mask).fold(0u32, |m, l| m | 1 << l);
                left &= !same;
                if same & !mask != 0 {
                    return Err(Trap::new(FaultKind::Barrier, lane, format!("the mask {mask:#x} lacks the lane")));
                }
                if mask & !self.live != 0 {
                    let detail = format!("the mask {mask:#x} names lanes that have exited; {:#x} live", self.live);
                    return Err(Trap::new(FaultKind::Deadlock, lane, detail));
                }
                if same == mask {
                    self.collect(env, collective, mask)?;
                    done |= mask;
                }
            }
        } else if arrived == self.live {
            done = arrived;
            if let Collective::Bar(bar) = collective {
                self.waiting &= !arrived;
                self.group = arrived;
                return Ok(Some(Flow::Barrier(*bar, arrived)));
            }
            if self.live != u32::MAX {
                let detail = format!("only lanes {:#x} of the warp live", self.live);
                return Err(Trap::new(FaultKind::Barrier, self.live.trailing_zeros(), detail));
            }
            self.collect(env, collective, arrived)?;
        }
        if done == self.group {
            self.at += 1;
            if self.at >= self.next {
                self.regroup();
            }
            return Ok(None);
        }
        self.park();
        for lane in bits(done) {
            self.pc[lane] = at + 1;
        }
        self.waiting = (self.waiting | arrived) & !done;
        self.regroup();
        Ok(None)
    }

    fn execute(&mut self, env: &mut Env, op: &Op, mask: u32) -> Step<()> {
        match op {
            Op::Un(f, d, a) => {
                let out = f(self.get(*a, mask)?);
                self.set(*d, mask, &out);
            }
            Op::Bin(f, d, a, b) => {
                let out = f(self.get(*a, mask)?, self.get(*b, mask)?);
                self.set(*d, mask, &out);
            }
            Op::Tri(f, d, a, b, c) => {
                let out = f(self.get(*a, mask)?, self.get(*b, mask)?, self.get(*c, mask)?);
                self.set(*d, mask, &out);
            }
            Op::Div(f, d, a, b) => {
                let b = self.get(*b, mask)?;
                if let Some(lane) = bits(mask).find(|l| b[*l] == 0) {
                    return Err(Trap::new(FaultKind::Unsupported, lane as u32, "division by zero"));
                }
                let out = f(self.get(*a, mask)?, b);
                self.set(*d, mask, &out);
            }
            Op::Mov(d, a) => self.copy(*d, *a, mask),
            Op::Bfi { bits: width, d, a, b, at, len } => {
                let (a, b) = (self.get(*a, mask)?, self.get(*b, mask)?);
                let (at, len) = (self.get(*at, mask)?, self.get(*len, mask)?);
                let out = core::array::from_fn(|l| int::insert(a[l], b[l], at[l], len[l], *width));
                self.set(*d, mask, &out);
            }
            Op::Lop3 { lut, d, a, b, c } => {
                let (a, b, c) = (self.get(*a, mask)?, self.get(*b, mask)?, self.get(*c, mask)?);
                let out = core::array::from_fn(|l| int::lop3(a[l], b[l], c[l], *lut));
                self.set(*d, mask, &out);
            }
            Op::Cvt(cvt, d, a) => {
                let a = self.get(*a, mask)?;
                let out = core::array::from_fn(|l| float::convert(cvt, a[l]));
                self.set(*d, mask, &out);
            }
            Op::Carry(carry) => self.carry(carry, mask)?,
            Op::Setp(setp) => {
                let (p, q) = self.compare(setp, mask)?;
                if let Some(pred) = setp.p {
                    self.set_pred(pred, mask, p);
                }
                if let Some(pred) = setp.q {
                    self.set_pred(pred, mask, q);
                }
            }
            Op::Set { cmp, d, yes } => {
                let (p, _) = self.compare(cmp, mask)?;
                let out = core::array::from_fn(|l| if p >> l & 1 != 0 { *yes } else { 0 });
                self.set(*d, mask, &out);
            }
            Op::Selp { d, a, b, p } => {
                let p = self.pred(*p, mask)?;
                // Only what is chosen must be written.
                let (a, b) = (self.get(*a, mask & p)?, self.get(*b, mask & !p)?);
                let out = core::array::from_fn(|l| if p >> l & 1 != 0 { a[l] } else { b[l] });
                self.set(*d, mask, &out);
            }
            Op::PredLogic { op, d, a, b } => {
                let value = op.apply(self.pred(*a, mask)?, self.pred(*b, mask)?);
                self.set_pred(*d, mask, value);
            }
            Op::PredMov { d, a } => self.copy_pred(*d, *a, mask),
            Op::PredConst { d, value } => self.set_pred(*d, mask, if *value { u32::MAX } else { 0 }),
            Op::TestP { f, d, a } => {
                let value = f(self.get(*a, mask)?);
                self.set_pred(*d, mask, value);
            }
            Op::Pack { d, parts, bits } => {
                let mut out = [0; 32];
                for (i, part) in parts.iter().enumerate() {
                    let part = self.get(*part, mask)?;
                    for (out, part) in out.iter_mut().zip(part) {
                        *out |= low(*part, *bits) << (i as u32 * bits);
                    }
                }
                self.set(*d, mask, &out);
            }
            Op::Unpack { parts, a, bits } => {
                let a = *self.get(*a, mask)?;
                for (i, part) in parts.iter().enumerate() {
                    if let Some(part) = part {
                        self.set(*part, mask, &a.map(|a| low(a >> (i as u32 * bits), *bits)));
                    }
                }
            }
            Op::Cvta { to, space, d, a } => {
                let base = window(*space);
                let base = if *to { base.wrapping_neg() } else { base };
                let out = self.get(*a, mask)?.map(|a| a.wrapping_add(base));
                self.set(*d, mask, &out);
            }
            Op::IsSpace { space, d, a } => {
                let a = self.get(*a, mask)?;
                let value = bits(mask).fold(0, |m, l| m | u32::from(locate(a[l]).0 == *space) << l);
                self.set_pred(*d, mask, value);
            }
            Op::ActiveMask(d) => self.set(*d, mask, &[u64::from(mask); 32]),
            Op::Ld(access) => self.load(env, access, mask)?,
            Op::St(access) => self.store(env, access, mask)?,
            Op::Atom(atom) => self.atomic(env, atom, mask)?,
            Op::CpAsync { dst, src, size, src_size } => self.cp_async(env, dst, src, *size, *src_size, mask)?,
            Op::CpCommit => self.cp_commit(mask),
            Op::CpWait(left) => self.cp_wait(env, *left as usize, mask)?,
            Op::CpWaitAll => {
                self.cp_commit(mask);
                self.cp_wait(env, 0, mask)?;
            }
            Op::Fence => {}
            Op::Trap => {
                return Err(Trap::new(FaultKind::Unsupported, mask.trailing_zeros(), "the kernel executes trap"));
            }
            // Taken care of by `run`.
            Op::Bra(_) | Op::Exit | Op::Sync(..) => {}
        }
        Ok(())
    }

    fn compare(&self, setp: &Setp, mask: u32) -> Step<(u32, u32)> {
        let value = (setp.f)(self.get(setp.a, mask)?, self.get(setp.b, mask)?);
        Ok(match setp.combine {
            None => (value, !value),
            Some((logic, other)) => {
                let other = self.pred(other, mask)?;
                (logic.apply(value, other), logic.apply(!value, other))
            }
        })
    }

    fn carry(&mut self, c: &Carry, mask: u32) -> Step<()> {
        let missing = mask & !self.carry_written;
        if c.carry_in && missing != 0 {
            return Err(Trap::new(FaultKind::Uninitialised, missing.trailing_zeros(), "the carry is read first"));
        }
        let (a, b, addend) = (self.get(c.a, mask)?, self.get(c.b, mask)?, self.get(c.c, mask)?);
        let signed = |x: u64| if c.bits == 32 { i128::from(x as u32 as i32) } else { i128::from(x as i64) };
        let mut out = [0; 32];
        let mut carry = 0;
        for lane in bits(mask) {
            let (a, b, addend) = (a[lane], b[lane], addend[lane]);
            let carried = u128::from(c.carry_in && self.carry >> lane & 1 != 0);
            let product = || u128::from(a) * u128::from(b);
            let (x, y) = match c.kind {
                CarryKind::Add | CarryKind::Sub => (a, b),
                CarryKind::MadLo => (low(product() as u64, c.bits), addend),
                CarryKind::MadHiU => ((product() >> c.bits) as u64, addend),
                CarryKind::MadHiS => (low(((signed(a) * signed(b)) >> c.bits) as u64, c.bits), addend),
            };
            let sum = if c.kind == CarryKind::Sub {
                // The carry of a subtraction is its borrow.
                u128::from(x).wrapping_sub(u128::from(y)).wrapping_sub(carried)
            } else {
                u128::from(x) + u128::from(y) + carried
            };
            out[lane] = low(sum as u64, c.bits);
            carry |= ((sum >> c.bits & 1) as u32) << lane;
        }
        self.set(c.d, mask, &out);
        if c.carry_out {
            self.carry = self.carry & !mask | carry;
            self.carry_written |= mask;
        }
        Ok(())
    }
}
