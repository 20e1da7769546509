"""`keras-norms fold`: a copy of a model for inference, without normalization where it can."""

from keras_norms.cli.commands import guarded, write_changed
from keras_norms.models.folding import fold_batch_norm


def run(options):
    """Returns 0, or 2 on an error."""
    return guarded("fold", write_changed, options, fold_batch_norm)
