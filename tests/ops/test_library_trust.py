"""Only libraries that nobody but this user and root can change are loaded."""

import grp
import os
import pwd
from types import SimpleNamespace

import pytest
import tensorflow as tf

from keras_norms.ops import library
from tests.ops.libraries import empty_places, imitate_opening, put

pytestmark = pytest.mark.filterwarnings("ignore:keras_norms runs on plain:UserWarning")
STRANGER = 12345
PLACES = pytest.mark.parametrize("place", [0, 1], ids=["package", "cache"])


@pytest.fixture(autouse=True)
def on_both_implementations():
    """Here each test makes its own choice."""


@pytest.fixture
def places(monkeypatch, tmp_path):
    return empty_places(monkeypatch, tmp_path)


@pytest.fixture
def opened(monkeypatch):
    return imitate_opening(monkeypatch)


@pytest.fixture
def pretend(monkeypatch):
    """Makes `os.stat` report another `uid`, `gid` or `mode` for the given paths."""
    changes = {}

    def looking(original):
        def look(*arguments, **options):
            status = original(*arguments, **options)
            change = changes.get((status.st_dev, status.st_ino))
            if change is None:
                return status
            names = ("st_mode", "st_uid", "st_gid", "st_size", "st_dev", "st_ino")
            return SimpleNamespace(**{name: getattr(status, name) for name in names} | change)

        return look

    true_stat = os.stat
    monkeypatch.setattr(os, "stat", looking(os.stat))
    monkeypatch.setattr(os, "fstat", looking(os.fstat))

    def of(*paths, **told):
        changes.clear()
        for path in paths:
            status = true_stat(path)
            change = {f"st_{key}": value for key, value in told.items()}
            if "mode" in told:
                change["st_mode"] |= status.st_mode & ~0o7777
            changes[status.st_dev, status.st_ino] = change

    return of


def reason_afresh():
    """Why no library is loaded, or an empty string where one is."""
    library._loaded.clear()
    found = library.load()
    assert found.is_refused is (found.ops is None)
    return "" if found.ops else found.reason


@PLACES
def test_refuses_what_a_stranger_owns_or_can_write_to(places, opened, pretend, place):
    path, _ = put(places[place])
    parts = [path, path.parent / "_native.json", path.parent, path.parent.parent]
    if place == 1:
        parts += [library.places().cache().parents[1], library.places().cache().parents[2]]
    for part in parts:
        mode = 0o755 if part.is_dir() else 0o644
        for told, who in (
            (dict(uid=STRANGER), "user 12345"),
            (dict(mode=mode | 0o002), "everybody"),
            (dict(mode=mode | 0o020, gid=STRANGER), "group 12345"),
        ):
            pretend(part, **told)
            reason = reason_afresh()
            assert f"in {path.parent} is not loaded: {who} can change {part}." in reason
            assert "`chmod go-w`" in reason and not opened
    pretend(path, uid=0)
    assert not reason_afresh() and opened == [str(path)]


def test_a_sticky_folder_such_as_tmp_is_safe(places, opened, pretend, tmp_path):
    put(places[1])
    pretend(tmp_path, mode=0o1777, uid=0)
    assert not reason_afresh()
    pretend(tmp_path, mode=0o777, uid=0)
    assert f"everybody can change {tmp_path}." in reason_afresh()


@pytest.mark.parametrize("others, is_safe", [([], True), (["bob"], False)])
def test_the_private_group_of_a_user_is_the_user(
    places, opened, pretend, monkeypatch, others, is_safe
):
    """Systems with such groups use a umask of 002: everything is group-writable."""
    path, _ = put(places[1])
    ann = SimpleNamespace(pw_name="ann", pw_uid=os.geteuid(), pw_gid=500)
    group = SimpleNamespace(gr_name="ann", gr_gid=500, gr_mem=["ann", *others])
    monkeypatch.setattr(grp, "getgrgid", {500: group}.__getitem__)
    monkeypatch.setattr(pwd, "getpwnam", {"ann": ann}.__getitem__)
    pretend(path.parent, mode=0o775, gid=500)
    assert bool(reason_afresh()) is not is_safe


@pytest.mark.parametrize(
    "told", [dict(uid=STRANGER), dict(gid=STRANGER, mode=0o775)], ids=["owner", "group"]
)
def test_trusts_whoever_can_change_our_python_files(places, opened, pretend, tmp_path, told):
    """For example a checkout mounted into a container that runs as root."""
    path, _ = put(places[0])
    pretend(path, tmp_path / "ops", **told)
    assert not reason_afresh()
    pretend(path, **told)
    assert f"can change {path}." in reason_afresh()


def test_folders_above_the_home_are_not_checked(places, opened, pretend, monkeypatch, tmp_path):
    """Whoever can replace the home controls the user's shell anyway."""
    home = tmp_path / "home"
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("KERAS_NORMS_CACHE", "~/cache")
    put(library.places().cache())
    pretend(tmp_path, uid=STRANGER)
    assert not reason_afresh()
    pretend(home, uid=STRANGER)
    assert f"user 12345 can change {home}." in reason_afresh()


def test_checks_the_target_of_a_link(places, opened, pretend, tmp_path):
    put(tmp_path / "elsewhere" / "library")
    places[1].parent.mkdir(parents=True)
    places[1].symlink_to(tmp_path / "elsewhere" / "library")
    assert not reason_afresh()
    pretend(tmp_path / "elsewhere", mode=0o777)
    assert f"everybody can change {tmp_path / 'elsewhere'}." in reason_afresh()


def test_never_loads_from_other_folders(places, opened, monkeypatch):
    put(places[1].with_name("elsewhere"))
    reason = reason_afresh()
    assert "elsewhere lies in a folder of another version." in reason and not opened


def test_does_not_wait_for_a_pipe(places, opened):
    places[1].mkdir(parents=True)
    os.mkfifo(places[1] / "_native.json")
    assert "has no readable _native.json: it is not a regular file." in reason_afresh()


def test_shows_control_characters_of_a_description(places, opened):
    put(places[0], tensorflow="\x1b[2J2.0\n")
    assert r"was built for TensorFlow \x1b[2J2.0\n, and" in reason_afresh()


def test_loads_the_file_that_was_checked_even_if_it_is_replaced(places, monkeypatch):
    path, _ = put(places[1])
    loaded = []

    def load_op_library(given):
        path.rename(path.with_suffix(".old"))
        path.write_bytes(b"something else")
        with open(given, "rb") as file:
            loaded.append(file.read())
        return SimpleNamespace()

    monkeypatch.setattr(tf, "load_op_library", load_op_library)
    assert "has none of its operations" in reason_afresh()
    assert loaded == [b"not a library"]
