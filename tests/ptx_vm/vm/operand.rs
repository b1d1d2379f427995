//! Operands: from tokens to slots.

use super::builder::{Builder, Reg};
use super::isa::{Addr, Constant, Instr, Op, Pred, PredSrc, Slot, Space, Special, Ty, low};
use super::lex::{Tok, Token};

#[derive(Clone, Debug)]
pub enum Operand {
    /// Register, symbol, label or special register, with an addend for symbols.
    Name(String, i64),
    Int(u64),
    F32(u32),
    F64(u64),
    Not(String),
    Vector(Vec<Operand>),
    /// `[name + offset]`; the name is empty for `[offset]`.
    Memory(String, i64),
    /// `p|q`.
    Pair(String, String),
    Sink,
}

/// The parts of an opcode behind its first dot, each to be accounted for.
pub struct Mods<'a> {
    pub list: Vec<&'a str>,
}

impl<'a> Mods<'a> {
    pub fn flag(&mut self, name: &str) -> bool {
        match self.list.iter().position(|m| *m == name) {
            Some(at) => {
                self.list.remove(at);
                true
            }
            None => false,
        }
    }

    pub fn one_of(&mut self, names: &[&'a str]) -> Option<&'a str> {
        names.iter().find(|name| self.flag(name)).copied()
    }

    /// The last part, as a type.
    pub fn ty(&mut self) -> Result<Ty, String> {
        let last = self.list.pop().ok_or("an instruction without type")?;
        Ty::parse(last).ok_or_else(|| format!(".{last} where a type belongs"))
    }

    pub fn done(&self) -> Result<(), String> {
        match self.list.first() {
            Some(left) => Err(format!("unsupported: .{left}")),
            None => Ok(()),
        }
    }
}

/// Cuts an instruction's tokens into operands.
pub fn operands(toks: &[Token]) -> Result<Vec<Operand>, String> {
    let mut at = 0;
    let mut out = Vec::new();
    while at < toks.len() {
        out.push(operand(toks, &mut at)?);
        match toks.get(at).map(|t| &t.tok) {
            None => break,
            Some(Tok::Punct(',')) => at += 1,
            Some(other) => return Err(format!("unsupported operand near {other:?}")),
        }
        if at == toks.len() {
            return Err("an operand is missing".into());
        }
    }
    Ok(out)
}

fn addend(toks: &[Token], at: &mut usize) -> Result<i64, String> {
    let mut sum = 0i64;
    loop {
        let mut negative = match toks.get(*at).map(|t| &t.tok) {
            Some(Tok::Punct('+')) => false,
            Some(Tok::Punct('-')) => true,
            _ => return Ok(sum),
        };
        *at += 1;
        if toks.get(*at).map(|t| &t.tok) == Some(&Tok::Punct('-')) {
            negative = !negative;
            *at += 1;
        }
        let Some(Tok::Int(value)) = toks.get(*at).map(|t| &t.tok) else { return Err("an offset is missing".into()) };
        *at += 1;
        let value = *value as i64;
        sum = if negative { sum.wrapping_sub(value) } else { sum.wrapping_add(value) };
    }
}

fn operand(toks: &[Token], at: &mut usize) -> Result<Operand, String> {
    let tok = toks.get(*at).map(|t| &t.tok).ok_or("an operand is missing")?;
    *at += 1;
    let name_at = |at: usize| match toks.get(at).map(|t| &t.tok) {
        Some(Tok::Word(name)) => Ok(name.clone()),
        other => Err(format!("expected a name, found {other:?}")),
    };
    match tok {
        Tok::Word(name) if name == "_" => Ok(Operand::Sink),
        Tok::Word(name) => {
            if toks.get(*at).map(|t| &t.tok) == Some(&Tok::Punct('|')) {
                *at += 2;
                return Ok(Operand::Pair(name.clone(), name_at(*at - 1)?));
            }
            Ok(Operand::Name(name.clone(), addend(toks, at)?))
        }
        Tok::Int(value) => Ok(Operand::Int(*value)),
        Tok::F32(bits) => Ok(Operand::F32(*bits)),
        Tok::F64(bits) => Ok(Operand::F64(*bits)),
        Tok::Punct('-') => {
            let tok = toks.get(*at).map(|t| &t.tok);
            *at += 1;
            match tok {
                Some(Tok::Int(value)) => Ok(Operand::Int(value.wrapping_neg())),
                Some(Tok::F64(bits)) => Ok(Operand::F64(bits ^ (1 << 63))),
                other => Err(format!("minus before {other:?}")),
            }
        }
        Tok::Punct('!') => {
            *at += 1;
            Ok(Operand::Not(name_at(*at - 1)?))
        }
        Tok::Punct('{') => {
            let mut parts = Vec::new();
            loop {
                parts.push(operand(toks, at)?);
                *at += 1;
                match toks.get(*at - 1).map(|t| &t.tok) {
                    Some(Tok::Punct(',')) => {}
                    Some(Tok::Punct('}')) => return Ok(Operand::Vector(parts)),
                    other => return Err(format!("unsupported vector near {other:?}")),
                }
            }
        }
        Tok::Punct('[') => {
            let (name, offset) = match operand(toks, at)? {
                Operand::Name(name, offset) => (name, offset),
                Operand::Int(offset) => (String::new(), offset as i64),
                other => return Err(format!("address {other:?}")),
            };
            *at += 1;
            match toks.get(*at - 1).map(|t| &t.tok) {
                Some(Tok::Punct(']')) => Ok(Operand::Memory(name, offset)),
                other => Err(format!("unsupported address near {other:?}")),
            }
        }
        other => Err(format!("unsupported operand {other:?}")),
    }
}

fn special(name: &str) -> Option<(Special, u32)> {
    let name = name.strip_prefix('%')?;
    if let Some((base, axis)) = name.rsplit_once('.') {
        let axis = "xyz".find(axis).filter(|_| axis.len() == 1)? as u8;
        return Some(match base {
            "tid" => (Special::Tid(axis), 32),
            "ntid" => (Special::Ntid(axis), 32),
            "ctaid" => (Special::Ctaid(axis), 32),
            "nctaid" => (Special::Nctaid(axis), 32),
            _ => return None,
        });
    }
    Some(match name {
        "laneid" => (Special::LaneId, 32),
        "warpid" => (Special::WarpId, 32),
        "nwarpid" => (Special::NWarpId, 32),
        "lanemask_eq" => (Special::MaskEq, 32),
        "lanemask_lt" => (Special::MaskLt, 32),
        "lanemask_le" => (Special::MaskLe, 32),
        "lanemask_gt" => (Special::MaskGt, 32),
        "lanemask_ge" => (Special::MaskGe, 32),
        "dynamic_smem_size" => (Special::DynamicShared, 32),
        "clock" | "clock_hi" => (Special::Clock, 32),
        "clock64" | "globaltimer" => (Special::Clock, 64),
        _ => return None,
    })
}

/// What the decoders of instructions work with.
pub struct Ctx<'a> {
    pub b: &'a mut Builder,
    pub ops: Vec<Operand>,
    pub guard: Option<PredSrc>,
    pub line: u32,
}

impl Ctx<'_> {
    pub fn emit(&mut self, op: Op) {
        self.b.emit(Instr { guard: self.guard, line: self.line, op });
    }

    pub fn count(&self, n: usize) -> Result<(), String> {
        if self.ops.len() == n { Ok(()) } else { Err(format!("{} operands instead of {n}", self.ops.len())) }
    }

    fn op(&self, i: usize) -> Result<Operand, String> {
        self.ops.get(i).cloned().ok_or_else(|| "an operand is missing".into())
    }

    pub fn bits(&mut self, bits: u64) -> Slot {
        self.b.constant(Constant::Bits(bits))
    }

    fn value(&mut self, operand: &Operand, ty: Ty, widen: bool) -> Result<Slot, String> {
        let fits = |bits: u32| bits == ty.bits() || widen && bits > ty.bits();
        match operand {
            Operand::Name(name, add) => {
                match self.b.reg(name) {
                    Some(Reg::Data { slot, bits }) if fits(bits) && *add == 0 => return Ok(slot),
                    Some(Reg::Data { bits, .. }) => {
                        return Err(format!("register {name} of {bits} bits where {} belong", ty.bits()));
                    }
                    Some(Reg::Pred(_)) => return Err(format!("predicate {name} where a value belongs")),
                    None => {}
                }
                if name == "WARP_SZ" {
                    return Ok(self.bits(32));
                }
                if let Some((special, bits)) = special(name) {
                    if !fits(bits) {
                        return Err(format!("{name} has {bits} bits"));
                    }
                    return Ok(self.b.constant(Constant::Special(special)));
                }
                match self.b.symbol(name, *add) {
                    Some((_, constant)) if ty.bits() >= 32 => Ok(self.b.constant(constant)),
                    _ => Err(format!("unknown name {name}")),
                }
            }
            // An integer stands for bits even in a floating-point instruction only where it is typeless.
            Operand::Int(_) if ty.float() => Err("an integer where a float belongs".into()),
            Operand::Int(value) => Ok(self.bits(low(*value, ty.bits()))),
            Operand::F32(bits) if ty.bits() == 32 => Ok(self.bits(u64::from(*bits))),
            Operand::F64(bits) if ty == Ty::F32 => Ok(self.bits(u64::from((f64::from_bits(*bits) as f32).to_bits()))),
            Operand::F64(bits) if ty.bits() == 64 => Ok(self.bits(*bits)),
            other => Err(format!("unsupported operand {other:?}")),
        }
    }

    pub fn src(&mut self, i: usize, ty: Ty) -> Result<Slot, String> {
        let operand = self.op(i)?;
        self.value(&operand, ty, false)
    }

    /// A source in a register that may be wider than the type, as `cvt` and `st` allow.
    pub fn src_wide(&mut self, i: usize, ty: Ty) -> Result<Slot, String> {
        let operand = self.op(i)?;
        self.value(&operand, ty, true)
    }

    /// The slot and width of a destination register of at least `bits`.
    fn data(&self, operand: &Operand, bits: u32, widen: bool) -> Result<(Slot, u32), String> {
        match operand {
            Operand::Name(name, 0) => match self.b.reg(name) {
                Some(Reg::Data { slot, bits: has }) if has == bits || widen && has > bits => Ok((slot, has)),
                Some(Reg::Data { bits: has, .. }) => Err(format!("register {name} of {has} bits where {bits} belong")),
                _ => Err(format!("{name} is no data register")),
            },
            other => Err(format!("destination {other:?}")),
        }
    }

    pub fn dst(&self, i: usize, bits: u32) -> Result<Slot, String> {
        Ok(self.data(&self.op(i)?, bits, false)?.0)
    }

    pub fn dst_wide(&self, i: usize, bits: u32) -> Result<(Slot, u32), String> {
        self.data(&self.op(i)?, bits, true)
    }

    pub fn pred_named(&self, name: &str) -> Result<Pred, String> {
        match self.b.reg(name) {
            Some(Reg::Pred(pred)) => Ok(pred),
            _ => Err(format!("{name} is no predicate")),
        }
    }

    pub fn is_pred(&self, i: usize) -> bool {
        match self.ops.get(i) {
            Some(Operand::Name(name, _) | Operand::Not(name)) => matches!(self.b.reg(name), Some(Reg::Pred(_))),
            _ => false,
        }
    }

    pub fn pred(&self, i: usize) -> Result<Pred, String> {
        match self.op(i)? {
            Operand::Name(name, 0) => self.pred_named(&name),
            other => Err(format!("{other:?} where a predicate belongs")),
        }
    }

    pub fn pred_src(&self, i: usize) -> Result<PredSrc, String> {
        match self.op(i)? {
            Operand::Name(name, 0) => Ok(PredSrc { pred: self.pred_named(&name)?, not: false }),
            Operand::Not(name) => Ok(PredSrc { pred: self.pred_named(&name)?, not: true }),
            other => Err(format!("{other:?} where a predicate belongs")),
        }
    }

    /// A destination `d|p`, or `d` alone; `_` for either.
    pub fn dst_pair(&self, i: usize, bits: u32) -> Result<(Option<Slot>, Option<Pred>), String> {
        let data = |name: &str| match name {
            "_" => Ok(None),
            _ => Ok::<_, String>(Some(self.data(&Operand::Name(name.into(), 0), bits, false)?.0)),
        };
        match self.op(i)? {
            Operand::Sink => Ok((None, None)),
            Operand::Name(name, 0) => Ok((data(&name)?, None)),
            Operand::Pair(name, pred) => {
                Ok((data(&name)?, if pred == "_" { None } else { Some(self.pred_named(&pred)?) }))
            }
            other => Err(format!("destination {other:?}")),
        }
    }

    /// The elements of a vector operand, or the single one.
    pub fn parts(&self, i: usize) -> Result<Vec<Operand>, String> {
        Ok(match self.op(i)? {
            Operand::Vector(parts) => parts,
            single => vec![single],
        })
    }

    pub fn src_parts(&mut self, i: usize, ty: Ty, widen: bool) -> Result<Vec<Slot>, String> {
        let parts = self.parts(i)?;
        parts.iter().map(|part| self.value(part, ty, widen)).collect()
    }

    /// Destinations with their common width; `_` leaves an element out.
    pub fn dst_parts(&self, i: usize, bits: u32, widen: bool) -> Result<(Vec<Option<Slot>>, u32), String> {
        let mut width = bits;
        let mut out = Vec::new();
        for part in self.parts(i)? {
            if matches!(part, Operand::Sink) {
                out.push(None);
                continue;
            }
            let (slot, has) = self.data(&part, bits, widen)?;
            width = has;
            out.push(Some(slot));
        }
        Ok((out, width))
    }

    pub fn dst_all(&self, i: usize, bits: u32) -> Result<Vec<Slot>, String> {
        self.dst_parts(i, bits, false)?.0.into_iter().map(|s| s.ok_or_else(|| "_ as destination".into())).collect()
    }

    pub fn addr(&mut self, i: usize, space: Space) -> Result<Addr, String> {
        let Operand::Memory(name, offset) = self.op(i)? else { return Err("an address belongs here".into()) };
        if name.is_empty() {
            return Ok(Addr { space, base: self.bits(0), offset, wide: true });
        }
        if let Some(reg) = self.b.reg(&name) {
            return match reg {
                Reg::Data { slot, bits: bits @ (32 | 64) } => Ok(Addr { space, base: slot, offset, wide: bits == 64 }),
                _ => Err(format!("{name} as address")),
            };
        }
        let Some((of, constant)) = self.b.symbol(&name, 0) else { return Err(format!("unknown name {name}")) };
        // A symbol names an address in its own space.
        let fits = of == space || matches!((of, space), (Space::Global | Space::Const, Space::Generic));
        if !fits {
            return Err(format!("{name} lies in {of:?} memory, not {space:?}"));
        }
        Ok(Addr { space, base: self.b.constant(constant), offset, wide: true })
    }

    pub fn label(&self, i: usize) -> Result<String, String> {
        match self.op(i)? {
            Operand::Name(name, 0) => Ok(name),
            other => Err(format!("{other:?} where a label belongs")),
        }
    }

    pub fn int(&self, i: usize) -> Result<u64, String> {
        match self.op(i)? {
            Operand::Int(value) => Ok(value),
            other => Err(format!("{other:?} where an integer belongs")),
        }
    }
}
