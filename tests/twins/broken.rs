//! Shipped kernels, broken in one place of their text: each kind of error is seen in one of them at least.

use bytemuck::Pod;
use vq_kernels::cuda::ops::ema::DeviceStatistics;
use vq_kernels::cuda::ops::loss::{squared_error, squared_error_workspace_len};
use vq_kernels::cuda::{DeviceMatMut, DeviceMut, PackedDeviceCodebook, ops};
use vq_kernels::ops::Search;
use vq_kernels::{Metric, Result};

use crate::common::{paint, unit_rows};
use crate::support::{Gpu, image};
use crate::vm::FaultKind;

/// What is done to a kernel's text. Instructions are counted from 0, of those that begin so.
#[derive(Clone, Copy, Debug)]
enum Edit {
    /// The n-th of these instructions is not there.
    Drop(&'static str, usize),
    /// Its last address is so many bytes further on.
    Shift(&'static str, usize, i64),
    /// The first text in it is the second.
    Instead(&'static str, usize, &'static str, &'static str),
    /// The n-th conditional branch goes to the label after its own.
    Jump(usize),
}

use Edit::{Drop, Instead, Jump, Shift};

impl Edit {
    /// The line with the edit, or nothing where there is none such.
    fn of(self, lines: &[&str]) -> Option<(usize, String)> {
        let (opcode, n) = match self {
            Drop(opcode, n) | Shift(opcode, n, _) | Instead(opcode, n, ..) => (opcode, n),
            Jump(n) => ("@", n),
        };
        let mut found = lines.iter().enumerate().filter(|(_, line)| line.trim_start().starts_with(opcode));
        let (at, line) = found.nth(n)?;
        let edited = match self {
            Drop(..) => String::new(),
            Shift(_, _, bytes) => {
                let (before, rest) = line.rsplit_once('[')?;
                let (address, after) = rest.split_once(']')?;
                let (base, offset) = match address.split_once('+') {
                    Some((base, offset)) => (base, offset.parse::<i64>().ok()?),
                    None => (address, 0),
                };
                format!("{before}[{base}+{}]{after}", offset + bytes)
            }
            Instead(_, _, from, to) => line.replacen(from, to, 1),
            Jump(_) => {
                let target = line.split_whitespace().last()?.trim_end_matches(';');
                let place = lines.iter().position(|line| *line == format!("{target}:"))?;
                let next = lines[place + 1..].iter().find_map(|line| line.strip_suffix(':'))?;
                line.replace(target, next)
            }
        };
        Some((at, edited))
    }

    /// The image's text with the kernel broken: in one line.
    fn apply(self, text: &str, kernel: &str) -> Option<String> {
        let start = text.find(&format!(".entry {kernel}(")).unwrap_or_else(|| panic!("no kernel {kernel}"));
        let end = text[start..].find("\n.visible .entry").map_or(text.len(), |at| start + at);
        let mut lines: Vec<&str> = text[start..end].split('\n').collect();
        let (at, line) = self.of(&lines)?;
        lines[at] = &line;
        let edited = [&text[..start], &lines.join("\n"), &text[end..]].concat();
        let changed = text.split('\n').zip(edited.split('\n')).filter(|(a, b)| a != b).count();
        assert_eq!((changed, text.split('\n').count()), (1, edited.split('\n').count()), "{kernel}, {self:?}");
        Some(edited)
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Found {
    Fault(FaultKind),
    /// The result is another.
    Differs,
    Nothing,
}

type Job = fn(&Gpu) -> Result<Vec<u8>>;

fn tried(image_name: &'static str, text: &str, kernel: &str, job: Job, expected: &[u8]) -> Found {
    let gpu = Gpu::with_text(image_name, text);
    let done = job(&gpu);
    assert!(gpu.ran(kernel), "{kernel} was not launched");
    match (gpu.fault(), done) {
        (Some(fault), _) => Fault(fault.kind),
        (None, Ok(found)) if found == expected => Found::Nothing,
        (None, Ok(_)) => Differs,
        (None, Err(error)) => panic!("{image_name}: {error}"),
    }
}

/// Room that reads as `value` where nothing is written.
fn filled<T: Pod>(gpu: &Gpu, len: usize, value: T) -> DeviceMut<'static, T> {
    gpu.upload(&vec![value; len])
}

fn bytes<T: Pod>(gpu: &Gpu, view: &DeviceMut<T>) -> Vec<u8> {
    bytemuck::cast_slice(&gpu.read(view)).to_vec()
}

fn search(gpu: &Gpu) -> Result<Vec<u8>> {
    let (rows, codes, dim) = (70, 300, 32);
    let (x, values) = (gpu.mat(&unit_rows(rows, dim, 12), rows, dim), gpu.mat(&unit_rows(codes, dim, 11), codes, dim));
    let storage = gpu.room(PackedDeviceCodebook::storage_len(codes, dim, Metric::Cosine)?);
    let packed = PackedDeviceCodebook::pack(gpu, values, Metric::Cosine, storage)?;
    let (mut found, mut room) = (filled(gpu, rows, 7u32), gpu.room(ops::search_workspace_len(gpu, rows, &packed)));
    ops::search(gpu, &x, None, &packed, &mut found, None, Search::Coarse, &mut room)?;
    Ok(bytes(gpu, &found))
}

fn project(gpu: &Gpu) -> Result<Vec<u8>> {
    let (rows, inputs, outputs) = (1100, 68, 32);
    let (x, weight) = (gpu.mat(&paint(rows * inputs, 1), rows, inputs), paint(outputs * inputs, 2));
    let (weight, bias) = (gpu.mat(&weight, outputs, inputs), gpu.slice(&paint(outputs, 3)));
    let y = filled(gpu, rows * outputs, 9.0f32);
    // SAFETY: the same memory, for a view that lives after the first.
    let mut of = DeviceMatMut::new(unsafe { DeviceMut::from_raw(y.address(), y.len()) }, rows, outputs)?;
    ops::project(gpu, &x, &weight, Some(&bias), &mut of)?;
    Ok(bytes(gpu, &y))
}

fn accumulate(gpu: &Gpu) -> Result<Vec<u8>> {
    let (rows, codes, dim) = (300, 9, 32);
    let x = gpu.mat(&unit_rows(rows, dim, 4), rows, dim);
    let of: Vec<u32> = (0..rows as u32).map(|row| row / 3 % codes as u32).collect();
    let mut statistics = DeviceStatistics::new_in(gpu, gpu.room(codes), gpu.room(codes * dim), dim, 0)?;
    statistics.accumulate(gpu, &x, &gpu.slice(&of), None, None)?;
    let (weights, sums) = statistics.as_parts();
    Ok([bytes(gpu, weights), bytes(gpu, sums)].concat())
}

fn loss(gpu: &Gpu) -> Result<Vec<u8>> {
    let (rows, dim) = (1300, 3);
    let [x, quantized] = [5, 6].map(|seed| gpu.mat(&paint(rows * dim, seed), rows, dim));
    let (mut total, mut room) = (filled(gpu, 2, 0.0f64), gpu.room(squared_error_workspace_len(rows)));
    squared_error(gpu, &x, &quantized, &gpu.slice(&vec![0u32; rows]), None, &mut total, &mut room)?;
    Ok(bytes(gpu, &total))
}

fn prune(gpu: &Gpu) -> Result<Vec<u8>> {
    let codes = 5000;
    let counts: Vec<u64> = (0..codes).map(|k| k * 7 % 3).collect();
    let (mut remap, mut kept) = (filled(gpu, counts.len(), 7u32), filled(gpu, 1, 7u32));
    ops::usage::prune(gpu, &gpu.slice(&counts), 1, &mut remap, &mut kept)?;
    Ok([bytes(gpu, &remap), bytes(gpu, &kept)].concat())
}

fn gather(gpu: &Gpu) -> Result<Vec<u8>> {
    let (rows, codes, dim) = (70, 9, 8);
    let of: Vec<u32> = (0..rows as u32).map(|row| row % codes as u32).collect();
    let out = filled(gpu, rows * dim, 9.0f32);
    // SAFETY: as in `project`.
    let mut view = DeviceMatMut::new(unsafe { DeviceMut::from_raw(out.address(), out.len()) }, rows, dim)?;
    ops::gather(gpu, &gpu.slice(&of), &gpu.mat(&paint(codes * dim, 7), codes, dim), &mut view)?;
    Ok(bytes(gpu, &out))
}

const JOBS: &[(&str, &str, Job)] = &[
    ("search", "search_coarse_32", search),
    ("project", "project_128x32_f32", project),
    ("ema", "accumulate", accumulate),
    ("loss", "squared_error_blocks", loss),
    ("usage", "prune", prune),
    ("gather", "gather_u32_by16", gather),
];

use FaultKind::{AsyncPending, Barrier, Deadlock, GlobalRace, Misaligned, OutOfBounds, SharedRace, Uninitialised};
use Found::{Differs, Fault};

/// Which edit of which kernel shows as what: picked from what `survey` prints.
const BROKEN: &[(&str, Edit, Found)] = &[
    ("search_coarse_32", Drop("cp.async.wait_group", 0), Fault(AsyncPending)),
    ("search_coarse_32", Drop("bar.sync", 0), Fault(Uninitialised)),
    ("search_coarse_32", Drop("st.global", 0), Fault(Uninitialised)),
    ("search_coarse_32", Drop("@", 8), Fault(OutOfBounds)),
    ("search_coarse_32", Shift("ld.global", 3, 4), Fault(Misaligned)),
    ("search_coarse_32", Shift("cp.async", 0, 4), Fault(Misaligned)),
    ("search_coarse_32", Shift("st.global", 3, 4), Fault(GlobalRace)),
    ("search_coarse_32", Instead("bar.sync", 0, "0;", "0, 1024;"), Fault(Barrier)),
    ("project_128x32_f32", Drop("bar.sync", 0), Fault(SharedRace)),
    ("project_128x32_f32", Drop("cp.async.wait_group", 0), Fault(AsyncPending)),
    ("project_128x32_f32", Drop("st.shared", 0), Fault(Uninitialised)),
    ("project_128x32_f32", Drop("@", 2), Fault(OutOfBounds)),
    ("project_128x32_f32", Drop("@", 4), Differs),
    ("project_128x32_f32", Shift("ld.global", 0, 4), Differs),
    ("project_128x32_f32", Shift("ld.shared", 0, 4), Fault(Misaligned)),
    ("accumulate", Drop("@", 1), Fault(OutOfBounds)),
    ("accumulate", Drop("mov.u32", 0), Fault(Uninitialised)),
    ("accumulate", Shift("ld.global", 1, 4), Fault(OutOfBounds)),
    ("accumulate", Instead("red.global.add", 1, "red.global.add", "st.global"), Fault(GlobalRace)),
    ("squared_error_blocks", Drop("bar.sync", 0), Fault(SharedRace)),
    ("squared_error_blocks", Shift("ld.global", 0, 4), Differs),
    ("squared_error_blocks", Shift("st.shared", 0, 4), Fault(SharedRace)),
    ("prune", Jump(4), Fault(Deadlock)),
    ("prune", Jump(5), Fault(Barrier)),
    ("prune", Drop("bar.sync", 1), Fault(SharedRace)),
    ("prune", Drop("st.shared", 0), Fault(Uninitialised)),
    ("prune", Drop("st.global", 0), Differs),
    ("prune", Shift("ld.shared", 0, 4), Fault(OutOfBounds)),
    ("gather_u32_by16", Drop("@", 0), Fault(GlobalRace)),
    ("gather_u32_by16", Drop("@", 5), Fault(OutOfBounds)),
    ("gather_u32_by16", Drop("st.global", 3), Differs),
    ("gather_u32_by16", Shift("ld.global", 1, 4), Fault(Misaligned)),
];

#[test]
fn each_check_sees_a_shipped_kernel_that_is_broken() {
    for kind in [AsyncPending, Barrier, Deadlock, GlobalRace, Misaligned, OutOfBounds, SharedRace, Uninitialised] {
        assert!(BROKEN.iter().any(|(.., found)| *found == Fault(kind)), "{kind:?} is not tried");
    }
    for &(name, kernel, job) in JOBS {
        let text = image(name).ptx;
        let expected = job(&Gpu::default()).expect("whole");
        assert_eq!(tried(name, text, kernel, job, &expected), Found::Nothing, "{kernel}, whole");
        let edits: Vec<_> = BROKEN.iter().filter(|(of, ..)| *of == kernel).collect();
        assert!(!edits.is_empty(), "{kernel} is not broken");
        for (_, edit, found) in edits {
            let text = edit.apply(text, kernel).unwrap_or_else(|| panic!("{kernel} has no place for {edit:?}"));
            assert_eq!(tried(name, &text, kernel, job, &expected), *found, "{kernel}, {edit:?}");
        }
    }
}

/// `cargo test --release --features cuda --test twins survey -- --ignored --nocapture`: what every edit gives.
#[test]
#[ignore = "prints what the table above may take, after kernels have been compiled anew"]
fn survey() {
    for &(name, kernel, job) in JOBS {
        let text = image(name).ptx;
        let expected = job(&Gpu::with_text(name, text)).expect("whole");
        let kinds: [fn(usize) -> Edit; 14] = [
            |n| Drop("bar.sync", n),
            |n| Drop("cp.async.wait_group", n),
            |n| Drop("st.shared", n),
            |n| Drop("st.global", n),
            |n| Drop("@", n),
            |n| Drop("mov.u32", n),
            |n| Shift("ld.global", n, 4),
            |n| Shift("st.global", n, 4),
            |n| Shift("ld.shared", n, 4),
            |n| Shift("st.shared", n, 4),
            |n| Shift("cp.async", n, 4),
            |n| Instead("red.global.add", n, "red.global.add", "st.global"),
            |n| Instead("bar.sync", n, "0;", "0, 1024;"),
            Jump,
        ];
        for kind in kinds {
            for n in 0..12 {
                let Some(text) = kind(n).apply(text, kernel) else { continue };
                println!("{kernel}: {:?}: {:?}", kind(n), tried(name, &text, kernel, job, &expected));
            }
        }
    }
}
