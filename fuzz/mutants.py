#!/usr/bin/env python3
"""Mutants of the kernels, all in one build: each is compiled in behind a switch, and VQ_MUTANT chooses one.

    python3 fuzz/mutants.py FOLDER [first [last]]     # FOLDER: a copy of the repository is made and built there; first .. last

A mutant is (file, old text, new text); `old` is an expression, or statements that end in `;`.
It counts as found when the fuzz driver or one of the suites fails with it; what survives is printed at the end, with the
reason why it may (REASONS). The suites are built by tests/portable, without what only examples and benchmarks need.
"""

import os, pathlib, re, shutil, subprocess, sys

ROOT = pathlib.Path(__file__).resolve().parent.parent

MUTANTS = [
    # -- chain
    ("ops/chain.rs", "r += 2 * TILE_ROWS;", "r += TILE_ROWS;"),
    ("ops/chain.rs", "!width.is_multiple_of(V::N)", "false"),
    ("ops/chain.rs", "o + full * V::N", "o"),
    ("ops/chain.rs", "sink.start(r + i, o + v * V::N, n)", "V::splat(0.0)"),
    ("ops/chain.rs", "if n == V::N { V::load(p) } else { V::load_partial(p, n) }", "V::load_partial(p, n.min(V::N - 1))"),
    # -- ema
    ("ops/ema.rs", "mantissa == 0.5", "false"),
    ("ops/ema.rs", "row.is_finite() && row > largest", "row > largest"),
    ("ops/ema.rs", "code != NO_CODE && weight(weights, row) > 0.0", "code != NO_CODE"),
    ("ops/ema.rs", "!(0..=FULL).contains(n)", "!(0..FULL).contains(n)"),
    ("ops/ema.rs", "sum.unsigned_abs() > of_code(index)", "sum.unsigned_abs() >= of_code(index)"),
    ("ops/ema.rs", "i128::from(halves.0) << 32", "i128::from(halves.0) << 31"),
    ("ops/ema.rs", "*n != 0", "*n > 1 << 40"),
    ("ops/ema.rs", "rest > half || (rest == half", "rest >= half || (rest == half"),
    ("ops/ema.rs", "floor & 1 == 1", "floor & 1 == 0"),
    ("ops/ema.rs", "half > 0 &&", "true &&"),
    ("ops/ema.rs", "exponent.clamp(self.exponent, 128)", "exponent.min(128)"),
    ("ops/ema.rs", "exponent(x, codes, weights)? > self.exponent", "exponent(x, codes, weights)? > self.exponent + 1"),
    ("ops/ema.rs", "a.saturating_add(b) > FULL", "a.saturating_add(b) >= FULL"),
    ("ops/ema.rs", "self.exponent != other.exponent", "false"),
    ("ops/ema.rs", "*total > FULL - ONE", "*total >= FULL - ONE"),
    ("ops/ema.rs", "*total > FULL - ONE", "*total > FULL"),
    ("ops/ema.rs", "left_out += 1;", ";"),
    ("ops/ema.rs", "totals[k] -= rounded(w * ONE as f64);", ";"),
    ("ops/ema.rs", "(value + SHIFT).to_bits()", "(value.trunc() + SHIFT).to_bits()"),
    ("ops/ema.rs", "self.mean.iter().any(|&x| x != 0.0)", "true"),
    ("ops/ema.rs", "moved < SMALLEST", "moved < 0.0"),
    ("ops/ema.rs", "self.rows_seen += total;", "self.rows_seen = total;"),
    ("ops/ema.rs", "*last_seen = self.rows_seen;", ";"),
    ("ops/ema.rs", "(1.0 - decay) * statistics.weight(k)", "statistics.weight(k)"),
    # -- gather, lanes
    ("ops/gather.rs", "[] => out.fill(T::default())", "[] => ()"),
    ("ops/gather.rs", "first * dim, count * dim", "0, count * dim"),
    ("ops/lanes32.rs", "else if at < d", "else if at + 1 < d"),
    ("ops/lanes32.rs", "at + V::N <= d", "at + V::N < d"),
    ("ops/lanes32.rs", "t.mul_add(t, sum)", "t.mul_add(a, sum)"),
    ("ops/lanes32.rs", "[16, 8, 4, 2, 1]", "[16, 8, 4, 1, 2]"),
    # -- loss
    ("ops/loss.rs", "weights += w;", ";"),
    ("ops/loss.rs", "self.codes[row] != NO_CODE && w > 0.0", "w > 0.0"),
    ("ops/loss.rs", "self.codes[row] == NO_CODE || s == 0.0", "self.codes[row] == NO_CODE"),
    ("ops/loss.rs", "closeness >= SMALLEST", "closeness > 0.0"),
    ("ops/loss.rs", "nx.is_normal()", "true"),
    ("ops/loss.rs", "2.0 * vg - a", "vg - a"),
    ("ops/loss.rs", "-scale * a / nq", "scale * a / nq"),
    ("ops/loss.rs", "i + V::N <= dim", "i + V::N < dim"),
    ("ops/loss.rs", "if elements > 0.0", "if true"),
    ("ops/loss.rs", "NO_CODE => dx.fill(0.0)", "NO_CODE => ()"),
    # -- normalize
    ("ops/normalize.rs", "!(f32::SMALLEST_SQUARE..f32::INFINITY).contains(&n)", "!(0.0..f32::INFINITY).contains(&n)"),
    ("ops/normalize.rs", "!(f32::SMALLEST_SQUARE..f32::INFINITY).contains(&n)", "n == 0.0"),
    ("ops/normalize.rs", "norm == 0.0", "false"),
    ("ops/normalize.rs", "largest == F::zero() || ", "false || "),
    ("ops/normalize.rs", "mantissa.ilog2() as i32 + 1", "mantissa.ilog2() as i32 - 90"),
    ("ops/normalize.rs", "V::splat(-lanes32::dot::<V>(y, dy, dim))", "V::splat(lanes32::dot::<V>(y, dy, dim))"),
    # -- project
    ("ops/project.rs", "None => y.fill(0.0)", "None => ()"),
    ("ops/project.rs", "dx.fill(0.0);", ";"),
    ("ops/project.rs", "*dw += f64::from(sum)", "*dw = f64::from(sum)"),
    ("ops/project.rs", "TILE_ROWS.min(x.rows() - r)", "(x.rows() - r).min(TILE_ROWS - 1)"),
    ("ops/project.rs", "&block.row(m)[c * COLUMNS..]", "block.row(m)"),
    ("ops/project.rs", "x.rows_from(row, ROW_BLOCK)", "x.rows_from(0, ROW_BLOCK)"),
    ("ops/project.rs", "self.first + o, n", "o, n"),
    # -- restart
    ("ops/restart.rs", "expected_hits < rule.patience", "expected_hits <= rule.patience"),
    ("ops/restart.rs", "relative_use >= rule.share", "relative_use > rule.share"),
    ("ops/restart.rs", "mean.row(code).copy_from_slice(x.row(row));", ";"),
    ("ops/restart.rs", "activity.reset(code);", ";"),
    ("ops/restart.rs", "x != codebook.as_ref().row(code as usize)", "true"),
    ("ops/restart.rs", "x.iter().all(|x| x.is_finite())", "true"),
    ("ops/restart.rs", "weight(self.weights, row) > 0.0", "true"),
    ("ops/restart.rs", "(slot + 1) & mask", "(slot + 2) & mask"),
    ("ops/restart.rs", "(x + 0.0).to_bits()", "x.to_bits()"),
    ("ops/restart.rs", "scratch.fill(0);", ";"),
    # -- usage, weights
    ("ops/usage.rs", "super::weight(weights, row) > 0.0", "true"),
    ("ops/usage.rs", "n >= at_least { kept", "n > at_least { kept"),
    ("ops/usage.rs", "new != NO_CODE && new != next", "new != NO_CODE && new > next"),
    ("ops/weights.rs", "!(0.0..=1.0).contains(w)", "!(0.0..1.0).contains(w)"),
    ("ops/weights.rs", "code.to_u32() as usize >= codes", "code.to_u32() as usize > codes"),
    # -- search in f32
    ("ops/search/kernel.rs", "((g + 1) * size).min(codebook.panels())", "(g * size + 1).min(codebook.panels())"),
    ("ops/search/kernel.rs", "*sum = V::load(start.add(first + v * V::N));", "*sum = V::load(start.add(v * V::N));"),
    ("ops/search/kernel.rs", "running.group = best.select_gt(running.best, group, running.group);", "running.group = group;"),
    ("ops/search/kernel.rs", "maximum == f32::NEG_INFINITY", "false"),
    ("ops/search/kernel.rs", "g.to_bits() as usize).min()", "g.to_bits() as usize).max()"),
    ("ops/search/kernel.rs", "PANEL.min(codebook.codes() - p * PANEL)", "PANEL"),
    ("ops/search/kernel.rs", "weight(self.weights, row) == 0.0", "false"),
    ("ops/search/kernel.rs", "V::splat(-0.5)", "V::splat(-1.0)"),
    # -- the best m
    ("ops/search/top.rs", "self.code > other.code", "self.code < other.code"),
    ("ops/search/top.rs", "hindmost.code == NO_CODE ||", "false ||"),
    ("ops/search/top.rs", "!score.is_nan()", "true"),
    ("ops/search/top.rs", "child + 1 < len && self", "child + 2 < len && self"),
    ("ops/search/top.rs", "PANEL.min(codebook.codes() - p * PANEL)", "PANEL"),
    # -- the coarse pass
    ("ops/search/coarse/bytes.rs", "poison != 0.0 ||", "false ||"),
    ("ops/search/coarse/bytes.rs", "norm * residual + error * coarse_norm", "error * coarse_norm"),
    ("ops/search/coarse/bytes.rs", "norm * residual + error * coarse_norm", "norm * residual"),
    ("ops/search/coarse/bytes.rs", "+ half_norm_error + chain", "+ chain"),
    ("ops/search/coarse/bytes.rs", "+ half_norm_error + chain", "+ half_norm_error"),
    ("ops/search/coarse/bytes.rs", "2.0 * bound / unit", "1.0 * bound / unit"),
    ("ops/search/coarse/bytes.rs", "D::BIAS * sums.iter().sum::<i32>()", "(D::BIAS - 1) * sums.iter().sum::<i32>()"),
    ("ops/search/coarse/bytes.rs", "f64::from(score) - self.bound", "f64::from(score)"),
    ("ops/search/coarse/block.rs", "near.score >= self.threshold[i]", "near.score > self.threshold[i]"),
    ("ops/search/coarse/block.rs", "self.threshold[i] = B::NEVER;", ";"),
    ("ops/search/coarse/bytes.rs", "reached & ((1 << part.lanes.saturating_sub(from)) - 1)", "reached"),
    ("ops/search/coarse.rs", "near.group != first.group", "near.group > first.group"),
    ("ops/search/coarse.rs", "best = if best.behind(&other) { other } else { best };", ";"),
    ("ops/search/coarse.rs", "zip(first..codebook.codes())", "zip(first..usize::MAX)"),
    ("ops/search/coarse/bytes.rs", "coarse.abs() > 32_767.0", "false"),
    ("ops/search/coarse.rs", "best.code == NO_CODE", "false"),
    # -- the pruned pass
    ("ops/search/pruned/angles.rs", "score > 0.0 && t > 0.0", "true"),
    ("ops/search/pruned/angles.rs", "!bound.gt_mask(V::load(angles.as_ptr().add(from))) & ((1 << V::N) - 1)", "bound.gt_mask(V::load(angles.as_ptr().add(from)))"),
    ("ops/search/pruned/angles.rs", "V::splat(SLACK)", "V::splat(0.0)"),
    ("ops/search/pruned/angles.rs", "(crate::simd::sqrt(1.0 - t * t) + 1e-7) as f32", "0.0"),
    ("ops/search/pruned/cells.rs", "near.group != NO_CODE", "true"),
    ("ops/search/pruned/cells.rs", "self.block.demand(i, row.reach(score));", ";"),
    ("ops/search/pruned/cells.rs", "near.score >= reach && near.group != first", "near.score > reach && near.group != first"),
    ("ops/search/pruned/cells.rs", "at >= self.codebook.codes()", "false"),
    # -- the copies
    ("codebook/int8.rs", "lanes[used..].fill(values[0]);", ";"),
    ("codebook/int8.rs", "c.to_f32().abs() <= scale * 127.0", "true"),
    ("codebook/int8.rs", "self.header.widen(&squares);", ";"),
    ("codebook/int8.rs", "copies.for_each(|j| self.put_half_norm(j, -h));", "copies.for_each(|j| self.put_half_norm(j, h));"),
    ("codebook/int8.rs", "self.header.half_norm = self.header.half_norm.max(h.abs());", ";"),
    ("codebook/int8.rs", "{ narrow.next_up() }", "{ narrow }"),
    ("codebook/caps.rs", "self.cosines[cell] = self.cosines[cell].min(cosine as f32);", "self.cosines[cell] = cosine as f32;"),
    ("codebook/caps.rs", "cosine <= 0.0", "false"),
    ("codebook/caps.rs", "self.order[at] == NO_CODE { steps }", "self.order[at] == NO_CODE { 0 }"),
    # -- the layer
    ("quantizer/pass.rs", "finite(x.row(row)) && finite(seen.row(row))", "finite(seen.row(row))"),
    ("quantizer/pass.rs", "clear_uncoded(&pass.codes, inputs, &mut pass.doutput);", ";"),
    ("quantizer/pass.rs", "clear_uncoded(&pass.codes, inputs, &mut trained);", ";"),
    ("quantizer/parameters.rs", "n * f64::from(e) - s", "n * f64::from(e) + s"),
    ("quantizer/parameters.rs", "through_norm(cpu, &raw, dim, gradients)?;", ";"),
    ("quantizer/step.rs", "changed.extend(self.pass.restarted.iter().map(|restarted| restarted.code));", ";"),
    ("quantizer/step.rs", "self.gradients.clear();", ";"),
    ("quantizer/state.rs", "self.gradients = Default::default();", ";"),
    # -- k-means
    ("kmeans.rs", "|| taken.contains(&value)", ""),
    ("kmeans.rs", "if keep { self.seen[k] } else { 0.0 }", "0.0"),
    ("kmeans.rs", "exponent > self.statistics.exponent()", "false"),
]

# Survivors that change no result.
REASONS = {
    42: "the last whole register is then loaded as a remainder of N lanes, which is the same load",
    65: "only the order of probing: rows take at most half of the slots, and as many are left on every other slot",
    86: "a NaN in a row makes its error, so its bound, so its margin NaN, and then there is no margin either",
    94: "the margin is rounded up by more than 1, so no code that is needed is ever just at the threshold",
    100: "dead: what `fine` leaves of a factor up to 32,767 is at most a half, so `coarse` at most 32",
    101: "rows with a bound and codebooks with a copy have finite scores alone, so some code is always found; the f32 pass behind it is a second belt",
    107: "keeps more codes than it must, which the exact score leaves out when they are rescored",
    108: "both thresholds, like the margin, are rounded by more than 1",
    115: "the chain's term counts d + 1 roundings for d: what is to spare is more than the bounds lose by rounding down",
    119: "what a projection or a norm makes of a row that is not finite is not finite either",
}

SWITCH = """
#[doc(hidden)]
#[allow(missing_docs)]
pub fn mutant(n: usize) -> bool {
    static CHOSEN: std::sync::OnceLock<usize> = std::sync::OnceLock::new();
    *CHOSEN.get_or_init(|| std::env::var("VQ_MUTANT").ok().and_then(|n| n.parse().ok()).unwrap_or(usize::MAX)) == n
}
"""

# The quick ones first; `lib` are the unit tests.
SUITES = ["lib", "errors", "gradients", "restart", "properties", "certificate", "differential", "determinism"]
ENV = dict(os.environ, RUST_BACKTRACE="0", CARGO_PROFILE_RELEASE_INCREMENTAL="true")


def switched(n, old, new):
    """`old` and `new` behind the switch: as statements, as a pattern's arm, as an expression, or as a part of one."""
    if old.endswith(";"):
        # A semicolon alone drops the statement.
        return f"if crate::mutant({n}) {{ {new} }} else {{ {old} }}"
    if " => " in old:
        pattern, body = old.split(" => ", 1)
        return f"{pattern} => if crate::mutant({n}) {{ {new.split(' => ', 1)[1]} }} else {{ {body} }}"
    return None


def write(copy):
    """Puts all mutants into the copy's sources; several of one place nest."""
    places = {}
    for n, (file, old, new) in enumerate(MUTANTS):
        places.setdefault((file, old), []).append((n, new))
    for (file, old), mutants in places.items():
        path = copy / "src" / file
        text = path.read_text()
        # References are left as they are.
        count = text.count(old)
        assert count >= 1, f"{file}: {old!r} is not there"
        body = old
        for n, new in mutants:
            whole = switched(n, body, new)
            if whole:
                body = whole
                continue
            # Part of an expression: what is the same at both ends stays outside of the switch.
            body = part(n, body, new)
        at = text.rindex(old) if file in LAST else text.index(old)
        path.write_text(text[:at] + body + text[at + len(old):])
    lib = copy / "src/lib.rs"
    lib.write_text(lib.read_text() + SWITCH)


# Where the kernel comes after a reference that reads alike.
LAST = {"ops/loss.rs", "ops/normalize.rs", "ops/project.rs"}


# What cannot be put into parentheses as a whole.
FORMS = {
    "half > 0 &&": "(if crate::mutant({n}) {{ true }} else {{ half > 0 }}) &&",
    "rest > half || (rest == half": "(if crate::mutant({n}) {{ rest >= half }} else {{ rest > half }}) || (rest == half",
    "else if at < d": "else if (if crate::mutant({n}) {{ at + 1 < d }} else {{ at < d }})",
    "if elements > 0.0": "if crate::mutant({n}) || elements > 0.0",
    "largest == F::zero() || ": "(!crate::mutant({n}) && largest == F::zero()) || ",
    "first * dim, count * dim": "if crate::mutant({n}) {{ 0 }} else {{ first * dim }}, count * dim",
    "self.first + o, n": "if crate::mutant({n}) {{ 0 }} else {{ self.first }} + o, n",
    "n >= at_least { kept": "(if crate::mutant({n}) {{ n > at_least }} else {{ n >= at_least }}) {{ kept",
    "g.to_bits() as usize).min()":
        "if crate::mutant({n}) {{ usize::MAX - g.to_bits() as usize }} else {{ g.to_bits() as usize }}).min()"
        ".map(|g| if crate::mutant({n}) {{ usize::MAX - g }} else {{ g }})",
    "hindmost.code == NO_CODE ||": "(!crate::mutant({n}) && hindmost.code == NO_CODE) ||",
    "child + 1 < len && self": "child + (if crate::mutant({n}) {{ 2 }} else {{ 1 }}) < len && self",
    "poison != 0.0 ||": "(!crate::mutant({n}) && poison != 0.0) ||",
    "zip(first..codebook.codes())": "zip(first..if crate::mutant({n}) {{ usize::MAX }} else {{ codebook.codes() }})",
    "score >= kept.threshold && code":
        "(score > kept.threshold || (!crate::mutant({n}) && score == kept.threshold)) && code",
    "{ narrow.next_up() }": "{{ if crate::mutant({n}) {{ narrow }} else {{ narrow.next_up() }} }}",
    "self.order[at] == NO_CODE { steps }": "!crate::mutant({n}) && self.order[at] == NO_CODE {{ steps }}",
    "|| taken.contains(&value)": "|| (!crate::mutant({n}) && taken.contains(&value))",
}


def part(n, old, new):
    if old in FORMS:
        return FORMS[old].format(n=n)
    if old.startswith("+ "):
        # A sum's tail.
        return f"+ if crate::mutant({n}) {{ {new[2:]} }} else {{ {old[2:]} }}"
    return f"(if crate::mutant({n}) {{ {new} }} else {{ {old} }})"


# The target that a file's mutants meet first.
FIRST = {
    "ops/chain.rs": "project", "ops/ema.rs": "ema", "ops/gather.rs": "quantizer", "ops/lanes32.rs": "normalize",
    "ops/loss.rs": "loss", "ops/normalize.rs": "normalize", "ops/project.rs": "project", "ops/restart.rs": "restart",
    "ops/usage.rs": "usage", "ops/weights.rs": "usage", "ops/search/top.rs": "search_top", "kmeans.rs": "kmeans",
    "quantizer/pass.rs": "quantizer", "quantizer/parameters.rs": "quantizer", "quantizer/step.rs": "quantizer",
    "quantizer/state.rs": "quantizer",
}


def found_by(n, runs, cwd):
    """The first of the runs that fails with mutant `n`."""
    env = dict(ENV, **({} if n is None else {"VQ_MUTANT": str(n)}))
    for name, run in runs:
        try:
            if subprocess.run(run, cwd=cwd, env=env, capture_output=True, timeout=300).returncode != 0:
                return name
        except subprocess.TimeoutExpired:
            return f"{name}, which does not end"
    return None


def tell(n, by):
    file, old, new = MUTANTS[n]
    print(f"{n:3} {file}: {old!r} -> {new!r}: {'found by ' + by if by else 'SURVIVES so far'}", flush=True)


def main():
    copy = pathlib.Path(sys.argv[1]).resolve() / "mutated"
    first, last = ([int(a) for a in sys.argv[2:]] + [0, len(MUTANTS)][len(sys.argv) - 2:])[:2]
    if not copy.exists():
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns("target", ".git", "out", "mutants.out*"))
        write(copy)
    subprocess.run(["cargo", "build", "--release", "--bin", "drive"], cwd=copy / "fuzz", env=ENV, check=True)
    drive = str(pathlib.Path(ENV.get("CARGO_TARGET_DIR", copy / "fuzz/target")) / "release/drive")
    rest = ("fuzz: all", [drive, "all", "800"])
    assert found_by(None, [rest], copy) is None, "the driver fails without a mutant"
    survivors = []
    for n in range(first, last):
        target = FIRST.get(MUTANTS[n][0], "search")
        by = found_by(n, [(f"fuzz: {target}", [drive, target, "3000"]), rest], copy)
        tell(n, by)
        survivors += [] if by else [n]
    if survivors:
        command = ["cargo", "test", "--release", "--no-run", "--manifest-path", "tests/portable/Cargo.toml"]
        tests = [a for suite in SUITES for a in (["--lib"] if suite == "lib" else ["--test", suite])]
        command += ["--target-dir", str(copy / "portable")] + tests
        built = subprocess.run(command, cwd=copy, env=ENV, check=True, capture_output=True, text=True).stderr
        found = dict(re.findall(r"(\w+)\.rs \((.*)\)", built))
        runs = [("unit tests" if name == "lib" else f"tests/{name}.rs", [str(copy / found[name])]) for name in SUITES if name in found]
        assert len(runs) == len(SUITES) and found_by(None, runs, copy) is None, "the suites fail without a mutant"
        for n in list(survivors):
            by = found_by(n, runs, copy)
            tell(n, by)
            if by:
                survivors.remove(n)
    for n in survivors:
        print(f"{n:3} survives: {REASONS.get(n, 'WITHOUT A REASON')}")
    unexplained = [n for n in survivors if n not in REASONS]
    print(f"{last - first} mutants, {len(survivors)} survive, {len(unexplained)} of them without a reason: {unexplained}")
    sys.exit(bool(unexplained))


if __name__ == "__main__":
    main()
