//! The decoded form of a kernel: registers as slots, constants as slots that are filled before the warp starts,
//! arithmetic as pointers to functions over all 32 lanes.

/// One 64-bit cell per lane; narrower values are zero-extended.
pub type Lanes = [u64; 32];
/// A register, constant or special register in the warp's file.
pub type Slot = u32;
/// A predicate register: one bit per lane.
pub type Pred = u32;
/// Arithmetic over all lanes, whose results the executor keeps for the active ones.
pub type Un = fn(&Lanes) -> Lanes;
pub type Bin = fn(&Lanes, &Lanes) -> Lanes;
pub type Tri = fn(&Lanes, &Lanes, &Lanes) -> Lanes;
pub type Cmp = fn(&Lanes, &Lanes) -> u32;

/// A type of the PTX ISA.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ty {
    Pred,
    B8,
    B16,
    B32,
    B64,
    U8,
    U16,
    U32,
    U64,
    S8,
    S16,
    S32,
    S64,
    F16,
    F16x2,
    Bf16,
    Bf16x2,
    F32,
    F64,
}

impl Ty {
    pub fn parse(name: &str) -> Option<Ty> {
        Some(match name {
            "pred" => Ty::Pred,
            "b8" => Ty::B8,
            "b16" => Ty::B16,
            "b32" => Ty::B32,
            "b64" => Ty::B64,
            "u8" => Ty::U8,
            "u16" => Ty::U16,
            "u32" => Ty::U32,
            "u64" => Ty::U64,
            "s8" => Ty::S8,
            "s16" => Ty::S16,
            "s32" => Ty::S32,
            "s64" => Ty::S64,
            "f16" => Ty::F16,
            "f16x2" => Ty::F16x2,
            "bf16" => Ty::Bf16,
            "bf16x2" => Ty::Bf16x2,
            "f32" => Ty::F32,
            "f64" => Ty::F64,
            _ => return None,
        })
    }

    pub fn bits(self) -> u32 {
        match self {
            Ty::Pred => 1,
            Ty::B8 | Ty::U8 | Ty::S8 => 8,
            Ty::B16 | Ty::U16 | Ty::S16 | Ty::F16 | Ty::Bf16 => 16,
            Ty::B32 | Ty::U32 | Ty::S32 | Ty::F32 | Ty::F16x2 | Ty::Bf16x2 => 32,
            Ty::B64 | Ty::U64 | Ty::S64 | Ty::F64 => 64,
        }
    }

    pub fn bytes(self) -> u32 {
        self.bits().div_ceil(8)
    }

    pub fn signed(self) -> bool {
        matches!(self, Ty::S8 | Ty::S16 | Ty::S32 | Ty::S64)
    }

    pub fn float(self) -> bool {
        matches!(self, Ty::F16 | Ty::F16x2 | Ty::Bf16 | Ty::Bf16x2 | Ty::F32 | Ty::F64)
    }
}

/// Keeps the low `bits` of `x`.
pub fn low(x: u64, bits: u32) -> u64 {
    if bits >= 64 { x } else { x & ((1 << bits) - 1) }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Space {
    Generic,
    Global,
    Shared,
    Local,
    Param,
    Const,
}

/// `[base + offset]`; a 32-bit base wraps at 32 bits.
#[derive(Clone, Copy, Debug)]
pub struct Addr {
    pub space: Space,
    pub base: Slot,
    pub offset: i64,
    pub wide: bool,
}

/// A predicate with an optional `!`.
#[derive(Clone, Copy, Debug)]
pub struct PredSrc {
    pub pred: Pred,
    pub not: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Logic {
    And,
    Or,
    Xor,
}

impl Logic {
    pub fn apply(self, a: u32, b: u32) -> u32 {
        match self {
            Logic::And => a & b,
            Logic::Or => a | b,
            Logic::Xor => a ^ b,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Round {
    Nearest,
    Zero,
    Down,
    Up,
}

/// `cvt`: `integral` says that the rounding is to an integer (.rni and its kin).
#[derive(Clone, Copy, Debug)]
pub struct Cvt {
    pub to: Ty,
    pub from: Ty,
    pub round: Round,
    pub integral: bool,
    pub sat: bool,
    /// Of the destination register, which may be wider than `to`.
    pub reg_bits: u32,
}

/// `add.cc` and its kin; 32 or 64 bits.
#[derive(Clone, Copy, Debug)]
pub struct Carry {
    pub kind: CarryKind,
    pub bits: u32,
    pub carry_in: bool,
    pub carry_out: bool,
    pub d: Slot,
    pub a: Slot,
    pub b: Slot,
    pub c: Slot,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CarryKind {
    Add,
    Sub,
    MadLo,
    MadHiU,
    MadHiS,
}

#[derive(Clone, Debug)]
pub struct Setp {
    pub f: Cmp,
    pub a: Slot,
    pub b: Slot,
    pub combine: Option<(Logic, PredSrc)>,
    pub p: Option<Pred>,
    pub q: Option<Pred>,
}

/// Loads and stores; `regs` has one entry per vector element.
#[derive(Clone, Debug)]
pub struct Access {
    pub addr: Addr,
    pub ty: Ty,
    pub regs: Vec<Option<Slot>>,
    /// Width of the destination registers.
    pub reg_bits: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AtomKind {
    Add,
    Min,
    Max,
    And,
    Or,
    Xor,
    Exch,
    Cas,
    Inc,
    Dec,
}

#[derive(Clone, Debug)]
pub struct Atom {
    pub kind: AtomKind,
    pub ty: Ty,
    pub addr: Addr,
    pub d: Option<Slot>,
    pub b: Slot,
    pub c: Slot,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ShflMode {
    Up,
    Down,
    Bfly,
    Idx,
}

#[derive(Clone, Copy, Debug)]
pub struct Shfl {
    pub mode: ShflMode,
    pub d: Option<Slot>,
    pub p: Option<Pred>,
    pub a: Slot,
    pub b: Slot,
    pub c: Slot,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VoteMode {
    All,
    Any,
    Uni,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReduxKind {
    AddU,
    MinU,
    MaxU,
    MinS,
    MaxS,
    And,
    Or,
    Xor,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MmaTy {
    F16,
    Bf16,
    S8,
    U8,
}

#[derive(Clone, Debug)]
pub struct Mma {
    pub k: usize,
    pub a_ty: MmaTy,
    pub b_ty: MmaTy,
    /// Accumulators as pairs of f16 rather than 32-bit values.
    pub half_acc: bool,
    /// Integer sums stop at the ends of i32 instead of wrapping.
    pub satfinite: bool,
    pub d: Vec<Slot>,
    pub a: Vec<Slot>,
    pub b: Vec<Slot>,
    pub c: Vec<Slot>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BarKind {
    Sync,
    Arrive,
    RedPopc,
    RedAnd,
    RedOr,
}

#[derive(Clone, Copy, Debug)]
pub struct Bar {
    pub kind: BarKind,
    pub aligned: bool,
    pub id: Slot,
    pub count: Option<Slot>,
    pub source: Option<PredSrc>,
    pub d: Option<Slot>,
    pub p: Option<Pred>,
}

/// What needs the lanes of a mask, or the whole warp, at one instruction.
#[derive(Clone, Debug)]
pub enum Collective {
    WarpSync,
    Shfl(Shfl),
    Vote { mode: VoteMode, p: Pred, a: PredSrc },
    Ballot { d: Slot, a: PredSrc },
    MatchAny { d: Slot, a: Slot },
    MatchAll { d: Slot, p: Option<Pred>, a: Slot },
    Redux { kind: ReduxKind, d: Slot, a: Slot },
    Mma(Box<Mma>),
    LdMatrix { addr: Addr, trans: bool, d: Vec<Slot> },
    Bar(Bar),
}

#[derive(Clone, Debug)]
pub enum Op {
    Un(Un, Slot, Slot),
    Bin(Bin, Slot, Slot, Slot),
    Tri(Tri, Slot, Slot, Slot, Slot),
    /// Division, whose result by zero is unspecified: a fault.
    Div(Bin, Slot, Slot, Slot),
    /// A move lets an unwritten register pass: compilers copy undefined values at joins.
    Mov(Slot, Slot),
    Bfi {
        bits: u32,
        d: Slot,
        a: Slot,
        b: Slot,
        at: Slot,
        len: Slot,
    },
    Lop3 {
        lut: u8,
        d: Slot,
        a: Slot,
        b: Slot,
        c: Slot,
    },
    Cvt(Cvt, Slot, Slot),
    Carry(Box<Carry>),
    Setp(Box<Setp>),
    /// `set`: all ones or 1.0 where the comparison holds.
    Set {
        cmp: Box<Setp>,
        d: Slot,
        yes: u64,
    },
    Selp {
        d: Slot,
        a: Slot,
        b: Slot,
        p: PredSrc,
    },
    PredLogic {
        op: Logic,
        d: Pred,
        a: PredSrc,
        b: PredSrc,
    },
    PredMov {
        d: Pred,
        a: PredSrc,
    },
    PredConst {
        d: Pred,
        value: bool,
    },
    TestP {
        f: fn(&Lanes) -> u32,
        d: Pred,
        a: Slot,
    },
    Pack {
        d: Slot,
        parts: Vec<Slot>,
        bits: u32,
    },
    Unpack {
        parts: Vec<Option<Slot>>,
        a: Slot,
        bits: u32,
    },
    /// Generic address to or from a window.
    Cvta {
        to: bool,
        space: Space,
        d: Slot,
        a: Slot,
    },
    IsSpace {
        space: Space,
        d: Pred,
        a: Slot,
    },
    ActiveMask(Slot),
    Ld(Box<Access>),
    St(Box<Access>),
    Atom(Box<Atom>),
    CpAsync {
        dst: Addr,
        src: Addr,
        size: u32,
        src_size: Option<Slot>,
    },
    CpCommit,
    CpWait(u32),
    CpWaitAll,
    Fence,
    Bra(u32),
    Exit,
    Trap,
    /// The mask's slot, or none where the whole warp must take part.
    Sync(Option<Slot>, Collective),
}

#[derive(Clone, Debug)]
pub struct Instr {
    pub guard: Option<PredSrc>,
    pub line: u32,
    pub op: Op,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Special {
    Tid(u8),
    Ntid(u8),
    Ctaid(u8),
    Nctaid(u8),
    LaneId,
    WarpId,
    NWarpId,
    MaskEq,
    MaskLt,
    MaskLe,
    MaskGt,
    MaskGe,
    DynamicShared,
    Clock,
}

/// What a constant slot holds, known in full only at the launch.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Constant {
    Bits(u64),
    Special(Special),
    /// Index into the module's variables, and an addend.
    Global(usize, i64),
    Shared(usize, i64),
    Local(usize, i64),
}

/// A variable of the module or of a kernel.
#[derive(Clone, Debug)]
pub struct Variable {
    pub name: String,
    pub space: Space,
    pub align: u64,
    pub size: u64,
    /// `.extern .shared name[]`: the dynamic shared memory.
    pub dynamic: bool,
    pub init: Vec<u8>,
}

#[derive(Clone, Debug)]
pub struct Param {
    pub name: String,
    pub offset: u32,
    pub size: u32,
}

#[derive(Clone, Debug)]
pub struct Kernel {
    pub name: String,
    pub params: Vec<Param>,
    pub param_bytes: u32,
    pub max_threads: Option<u32>,
    pub required_threads: bool,
    pub code: Vec<Instr>,
    pub slots: usize,
    pub preds: usize,
    pub constants: Vec<(Slot, Constant)>,
    /// Indices of the shared variables that the code names (what ptxas allocates), in order of declaration.
    pub shared: Vec<usize>,
    /// Offsets of the variables in local memory, which are those of `local_vars`, and the size of the whole.
    pub local: Vec<u64>,
    pub local_vars: Vec<usize>,
    pub local_bytes: u64,
}
