"""The documentation site builds without a warning, its links lead somewhere, nothing is missing.

A link to a page or heading that is not there, a page outside of the navigation and a name that the
reference does not know are warnings of Sphinx, which fail the build.
"""

import html.parser
import importlib
import inspect
import os
import pathlib
import subprocess
import sys
import urllib.parse

import pytest

import keras_norms
from keras_norms.cli.main import COMMANDS

pytestmark = pytest.mark.main_leg
ROOT = pathlib.Path(__file__).parents[1]
MODULES = [m for m in keras_norms.api.__all__ if inspect.ismodule(getattr(keras_norms, m))]


class Page(html.parser.HTMLParser):
    """What a page has: anchors, links, formulas, and what the browser would fetch for it."""

    def __init__(self, path):
        super().__init__()
        self.anchors, self.links, self.fetched, self.formulas = set(), [], [], 0
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.anchors.add(attributes.get("id"))
        self.formulas += tag == "math"
        if tag == "a" and "href" in attributes:
            self.links.append(attributes["href"])
        elif tag in ("img", "script", "link", "iframe"):
            self.fetched.append(attributes.get("src") or attributes.get("href") or "")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The pages by their paths within the site."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-c", "docs/site"]
        + ["-d", folder / "doctrees", ".", folder / "html"],
        cwd=ROOT,
        env={**os.environ, "http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return {path: Page(path) for path in sorted((folder / "html").rglob("*.html"))}


def page(site, name):
    (found,) = (page for path, page in site.items() if path.as_posix().endswith(f"html/{name}"))
    return found


def test_links_lead_to_pages_and_anchors(site):
    checked = 0
    for path, origin in site.items():
        for link in origin.links:
            address = urllib.parse.urlsplit(link)
            if address.scheme:
                continue
            target = path
            if address.path:
                target = pathlib.Path(
                    os.path.normpath(path.parent / urllib.parse.unquote(address.path))
                )
            assert target.exists(), f"{path} links {link}"
            if address.fragment and target in site:
                anchor = urllib.parse.unquote(address.fragment)
                assert anchor in site[target].anchors, f"{path} links {link}"
            checked += 1
    assert checked > 1000


def test_pages_fetch_nothing_from_elsewhere(site):
    for path, origin in site.items():
        for address in origin.fetched:
            assert not urllib.parse.urlsplit(address).netloc, f"{path} fetches {address}"


def test_every_public_name_is_in_the_reference(site):
    described = set().union(
        *(of.anchors for path, of in site.items() if path.parent.name == "reference")
    )
    names = {f"keras_norms.{name}" for name in keras_norms.api.__all__ if name not in MODULES}
    for module in map(vars(keras_norms).get, MODULES):
        # The names that a module shares with the package are described there.
        own = set(getattr(module, "__all__", ())) - set(keras_norms.api.__all__)
        names |= {f"{module.__name__}.{name}" for name in own}
    names |= {"keras_norms.ops.batch_moments", "keras_norms.schedules.LinearRamp"}
    names |= {f"keras_norms.jax.{name}" for name in keras_norms.jax.__all__}
    assert len(names) > 45
    assert not names - described


def test_every_guide_and_result_is_in_the_navigation(site):
    start = page(site, "README.html").links
    for path in [
        *ROOT.glob("docs/*.md"),
        *ROOT.glob("docs/guides/*.md"),
        *ROOT.glob("docs/results/*.md"),
    ]:
        assert path.relative_to(ROOT).with_suffix(".html").as_posix() in start


def test_every_command_is_in_the_reference():
    text = (ROOT / "docs" / "reference" / "commands.md").read_text()
    for name in COMMANDS:
        assert f"`keras-norms {name}`" in text


def test_formulas_are_drawn(site):
    layers = "batch-normalization", "small-batches", "gates-and-ranges"
    for name, least in zip(layers, (4, 5, 7), strict=True):
        assert page(site, f"docs/reference/{name}.html").formulas >= least


@pytest.mark.parametrize(
    "line, cells",
    [
        ("y = x", ["<mi>y</mi>", "<mo>=</mo>", "<mi>x</mi>", ""]),
        (
            "y = gamma * (x - mean) / 2",
            [
                "<mi>y</mi>",
                "<mo>=</mo>",
                "<mi>γ</mi><mo>·</mo><mfrac><mrow><mi>x</mi><mo>−</mo><mi>mean</mi></mrow>"
                "<mn>2</mn></mfrac>",
                "",
            ],
        ),
        (
            "n_c = sqrt(z^2),  with z above 0",
            [
                "<msub><mi>n</mi><mi>c</mi></msub>",
                "<mo>=</mo>",
                "<msqrt><mrow><msup><mi>z</mi><mn>2</mn></msup></mrow></msqrt>",
                "<mtext>with z above 0</mtext>",
            ],
        ),
        ('"both"  |a| + f(b)', ["<mtext>both</mtext>", "<mo></mo>"]),
    ],
    ids=["names", "fraction", "root and remark", "label"],
)
def test_a_formula_is_read(line, cells, formulas):
    row = "".join(f"<mtd>{cell}</mtd>" for cell in cells)
    assert row in formulas.formulas(f"    {line}")


@pytest.mark.parametrize("line", ["scale, shift   two vectors", "y = (x", "y = ", "x", "y = x; z"])
def test_what_is_no_formula_stays_code(line, formulas):
    with pytest.raises(formulas.NotAFormula):
        formulas.formulas(f"    {line}")


@pytest.fixture
def formulas(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs" / "site")
    return importlib.import_module("formulas")
