//! Instructions: control, memory and what works on whole warps. Arithmetic is in `decode_alu`.

use super::builder::Builder;
use super::decode_alu;
use super::isa::{Access, Atom, AtomKind, Bar, BarKind, Collective, Mma, MmaTy, Op, PredSrc};
use super::isa::{ReduxKind, Shfl, ShflMode, Space, Ty, VoteMode};
use super::lex::{Tok, Token};
use super::operand::{Ctx, Mods, Operand, operands};

/// Decodes one statement, which ends before its semicolon, into the kernel.
pub fn statement(b: &mut Builder, mut toks: &[Token], line: u32) -> Result<(), String> {
    let mut guard = None;
    if toks.first().map(|t| &t.tok) == Some(&Tok::Punct('@')) {
        let not = toks.get(1).map(|t| &t.tok) == Some(&Tok::Punct('!'));
        let at = 1 + usize::from(not);
        guard = match toks.get(at).map(|t| &t.tok) {
            Some(Tok::Word(name)) => Some((name.clone(), not)),
            _ => return Err("a guard without predicate".into()),
        };
        toks = &toks[at + 1..];
    }
    let opcode = match toks.first().map(|t| &t.tok) {
        Some(Tok::Word(word)) => word.clone(),
        other => return Err(format!("expected an instruction, found {other:?}")),
    };
    let mut parts = opcode.split('.');
    let base = parts.next().unwrap_or("");
    let mut mods = Mods { list: parts.collect() };
    let mut ctx = Ctx { ops: operands(&toks[1..])?, b, guard: None, line };
    if let Some((name, not)) = guard {
        ctx.guard = Some(PredSrc { pred: ctx.pred_named(&name)?, not });
    }
    let known = decode(&mut ctx, base, &mut mods)? || decode_alu::decode(&mut ctx, base, &mut mods)?;
    if known { Ok(()) } else { Err(format!("unsupported instruction {opcode}")) }
}

const SCOPES: [&str; 4] = ["cta", "cluster", "gpu", "sys"];

fn space(mods: &mut Mods) -> Space {
    match mods.one_of(&["global", "shared", "local", "param", "const"]) {
        Some("global") => Space::Global,
        Some("shared") => Space::Shared,
        Some("local") => Space::Local,
        Some("param") => Space::Param,
        Some("const") => Space::Const,
        _ if mods.flag("shared::cta") => Space::Shared,
        _ => Space::Generic,
    }
}

/// Orders, scopes and cache hints, none of which change what a race-free program reads.
fn hints(mods: &mut Mods) {
    mods.one_of(&["volatile", "relaxed", "acquire", "release", "acq_rel", "weak"]);
    mods.one_of(&SCOPES);
    mods.list.retain(|m| {
        !matches!(*m, "nc" | "ca" | "cg" | "cs" | "lu" | "cv" | "wb" | "wt")
            && !matches!(*m, "L1::evict_normal" | "L1::evict_unchanged" | "L1::evict_first" | "L1::evict_last")
            && !matches!(*m, "L1::no_allocate" | "L2::64B" | "L2::128B" | "L2::256B")
    });
}

fn access(ctx: &mut Ctx, mods: &mut Mods, load: bool) -> Result<(), String> {
    ctx.count(2)?;
    let ty = mods.ty()?;
    let space = space(mods);
    hints(mods);
    let lanes = match mods.one_of(&["v2", "v4"]) {
        Some("v2") => 2,
        Some(_) => 4,
        None => 1,
    };
    mods.done()?;
    if ty == Ty::Pred || lanes as u32 * ty.bytes() > 16 {
        return Err("size of an access".into());
    }
    let addr = ctx.addr(usize::from(load), space)?;
    let (regs, reg_bits) = if load {
        ctx.dst_parts(0, ty.bits(), true)?
    } else {
        (ctx.src_parts(1, ty, true)?.into_iter().map(Some).collect(), 64)
    };
    if regs.len() != lanes {
        return Err(format!("{} registers for {lanes} elements", regs.len()));
    }
    if !load && matches!(space, Space::Param | Space::Const) {
        return Err(format!("store to {space:?} memory"));
    }
    let access = Box::new(Access { addr, ty, regs, reg_bits });
    ctx.emit(if load { Op::Ld(access) } else { Op::St(access) });
    Ok(())
}

fn atom(ctx: &mut Ctx, mods: &mut Mods, returns: bool) -> Result<(), String> {
    let ty = mods.ty()?;
    let space = space(mods);
    hints(mods);
    let kind = match mods.one_of(&["add", "min", "max", "and", "or", "xor", "exch", "cas", "inc", "dec"]) {
        Some("add") => AtomKind::Add,
        Some("min") => AtomKind::Min,
        Some("max") => AtomKind::Max,
        Some("and") => AtomKind::And,
        Some("or") => AtomKind::Or,
        Some("xor") => AtomKind::Xor,
        Some("exch") => AtomKind::Exch,
        Some("cas") => AtomKind::Cas,
        Some("inc") => AtomKind::Inc,
        Some("dec") => AtomKind::Dec,
        _ => return Err("unsupported atomic".into()),
    };
    mods.done()?;
    let fits = match kind {
        AtomKind::Add => matches!(ty, Ty::U32 | Ty::S32 | Ty::U64 | Ty::F32 | Ty::F64),
        AtomKind::Min | AtomKind::Max => matches!(ty, Ty::U32 | Ty::S32 | Ty::U64 | Ty::S64),
        AtomKind::Inc | AtomKind::Dec => ty == Ty::U32,
        _ => matches!(ty, Ty::B32 | Ty::B64 | Ty::U32 | Ty::U64 | Ty::S32 | Ty::S64),
    };
    if !fits || !matches!(space, Space::Global | Space::Shared | Space::Generic) {
        return Err("unsupported atomic".into());
    }
    let first = usize::from(returns);
    ctx.count(first + 2 + usize::from(kind == AtomKind::Cas))?;
    let d = match ctx.ops.first() {
        Some(Operand::Sink) => None,
        _ if returns => Some(ctx.dst(0, ty.bits())?),
        _ => None,
    };
    let addr = ctx.addr(first, space)?;
    let b = ctx.src(first + 1, ty)?;
    let c = if kind == AtomKind::Cas { ctx.src(first + 2, ty)? } else { b };
    ctx.emit(Op::Atom(Box::new(Atom { kind, ty, addr, d, b, c })));
    Ok(())
}

fn cp(ctx: &mut Ctx, mods: &mut Mods) -> Result<(), String> {
    if !mods.flag("async") {
        return Err("unsupported cp".into());
    }
    if mods.flag("commit_group") {
        mods.done()?;
        ctx.count(0)?;
        ctx.emit(Op::CpCommit);
    } else if mods.flag("wait_group") {
        mods.done()?;
        ctx.count(1)?;
        let left = ctx.int(0)?.min(1 << 20) as u32;
        ctx.emit(Op::CpWait(left));
    } else if mods.flag("wait_all") {
        mods.done()?;
        ctx.count(0)?;
        ctx.emit(Op::CpWaitAll);
    } else {
        let whole = mods.flag("cg");
        if !whole && !mods.flag("ca") {
            return Err("unsupported cp.async".into());
        }
        if !(mods.flag("shared") || mods.flag("shared::cta")) || !mods.flag("global") {
            return Err("unsupported cp.async".into());
        }
        hints(mods);
        mods.done()?;
        let (dst, src, size) = (ctx.addr(0, Space::Shared)?, ctx.addr(1, Space::Global)?, ctx.int(2)?);
        if !(size == 16 || !whole && (size == 4 || size == 8)) {
            return Err(format!("cp.async of {size} bytes"));
        }
        let src_size = match ctx.ops.len() {
            3 => None,
            4 => Some(ctx.src(3, Ty::U32)?),
            _ => return Err("unsupported operands of cp.async".into()),
        };
        ctx.emit(Op::CpAsync { dst, src, size: size as u32, src_size });
    }
    Ok(())
}

fn bar(ctx: &mut Ctx, mods: &mut Mods, short: bool) -> Result<(), String> {
    if mods.flag("warp") {
        if !mods.flag("sync") {
            return Err("unsupported bar.warp".into());
        }
        mods.done()?;
        ctx.count(1)?;
        let mask = ctx.src(0, Ty::B32)?;
        ctx.emit(Op::Sync(Some(mask), Collective::WarpSync));
        return Ok(());
    }
    mods.flag("cta");
    // `bar` is short for `barrier.aligned`.
    let aligned = mods.flag("aligned") || short;
    let (mut d, mut p, mut source) = (None, None, None);
    let (kind, first, last);
    if mods.flag("red") {
        first = 1;
        last = ctx.ops.len().saturating_sub(1);
        source = Some(ctx.pred_src(last)?);
        if mods.flag("popc") {
            kind = BarKind::RedPopc;
            mods.flag("u32");
            d = Some(ctx.dst(0, 32)?);
        } else {
            kind = match mods.one_of(&["and", "or"]) {
                Some("and") => BarKind::RedAnd,
                Some(_) => BarKind::RedOr,
                None => return Err("unsupported bar.red".into()),
            };
            mods.flag("pred");
            p = Some(ctx.pred(0)?);
        }
    } else {
        kind = match mods.one_of(&["sync", "arrive"]) {
            Some("sync") => BarKind::Sync,
            Some(_) => BarKind::Arrive,
            None => return Err("unsupported barrier".into()),
        };
        first = 0;
        last = ctx.ops.len();
    }
    mods.done()?;
    let id = ctx.src(first, Ty::U32)?;
    let count = match last.wrapping_sub(first) {
        1 => None,
        2 => Some(ctx.src(first + 1, Ty::U32)?),
        _ => return Err("operands of a barrier".into()),
    };
    if kind == BarKind::Arrive && count.is_none() {
        return Err("bar.arrive without a count".into());
    }
    ctx.emit(Op::Sync(None, Collective::Bar(Bar { kind, aligned, id, count, source, d, p })));
    Ok(())
}

fn vote(ctx: &mut Ctx, mods: &mut Mods) -> Result<(), String> {
    if !mods.flag("sync") {
        return Err("unsupported vote without .sync".into());
    }
    let collective = if mods.flag("ballot") {
        mods.flag("b32");
        Collective::Ballot { d: ctx.dst(0, 32)?, a: ctx.pred_src(1)? }
    } else {
        mods.flag("pred");
        let mode = match mods.one_of(&["all", "any", "uni"]) {
            Some("all") => VoteMode::All,
            Some("any") => VoteMode::Any,
            Some(_) => VoteMode::Uni,
            None => return Err("unsupported vote".into()),
        };
        Collective::Vote { mode, p: ctx.pred(0)?, a: ctx.pred_src(1)? }
    };
    mods.done()?;
    ctx.count(3)?;
    let mask = ctx.src(2, Ty::B32)?;
    ctx.emit(Op::Sync(Some(mask), collective));
    Ok(())
}

fn shfl(ctx: &mut Ctx, mods: &mut Mods) -> Result<(), String> {
    if !mods.flag("sync") {
        return Err("unsupported shfl without .sync".into());
    }
    let mode = match mods.one_of(&["up", "down", "bfly", "idx"]) {
        Some("up") => ShflMode::Up,
        Some("down") => ShflMode::Down,
        Some("bfly") => ShflMode::Bfly,
        Some(_) => ShflMode::Idx,
        None => return Err("unsupported shfl".into()),
    };
    if !mods.flag("b32") {
        return Err("unsupported type of shfl".into());
    }
    mods.done()?;
    ctx.count(5)?;
    let (d, p) = ctx.dst_pair(0, 32)?;
    let shfl = Shfl { mode, d, p, a: ctx.src(1, Ty::B32)?, b: ctx.src(2, Ty::B32)?, c: ctx.src(3, Ty::B32)? };
    let mask = ctx.src(4, Ty::B32)?;
    ctx.emit(Op::Sync(Some(mask), Collective::Shfl(shfl)));
    Ok(())
}

fn matching(ctx: &mut Ctx, mods: &mut Mods) -> Result<(), String> {
    let ty = mods.ty()?;
    let all = mods.flag("all");
    if !(all || mods.flag("any")) || !mods.flag("sync") || !matches!(ty, Ty::B32 | Ty::B64) {
        return Err("unsupported match".into());
    }
    mods.done()?;
    ctx.count(3)?;
    let a = ctx.src(1, ty)?;
    let mask = ctx.src(2, Ty::B32)?;
    let (d, p) = ctx.dst_pair(0, 32)?;
    let Some(d) = d else { return Err("match without destination".into()) };
    let collective = if all { Collective::MatchAll { d, p, a } } else { Collective::MatchAny { d, a } };
    ctx.emit(Op::Sync(Some(mask), collective));
    Ok(())
}

fn redux(ctx: &mut Ctx, mods: &mut Mods) -> Result<(), String> {
    let ty = mods.ty()?;
    let op = mods.one_of(&["add", "min", "max", "and", "or", "xor"]);
    let kind = match (op, ty) {
        (Some("add"), Ty::U32 | Ty::S32) => ReduxKind::AddU,
        (Some("min"), Ty::U32) => ReduxKind::MinU,
        (Some("max"), Ty::U32) => ReduxKind::MaxU,
        (Some("min"), Ty::S32) => ReduxKind::MinS,
        (Some("max"), Ty::S32) => ReduxKind::MaxS,
        (Some("and"), Ty::B32) => ReduxKind::And,
        (Some("or"), Ty::B32) => ReduxKind::Or,
        (Some("xor"), Ty::B32) => ReduxKind::Xor,
        _ => return Err("unsupported redux".into()),
    };
    if !mods.flag("sync") {
        return Err("redux without .sync".into());
    }
    mods.done()?;
    ctx.count(3)?;
    let (d, a, mask) = (ctx.dst(0, 32)?, ctx.src(1, ty)?, ctx.src(2, Ty::B32)?);
    ctx.emit(Op::Sync(Some(mask), Collective::Redux { kind, d, a }));
    Ok(())
}

fn mma(ctx: &mut Ctx, mods: &mut Mods) -> Result<(), String> {
    let satfinite = mods.flag("satfinite");
    let (k, a_ty, b_ty, half_acc) = match mods.list.as_slice() {
        ["sync", "aligned", shape, "row", "col", d, a, b, c] if d == c => {
            let ty = |name: &str| match name {
                "f16" => Some(MmaTy::F16),
                "bf16" => Some(MmaTy::Bf16),
                "s8" => Some(MmaTy::S8),
                "u8" => Some(MmaTy::U8),
                _ => None,
            };
            let (Some(a), Some(b)) = (ty(a), ty(b)) else { return Err("unsupported types of mma".into()) };
            let int = |t| matches!(t, MmaTy::S8 | MmaTy::U8);
            let half_acc = *d == "f16";
            let fits = match (a, b) {
                (a, b) if int(a) && int(b) => *d == "s32",
                (MmaTy::F16, MmaTy::F16) => *d == "f32" || half_acc,
                (MmaTy::Bf16, MmaTy::Bf16) => *d == "f32",
                _ => false,
            };
            let k = match *shape {
                "m16n8k8" if !int(a) => 8,
                "m16n8k16" => 16,
                "m16n8k32" if int(a) => 32,
                _ => return Err("unsupported shape of mma".into()),
            };
            if !fits || satfinite && !int(a) {
                return Err("unsupported types of mma".into());
            }
            (k, a, b, half_acc)
        }
        _ => return Err("unsupported mma".into()),
    };
    ctx.count(4)?;
    let acc = if half_acc { 2 } else { 4 };
    let acc_ty = if half_acc || matches!(a_ty, MmaTy::S8 | MmaTy::U8) { Ty::B32 } else { Ty::F32 };
    let bytes = if matches!(a_ty, MmaTy::S8 | MmaTy::U8) { 1 } else { 2 };
    let (d, a, b) = (ctx.dst_all(0, 32)?, ctx.src_parts(1, Ty::B32, false)?, ctx.src_parts(2, Ty::B32, false)?);
    let c = ctx.src_parts(3, acc_ty, false)?;
    if d.len() != acc || c.len() != acc || a.len() != k * bytes / 8 || b.len() != k * bytes / 16 {
        return Err("registers of mma".into());
    }
    let mma = Mma { k, a_ty, b_ty, half_acc, satfinite, d, a, b, c };
    ctx.emit(Op::Sync(None, Collective::Mma(Box::new(mma))));
    Ok(())
}

fn ldmatrix(ctx: &mut Ctx, mods: &mut Mods) -> Result<(), String> {
    let trans = mods.flag("trans");
    let count = match mods.one_of(&["x1", "x2", "x4"]) {
        Some("x1") => 1,
        Some("x2") => 2,
        Some(_) => 4,
        None => return Err("unsupported ldmatrix".into()),
    };
    let shared = mods.flag("shared") || mods.flag("shared::cta");
    if !shared || mods.list != ["sync", "aligned", "m8n8", "b16"] {
        return Err("unsupported ldmatrix".into());
    }
    ctx.count(2)?;
    let d = ctx.dst_all(0, 32)?;
    if d.len() != count {
        return Err("registers of ldmatrix".into());
    }
    let addr = ctx.addr(1, Space::Shared)?;
    ctx.emit(Op::Sync(None, Collective::LdMatrix { addr, trans, d }));
    Ok(())
}

fn decode(ctx: &mut Ctx, base: &str, mods: &mut Mods) -> Result<bool, String> {
    match base {
        "bra" => {
            mods.flag("uni");
            mods.done()?;
            ctx.count(1)?;
            let label = ctx.label(0)?;
            let instr = super::isa::Instr { guard: ctx.guard, line: ctx.line, op: Op::Exit };
            ctx.b.branch(instr, &label);
        }
        "ret" | "exit" => {
            mods.flag("uni");
            mods.done()?;
            ctx.count(0)?;
            ctx.emit(Op::Exit);
        }
        "trap" => ctx.emit(Op::Trap),
        "ld" | "ldu" => access(ctx, mods, true)?,
        "st" => access(ctx, mods, false)?,
        "atom" => atom(ctx, mods, true)?,
        "red" => atom(ctx, mods, false)?,
        "membar" | "fence" => {
            mods.one_of(&["sc", "acq_rel"]);
            mods.one_of(&["cta", "cluster", "gpu", "gl", "sys"]);
            mods.done()?;
            ctx.count(0)?;
            ctx.emit(Op::Fence);
        }
        "nanosleep" => {
            mods.flag("u32");
            mods.done()?;
            ctx.emit(Op::Fence);
        }
        "cp" => cp(ctx, mods)?,
        "bar" => bar(ctx, mods, true)?,
        "barrier" => bar(ctx, mods, false)?,
        "vote" => vote(ctx, mods)?,
        "shfl" => shfl(ctx, mods)?,
        "match" => matching(ctx, mods)?,
        "redux" => redux(ctx, mods)?,
        "mma" => mma(ctx, mods)?,
        "ldmatrix" => ldmatrix(ctx, mods)?,
        "activemask" => {
            mods.flag("b32");
            mods.done()?;
            let d = ctx.dst(0, 32)?;
            ctx.emit(Op::ActiveMask(d));
        }
        _ => return Ok(false),
    }
    Ok(true)
}
