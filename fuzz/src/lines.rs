//! Codebooks from lines that `pack_into` did not write: any contents are safe, and only codes that exist are found.

use vq_kernels::ops::search::Tally;
use vq_kernels::ops::{self, Candidate, Search};
use vq_kernels::{Cpu, Isa, Line, Metric, NO_CODE, PackedCodebook, Packing};

use crate::Reach;
use crate::input::{Input, SPECIAL, mat, mat_mut};

const COARSE: usize = 0;
const PRUNED: usize = 1;
const REPACKED: usize = 2;

pub fn lines(input: &mut Input, reach: &Reach) {
    let (rows, codes, dim) = input.shape();
    let packing = input.pick(&[Packing::Caps, Packing::Int8, Packing::F32]);
    let metric = if packing == Packing::Caps { Metric::Cosine } else { input.metric() };
    let book = input.unit_matrix(codes, dim);
    let packed = PackedCodebook::with_packing(mat(&book, codes, dim), metric, packing).expect("a codebook's shape");
    let mut lines: Vec<Line> = packed.lines().to_vec();
    damage(input, &mut lines, PackedCodebook::lines_len(codes, dim, metric, Packing::F32));
    let wrong = lines.len() + input.below(3) - 1;
    let refused = PackedCodebook::from_lines(vec![Line([0.0; 16]); wrong], codes, dim, metric, packing);
    assert_eq!(refused.is_ok(), wrong == lines.len());
    let mut packed = PackedCodebook::from_lines(lines, codes, dim, metric, packing).expect("as many lines as it takes");
    let x = if input.once_in(2) { input.matrix(rows, dim) } else { input.unit_matrix(rows, dim) };
    let x = mat(&x, rows, dim);
    // Damaged, then with some codes packed again, which reads what is there.
    for round in 0..2 {
        for isa in Isa::available() {
            for way in [Search::Auto, Search::F32, Search::Coarse, Search::Pruned] {
                let tally = Tally::default();
                let cpu = Cpu::with_isa(isa).with_search(way).with_tally(&tally);
                let mut found = vec![7u32; rows];
                ops::search(&cpu, x, None, &packed, &mut found, None).expect("the shapes agree");
                assert!(found.iter().all(|&k| k == NO_CODE || (k as usize) < codes), "{cpu:?} {packing:?} {found:?}");
                if rows > 0 {
                    reach.tier(&cpu);
                }
                if tally.rows() > 0 {
                    reach.mark(if packing == Packing::Caps { PRUNED } else { COARSE });
                }
            }
            let mut best = vec![Candidate::NONE; rows * 3];
            let cpu = Cpu::with_isa(isa);
            ops::search_top(&cpu, x, None, &packed, mat_mut(&mut best, rows, 3)).expect("the shapes agree");
            assert!(best.iter().all(|c| c.code == NO_CODE || (c.code as usize) < codes));
        }
        if round == 0 {
            let count = 1 + input.below(4);
            let mut changed = input.codes(count, codes);
            changed.retain(|&k| k != NO_CODE);
            packed.repack_codes(mat(&book, codes, dim), &changed).expect("codes that exist");
            reach.mark(REPACKED);
        }
    }
    packed.repack(mat(&book, codes, dim)).expect("the same shape");
    if packing == Packing::F32 {
        let clean = PackedCodebook::with_packing(mat(&book, codes, dim), metric, packing).expect("the same shape");
        let floats = |packed: &PackedCodebook<Vec<Line>>| packed.lines().iter().flat_map(|l| l.0).collect::<Vec<_>>();
        crate::input::assert_bits(&floats(&packed), &floats(&clean), &"a whole repacking forgets what was there");
    }
}

/// One word, a few words, one bit of each, a stretch, or all; mostly behind the f32 panels, where the structure is.
fn damage(input: &mut Input, lines: &mut [Line], f32_lines: usize) {
    let copies = lines.len() - f32_lines;
    let how = input.below(6);
    let first = if copies > 0 && !input.once_in(4) { f32_lines } else { 0 };
    let span = if how == 3 { 2.min(lines.len() - first) } else { lines.len() - first };
    for _ in 0..[1, 4, 20, 3, 40, 16 * span][how] {
        let (at, lane) = (first + input.bits() as usize % span, input.bits() as usize % 16);
        let bits = lines[at].0[lane].to_bits();
        let bits = match input.bits() % 5 {
            0 => SPECIAL[input.bits() as usize % SPECIAL.len()].to_bits(),
            1 => (input.bits() % 2000) as u32,
            2 => bits ^ 1 << (input.bits() % 32),
            3 => bits.wrapping_add((input.bits() % 5) as u32).wrapping_sub(2),
            _ => input.bits() as u32,
        };
        lines[at].0[lane] = f32::from_bits(bits);
    }
}
