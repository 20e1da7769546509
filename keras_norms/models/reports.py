"""What happened to each layer of a model, as a table."""

from typing import NamedTuple

from keras_norms.printable import printable


class Row(NamedTuple):
    """One layer of a report.

    Attributes:
        path: names of the models, attributes and items that lead to the layer.
        layer: its class.
        became: the class that it became, the layer that it became a part of, or what it computes;
            None if it is as it was.
        note: what could not be kept, or why it is as it was; "" if there is nothing to say.
    """

    path: str
    layer: str
    became: str | None
    note: str = ""

    def __str__(self):
        change = f"{self.layer} -> {self.became}" if self.became else f"{self.layer} as it was"
        return printable(f"{self.path}: {change}" + (f" ({self.note})" if self.note else ""))


class ModelReport(tuple):
    """A tuple of `Row`s, which prints as a line each."""

    @property
    def changed(self):
        """The rows of layers that became something else."""
        return ModelReport(row for row in self if row.became)

    @property
    def unchanged(self):
        """The rows of layers that are as they were."""
        return ModelReport(row for row in self if not row.became)

    def __str__(self):
        return "\n".join(map(str, self))


def listed(names):
    """Names of layers in a note."""
    return " and ".join(f"'{name}'" for name in names)
