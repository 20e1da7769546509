"""What became of each normalization of a model that was folded."""

import io
from typing import Any, NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from keras_norms.printable import printable


class Row(NamedTuple):
    """A normalization.

    Attributes:
        layer: its name; in a model inside of the model, `"inner/name"`.
        into: the name of the layer that it is folded into, or None.
        reason: why it is not folded, or None.
    """

    layer: str
    into: str | None
    reason: str | None


class FoldingReport(tuple):
    """A `Row` for each normalization, in the order of the model. `str` of it is a table."""

    def __str__(self):
        folded = sum(row.into is not None for row in self)
        title = f"{folded} of {len(self)} normalizations folded"
        table = Table(title=title, title_justify="left")
        table.add_column("layer", overflow="fold")
        table.add_column("outcome", overflow="fold")
        for row in self:
            outcome = f"folded into {row.into}" if row.into else row.reason
            table.add_row(*(escape(printable(text)) for text in (row.layer, outcome)))
        text = io.StringIO()
        Console(file=text, width=120).print(table)
        return text.getvalue().rstrip("\n")


class Folded(NamedTuple):
    """What `fold_batch_norm` returns.

    Attributes:
        model: the new model.
        report: a `FoldingReport`.
    """

    model: Any
    report: FoldingReport
