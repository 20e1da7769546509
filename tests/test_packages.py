"""Packages for users: a library for each TensorFlow, for older systems, the same bytes twice."""

import ast
import configparser
import hashlib
import pathlib
import subprocess
import sys
import tarfile
import types
import zipfile

import pytest
import tensorflow as tf
from setuptools.errors import CompileError

from custom_ops import setuptools_commands, system_symbols, tensorflow_package
from custom_ops.compiler import BuildError
from custom_ops.tensorflow_package import (
    RELEASES,
    TensorFlow,
    downloaded_tensorflow,
    installed_tensorflow,
    minor_of,
    tensorflows_in,
)
from keras_norms.ops import library

ROOT = pathlib.Path(__file__).parents[1]
pytestmark = pytest.mark.each_tensorflow


def test_a_downloaded_package_is_compiled_with_as_the_installed_one():
    installed = installed_tensorflow()
    downloaded = TensorFlow(tf.__version__, installed.folder)
    assert set(downloaded.definitions) == set(installed.definitions)
    assert f"-I{downloaded.include}" in tf.sysconfig.get_compile_flags()
    for name in tensorflow_package._LIBRARIES:
        assert (downloaded.folder / name).is_file()


def test_the_admitted_versions_are_those_with_a_library():
    config = configparser.ConfigParser(interpolation=None)
    config.read(ROOT / "setup.cfg")
    first, *_, last = RELEASES
    after = f"2.{int(last.split('.')[1]) + 1}"
    required = config["options"]["install_requires"].split()
    assert f"tensorflow>={first},<{after}" in required
    assert list(RELEASES) == [minor_of(release) for release in RELEASES.values()]
    assert minor_of(tf.__version__) in RELEASES


def imitated_pip(monkeypatch, names, returncode=0, error=""):
    """pip that downloads a wheel with these files."""

    def run(command, **options):
        folder = command[command.index("--dest") + 1]
        if not returncode:
            with zipfile.ZipFile(pathlib.Path(folder, "tensorflow.whl"), "w") as wheel:
                for name in names:
                    wheel.writestr(name, name)
        return types.SimpleNamespace(returncode=returncode, stderr=error)

    monkeypatch.setattr(subprocess, "run", run)


def test_of_a_downloaded_package_only_what_compiling_needs_is_kept(monkeypatch, tmp_path):
    needed = ["tensorflow/include/a/b.h", "tensorflow/libtensorflow_cc.so.2"]
    imitated_pip(monkeypatch, [*needed, "tensorflow/python/ops.py", "tensorflow/libother.so"])
    lines = []
    for _ in range(2):  # The second time there is nothing to do.
        found = downloaded_tensorflow("2.18.1", tmp_path, lines.append)
    assert found == TensorFlow("2.18.1", tmp_path / "2.18.1" / "tensorflow")
    files = [p.relative_to(tmp_path / "2.18.1") for p in tmp_path.rglob("*") if p.is_file()]
    assert sorted(map(str, files)) == needed and len(lines) == 1


def test_a_download_that_fails_leaves_nothing(monkeypatch, tmp_path):
    imitated_pip(monkeypatch, [], returncode=1, error="warning\nERROR: No matching distribution")
    with pytest.raises(BuildError, match="pip cannot download TensorFlow 2.18.1: ERROR: No match"):
        downloaded_tensorflow("2.18.1", tmp_path / "new")
    assert not list((tmp_path / "new").iterdir())


def test_a_folder_that_cannot_be_one_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(BuildError, match="TensorFlow 2.18.1 cannot be unpacked into .*file: "):
        downloaded_tensorflow("2.18.1", tmp_path / "file")


def test_a_missing_package_is_named(tmp_path):
    with pytest.raises(BuildError, match=r"TensorFlow 2\.15\.1 must be in .*Download it with"):
        tensorflows_in(tmp_path)


def test_the_library_runs_on_older_systems(native):
    (path,) = library.places().package().glob("_native-*.so")
    needed = system_symbols.check(path)
    assert needed["GLIBC"] >= (2, 2) and needed["GLIBCXX"] >= (3, 4)


def test_a_library_that_needs_a_newer_system_is_refused(native, monkeypatch):
    (path,) = library.places().package().glob("_native-*.so")
    monkeypatch.setitem(system_symbols.LIMITS, "GLIBC", (2, 2))
    with pytest.raises(BuildError, match=r"_native-.* needs GLIBC_2\.\d+, and manylinux_2_28 has"):
        system_symbols.check(path)
    with pytest.raises(BuildError, match="objdump failed on no_library"):
        system_symbols.check("no_library")
    monkeypatch.setenv("OBJDUMP", "true")
    with pytest.raises(BuildError, match="objdump finds no versions of symbols in _native-"):
        system_symbols.check(path)


@pytest.fixture
def build_native(monkeypatch, tmp_path):
    """What builds the libraries of a wheel, without compiling."""
    from setuptools import Distribution

    folders = []

    def build(folder, version, **options):
        folder.mkdir(parents=True)
        (folder / ".lock").touch()
        (folder / "_native-0123.so").touch()
        folders.append(folder.name)

    monkeypatch.setattr(setuptools_commands, "build", build)
    monkeypatch.setattr(setuptools_commands, "build_for_jax", build)
    monkeypatch.setattr(system_symbols, "check", lambda path: {})
    command = setuptools_commands.BuildNative(Distribution({"name": "x", "version": "1.2.3"}))
    command.build_lib, command.inplace = str(tmp_path / "lib"), False
    command.folders = folders
    return command


def test_a_wheel_for_all_has_a_library_for_each_version(build_native, monkeypatch, tmp_path):
    for release in RELEASES.values():
        (tmp_path / "all" / release / "tensorflow/include/tensorflow").mkdir(parents=True)
    monkeypatch.setenv("KERAS_NORMS_BUILD_FOR", str(tmp_path / "all"))
    build_native.run()
    assert build_native.folders == [*(f"tensorflow-{minor}" for minor in RELEASES), "jax"]


def test_a_wheel_for_all_fails_where_one_library_is_missing(build_native, monkeypatch, tmp_path):
    monkeypatch.setenv("KERAS_NORMS_BUILD_FOR", str(tmp_path / "none"))
    with pytest.raises(
        CompileError, match=r"KERAS_NORMS_BUILD_FOR: TensorFlow 2\.15\.1 must be in"
    ):
        build_native.run()


def test_a_wheel_for_all_fails_where_a_library_needs_a_newer_system(
    build_native, monkeypatch, tmp_path
):
    for release in RELEASES.values():
        (tmp_path / "all" / release / "tensorflow/include/tensorflow").mkdir(parents=True)
    monkeypatch.setenv("KERAS_NORMS_BUILD_FOR", str(tmp_path / "all"))

    def check(path):
        raise BuildError(f"{path.name} needs GLIBC_2.34, and manylinux_2_28 has GLIBC_2.28.")

    monkeypatch.setattr(system_symbols, "check", check)
    with pytest.raises(CompileError, match="_native-0123.so needs GLIBC_2.34"):
        build_native.run()


@pytest.mark.main_leg
def test_an_archive_of_sources_is_the_same_bytes_twice_and_complete(tmp_path):
    digests = set()
    for name in ("one", "two"):
        command = [sys.executable, "setup.py", "-q", "sdist", "--dist-dir", str(tmp_path / name)]
        command += ["egg_info", "--egg-base", str(tmp_path)]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        (path,) = (tmp_path / name).glob("*.tar.gz")
        digests.add(hashlib.sha256(path.read_bytes()).hexdigest())
    assert len(digests) == 1
    with tarfile.open(path) as archive:
        names = {member.name.partition("/")[2] for member in archive}
        assert {member.uid for member in archive} == {0}
    for folder, pattern in (("keras_norms", "*.py"), ("custom_ops", "*.*"), ("docs", "*.md")):
        for file in (ROOT / folder).rglob(pattern):
            if not {"__pycache__", "_native"} & set(file.parts):
                assert str(file.relative_to(ROOT)) in names


@pytest.mark.main_leg
def test_sources_are_of_the_oldest_python():
    """Syntax only; the names of newer versions are for tests on the older one to find."""
    for folder in ("keras_norms", "custom_ops", "examples"):
        for path in (ROOT / folder).rglob("*.py"):
            ast.parse(path.read_text(), feature_version=(3, 10))
