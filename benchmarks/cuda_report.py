"""What nvcc made of the CUDA kernels: registers, spills, and how wide global memory is accessed.

    python -m benchmarks.cuda_report [--json]

Exit code 1 where a kernel spills registers, which costs it the memory bandwidth it is made for.
Needs nvcc, but no GPU; the widths need cuobjdump, which comes with the CUDA toolkit.
"""

import argparse
import concurrent.futures
import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from custom_ops.compiler import INCLUDE_FOLDERS, ROOT, BuildError, find_tool

SOURCES = sorted(ROOT.glob("kernels/cuda/*.cu"))
ARCHITECTURES = ("sm_80", "sm_90")


@dataclass
class Kernel:
    """One compiled kernel.

    Attributes:
        name: the function and what it is compiled for.
        architecture: such as `sm_90`.
        registers: of a thread.
        spilled_bytes: written and read again, by a thread, for want of registers.
        loads, stores: instructions by bits, or None without a disassembly.
    """

    name: str
    architecture: str
    registers: int
    spilled_bytes: int
    loads: dict[int, int] | None = field(default=None)
    stores: dict[int, int] | None = field(default=None)


def compile_kernels(architectures=ARCHITECTURES):
    """Compiles all the sources and returns a list of `Kernel`."""
    nvcc = find_tool("NVCC", "nvcc")
    if nvcc is None:
        raise BuildError("nvcc was not found. Install the CUDA toolkit, or set NVCC.")
    with tempfile.TemporaryDirectory() as folder, concurrent.futures.ThreadPoolExecutor(2) as pool:
        objects = [Path(folder, source.stem + ".o") for source in SOURCES]
        logs = pool.map(
            lambda source, output: _compile(nvcc.path, source, output, architectures),
            SOURCES,
            objects,
        )
        kernels = {
            (mangled, kernel.architecture): kernel
            for log in logs
            for mangled, kernel in _resources(log)
        }
        cuobjdump = _find_cuobjdump(nvcc.path)
        if cuobjdump is not None:
            for object_file in objects:
                _count_accesses(_run(cuobjdump, "-sass", object_file), kernels)
    names = _demangled([mangled for mangled, _ in kernels])
    for kernel, name in zip(kernels.values(), names, strict=True):
        kernel.name = _readable(name)
    return sorted(kernels.values(), key=lambda kernel: (kernel.name, kernel.architecture))


def _compile(nvcc, source, output, architectures):
    code = [f"-gencode=arch={a.replace('sm_', 'compute_')},code={a}" for a in architectures]
    include = [f"-I{folder}" for folder in INCLUDE_FOLDERS]
    return _run(
        nvcc, "-O3", "-std=c++17", *code, *include, "-Xptxas=-v", "-c", source, "-o", output
    )


def _run(*command):
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if result.returncode != 0:
        raise BuildError(f"{Path(command[0]).name} failed: {result.stdout}{result.stderr}")
    return result.stdout + result.stderr


def _resources(log):
    """Yields what ptxas says of each kernel, with its mangled name."""
    entry = re.compile(
        r"Compiling entry function '(?P<name>\S+)' for '(?P<architecture>\w+)'.*?"
        r"(?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads.*?"
        r"Used (?P<registers>\d+) registers",
        re.DOTALL,
    )
    for match in entry.finditer(log):
        spilled = int(match["stores"]) + int(match["loads"])
        yield (
            match["name"],
            Kernel("", match["architecture"], int(match["registers"]), spilled),
        )


def _find_cuobjdump(nvcc):
    for candidate in (Path(os.path.realpath(nvcc)).parent / "cuobjdump", "cuobjdump"):
        tool = find_tool("CUOBJDUMP", str(candidate))
        if tool is not None:
            return tool.path
    return None


def _count_accesses(disassembly, kernels):
    """Fills in `loads` and `stores`."""
    architecture = kernel = None
    for line in disassembly.splitlines():
        if match := re.match(r"arch = (\w+)", line):
            architecture = match[1]
        elif match := re.search(r"Function : (\S+)", line):
            kernel = kernels[match[1], architecture]
            kernel.loads, kernel.stores = {}, {}
        elif match := re.search(r"\b(LDG|STG)((?:\.\w+)*)\s", line):
            counter = kernel.loads if match[1] == "LDG" else kernel.stores
            width = _width(match[2])
            counter[width] = counter.get(width, 0) + 1


def _width(modifiers):
    match = re.search(r"\.[US]?(8|16|64|128)\b", modifiers)
    return int(match[1]) if match else 32


def _demangled(names):
    tool = find_tool("CXXFILT", "c++filt")
    if tool is None:
        return names
    result = subprocess.run([tool.path], input="\n".join(names), capture_output=True, text=True)
    return result.stdout.splitlines()


# What the last parameter of a kernel says.
FORMS = {
    "Blend": {"true": "gated"},
    "PartialSums": {"1": "writes", "2": "gated by v", "3": "gated by y"},
}


def _readable(name):
    """Such as `PartialMoments<float, vectors, channels last, weights>`."""
    function = re.search(r"(\w+)[<(]", name)
    variant = re.search(r"Variant<(\w+), (\w+), (\w+), (\w+)>(?:, (?:\(.*?\))*(\w+)>)?", name)
    if function is None:
        return name
    if variant is None:
        state = re.search(r"(\w+)State", name)
        return f"{function[1]}<{state[1]}>" if state else function[1]
    dtype, *flags, form = variant.groups()
    words = [("single values", "vectors"), ("channels first", "channels last"), ("", "weights")]
    choices = [pair[flag == "true"] for pair, flag in zip(words, flags, strict=True)]
    choices.append(FORMS.get(function[1], {}).get(form))
    return f"{function[1]}<{', '.join([dtype.strip('_'), *filter(None, choices)])}>"


def _table(kernels):
    table = Table("kernel", "GPU")
    for column in ("registers", "spilled bytes", "loads: bits x count", "stores"):
        table.add_column(column, justify="right")
    for kernel in kernels:
        table.add_row(
            kernel.name,
            kernel.architecture,
            str(kernel.registers),
            f"[red]{kernel.spilled_bytes}[/]" if kernel.spilled_bytes else "0",
            *("?" if c is None else _counts(c) for c in (kernel.loads, kernel.stores)),
        )
    return table


def _counts(counter):
    return ", ".join(f"{bits} x {count}" for bits, count in sorted(counter.items(), reverse=True))


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print a list of objects instead")
    options = parser.parse_args(arguments)
    try:
        kernels = compile_kernels()
    except BuildError as error:
        print(error, file=sys.stderr)
        return 2
    spilling = [kernel for kernel in kernels if kernel.spilled_bytes]
    if options.json:
        print(json.dumps([asdict(kernel) for kernel in kernels], indent=1))
    else:
        console = Console(width=max(Console().width, 130))
        console.print(_table(kernels))
        console.print(f"{len(kernels)} kernels, {len(spilling)} of them spill registers.")
        if any(kernel.loads is None for kernel in kernels):
            console.print("cuobjdump was not found, so widths are unknown. Set CUOBJDUMP.")
    return 1 if spilling else 0


if __name__ == "__main__":
    sys.exit(main())
