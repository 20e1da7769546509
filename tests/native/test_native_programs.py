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

ROOT = pathlib.Path(__file__).resolve().parents[2]
KERNELS = ROOT / "custom_ops" / "kernels"
COMMON = ("-std=c++17", "-g1", "-pthread", "-Wall", "-Wextra", "-Werror")
SANITIZERS = {
    "memory": ("-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
    "threads": ("-fsanitize=thread",),
}


@dataclasses.dataclass(frozen=True)
class Program:
    """A program that exits with 0 where all is well.

    Attributes:
        sources: files; each is compiled with `flags`.
        arguments: of a run, for each sanitizer.
    """

    sources: tuple[pathlib.Path, ...]
    flags: tuple[str, ...]
    arguments: dict[str, tuple[str, ...]]


PROGRAMS = {
    "cuda_kernels": Program(
        sources=(*sorted(KERNELS.glob("cuda/*.cu")), ROOT / "tests/native/test_cuda_kernels.cc"),
        flags=("-O0", "-Wno-unknown-pragmas", "-DKERAS_NORMS_EMULATE_CUDA"),
        arguments={"memory": (), "threads": ("short",)},
    ),
}


@pytest.mark.parametrize("sanitizer", SANITIZERS)
@pytest.mark.parametrize("name", PROGRAMS)
def test_program(name, sanitizer, tmp_path):
    program = PROGRAMS[name]
    compiler = shutil.which("g++") or pytest.skip("g++ was not found")
    flags = (*COMMON, *SANITIZERS[sanitizer], f"-I{KERNELS}", f"-I{ROOT / 'tests/native'}")

    def compiled(source):
        output = tmp_path / f"{source.stem}.o"
        run(compiler, *flags, *program.flags, "-x", "c++", "-c", source, "-o", output)
        return output

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compiled, program.sources))
    executable = tmp_path / name
    run(compiler, *flags, *objects, "-o", executable)
    output = run(executable, *program.arguments[sanitizer])
    assert "0 failures" in output, output


def test_cuda_kernels_do_not_spill():
    if shutil.which("nvcc") is None:
        pytest.skip("nvcc was not found")
    run(sys.executable, "-m", "custom_ops.cuda_report", "--json")


def run(*command):
    result = subprocess.run(
        [str(part) for part in command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, f"{command[0]}:\n{result.stdout[-4000:]}{result.stderr[-4000:]}"
    return result.stdout
