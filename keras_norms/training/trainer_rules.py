"""What `DistributedTrainer` can train, and with which arguments."""

import tensorflow as tf

from keras_norms.arguments import is_bool, is_int, is_number, is_size, require
from keras_norms.keras_api import keras, nested_layers
from keras_norms.printable import called

OWNER = "DistributedTrainer"


def check_options(accumulate_steps, step_timeout, **bools):
    """Raises ValueError for the first argument of the trainer that is invalid."""
    rule = "`accumulate_steps` must be an int above 0"
    require(is_size(accumulate_steps), OWNER, rule, accumulate_steps=accumulate_steps)
    rule = "`step_timeout` must be a number of seconds above 0"
    holds = is_number(step_timeout, 0) and step_timeout > 0
    require(holds, OWNER, rule, step_timeout=step_timeout)
    for name, value in bools.items():
        require(is_bool(value), OWNER, f"`{name}` must be a bool", **{name: value})


def check_model(model):
    """Raises unless the trainer can train a model as its `fit` would."""
    require(isinstance(model, keras.Model), OWNER, "`model` must be a Keras model", model=model)
    is_compiled = getattr(model, "optimizer", None) is not None
    rule = "the model must be compiled, with an optimizer, in the scope of its strategy"
    require(is_compiled, OWNER, rule, model=called(model))
    rule = "the model must be built, all its layers too, with an `Input` or by calling it"
    unbuilt = [called(layer) for layer in nested_layers(model) if not layer.built]
    require(not unbuilt, OWNER, rule, unbuilt=unbuilt)
    if isinstance(model.distribute_strategy, tf.distribute.ParameterServerStrategy):
        raise RuntimeError(
            f"{OWNER}: it trains replicas that work in step, and those of a "
            "ParameterServerStrategy do not. Use MirroredStrategy or "
            "MultiWorkerMirroredStrategy. Received: a model of a ParameterServerStrategy."
        )
    rule = "a model with a `train_step` of its own needs a loop of its own"
    is_plain = type(model).train_step is keras.Model.train_step
    require(is_plain, OWNER, rule, model=called(model))
    rule = (
        "the trainer accumulates gradients over replicas, by `accumulate_steps`, the optimizer not"
    )
    steps = getattr(model.optimizer, "gradient_accumulation_steps", None)
    require(not steps or steps == 1, OWNER, rule, gradient_accumulation_steps=steps)


def counts_examples(model):
    """Whether the loss is a mean over examples, so that those of uneven shares have to be weighed.

    Raises:
        ValueError: if replicas cannot form the loss from their own.
    """
    losses = tf.nest.flatten(model.loss)
    found = {str(getattr(loss, "reduction", "mean")) for loss in losses if loss is not None}
    rule = (
        "the reduction of a loss must be the mean over the batch or the sum, of all losses the same"
    )
    is_known = "mean_with_sample_weight" not in found
    is_one = len({"sum" if name == "sum" else "mean" for name in found}) < 2
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    holds = replicas == 1 or (is_known and is_one)
    require(holds, OWNER, rule, reduction=sorted(found))
    return "sum" not in found


def check_call(verbose, callbacks, data, **sizes):
    """Raises ValueError for the first argument of `fit` that is invalid.

    Args:
        verbose, callbacks: those of `fit`.
        data: for each dataset by its name the dataset and its steps.
        **sizes: ints above 0 by name; all but `epochs` and `log_every` may be None.
    """
    for name, value in sizes.items():
        may_be_none = name not in ("epochs", "log_every")
        rule = f"`{name}` must be an int above 0{' or None' if may_be_none else ''}"
        require(is_size(value) or (may_be_none and value is None), OWNER, rule, **{name: value})
    is_known = is_int(verbose) and verbose in (0, 1, 2)
    require(is_known, OWNER, "`verbose` must be 0, 1 or 2", verbose=verbose)
    for callback in tf.nest.flatten(callbacks):
        restores = isinstance(callback, keras.callbacks.BackupAndRestore)
        rule = "`checkpoint` takes the place of the callback BackupAndRestore"
        require(not restores, OWNER, rule, callbacks=type(callback).__name__)
    for name, (dataset, steps) in data.items():
        check_dataset(dataset, steps, name)


def check_dataset(dataset, steps, name="dataset"):
    """Raises ValueError unless this is data that comes to an end."""
    rule = "`steps` must be an int above 0 or None"
    require(steps is None or is_size(steps), OWNER, rule, steps=steps)
    kinds = tf.data.Dataset, tf.distribute.DistributedDataset
    is_data = isinstance(dataset, kinds) or (name == "dataset" and callable(dataset))
    rule = f"`{name}` must be a tf.data.Dataset, distributed or not"
    rule += ", or a function that returns one" if name == "dataset" else ""
    require(is_data, OWNER, rule, **{name: type(dataset).__name__})
    if isinstance(dataset, tf.data.Dataset) and steps is None:
        is_finite = int(dataset.cardinality()) != tf.data.INFINITE_CARDINALITY
        rule = f"`{name}` without an end needs a number of steps"
        require(is_finite, OWNER, rule, steps=steps)
