"""Building the compiled library: what is compiled how, what is reused, and what failures say."""

import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import zipfile

import pytest
import tensorflow as tf

from custom_ops import build, compiler
from custom_ops.compiler import BuildError, Tool, Unit, Workshop
from custom_ops.tensorflow_package import TensorFlow

pytestmark = pytest.mark.each_tensorflow

ROOT = pathlib.Path(__file__).parent.parent
GXX = Tool("g++", "12")


@pytest.fixture(params=[True, False], ids=["ffi", "no_ffi"])
def tensorflow(request, tmp_path):
    """A package with nothing but the header that tells whether there is a typed FFI."""
    if request.param:
        (tmp_path / "include/xla/ffi/api").mkdir(parents=True)
        (tmp_path / "include/xla/ffi/api/ffi.h").touch()
    return TensorFlow("2.21.0", tmp_path)


def test_what_includes_tensorflow_is_compiled_for_every_processor(tensorflow):
    units = list(build._host_units(GXX, tensorflow))
    assert {unit.source.parent.name for unit in units} >= {"ops", "cpu"}
    assert any(unit.source.parent.name == "xla_ffi" for unit in units) is tensorflow.has_ffi
    for unit in units:
        is_kernel = unit.source.parent.name == "cpu"
        assert (str(tensorflow.include) in unit.flags) is (not is_kernel), unit
        assert (unit.against == tensorflow.version) is (not is_kernel), unit
        is_for_a_level = unit.source.name.endswith("_cpu.cc")
        assert is_for_a_level or not any(flag.startswith("-march") for flag in unit.flags), unit


def test_kernels_are_compiled_once_a_level_and_the_baseline_is_linked_first(tensorflow):
    units = list(build._host_units(GXX, tensorflow))
    levels = [unit.variant for unit in units if unit.source.stem == "moments_cpu"]
    assert levels == list(build.LEVELS) and levels[0] == "baseline"
    assert len(units) == len(set(map(str, units)))


def test_kernels_are_compiled_once_for_all_versions_of_tensorflow(tensorflow, tmp_path):
    def kernels(of):
        return [unit for unit in build._host_units(GXX, of) if unit.source.parent.name == "cpu"]

    assert kernels(tensorflow) == kernels(TensorFlow("2.15.1", tmp_path / "other"))


def test_cuda_units_are_for_every_architecture_and_later_ones(tensorflow, monkeypatch):
    monkeypatch.setenv("KERAS_NORMS_CUDA_ARCHITECTURES", "80;100a")
    units = list(build._cuda_units(Tool("nvcc", ""), GXX, tensorflow))
    (flags,) = {unit.flags for unit in units if unit.source.suffix == ".cu"}
    assert [flag for flag in flags if "gencode" in flag] == [
        "-gencode=arch=compute_80,code=sm_80",
        "-gencode=arch=compute_100a,code=sm_100a",
        "-gencode=arch=compute_100a,code=compute_100a",
    ]
    names = {unit.source.name for unit in units}
    assert "gpu_kernels.cc" in names
    assert ("handlers_cuda.cc" in names) is tensorflow.has_ffi
    # nvcc does not know options of the host compiler, such as -ffile-prefix-map.
    assert not [flag for unit in units for flag in unit.flags if flag.startswith("-f")]


def test_rejects_invalid_architectures(monkeypatch):
    monkeypatch.setenv("KERAS_NORMS_CUDA_ARCHITECTURES", "sm_80")
    with pytest.raises(BuildError, match=r"numbers with `;` between.*Received: 'sm_80'"):
        build._cuda_architectures()


@pytest.fixture
def sources(monkeypatch, tmp_path):
    """A source with two headers, one included by the other, in place of the real ones."""
    folder = tmp_path / "sources"
    folder.mkdir()
    for module in (compiler, build):
        monkeypatch.setattr(module, "ROOT", folder)
    monkeypatch.setattr(compiler, "INCLUDE_FOLDERS", (folder,))
    (folder / "deep.h").write_text("#define VALUE 1\n")
    (folder / "near.h").write_text('#include "deep.h"\n')
    (folder / "a.cc").write_text('#include "near.h"\nint a() { return VALUE; }\n')
    (folder / "b.cc").write_text("int a();\nint b() { return a(); }\n")
    return folder


def units_of(folder, *flags, against=""):
    tool = compiler.find_tool("CXX", "g++", "c++", "clang++")
    all_flags = ("-fPIC", f"-I{folder}", *flags)
    return [Unit(path, tool, all_flags, against=against) for path in sorted(folder.glob("*.cc"))]


def test_only_what_changed_is_compiled_again(sources, tmp_path):
    lines = []
    workshop = Workshop(tmp_path / "objects", lines.append)

    def verbs(*flags, **options):
        lines.clear()
        objects = workshop.compile(units_of(sources, *flags, **options))
        workshop.link("both", objects=objects, tool=units_of(sources)[0].tool, flags=())
        return dict(line.split()[::-1] for line in lines)

    new = {"a.cc": "compiled", "b.cc": "compiled", "both": "linked"}
    old = dict.fromkeys(new, "unchanged")
    assert verbs() == new
    assert verbs() == old
    (sources / "deep.h").write_text("#define VALUE 2\n")
    assert verbs() == new | {"b.cc": "unchanged"}
    assert verbs("-O1") == new
    assert verbs("-O1", against="2.21.0") == new | {"both": "linked"}
    assert verbs() == old


def test_an_error_names_the_file_and_warnings_are_shown(sources, tmp_path):
    lines = []
    workshop = Workshop(tmp_path / "objects", lines.append)
    (sources / "b.cc").write_text("static int unused() { return 1; }\n")
    workshop.compile(units_of(sources, "-Wall"))
    assert any("compiled   b.cc" in line and "-Wunused-function" in line for line in lines)
    (sources / "b.cc").write_text("int b() { return missing; }\n")
    with pytest.raises(BuildError, match=r"failed on b.cc:\n.*error: .missing. was not"):
        workshop.compile(units_of(sources))


def test_a_compiler_that_makes_nothing_is_named(sources, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "true")
    with pytest.raises(BuildError, match="true made no file of "):
        Workshop(tmp_path / "objects", print).compile(units_of(sources))


@pytest.fixture
def imitated(monkeypatch, tmp_path):
    """Both libraries are one existing file; nothing is compiled."""
    library = tmp_path / "made.so"
    library.write_bytes(b"library")
    monkeypatch.setattr(build, "_build_host", lambda *_: library)
    monkeypatch.setattr(build, "_build_cuda", lambda *_: library)
    nvcc = Tool("nvcc", "Cuda compilation tools, release 12.4, V12.4.131")
    monkeypatch.setattr(build, "_find_nvcc", lambda: nvcc)


def files(folder):
    """Of a build, with `#` for the hash in a name."""
    names = (re.sub("-[0-9a-f]{16}", "-#", name) for name in os.listdir(folder))
    return sorted(name for name in names if name != ".lock")


def no_nvcc():
    raise BuildError("nvcc was not found.")


def test_the_description_says_what_the_library_is_for(imitated, tmp_path):
    output = tmp_path / "output"
    build.build(output, "1.2.3", report=lambda line: None)
    assert files(output) == ["_native-#.so", "_native.json", "_native_cuda-#.so"]
    description = json.loads((output / "_native.json").read_text())
    assert description["tensorflow"] == tf.__version__ and description["keras_norms"] == "1.2.3"
    assert description["cuda_runtime"] == 12040
    assert description["cuda_architectures"] == ["80", "90"]
    assert description["xla"] in ("ffi", "hlo")
    assert description["sources"] == compiler.hash_sources()
    digest = hashlib.sha256(b"library").hexdigest()
    assert description["files"] == {"_native.so": digest, "_native_cuda.so": digest}


def test_without_nvcc_there_is_no_cuda_library_and_a_warning(imitated, monkeypatch, tmp_path):
    build.build(tmp_path / "output", "1.2.3", report=lambda line: None)
    monkeypatch.setattr(build, "_find_nvcc", no_nvcc)
    lines = []
    description = build.build(tmp_path / "output", "1.2.3", report=lines.append)
    assert lines == ["warning: built without CUDA. nvcc was not found."]
    assert description["cuda_runtime"] is None
    # The one of the earlier build is gone, too.
    assert files(tmp_path / "output") == ["_native-#.so", "_native.json"]
    with pytest.raises(BuildError, match="nvcc was not found"):
        build.build(tmp_path / "output", "1.2.3", cuda="require", report=lines.append)
    assert files(tmp_path / "output") == ["_native-#.so", "_native.json"]


def test_names_a_missing_compiler_or_tensorflow(monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(BuildError, match=r"CXX must be a program.*'no-such-compiler'"):
        build.build(tmp_path, "1.2.3")
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(BuildError, match="TensorFlow is not installed where the library is built"):
        build.build(tmp_path, "1.2.3")


@pytest.fixture
def checkout(tmp_path):
    """A copy of what a wheel is made of, so that nothing is written here."""
    copy = tmp_path / "checkout"
    ignored = shutil.ignore_patterns("__pycache__", "_native")
    for name in ("keras_norms", "custom_ops"):
        shutil.copytree(ROOT / name, copy / name, ignore=ignored)
    for name in ("setup.py", "setup.cfg", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    return copy


def wheel(checkout, **environment):
    command = "-m pip wheel -v --no-deps --no-build-isolation --no-index --wheel-dir . .".split()
    return subprocess.run(
        [sys.executable, *command],
        cwd=checkout,
        env={**os.environ, "CXX": "no-such-compiler", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.main_leg  # pip meets neither TensorFlow nor Keras.
def test_a_wheel_without_a_compiler_has_the_sources_and_says_why(checkout):
    result = wheel(checkout, KERAS_NORMS_BUILD_NATIVE="auto")
    assert result.returncode == 0, result.stdout
    assert "keras_norms is installed without its compiled library." in result.stdout
    assert "CXX must be a program, without arguments." in result.stdout
    (path,) = checkout.glob("*.whl")
    assert "-py3-none-linux" in path.name
    names = set(zipfile.ZipFile(path).namelist())
    assert not [name for name in names if name.endswith(".so")]
    for pattern in ("*.py", "*.h", "*.cc", "*.cu", "*.cuh"):
        for source in (ROOT / "custom_ops").rglob(pattern):
            assert f"keras_norms/{source.relative_to(ROOT)}" in names


@pytest.mark.main_leg
@pytest.mark.parametrize(
    "environment, message",
    [
        (
            dict(KERAS_NORMS_BUILD_NATIVE="require"),
            "KERAS_NORMS_BUILD_NATIVE=require: CXX must be a program, without arguments.",
        ),
        (
            dict(KERAS_NORMS_BUILD_CUDA="always"),
            "KERAS_NORMS_BUILD_CUDA must be auto, require or skip. Received: 'always'.",
        ),
    ],
    ids=["require", "unknown"],
)
def test_a_wheel_that_must_have_the_library_fails_without(checkout, environment, message):
    result = wheel(checkout, **environment)
    assert result.returncode == 1 and message in result.stdout
    assert not list(checkout.glob("*.whl"))
