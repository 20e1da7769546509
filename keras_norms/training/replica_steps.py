"""What one replica computes in a step of `DistributedTrainer`: loss, gradients, metrics."""

import tensorflow as tf

from keras_norms.keras_api import IS_KERAS_3, keras
from keras_norms.statistics.replicas import ReplicaGroup


class ReplicaSteps:
    """The training and the test step of a compiled model, to be run by `strategy.run`.

    Every example of the global batch counts the same, wherever it lies: a replica's loss is the
    mean over its own n examples, and is multiplied by `replicas * n / (examples of all replicas)`.
    That goes in as a sample weight, so losses, their weights and outputs are those of `compile`.
    What layers add to the loss is taken as it is.
    """

    def __init__(self, model, skip_nonfinite, owner):
        self.model = model
        self.skip_nonfinite = skip_nonfinite
        self.owner = owner
        self.weighs_examples = True
        self.loss = keras.metrics.Mean(name="loss")

    def train(self, *batches):
        """One update from the mean gradient of these batches."""
        model, optimizer = self.model, self.model.optimizer
        weights = model.trainable_variables
        if not weights:
            for batch in batches:
                self._loss_of(batch, training=True)
            return
        sums: list | None = None
        for batch in batches:
            # One batch after the other, as they would not all fit into the memory at once.
            after = [g for g in sums or [] if g is not None]
            with tf.control_dependencies(after):
                batch = tf.nest.map_structure(tf.identity, batch)
            with tf.GradientTape() as tape:
                loss = self._loss_of(batch, training=True) / len(batches)
                loss = _scaled(optimizer, loss)
            gradients = tape.gradient(loss, weights)
            sums = gradients if sums is None else list(map(_sum, sums, gradients))
        gradients = _unscaled(optimizer, sums)
        # An optimizer that scales the loss has to see infinity, and skips the step itself.
        if self.skip_nonfinite and not hasattr(optimizer, "inner_optimizer"):
            gradients = self._finite_on_all(gradients)
        optimizer.apply_gradients(zip(gradients, weights, strict=True))

    def test(self, batch):
        self._loss_of(batch, training=False)

    def _finite_on_all(self, gradients):
        """The gradients, or zeros where those of any replica are not finite."""
        dense = [None if g is None else tf.convert_to_tensor(g) for g in gradients]
        finite = [tf.reduce_all(tf.math.is_finite(g)) for g in dense if g is not None]
        bad = tf.cast(tf.logical_not(tf.reduce_all(finite)), tf.float64)
        (count,) = ReplicaGroup(owner=self.owner).sum([bad[tf.newaxis]])
        is_good = tf.equal(count[0], 0.0)
        return [None if g is None else tf.where(is_good, g, tf.zeros_like(g)) for g in dense]

    def _loss_of(self, batch, training):
        """This replica's part of the loss. Updates the metrics."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
        here, everywhere, share = self._shares(x)
        y_pred = self.model(x, training=training)
        weight = _weighted(sample_weight, share, here)
        # A loss adds up over replicas, so Keras has divided it by their number.
        loss = self.model.compute_loss(x, y, y_pred, weight)
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        # A mean over no examples, as a layer may add it, is not a number.
        is_counted = tf.math.is_finite(loss)
        if not self.skip_nonfinite:
            is_counted = tf.logical_or(is_counted, here > 0.0)
        self.loss.update_state(
            tf.where(is_counted, loss * replicas, 0.0), tf.where(is_counted, everywhere, 0.0)
        )
        self.model.compute_metrics(x, y, y_pred, sample_weight)
        return loss

    def _shares(self, x):
        """The examples of this replica and of all, and the weight of one here, None for 1."""
        first = tf.nest.flatten(x)[0]
        here = tf.cast(tf.shape(first)[0], tf.float64)
        context = tf.distribute.get_replica_context()
        replicas = context.num_replicas_in_sync if context else 1
        # Where the size is known it is that of every replica.
        if replicas == 1 or first.shape[0] is not None:
            return here, here * replicas, None
        (everywhere,) = ReplicaGroup(owner=self.owner).sum([here[tf.newaxis]])
        if not self.weighs_examples:
            return here, everywhere[0], None
        share = tf.math.divide_no_nan(replicas * here, everywhere[0])
        return here, everywhere[0], share


class _Graph(keras.layers.Layer):
    """Lets Keras 3 create the variables of losses and metrics, as its `fit` does."""

    def __init__(self, model):
        super().__init__()
        self._model = [model]  # In a list, so that it is no layer of this one.

    def call(self, x, y, y_pred, sample_weight):
        (model,) = self._model
        if model.loss is not None:
            model.compute_loss(x, y, y_pred, sample_weight)
        return model.compute_metrics(x, y, y_pred, sample_weight)


def build_metrics(model, batch_spec):
    """Creates the variables of losses and metrics outside of a traced step.

    Args:
        model: a compiled model that is built.
        batch_spec: the structure of a batch, of tensor specs.
    """
    if not IS_KERAS_3:  # Which creates them in the step.
        return
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(
        tf.nest.map_structure(_symbolic, batch_spec)
    )
    y_pred = model.compute_output_spec(x)
    _Graph(model).compute_output_spec(x, y, y_pred, sample_weight)


def _symbolic(spec):
    """A symbolic tensor of a spec, or of the first replica's where there are several."""
    if not isinstance(spec, tf.TensorSpec):
        spec = spec._value_specs[0]  # Of tf.distribute, which has no public way to it.
    return keras.KerasTensor(spec.shape, spec.dtype.name)


def _weighted(sample_weight, share, here):
    if share is None:
        return sample_weight
    if sample_weight is None:
        dtype = keras.backend.floatx()
        return tf.fill([tf.cast(here, tf.int32)], tf.cast(share, dtype))
    return tf.nest.map_structure(lambda w: w * tf.cast(share, w.dtype), sample_weight)


def _sum(a, b):
    if a is None or b is None:
        return b if a is None else a
    return tf.convert_to_tensor(a) + tf.convert_to_tensor(b)


def _scaled(optimizer, loss):
    """The loss times what an optimizer of half precision asks for."""
    if hasattr(optimizer, "get_scaled_loss"):  # Keras 2.
        return optimizer.get_scaled_loss(loss)
    return optimizer.scale_loss(loss) if hasattr(optimizer, "scale_loss") else loss


def _unscaled(optimizer, gradients):
    if hasattr(optimizer, "get_unscaled_gradients"):  # Keras 3 does so as it applies them.
        return optimizer.get_unscaled_gradients(gradients)
    return gradients
