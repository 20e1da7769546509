"""Compiled libraries for tests of the loader: real files in their places, that hold no code."""

import hashlib
import json
import os

import tensorflow as tf

import keras_norms
from keras_norms.compiled import places
from keras_norms.ops import library

CONTENTS = {"_native.so": b"not a library", "_native_cuda.so": b"not a library for GPUs"}
FITTING = {
    "tensorflow": tf.__version__,
    "keras_norms": keras_norms.__version__,
    "xla": "hlo",
    "cuda_runtime": None,
    "cuda_architectures": [],
    "sources": "0123",
    "files": {name: hashlib.sha256(content).hexdigest() for name, content in CONTENTS.items()},
}


def put(folder, **changes):
    """Writes a library into a folder, as a build does; returns the paths of its two files."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, digest in FITTING["files"].items():
        paths.append(folder / name.replace(".so", f"-{digest[:16]}.so"))
        paths[-1].write_bytes(CONTENTS[name])
    (folder / "_native.json").write_text(json.dumps(FITTING | changes))
    return paths


class Operations(str):
    """In place of a library that was loaded: where it was loaded from."""

    keras_norms_moments = keras_norms_sums = keras_norms_blend = None
    keras_norms_extremes = keras_norms_add_at = keras_norms_round = None

    def __new__(cls, opened):
        return super().__new__(cls, os.path.realpath(opened))


def empty_places(monkeypatch, tmp_path):
    """Nothing loaded, and no library anywhere; returns the package's folder and the cache's."""
    monkeypatch.setattr(library, "_loaded", [])
    monkeypatch.setattr(places, "PACKAGE_FOLDER", tmp_path / "ops" / "_native")
    monkeypatch.setenv("KERAS_NORMS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(library, "driver_version", lambda: 0)
    (tmp_path / "ops").mkdir()
    return library.places().package(), library.places().cache()


def imitate_opening(monkeypatch):
    """Returns the list of what is loaded from now on."""
    opened = []

    def load_op_library(path):
        opened.append(Operations(path))
        return opened[-1]

    monkeypatch.setattr(tf, "load_op_library", load_op_library)
    return opened
