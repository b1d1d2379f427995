//! Search on every tier, in every way, from every packing, against `reference`.

use half::{bf16, f16};
use vq_kernels::ops::search::{self, Tally, reference_top};
use vq_kernels::ops::{self, Candidate, Search};
use vq_kernels::{Code, Cpu, Isa, Line, MatRef, Metric, NO_CODE, PackedCodebook, Packing};

use crate::Reach;
use crate::input::{Input, Stored, assert_bits, mat, mat_mut, stored};

const F32: usize = 0;
const COARSE: usize = 1;
const PRUNED: usize = 2;
const REPACKED: usize = 3;
const U16: usize = 4;
const HALF: usize = 5;

pub fn search(input: &mut Input, reach: &Reach) {
    // Not all pairs of types: each is a copy of every kernel.
    match input.below(5) {
        0 | 1 => of::<f32, u32>(input, reach),
        2 => of::<f16, u32>(input, reach),
        3 => of::<bf16, u32>(input, reach),
        _ => {
            of::<f32, u16>(input, reach);
            reach.mark(U16);
        }
    }
}

/// A codebook packed whole, or partly packed again; as f32, and as it is packed.
pub fn codebook<E: Stored>(
    input: &mut Input,
    (codes, dim): (usize, usize),
    repacked: impl Fn(),
) -> (Vec<f32>, PackedCodebook<Vec<Line>>) {
    let packing = input.pick(&[Packing::Caps, Packing::Int8, Packing::F32, Packing::Adaptive]);
    let cells = matches!(packing, Packing::Caps | Packing::Adaptive);
    let metric = if cells && !input.once_in(8) { Metric::Cosine } else { input.metric() };
    let unit = cells && !input.once_in(8);
    let make = |input: &mut Input| if unit { input.unit_matrix(codes, dim) } else { input.matrix(codes, dim) };
    let values = make(input);
    let (narrow, offset, wide) = stored::<E>(input, &values);
    let narrow = mat(&narrow[offset..], codes, dim);
    if !input.once_in(3) {
        let packed = PackedCodebook::with_packing(narrow, metric, packing).expect("a codebook's shape");
        return (wide, packed);
    }
    // Some codes were others before.
    let (before, mut changed) = (make(input), input.codes(codes, codes));
    changed.truncate(input.below(codes) + 1);
    changed.retain(|&k| k != NO_CODE);
    let mut old = values.clone();
    for &k in &changed {
        let at = k as usize * dim..(k as usize + 1) * dim;
        old[at.clone()].copy_from_slice(&before[at]);
    }
    let old: Vec<E> = old.into_iter().map(E::narrow).collect();
    let mut packed = PackedCodebook::with_packing(mat(&old, codes, dim), metric, packing).expect("a codebook's shape");
    packed.repack_codes(narrow, &changed).expect("codes that exist");
    repacked();
    (wide, packed)
}

fn ways(packing: Packing) -> &'static [Search] {
    match packing {
        Packing::F32 => &[Search::F32],
        Packing::Int8 | Packing::Bf16 => &[Search::F32, Search::Coarse, Search::Auto],
        Packing::Caps => &[Search::F32, Search::Pruned, Search::Auto],
        Packing::Adaptive => &[Search::F32, Search::Coarse, Search::Pruned, Search::Auto],
    }
}

fn of<E: Stored, C: Code>(input: &mut Input, reach: &Reach) {
    let (rows, codes, dim) = input.shape();
    let (c, packed) = match input.below(2) {
        0 => codebook::<f32>(input, (codes, dim), || reach.mark(REPACKED)),
        _ => codebook::<E>(input, (codes, dim), || reach.mark(REPACKED)),
    };
    let x = match input.below(3) {
        // Rows among the codes: the hard case of every bound.
        0 => (0..rows * dim).map(|i| c[i % c.len()]).collect(),
        1 => input.unit_matrix(rows, dim),
        _ => input.matrix(rows, dim),
    };
    let (x, offset, wide) = stored::<E>(input, &x);
    let x = mat(&x[offset..], rows, dim);
    let weights = input.weights(rows);
    let (mut expected, mut scores) = (vec![0u32; rows], vec![0.0f32; rows]);
    let (wide, c) = (mat(&wide, rows, dim), mat(&c, codes, dim));
    search::reference(wide, c, packed.metric(), &mut expected, Some(&mut scores));
    for row in 0..rows {
        if weights.as_ref().is_some_and(|w| w[row] == 0.0) {
            (expected[row], scores[row]) = (NO_CODE, f32::NAN);
        }
    }
    let split = input.below(rows + 1);
    let case = Case { x, weights: weights.as_deref(), packed: &packed, expected: &expected, scores: &scores, split };
    case.check::<C>(reach);
    if E::NAME != "f32" {
        reach.mark(HALF);
    }
}

struct Case<'a, E> {
    x: MatRef<'a, E>,
    weights: Option<&'a [f32]>,
    packed: &'a PackedCodebook<Vec<Line>>,
    expected: &'a [u32],
    scores: &'a [f32],
    split: usize,
}

impl<E: Stored> Case<'_, E> {
    fn check<C: Code>(&self, reach: &Reach) {
        let rows = self.x.rows();
        for isa in Isa::available() {
            for &way in ways(self.packed.packing()) {
                let tally = Tally::default();
                let cpu = Cpu::with_isa(isa).with_search(way).with_tally(&tally);
                let (mut codes, mut scores) = (vec![C::from_u32(7); rows], vec![7.0; rows]);
                // In two parts on one way, whole on the others: nothing may depend on it.
                let cut = if way == Search::Auto { self.split } else { 0 };
                for (first, count) in [(0, cut), (cut, rows - cut)] {
                    let weights = self.weights.map(|w| &w[first..first + count]);
                    let scores = (way != Search::Auto).then(|| &mut scores[first..first + count]);
                    let codes = &mut codes[first..first + count];
                    let found = ops::search(&cpu, self.x.rows_from(first, count), weights, self.packed, codes, scores);
                    found.expect("the shapes agree");
                }
                let context = (isa.name(), way, self.packed.packing(), self.packed.metric(), E::NAME);
                let codes: Vec<u32> = codes.into_iter().map(C::to_u32).collect();
                assert_eq!(codes, self.expected, "{context:?}");
                if way != Search::Auto {
                    assert_bits(&scores, self.scores, &context);
                }
                if rows > 0 {
                    reach.tier(&cpu);
                    reach.mark(match tally.rows() > tally.exact_rows() {
                        false => F32,
                        true if self.packed.packing() == Packing::Caps => PRUNED,
                        true => COARSE,
                    });
                }
            }
        }
    }
}

const FILLED_UP: usize = 0;
const BLOCKS: usize = 1;

pub fn search_top(input: &mut Input, reach: &Reach) {
    match input.below(3) {
        0 | 1 => top_of::<f32>(input, reach),
        _ => top_of::<f16>(input, reach),
    }
}

fn top_of<E: Stored>(input: &mut Input, reach: &Reach) {
    let (rows, codes, dim) = input.shape();
    let (c, packed) = codebook::<f32>(input, (codes, dim), || ());
    let m = input.pick(&[1, 2, 3, 5, 8, 17]);
    let x = input.matrix(rows, dim);
    let (x, offset, wide) = stored::<E>(input, &x);
    let (x, weights) = (mat(&x[offset..], rows, dim), input.weights(rows));
    let mut expected = vec![Candidate::NONE; rows * m];
    reference_top(mat(&wide, rows, dim), mat(&c, codes, dim), packed.metric(), &mut expected, m);
    for (row, best) in expected.chunks_exact_mut(m).enumerate() {
        if weights.as_ref().is_some_and(|w| w[row] == 0.0) {
            best.fill(Candidate::NONE);
        }
    }
    let block = input.below(rows + 1).max(1);
    for isa in Isa::available() {
        let cpu = Cpu::with_isa(isa);
        let mut got = vec![Candidate { score: 7.0, code: 7 }; rows * m];
        let best = mat_mut(&mut got, rows, m);
        ops::search_top(&cpu, x, weights.as_deref(), &packed, best).expect("the shapes agree");
        let codes_of = |best: &[Candidate]| best.iter().map(|c| c.code).collect::<Vec<_>>();
        let scores_of = |best: &[Candidate]| best.iter().map(|c| c.score).collect::<Vec<_>>();
        assert_eq!(codes_of(&got), codes_of(&expected), "{} m {m}", isa.name());
        assert_bits(&scores_of(&got), &scores_of(&expected), &isa.name());
        let (mut mth, mut scratch) = (vec![7; rows], vec![Candidate::NONE; m * block + m / 2]);
        ops::search_mth(&cpu, x, weights.as_deref(), &packed, m, &mut mth, &mut scratch).expect("the shapes agree");
        assert!(mth.iter().copied().eq(expected.chunks_exact(m).map(|best| best[m - 1].code)), "{}", isa.name());
        if rows > 0 {
            reach.tier(&cpu);
            reach.mark(if m > codes { FILLED_UP } else { BLOCKS });
        }
    }
}
