//! Launches: blocks one after the other, their warps in turns, and the barriers between them.

use super::exec::{Env, Flow};
use super::isa::{Bar, BarKind, Kernel, Space};
use super::memory::{BASE, GAP, Global, Region, odd_align};
use super::parse::Parsed;
use super::race::{Order, bits};
use super::warp::{Places, Trap, Warp, local_gaps};
use super::{FaultKind, MmaError};

/// A failed instruction: its place, and why.
pub struct Failure {
    pub pc: u32,
    pub block: [u32; 3],
    pub warp: u32,
    pub trap: Box<Trap>,
}

/// One launch, checked.
pub struct Launch<'a> {
    pub parsed: &'a Parsed,
    pub kernel: &'a Kernel,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub dynamic_shared: u32,
    pub params: &'a [u8],
    pub globals: &'a [u64],
    pub mma: MmaError,
    pub schedule: u64,
    pub budget: u64,
}

/// One of the 16 barriers of a block, between two completions.
#[derive(Clone, Default)]
struct Barrier {
    count: Option<u32>,
    kind: Option<BarKind>,
    threads: u32,
    /// Lanes that have arrived, that wait, and when they came, by warp.
    arrived: [u32; 32],
    waits: [u32; 32],
    times: [u32; 32],
    bars: Vec<(usize, Bar)>,
    yes: u32,
    no: u32,
}

/// A generator good enough to mix schedules.
struct Random(u64);

impl Random {
    fn next(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % below
    }
}

/// Where the shared variables of a kernel lie, and the state of fresh shared memory. Between variables are gaps that
/// nobody may touch, and no variable is aligned better than it asks for.
fn shared_layout(launch: &Launch) -> (Vec<u64>, Vec<u8>) {
    let mut places = vec![0; launch.parsed.variables.len()];
    let mut state = Vec::new();
    let order = launch.kernel.shared.iter().map(|v| (*v, &launch.parsed.variables[*v]));
    let (dynamic, fixed): (Vec<_>, Vec<_>) = order.partition(|(_, v)| v.dynamic);
    for (index, var) in &fixed {
        let at = odd_align(BASE + state.len() as u64 + 16, var.align);
        places[*index] = at;
        state.resize((at - BASE) as usize, GAP);
        state.resize((at - BASE + var.size) as usize, 0);
    }
    if !dynamic.is_empty() {
        // All names of the dynamic memory mean the same place.
        let align = dynamic.iter().map(|(_, v)| v.align).max().unwrap_or(1).max(16);
        let at = odd_align(BASE + state.len() as u64, align);
        state.resize((at - BASE) as usize, GAP);
        state.resize((at - BASE) as usize + launch.dynamic_shared as usize, 0);
        for (index, _) in &dynamic {
            places[*index] = at;
        }
    }
    (places, state)
}

struct Block<'a, 'b> {
    env: &'b mut Env<'a>,
    warps: &'b mut [Warp],
    barriers: Vec<Barrier>,
    threads: u32,
}

/// Runs all blocks; the count of executed warp instructions comes back in any case.
pub fn launch(launch: &Launch, global: &mut Global, executed: &mut u64) -> Result<(), Failure> {
    let threads: u32 = launch.block.iter().product();
    let warp_count = threads.div_ceil(32);
    let (shared_at, shared_state) = shared_layout(launch);
    let mut warps: Vec<Warp> = (0..warp_count).map(|w| Warp::new(launch.kernel, w)).collect();
    let variables = launch.parsed.variables.iter().enumerate();
    let locals = variables.filter(|(i, v)| v.space == Space::Local && launch.kernel.local_vars.contains(i));
    let gaps = local_gaps(launch.kernel, locals.map(|(i, v)| (i, v.size)));
    for region in &mut global.regions {
        region.shadow.clear();
    }
    let mut env = Env {
        kernel: launch.kernel,
        params: launch.params,
        global,
        shared: Region::new("shared", shared_state.len()),
        order: Order::new(warps.len()),
        block: 0,
        mma: launch.mma,
        executed: *executed,
        budget: executed.saturating_add(launch.budget),
    };
    let places = Places {
        grid: launch.grid,
        block: launch.block,
        dynamic_shared: launch.dynamic_shared,
        globals: launch.globals,
        shared: &shared_at,
    };
    let mut random = Random(launch.schedule.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut blocks: Vec<u32> = (0..launch.grid.iter().product()).collect();
    for i in (1..blocks.len()).rev() {
        blocks.swap(i, random.next(i as u64 + 1) as usize);
    }
    let mut result = Ok(());
    for linear in blocks {
        let [x, y, _] = launch.grid;
        let ctaid = [linear % x, linear / x % y, linear / (x * y)];
        env.block = linear;
        env.order.reset();
        env.shared.shadow.wipe();
        env.shared.state.copy_from_slice(&shared_state);
        for warp in &mut warps {
            warp.reset(launch.kernel, &places, ctaid, &gaps);
        }
        let mut block = Block { env: &mut env, warps: &mut warps, barriers: vec![Barrier::default(); 16], threads };
        if let Err((warp, pc, trap)) = block.run(&mut random) {
            result = Err(Failure { pc, block: ctaid, warp, trap });
            break;
        }
    }
    *executed = env.executed;
    result
}

type Failed = (u32, u32, Box<Trap>);

impl Block<'_, '_> {
    fn live(&self) -> u32 {
        self.warps.iter().map(|w| w.live.count_ones()).sum()
    }

    fn run(&mut self, random: &mut Random) -> Result<(), Failed> {
        let mut ready: Vec<usize> = Vec::new();
        loop {
            ready.clear();
            ready.extend((0..self.warps.len()).filter(|w| self.warps[*w].group != 0));
            if ready.is_empty() {
                return self.finish();
            }
            let w = ready[random.next(ready.len() as u64) as usize];
            let turn = 1 + random.next(48) as u32;
            let warp = &mut self.warps[w];
            let live = warp.live;
            match warp.run(self.env, turn) {
                Err(trap) => return Err((w as u32, self.warps[w].at, trap)),
                Ok(Flow::Turn) => {}
                Ok(Flow::Barrier(bar, lanes)) => {
                    let at = self.warps[w].at;
                    self.arrive(w, &bar, lanes).map_err(|trap| (w as u32, at, trap))?;
                }
            }
            let warp = &self.warps[w];
            if let Some((pc, trap)) = warp.stuck(self.env.kernel) {
                return Err((w as u32, pc, trap));
            }
            if warp.live != live {
                // Barriers no longer wait for who has exited.
                for id in 0..self.barriers.len() {
                    self.complete(id);
                }
            }
            if self.env.executed > self.env.budget {
                let detail = "the launch's budget of instructions is spent";
                let warp = &self.warps[w];
                return Err((w as u32, warp.at, Trap::new(FaultKind::Limit, 0, detail)));
            }
        }
    }

    /// No warp can run: all are done, or none ever will be.
    fn finish(&self) -> Result<(), Failed> {
        for warp in self.warps.iter() {
            let held = warp.waiting | warp.barred;
            if held != 0 {
                let lane = held.trailing_zeros();
                let detail = format!(
                    "a barrier that never completes: warp {} waits with lanes {held:#x}; {} threads of the block live",
                    warp.index,
                    self.live()
                );
                return Err((warp.index, warp.pc[lane as usize], Trap::new(FaultKind::Deadlock, lane, detail)));
            }
        }
        Ok(())
    }

    fn arrive(&mut self, w: usize, bar: &Bar, lanes: u32) -> Result<(), Box<Trap>> {
        let first = lanes.trailing_zeros();
        let fault = |detail: String| Err(Trap::new(FaultKind::Barrier, first, detail));
        let warp = &mut self.warps[w];
        let uniform = |slot| -> Result<u64, Box<Trap>> {
            let values = warp.get(slot, lanes)?;
            let value = values[first as usize];
            if bits(lanes).all(|l| values[l] == value) {
                Ok(value)
            } else {
                Err(Trap::new(FaultKind::Barrier, first, "lanes name different barriers or counts"))
            }
        };
        let id = uniform(bar.id)? as usize;
        let count = match bar.count {
            Some(slot) => Some(uniform(slot)? as u32),
            None => None,
        };
        let source = match bar.source {
            Some(source) => warp.pred(source, lanes)? & lanes,
            None => 0,
        };
        if id >= self.barriers.len() {
            return fault(format!("barrier {id}"));
        }
        let size = 32 * self.warps.len() as u32;
        if count.is_some_and(|c| c == 0 || c % 32 != 0 || c > size) {
            return fault(format!("a barrier of {} threads in a block of {size}", count.unwrap_or(0)));
        }
        let barrier = &mut self.barriers[id];
        let plain = |k: BarKind| if k == BarKind::Arrive { BarKind::Sync } else { k };
        match barrier.kind {
            Some(kind) if kind != plain(bar.kind) || barrier.count != count => {
                return fault(format!("barrier {id} is used in different ways at once"));
            }
            _ => (barrier.kind, barrier.count) = (Some(plain(bar.kind)), count),
        }
        if barrier.arrived[w] & lanes != 0 {
            return fault(format!("barrier {id} is reached twice before it completes"));
        }
        barrier.arrived[w] |= lanes;
        if bar.kind == BarKind::Arrive {
            barrier.times[w] = self.env.order.arrive(w);
        }
        barrier.threads += if bar.aligned { 32 } else { lanes.count_ones() };
        barrier.yes += source.count_ones();
        barrier.no += (lanes & !source).count_ones();
        if count.is_some_and(|count| barrier.threads > count) {
            return fault(format!("more threads than its count reach barrier {id}"));
        }
        let warp = &mut self.warps[w];
        if bar.kind == BarKind::Arrive {
            warp.at += 1;
        } else {
            barrier.waits[w] |= lanes;
            barrier.bars.push((w, *bar));
            warp.park();
            warp.barred |= lanes;
        }
        warp.regroup();
        self.complete(id);
        Ok(())
    }

    /// Lets the barrier's threads go on when all have arrived.
    fn complete(&mut self, id: usize) {
        let (live, threads) = (self.live(), self.threads);
        let barrier = &self.barriers[id];
        let arrived: u32 = barrier.arrived.iter().map(|m| m.count_ones()).sum();
        let whole = match barrier.count {
            Some(count) => barrier.threads == count,
            None => arrived == live,
        };
        if arrived == 0 || !whole {
            return;
        }
        let barrier = core::mem::take(&mut self.barriers[id]);
        let waiting: u32 = barrier.waits.iter().map(|m| m.count_ones()).sum();
        // What exited threads did is not ordered by a barrier they never reached.
        if waiting == threads {
            self.env.order.sync_block();
        } else {
            // Warps that took part as a whole; for others no order is known.
            let full = |w: &usize| {
                barrier.arrived[*w] != 0 && barrier.arrived[*w] & self.warps[*w].live == self.warps[*w].live
            };
            let arrived: Vec<_> = (0..self.warps.len()).filter(full).map(|w| (w, barrier.times[w])).collect();
            let waited = arrived.iter().filter(|(w, _)| barrier.waits[*w] != 0).fold(0, |m, (w, _)| m | 1 << w);
            self.env.order.sync_warps(&arrived, waited);
        }
        for (w, bar) in &barrier.bars {
            let warp = &mut self.warps[*w];
            let lanes = barrier.waits[*w];
            if let Some(d) = bar.d {
                warp.set(d, lanes, &[u64::from(barrier.yes); 32]);
            }
            if let Some(p) = bar.p {
                let value = if bar.kind == BarKind::RedAnd { barrier.no == 0 } else { barrier.yes > 0 };
                warp.set_pred(p, lanes, if value { u32::MAX } else { 0 });
            }
        }
        for (w, lanes) in barrier.waits.iter().enumerate().filter(|(_, lanes)| **lanes != 0) {
            let warp = &mut self.warps[w];
            // The warp's own group may have run ahead of lanes that waited here.
            warp.park();
            warp.barred &= !lanes;
            for lane in bits(*lanes) {
                warp.pc[lane] += 1;
            }
            warp.regroup();
        }
    }
}
