//! Every op on buffers that lie between pages without access, for every instruction set and all small lengths: one element read
//! or written too far ends the process.
//!
//! Each buffer is once flush with the page behind it and once with the page before it; inputs cannot be written to. Results must be
//! those on plain buffers. Elements of an [`Aligned`] index and a [`Line`] keep their alignment.
#![cfg(all(unix, not(miri)))]

#[path = "../common/mod.rs"]
mod common;
mod each;
mod pages;
mod place;

use common::{cpus, mat, paint};
use each::{Shape, shapes};
use half::{bf16, f16};
use pages::{Edge, Guarded};
use place::{Place, Written};
use vq_kernels::index::{self, Index};
use vq_kernels::{Cpu, Metric};

/// Runs `ops` on plain buffers and on guarded ones, with each instruction set.
fn each_place(ops: impl Fn(&Cpu, Shape, Place, &mut Written)) {
    for cpu in cpus() {
        for shape in shapes() {
            let run = |place: Place| {
                let mut written = Written::default();
                ops(&cpu, shape, place, &mut written);
                written
            };
            let expected = run(Place::Plain);
            for edge in [Edge::Front, Edge::Back] {
                assert!(run(Place::Between(edge)) == expected, "{shape:?} {edge:?} {}", cpu.isa().name());
            }
        }
    }
}

#[test]
fn f32_rows_stay_within_their_buffers() {
    each_place(|cpu, shape, place, written| each::searches(cpu, shape, place, |x| x, written));
}

#[test]
fn f16_rows_stay_within_their_buffers() {
    each_place(|cpu, shape, place, written| each::searches(cpu, shape, place, f16::from_f32, written));
}

#[test]
fn bf16_rows_stay_within_their_buffers() {
    each_place(|cpu, shape, place, written| each::searches(cpu, shape, place, bf16::from_f32, written));
}

#[test]
fn fixed_point_stays_within_its_buffers() {
    each_place(each::fixed);
}

#[test]
fn gradients_and_losses_stay_within_their_buffers() {
    each_place(each::backwards);
}

#[test]
fn statistics_and_restart_stay_within_their_buffers() {
    each_place(each::statistics);
}

/// Every truncation of an index ends at the page without access.
#[test]
fn an_index_is_read_within_its_bytes() {
    for (codes, dim) in [(1, 1), (7, 5), (16, 16), (33, 31)] {
        let book = paint(codes * dim, 14);
        let mut bytes = vec![0; index::len::<f32>(codes, dim)];
        index::write(mat(&book, codes, dim), Metric::L2, 1.0, &mut bytes).unwrap();
        for len in 0..=bytes.len() {
            // Flush with the page before it, or, where that leaves it aligned, with the one behind.
            let front = Guarded::input(Edge::Front, &bytes[..len]);
            assert_eq!(Index::read(&front).is_ok(), len == bytes.len());
            let back = Guarded::input(Edge::Back, &bytes[..len]);
            let aligned = back.as_ptr().addr().is_multiple_of(64);
            assert_eq!(Index::read(&back).is_ok(), aligned && len == bytes.len());
        }
    }
}

/// The test of the tests: what reads or writes one byte too far, at either end, or writes to an input, does not survive.
#[test]
fn one_byte_too_far_ends_the_process() {
    /// Reads what `p` leads to, which must be readable.
    unsafe fn read(p: *const u8) {
        // SAFETY: the caller's claim.
        let _ = unsafe { p.read_volatile() };
    }
    fn dies(what: &str, reach: impl Fn()) {
        // SAFETY: the child only touches memory and exits, without locks or memory of the parent's.
        let status = unsafe {
            match libc::fork() {
                -1 => panic!("no second process"),
                0 => {
                    reach();
                    libc::_exit(0);
                }
                child => {
                    let mut status = 0;
                    assert_eq!(libc::waitpid(child, &raw mut status, 0), child);
                    status
                }
            }
        };
        assert!(libc::WIFSIGNALED(status), "{what}: survived");
        assert!([libc::SIGSEGV, libc::SIGBUS].contains(&libc::WTERMSIG(status)), "{what}");
    }
    for len in [1, 13, 4096, 4097] {
        let values = vec![1u8; len];
        let (front, back) = (Guarded::output(Edge::Front, &values), Guarded::output(Edge::Back, &values));
        let input = Guarded::input(Edge::Back, &values);
        let (before, behind) = (front.data.wrapping_sub(1), back.data.wrapping_add(len));
        // SAFETY: none, in all of these: that is what is tested.
        dies("a byte before", || unsafe { read(before) });
        // SAFETY: see above.
        dies("a byte behind", || unsafe { read(behind) });
        // SAFETY: see above.
        dies("a byte written behind", || unsafe { behind.write_volatile(1) });
        // SAFETY: see above.
        dies("an input written to", || unsafe { input.data.write_volatile(1) });
    }
}
