//! Which accesses to memory are ordered, and the shadow memory that finds those that are not.
//!
//! Time counts the events that order something (barriers and warp synchronisations). Accesses carry the time at which
//! they were made; two are ordered when the later thread has since taken part, directly or through others, in an event
//! after the earlier access. The tables hold for each pair of warps, and of lanes in a warp, the time before which all
//! accesses of the one are ordered before what the other does now.

/// Orders of the running block.
pub struct Order {
    pub now: u32,
    /// Time of the last barrier of all threads of the block.
    full: u32,
    /// `warps[me][other]`.
    warps: Vec<[u32; 32]>,
    /// `lanes[warp][me][other]`.
    lanes: Vec<[[u32; 32]; 32]>,
    /// When each warp last came to a barrier of some warps only.
    partial: Vec<u32>,
}

impl Order {
    pub fn new(warps: usize) -> Self {
        Order {
            now: 1,
            full: 0,
            warps: vec![[0; 32]; warps],
            lanes: vec![[[0; 32]; 32]; warps],
            partial: vec![0; warps],
        }
    }

    /// At the start of a block.
    pub fn reset(&mut self) {
        self.now += 1;
        self.full = 0;
        self.warps.fill([0; 32]);
        self.lanes.fill([[0; 32]; 32]);
        self.partial.fill(0);
    }

    pub fn tick(&mut self) -> u32 {
        self.now += 1;
        self.now
    }

    /// A warp comes to a barrier that it does not wait for: the time.
    pub fn arrive(&mut self, warp: usize) -> u32 {
        self.partial[warp] = self.tick();
        self.now
    }

    /// `bar.warp.sync` of the lanes in `mask`.
    pub fn sync_lanes(&mut self, warp: usize, mask: u32) {
        let now = self.tick();
        let table = &mut self.lanes[warp];
        let mut known = [0; 32];
        for lane in bits(mask) {
            for (known, time) in known.iter_mut().zip(&table[lane]) {
                *known = (*known).max(*time);
            }
        }
        for lane in bits(mask) {
            known[lane] = now;
        }
        for lane in bits(mask) {
            table[lane] = known;
        }
    }

    /// A barrier of all threads that live.
    pub fn sync_block(&mut self) {
        self.full = self.tick();
    }

    /// A barrier of some warps: `arrived` with the times of their arrival, of which those in `waited` go on behind it.
    pub fn sync_warps(&mut self, arrived: &[(usize, u32)], waited: u32) {
        let now = self.tick();
        let mut known = [0; 32];
        for (warp, _) in arrived {
            for (known, time) in known.iter_mut().zip(&self.warps[*warp]) {
                *known = (*known).max(*time);
            }
        }
        for (warp, time) in arrived {
            self.partial[*warp] = now;
            // A warp that waits makes no access between its arrival and now.
            known[*warp] = known[*warp].max(if waited >> warp & 1 != 0 { now } else { *time });
        }
        for warp in bits(waited) {
            self.warps[warp] = known;
            for lane in &mut self.lanes[warp] {
                lane.fill(now);
            }
        }
    }

    fn ordered(&self, stamp: u32, warp: u32, lane: u32, me: &Who) -> bool {
        stamp < self.full
            || if warp == me.warp {
                lane == me.lane || stamp < self.lanes[me.warp as usize][me.lane as usize][lane as usize]
            } else {
                stamp < self.warps[me.warp as usize][warp as usize]
            }
    }
}

pub fn bits(mut mask: u32) -> impl Iterator<Item = usize> {
    core::iter::from_fn(move || {
        (mask != 0).then(|| {
            let at = mask.trailing_zeros();
            mask &= mask - 1;
            at as usize
        })
    })
}

/// The thread that makes an access, and where.
#[derive(Clone, Copy)]
pub struct Who {
    pub block: u32,
    pub warp: u32,
    pub lane: u32,
    pub pc: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Read,
    Write,
    Atomic,
}

/// An access that races with the one at hand.
pub struct Conflict {
    pub block: Option<u32>,
    pub thread: u32,
    /// Of a write.
    pub pc: Option<u32>,
    pub kind: Kind,
}

const SEVERAL: u32 = u32::MAX;

/// Times by warp, for the few sets that need them.
#[derive(Default)]
struct Lists {
    times: Vec<[u32; 32]>,
    free: Vec<u32>,
}

impl Lists {
    /// A list's number, from 1.
    fn make(&mut self, times: [u32; 32]) -> u32 {
        match self.free.pop() {
            Some(list) => {
                self.times[list as usize - 1] = times;
                list
            }
            None => {
                self.times.push(times);
                self.times.len() as u32
            }
        }
    }
}

/// Threads that have read, or that have accessed atomically, since the last write: the warps, the union of their lanes,
/// and the time of the latest. Who comes after all of them replaces them, since what is ordered after it is ordered
/// after them.
///
/// That one time stands for all is exact as long as no member has come to a barrier of some warps since its own access;
/// from then on the set has a list of its warps' times.
#[derive(Clone, Copy, Default)]
struct Set {
    block: u32,
    warps: u32,
    lanes: u32,
    stamp: u32,
    list: u32,
}

impl Set {
    /// A member that is not ordered before `me`.
    fn open(&self, me: &Who, order: &Order, lists: &Lists) -> Option<(Option<u32>, u32)> {
        if self.stamp == 0 {
            return None;
        }
        let first = 32 * self.warps.trailing_zeros() + self.lanes.trailing_zeros();
        if self.block != me.block {
            return Some(((self.block != SEVERAL).then_some(self.block), first));
        }
        if self.stamp < order.full {
            return None;
        }
        for warp in bits(self.warps) {
            let stamp = if self.list == 0 { self.stamp } else { lists.times[self.list as usize - 1][warp] };
            let warp = warp as u32;
            if warp != me.warp {
                if !order.ordered(stamp, warp, 0, me) {
                    return Some((Some(me.block), 32 * warp + self.lanes.trailing_zeros()));
                }
                continue;
            }
            for lane in bits(self.lanes) {
                if !order.ordered(stamp, warp, lane as u32, me) {
                    return Some((Some(me.block), 32 * warp + lane as u32));
                }
            }
        }
        None
    }

    fn add(&mut self, me: &Who, order: &Order, lists: &mut Lists) {
        if self.stamp == order.now && self.block == me.block && self.warps >> me.warp & 1 != 0 && self.list == 0 {
            self.lanes |= 1 << me.lane;
        } else if self.stamp != 0 && self.block != me.block {
            self.drop_list(lists);
            self.block = SEVERAL;
        } else if self.open(me, order, lists).is_some() {
            if self.list == 0 && bits(self.warps).any(|w| w as u32 != me.warp && order.partial[w] > self.stamp) {
                self.list = lists.make([self.stamp; 32]);
            }
            if self.list != 0 {
                lists.times[self.list as usize - 1][me.warp as usize] = order.now;
            }
            self.warps |= 1 << me.warp;
            self.lanes |= 1 << me.lane;
            self.stamp = order.now;
        } else {
            self.drop_list(lists);
            *self = Set { block: me.block, warps: 1 << me.warp, lanes: 1 << me.lane, stamp: order.now, list: 0 };
        }
    }

    fn drop_list(&mut self, lists: &mut Lists) {
        if self.list != 0 {
            lists.free.push(self.list);
            self.list = 0;
        }
    }

    /// A copy with a list of its own.
    fn copy(&self, lists: &mut Lists) -> Set {
        let list = if self.list == 0 { 0 } else { lists.make(lists.times[self.list as usize - 1]) };
        Set { list, ..*self }
    }
}

/// What has happened to a word, or to a byte of a word that is `split`.
#[derive(Clone, Copy, Default)]
struct Cell {
    write_block: u32,
    write_stamp: u32,
    writer: u32,
    write_pc: u32,
    reads: Set,
    atomics: Set,
    /// 0, or 1 + the place of the four bytes' cells.
    split: u32,
}

impl Cell {
    fn touch(&mut self, kind: Kind, me: &Who, order: &Order, lists: &mut Lists) -> Result<(), Conflict> {
        if self.write_stamp != 0 {
            let other = self.write_block != me.block;
            if other || !order.ordered(self.write_stamp, self.writer / 32, self.writer % 32, me) {
                let (block, pc) = (Some(self.write_block), Some(self.write_pc));
                return Err(Conflict { block, thread: self.writer, pc, kind: Kind::Write });
            }
        }
        if kind != Kind::Read
            && let Some((block, thread)) = self.reads.open(me, order, lists)
        {
            return Err(Conflict { block, thread, pc: None, kind: Kind::Read });
        }
        if kind != Kind::Atomic
            && let Some((block, thread)) = self.atomics.open(me, order, lists)
        {
            return Err(Conflict { block, thread, pc: None, kind: Kind::Atomic });
        }
        match kind {
            Kind::Read => self.reads.add(me, order, lists),
            Kind::Atomic => self.atomics.add(me, order, lists),
            Kind::Write => {
                self.write_block = me.block;
                self.write_stamp = order.now;
                self.writer = 32 * me.warp + me.lane;
                self.write_pc = me.pc;
                self.reads.drop_list(lists);
                self.atomics.drop_list(lists);
                self.reads = Set::default();
                self.atomics = Set::default();
            }
        }
        Ok(())
    }
}

const PAGE: usize = 256;

/// The cells of one stretch of memory, made as they are touched.
#[derive(Default)]
pub struct Shadow {
    pages: Vec<Option<Box<[Cell; PAGE]>>>,
    split: Vec<[Cell; 4]>,
    lists: Lists,
}

impl Shadow {
    /// Forgets everything, and gives the memory back.
    pub fn clear(&mut self) {
        self.pages.clear();
        self.split = Vec::new();
        self.lists = Lists::default();
    }

    /// Forgets everything, and keeps the memory for the next block.
    pub fn wipe(&mut self) {
        self.split.clear();
        self.lists = Lists::default();
        for page in self.pages.iter_mut().flatten() {
            page.fill(Cell::default());
        }
    }

    /// Records an access to `len` bytes at `at`, or says with what it conflicts.
    pub fn touch(&mut self, at: usize, len: usize, kind: Kind, me: &Who, order: &Order) -> Result<(), Conflict> {
        let end = at + len;
        let mut word = at / 4;
        while 4 * word < end {
            let page = word / PAGE;
            if page >= self.pages.len() {
                self.pages.resize_with(page + 1, || None);
            }
            let cells = self.pages[page].get_or_insert_with(|| Box::new([Cell::default(); PAGE]));
            let cell = &mut cells[word % PAGE];
            let whole = at <= 4 * word && 4 * word + 4 <= end;
            if whole && cell.split == 0 {
                cell.touch(kind, me, order, &mut self.lists)?;
            } else {
                if cell.split == 0 {
                    let lists = &mut self.lists;
                    self.split.push(core::array::from_fn(|_| Cell {
                        reads: cell.reads.copy(lists),
                        atomics: cell.atomics.copy(lists),
                        ..*cell
                    }));
                    cell.split = self.split.len() as u32;
                }
                let bytes = &mut self.split[cell.split as usize - 1];
                for (i, byte) in bytes.iter_mut().enumerate() {
                    if (at..end).contains(&(4 * word + i)) {
                        byte.touch(kind, me, order, &mut self.lists)?;
                    }
                }
            }
            word += 1;
        }
        Ok(())
    }
}
