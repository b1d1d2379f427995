#!/usr/bin/env python3
"""Breaks the kernels, one line at a time, and sees whether a test of the twins turns red.

    python3 cuda/mutate.py [--count N] [--seed S] [MODULE ...]

Prints a line for each mutant and the survivors last. The sources are not touched: mutants are compiled from a copy.
"""
import argparse, pathlib, random, re, shutil, subprocess, sys, tempfile
import build

ROOT = pathlib.Path(__file__).resolve().parent
# What is replaced by what; each place in a line is a mutant of its own.
RULES = [(r"__syncthreads\(\);", ""), (r"__syncwarp\(\);", ""), (r" < ", " <= "), (r" > ", " >= "), (r" >= ", " > "), (r" <= ", " < "),
         (r" \+ ", " - "), (r" - ", " + "), (r" \* ", " + "), (r" && ", " || "), (r" == ", " != "), (r" != ", " == "),
         (r"fmaxf\(", "fminf("), (r"max\(", "min("), (r"atomicMax", "atomicExch"), (r"__fadd_ru", "__fadd_rd"), (r"__fsub_rd", "__fsub_ru"),
         (r"cp_async_wait<\d>\(\)", "cp_async_wait<7>()"), (r"\b1\b", "2"), (r"\b0\.0f\b", "1.0f"), (r"continue;", ""), (r"!(?=[a-z(_])", "")]
# Lines that say nothing to be tested: declarations of kernels, hints, comments, references.
SKIPPED = re.compile(r"^\s*(//|#|extern|static const|template|const |__shared__|struct|NARROW|WIDE|TOP|ROWS_KERNELS)|_ref|__launch_bounds__")
# The tests of a module.
TESTS = {"search_top": "the_best_few"}


def mutants(path):
    reference = False
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines()):
        if line.startswith("// -- "):
            reference = "reference" in line
        if reference or SKIPPED.search(line):
            continue
        for pattern, replacement in RULES:
            for place in re.finditer(pattern, line.split("//")[0]):
                yield number, line[: place.start()] + replacement + line[place.end():]


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--count", type=int, default=40, help="mutants, drawn from all")
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("modules", nargs="*")
    arguments = arguments.parse_args()
    run = subprocess.run(["cargo", "test", "--release", "--features", "cuda", "--test", "twins", "--no-run", "--message-format", "json"],
                         cwd=ROOT.parent, capture_output=True, text=True, check=True)
    tests = re.findall(r'"executable":"([^"]*twins-[^"]*)"', run.stdout)[-1]
    sources = [path for path in sorted(ROOT.glob("*.cu")) if not arguments.modules or path.stem in arguments.modules]
    drawn = [(path, number, line) for path in sources for number, line in mutants(path)]
    random.Random(arguments.seed).shuffle(drawn)
    nvrtc, survivors, tried = build.Nvrtc(), [], 0
    for path, number, line in drawn:
        if tried == arguments.count:
            break
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            shutil.copytree(ROOT / "ptx", folder / "ptx")
            lines = path.read_text(encoding="utf-8").splitlines()
            name = f"{path.stem}.cu:{number + 1}: {lines[number].strip()}  ->  {line.strip()}"
            lines[number] = line
            (folder / path.name).write_text("\n".join(lines), encoding="utf-8")
            try:
                text = nvrtc.compile(folder / path.name)
            except SystemExit:
                continue
            if text == (ROOT / "ptx" / f"{path.stem}.ptx").read_text(encoding="utf-8"):
                continue
            (folder / "ptx" / f"{path.stem}.ptx").write_text(text, encoding="utf-8")
            tried += 1
            try:
                red = subprocess.run([tests, TESTS.get(path.stem, path.stem)], env={"VQ_KERNELS_PTX": str(folder / "ptx")},
                                     capture_output=True, timeout=300).returncode != 0
            except subprocess.TimeoutExpired:
                red = True
        print("red     " if red else "SURVIVES", name, flush=True)
        if not red:
            survivors.append(name)
    print(f"{tried} mutants, {len(survivors)} survive")
    print("\n".join(survivors))


if __name__ == "__main__":
    main()
