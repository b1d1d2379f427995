//! For each check a program that is broken in one place, and the same program repaired.

use super::{Arg, HEAD, Machine, machine, machines, parse, upload};
use crate::vm::{Fault, FaultKind, Module};

/// A kernel around `body`. Set up are %t, the thread; %d1 and %d2, two buffers of 1024 bytes, the first of which has
/// been written; %a and %b, their words for this thread; %s, the word of this thread in `sh`, 1024 shared bytes.
fn module(body: &str) -> Module {
    parse(&format!(
        "{HEAD}.visible .entry k(.param .u64 k_a, .param .u64 k_b) {{
        .reg .b16 %h<4>; .reg .b32 %r<16>, %t, %s; .reg .f32 %f<16>; .reg .b64 %d<8>, %a, %b; .reg .pred %p<4>;
        .shared .align 16 .b8 sh[1024]; .shared .align 4 .b8 more[64]; .local .align 4 .b8 lo[32];
        ld.param.u64 %d1, [k_a]; ld.param.u64 %d2, [k_b]; mov.u32 %t, %tid.x;
        mad.wide.u32 %a, %t, 4, %d1; mad.wide.u32 %b, %t, 4, %d2;
        mov.u32 %s, sh; mad.lo.u32 %s, %t, 4, %s;
        {body}
        ret; }}"
    ))
}

pub fn run_on(machine: &Machine, body: &str, blocks: u32, threads: u32) -> Result<(), Fault> {
    let written: Vec<u8> = (0..1024u32).map(|i| i as u8).collect();
    let a = upload(machine, "a", &written);
    let b = Arg::U64(machine.alloc("b", 1024));
    machine.launch(&module(body), "k", [blocks, 1, 1], [threads, 1, 1], 0, &[a, b])
}

/// `broken` must fail with `kind` in all orders, at the line that holds `at`; `repaired` must pass in all.
pub fn pair(kind: FaultKind, shape: (u32, u32), at: &str, broken: &str, repaired: &str) {
    for machine in machines() {
        let fault = run_on(&machine, broken, shape.0, shape.1).expect_err(broken);
        assert_eq!(fault.kind, kind, "{fault} in {broken}");
        assert!(fault.instruction.contains(at), "{fault} in {broken}");
        run_on(&machine, repaired, shape.0, shape.1).unwrap_or_else(|e| panic!("{e} in {repaired}"));
    }
}

#[test]
fn bounds_of_global_memory() {
    let kind = FaultKind::OutOfBounds;
    pair(kind, (1, 256), "ld.global.u32", "ld.global.u32 %r1, [%a+4];", "ld.global.u32 %r1, [%a];");
    pair(kind, (1, 256), "st.global.u32", "st.global.u32 [%b+4], %t;", "st.global.u32 [%b], %t;");
    pair(kind, (1, 1), "ld.global.u32", "ld.global.u32 %r1, [%a-4];", "ld.global.u32 %r1, [%a];");
    pair(kind, (1, 1), "ld.global.u32", "mov.u64 %d1, 0;\nld.global.u32 %r1, [%d1];", "ld.global.u32 %r1, [%d1];");
    pair(kind, (1, 1), "red.global", "red.global.add.u32 [%a+1024], 1;", "red.global.add.u32 [%a+1020], 1;");
    pair(
        kind,
        (1, 64),
        "ld.global.v4",
        "mad.wide.u32 %d1, %t, 16, %d1;\nld.global.v4.u32 {%r1,%r2,%r3,%r4}, [%d1+16];",
        "mad.wide.u32 %d1, %t, 16, %d1;\nld.global.v4.u32 {%r1,%r2,%r3,%r4}, [%d1];",
    );
}

#[test]
fn bounds_of_windows() {
    let kind = FaultKind::OutOfBounds;
    pair(kind, (1, 256), "st.shared", "st.shared.u32 [%s+4], %t;", "st.shared.u32 [%s], %t;");
    // Between two variables.
    pair(kind, (1, 1), "st.shared", "st.shared.u32 [more+64], %t;", "st.shared.u32 [more+60], %t;");
    pair(kind, (1, 1), "st.shared", "mov.u32 %r1, 0;\nst.shared.u32 [%r1], %t;", "st.shared.u32 [%s], %t;");
    pair(kind, (1, 1), "st.local", "st.local.u32 [lo+32], %t;", "st.local.u32 [lo+28], %t;");
    pair(kind, (1, 1), "ld.param", "ld.param.u64 %d3, [k_b+8];", "ld.param.u64 %d3, [k_b];");
    // The same by generic addresses.
    let generic = |last| format!("cvta.shared.u64 %d3, %d3;\nst.u32 [%d3+{last}], %t;");
    let start = "mov.u64 %d3, sh;\n";
    pair(kind, (1, 1), "st.u32", &format!("{start}{}", generic(1024)), &format!("{start}{}", generic(1020)));
    let start = "mov.u64 %d3, lo;\ncvta.local.u64 %d3, %d3;\n";
    pair(
        kind,
        (1, 1),
        "st.u32",
        &format!("{start}st.u32 [%d3+32], %t;"),
        &format!("{start}st.u32 [%d3+28], %t;\nld.u32 %r1, [%d3+28];"),
    );
}

#[test]
fn dynamic_shared_memory_ends_where_the_launch_says() {
    let module = parse(&format!(
        "{HEAD}.extern .shared .align 16 .b8 dyn[];
        .entry k() {{ .reg .b32 %r<4>; mov.u32 %r1, %tid.x; mov.u32 %r2, dyn; mad.lo.u32 %r2, %r1, 4, %r2;
        st.shared.u32 [%r2], %r1; ret; }}"
    ));
    let run = |bytes| machine().launch(&module, "k", [1; 3], [64, 1, 1], bytes, &[]);
    run(256).expect("64 words");
    assert_eq!(run(255).expect_err("a byte short").kind, FaultKind::OutOfBounds);
}

#[test]
fn alignment() {
    let kind = FaultKind::Misaligned;
    pair(kind, (1, 1), "ld.global.u32", "ld.global.u32 %r1, [%a+2];", "ld.global.u16 %h1, [%a+2];");
    pair(
        kind,
        (1, 1),
        "ld.global.v4",
        "ld.global.v4.u32 {%r1,%r2,%r3,%r4}, [%a+8];",
        "ld.global.v2.u32 {%r1,%r2}, [%a+8];",
    );
    pair(kind, (1, 1), "st.shared.v2", "st.shared.v2.u32 [%s+4], {%t,%t};", "st.shared.v2.u32 [%s+8], {%t,%t};");
    pair(
        kind,
        (1, 1),
        "cp.async",
        "cp.async.cg.shared.global [%s+8], [%a], 16;",
        "cp.async.cg.shared.global [%s+16], [%a], 16;",
    );
    pair(
        kind,
        (1, 1),
        "cp.async",
        "cp.async.ca.shared.global [%s], [%a+4], 8;",
        "cp.async.ca.shared.global [%s], [%a+4], 4;",
    );
    // `more` is aligned to 4 bytes, and to no more.
    pair(kind, (1, 1), "st.shared.v2", "st.shared.v2.u32 [more], {%t,%t};", "st.shared.u32 [more], %t;");
    let rows = |by| {
        format!(
            "st.shared.v4.u32 [%s], {{%t,%t,%t,%t}};\nbar.warp.sync -1;\nldmatrix.sync.aligned.m8n8.x1.shared.b16 {{%r1}}, [%s+{by}];"
        )
    };
    let start = "mad.lo.u32 %s, %t, 12, %s;\n";
    pair(kind, (1, 32), "ldmatrix", &format!("{start}{}", rows(8)), &format!("{start}{}", rows(0)));
    // A buffer is aligned to 256 bytes and no better.
    let a = machine().alloc("a", 1);
    assert_eq!(a.trailing_zeros(), 8);
}

#[test]
fn what_was_never_written() {
    let kind = FaultKind::Uninitialised;
    pair(kind, (1, 32), "add.u32", "add.u32 %r1, %r2, 1;", "mov.u32 %r2, 5;\nadd.u32 %r1, %r2, 1;");
    // Written by some lanes only; moved about before it is used.
    let branch = "setp.lt.u32 %p1, %t, 7;\n@%p1 mov.u32 %r2, 5;\nmov.u32 %r3, %r2;\n";
    pair(
        kind,
        (1, 32),
        "add.u32",
        &format!("{branch}add.u32 %r1, %r3, 1;"),
        &format!("{branch}@%p1 add.u32 %r1, %r3, 1;"),
    );
    pair(kind, (1, 32), "@%p1", "@%p1 mov.u32 %r2, 5;", "setp.lt.u32 %p1, %t, 7;\n@%p1 mov.u32 %r2, 5;");
    pair(kind, (1, 32), "addc", "addc.u32 %r1, %t, 1;", "add.cc.u32 %r1, %t, 1;\naddc.u32 %r1, %t, 1;");
    pair(kind, (1, 32), "ld.global", "ld.global.u32 %r1, [%b];", "st.global.u32 [%b], %t;\nld.global.u32 %r1, [%b];");
    pair(
        kind,
        (1, 32),
        "ld.global",
        "st.global.u16 [%b], %h1;\nld.global.u32 %r1, [%b];"
            .replace("st.global.u16 [%b], %h1", "cvt.u16.u32 %h1, %t;\nst.global.u16 [%b], %h1")
            .as_str(),
        "cvt.u16.u32 %h1, %t;\nst.global.u16 [%b], %h1;\nld.global.u16 %h2, [%b];",
    );
    pair(
        kind,
        (1, 32),
        "red.global",
        "red.global.add.u32 [%b], 1;",
        "st.global.u32 [%b], 0;\nred.global.add.u32 [%b], 1;",
    );
    pair(kind, (1, 32), "ld.shared", "ld.shared.u32 %r1, [%s];", "st.shared.u32 [%s], %t;\nld.shared.u32 %r1, [%s];");
    pair(
        kind,
        (1, 32),
        "ld.local",
        "st.local.u32 [lo], %t;\nld.local.u32 %r1, [lo+4];",
        "st.local.u32 [lo], %t;\nld.local.u32 %r1, [lo];",
    );
    // Shared memory forgets between blocks: the first block would have written it for the second.
    let first = "mov.u32 %r1, %ctaid.x;\nsetp.eq.u32 %p1, %r1, 0;\n@%p1 st.shared.u32 [%s], %t;\n";
    pair(
        kind,
        (2, 32),
        "ld.shared",
        &format!("{first}ld.shared.u32 %r1, [%s];"),
        &format!("{first}@%p1 ld.shared.u32 %r1, [%s];"),
    );
    // What a shuffle brings from a lane that does not take part.
    let part = "setp.lt.u32 %p1, %t, 16;\n@!%p1 bra END;\nshfl.sync.down.b32 %r1, %t, 8, 31, 0xffff;\n";
    pair(
        kind,
        (1, 32),
        "st.global",
        &format!("{part}st.global.u32 [%b], %r1;\nEND:"),
        &format!("{part}setp.lt.u32 %p2, %t, 8;\n@%p2 st.global.u32 [%b], %r1;\nEND:"),
    );
    // The host, too.
    let machine = machine();
    let a = machine.alloc("a", 8);
    machine.write(a, &[1; 7]);
    assert_eq!(machine.read(a, 8).expect_err("a byte is missing").kind, FaultKind::Uninitialised);
    assert_eq!(machine.read(a, 9).expect_err("too long").kind, FaultKind::OutOfBounds);
    assert_eq!(machine.read(a, 7).expect("written"), [1; 7]);
}

#[test]
fn barriers() {
    let half = "setp.lt.u32 %p1, %t, 16;\n";
    // Some lanes of a warp only.
    pair(
        FaultKind::Barrier,
        (1, 32),
        "bar.sync",
        &format!("{half}@%p1 bra A;\nbar.sync 0;\nbra END;\nA:\nbar.sync 1;\nEND:"),
        &format!("{half}@%p1 bra A;\nA:\nbar.sync 0;"),
    );
    pair(
        FaultKind::Barrier,
        (1, 32),
        "bar.sync",
        &format!("{half}@%p1 bar.sync 0;\nbar.sync 0;"),
        "bar.sync 0;\nbar.sync 0;",
    );
    // Some warps only: the others wait at another barrier, or for more threads than there are.
    let warp = "setp.lt.u32 %p1, %t, 32;\n";
    pair(
        FaultKind::Deadlock,
        (1, 64),
        "bar.sync",
        &format!("{warp}@%p1 bar.sync 0;\n@!%p1 bar.sync 1;"),
        &format!("{warp}@%p1 bar.sync 0;\n@!%p1 bar.sync 0;"),
    );
    pair(
        FaultKind::Deadlock,
        (1, 64),
        "bar.sync",
        &format!("{warp}@%p1 bar.sync 0, 64;"),
        &format!("{warp}@%p1 bar.sync 0, 32;"),
    );
    // One warp comes for two.
    pair(
        FaultKind::Barrier,
        (1, 64),
        "bar.arrive",
        &format!("{warp}@!%p1 ret;\nbar.arrive 1, 64;\nbar.arrive 1, 64;"),
        &format!("{warp}@%p1 bar.arrive 1, 64;\n@!%p1 bar.sync 1, 64;"),
    );
    // Without a count a barrier waits for those who have not exited.
    for machine in machines() {
        run_on(&machine, &format!("{warp}@%p1 bra END;\nbar.sync 0;\nEND:"), 1, 64).expect("the first warp has exited");
        // Without `.aligned` each lane comes for itself.
        let loose = format!("{half}@%p1 bra A;\nbarrier.sync 0;\nbra END;\nA:\nbarrier.sync 0;\nEND:");
        run_on(&machine, &loose, 1, 32).expect("all lanes come");
        run_on(&machine, &loose.replace("barrier.sync", "barrier.sync.aligned"), 1, 32).expect_err("divergent");
    }
    pair(FaultKind::Barrier, (1, 64), "bar.sync", "bar.sync 0, 48;", "bar.sync 0, 64;");
    pair(FaultKind::Barrier, (1, 64), "bar.sync", "bar.sync 16;", "bar.sync 15;");
    pair(
        FaultKind::Barrier,
        (1, 64),
        "bar.sync",
        "and.b32 %r1, %t, 1;\nbar.sync %r1;",
        "shr.u32 %r1, %t, 6;\nbar.sync %r1;",
    );
}

#[test]
fn lanes_that_never_come() {
    let half = "setp.lt.u32 %p1, %t, 16;\n";
    let vote = "vote.sync.ballot.b32 %r1, %p1, -1;";
    // Lanes that exited, and lanes that wait elsewhere.
    pair(
        FaultKind::Deadlock,
        (1, 32),
        "vote",
        &format!("{half}@%p1 ret;\n{vote}"),
        &format!("{half}{vote}\n@%p1 ret;"),
    );
    pair(
        FaultKind::Deadlock,
        (1, 32),
        "vote",
        &format!("{half}@%p1 {vote}\n@!%p1 {vote}"),
        &format!("{half}{vote}\n{vote}"),
    );
    pair(
        FaultKind::Barrier,
        (1, 32),
        "shfl",
        "shfl.sync.idx.b32 %r1, %t, 0, 31, 1;",
        "shfl.sync.idx.b32 %r1, %t, 0, 31, -1;",
    );
    // mma and ldmatrix want the whole warp.
    let start = "mov.b32 %r1, 0;\nmov.f32 %f1, 0f00000000;\n";
    let mma =
        "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%f2,%f3,%f4,%f5}, {%r1,%r1}, {%r1}, {%f1,%f1,%f1,%f1};";
    pair(FaultKind::Barrier, (1, 32), "mma", &format!("{start}{half}@%p1 {mma}"), &format!("{start}{mma}"));
    pair(
        FaultKind::Barrier,
        (1, 32),
        "mma",
        &format!("{start}{half}@%p1 bra END;\n{mma}\nEND:"),
        &format!("{start}{half}@%p1 bra A;\nA: {mma}"),
    );
    pair(
        FaultKind::Barrier,
        (1, 32),
        "mma",
        &format!("{start}{half}@%p1 ret;\n{mma}"),
        &format!("{start}{half}{mma}\n@%p1 ret;"),
    );
}

#[test]
fn launches() {
    let text = format!(
        "{HEAD}.visible .entry a(.param .u64 p, .param .u32 q, .param .f32 r) .maxntid 64, 1, 1 {{ ret; }}
        .entry b() .reqntid 32 {{ LOOP: bra LOOP; }}
        .shared .align 4 .b8 big[49156]; .entry c() {{ .reg .b32 %r<2>; mov.u32 %r1, big; ret; }}"
    );
    let module = parse(&text);
    assert_eq!(module.kernels().collect::<Vec<_>>(), ["a", "b", "c"]);
    assert_eq!((module.max_threads("a"), module.max_threads("c")), (Some(64), None));
    let machine = machine();
    machine.set_budget(10_000);
    let launch =
        |kernel, block, args: &[Arg]| machine.launch(&module, kernel, [1; 3], block, 0, args).map_err(|f| f.kind);
    let args = [Arg::U64(1), Arg::I32(2), Arg::F32(3.0)];
    assert_eq!(launch("a", [64, 1, 1], &args), Ok(()));
    assert_eq!(launch("a", [65, 1, 1], &args), Err(FaultKind::BadLaunch));
    assert_eq!(launch("a", [0, 1, 1], &args), Err(FaultKind::BadLaunch));
    assert_eq!(launch("a", [1, 1, 1], &args[..2]), Err(FaultKind::BadLaunch));
    assert_eq!(launch("a", [1, 1, 1], &[args[0], Arg::F64(0.0), args[2]]), Err(FaultKind::BadLaunch));
    assert_eq!(launch("d", [1, 1, 1], &[]), Err(FaultKind::BadLaunch));
    assert_eq!(launch("b", [31, 1, 1], &[]), Err(FaultKind::BadLaunch));
    assert_eq!(launch("c", [1, 1, 1], &[]), Err(FaultKind::BadLaunch));
    assert_eq!(launch("b", [32, 1, 1], &[]), Err(FaultKind::Limit));
    let divide = "div.u32 %r1, 5, %t;";
    pair(FaultKind::Unsupported, (1, 32), "div", divide, "add.u32 %r2, %t, 1;\ndiv.u32 %r1, 5, %r2;");
}
