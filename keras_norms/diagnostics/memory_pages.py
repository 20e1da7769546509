"""Where large tensors on a CPU get their memory from, and what would make that faster.

A page of memory is filled with zeros when a process first touches it: 25,000 times for a tensor of
100 MB. An allocator that gives freed memory back to the system pays for that in every training
step, one that keeps it only once, and with huge pages, 2 MB each, there is little to pay for.
"""

import ctypes
import os
import re
from typing import NamedTuple

import tensorflow as tf

MAPS = "/proc/self/maps"
HUGE_PAGES = "/sys/kernel/mm/transparent_hugepage/enabled"
UNKNOWN = "unknown"
# Thresholds from here on keep all but the largest activations.
LARGE = 256 * 2**20
_FILES = (
    (r"lib(tcmalloc|jemalloc|mimalloc)", r"\1"),
    (r"libc(\.so\.6|-2\.)", "glibc"),
    (r"(ld-|libc\.)musl", "musl"),
)
_READ_TUNABLES = ("hugetlb", "mmap_threshold", "trim_threshold", "arena_max")


class MemoryPages(NamedTuple):
    """What a process uses, and one sentence each of what to do about it."""

    allocator: str
    allocator_version: str | None
    tensorflow_keeps_memory: bool | None
    allocator_advice: str
    huge_pages: str
    huge_pages_advice: str
    tunables: dict

    @property
    def allocator_in_words(self):
        """Such as `glibc 2.36`, or `TensorFlow's own`."""
        if self.tensorflow_keeps_memory:
            return "TensorFlow's own"
        return " ".join(filter(None, [self.allocator, self.allocator_version]))


def memory_pages(environment=None, *, maps=MAPS, setting=HUGE_PAGES):
    """Looks at this process and changes nothing, except that TensorFlow starts its CPU device.

    Args:
        environment: in place of `os.environ`. glibc and the loader read it when a process
            starts; what is set later shows here, but has no effect.
        maps, setting: files of the system. Where there are none, as on macOS, the answer is
            `"unknown"`.

    Returns:
        A `MemoryPages`.
    """
    environment = os.environ if environment is None else environment
    allocator = allocator_name(_read(maps), _address_of_malloc())
    version = _glibc_version() if allocator == "glibc" else None
    tunables = glibc_tunables(environment.get("GLIBC_TUNABLES", ""))
    pages = huge_pages_setting(_read(setting))
    keeps = tensorflow_keeps_memory()
    return MemoryPages(
        allocator,
        version,
        keeps,
        allocator_advice(allocator, environment, keeps),
        pages,
        huge_pages_advice(pages, allocator, version, tunables),
        tunables,
    )


def allocator_name(maps, address):
    """Whose `malloc` is at that address, after the text of /proc/self/maps.

    The address tells more than the names of the files: a library may be there for another use.
    """
    for line in (maps or "").splitlines():
        addresses, *_, path = line.split(maxsplit=5)
        first, end = (int(bound, 16) for bound in addresses.split("-"))
        if address is not None and first <= address < end:
            return _name(path) or UNKNOWN
    return UNKNOWN


def huge_pages_setting(text):
    """The word in brackets: `always`, `madvise` or `never`."""
    chosen = re.search(r"\[(\w+)\]", text or "")
    return chosen[1] if chosen else UNKNOWN


def glibc_tunables(text):
    """The ones that matter here, as whole numbers; those that are none are left out."""
    pairs = re.findall(r"(?:^|:)glibc\.malloc\.(\w+)=(0[xX][0-9a-fA-F]+|\d+)(?=:|$)", text)
    return {
        name: int(value, 16 if value[:2] in ("0x", "0X") else 10)
        for name, value in pairs
        if name in _READ_TUNABLES
    }


def keeps_memory(allocator, environment):
    """Whether freed memory of any size stays with the process. None where that is not known."""
    if allocator == "tcmalloc":
        return True
    if allocator == "jemalloc":
        options = environment.get("MALLOC_CONF", "").split(",")
        return {"oversize_threshold:0", "dirty_decay_ms:-1"} <= set(options)
    if allocator == "glibc":
        tunables = glibc_tunables(environment.get("GLIBC_TUNABLES", ""))
        thresholds = (tunables.get(name, 0) for name in ("mmap_threshold", "trim_threshold"))
        # Arenas of other threads than the first give back whatever has more than 64 MB.
        return min(thresholds) >= LARGE and tunables.get("arena_max") == 1
    return None


def allocator_advice(allocator, environment, tensorflow_keeps=False):
    """One sentence on the allocator."""
    preloaded = _preloaded(environment.get("LD_PRELOAD", ""))
    if preloaded and allocator not in (preloaded, UNKNOWN):
        return f"LD_PRELOAD names {preloaded}, which was not loaded: see if it is installed."
    if tensorflow_keeps:
        return "It keeps memory for the next step, as oneDNN is on: nothing to do."
    keeps = keeps_memory(allocator, environment)
    if keeps:
        return "It keeps memory for the next step: nothing to do."
    how = "gives" if keeps is False else "may give"
    return (
        f"It {how} large memory back in every step: for tensors of more than 32 MB on a CPU, "
        "LD_PRELOAD=libtcmalloc_minimal.so.4 keeps it."
    )


def huge_pages_advice(setting, allocator, version=None, tunables=None):
    """One sentence on transparent huge pages."""
    if setting == "always":
        return "Large memory gets them: nothing to do."
    if setting == "never":
        return f"They are off: on a CPU, `echo madvise > {HUGE_PAGES}` as root allows them."
    if setting != "madvise":
        return "This system does not say whether it has them."
    if allocator != "glibc":
        return "Only memory that a program asks them for has them: nothing to do."
    if (tunables or {}).get("hugetlb"):
        return "glibc asks for them: nothing to do."
    if version and _numbers(version) < (2, 35):
        return f"glibc asks for them from 2.35 on, and this is {version}."
    return "Where memory is not kept, GLIBC_TUNABLES=glibc.malloc.hugetlb=1 asks for them."


def tensorflow_keeps_memory():
    """Whether TensorFlow keeps the memory of its tensors itself, as it does with oneDNN.

    Its own allocator counts what it hands out, the plain one does not. None where there is a
    GPU, which would be started to ask.
    """
    if tf.config.list_physical_devices("GPU"):
        return None
    try:
        tf.config.experimental.get_memory_info("CPU:0")
    except ValueError:
        return False
    return True


def _read(path):
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return None


def _address_of_malloc():
    try:
        return ctypes.cast(ctypes.CDLL(None).malloc, ctypes.c_void_p).value
    except (OSError, TypeError, AttributeError):  # Windows has no library without a name.
        return None


def _glibc_version():
    return (os.confstr("CS_GNU_LIBC_VERSION") or "").removeprefix("glibc ") or None


def _numbers(version):
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])


def _name(path):
    """The allocator in a file, or None."""
    for pattern, name in _FILES:
        found = re.match(pattern, os.path.basename(path))
        if found:
            return found.expand(name)
    return None


def _preloaded(value):
    """The allocator that LD_PRELOAD names, or None."""
    return next(filter(None, map(_name, re.split(r"[ :]+", value))), None)
