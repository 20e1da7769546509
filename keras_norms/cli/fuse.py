"""`keras-norms fuse`: a copy of a model whose normalizations compute their activations."""

from keras_norms.cli.commands import guarded, write_changed
from keras_norms.models.fusing import fuse_activations, unfuse_activations


def run(options):
    """Returns 0, or 2 on an error."""
    change = unfuse_activations if options.undo else fuse_activations
    return guarded("fuse", write_changed, options, change)
