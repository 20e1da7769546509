"""The committed results are read as they are, and make the committed reports."""

import json
import pathlib

import pytest

from experiments.drift.report import page_of as drift_page
from experiments.range_norms.report import page_of as range_norms_page
from experiments.recomputed_statistics.report import page_of as recomputed_statistics_page
from experiments.renorm_convergence.report import page_of as renorm_convergence_page
from experiments.reports import page, reading
from experiments.results import Results
from experiments.small_batches.report import page_of as small_batches_page
from experiments.text_classification.protocol import study as text_classification_study
from experiments.texts.report import page_of as text_page
from experiments.translation.protocol import study as translation_study

pytestmark = pytest.mark.main_leg  # The reports name the versions of this leg.
RESULTS = pathlib.Path(__file__).parents[2] / "docs" / "results"
PAGES = {
    "small_batches": small_batches_page,
    "momentum_0.9/small_batches": small_batches_page,
    "renorm_convergence": renorm_convergence_page,
    "range_norms": range_norms_page,
    "recomputed_statistics": recomputed_statistics_page,
    "drift": drift_page,
    "text_classification": lambda found: text_page(text_classification_study(found["size"]), found),
    "translation": lambda found: text_page(translation_study(found["size"]), found),
}


@pytest.mark.parametrize("name", PAGES)
def test_committed_results_make_the_committed_report(name):
    path = RESULTS / f"{name}.md"
    found = json.loads((RESULTS / f"{name}.json").read_text())
    assert page(*PAGES[name](found), reading(path)) == path.read_text()


@pytest.mark.parametrize("name", [name for name in PAGES if name != "drift"])
def test_a_study_skips_the_committed_runs(name):
    path = RESULTS / f"{name}.json"
    content = json.loads(path.read_text())
    results = Results(path, content["size"])
    assert all(results.has(*key.split("/")) for key in content["runs"])
