"""Each test that docs/promises.md names exists, and `make test` runs it."""

import ast
import pathlib
import re

TESTS = pathlib.Path(__file__).parent
PROMISES = TESTS.parent / "docs" / "promises.md"


def test_the_tests_of_promises_run():
    named = re.findall(r"`([\w/]+\.py)::(test_\w+)`", PROMISES.read_text())
    assert len(named) > 30
    for path, name in named:
        tree = ast.parse((TESTS / path).read_text())
        (test,) = (node for node in tree.body if getattr(node, "name", "") == name)
        marks = [ast.unparse(decorator) for decorator in test.decorator_list]
        marks += [ast.unparse(n) for n in tree.body if ast.unparse(n).startswith("pytestmark")]
        # A mark on a parameter leaves the others.
        full = [m for m in marks if "pytest.mark.full" in m and "parametrize" not in m]
        assert not full, f"{path}::{name} runs with --full only"
