"""`keras-norms doctor`, as a table and as JSON, and `keras-norms build`: what they say."""

import json
import pathlib
import subprocess
import sys
import types

import pytest
import tensorflow as tf

import keras_norms
from custom_ops.compiler import BuildError
from keras_norms import cli
from keras_norms.cli import build as build_command
from keras_norms.cli import doctor
from keras_norms.diagnostics.memory_pages import MemoryPages
from keras_norms.ops import library

BUILT = {"tensorflow": "2.0", "cuda_architectures": ["80", "90"], "xla": "ffi", "sources": "old"}
ABSENT = library.Library(None, "The compiled library is not built.")
LOADED = library.Library("ops", "Loaded from here.", ("CPU", "GPU"), BUILT)


def printed(capsys):
    return " ".join(capsys.readouterr().out.split())


def test_doctor_prints_versions_devices_and_the_implementation(capsys, monkeypatch):
    monkeypatch.setattr(library, "load", lambda: ABSENT)
    assert cli.main(["doctor"]) == 0
    text = printed(capsys)
    for word in (keras_norms.__version__, "TensorFlow", "Keras", "NumPy", "CPU", "reference"):
        assert word in text
    assert "not built" in text


def test_doctor_prints_what_the_library_is_for(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(library, "load", lambda: LOADED)
    assert cli.main(["doctor"]) == 0
    text = printed(capsys)
    for words in (
        "available: Loaded from here.",
        "Its sources have changed since. Rebuild it with `keras-norms build`.",
        "sm_80, sm_90",
        "the same kernels on the CPU",
        "native: the compiled library",
    ):
        assert words in text


@pytest.mark.parametrize("found, is_current", [(ABSENT, None), (LOADED, False)])
def test_doctor_as_json(capsys, monkeypatch, found, is_current):
    monkeypatch.setattr(library, "load", lambda: found)
    assert cli.main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["native"]["reason"] == found.reason
    assert report["native"]["is_current"] is is_current
    assert report["implementation"] == ("native" if found.ops else "reference")


MEMORY = MemoryPages(
    allocator="glibc",
    allocator_version="2.36",
    tensorflow_keeps_memory=False,
    allocator_advice="It gives [memory] back.",
    huge_pages="madvise",
    huge_pages_advice="Ask for them.",
    tunables={"hugetlb": 0},
)


def test_doctor_says_what_memory_comes_from(capsys, monkeypatch):
    """Advice is no problem: the exit code stays 0."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(doctor, "memory_pages", lambda: MEMORY)
    monkeypatch.setattr(library, "load", lambda: LOADED)
    assert cli.main(["doctor"]) == 0
    text = printed(capsys)
    assert "Allocator │ glibc 2.36. It gives [memory] back." in text
    assert "Huge pages │ madvise. Ask for them." in text
    assert "Problems │ none" in text
    assert cli.main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["memory"] == MEMORY._asdict() | {"allocator_in_words": "glibc 2.36"}
    assert report["problems"] == []


def test_doctor_names_the_allocator_of_tensorflow(capsys, monkeypatch):
    memory = MEMORY._replace(tensorflow_keeps_memory=True)
    monkeypatch.setattr(doctor, "memory_pages", lambda: memory)
    cli.main(["doctor"])
    assert "Allocator │ TensorFlow's own." in printed(capsys)


def test_doctor_fails_where_a_library_is_refused(capsys, monkeypatch):
    refused = library.Library(None, "The compiled library in x was cut off.", is_refused=True)
    monkeypatch.setattr(library, "load", lambda: refused)
    assert cli.main(["doctor"]) == 1
    assert "Layers run on plain TensorFlow. The compiled library in x" in printed(capsys)


@pytest.fixture
def builder(monkeypatch, tmp_path):
    """Stands in for the compiler: returns the calls, and fails on request."""
    calls = []

    def build(folder, version, *, cuda, report):
        calls.append((folder, version, cuda))
        report("compiled   [one].cc")
        if cuda == "require":
            raise BuildError("nvcc was not found.")

    def build_for_jax(folder, version, *, report):
        calls.append((folder, version, "jax"))

    module = types.SimpleNamespace(build=build, build_for_jax=build_for_jax, BuildError=BuildError)
    monkeypatch.setattr(build_command, "custom_ops", lambda name: module)
    monkeypatch.setenv("KERAS_NORMS_CACHE", str(tmp_path))
    return calls


def test_build_goes_into_the_cache(capsys, builder, tmp_path):
    assert cli.main(["build"]) == 0
    minor = ".".join(tf.__version__.split(".")[:2])
    name = f"{keras_norms.__version__}-tensorflow-{minor}"
    assert builder == [(tmp_path / "keras_norms" / name, keras_norms.__version__, "auto")]
    text = printed(capsys)
    assert "compiled [one].cc" in text and "Built. `keras-norms doctor` says" in text


def test_build_elsewhere_says_where_layers_look(capsys, builder, tmp_path):
    assert cli.main(["build", "--output", "here", "--cuda", "skip"]) == 0
    assert builder == [(pathlib.Path("here").absolute(), keras_norms.__version__, "skip")]
    assert f"Layers find it as {library.places().cache()}." in printed(capsys)


@pytest.mark.main_leg
def test_build_for_jax_goes_where_it_is_looked_for(capsys, builder, tmp_path):
    assert cli.main(["build", "--for", "jax"]) == 0
    version = keras_norms.__version__
    assert builder == [(tmp_path / "keras_norms" / f"{version}-jax", version, "jax")]
    assert "Built. `keras_norms.jax.native_status()` says" in printed(capsys)


def test_build_that_fails_says_why(capsys, builder):
    assert cli.main(["build", "--cuda", "require"]) == 1
    error = " ".join(capsys.readouterr().err.split())
    assert error == "The compiled library was not built. nvcc was not found."


def test_build_where_nothing_can_be_written(capsys, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.delenv("CXX", raising=False)
    assert cli.main(["build", "--cuda", "skip", "--output", str(tmp_path / "file" / "x")]) == 1
    error = " ".join(capsys.readouterr().err.split())
    assert error.startswith("The compiled library was not built. ")
    assert f"{tmp_path / 'file' / 'x'} cannot be written: [Errno 17] File exists" in error


def test_build_begins_only_where_layers_would_load_it(capsys, builder, tmp_path):
    (tmp_path / "keras_norms").mkdir()
    (tmp_path / "keras_norms").chmod(0o777)
    assert cli.main(["build"]) == 1 and not builder
    error = " ".join(capsys.readouterr().err.split())
    assert f"it is not loaded: everybody can change {tmp_path / 'keras_norms'}." in error
    assert cli.main(["build", "--output", str(tmp_path)]) == 0


@pytest.mark.parametrize("command", [["diagnose"], ["build", "--cuda", "yes"]])
def test_rejects_unknown_commands_and_choices(capsys, command):
    with pytest.raises(SystemExit) as caught:
        cli.main(command)
    assert caught.value.code == 2
    assert f"invalid choice: '{command[-1]}'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, shown",
    [
        (["--help"], "doctor"),
        (["--version"], "keras-norms 0."),
        (["cost", "--help"], "--number-format"),
    ],
)
def test_help_and_version_do_not_wait_for_tensorflow(arguments, shown):
    """As the installed command runs it, which is known by its name."""
    script = (
        "import sys; sys.argv[0] = '/bin/keras-norms'; sys.modules['tensorflow'] = None\n"
        "from keras_norms.cli import main; main()"
    )
    command = [sys.executable, "-c", script, *arguments]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0 and shown in result.stdout, result.stderr


@pytest.mark.main_leg
def test_public_names_are_there_for_modules_that_the_command_imports():
    script = (
        "import sys; sys.argv[0] = 'keras-norms'; import keras_norms; "
        "assert 'tensorflow' not in sys.modules; keras_norms.BatchNormalization()"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
