"""The kernels keep what they promise, alone: small C++ programs, built and run under sanitizers.

The CUDA kernels are executed on the host, by an emulation. Neither TensorFlow nor a GPU is needed.
"""

import concurrent.futures
import dataclasses
import pathlib
import shutil
import subprocess
import sys

import pytest

from custom_ops.build import LEVELS

pytestmark = pytest.mark.main_leg  # Neither TensorFlow nor Keras is used.

ROOT = pathlib.Path(__file__).resolve().parents[2]
KERNELS = ROOT / "custom_ops" / "kernels"
TESTS = ROOT / "tests" / "native"
COMMON = ("-std=c++17", "-g1", "-pthread", "-Wall", "-Wextra", "-Werror")
# Code under the sanitizer of memory takes longer to optimize than to run as it is.
SANITIZERS = {
    "plain": ("-O1",),
    "memory": ("-O0", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
    "threads": ("-O1", "-fsanitize=thread"),
}
# For a program without all levels: the function that chooses one names the others, too.
UNRESOLVED = ("-no-pie", "-Wl,--unresolved-symbols=ignore-all")
# Checks of pointers that the address sanitizer makes as well. A file of many inlined functions
# takes minutes to compile with both.
ONCE = ("-fno-sanitize=alignment,null,object-size,vptr",)


@dataclasses.dataclass(frozen=True)
class Program:
    """A program that exits with 0 where all is well.

    Attributes:
        units: source files, each with the flags it is compiled with.
        levels: values of KERAS_NORMS_CPU; the program is run with each.
    """

    units: tuple[tuple[pathlib.Path, tuple[str, ...]], ...]
    levels: tuple[str, ...] = ("",)


EMULATED = ("-Wno-unknown-pragmas", "-DKERAS_NORMS_EMULATE_CUDA")
PROGRAMS = {
    "cpu_kernels": Program(
        (
            (TESTS / "test_cpu_kernels.cc", ()),
            (KERNELS / "cpu/add_at.cc", ()),
            (KERNELS / "cpu/dispatch.cc", ()),
            (KERNELS / "cpu/helpers.cc", ()),
            (KERNELS / "cpu/normalize.cc", ()),
            *(
                (source, (f"-DKERAS_NORMS_LEVEL={level}", *flags))
                for level, flags in LEVELS.items()
                for source in sorted(KERNELS.glob("cpu/*_cpu.cc"))
            ),
        ),
        levels=tuple(LEVELS),
    ),
    "cuda_kernels": Program(
        tuple(
            (source, EMULATED)
            for source in (TESTS / "test_cuda_kernels.cc", *sorted(KERNELS.glob("cuda/*.cu")))
        )
    ),
    "helpers": Program(((TESTS / "test_helpers.cc", ()), (KERNELS / "cpu/helpers.cc", ()))),
}


def case(name, sanitizer, *arguments, levels=None, marks=()):
    """A program under a sanitizer, with these levels only, by default all."""
    name_of_case = "-".join((name, sanitizer, *arguments))
    return pytest.param(name, sanitizer, arguments, levels, marks=marks, id=name_of_case)


# The argument "short" leaves out large shapes, and most shapes of the emulated CUDA kernels.
CASES = [
    case("helpers", "memory"),
    case("helpers", "threads"),
    # Sanitized code takes long to compile. Threads share work in the same way at all levels.
    case("cpu_kernels", "memory", "short", levels=("baseline",)),
    case("cpu_kernels", "threads", "short", levels=("baseline",)),
    case("cuda_kernels", "plain"),
    case("cuda_kernels", "memory", "short"),
    case("cuda_kernels", "threads", "short", marks=pytest.mark.full),
    case("cpu_kernels", "memory", marks=pytest.mark.full),
    case("cpu_kernels", "threads", marks=pytest.mark.full),
    case("cuda_kernels", "memory", marks=pytest.mark.full),
]


@pytest.mark.parametrize("name, sanitizer, arguments, levels", CASES)
def test_program(name, sanitizer, arguments, levels, tmp_path):
    program = PROGRAMS[name]
    compiler = shutil.which("g++") or pytest.skip("g++ was not found")
    flags = (*COMMON, *SANITIZERS[sanitizer], f"-I{KERNELS}", f"-I{TESTS}")
    levels = program.levels if levels is None else levels
    others = {f"-DKERAS_NORMS_LEVEL={level}" for level in set(program.levels) - {*levels}}
    units = [unit for unit in program.units if not others & {*unit[1]}]

    def compiled(index):
        source, own = units[index]
        output = tmp_path / f"{index}.o"
        once = ONCE if sanitizer == "memory" and source.name == "round_cpu.cc" else ()
        run(compiler, *flags, *once, *own, "-x", "c++", "-c", source, "-o", output)
        return output

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compiled, range(len(units))))
    executable = tmp_path / name
    run(compiler, *flags, *(UNRESOLVED if others else ()), *objects, "-o", executable)
    for level in levels:
        run("env", f"KERAS_NORMS_CPU={level}", executable, *arguments)


@pytest.mark.full
def test_cuda_kernels_do_not_spill():
    if shutil.which("nvcc") is None:
        pytest.skip("nvcc was not found")
    run(sys.executable, "-m", "benchmarks.cuda_report", "--json")


def run(*command):
    result = subprocess.run(
        [str(part) for part in command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, f"{command[0]}:\n{result.stdout[-4000:]}{result.stderr[-4000:]}"
