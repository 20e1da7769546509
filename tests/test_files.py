"""`write_whole`: all or nothing, and nothing of the user's is lost."""

import os

import pytest

from keras_norms.files import write_whole


def test_a_new_file_follows_the_umask_which_is_never_changed(tmp_path, monkeypatch):
    """It belongs to the process: another thread would write a file with the wrong mode."""
    before = os.umask(0o027)
    try:
        with monkeypatch.context() as patched:
            patched.setattr(os, "umask", None)
            write_whole(tmp_path / "new", b"content")
    finally:
        os.umask(before)
    assert (tmp_path / "new").read_bytes() == b"content"
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o640


def test_a_private_file_stays_private_at_every_moment(tmp_path, monkeypatch):
    path, modes = tmp_path / "private", []
    path.touch(mode=0o600)

    def replace(temporary, target):
        modes.append(os.stat(temporary).st_mode & 0o777)
        raise OSError("the disk is full")

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(OSError, match="the disk is full"):
        write_whole(path, b"content")
    assert modes == [0o600] and list(tmp_path.iterdir()) == [path] and path.read_bytes() == b""


def test_a_name_as_long_as_names_can_be(tmp_path):
    write_whole(tmp_path / ("a" * 255), b"content")
    assert [path.name for path in tmp_path.iterdir()] == ["a" * 255]


def test_other_than_regular_files_are_not_replaced(tmp_path):
    read_only, pipe, loop = (tmp_path / name for name in ("read_only", "pipe", "loop"))
    read_only.write_text("mine")
    read_only.chmod(0o444)
    os.mkfifo(pipe)
    loop.symlink_to(loop)
    before = sorted(tmp_path.iterdir())
    for path, error, message in (
        (read_only, PermissionError, "may not be written"),
        (pipe, FileExistsError, "is not a file that can be replaced"),
        (loop, FileExistsError, "is not a file that can be replaced"),
        (f"{tmp_path}/sub/", IsADirectoryError, "is a folder"),
        (tmp_path, IsADirectoryError, "is a folder"),
        (tmp_path / "no" / "file", FileNotFoundError, "there is no folder"),
    ):
        with pytest.raises(error, match=message):
            write_whole(path, b"content")
    assert sorted(tmp_path.iterdir()) == before and read_only.read_text() == "mine"
