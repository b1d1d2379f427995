//! On stable: the committed corpus and pseudo-random inputs through every target, each of which must reach all its marks.

use std::path::Path;

use vq_fuzz::{Target, bytes_of};

/// About 30 seconds in release for all.
fn replay(name: &str, runs: u64) {
    let target = Target::named(name);
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
    let mut seeds = 0;
    for seed in std::fs::read_dir(&corpus).expect("a corpus for each target") {
        target.run(&std::fs::read(seed.expect("a file").path()).expect("a readable file"));
        seeds += 1;
    }
    assert!(seeds > 0, "{} is empty", corpus.display());
    for n in 0..runs {
        target.run(&bytes_of(0x7E57, n));
    }
    target.assert_reached();
    println!("{name}: {seeds} seeds and {runs} inputs, {:?}", target.reached());
}

macro_rules! replay {
    ($($name:ident $runs:literal)*) => {$(
        #[test]
        fn $name() {
            replay(stringify!($name), $runs);
        }
    )*};
}

replay! {
    search 8_000
    search_top 8_000
    normalize 30_000
    project 15_000
    loss 20_000
    ema 20_000
    restart 30_000
    usage 30_000
    quantizer 3_000
    kmeans 8_000
    shapes 30_000
    lines 3_000
    files 5_000
}
