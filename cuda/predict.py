#!/usr/bin/env python3
"""Counts the warp instructions of a training step's kernels on the virtual driver, and extrapolates them to a large size.

  .ci/device none                  # builds the driver and `speed`
  python3 cuda/predict.py          # a table in markdown, for an H200

The PTX instructions of each kernel are counted at two sizes of the same rows to a code, which decides how many codes are hit, and
extrapolated linearly: all but the coarse search, which grows with rows times codes and is in REPORT.md ("Hot loops"). An H200
issues 132 · 4 instructions a cycle at 1.755 GHz; a kernel of few blocks fills few of its processors.
"""
import argparse, math, os, pathlib, re, subprocess

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROCESSORS, SCHEDULERS, CLOCK = 132, 4, 1.755e9


def counted(speed, op, rows, codes, dim):
    """Instructions and blocks of each kernel in the last replay: a step's launches, in their order."""
    run = subprocess.run([speed, "--device", "cuda:0", "--op", op, "--rows", str(rows), "--codes", str(codes), "--dim", str(dim), "--repeat", "1"],
                         env={**os.environ, "LD_LIBRARY_PATH": str(ROOT / "target/driver/release"), "VQ_DRIVER_TRACE": "1"},
                         capture_output=True, text=True, check=True)
    launches = [(name, eval(blocks), int(count)) for name, blocks, count in re.findall(r"^(\w+) of (\[[\d, ]+\]) blocks: (\d+)", run.stdout, re.M)]
    replays = 1 + 5 + 5  # what speed warms up by, the calls and then the graph, and the measured one
    period = next(n for n in range(1, len(launches)) if [l[0] for l in launches[-n:]] == [l[0] for l in launches[-2 * n:-n]])
    assert len(launches) >= period * replays, "speed replays a graph"
    return launches[-period:]


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--speed", default=ROOT / "target/release/examples/speed")
    arguments.add_argument("--op", default="step")
    arguments.add_argument("--scale", type=int, default=64, help="of 1,024 rows and 1,536 codes")
    arguments.add_argument("--dim", type=int, default=32)
    a = arguments.parse_args()
    once, twice = (counted(a.speed, a.op, scale * 1024, scale * 1536, a.dim) for scale in (1, 2))
    assert [name for name, _, _ in once] == [name for name, _, _ in twice], "the same launches at both sizes"
    print(f"{a.op}, {a.scale * 1024:,} rows × {a.scale * 1536:,} codes × {a.dim}\n")
    print("| kernel | blocks | warp instructions, millions | µs to issue them |\n|---|---|---|---|")
    at = lambda small, large: max(small, large, small + (large - small) * (a.scale - 1))
    total = 0.0
    for (name, few, small), (_, many, large) in zip(once, twice):
        if name.startswith("search_coarse"):
            continue
        blocks, count = at(math.prod(few), math.prod(many)), at(small, large)
        time = count / (min(blocks, PROCESSORS) * SCHEDULERS) / CLOCK * 1e6
        total += time
        print(f"| `{name}` | {blocks:,} | {count / 1e6:.2f} | {time:.1f} |")
    print(f"| all {len(once)} but the coarse search | | | {total:.1f} |")


if __name__ == "__main__":
    main()
