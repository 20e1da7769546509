"""Which allocator and which pages a process uses, read from what the system says, and advice."""

import os
import sys

import pytest
import tensorflow as tf

from keras_norms.diagnostics import memory_pages as pages

pytestmark = pytest.mark.each_tensorflow

MAPS = """\
55d0c0a00000-55d0c0a01000 r-xp 00000000 fe:00 101 /opt/my tools/bin/python3.11
7f0000000000-7f0000002000 rw-p 00000000 00:00 0
7f0000010000-7f0000020000 r-xp 0000d000 fe:00 102 /usr/lib/libtcmalloc_minimal.so.4.5.10
7f0000020000-7f0000030000 r-xp 0000d000 fe:00 103 /usr/lib/libjemalloc.so.2
7f0000030000-7f0000040000 r-xp 0000d000 fe:00 104 /usr/lib/libmimalloc.so.2.0
7f0000040000-7f0000050000 r-xp 0000d000 fe:00 105 /usr/lib/x86_64-linux-gnu/libc.so.6
7f0000050000-7f0000060000 r-xp 0000d000 fe:00 106 /lib/libc-2.31.so
7f0000060000-7f0000070000 r-xp 0000d000 fe:00 107 /lib/ld-musl-x86_64.so.1
7f0000070000-7f0000080000 r-xp 0000d000 fe:00 108 /lib/libcrypto.so.3
"""
HUGE = "glibc.malloc.hugetlb=1"
KEEP = "glibc.malloc.mmap_threshold=0x100000000:glibc.malloc.trim_threshold=17179869184"


@pytest.mark.parametrize(
    "address, name",
    [
        (0x7F0000010000, "tcmalloc"),
        (0x7F000002FFFF, "jemalloc"),
        (0x7F0000030001, "mimalloc"),
        (0x7F0000040001, "glibc"),
        (0x7F0000050001, "glibc"),
        (0x7F0000060001, "musl"),
        (0x7F0000070001, "unknown"),  # A library whose name only begins like that of glibc.
        (0x7F0000000001, "unknown"),  # Memory of no file.
        (0x55D0C0A00001, "unknown"),  # A path with a space.
        (0x7F0000080000, "unknown"),  # Just after the last.
        (None, "unknown"),
    ],
)
def test_the_allocator_is_the_file_that_malloc_is_in(address, name):
    assert pages.allocator_name(MAPS, address) == name


def test_without_files_of_the_system_everything_is_unknown(tmp_path):
    """As on macOS."""
    found = pages.memory_pages({}, maps=tmp_path / "none", setting=tmp_path / "none")
    assert (found.allocator, found.allocator_version) == ("unknown", None)
    assert found.huge_pages == "unknown" and found.tunables == {}
    assert found.huge_pages_advice == "This system does not say whether it has them."


@pytest.mark.parametrize(
    "text, word",
    [
        ("[always] madvise never\n", "always"),
        ("always [madvise] never\n", "madvise"),
        ("always madvise [never]\n", "never"),
        ("", "unknown"),
        (None, "unknown"),
    ],
)
def test_the_setting_of_huge_pages(text, word):
    assert pages.huge_pages_setting(text) == word


@pytest.mark.parametrize(
    "text, values",
    [
        ("", {}),
        (HUGE, {"hugetlb": 1}),
        (KEEP, {"mmap_threshold": 2**32, "trim_threshold": 2**34}),
        ("glibc.cpu.x=3:glibc.malloc.arena_max=1:glibc.malloc.check=3", {"arena_max": 1}),
        ("glibc.malloc.hugetlb=one:glibc.malloc.arena_max=2", {"arena_max": 2}),
        ("hugetlb=1:xglibc.malloc.hugetlb=1", {}),
    ],
)
def test_tunables_of_glibc(text, values):
    assert pages.glibc_tunables(text) == values


@pytest.mark.parametrize(
    "allocator, environment, keeps",
    [
        ("glibc", {}, False),
        ("glibc", {"GLIBC_TUNABLES": HUGE}, False),
        # Without one arena, what threads free is given back from 64 MB on.
        ("glibc", {"GLIBC_TUNABLES": KEEP}, False),
        ("glibc", {"GLIBC_TUNABLES": f"{KEEP}:glibc.malloc.arena_max=1"}, True),
        ("tcmalloc", {}, True),
        ("jemalloc", {}, False),
        ("jemalloc", {"MALLOC_CONF": "dirty_decay_ms:-1,oversize_threshold:0"}, True),
        ("jemalloc", {"MALLOC_CONF": "dirty_decay_ms:-1"}, False),
        ("mimalloc", {}, None),
        ("unknown", {}, None),
    ],
)
def test_who_keeps_memory(allocator, environment, keeps):
    assert pages.keeps_memory(allocator, environment) is keeps


@pytest.mark.parametrize(
    "allocator, environment, tensorflow_keeps, words",
    [
        ("glibc", {}, False, "gives large memory back in every step"),
        ("glibc", {}, None, "LD_PRELOAD=libtcmalloc_minimal.so.4"),
        ("unknown", {}, False, "may give large memory back"),
        ("tcmalloc", {"LD_PRELOAD": "libtcmalloc.so.4"}, False, "nothing to do"),
        ("glibc", {}, True, "as oneDNN is on: nothing to do"),
        ("glibc", {"LD_PRELOAD": "a.so /x/libjemalloc.so.2"}, False, "jemalloc, which was not"),
        ("glibc", {"LD_PRELOAD": "a.so:libtcmalloc.so"}, True, "tcmalloc, which was not loaded"),
        ("glibc", {"LD_PRELOAD": "libfakeroot.so"}, False, "gives large memory back"),
    ],
)
def test_advice_on_allocators(allocator, environment, tensorflow_keeps, words):
    advice = pages.allocator_advice(allocator, environment, tensorflow_keeps)
    assert words in advice and advice.count(". ") == 0


@pytest.mark.parametrize(
    "setting, allocator, version, tunables, words",
    [
        ("always", "glibc", "2.36", {}, "nothing to do"),
        ("never", "glibc", "2.36", {}, "echo madvise"),
        ("madvise", "glibc", "2.36", {}, "GLIBC_TUNABLES=glibc.malloc.hugetlb=1"),
        ("madvise", "glibc", "2.36", {"hugetlb": 1}, "glibc asks for them: nothing to do"),
        ("madvise", "glibc", "2.36", {"hugetlb": 0}, "GLIBC_TUNABLES=glibc.malloc.hugetlb=1"),
        ("madvise", "glibc", "2.31", {}, "from 2.35 on, and this is 2.31"),
        ("madvise", "tcmalloc", None, {}, "nothing to do"),
        ("unknown", "unknown", None, {}, "does not say"),
    ],
)
def test_advice_on_huge_pages(setting, allocator, version, tunables, words):
    advice = pages.huge_pages_advice(setting, allocator, version, tunables)
    assert words in advice


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_this_process():
    found = pages.memory_pages()
    assert found.allocator != "unknown"
    if found.allocator == "glibc":
        assert f"glibc {found.allocator_version}" == os.confstr("CS_GNU_LIBC_VERSION")
    assert found.tunables == pages.glibc_tunables(os.environ.get("GLIBC_TUNABLES", ""))


@pytest.mark.parametrize("counts, keeps", [(True, True), (False, False)])
def test_tensorflow_keeps_memory_where_its_allocator_counts(monkeypatch, counts, keeps):
    def get_memory_info(device):
        assert device == "CPU:0"
        if not counts:
            raise ValueError("Allocator stats not available for device 'CPU:0'")
        return {"current": 0, "peak": 0}

    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    monkeypatch.setattr(tf.config.experimental, "get_memory_info", get_memory_info)
    assert pages.tensorflow_keeps_memory() is keeps


def test_a_gpu_is_not_started_to_ask(monkeypatch):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [kind])
    monkeypatch.setattr(tf.config.experimental, "get_memory_info", None)
    assert pages.tensorflow_keeps_memory() is None
