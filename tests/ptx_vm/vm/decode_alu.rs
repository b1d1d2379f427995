//! Instructions that compute: which function of `int` or `float` an opcode stands for.

use super::float;
use super::int;
use super::isa::{Carry, CarryKind, Cvt, Logic, Op, Round, Setp, Space, Ty};
use super::operand::{Ctx, Mods, Operand};

fn round(mods: &mut Mods) -> Option<Round> {
    Some(match mods.one_of(&["rn", "rz", "rm", "rp"])? {
        "rn" => Round::Nearest,
        "rz" => Round::Zero,
        "rm" => Round::Down,
        _ => Round::Up,
    })
}

fn logic(mods: &mut Mods) -> Option<Logic> {
    Some(match mods.one_of(&["and", "or", "xor"])? {
        "and" => Logic::And,
        "or" => Logic::Or,
        _ => Logic::Xor,
    })
}

fn carry(ctx: &mut Ctx, base: &str, mods: &mut Mods) -> Result<(), String> {
    let ty = mods.ty()?;
    let carry_in = matches!(base, "addc" | "subc" | "madc");
    let carry_out = mods.flag("cc");
    let kind = match base {
        "add" | "addc" => CarryKind::Add,
        "sub" | "subc" => CarryKind::Sub,
        _ if mods.flag("lo") => CarryKind::MadLo,
        _ if mods.flag("hi") => {
            if ty.signed() {
                CarryKind::MadHiS
            } else {
                CarryKind::MadHiU
            }
        }
        _ => return Err("mad without .lo or .hi".into()),
    };
    mods.done()?;
    if !matches!(ty, Ty::U32 | Ty::S32 | Ty::U64 | Ty::S64) {
        return Err("type of a carry instruction".into());
    }
    let mad = matches!(base, "mad" | "madc");
    ctx.count(if mad { 4 } else { 3 })?;
    let (d, a, b) = (ctx.dst(0, ty.bits())?, ctx.src(1, ty)?, ctx.src(2, ty)?);
    let c = if mad { ctx.src(3, ty)? } else { a };
    ctx.emit(Op::Carry(Box::new(Carry { kind, bits: ty.bits(), carry_in, carry_out, d, a, b, c })));
    Ok(())
}

/// Two-operand arithmetic on integers or floats.
fn binary(ctx: &mut Ctx, base: &str, mods: &mut Mods) -> Result<(), String> {
    let ty = mods.ty()?;
    ctx.count(3)?;
    if ty.float() {
        let mode = round(mods);
        if base == "div" && mode != Some(Round::Nearest) {
            return Err("unsupported rounding of div".into());
        }
        let sat = mods.flag("sat");
        let name = if mods.flag("NaN") { format!("{base}.NaN") } else { base.to_string() };
        mods.done()?;
        let Some(f) = float::binary(&name, ty, mode.unwrap_or(Round::Nearest)) else {
            return Err(format!("unsupported: {name} of {ty:?}"));
        };
        let (d, a, b) = (ctx.dst(0, ty.bits())?, ctx.src(1, ty)?, ctx.src(2, ty)?);
        ctx.emit(Op::Bin(f, d, a, b));
        return saturate(ctx, sat, ty, d);
    }
    let form = mods.one_of(&["lo", "hi", "wide", "sat"]);
    mods.done()?;
    let name = form.map_or(base.to_string(), |form| format!("{base}.{form}"));
    let bits = if form == Some("wide") { 2 * ty.bits() } else { ty.bits() };
    let d = ctx.dst(0, bits)?;
    let a = ctx.src(1, ty)?;
    let b = ctx.src(2, if matches!(base, "shl" | "shr") { Ty::U32 } else { ty })?;
    if let Some(f) = int::divide(&name, ty) {
        ctx.emit(Op::Div(f, d, a, b));
    } else if let Some(f) = int::binary(&name, ty) {
        ctx.emit(Op::Bin(f, d, a, b));
    } else {
        return Err(format!("unsupported: {name} of {ty:?}"));
    }
    Ok(())
}

fn saturate(ctx: &mut Ctx, sat: bool, ty: Ty, d: u32) -> Result<(), String> {
    if !sat {
        return Ok(());
    }
    match float::unary("sat", ty) {
        Some(f) if ty == Ty::F32 => ctx.emit(Op::Un(f, d, d)),
        _ => return Err("unsupported .sat".into()),
    }
    Ok(())
}

fn unary(ctx: &mut Ctx, base: &str, mods: &mut Mods) -> Result<(), String> {
    let ty = mods.ty()?;
    ctx.count(2)?;
    if ty == Ty::Pred && base == "not" {
        mods.done()?;
        let (d, mut a) = (ctx.pred(0)?, ctx.pred_src(1)?);
        a.not = !a.not;
        ctx.emit(Op::PredMov { d, a });
        return Ok(());
    }
    if matches!(base, "sqrt" | "rcp") && round(mods) != Some(Round::Nearest) {
        return Err(format!("unsupported rounding of {base}"));
    }
    let name = if base == "bfind" && mods.flag("shiftamt") { "bfind.shiftamt" } else { base };
    mods.done()?;
    let f = if ty.float() { float::unary(name, ty) } else { int::unary(name, ty) };
    let Some(f) = f else { return Err(format!("unsupported: {name} of {ty:?}")) };
    let bits = if matches!(base, "popc" | "clz" | "bfind") { 32 } else { ty.bits() };
    let (d, a) = (ctx.dst(0, bits)?, ctx.src(1, ty)?);
    ctx.emit(Op::Un(f, d, a));
    Ok(())
}

fn mad(ctx: &mut Ctx, base: &str, mods: &mut Mods) -> Result<(), String> {
    let ty = mods.ty()?;
    ctx.count(4)?;
    if ty.float() {
        let Some(mode) = round(mods) else { return Err(format!("{base} without rounding")) };
        let sat = mods.flag("sat");
        mods.done()?;
        let Some(f) = float::fma(ty, mode) else { return Err(format!("unsupported: fma of {ty:?}")) };
        let (d, a, b, c) = (ctx.dst(0, ty.bits())?, ctx.src(1, ty)?, ctx.src(2, ty)?, ctx.src(3, ty)?);
        ctx.emit(Op::Tri(f, d, a, b, c));
        return saturate(ctx, sat, ty, d);
    }
    let form = mods.one_of(&["lo", "hi", "wide"]).ok_or("mad without form")?;
    mods.done()?;
    let wide = match (form, ty) {
        ("wide", Ty::U16) => Ty::U32,
        ("wide", Ty::S16) => Ty::S32,
        ("wide", Ty::U32) => Ty::U64,
        ("wide", Ty::S32) => Ty::S64,
        _ => ty,
    };
    let Some(f) = int::ternary(&format!("mad.{form}"), ty) else { return Err(format!("unsupported: mad of {ty:?}")) };
    let (d, a, b, c) = (ctx.dst(0, wide.bits())?, ctx.src(1, ty)?, ctx.src(2, ty)?, ctx.src(3, wide)?);
    ctx.emit(Op::Tri(f, d, a, b, c));
    Ok(())
}

/// Instructions of three sources that follow no pattern.
fn ternary(ctx: &mut Ctx, name: &str, ty: Ty, sources: [Ty; 3]) -> Result<(), String> {
    ctx.count(4)?;
    let Some(f) = int::ternary(name, ty) else { return Err(format!("unsupported: {name} of {ty:?}")) };
    let (d, a, b, c) =
        (ctx.dst(0, ty.bits())?, ctx.src(1, sources[0])?, ctx.src(2, sources[1])?, ctx.src(3, sources[2])?);
    ctx.emit(Op::Tri(f, d, a, b, c));
    Ok(())
}

fn bitwise(ctx: &mut Ctx, base: &str, mods: &mut Mods) -> Result<(), String> {
    if mods.list != ["pred"] {
        return binary(ctx, base, mods);
    }
    ctx.count(3)?;
    let op = match base {
        "and" => Logic::And,
        "or" => Logic::Or,
        _ => Logic::Xor,
    };
    let (d, a, b) = (ctx.pred(0)?, ctx.pred_src(1)?, ctx.pred_src(2)?);
    ctx.emit(Op::PredLogic { op, d, a, b });
    Ok(())
}

fn comparison(ctx: &mut Ctx, mods: &mut Mods, ty: Ty) -> Result<Setp, String> {
    if mods.list.is_empty() {
        return Err("a comparison without operator".into());
    }
    let op = mods.list.remove(0);
    let combine = logic(mods);
    mods.done()?;
    ctx.count(3 + usize::from(combine.is_some()))?;
    let f = if ty.float() { float::compare(op, ty) } else { int::compare(op, ty) };
    let Some(f) = f else { return Err(format!("unsupported: comparison {op} of {ty:?}")) };
    let (a, b) = (ctx.src(1, ty)?, ctx.src(2, ty)?);
    let combine = match combine {
        Some(logic) => Some((logic, ctx.pred_src(3)?)),
        None => None,
    };
    Ok(Setp { f, a, b, combine, p: None, q: None })
}

fn setp(ctx: &mut Ctx, mods: &mut Mods) -> Result<(), String> {
    let ty = mods.ty()?;
    let mut setp = comparison(ctx, mods, ty)?;
    match &ctx.ops[0] {
        Operand::Pair(p, q) => {
            setp.p = if p == "_" { None } else { Some(ctx.pred_named(p)?) };
            setp.q = if q == "_" { None } else { Some(ctx.pred_named(q)?) };
        }
        _ => setp.p = Some(ctx.pred(0)?),
    }
    ctx.emit(Op::Setp(Box::new(setp)));
    Ok(())
}

fn set(ctx: &mut Ctx, mods: &mut Mods) -> Result<(), String> {
    let ty = mods.ty()?;
    let to = mods.ty()?;
    let yes = match to {
        Ty::U32 | Ty::S32 => 0xffff_ffff,
        Ty::F32 => u64::from(1f32.to_bits()),
        _ => return Err(format!("unsupported: set to {to:?}")),
    };
    let cmp = Box::new(comparison(ctx, mods, ty)?);
    let d = ctx.dst(0, 32)?;
    ctx.emit(Op::Set { cmp, d, yes });
    Ok(())
}

fn mov(ctx: &mut Ctx, mods: &mut Mods) -> Result<(), String> {
    let ty = mods.ty()?;
    mods.done()?;
    ctx.count(2)?;
    if ty == Ty::Pred {
        let d = ctx.pred(0)?;
        let op = match ctx.ops[1] {
            Operand::Int(value) => Op::PredConst { d, value: value != 0 },
            _ => Op::PredMov { d, a: ctx.pred_src(1)? },
        };
        ctx.emit(op);
        return Ok(());
    }
    let part = |n: usize| match ty.bits() / n as u32 {
        8 => Ok(Ty::B8),
        16 => Ok(Ty::B16),
        32 => Ok(Ty::B32),
        _ => Err("parts of a vector move".to_string()),
    };
    if let Operand::Vector(parts) = &ctx.ops[1] {
        let n = parts.len();
        let parts = ctx.src_parts(1, part(n)?, false)?;
        if parts.len() as u32 * part(n)?.bits() != ty.bits() {
            return Err("parts of a vector move".into());
        }
        let d = ctx.dst(0, ty.bits())?;
        ctx.emit(Op::Pack { d, parts, bits: part(n)?.bits() });
    } else if let Operand::Vector(parts) = &ctx.ops[0] {
        let ty_part = part(parts.len())?;
        if parts.len() as u32 * ty_part.bits() != ty.bits() {
            return Err("parts of a vector move".into());
        }
        let (parts, _) = ctx.dst_parts(0, ty_part.bits(), false)?;
        let a = ctx.src(1, ty)?;
        ctx.emit(Op::Unpack { parts, a, bits: ty_part.bits() });
    } else {
        let (d, a) = (ctx.dst(0, ty.bits())?, ctx.src(1, ty)?);
        ctx.emit(Op::Mov(d, a));
    }
    Ok(())
}

fn cvta(ctx: &mut Ctx, mods: &mut Mods) -> Result<(), String> {
    let ty = mods.ty()?;
    let to = mods.flag("to");
    let space = state_space(mods)?;
    mods.done()?;
    ctx.count(2)?;
    if ty != Ty::U64 {
        return Err("cvta of other than 64 bits".into());
    }
    let (d, a) = (ctx.dst(0, 64)?, ctx.src(1, ty)?);
    ctx.emit(Op::Cvta { to, space, d, a });
    Ok(())
}

fn state_space(mods: &mut Mods) -> Result<Space, String> {
    Ok(match mods.one_of(&["global", "shared", "shared::cta", "local", "const", "param"]) {
        Some("global") => Space::Global,
        Some("shared" | "shared::cta") => Space::Shared,
        Some("local") => Space::Local,
        Some("const") => Space::Const,
        Some(_) => Space::Param,
        None => return Err("a state space is missing".into()),
    })
}

fn cvt(ctx: &mut Ctx, mods: &mut Mods) -> Result<(), String> {
    let from = mods.ty()?;
    let to = mods.ty()?;
    let sat = mods.flag("sat");
    let whole = mods.one_of(&["rni", "rzi", "rmi", "rpi"]);
    let (round, integral) = match whole {
        Some("rni") => (Some(Round::Nearest), true),
        Some("rzi") => (Some(Round::Zero), true),
        Some("rmi") => (Some(Round::Down), true),
        Some(_) => (Some(Round::Up), true),
        None => (round(mods), false),
    };
    mods.done()?;
    if matches!(to, Ty::F16x2 | Ty::Bf16x2) && from == Ty::F32 {
        ctx.count(3)?;
        let Some(f) = float::pack_pair(to).filter(|_| round == Some(Round::Nearest) && !sat) else {
            return Err("unsupported conversion to a pair".into());
        };
        let (d, a, b) = (ctx.dst(0, 32)?, ctx.src(1, from)?, ctx.src(2, from)?);
        ctx.emit(Op::Bin(f, d, a, b));
        return Ok(());
    }
    ctx.count(2)?;
    // Where a rounding is required, and where it is forbidden.
    let narrows = |a: Ty, b: Ty| a.float() && b.float() && a.bits() > b.bits();
    let fits = match (from.float(), to.float()) {
        (true, false) => integral,
        (false, true) => round.is_some() && !integral,
        (true, true) if narrows(from, to) => round.is_some() && !integral,
        (true, true) => round.is_none() || integral,
        (false, false) => round.is_none(),
    };
    let (d, reg_bits) = ctx.dst_wide(0, to.bits())?;
    let c = Cvt { to, from, round: round.unwrap_or(Round::Nearest), integral, sat, reg_bits };
    if !fits || !float::convertible(&c) {
        return Err(format!("unsupported conversion from {from:?} to {to:?}"));
    }
    let a = ctx.src_wide(1, from)?;
    ctx.emit(Op::Cvt(c, d, a));
    Ok(())
}

fn prmt(ctx: &mut Ctx, mods: &mut Mods) -> Result<(), String> {
    let mode = mods.one_of(&["f4e", "b4e", "rc8", "ecl", "ecr", "rc16"]);
    if !mods.flag("b32") {
        return Err("type of prmt".into());
    }
    mods.done()?;
    let name = mode.map_or("prmt".to_string(), |mode| format!("prmt.{mode}"));
    ternary(ctx, &name, Ty::B32, [Ty::B32; 3])
}

fn shf(ctx: &mut Ctx, mods: &mut Mods) -> Result<(), String> {
    let side = mods.one_of(&["l", "r"]).ok_or("shf without direction")?;
    let mode = mods.one_of(&["wrap", "clamp"]).ok_or("shf without mode")?;
    if !mods.flag("b32") {
        return Err("type of shf".into());
    }
    mods.done()?;
    ternary(ctx, &format!("shf.{side}.{mode}"), Ty::B32, [Ty::B32, Ty::B32, Ty::U32])
}

/// Decodes the instruction if it computes.
pub fn decode(ctx: &mut Ctx, base: &str, mods: &mut Mods) -> Result<bool, String> {
    match base {
        "add" | "sub" | "mad" if mods.list.contains(&"cc") => carry(ctx, base, mods)?,
        "addc" | "subc" | "madc" => carry(ctx, base, mods)?,
        "add" | "sub" | "mul" | "mul24" | "div" | "rem" | "min" | "max" | "shl" | "shr" | "copysign" => {
            binary(ctx, base, mods)?
        }
        "and" | "or" | "xor" => bitwise(ctx, base, mods)?,
        "neg" | "abs" | "not" | "cnot" | "popc" | "clz" | "brev" | "bfind" | "sqrt" | "rcp" => unary(ctx, base, mods)?,
        "mad" | "fma" => mad(ctx, base, mods)?,
        "sad" => {
            let ty = mods.ty()?;
            mods.done()?;
            ternary(ctx, "sad", ty, [ty; 3])?;
        }
        "bfe" => {
            let ty = mods.ty()?;
            mods.done()?;
            ternary(ctx, "bfe", ty, [ty, Ty::U32, Ty::U32])?;
        }
        "bfi" => {
            let ty = mods.ty()?;
            mods.done()?;
            ctx.count(5)?;
            if !matches!(ty, Ty::B32 | Ty::B64) {
                return Err("type of bfi".into());
            }
            let (d, a, b) = (ctx.dst(0, ty.bits())?, ctx.src(1, ty)?, ctx.src(2, ty)?);
            let (at, len) = (ctx.src(3, Ty::U32)?, ctx.src(4, Ty::U32)?);
            ctx.emit(Op::Bfi { bits: ty.bits(), d, a, b, at, len });
        }
        "lop3" => {
            if !mods.flag("b32") {
                return Err("type of lop3".into());
            }
            mods.done()?;
            ctx.count(5)?;
            let (d, a, b, c) = (ctx.dst(0, 32)?, ctx.src(1, Ty::B32)?, ctx.src(2, Ty::B32)?, ctx.src(3, Ty::B32)?);
            let lut = u8::try_from(ctx.int(4)?).map_err(|_| "table of lop3")?;
            ctx.emit(Op::Lop3 { lut, d, a, b, c });
        }
        "dp4a" => {
            let (b, a) = (mods.ty()?, mods.ty()?);
            mods.done()?;
            let name = |ty| if ty == Ty::S32 { "s32" } else { "u32" };
            if !matches!((a, b), (Ty::U32 | Ty::S32, Ty::U32 | Ty::S32)) {
                return Err("types of dp4a".into());
            }
            ternary(ctx, &format!("dp4a.{}.{}", name(a), name(b)), Ty::U32, [a, b, Ty::U32])?;
        }
        "prmt" => prmt(ctx, mods)?,
        "shf" => shf(ctx, mods)?,
        "slct" => {
            let (by, ty) = (mods.ty()?, mods.ty()?);
            mods.done()?;
            let bits = match ty.bits() {
                16 => Ty::B16,
                32 => Ty::B32,
                _ => Ty::B64,
            };
            match by {
                Ty::S32 => ternary(ctx, "slct.s32", bits, [ty, ty, by])?,
                Ty::F32 => ternary(ctx, "slct.f32", bits, [ty, ty, by])?,
                _ => return Err("types of slct".into()),
            }
        }
        "setp" => setp(ctx, mods)?,
        "set" => set(ctx, mods)?,
        "selp" => {
            let ty = mods.ty()?;
            mods.done()?;
            ctx.count(4)?;
            let (d, a, b, p) = (ctx.dst(0, ty.bits())?, ctx.src(1, ty)?, ctx.src(2, ty)?, ctx.pred_src(3)?);
            ctx.emit(Op::Selp { d, a, b, p });
        }
        "testp" => {
            let ty = mods.ty()?;
            let op = if mods.list.is_empty() { "" } else { mods.list.remove(0) };
            mods.done()?;
            ctx.count(2)?;
            let Some(f) = float::test(op, ty) else { return Err("unsupported testp".into()) };
            let (d, a) = (ctx.pred(0)?, ctx.src(1, ty)?);
            ctx.emit(Op::TestP { f, d, a });
        }
        "mov" => mov(ctx, mods)?,
        "cvta" => cvta(ctx, mods)?,
        "isspacep" => {
            let space = state_space(mods)?;
            mods.done()?;
            ctx.count(2)?;
            let (d, a) = (ctx.pred(0)?, ctx.src(1, Ty::U64)?);
            ctx.emit(Op::IsSpace { space, d, a });
        }
        "cvt" => cvt(ctx, mods)?,
        _ => return Ok(false),
    }
    Ok(true)
}
