"""The folder of a build: its files are those of one build, whatever else runs or is broken off."""

import os
import pathlib
import subprocess
import sys
import threading

import pytest

from custom_ops.output_folder import building
from keras_norms.ops import library
from tests.builds import build, content_of, leftovers
from tests.ops.libraries import FITTING, empty_places, imitate_opening

ROOT = pathlib.Path(__file__).parent.parent


def start(program, *arguments):
    return subprocess.Popen([sys.executable, "-c", program, *map(str, arguments)], cwd=ROOT)


def test_a_build_replaces_all_of_the_one_before(tmp_path):
    build(tmp_path, "first")
    (tmp_path / ".building-broken-off").mkdir()
    (tmp_path / ".building-broken-off" / "file").touch()
    (tmp_path / "_native.so").touch()  # As earlier versions named it.
    build(tmp_path, "second")
    assert content_of(tmp_path) == "second" and not leftovers(tmp_path)


def test_nobody_else_may_write_to_it_whatever_the_umask(tmp_path):
    """Or it would not be loaded from."""
    before = os.umask(0)
    try:
        build(tmp_path / "new" / "output", "content")
    finally:
        os.umask(before)
    made = [tmp_path / "new", *(tmp_path / "new").rglob("*")]
    assert len(made) == 6
    assert not [path for path in made if path.stat().st_mode & 0o022 and path.name != ".lock"]


# Kills builds before the n-th change that each makes to files, for every n there is.
KILLED = """
import os, pathlib, signal, sys
from tests.builds import build, content_of

def is_killed(n):
    pid = os.fork()
    if pid:
        return os.WIFSIGNALED(os.waitpid(pid, 0)[1])
    changes = iter(range(1, sys.maxsize))
    def hook(event, arguments):
        if event.split(".")[0] in ("open", "os", "shutil", "tempfile") and next(changes) == n:
            os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)
    build(output, "second")
    os._exit(0)

output, n, seen = pathlib.Path(sys.argv[1]), 1, []
while is_killed(n):
    seen.append(content_of(output))
    if seen[-1] == "second":
        build(output, "first")
    n += 1
assert n > 20 and {*seen} == {"first", "second"}, (n, seen)
"""


def test_a_build_that_is_killed_leaves_the_one_before_or_a_whole_one(tmp_path):
    build(tmp_path, "first")
    assert start(KILLED, tmp_path).wait() == 0
    assert content_of(tmp_path) == "second" and not leftovers(tmp_path)


MANY = """
import pathlib, sys
from tests.builds import build

for i in range(40):
    build(pathlib.Path(sys.argv[1]), f"{sys.argv[2]} {i} ", report=lambda line: None)
"""


def test_builds_at_the_same_time_do_not_mix(tmp_path):
    """Nor does one that ends while a library is being read."""
    builds = [start(MANY, tmp_path, name) for name in ("first", "second")]
    while any(process.poll() is None for process in builds):
        try:
            content_of(tmp_path)
        except FileNotFoundError:
            pass  # Another build has ended since the description was read.
    assert [process.returncode for process in builds] == [0, 0]
    assert content_of(tmp_path).split()[1] == "39" and not leftovers(tmp_path)


def test_a_second_build_waits_for_the_first_and_says_so(tmp_path):
    waits, lines = threading.Event(), []

    def report(line):
        lines.append(line)
        waits.set()

    with building(tmp_path, print) as scratch:
        second = threading.Thread(target=build, args=(tmp_path, "second", report))
        second.start()
        assert waits.wait(10) and scratch.is_dir() and content_of(tmp_path) is None
    second.join()
    assert lines == ["Another build into this folder is running. Waiting for it to end."]
    assert content_of(tmp_path) == "second"


def test_where_nothing_can_be_locked_a_build_says_so(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", flock)
    lines = []
    build(tmp_path, "content", lines.append)
    assert "cannot be locked (Function not implemented). Run one build at a time" in lines[0]


@pytest.mark.parametrize("driver", [0, 13000])
def test_a_build_that_ends_while_a_library_is_loaded_is_loaded(monkeypatch, tmp_path, driver):
    _, cache = empty_places(monkeypatch, tmp_path)
    monkeypatch.setattr(library, "driver_version", lambda: driver)
    opened = imitate_opening(monkeypatch)
    described = {**FITTING, "cuda_runtime": 13000}
    build(cache, "first", **described)
    description = library.description

    def overtaken(*arguments):
        found = description(*arguments)
        monkeypatch.setattr(library, "description", description)
        build(cache, "second", **described)
        return found

    monkeypatch.setattr(library, "description", overtaken)
    assert library.load().devices == ("CPU", "GPU")[: len(opened)]
    assert [pathlib.Path(path).read_text().split("_")[0] for path in opened] == ["second"] * (
        1 + bool(driver)
    )
