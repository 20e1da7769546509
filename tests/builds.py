"""Builds into a folder for tests, without a compiler or TensorFlow."""

import hashlib
import json
import os

from custom_ops.output_folder import building, publish

NAMES = ("_native.so", "_native_cuda.so")


def build(output, content, report=print, **description):
    """Builds a library of which every file begins with `content`."""
    with building(output, report) as scratch:
        made = {name: scratch / f"made_{name}" for name in NAMES}
        for name, path in made.items():
            path.write_text(content + name)
        publish(scratch, output, made, description | {"content": content})


def content_of(output):
    """What the library there was built from, or None; fails where files do not belong together."""
    try:
        built = json.loads((output / "_native.json").read_text())
    except FileNotFoundError:
        return None
    for name, digest in built["files"].items():
        file = (output / file_name(name, digest)).read_bytes()
        assert file.decode() == built["content"] + name
        assert hashlib.sha256(file).hexdigest() == digest
    return built["content"]


def leftovers(output):
    """Files that do not belong to the library there."""
    files = json.loads((output / "_native.json").read_text())["files"]
    named = {file_name(name, digest) for name, digest in files.items()}
    return {*os.listdir(output)} - {"_native.json", ".lock"} - named


def file_name(name, digest):
    return name.replace(".so", f"-{digest[:16]}.so")
