//! `speed`: one line of figures for each op.

use vq_kernels::Isa;

use crate::place::{Place, too_slow};

#[test]
fn every_op_prints_one_line_of_figures() {
    if too_slow("checking an op against its reference") {
        return;
    }
    const FIELDS: [&str; 14] = [
        "codes",
        "dim",
        "groups_per_row",
        "isa",
        "limit_s",
        "median_s",
        "min_s",
        "op",
        "rows",
        "rows_in_f32",
        "search",
        "share_of_limit",
        "threads",
        "us_per_row",
    ];
    let place = Place::new();
    let own = [("search", 65), ("project", 0), ("normalize", 0), ("ema", 65), ("step", 65)];
    let more = [
        "project-input",
        "project-weight",
        "normalize-backward",
        "straight-through",
        "rotation",
        "loss",
        "loss-backward",
    ];
    let more = more.map(|op| (op, 0)).into_iter().chain([("gather", 65), ("restart", 65), ("search --changing", 65)]);
    for (op, codes) in own.into_iter().chain(more) {
        for isa in Isa::available() {
            for threads in [1, 2] {
                let line = format!(
                    "speed --op {op} --rows 33 --codes 65 --dim 9 --repeat 2 --isa {} --threads {threads} --json",
                    isa.name()
                );
                let figures = place.run(&line).ok().json();
                let keys: Vec<&String> = figures.as_object().expect("an object").keys().collect();
                assert_eq!(keys, FIELDS, "{line}");
                let count = |key: &str| figures[key].as_u64().expect("a whole number");
                assert_eq!(["rows", "codes", "dim", "threads"].map(count), [33, codes, 9, threads], "{line}");
                let op = op.split(' ').next().expect("a name");
                assert_eq!((&figures["op"], &figures["isa"]), (&op.into(), &isa.name().into()), "{line}");
                let number = |key: &str| figures[key].as_f64().expect("a number");
                let [min, median, limit, share] = ["min_s", "median_s", "limit_s", "share_of_limit"].map(number);
                assert!(0.0 < min && min <= median && median < 1.0 && limit > 0.0, "{line}: {figures}");
                assert!((share * median / limit - 1.0).abs() < 1e-9, "{line}: {figures}");
                assert!((number("us_per_row") * 33.0 / (1e6 * median) - 1.0).abs() < 1e-9, "{line}: {figures}");
            }
        }
    }
}

#[test]
fn without_json_the_line_is_for_people() {
    if too_slow("checking an op against its reference") {
        return;
    }
    let done = Place::new().run("speed --op search --metric l2 --rows 8 --codes 20 --dim 4 --repeat 1").ok();
    assert_eq!(done.stdout.lines().count(), 1);
    for part in ["search", "8 rows", "20 codes", "dim 4", "median", "limit"] {
        assert!(done.stdout.contains(part), "no `{part}` in {}", done.stdout);
    }
}
