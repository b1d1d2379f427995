#!/usr/bin/env python3
"""The README's performance tables: `speed` and the peers on the same shapes, interleaved, medians over rounds.

  cargo build --release --example speed
  V/bin/python benches/table.py target/release/examples/speed [--rounds 3] [--rows 1024] [--no-peers]      (V: see peers.py)
"""
import argparse, json, os, statistics, subprocess, sys

ap = argparse.ArgumentParser()
ap.add_argument("speed")
ap.add_argument("--rounds", type=int, default=3)
ap.add_argument("--rows", type=int, default=1024)
ap.add_argument("--codes", type=int, default=100_000)
ap.add_argument("--no-peers", action="store_true")
a = ap.parse_args()

DIMS = (8, 32, 256)
WAYS = (
    ("amx", "coarse"),  # no line where the machine has none
    ("avx512vnni", "pruned"),
    ("avx512vnni", "coarse"),
    ("avx512", "f32"),
    ("avx2vnni", "coarse"),
    ("avx2", "pruned"),
    ("avx2", "coarse"),
    ("avx2", "f32"),
)
MOST_PRUNED = 8  # dimensions; beyond, caps exclude little
PEERS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "peers.py")


def lines(command):
    done = subprocess.run(command, capture_output=True, text=True)
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def speed(op, isa, way, dim):
    # Fewer rows where checking the codes against the reference would take longer than measuring.
    rows = a.rows if dim < 100 else min(a.rows, 512)
    shape = ["--rows", str(rows), "--codes", str(a.codes), "--dim", str(dim), "--repeat", "3", "--json"]
    return lines([a.speed, "--op", op, "--isa", isa, "--search", way, *shape])


seen = {}
for _ in range(a.rounds):
    for dim in DIMS:
        for isa, way in WAYS:
            for d in speed("search", isa, way, dim) if way != "pruned" or dim <= MOST_PRUNED else ():
                seen.setdefault((isa, way, dim), []).append((d["us_per_row"], d["share_of_limit"], d["groups_per_row"]))
        if dim < 100:
            for d in speed("step", "auto", "auto", dim):
                seen.setdefault(("step", "ours", dim), []).append((d["us_per_row"],))
            if not a.no_peers:
                shape = ["--rows", str(a.rows), "--codes", str(a.codes), "--dim", str(dim), "--repeat", "1"]
                for d in lines([sys.executable, PEERS, *shape, "--only", "torch_f32", "faiss_ip", "vqp_step"]):
                    if "us_per_row" in d:
                        seen.setdefault((d["peer"], "", dim), []).append((d["us_per_row"],))


def cell(key):
    if key not in seen:
        return "–"
    medians = [statistics.median(v) if None not in v else None for v in zip(*seen[key])]
    text = f"{medians[0]:.3g}"
    if len(medians) > 1 and key[1] != "pruned":
        text += f" ({100 * medians[1]:.0f} %)"
    return text


print(f"| search, µs a row | {' | '.join(f'd = {d}' for d in DIMS)} |\n|---|{'---|' * len(DIMS)}")
for isa, way in WAYS:
    print(f"| {isa}, {way} (share of its limit) | {' | '.join(cell((isa, way, d)) for d in DIMS)} |")
for peer in ("torch_f32", "faiss_ip"):
    print(f"| {peer} | {' | '.join(cell((peer, '', d)) for d in DIMS)} |")
print(f"\n| training step, µs a row | {' | '.join(f'd = {d}' for d in DIMS[:2])} |\n|---|---|---|")
print(f"| ours | {' | '.join(cell(('step', 'ours', d)) for d in DIMS[:2])} |")
print(f"| vqp_step | {' | '.join(cell(('vqp_step', '', d)) for d in DIMS[:2])} |")
groups = {d: seen.get(("avx512vnni", "coarse", d)) for d in DIMS}
print("\ngroups of 64 rescored a row:", {d: round(v[0][2], 2) for d, v in groups.items() if v})
