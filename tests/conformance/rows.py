"""The rows of the catalogue as parameters of a test: all on the main leg, elsewhere one a layer."""

import pytest

from tests.catalog import ROWS

# The first row of each layer.
PLAIN = list({row.layer: name for name, row in reversed(ROWS.items())}.values())
VARIANTS = [name for name in ROWS if name not in PLAIN]


def parameter(name, *values, plain=(), variant=pytest.mark.main_leg):
    """One row, with the marks that plain ones and others get."""
    marks = plain if name in PLAIN else variant
    return pytest.param(ROWS[name], *values, id="-".join([name, *values]), marks=marks)


EVERY_ROW = [parameter(name) for name in ROWS]

# Plain rows, and those in which replicas compute what one does; to train on replicas takes seconds.
ON_REPLICAS = [
    parameter(name, variant=pytest.mark.main_leg if row.counts_all_replicas else pytest.mark.full)
    for name, row in ROWS.items()
]

# Every row on the compiled library, plain ones on the reference too.
ON_BOTH = pytest.mark.parametrize(
    "row, implementation",
    [
        *(parameter(name, "native") for name in ROWS),
        *(
            parameter(name, "reference", plain=pytest.mark.main_leg, variant=pytest.mark.full)
            for name in ROWS
        ),
    ],
    indirect=True,
)
