//! Counting, pruning and renumbering against maps; a refused call changes nothing.

use vq_kernels::NO_CODE;
use vq_kernels::ops::usage as op;

use crate::Reach;
use crate::input::Input;

const PRUNED: usize = 0;
const REFUSED: usize = 1;

pub fn usage(input: &mut Input, reach: &Reach) {
    let (rows, k, dim) = (input.rows(), input.pick(&[1, 2, 3, 8, 30, 0]), input.below(4));
    let (mut codes, weights) = (input.codes(rows, k.max(1)), input.weights(rows));
    if input.once_in(4) && rows > 0 {
        let at = input.below(rows);
        codes[at] = k as u32 + input.below(3) as u32;
    }
    let before: Vec<u64> = (0..k).map(|_| input.bits() % 3).collect();
    let mut counts = before.clone();
    let valid = codes.iter().all(|&code| code == NO_CODE || (code as usize) < k);
    let counted = op::count(&codes, weights.as_deref(), &mut counts);
    assert_eq!(counted.is_ok(), valid);
    for code in 0..k {
        let of_code = |row: &usize| codes[*row] as usize == code && weights.as_ref().is_none_or(|w| w[*row] > 0.0);
        let hits = if valid { (0..rows).filter(of_code).count() as u64 } else { 0 };
        assert_eq!(counts[code], before[code] + hits);
    }
    let narrow: Vec<u16> = codes.iter().map(|&code| code.min(65_535) as u16).collect();
    let mut narrow_counts = before.clone();
    assert_eq!(op::count(&narrow, weights.as_deref(), &mut narrow_counts).is_ok(), valid);
    assert_eq!(narrow_counts, counts);
    let usage = op::Usage::of(&counts);
    let active = counts.iter().filter(|&&n| n > 0).count();
    assert_eq!((usage.codes, usage.active, usage.rows), (k, active, counts.iter().sum()));
    assert!(usage.perplexity <= active as f64 * (1.0 + 1e-9) && (active == 0 || usage.perplexity >= 1.0 - 1e-9));
    // -- pruning, on a table that holds each code's own number
    let (at_least, mut remap) = (input.below(4) as u64, vec![7; k]);
    let kept = op::prune(&counts, at_least, &mut remap).expect("the lengths agree");
    let survivors: Vec<usize> = (0..k).filter(|&code| counts[code] >= at_least).collect();
    assert_eq!(kept, survivors.len());
    for (code, &remapped) in remap.iter().enumerate() {
        let new = survivors.iter().position(|&survivor| survivor == code).map_or(NO_CODE, |new| new as u32);
        assert_eq!(remapped, new);
    }
    let mut table: Vec<usize> = (0..k).flat_map(|code| vec![code; dim]).collect();
    op::compact(&mut table, dim, &remap).expect("what prune gave");
    assert!(table[..kept * dim].iter().copied().eq(survivors.iter().flat_map(|&code| vec![code; dim])));
    let old = codes.clone();
    let renumbered = op::renumber(&mut codes, &remap);
    assert_eq!(renumbered.is_ok(), valid);
    for (new, old) in codes.iter().zip(&old) {
        assert_eq!(*new, if valid && *old != NO_CODE { remap[*old as usize] } else { *old });
    }
    reach.mark(PRUNED);
    // -- a remap that prune does not give
    if k > 0 && input.once_in(2) {
        let (at, table_before) = (input.below(k), table.clone());
        remap[at] = input.below(k + 2) as u32;
        let mut next = 0;
        let ascending = remap.iter().filter(|new| **new != NO_CODE).all(|&new| {
            next += 1;
            new == next - 1
        });
        let compacted = op::compact(&mut table, dim, &remap);
        assert_eq!(compacted.is_ok(), ascending);
        if !ascending {
            assert_eq!(table, table_before);
            reach.mark(REFUSED);
        }
    }
}
