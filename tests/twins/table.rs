//! The table of twins in `src/cuda/twins.md` is whole, and what it names is there.

use std::collections::BTreeSet;

const TABLE: &str = include_str!("../../src/cuda/twins.md");

/// Sources by the path of their module, of ops on the CPU and on a device.
const CPU: &[(&str, &str)] = &[
    ("ops", include_str!("../../src/ops/project.rs")),
    ("ops", include_str!("../../src/ops/normalize.rs")),
    ("ops", include_str!("../../src/ops/search.rs")),
    ("ops", include_str!("../../src/ops/search/top.rs")),
    ("ops", include_str!("../../src/ops/gather.rs")),
    ("ops", include_str!("../../src/ops/fixed.rs")),
    ("ops", include_str!("../../src/ops/unpacked.rs")),
    ("ops", include_str!("../../src/ops/restart.rs")),
    ("ops::loss", include_str!("../../src/ops/loss.rs")),
    ("ops::ema", include_str!("../../src/ops/ema.rs")),
    ("ops::usage", include_str!("../../src/ops/usage.rs")),
    ("kmeans", include_str!("../../src/kmeans.rs")),
];
const DEVICE: &[(&str, &str)] = &[
    ("ops", include_str!("../../src/cuda/ops/project.rs")),
    ("ops", include_str!("../../src/cuda/ops/normalize.rs")),
    ("ops", include_str!("../../src/cuda/ops/search.rs")),
    ("ops", include_str!("../../src/cuda/ops/search_top.rs")),
    ("ops", include_str!("../../src/cuda/ops/gather.rs")),
    ("ops", include_str!("../../src/cuda/ops/restart.rs")),
    ("ops::loss", include_str!("../../src/cuda/ops/loss.rs")),
    ("ops::ema", include_str!("../../src/cuda/ops/ema.rs")),
    ("ops::usage", include_str!("../../src/cuda/ops/usage.rs")),
    ("kmeans", include_str!("../../src/cuda/kmeans/steps.rs")),
];
const TESTS: &[(&str, &str)] = &[
    ("project", include_str!("project.rs")),
    ("normalize", include_str!("normalize.rs")),
    ("search", include_str!("search.rs")),
    ("gather", include_str!("gather.rs")),
    ("loss", include_str!("loss.rs")),
    ("ema", include_str!("ema.rs")),
    ("restart", include_str!("restart.rs")),
    ("usage", include_str!("usage.rs")),
    ("kmeans_pass", include_str!("kmeans_pass.rs")),
    ("quantizer", include_str!("quantizer.rs")),
];

/// Paths of a module's public functions, and the names of their arguments.
fn functions(sources: &[(&str, &'static str)]) -> Vec<(String, Vec<&'static str>)> {
    let mut found = Vec::new();
    for (module, source) in sources {
        for rest in source.split("\npub fn ").skip(1) {
            let name = rest.split(['<', '(']).next().unwrap_or_default();
            let arguments = rest.split_once('(').and_then(|(_, rest)| rest.split_once(") ->"));
            let arguments = arguments.map_or("", |(arguments, _)| arguments).split(": ");
            // What stands before a colon ends with the argument's name.
            let names = arguments.filter_map(|part| part.split([' ', '\n', ',', '(']).next_back());
            let mut names: Vec<&str> = names.collect();
            names.pop();
            found.push((format!("{module}::{name}"), names));
        }
    }
    found
}

/// What stands between backticks.
fn named(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

#[test]
fn every_op_has_its_line() {
    let table: BTreeSet<&str> = named(TABLE).collect();
    let (cpu, device) = (functions(CPU), functions(DEVICE));
    assert!(cpu.len() > 20 && device.len() > 20, "{} and {} functions found", cpu.len(), device.len());
    for (path, _) in cpu.iter().chain(&device) {
        // Plain loops for tests, and what tells how much scratch an op wants, are no ops.
        if !path.contains("::reference") && !path.ends_with("_len") {
            assert!(table.contains(path.as_str()), "{path} is not in src/cuda/twins.md");
        }
    }
    for line in TABLE.lines().filter(|line| line.starts_with("| `")) {
        let columns: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, _, there, test, _] = columns[..] else { panic!("three columns: {line}") };
        for path in named(there).filter(|path| path.chars().all(|c| !c.is_uppercase())) {
            assert!(device.iter().any(|(found, _)| found == path), "{path} is not in src/cuda");
        }
        let (module, name) = named(test).next().and_then(|test| test.split_once("::")).expect("a test's path");
        let source = TESTS.iter().find(|(found, _)| *found == module).map_or("", |(_, source)| source);
        assert!(source.contains(&format!("#[test]\nfn {name}() {{")), "{module}::{name} is no test");
    }
}

/// The CPU's arguments come in their order among the device's, which has a queue for the `Cpu`, and room of its own.
#[test]
fn arguments_come_in_the_cpus_order() {
    let device = functions(DEVICE);
    let mut compared = 0;
    for (path, expected) in functions(CPU) {
        let Some((_, found)) = device.iter().find(|(found, _)| *found == path) else { continue };
        assert_eq!(found.first(), Some(&"queue"), "{path}");
        let mut rest = found.iter();
        for name in expected.iter().filter(|name| **name != "cpu") {
            assert!(rest.any(|found| found == name), "{path}: {name} of {expected:?} in {found:?}");
        }
        compared += 1;
    }
    assert_eq!(compared, 20);
}
