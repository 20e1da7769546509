"""Which tests a session runs: everything with `--full`, otherwise what its leg can tell.

The legs are `main` (Keras 3), `legacy` (the same TensorFlow with Keras 2), `addons` (the oldest
TensorFlow, with Keras 2), `between` and `between_legacy` (every other TensorFlow, with Keras 3 and
Keras 2). Everything runs on every leg, except for tests with one of these marks:

    full              on no leg: it takes long
    main_leg          on main only: it says nothing new on the other legs
    each_tensorflow   not on legacy and between_legacy: it does not depend on Keras
    each_keras        on main and legacy: it depends on Keras and takes long

Tests with one of `keras_2`, `keras_3`, `addons` and `gpu` run where there is what they need, with
`--full` too. Marks are put on a test, on one of its parameters, or on a file with `pytestmark`.
"""

import os

import hypothesis
import pytest
import tensorflow as tf

MARKS = {
    "full": (),
    "main_leg": ("main",),
    "each_tensorflow": ("main", "addons", "between"),
    "each_keras": ("main", "legacy"),
}
# A process that is left with one of these at the end would keep the others waiting.
LONGEST = (
    "tests/native/",
    "tests/training/test_workers.py",
    "tests/test_examples.py",
    "tests/test_notebook.py",
    "tests/test_site.py",
    "tests/experiments/",
)
# For what the implementation of the kernels matters to.
BOTH = pytest.mark.usefixtures("implementation")


def leg():
    if tf.__version__.startswith("2.15."):
        return "addons"
    if not tf.__version__.startswith("2.21."):
        return "between_legacy" if has_keras_2() else "between"
    return "legacy" if has_keras_2() else "main"


def has_keras_2():
    return tf.__version__.startswith("2.15.") or os.environ.get("TF_USE_LEGACY_KERAS") == "1"


def is_possible(mark):
    """Whether the session has what this mark says a test needs."""
    return {
        "keras_2": has_keras_2(),
        "keras_3": not has_keras_2(),
        "addons": leg() == "addons",
        "gpu": bool(tf.config.list_physical_devices("GPU")),
    }.get(mark, True)


def examples(count):
    """Settings of Hypothesis: this many examples on the main leg, a quarter of them elsewhere."""
    return hypothesis.settings(
        max_examples=count if leg() == "main" else count // 4,
        deadline=None,
        suppress_health_check=[hypothesis.HealthCheck.too_slow],
    )


def pytest_addoption(parser):
    parser.addoption("--full", action="store_true", help="run every test, however long it takes")


def pytest_collection_modifyitems(config, items):
    """Leaves out what the session does not run, and begins with what takes longest."""
    kept, left_out = [], []
    for item in items:
        marks = {mark.name for mark in item.iter_markers()}
        runs = config.getoption("--full") or all(leg() in MARKS[m] for m in marks & MARKS.keys())
        (kept if runs and all(map(is_possible, marks)) else left_out).append(item)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
    items[:] = sorted(kept, key=lambda item: not item.nodeid.startswith(LONGEST))
