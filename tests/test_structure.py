"""The architecture: imports go down the levels, and use public API only."""

import ast
import pathlib

import keras_norms

PACKAGE = pathlib.Path(keras_norms.__file__).parent
LEVELS = {"ops": 0, "statistics": 1, "layers": 2, "schedules": 2, "schedules.py": 2}


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path.relative_to(PACKAGE), ast.parse(path.read_text())


def imported(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def level(parts):
    return LEVELS.get(parts[0], 3)


def test_imports_go_down_the_levels_only():
    for path, tree in modules():
        if path.name == "__init__.py" and len(path.parts) == 1:
            continue
        for name in imported(tree):
            if name.startswith("keras_norms."):
                target = name.split(".")[1:]
                assert level(target) <= level(path.parts), f"{path} imports {name}"


def test_no_layer_imports_another():
    shared = {"base", "channels", "keras_api", "validation"}
    for path, tree in modules():
        if path.parts[0] == "layers" and path.stem not in {"__init__"}:
            for name in imported(tree):
                if name.startswith("keras_norms.layers."):
                    assert name.split(".")[2] in shared, f"{path} imports {name}"


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
