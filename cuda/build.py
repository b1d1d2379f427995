#!/usr/bin/env python3
"""Compiles cuda/*.cu to cuda/ptx/*.ptx with pinned compilers from PyPI, and assembles each for every chip.

    python3 cuda/build.py            rebuilds the PTX and the report
    python3 cuda/build.py --check    fails where either differs from what is committed

Compilers are installed into target/cuda-tools on the first run; nothing else is touched. The PTX is for compute
capability 8.0 and PTX ISA 8.4, which drivers from 550 (February 2024) on take.
"""
import argparse, ctypes, glob, pathlib, re, subprocess, sys, tempfile, venv

ROOT = pathlib.Path(__file__).resolve().parent
TOOLS = ROOT.parent / "target" / "cuda-tools"
# NVRTC makes the PTX; ptxas of the newest CUDA 12 and of CUDA 13 assemble it.
PINNED = {
    "nvrtc": ["nvidia-cuda-nvrtc-cu12==12.4.127"],
    "ptxas12": ["nvidia-cuda-nvcc-cu12==12.8.93"],
    "ptxas13": ["nvidia-cuda-nvcc==13.5.37", "nvidia-cuda-nvdisasm==13.5.37"],
}
CHIPS = {"sm_80": "ptxas12", "sm_86": "ptxas12", "sm_89": "ptxas12", "sm_90a": "ptxas12", "sm_100": "ptxas13", "sm_120": "ptxas13"}
# IEEE arithmetic: no contraction, no flushing, correctly rounded division and root.
OPTIONS = ["--gpu-architecture=compute_80", "-fmad=false", "-ftz=false", "-prec-div=true", "-prec-sqrt=true",
           "--std=c++17", "--device-as-default-execution-space", f"--include-path={ROOT}"]


def tool(name, pattern):
    """Path of a file of a pinned package, which is installed where it is missing."""
    place = TOOLS / name
    stamp = place / "pinned"
    if not stamp.exists() or stamp.read_text() != repr(PINNED[name]):
        venv.create(place, with_pip=True, clear=True)
        subprocess.run([place / "bin/pip", "install", "-q", "--disable-pip-version-check", *PINNED[name]], check=True)
        stamp.write_text(repr(PINNED[name]))
    return glob.glob(str(place / "lib/python3*/site-packages" / pattern))[0]


class Nvrtc:
    def __init__(self):
        self.lib = ctypes.CDLL(tool("nvrtc", "nvidia/cuda_nvrtc/lib/libnvrtc.so.12"))

    def text(self, size, get, program):
        n = ctypes.c_size_t()
        size(program, ctypes.byref(n))
        buffer = ctypes.create_string_buffer(n.value)
        get(program, buffer)
        return buffer.value.decode()

    def compile(self, path):
        lib, program = self.lib, ctypes.c_void_p()
        assert lib.nvrtcCreateProgram(ctypes.byref(program), path.read_bytes(), path.name.encode(), 0, None, None) == 0
        options = (ctypes.c_char_p * len(OPTIONS))(*[option.encode() for option in OPTIONS])
        failed = lib.nvrtcCompileProgram(program, len(OPTIONS), options)
        log = self.text(lib.nvrtcGetProgramLogSize, lib.nvrtcGetProgramLog, program)
        if failed or "warning" in log:
            sys.exit(log)
        return self.text(lib.nvrtcGetPTXSize, lib.nvrtcGetPTX, program)


def assembled(ptx, chip):
    """Registers, spilled bytes and shared memory of each kernel, and the cubin."""
    ptxas = tool(CHIPS[chip], "nvidia/*/bin/ptxas")
    with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
        run = subprocess.run([ptxas, "-v", f"-arch={chip}", ptx, "-o", cubin.name], capture_output=True, text=True)
        if run.returncode:
            sys.exit(f"{ptx.name} for {chip}:\n{run.stderr}")
        image = pathlib.Path(cubin.name).read_bytes()
    kernels = {}
    for entry, body in re.findall(r"Compiling entry function '(\w+)'[^\n]*\n(.*?)(?=ptxas info\s*: Compiling|\Z)", run.stderr, re.S):
        number = lambda pattern: int((re.search(pattern, body) or [0, 0])[1])
        kernels[entry] = dict(registers=number(r"Used (\d+) registers"), spilled=number(r"(\d+) bytes spill stores"),
                              stack=number(r"(\d+) bytes stack frame"), shared=number(r"(\d+) bytes smem"))
    return kernels, image


# Kernels whose loops decide: the instruction that multiplies, what one of it yields for a warp, and the unit of that.
HOT = {
    "search": [("search_coarse_8", "HMMA", 128, "score"), ("search_coarse_16", "HMMA", 128, "score"),
               ("search_coarse_32", "HMMA", 64, "score"), ("search_coarse_64", "HMMA", 32, "score"),
               ("search_coarse_l2_32", "HMMA", 64, "score"), ("search_coarse_wide", "HMMA", 2048, "FMA"),
               ("search_exact_f32", "FFMA", 32, "FMA")],
    "project": [("project_128x32_f32", "FFMA", 32, "FMA"), ("project_backward_input_128x32", "FFMA", 32, "FMA"),
                ("project_backward_weight_blocks", "FFMA", 32, "FMA")],
}


def loops(sass, kernel):
    """The instructions of each backward branch's span."""
    text = re.search(rf"\.text\.{kernel}:(.*?)(?=\n\t\.section|\Z)", sass, re.S)[1]
    labels, opcodes = {}, []
    for line in text.splitlines():
        if label := re.match(r"\s*(\.L_\w+):", line):
            labels[label[1]] = len(opcodes)
        elif instruction := re.match(r"\s*/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+ )?\s*([A-Z][A-Z0-9_]*)[^;]*;", line):
            opcodes.append(instruction[1])
            target = re.search(r"BRA.*`\((\.L_\w+)\)", line)
            if target and target[1] in labels:
                yield opcodes[labels[target[1]]:]


def disassembled(cubin):
    return subprocess.run([tool("ptxas13", "nvidia/*/bin/nvdisasm"), "-c", cubin], capture_output=True, text=True, check=True).stdout


def hot_loops(cubins):
    lines = ["", "## Hot loops", "",
             "The loop that is densest in the kernel's products, from the disassembly: its instructions, how many of them are the matrix or",
             "multiply-add instruction and how many compare, and warp instructions for 1,024 scores (1,024 · 32 multiply-adds where scores are not the unit).", "",
             "| kernel | " + " | ".join(f"{chip}: instructions, products, maxima, per 1,024" for chip in CHIPS) + " |", "|---|" + "---|" * len(CHIPS)]
    for module, kernels in HOT.items():
        texts = [disassembled(cubins[module, chip]) for chip in CHIPS]
        for kernel, opcode, each, unit in kernels:
            cells = []
            for disassembly in texts:
                loop = max(loops(disassembly, kernel), key=lambda loop: loop.count(opcode) / len(loop))
                products = loop.count(opcode)
                maxima = sum(op.startswith(("FMNMX", "VIMNMX", "IMNMX")) for op in loop)
                per = len(loop) * (1024 if unit == "score" else 1024 * 32) / (products * each)
                cells.append(f"{len(loop)}, {products}, {maxima}, {per:.1f}")
            lines.append(f"| `{kernel}` | " + " | ".join(cells) + " |")
    return lines


def report(modules):
    kept = tempfile.TemporaryDirectory()
    cubins = {}
    lines = ["# What ptxas makes of the kernels", "",
             "Written by `python3 cuda/build.py`. Registers for each chip; *spilled* and *shared* are the most over the chips, in bytes.", "",
             "| kernel | " + " | ".join(CHIPS) + " | spilled | shared |", "|---|" + "---|" * (len(CHIPS) + 2)]
    for ptx in modules:
        by_chip = {}
        for chip in CHIPS:
            by_chip[chip], image = assembled(ptx, chip)
            cubins[ptx.stem, chip] = path = pathlib.Path(kept.name) / f"{ptx.stem}.{chip}.cubin"
            path.write_bytes(image)
        for kernel in sorted(next(iter(by_chip.values()))):
            of = [by_chip[chip][kernel] for chip in CHIPS]
            most = lambda key: max(one[key] for one in of)
            lines.append(f"| `{kernel}` | " + " | ".join(str(one["registers"]) for one in of) + f" | {most('spilled')} | {most('shared')} |")
    return "\n".join(lines + hot_loops(cubins)) + "\n"


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--check", action="store_true", help="compare with what is committed, and write nothing")
    arguments.add_argument("--no-report", action="store_true", help="only the PTX")
    arguments.add_argument("only", nargs="*", help="names of modules, all where none is given")
    arguments = arguments.parse_args()
    nvrtc, different = Nvrtc(), []

    def put(path, text):
        if arguments.check:
            if not path.exists() or path.read_text(encoding="utf-8") != text:
                different.append(path.relative_to(ROOT.parent))
        else:
            path.write_text(text, encoding="utf-8")

    sources = [source for source in sorted(ROOT.glob("*.cu")) if not arguments.only or source.stem in arguments.only]
    for source in sources:
        put(ROOT / "ptx" / f"{source.stem}.ptx", nvrtc.compile(source))
    if not arguments.no_report and not arguments.only:
        put(ROOT / "REPORT.md", report([ROOT / "ptx" / f"{source.stem}.ptx" for source in sources]))
    if different:
        sys.exit("differs from what is committed; run python3 cuda/build.py: " + ", ".join(map(str, different)))


if __name__ == "__main__":
    main()
