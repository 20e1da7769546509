"""Standardization of raw input batches, of those only that hold an unusual sample."""

import numpy as np
import tensorflow as tf

from keras_norms.arguments import plain, require
from keras_norms.keras_api import check_backend, keras
from keras_norms.keras_weights import add_record
from keras_norms.layers.inputs import real_tensor
from keras_norms.layers.keras_2 import registered
from keras_norms.layers.rules import check_arguments
from keras_norms.printable import called


@registered
class AdaptiveBatchStandardization(keras.layers.Layer):
    """Standardizes a raw input batch if one of its samples differs from the mean of its class.

    With `m_i` the mean of all values of sample `i`, and `y_i` its label, `adapt` finds

        A_c = mean of m_i over the samples of class c

    and a call, in training and inference alike, computes

        fires  = any m_i outside [A - band * |A|, A + band * |A|],  A = A_c of class c = y_i
        output = (x - mean) / sqrt(variance + epsilon)   if it fires
        output = x                                       otherwise

    `mean` and `variance` are those of the batch at each position of a sample, over axis 0. All
    samples are judged on raw values, NaN is outside, and one sample decides for the whole batch.

    This is the rule of the paper, which is applied to batches of training data, before the network.
    Beyond the paper, which leaves test data as it is: without labels all samples are judged by
    the mean over all samples of `adapt`, and so are those of a class that `adapt` never saw. Two
    more things differ from the authors' code: `m_i` is over all values, channels and borders
    included, and no sample is judged on values that an earlier one has changed.

    Use it in a `tf.data` pipeline or as the first layer, to repeat or study the paper. Not as a
    replacement of batch normalization. The output of a sample depends on what else is in the batch,
    and jumps where the batch fires. Replicas judge their own batches; a `tf.data` pipeline judges
    what it is given, before that is divided. For values of one sign, as in images, the lower bound
    never acts with a `band` of 1 or more.

    Args:
        num_classes: how many classes there are, a positive int.
        band: a finite number, at least 0: how far a sample's mean may be from that of its class, as
            a share of that. Defaults to `1.2`, as in the paper.
        epsilon: added to the variance, at least 0. The paper's 2.2e-16,
            `epsilon=np.finfo("float64").eps`, makes large numbers of positions that hardly vary;
            with the default, those of a standard deviation far below 0.03 stay small. That fits
            pixels in [0, 1] and in [0, 255]. Defaults to `1e-3`.
        **kwargs: of `keras.layers.Layer`: `name`, `dtype`.

    Call arguments:
        inputs: `(batch, ...)`, rank 2 or more, of any number type.
        labels: None, or the classes: ints in [0, num_classes) of shape `(batch,)` or `(batch, 1)`,
            or one-hot rows `(batch, num_classes)`, of which the largest entry counts.
            Defaults to `None`.

    Output shape: that of the inputs, in the layer's compute dtype. It is computed in float64.

    Weights, which no training changes: `class_mean`, float64, and `class_count`, int64, of shape
    `(num_classes,)`.

    Raises:
        ValueError: for an invalid argument, labels outside of their range, and a layer that was not
            adapted. In a graph, where values are not known, the same sentence is an
            `InvalidArgumentError` when it runs; XLA drops that, and the output then is NaN.

    Example:

    >>> layer = keras_norms.AdaptiveBatchStandardization(num_classes=2, epsilon=0.0)
    >>> x, labels = np.array([[1.0, 3.0], [3.0, 5.0], [7.0, 9.0]]), np.array([0, 0, 1])
    >>> layer.adapt(x, labels)  # class_mean: 3 and 8
    >>> layer(x[:2], labels[:2]).numpy()  # Inside [-0.6, 6.6].
    array([[1., 3.],
           [3., 5.]], dtype=float32)
    >>> layer(x[1:], np.array([0, 0])).numpy()  # Of class 0, 8 is outside.
    array([[-1., -1.],
           [ 1.,  1.]], dtype=float32)

    Reference:
        Alsobhi et al., 2022, https://arxiv.org/abs/2211.02050.
    """

    def __init__(self, num_classes, band=1.2, epsilon=1e-3, **kwargs):
        check_backend(type(self).__name__)
        # Keras would cast inputs, and samples are judged on raw values.
        super().__init__(**{"autocast": False, **kwargs})
        self.num_classes = num_classes
        self.band = band
        self.epsilon = epsilon
        check_arguments(self, ["num_classes", "band", "epsilon"], self._owner)
        # Here, since they do not depend on inputs, and `adapt` comes before the first call.
        self.class_mean = add_record(self, "class_mean", (num_classes,), "float64")
        self.class_count = add_record(self, "class_count", (num_classes,), "int64")

    def adapt(self, data, labels=None):
        """Takes the means of the classes from data, in float64, in place of any earlier ones.

        Args:
            data: an array or tensor `(samples, ...)`; or a `tf.data.Dataset` or another iterable of
                batches `(x, labels)`.
            labels: with an array, its labels, as in a call; otherwise None.

        Raises:
            ValueError: if there is no sample, a mean that is not finite, or labels do not fit. The
                layer keeps what it had.
        """
        rule = "`adapt` must be called outside of functions, since it reads values"
        require(tf.executing_eagerly(), self._owner, rule, data=type(data).__name__)
        total, count = np.zeros(self.num_classes), np.zeros(self.num_classes, np.int64)
        for x, classes in self._batches(data, labels):
            x = self._checked(x)
            classes = self._classes(classes, x)[0].numpy()
            # Sums over raw values, in float64 whatever their type is, without a copy in float64.
            size = int(np.prod(x.shape[1:]))
            means = x.numpy().reshape(len(x), size).mean(1, dtype=np.float64)
            rule = "the means of samples must be finite to adapt to them"
            require(np.isfinite(means).all(), self._owner, rule, means=means)
            total += np.bincount(classes, means, self.num_classes)
            count += np.bincount(classes, minlength=self.num_classes)
        require(count.any(), self._owner, "there must be samples to adapt to", samples=0)
        self.class_mean.assign(total / np.maximum(count, 1))
        self.class_count.assign(count)

    def is_heterogeneous(self, inputs, labels=None):
        """Whether a batch holds a sample out of its band, so that a call standardizes it.

        Takes the arguments of a call and returns a bool scalar. Raises what a call does.
        """
        return self._judged(inputs, labels)[1]

    def call(self, inputs, labels=None):
        x, fires, is_valid = self._judged(inputs, labels)
        centred = x - tf.reduce_mean(x, 0)
        variance = tf.reduce_mean(tf.square(centred), 0)
        y = tf.where(fires, centred * tf.math.rsqrt(variance + self.epsilon), x)
        y = tf.where(is_valid, y, tf.constant(np.nan, y.dtype))
        return tf.cast(y, self.compute_dtype)

    def get_config(self):
        own = {name: plain(getattr(self, name)) for name in ("num_classes", "band", "epsilon")}
        return super().get_config() | own

    @property
    def _owner(self):
        return called(self)

    def _judged(self, inputs, labels):
        """The inputs in float64, whether a sample is outside, and whether that can be known."""
        inputs = self._checked(inputs)
        count = tf.convert_to_tensor(self.class_count)
        rule = "`adapt` must be called before the layer is"
        is_valid = self._holds(tf.reduce_any(count > 0), rule, "class_count", count)
        class_mean, weights = tf.convert_to_tensor(self.class_mean), tf.cast(count, tf.float64)
        total = tf.reduce_sum(weights * class_mean)
        center = tf.math.divide_no_nan(total, tf.reduce_sum(weights))
        if labels is not None:
            classes, are_classes = self._classes(labels, inputs)
            is_valid = tf.logical_and(is_valid, are_classes)
            center = tf.gather(tf.where(count > 0, class_mean, center), classes)
        x = tf.cast(inputs, tf.float64)
        means = tf.reduce_mean(x, list(range(1, x.shape.rank)))
        is_inside = tf.abs(means - center) <= self.band * tf.abs(center)
        return x, tf.logical_not(tf.reduce_all(is_inside)), is_valid

    def _checked(self, inputs):
        inputs = real_tensor(inputs, "inputs", self._owner)
        rule = "`inputs` must have rank 2 or more, with samples on axis 0"
        require(inputs.shape.rank >= 2, self._owner, rule, shape=tuple(inputs.shape))
        return inputs

    def _classes(self, labels, inputs):
        """The labels as a vector of valid indices, and whether that is what they were."""
        labels = real_tensor(labels, "labels", self._owner)
        rank, size = labels.shape.rank, labels.shape[-1] if labels.shape.rank == 2 else None
        are_indices = labels.dtype.is_integer and (rank == 1 or size == 1)
        require(
            are_indices or size == self.num_classes,
            self._owner,
            "`labels` must be ints of shape (batch,) or (batch, 1), or one-hot rows of shape "
            f"(batch, {self.num_classes})",
            shape=tuple(labels.shape),
            dtype=labels.dtype.name,
        )
        if are_indices:
            classes = tf.cast(tf.reshape(labels, [-1]), tf.int64)
        else:
            classes = tf.argmax(labels, -1)
        sizes = tf.stack([tf.shape(classes)[0], tf.shape(inputs)[0]])
        rule = "there must be a label for each sample"
        is_complete = self._holds(sizes[0] == sizes[1], rule, "sizes", sizes)
        is_class = tf.logical_and(classes >= 0, classes < self.num_classes)
        rule = f"`labels` must lie in [0, {self.num_classes})"
        ends = tf.stack([tf.reduce_min(classes), tf.reduce_max(classes)])
        are_classes = self._holds(tf.reduce_all(is_class), rule, "least_and_greatest", ends)
        return tf.where(is_class, classes, 0), tf.logical_and(is_complete, are_classes)

    def _holds(self, holds, rule, name, value):
        """`holds`, a bool tensor. An error if it is false, in a graph when that runs."""
        if tf.executing_eagerly():
            require(holds, self._owner, rule, **{name: value.numpy().tolist()})
        else:
            tf.debugging.Assert(holds, [f"{self._owner}: {rule}. Received: {name}=", value])
        return holds

    def _batches(self, data, labels):
        """Pairs of inputs and labels."""
        if labels is not None:
            yield data, labels
            return
        rule = "`data` must be an array that comes with `labels`, or batches of (x, labels)"
        is_array = hasattr(data, "shape") or not hasattr(data, "__iter__")
        require(not is_array, self._owner, rule, data=type(data).__name__, labels=None)
        for batch in data:
            is_pair = isinstance(batch, (tuple, list)) and len(batch) >= 2
            require(is_pair, self._owner, rule, batch=type(batch).__name__)
            yield batch[:2]
