"""`keras-norms recompute`: a copy of a model with statistics taken anew from data."""

from typing import NamedTuple

from keras_norms.cli.commands import guarded, write_changed
from keras_norms.cli.model_files import read_npz
from keras_norms.models.population_statistics import recompute_statistics


class Row(NamedTuple):
    """A layer: how many values its statistics are of, and how far they moved."""

    layer: str
    values: float
    mean_shift: float
    stddev_shift: float


def run(options):
    """Returns 0, or 2 on an error."""

    def recompute(model):
        found = recompute_statistics(
            model,
            read_npz(options.data, model),
            options.steps,
            batch_size=options.batch_size,
            sequential=options.sequential,
            verbose=0 if options.json else 1,
        )
        rows = (
            Row(name, layer.count, layer.mean_shift, layer.stddev_shift)
            for name, layer in found.items()
        )
        return model, tuple(rows)

    return guarded("recompute", write_changed, options, recompute)
