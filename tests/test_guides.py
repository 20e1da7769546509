"""The Python code of the README and of the guides runs, and their links lead somewhere."""

import pathlib
import re

import pytest

import keras_norms

pytestmark = pytest.mark.main_leg
ROOT = pathlib.Path(__file__).parents[1]
GUIDES = sorted((ROOT / "docs" / "guides").glob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "docs" / "which-layer.md", *GUIDES]
EACH_PAGE = pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)


@EACH_PAGE
def test_the_code_runs(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    try:
        for code in re.finditer(
            r"^```python\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE
        ):
            line = path.read_text()[: code.start()].count("\n") + 1
            exec(compile("\n" * line + code[1], str(path), "exec"), names)
    finally:
        keras_norms.set_implementation("auto")
    assert "keras_norms" in names


@EACH_PAGE
def test_links_lead_to_files_and_headings(path):
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", path.read_text()):
        file, _, heading = target.partition("#")
        linked = (path.parent / file).resolve()
        assert linked.exists(), f"{path.name} links {target}"
        if heading:
            assert heading in headings(linked), f"{path.name} links {target}"


def headings(path):
    """As GitHub names them in links."""
    titles = re.findall(r"^#+ (.*)", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_the_readme_is_a_first_page():
    assert (ROOT / "README.md").read_text().count("\n") <= 100


def test_the_readme_links_every_guide():
    text = (ROOT / "README.md").read_text()
    for path in GUIDES:
        assert f"docs/guides/{path.name}" in text
