#!/usr/bin/env python3
"""Predicts what each kernel of the ops with a target takes on an H200, from counts: no device has run them.

  .ci/device none                                  # builds the driver and `speed`
  python3 cuda/predict.py > cuda/PREDICTED.md

The virtual machine counts the warp instructions of PTX that each kernel executes, and the sectors of 32 bytes that its warps touch, at
two sizes with the same rows to a code (which decides how many codes are hit); extrapolated linearly. The coarse searches grow with rows
times codes: they are in REPORT.md, counted in SASS. Divisions, roots and sums in 64 bits are several instructions of SASS, not one.
"""
import collections, math, os, pathlib, re, subprocess

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROCESSORS, SCHEDULERS, CLOCK, BANDWIDTH = 132, 4, 1.755e9, 4.8e12
# Rows and codes at scale 1, and the scale of the targets: 65,536 rows and 98,304 codes.
ROWS, CODES, SCALE = 1024, 1536, 64
RUNS = [("search", 8, "cosine", 1), ("search", 32, "cosine", 1), ("search", 32, "l2", 1), ("ema", 32, "cosine", 1),
        ("project", 32, "cosine", 2), ("normalize", 32, "cosine", 1), ("step", 32, "cosine", 1)]


def counted(op, dim, metric, scale):
    """Name, blocks, instructions and bytes of each launch of the last replay, in their order."""
    run = subprocess.run([ROOT / "target/release/examples/speed", "--device", "cuda:0", "--op", op, "--rows", str(scale * ROWS),
                          "--codes", str(scale * CODES), "--dim", str(dim), "--metric", metric, "--repeat", "1", "--search", "coarse" if op == "search" else "auto"],
                         env={**os.environ, "LD_LIBRARY_PATH": str(ROOT / "target/driver/release"), "VQ_DRIVER_TRACE": "1"},
                         capture_output=True, text=True, check=True)
    launches = [(name, math.prod(map(int, blocks.split(", "))), int(count), int(size)) for name, blocks, count, size in
                re.findall(r"^(\w+) of \[([\d, ]+)\] blocks: (\d+) warp instructions, (\d+) bytes", run.stdout, re.M)]
    names = [launch[0] for launch in launches]
    period = next(n for n in range(1, len(names)) if names[-n:] == names[-2 * n:-n] == names[-3 * n:-2 * n])
    return launches[-period:]


def main():
    print("# What the kernels are predicted to take on an H200\n\nWritten by `python3 cuda/predict.py`, whose head says how. "
          f"{SCALE * ROWS:,} rows, {SCALE * CODES:,} codes. *Issue* is the\ntime to issue the instructions, of PTX, one a cycle and scheduler "
          f"at {CLOCK / 1e9} GHz on as many of {PROCESSORS} processors as a kernel has blocks; *bytes* the time of\nwhat its warps touch "
          f"at {BANDWIDTH / 1e12} TB/s, as if nothing came from a cache; a launch takes about 1 µs more in a graph. Nothing of this was measured.")
    for op, dim, metric, unit in RUNS:
        once, twice = (counted(op, dim, metric, unit * scale) for scale in (1, 2))
        assert [launch[0] for launch in once] == [launch[0] for launch in twice], "the same launches at both sizes"
        scale = SCALE // unit
        at = lambda small, large: max(small, large, small + (large - small) * (scale - 1))
        rows, total = collections.OrderedDict(), [0.0] * 4
        for (name, *small), (_, *large) in zip(once, twice):
            blocks, count, size = (at(a, b) for a, b in zip(small, large))
            if small[0] == large[0] > 1:
                # A grid that is cut to the processors, of which the virtual device has 3.
                blocks = small[0] * PROCESSORS // 3
            issue = count / (min(blocks, PROCESSORS) * SCHEDULERS) / CLOCK * 1e6
            row = rows.setdefault(name, [0, blocks, 0.0, 0.0, 0.0, 0.0])
            row[0] += 1
            for place, value in enumerate([count / 1e6, size / 1e6, issue, size / BANDWIDTH * 1e6], start=2):
                row[place] += value
        print(f"\n## {op}, d = {dim}" + (", L2" if metric == "l2" else "") + "\n")
        print("| kernel | launches | blocks | instructions, millions | MB | issue, µs | bytes, µs |\n|---|---|---|---|---|---|---|")
        for name, (launches, blocks, *figures) in rows.items():
            if name.startswith("search_coarse"):
                print(f"| `{name}` | {launches} | | REPORT.md | | | |")
                continue
            total = [a + b for a, b in zip(total, figures)]
            print(f"| `{name}` | {launches} | {blocks:,} | " + " | ".join(f"{figure:.2f}" for figure in figures) + " |")
        print("| all but the coarse search | | | " + " | ".join(f"{figure:.1f}" for figure in total) + " |")


if __name__ == "__main__":
    main()
