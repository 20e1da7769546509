"""Compiles source files side by side, links them, and keeps the results for the next time.

A result is named by a hash of all that it is made from: the flags, the version of the compiler,
the source and the headers of ours that it includes, however deep. So one that is there is up to
date.
"""

import concurrent.futures
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent
INCLUDE_FOLDERS = (ROOT, ROOT / "kernels")
_FAILURE = re.compile(r"\berror:|\bfatal\b|undefined reference")
_INCLUDE = re.compile(r'^\s*#\s*include\s*"([^"]+)"', re.MULTILINE)


class BuildError(Exception):
    """The library cannot be built; the message is one sentence that says why."""


@dataclass(frozen=True)
class Tool:
    """A compiler: what starts it, and the first line that tells its version."""

    path: str
    version: str


@dataclass(frozen=True)
class Unit:
    """One source file and how it is compiled.

    Attributes:
        source: the file.
        tool: the compiler.
        flags: all but the files.
        variant: tells units of one file apart.
        against: what others wrote and it includes; the version of TensorFlow, for example.
    """

    source: Path
    tool: Tool
    flags: tuple[str, ...]
    variant: str = ""
    against: str = ""

    def __str__(self):
        name = str(self.source.relative_to(ROOT))
        return f"{name} ({self.variant})" if self.variant else name


def find_tool(variable, *names):
    """Returns the tool that the environment variable or one of the names stands for, or None.

    Raises:
        BuildError: if the variable is set to something that is not a program.
    """
    chosen = os.environ.get(variable)
    if chosen and not shutil.which(chosen):
        raise BuildError(f"{variable} must be a program, without arguments. Received: {chosen!r}.")
    for name in (chosen,) if chosen else names:
        path = shutil.which(name)
        if path:
            lines = output_of([path, "--version"]).strip().splitlines()
            # g++ tells its version in the first line, nvcc in the last but one.
            return Tool(path, next((line for line in lines if re.search(r"\d\.\d", line)), path))
    return None


class Workshop:
    """Compiles and links into a folder, and repeats only what changed.

    Args:
        folder: where objects and libraries are kept.
        report: called with one line for each file, from any thread.
    """

    def __init__(self, folder, report):
        self._folder, self._report = folder, report

    def compile(self, units):
        """Returns the objects in the order of the units; start with those that take longest."""
        with concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            jobs = [pool.submit(self._compile, unit) for unit in units]
            try:
                return [job.result() for job in jobs]
            except BuildError:
                pool.shutdown(cancel_futures=True)
                raise

    def link(self, name, tool, objects, flags):
        """Returns the shared library; `flags` name what it is linked with."""
        # Objects are named by what is in them.
        key = (tool, flags, [path.name for path in objects])
        command = [tool.path, "-shared", *map(str, objects), *flags]
        return self._make(f"{name}.so", key, command, "linked")

    def _compile(self, unit):
        texts = [(path.name, path.read_bytes()) for path in _with_headers(unit.source)]
        command = [unit.tool.path, *unit.flags, "-c", str(unit.source)]
        key = (unit.tool, unit.flags, unit.against, texts)
        return self._make(f"{unit}.o", key, command, "compiled")

    def _make(self, name, key, command, verb):
        digest = hashlib.sha256(repr(key).encode()).hexdigest()[:20]
        label, suffix = os.path.splitext(name)
        path = self._folder / f"{Path(label).stem}-{digest}{suffix}"
        if path.exists():
            self._report(f"unchanged  {label}")
            return path
        self._folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self._folder) as scratch:
            made = Path(scratch, path.name)
            # Nothing but warnings; the user sees them.
            warnings = output_of([*command, "-o", str(made)], label).strip()
            if not made.is_file():
                raise BuildError(f"{Path(command[0]).name} made no file of {label}.")
            os.replace(made, path)
        self._report(f"{verb:<9}  {label}" + (f"\n{warnings}" if warnings else ""))
        return path


def hash_sources():
    """A hash of all sources, to tell whether a library was built from them."""
    paths = (p for p in ROOT.rglob("*") if p.suffix in {".h", ".cc", ".cu", ".cuh"})
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _with_headers(source):
    """The source and the headers of ours that it includes, in a fixed order."""
    found, open_ = {}, [source]
    while open_:
        path = open_.pop()
        if path in found:
            continue
        found[path] = None
        for name in _INCLUDE.findall(path.read_text(encoding="utf-8")):
            candidates = [folder / name for folder in (path.parent, *INCLUDE_FOLDERS)]
            open_.extend(next(([c.resolve()] for c in candidates if c.is_file()), []))
    return sorted(found)


def output_of(command, label="--version"):
    """Runs a command and returns what it prints.

    Raises:
        BuildError: if it cannot be started or fails; names `label`, what it ran on.
    """
    try:
        result = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        raise BuildError(f"{command[0]} could not be started: {error}.") from error
    output = result.stdout + result.stderr
    if result.returncode:
        lines = [line for line in output.splitlines() if _FAILURE.search(line)]
        detail = "\n".join((lines or output.splitlines())[:8])
        raise BuildError(f"{Path(command[0]).name} failed on {label}:\n{detail}")
    return output
