"""The architecture: every room, what it may import, and public API only."""

import ast
import pathlib

import keras_norms

PACKAGE = pathlib.Path(keras_norms.__file__).parent
# A loose file is ground, which imports nothing of ours but other ground; the others have a room
# each, and a room may import those above it.
GROUND = {
    "arguments",
    "files",
    "keras_api",
    "keras_models",
    "keras_weights",
    "printable",
    "schedules",
    "version",
}
ROOMS = (
    {"compiled"},  # As files: without TensorFlow.
    {"ops", "jax"},
    {"statistics", "number_formats"},
    {"layers"},
    {"models"},
    {"training", "diagnostics"},
    {"callbacks"},
    {"conversion"},  # A public name for a file in models/.
    {"api"},
    {"cli"},
)
LEVELS = {name: 1 + level for level, room in enumerate(ROOMS) for name in room}
LEVELS |= dict.fromkeys(GROUND, 0)
SHARED_BY_LAYERS = {
    "activations",
    "advice",
    "base",
    "channels",
    "inputs",
    "keras_2",
    "losses",
    "range_base",
    "rematerialization",
    "rules",
    "stock_config",
}


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.relative_to(PACKAGE).parts[0] not in ("custom_ops", "__init__.py"):
            yield path.relative_to(PACKAGE), ast.parse(path.read_text())


def imported(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room(path):
    return path.parts[0].removesuffix(".py")


def test_every_file_is_ground_or_in_a_room():
    assert {room(path) for path, _ in modules()} == LEVELS.keys()


def test_imports_go_down_the_rooms_only():
    for path, tree in modules():
        for name in imported(tree):
            if name.startswith("keras_norms."):
                target = name.split(".")[1]
                own, other = LEVELS[room(path)], LEVELS[target]
                is_beside = other == own and target == room(path)
                is_ground = other == own == 0
                assert other < own or is_beside or is_ground, f"{path} imports {name}"


def test_no_layer_imports_another():
    for path, tree in modules():
        if path.parts[0] == "layers":
            for name in imported(tree):
                if name.startswith("keras_norms.layers."):
                    assert name.split(".")[2] in SHARED_BY_LAYERS, f"{path} imports {name}"


def test_only_public_api_of_tensorflow_and_keras():
    for path, tree in modules():
        for name in imported(tree):
            assert not name.startswith(("tensorflow.python", "keras.src", "tf_keras.src")), path


def test_one_place_has_a_collective():
    users = [
        str(path)
        for path, tree in modules()
        if any(getattr(node, "attr", "") == "all_reduce" for node in ast.walk(tree))
    ]
    assert users == ["statistics/replicas.py"]


def test_files_stay_small():
    for path, _ in modules():
        lines = (PACKAGE / path).read_text().count("\n")
        assert lines <= 300, f"{path} has {lines} lines"
