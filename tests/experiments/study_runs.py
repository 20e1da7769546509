"""Runs the studies as users do, in a process of their own, on data made up for the tests."""

import pathlib
import subprocess
import sys

import numpy as np
import tensorflow as tf

ROOT = pathlib.Path(__file__).parents[2]
WORDS = ["good", "bad", "film", "story", "dull", "fine", "plot", "the"]


def run(study, *arguments):
    """The finished process of `python -m experiments.STUDY`, which must have succeeded."""
    command = [sys.executable, "-m", f"experiments.{study}", *map(str, arguments)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    return result


def save_jpegs(path, **parts):
    """Labelled images as JPEG bytes in an .npz; a part is `train=(images, labels)`, for example."""
    arrays = {}
    for part, (images, labels) in parts.items():
        data = [tf.io.encode_jpeg(image).numpy() for image in images.astype(np.uint8)]
        arrays[f"{part}_jpeg"] = np.frombuffer(b"".join(data), np.uint8)
        arrays[f"{part}_offsets"] = np.cumsum([0, *map(len, data)])
        arrays[f"{part}_labels"] = labels
    np.savez(path, **arrays)
    return path


def sentences(count, seed):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, size=rng.integers(2, 9))) for _ in range(count)]


def save_labelled(folder):
    """The files of SST-2."""
    folder.mkdir()
    for seed, (part, count) in enumerate({"train": 130, "dev": 20, "test": 20}.items()):
        lines = [f"{text}\t{int('good' in text)}" for text in sentences(count, seed)]
        (folder / f"{part}.tsv").write_text("\n".join(lines) + "\n")
    return folder


def save_pairs(folder):
    """The files of Multi30k."""
    folder.mkdir()
    for seed, (stem, count) in enumerate({"train": 260, "val": 20, "test_2016_flickr": 12}.items()):
        lines = sentences(count, seed)
        (folder / f"{stem}.de").write_text("\n".join(lines) + "\n")
        (folder / f"{stem}.en").write_text("\n".join(line.upper() for line in lines) + "\n")
    return folder
