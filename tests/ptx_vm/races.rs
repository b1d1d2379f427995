//! Data races and asynchronous copies, as `checks` has the other errors.

use super::checks::{pair, run_on};
use super::{Random, machine, machines};
use crate::vm::FaultKind;
use crate::vm::race::{Kind, Order, Shadow, Who};

#[test]
fn races_in_shared_memory() {
    let kind = FaultKind::SharedRace;
    // A neighbour's word, in the same warp and across warps.
    let turn = |wait: &str, by: u32| {
        format!(
            "st.shared.u32 [%s], %t;\n{wait}\nxor.b32 %r1, %t, {by};\nmov.u32 %r2, sh;\nmad.lo.u32 %r2, %r1, 4, %r2;\nld.shared.u32 %r3, [%r2];"
        )
    };
    let block = "bar.sync 0;";
    let warp = "bar.warp.sync -1;";
    pair(kind, (1, 32), "ld.shared", &turn("", 1), &turn(block, 1));
    pair(kind, (1, 32), "ld.shared", &turn("", 1), &turn(warp, 1));
    // Shuffles and votes order no memory.
    pair(kind, (1, 32), "ld.shared", &turn("shfl.sync.idx.b32 %r4, %t, 0, 31, -1;", 1), &turn(warp, 1));
    // Partial masks order those they name.
    let sides = "setp.lt.u32 %p1, %t, 16;\nselp.b32 %r5, 0xffff, 0xffff0000, %p1;\nbar.warp.sync %r5;";
    pair(kind, (1, 32), "ld.shared", &turn(sides, 16), &turn(sides, 8));
    // A warp's barrier orders nothing across warps.
    let race = |wait: &str| {
        let machine = machine();
        run_on(&machine, &turn(wait, 32), 1, 64).map_err(|f| f.kind)
    };
    assert_eq!(race(block), Ok(()));
    // Which of the two is first depends on the schedule; that one of them fails does not, though what it finds is a
    // byte that was not written if the reader is first.
    assert!(matches!(race(warp), Err(FaultKind::SharedRace | FaultKind::Uninitialised)));
    // With the memory written before it is always the race.
    let both = |wait: &str| format!("st.shared.u32 [%s], 0;\nbar.sync 0;\n{}", turn(wait, 32));
    pair(kind, (1, 64), ".shared.u32", &both(warp), &both(block));
    // A read that is overtaken by a write: the second barrier is missing.
    let again = |wait: &str| format!("{}\n{wait}\nst.shared.u32 [%s], 0;", turn(block, 32));
    pair(kind, (1, 64), ".shared.u32", &again(""), &again(block));
    // Writes of two lanes to one word, and of two bytes of one word.
    pair(
        kind,
        (1, 32),
        "st.shared",
        "st.shared.u32 [sh], %t;",
        "setp.eq.u32 %p1, %t, 0;\n@%p1 st.shared.u32 [sh], %t;",
    );
    let bytes = "mov.u32 %r1, sh;\nadd.u32 %r1, %r1, %t;\n";
    pair(
        kind,
        (1, 32),
        "st.shared.v2",
        &format!("{bytes}st.shared.u8 [%r1], %t;\nst.shared.v2.u8 [sh], {{%t, %t}};"),
        &format!("{bytes}st.shared.u8 [%r1], %t;"),
    );
    // Atomics among themselves are fine, with a plain read they are not.
    let count = |wait: &str| {
        format!(
            "setp.eq.u32 %p1, %t, 0;\n@%p1 st.shared.u32 [sh], 0;\nbar.sync 0;\natom.shared.add.u32 %r1, [sh], 1;\n{wait}\nld.shared.u32 %r2, [sh];"
        )
    };
    pair(kind, (1, 64), "sh]", &count(""), &count(block));
    // Named barriers of one warp each order that warp alone; one of both orders both.
    let named = |count: u32, id: &str| {
        both(&format!("shr.u32 %r6, %t, 5;\nadd.u32 %r6, %r6, 1;\nmov.u32 %r7, 3;\nbar.sync {id}, {count};"))
    };
    pair(kind, (1, 64), ".shared.u32", &named(32, "%r6"), &named(64, "%r7"));
}

#[test]
fn orders_pass_through_others() {
    // Warp 0 writes, tells warp 1 by barrier 1, which tells warp 2 by barrier 2; without the second the read races.
    let chain = |last: &str| {
        format!(
            "shr.u32 %r6, %t, 5;
            st.shared.u32 [%s], 0; bar.sync 0;
            setp.eq.u32 %p1, %r6, 0; @%p1 bra W0; setp.eq.u32 %p1, %r6, 1; @%p1 bra W1;
            {last} ld.shared.u32 %r1, [%s-256]; bra END;
            W0: st.shared.u32 [%s], %t; bar.arrive 1, 64; bra END;
            W1: bar.sync 1, 64; bar.arrive 2, 64; bra END;
            END:"
        )
    };
    for machine in machines() {
        run_on(&machine, &chain("bar.sync 2, 64;"), 1, 96).expect("ordered by way of warp 1");
    }
    let failures = machines().filter(|m| run_on(m, &chain(""), 1, 96).is_err()).count();
    assert_eq!(failures, 6);
    // What the arriving warp does behind its arrival is not ordered.
    let late = |before: &str, behind: &str| {
        format!(
            "shr.u32 %r6, %t, 5; st.shared.u32 [%s], 0; bar.sync 0;
            setp.eq.u32 %p1, %r6, 0; @%p1 bra W0;
            bar.sync 1, 64; ld.shared.u32 %r1, [%s-128]; bra END;
            W0: {before} bar.arrive 1, 64; {behind}
            END:"
        )
    };
    let write = "st.shared.u32 [%s], %t;";
    pair(FaultKind::SharedRace, (1, 64), ".shared.u32", &late("", write), &late(write, ""));
}

#[test]
fn races_in_global_memory() {
    let kind = FaultKind::GlobalRace;
    // Two blocks write one word, or one reads what the other writes.
    let mine = "mov.u32 %r1, %ctaid.x;\nmad.wide.u32 %d2, %r1, 128, %b;\n";
    pair(kind, (2, 32), "st.global", "st.global.u32 [%b], %t;", &format!("{mine}st.global.u32 [%d2], %t;"));
    let odd = "mov.u32 %r1, %ctaid.x;\nsetp.eq.u32 %p1, %r1, 1;\n@%p1 bra W;\nld.global.u32 %r2, [%a];\nbra END;\nW:\n";
    pair(
        kind,
        (2, 32),
        ".global.u32",
        &format!("{odd}st.global.u32 [%a], %t;\nEND:"),
        &format!("{odd}st.global.u32 [%b], %t;\nEND:"),
    );
    // Atomics of all blocks, and a plain access beside them.
    let add = "red.global.add.u32 [%a], 1;\n";
    pair(
        kind,
        (2, 32),
        "[%a]",
        &format!("{add}ld.global.u32 %r2, [%a];"),
        &format!("{add}ld.global.u32 %r2, [%a+128];"),
    );
    // In one block the rule is that of shared memory.
    let turn = |wait: &str| {
        format!(
            "st.global.u32 [%a], %t;\n{wait}\nxor.b32 %r1, %t, 32;\nmad.wide.u32 %d3, %r1, 4, %d1;\nld.global.u32 %r3, [%d3];"
        )
    };
    pair(kind, (1, 64), ".global.u32", &turn(""), &turn("bar.sync 0;"));
    // A new launch is a new beginning.
    let machine = machine();
    for _ in 0..2 {
        run_on(&machine, "st.global.u32 [%b], %t;", 1, 32).expect("one launch after the other");
    }
}

#[test]
fn asynchronous_copies() {
    let kind = FaultKind::AsyncPending;
    let copy = "cp.async.ca.shared.global [%s], [%a], 4;\n";
    let load = "ld.shared.u32 %r1, [%s];";
    let commit = "cp.async.commit_group;\n";
    pair(kind, (1, 32), "ld.shared", &format!("{copy}{load}"), &format!("{copy}cp.async.wait_all;\n{load}"));
    // Not committed, so not in any group that is waited for.
    pair(
        kind,
        (1, 32),
        "ld.shared",
        &format!("{copy}cp.async.wait_group 0;\n{load}"),
        &format!("{copy}{commit}cp.async.wait_group 0;\n{load}"),
    );
    // One group too few.
    let two = format!("{copy}{commit}cp.async.ca.shared.global [%s+512], [%a], 4;\n{commit}");
    pair(
        kind,
        (1, 32),
        "ld.shared",
        &format!("{two}cp.async.wait_group 2;\n{load}"),
        &format!("{two}cp.async.wait_group 1;\n{load}"),
    );
    pair(
        kind,
        (1, 32),
        "st.shared",
        &format!("{copy}st.shared.u32 [%s], 0;"),
        &format!("{copy}cp.async.wait_all;\nst.shared.u32 [%s], 0;"),
    );
    // Another thread's copy needs its wait and a barrier.
    let other = |wait: &str| {
        format!(
            "{copy}{wait}\nxor.b32 %r1, %t, 32;\nmov.u32 %r2, sh;\nmad.lo.u32 %r2, %r1, 4, %r2;\nld.shared.u32 %r3, [%r2];"
        )
    };
    pair(kind, (1, 64), "ld.shared", &other("bar.sync 0;"), &other("cp.async.wait_all;\nbar.sync 0;"));
    let fault = run_on(&machine(), &other("cp.async.wait_all;"), 1, 64).expect_err("no barrier");
    assert!(matches!(fault.kind, FaultKind::SharedRace | FaultKind::AsyncPending | FaultKind::Uninitialised));
    // The next stage is filled while others still read it: no barrier between.
    let stages = |wait: &str| format!("{}\n{wait}\n{copy}", other("cp.async.wait_all;\nbar.sync 0;"));
    let race = FaultKind::SharedRace;
    for machine in machines() {
        let fault = run_on(&machine, &stages(""), 1, 64).expect_err("overtaken");
        assert!(fault.kind == race || fault.kind == kind, "{fault}");
        run_on(&machine, &stages("bar.sync 0;"), 1, 64).expect("repaired");
    }
    // The source is read, and must have been written.
    pair(FaultKind::Uninitialised, (1, 32), "cp.async", "cp.async.ca.shared.global [%s], [%b], 4;", copy);
    let less = "mov.u32 %r1, 0;\ncp.async.ca.shared.global [%s], [%b], 4, %r1;\ncp.async.wait_all;\n";
    pair(
        FaultKind::OutOfBounds,
        (1, 32),
        "cp.async",
        "cp.async.ca.shared.global [%s], [%a+1024], 4;",
        &format!("{less}{load}"),
    );
}

/// The shadow memory against a record of everything: random accesses of three warps of four lanes to one word, and
/// random events that order them.
#[test]
fn the_shadow_finds_what_a_full_record_finds() {
    const LANES: usize = 4;
    let (mut races, mut clean) = (0, 0);
    for seed in 0..6_000u64 {
        let mut random = Random(seed);
        let mut pick = |n: usize| (random.next() >> 20) as usize % n;
        let mut order = Order::new(3);
        let mut shadow = Shadow::default();
        // What each thread knows of each other's accesses, by their count, and the accesses.
        let mut known = [[0usize; 3 * LANES]; 3 * LANES];
        let mut record: Vec<(usize, usize, Kind, [bool; 4])> = Vec::new();
        let mut counts = [0usize; 3 * LANES];
        let writes = 2 + pick(60);
        for _ in 0..100 {
            let mut join = |from: &[usize], to: &[usize], counts: &[usize]| {
                let mut all = [0; 3 * LANES];
                for t in from {
                    for u in 0..3 * LANES {
                        all[u] = all[u].max(if u == *t { counts[u] } else { known[*t][u] });
                    }
                }
                to.iter().for_each(|t| known[*t] = all);
            };
            let threads = |warps: &[usize]| warps.iter().flat_map(|w| LANES * w..LANES * w + LANES).collect::<Vec<_>>();
            match pick(6) {
                0 => {
                    order.sync_block();
                    join(&threads(&[0, 1, 2]), &threads(&[0, 1, 2]), &counts);
                }
                1 => {
                    let warp = pick(3);
                    order.sync_lanes(warp, 0xffff_ffff);
                    join(&threads(&[warp]), &threads(&[warp]), &counts);
                }
                2 => {
                    // One arrives for the others, two wait; or both wait.
                    let (a, b) = [(0, 1), (1, 2), (2, 0)][pick(3)];
                    if pick(2) == 0 {
                        let time = order.arrive(a);
                        order.sync_warps(&[(a, time), (b, 0)], 1 << b);
                        join(&threads(&[a, b]), &threads(&[b]), &counts);
                    } else {
                        order.sync_warps(&[(a, 0), (b, 0)], 1 << a | 1 << b);
                        join(&threads(&[a, b]), &threads(&[a, b]), &counts);
                    }
                }
                _ => {
                    let thread = pick(3 * LANES);
                    let kind = match pick(writes + 1) {
                        0 => Kind::Write,
                        1 => Kind::Atomic,
                        _ => Kind::Read,
                    };
                    let (at, len) = [(0, 4), (0, 4), (0, 2), (3, 1)][pick(4)];
                    let touched = core::array::from_fn(|i| (at..at + len).contains(&i));
                    let conflict = record.iter().any(|(other, index, was, bytes)| {
                        *other != thread
                            && known[thread][*other] <= *index
                            && (kind != Kind::Read || *was != Kind::Read)
                            && (kind != Kind::Atomic || *was != Kind::Atomic)
                            && (0..4).any(|i| touched[i] && bytes[i])
                    });
                    let who = Who { block: 0, warp: (thread / LANES) as u32, lane: (thread % LANES) as u32, pc: 0 };
                    let found = shadow.touch(at, len, kind, &who, &order).is_err();
                    assert_eq!(found, conflict, "seed {seed}: {kind:?} by {thread} after {record:?}");
                    if conflict {
                        races += 1;
                        break;
                    }
                    record.push((thread, counts[thread], kind, touched));
                    counts[thread] += 1;
                    clean += 1;
                }
            }
        }
    }
    assert!(races > 1000 && clean > 50_000, "{races} {clean}");
}
