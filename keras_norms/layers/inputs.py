"""What a call of a layer may be given: its inputs and `training`."""

import tensorflow as tf

from keras_norms.arguments import is_bool


def real_tensor(value, name, owner):
    """`value` as a dense tensor of real numbers and known rank.

    Raises:
        ValueError: if it is none.
    """
    rule = f"{owner}: `{name}` must be a dense tensor of real numbers with known rank"
    if isinstance(value, tf.RaggedTensor):
        raise ValueError(
            f"{rule}. Received: a ragged tensor; pass `{name}.to_tensor()` and a mask of its "
            "valid positions."
        )
    try:
        tensor = tf.convert_to_tensor(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{rule}. Received: {type(value).__name__}.") from error
    if not (tensor.dtype.is_floating or tensor.dtype.is_integer or tensor.dtype.is_bool):
        raise ValueError(f"{rule}. Received: dtype={tensor.dtype.name}.")
    if tensor.shape.rank is None:
        raise ValueError(f"{rule}. Received: a tensor of unknown rank.")
    return tensor


def check_residual(residual, inputs, layer_dtypes, owner):
    """Raises if a residual does not have the shape of the inputs, and their dtype or the layer's.

    Both may be symbolic. With mixed precision a shortcut may come from before the first layer.
    """
    one, other = tf.TensorShape(residual.shape), tf.TensorShape(inputs.shape)
    dtype, other_dtype = (tf.as_dtype(each.dtype).name for each in (residual, inputs))
    fits = dtype in (other_dtype, *layer_dtypes)
    if not one.is_compatible_with(other) or not fits:
        raise ValueError(
            f"{owner}: `residual` must have the shape and dtype of `inputs`, or the dtype of the "
            f"layer. Received: residual of shape {one} and dtype {dtype}, inputs of shape {other} "
            f"and dtype {other_dtype}."
        )


def mask_of(inputs):
    """The mask that a preceding Keras layer made for a tensor, or None.

    Keras hands it to a layer that is called with one tensor, not where there is a `residual`, too.
    """
    return getattr(inputs, "_keras_mask", None)


def static_if_possible(training, owner):
    """`training` as a Python bool, or as a scalar bool tensor whose value is not known yet.

    Raises:
        ValueError: if it is neither a bool nor a scalar tensor.
    """
    if training is None or is_bool(training):
        return bool(training)
    if not tf.is_tensor(training) or training.shape.rank != 0 or training.dtype == tf.string:
        raise ValueError(
            f"{owner}: `training` must be a bool or a scalar tensor. Received: {training!r}."
        )
    training = tf.cast(tf.convert_to_tensor(training), tf.bool)
    value = tf.get_static_value(training)
    return training if value is None else bool(value)
