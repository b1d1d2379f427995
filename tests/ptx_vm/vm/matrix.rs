//! Instructions for which lanes wait: shuffles, votes, reductions, matrices.

use half::{bf16, f16};

use super::MmaError;
use super::exec::Env;
use super::float::to_f16;
use super::isa::{Addr, Collective, Lanes, Mma, MmaTy, ReduxKind, Shfl, ShflMode, Slot, VoteMode};
use super::lanes::Word;
use super::race::bits;
use super::warp::{Step, Warp};

impl Warp {
    /// Executes the instruction for the lanes of `mask`, all of which are at it.
    pub fn collect(&mut self, env: &mut Env, collective: &Collective, mask: u32) -> Step<()> {
        match collective {
            Collective::WarpSync => env.order.sync_lanes(self.index as usize, mask),
            Collective::Shfl(shfl) => self.shuffle(shfl, mask)?,
            Collective::Vote { mode, p, a } => {
                let a = self.pred(*a, mask)? & mask;
                let yes = match mode {
                    VoteMode::All => a == mask,
                    VoteMode::Any => a != 0,
                    VoteMode::Uni => a == mask || a == 0,
                };
                self.set_pred(*p, mask, if yes { u32::MAX } else { 0 });
            }
            Collective::Ballot { d, a } => {
                let a = self.pred(*a, mask)? & mask;
                self.set(*d, mask, &[u64::from(a); 32]);
            }
            Collective::MatchAny { d, a } => {
                let a = *self.get(*a, mask)?;
                let mut out = [0; 32];
                for lane in bits(mask) {
                    out[lane] = bits(mask).filter(|l| a[*l] == a[lane]).fold(0, |m, l| m | 1 << l);
                }
                self.set(*d, mask, &out);
            }
            Collective::MatchAll { d, p, a } => {
                let a = *self.get(*a, mask)?;
                let same = bits(mask).all(|l| a[l] == a[mask.trailing_zeros() as usize]);
                self.set(*d, mask, &[if same { u64::from(mask) } else { 0 }; 32]);
                if let Some(p) = p {
                    self.set_pred(*p, mask, if same { u32::MAX } else { 0 });
                }
            }
            Collective::Redux { kind, d, a } => {
                let a = self.get(*a, mask)?;
                let values = bits(mask).map(|l| a[l] as u32);
                let result = match kind {
                    ReduxKind::AddU => values.fold(0, u32::wrapping_add),
                    ReduxKind::MinU => values.fold(u32::MAX, u32::min),
                    ReduxKind::MaxU => values.fold(0, u32::max),
                    ReduxKind::MinS => values.fold(i32::MAX, |m, v| m.min(v as i32)) as u32,
                    ReduxKind::MaxS => values.fold(i32::MIN, |m, v| m.max(v as i32)) as u32,
                    ReduxKind::And => values.fold(u32::MAX, |m, v| m & v),
                    ReduxKind::Or => values.fold(0, |m, v| m | v),
                    ReduxKind::Xor => values.fold(0, |m, v| m ^ v),
                };
                self.set(*d, mask, &[u64::from(result); 32]);
            }
            Collective::Mma(mma) => self.mma(env, mma)?,
            Collective::LdMatrix { addr, trans, d } => self.ldmatrix(env, addr, *trans, d)?,
            // Barriers are the block's affair.
            Collective::Bar(_) => {}
        }
        Ok(())
    }

    fn shuffle(&mut self, shfl: &Shfl, mask: u32) -> Step<()> {
        let a = *self.get(shfl.a, mask)?;
        let (b, c) = (*self.get(shfl.b, mask)?, *self.get(shfl.c, mask)?);
        let mut out = [0; 32];
        let (mut inside, mut unknown) = (0, 0);
        for lane in bits(mask) {
            let (at, delta) = (lane as i32, (b[lane] & 31) as i32);
            let (clamp, segment) = ((c[lane] & 31) as i32, (c[lane] >> 8 & 31) as i32);
            let last = at & segment | clamp & !segment;
            let (from, fits) = match shfl.mode {
                ShflMode::Up => (at - delta, at - delta >= last),
                ShflMode::Down => (at + delta, at + delta <= last),
                ShflMode::Bfly => (at ^ delta, at ^ delta <= last),
                ShflMode::Idx => {
                    let from = at & segment | delta & !segment;
                    (from, from <= last)
                }
            };
            let from = if fits { (from & 31) as usize } else { lane };
            inside |= u32::from(fits) << lane;
            out[lane] = a[from];
            // What comes from a lane that does not take part is undefined.
            if mask >> from & 1 == 0 {
                unknown |= 1 << lane;
            }
        }
        if let Some(d) = shfl.d {
            self.set(d, mask, &out);
            self.poison(d, unknown);
        }
        if let Some(p) = shfl.p {
            self.set_pred(p, mask, inside);
        }
        Ok(())
    }

    /// Row r of matrix m is at the address of lane 8 m + r; lane l gets elements 2 (l mod 4) and the next of row l / 4.
    fn ldmatrix(&mut self, env: &mut Env, addr: &Addr, trans: bool, d: &[Slot]) -> Step<()> {
        // Lanes beyond the matrices' rows give no address.
        let givers = if d.len() == 4 { u32::MAX } else { (1 << (8 * d.len())) - 1 };
        let bases = *self.get(addr.base, givers)?;
        for (m, d) in d.iter().enumerate() {
            let mut rows = [[0u16; 8]; 8];
            for (r, row) in rows.iter_mut().enumerate() {
                let lane = 8 * m + r;
                let bytes = self.matrix_row(env, self.address(addr, &bases, lane), lane)?;
                for (element, bytes) in row.iter_mut().zip(bytes.chunks_exact(2)) {
                    *element = u16::from_le_bytes([bytes[0], bytes[1]]);
                }
            }
            let out: Lanes = core::array::from_fn(|lane| {
                let (row, column) = (lane / 4, 2 * (lane % 4));
                let at = |c: usize| u64::from(if trans { rows[c][row] } else { rows[row][c] });
                at(column) | at(column + 1) << 16
            });
            self.set(*d, u32::MAX, &out);
        }
        Ok(())
    }

    fn mma(&mut self, env: &mut Env, mma: &Mma) -> Step<()> {
        let all = |slots: &[Slot]| slots.iter().map(|s| self.get(*s, u32::MAX).copied()).collect::<Step<Vec<Lanes>>>();
        let (a, b, c) = (all(&mma.a)?, all(&mma.b)?, all(&mma.c)?);
        let a_at = |row: usize, k: usize| element(mma.a_ty, &a, Side::A, row, k);
        let b_at = |column: usize, k: usize| element(mma.b_ty, &b, Side::B, column, k);
        let integer = matches!(mma.a_ty, MmaTy::S8 | MmaTy::U8);
        let matrix_a: [[f64; 32]; 16] =
            core::array::from_fn(|r| core::array::from_fn(|k| if k < mma.k { a_at(r, k) } else { 0.0 }));
        let matrix_b: [[f64; 32]; 8] =
            core::array::from_fn(|n| core::array::from_fn(|k| if k < mma.k { b_at(n, k) } else { 0.0 }));
        let mut d = vec![[0; 32]; mma.d.len()];
        for lane in 0..32 {
            for i in 0..4 {
                // Element i of the accumulator: rows g and g + 8, columns 2 t and 2 t + 1.
                let (row, column) = (lane / 4 + 8 * (i / 2), 2 * (lane % 4) + i % 2);
                let (mut sum, mut size) = (0.0, 0.0f64);
                for (x, y) in matrix_a[row][..mma.k].iter().zip(&matrix_b[column]) {
                    sum += x * y;
                    size += (x * y).abs();
                }
                if integer {
                    // Sums of 32 products of bytes are exact in f64.
                    let old = i64::from(c[i][lane] as u32 as i32);
                    let new = old + sum as i64;
                    let new = if mma.satfinite { new.clamp(i64::from(i32::MIN), i64::from(i32::MAX)) } else { new };
                    d[i][lane] = u64::from(new as u32);
                } else if mma.half_acc {
                    let old = f16::get(c[i / 2][lane] >> (16 * (i % 2))).to_f64();
                    d[i / 2][lane] |= to_f16(old + sum).put() << (16 * (i % 2));
                } else {
                    let old = f64::from(f32::get(c[i][lane]));
                    let exact = old + sum;
                    d[i][lane] = match env.mma {
                        MmaError::Exact => (exact as f32).put(),
                        MmaError::Worst { seed } => {
                            let bound = mma.k as f64 * 2f64.powi(-22) * (old.abs() + size);
                            let which = hash(
                                seed ^ hash(env.executed ^ (u64::from(env.block) << 40)) ^ (row * 8 + column) as u64,
                            );
                            worst(exact, bound, which & 1 != 0).put()
                        }
                    };
                }
            }
        }
        for (slot, d) in mma.d.iter().zip(&d) {
            self.set(*slot, u32::MAX, d);
        }
        Ok(())
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    A,
    B,
}

/// Element (row, k) of A or (column, k) of B from the fragments. A lane holds, of its row or column l / 4, the elements
/// of one register of four bytes at 4-byte position l mod 4 of each half of 16 bytes; A's registers alternate between
/// rows g and g + 8 before they go on to the next half.
fn element(ty: MmaTy, regs: &[Lanes], side: Side, line: usize, k: usize) -> f64 {
    let bytes = if matches!(ty, MmaTy::S8 | MmaTy::U8) { 1 } else { 2 };
    let offset = k * bytes;
    let (half, within) = (offset / 16, offset % 16);
    let lane = line % 8 * 4 + within / 4;
    let reg = match side {
        Side::A => 2 * half + line / 8,
        Side::B => half,
    };
    let bits = regs[reg][lane] >> (8 * (within % 4));
    match ty {
        MmaTy::F16 => f16::from_bits(bits as u16).to_f64(),
        MmaTy::Bf16 => bf16::from_bits(bits as u16).to_f64(),
        MmaTy::S8 => f64::from(bits as u8 as i8),
        MmaTy::U8 => f64::from(bits as u8),
    }
}

fn hash(x: u64) -> u64 {
    let x = (x ^ (x >> 31)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x ^ (x >> 32)
}

/// The f32 furthest from `exact` on one side that lies within `bound` of it.
pub fn worst(exact: f64, bound: f64, up: bool) -> f32 {
    if !exact.is_finite() || !bound.is_finite() {
        return exact as f32;
    }
    let far = (if up { exact + bound } else { exact - bound }) as f32;
    let far = if (f64::from(far) - exact).abs() <= bound {
        far
    } else if up {
        far.next_down()
    } else {
        far.next_up()
    };
    // A bound below the distance to any f32 leaves the nearest.
    if (f64::from(far) - exact).abs() <= bound { far } else { exact as f32 }
}
