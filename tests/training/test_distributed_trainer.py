"""`DistributedTrainer` on one machine: the steps of `fit`, whatever share a replica has."""

import numpy as np
import pytest
import tensorflow as tf

import keras_norms
from keras_norms.keras_api import keras
from keras_norms.training import DistributedTrainer
from tests import strategies
from tests.training import networks


@pytest.fixture
def float64():
    policy, floatx = keras.mixed_precision.global_policy(), keras.backend.floatx()
    keras.backend.set_floatx("float64")
    keras.mixed_precision.set_global_policy("float64")
    yield
    keras.backend.set_floatx(floatx)
    keras.mixed_precision.set_global_policy(policy)


def small(
    strategy,
    optimizer=lambda: keras.optimizers.SGD(0.05),
    kind=keras_norms.SyncBatchNormalization,
    **options,
):
    keras.utils.set_random_seed(1)
    with strategy.scope():
        norm = [kind(**options)] if kind else []
        model = keras.Sequential(
            [keras.Input((6,)), keras.layers.Dense(4, kernel_regularizer="l2"), *norm]
        )
        model.add(keras.layers.Dense(2))
        model.compile(optimizer(), "mse", metrics=["mae"])
    return model


def regularized(strategy):
    kind = keras_norms.RegularizedBatchNormalization
    return small(strategy, kind=kind, synchronized=True, mean_weight=0.01)


def test_one_replica_trains_as_fit_does(float64):
    data = networks.dataset("float64", batch=10, examples=42)
    one = tf.distribute.get_strategy()
    ours, fitted = (networks.compiled(one, "float64") for _ in range(2))
    history = DistributedTrainer(ours).fit(data, epochs=2, validation_data=data, verbose=0).history
    options = dict(validation_data=data, shuffle=False, verbose=0)
    expected = fitted.fit(data, epochs=2, **options).history
    networks.assert_equal_weights(networks.weights_of(ours), networks.weights_of(fitted), 1e-12)
    for name in ("loss", "mae", "val_loss", "val_mae"):
        np.testing.assert_allclose(history[name], expected[name], 1e-6, err_msg=name)


@pytest.mark.parametrize("accumulate_steps", [1, pytest.param(2, marks=pytest.mark.main_leg)])
def test_uneven_and_empty_shares_count_by_their_examples(float64, accumulate_steps):
    """Batches of 10 are 3, 3, 3 and 1 examples on the replicas; the last batch is 1, 1, 0 and 0."""
    x, y = networks.data("float64", examples=42)
    weight = np.linspace(0.5, 2.0, 42)
    data = tf.data.Dataset.from_tensor_slices((x, y, weight)).batch(10)
    results = []
    for strategy in (tf.distribute.get_strategy(), strategies.mirrored(4)):
        model = regularized(strategy)
        trainer = DistributedTrainer(model, accumulate_steps=accumulate_steps)
        history = trainer.fit(data, epochs=2, verbose=0).history
        results.append((networks.weights_of(model), history, trainer.evaluate(data)))
    (expected, logs, evaluated), (actual, *of_replicas) = results
    networks.assert_equal_weights(actual, expected, 1e-9)
    for name in logs:
        np.testing.assert_allclose(of_replicas[0][name], logs[name], 1e-5, err_msg=name)
        np.testing.assert_allclose(of_replicas[1][name], evaluated[name], 1e-5, err_msg=name)


def test_accumulated_steps_are_one_step_of_their_mean_gradient(float64):
    data = networks.data("float64", examples=24)
    big, parts = (small(tf.distribute.get_strategy(), kind=None) for _ in range(2))
    batches = tf.data.Dataset.from_tensor_slices(data)
    DistributedTrainer(big).fit(batches.batch(12), verbose=0)
    DistributedTrainer(parts, accumulate_steps=3).fit(batches.batch(4), verbose=0)
    networks.assert_equal_weights(networks.weights_of(parts), networks.weights_of(big), 1e-12)
    assert int(parts.optimizer.iterations) == int(big.optimizer.iterations) == 2


def test_half_precision_scales_the_loss():
    before = keras.mixed_precision.global_policy()
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        wrapped = keras.mixed_precision.LossScaleOptimizer
        model = small(strategies.mirrored(2), lambda: wrapped(keras.optimizers.SGD(0.05)))
    finally:
        keras.mixed_precision.set_global_policy(before)
    trainer = DistributedTrainer(model, skip_nonfinite=True)
    data = networks.dataset("float32")
    losses = trainer.fit(data, epochs=3, verbose=0).history["loss"]
    assert losses[2] < 0.9 * losses[0]
    exact = small(tf.distribute.get_strategy())
    expected = DistributedTrainer(exact).fit(data, epochs=3, verbose=0).history["loss"]
    np.testing.assert_allclose(losses, expected, 0.02)


def test_a_restart_goes_on_where_the_checkpoint_is(float64, tmp_path):
    def fitted(epochs, folder, callbacks=None):
        model = small(strategies.mirrored(2), lambda: keras.optimizers.Adam(0.01))
        trainer = DistributedTrainer(model)
        options = dict(checkpoint=folder, checkpoint_every=6, callbacks=callbacks)
        trainer.fit(networks.shuffled, epochs=epochs, verbose=0, **options)
        return networks.weights_of(model)

    class Fails(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 14 and self.is_second:
                raise KeyboardInterrupt

        def on_epoch_begin(self, epoch, logs=None):
            self.is_second = epoch == 1

    expected = fitted(3, None)
    with pytest.raises(KeyboardInterrupt):
        fitted(3, tmp_path, [Fails()])
    networks.assert_equal_weights(fitted(3, tmp_path), expected, 1e-12)
    networks.assert_equal_weights(fitted(3, tmp_path), expected, 1e-12)  # Nothing is left to do.


@pytest.mark.main_leg
def test_epochs_of_a_number_of_steps_go_on_in_the_data_and_after_a_restart(float64, tmp_path):
    data = networks.dataset("float64", batch=6, examples=42)  # 7 batches.

    def fitted(epochs, folder=None, steps=3):
        model = small(tf.distribute.get_strategy())
        trainer = DistributedTrainer(model)
        trainer.fit(data, epochs=epochs, steps_per_epoch=steps, checkpoint=folder, verbose=0)
        return networks.weights_of(model)

    once = small(tf.distribute.get_strategy())
    DistributedTrainer(once).fit(data.repeat(2).take(12), verbose=0)
    expected = networks.weights_of(once)
    networks.assert_equal_weights(fitted(4), expected, 1e-12)
    fitted(2, tmp_path)
    networks.assert_equal_weights(fitted(4, tmp_path), expected, 1e-12)


def test_a_replica_with_nan_poisons_no_state(float64):
    """Four replicas of 3 rows; one row of one batch, that of the second replica, is NaN."""
    x, y = networks.data("float64", examples=24)
    x[16] = np.nan
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(12, drop_remainder=True)
    options = dict(skip_nonfinite_updates=True, momentum=0.5)
    model = small(strategies.mirrored(4), name="synchronized", **options)
    trainer = DistributedTrainer(model, skip_nonfinite=True)
    with pytest.warns(UserWarning, match="'synchronized': a batch whose mean or var") as warned:
        losses = trainer.fit(data, epochs=2, verbose=0).history["loss"]
    assert len([w for w in warned if "moving statistics" in str(w.message)]) == 1
    clean = small(tf.distribute.get_strategy(), **options)
    good = data.take(1).repeat(2)
    expected = DistributedTrainer(clean).fit(good, verbose=0)
    assert np.isfinite(losses).all() and expected
    networks.assert_equal_weights(networks.weights_of(model), networks.weights_of(clean), 1e-9)


def test_callbacks_history_and_the_progress_bar(capsys):
    class Seen(keras.callbacks.Callback):
        logs = []

        def on_train_batch_end(self, batch, logs=None):
            self.logs.append((batch, dict(logs)))

    model = small(strategies.mirrored(2))
    trainer = DistributedTrainer(model)
    stop = keras.callbacks.EarlyStopping("loss", min_delta=1e6, patience=1)
    data = networks.dataset("float32", examples=48)
    options = dict(callbacks=[stop, Seen()], epochs=9, verbose=2, log_every=2)
    history = trainer.fit(data, **options)
    assert history.epoch == [0, 1] and model.history is history
    assert [batch for batch, _ in Seen.logs] == [0, 1, 2, 3] * 2
    assert not Seen.logs[0][1] and set(Seen.logs[1][1]) == {"loss", "mae"}
    assert f"loss: {history.history['loss'][1]:.4f}" in capsys.readouterr().out
    assert trainer.is_chief


@pytest.mark.main_leg
def test_a_step_that_xla_compiles(float64):
    data = networks.dataset("float64", batch=6, examples=24)
    plain, compiled = (small(tf.distribute.get_strategy()) for _ in range(2))
    DistributedTrainer(plain).fit(data, verbose=0)
    DistributedTrainer(compiled, jit_compile=True).fit(data, verbose=0)
    networks.assert_equal_weights(networks.weights_of(compiled), networks.weights_of(plain), 1e-9)


@pytest.mark.main_leg
def test_saves_a_whole_model(tmp_path):
    model = small(strategies.mirrored(2))
    DistributedTrainer(model).save(tmp_path / "model.keras")
    assert [path.name for path in tmp_path.iterdir()] == ["model.keras"]
    loaded = keras.models.load_model(tmp_path / "model.keras")
    networks.assert_equal_weights(networks.weights_of(loaded), networks.weights_of(model), 0)


def bare(**options):
    model = keras.Sequential([keras.layers.Dense(1, **options)])
    model.compile("sgd", "mse")
    return model


class Stepping(keras.Model):
    """Has a step of its own, which the trainer would not call."""

    @classmethod
    def made(cls):
        inputs = keras.Input((2,))
        model = cls(inputs, keras.layers.Dense(1)(inputs))
        model.compile("sgd", "mse")
        return model

    def train_step(self, data):
        return super().train_step(data)


BAD_CONSTRUCTION = [
    (lambda: dict(model=1), "`model` must be a Keras model. Received: model=1"),
    (lambda: dict(model=keras.Sequential([keras.Input((2,))])), "the model must be compiled"),
    (lambda: dict(model=bare()), "the model must be built, all its layers too.*unbuilt="),
    (lambda: dict(model=Stepping.made()), "a model with a `train_step` of its own needs a loop"),
    (lambda: dict(accumulate_steps=0), "`accumulate_steps` must be an int above 0"),
    (lambda: dict(jit_compile="yes"), "`jit_compile` must be a bool. Received: jit_compile='yes'"),
    (lambda: dict(step_timeout=0), "`step_timeout` must be a number of seconds above 0"),
    (lambda: dict(skip_nonfinite=2), "`skip_nonfinite` must be a bool"),
]


@pytest.mark.parametrize(("options", "message"), BAD_CONSTRUCTION)
def test_bad_construction(options, message):
    options = {"model": None, **options()}
    if options["model"] is None:
        options["model"] = small(tf.distribute.get_strategy())
    with pytest.raises(ValueError, match="DistributedTrainer: " + message):
        DistributedTrainer(options.pop("model"), **options)


BAD_CALLS = [
    (dict(epochs=0), "`epochs` must be an int above 0. Received: epochs=0"),
    (dict(steps_per_epoch=0), "`steps_per_epoch` must be an int above 0 or None"),
    (dict(validation_steps=-1), "`validation_steps` must be an int above 0 or None"),
    (dict(checkpoint_every=1.5), "`checkpoint_every` must be an int above 0 or None"),
    (dict(log_every=None), "`log_every` must be an int above 0. Received: log_every=None"),
    (dict(verbose="auto"), "`verbose` must be 0, 1 or 2. Received: verbose='auto'"),
    (dict(dataset=[1]), "`dataset` must be a tf.data.Dataset.*Received: dataset='list'"),
    (dict(validation_data=[1]), "`validation_data` must be a tf.data.Dataset, distributed or not"),
    (dict(validation_data=networks.dataset("float32").take(0)), "there must be a batch to eval"),
    (dict(dataset=networks.dataset("float32").repeat()), "`dataset` without an end needs a numb"),
    (dict(dataset=lambda epoch: [epoch]), "the function of the epoch must return a tf.data.Data"),
    (dict(callbacks=[keras.callbacks.BackupAndRestore("b")]), "`checkpoint` takes the place of"),
    (dict(checkpoint=""), "`checkpoint` must be a folder that can be written. Received: check"),
    (dict(checkpoint=__file__), "`checkpoint` must be a folder that can be written.*exists"),
    (dict(dataset=networks.dataset("float32").take(0)), "an epoch must have a batch"),
]


@pytest.mark.main_leg
@pytest.mark.parametrize(("options", "message"), BAD_CALLS)
def test_bad_calls(options, message):
    model = small(tf.distribute.get_strategy())
    options = {"dataset": networks.dataset("float32"), "verbose": 0, **options}
    with pytest.raises(ValueError, match="DistributedTrainer: " + message):
        DistributedTrainer(model).fit(**options)


@pytest.mark.parametrize("reduction", ["sum", "mean_with_sample_weight"])
def test_reductions_that_replicas_can_form_and_those_they_cannot(float64, reduction):
    data = networks.dataset("float64", batch=10, examples=22)
    results = []
    for strategy in (tf.distribute.get_strategy(), strategies.mirrored(2)):
        model = small(strategy)
        with strategy.scope():
            try:
                loss = keras.losses.MeanSquaredError(reduction=reduction)
            except ValueError:  # Keras 2 has no such mean.
                return
            model.compile(keras.optimizers.SGD(0.001), loss)
        if reduction == "sum":
            history = DistributedTrainer(model).fit(data, verbose=0).history
            results.append((networks.weights_of(model), history["loss"]))
        elif strategy.num_replicas_in_sync > 1:
            with pytest.raises(ValueError, match="the reduction of a loss must be the mean over"):
                DistributedTrainer(model)
    if results:
        networks.assert_equal_weights(results[1][0], results[0][0], 1e-9)
        np.testing.assert_allclose(results[1][1], results[0][1], 1e-5)


def test_another_compile_is_followed(float64):
    data = networks.dataset("float64", batch=6, examples=24)
    model = small(tf.distribute.get_strategy())
    trainer = DistributedTrainer(model)
    trainer.fit(data, verbose=0)
    before = networks.weights_of(model)
    model.layers[-1].trainable = False
    model.compile(keras.optimizers.Adam(0.01), "mse")
    trainer.fit(data, verbose=0)
    after = networks.weights_of(model)
    kept = str(len(before) - 2)  # The kernel of the last layer.
    np.testing.assert_array_equal(after[kept], before[kept])
    assert not np.array_equal(after["0"], before["0"])
    assert int(model.optimizer.iterations) == 4


@pytest.mark.main_leg
def test_random_numbers_go_on_after_a_restart(tmp_path):
    def fitted(epochs, folder):
        keras.utils.set_random_seed(1)
        model = keras.Sequential(
            [keras.Input((6,)), keras.layers.Dropout(0.5), keras.layers.Dense(2)]
        )
        model.compile("sgd", "mse")
        data = networks.dataset("float32", examples=48)
        DistributedTrainer(model).fit(data, epochs=epochs, checkpoint=folder, verbose=0)
        return networks.weights_of(model)

    expected = fitted(4, None)
    fitted(2, tmp_path)
    networks.assert_equal_weights(fitted(4, tmp_path), expected, 1e-6)


def test_a_checkpoint_that_does_not_fit_leaves_the_model_alone(tmp_path):
    data = networks.dataset("float32", examples=24)
    model = small(tf.distribute.get_strategy())
    DistributedTrainer(model).fit(data, checkpoint=tmp_path, verbose=0)
    other = small(tf.distribute.get_strategy(), kind=None)
    before = networks.weights_of(other)
    with pytest.raises(ValueError, match="the checkpoint must be of the same model and optimizer"):
        DistributedTrainer(other).fit(data, checkpoint=tmp_path, verbose=0)
    networks.assert_equal_weights(networks.weights_of(other), before, 0)
    for name in ("ckpt-1.index", "checkpoint"):
        (tmp_path / name).write_bytes(b"no file of ours")
        with pytest.raises(
            ValueError, match="DistributedTrainer: (a checkpoint must be one|the f)"
        ):
            DistributedTrainer(model).fit(data, checkpoint=tmp_path, verbose=0)


@pytest.mark.main_leg
def test_a_stop_within_an_epoch_leaves_the_last_checkpoint(tmp_path):
    x, y = networks.data("float32", examples=24)
    good = tf.data.Dataset.from_tensor_slices((x, y)).batch(12)
    bad = tf.data.Dataset.from_tensor_slices((np.full_like(x, np.nan), y)).batch(12)
    model = small(tf.distribute.get_strategy())
    stop = keras.callbacks.TerminateOnNaN()
    options = dict(checkpoint=tmp_path, callbacks=[stop], log_every=1, verbose=0)
    DistributedTrainer(model).fit(lambda epoch: [good, bad][epoch], epochs=2, **options)
    again = small(tf.distribute.get_strategy())
    DistributedTrainer(again).fit(lambda epoch: good, epochs=2, checkpoint=tmp_path, verbose=0)
    assert all(np.isfinite(weight).all() for weight in again.get_weights())
    assert int(again.optimizer.iterations) == 4


@pytest.mark.main_leg
def test_what_fit_also_takes(float64):
    """Only losses of layers, no weights to train, a metric with several values, an early stop."""
    data = networks.dataset("float64", batch=6, examples=24)

    class Stops(keras.callbacks.Callback):
        batches = 0

        def on_train_batch_end(self, batch, logs=None):
            self.batches += 1
            self.model.stop_training = batch == 1

    model = small(tf.distribute.get_strategy())
    model.compile("sgd", metrics=["mae"])
    stops = Stops()
    DistributedTrainer(model).fit(data, epochs=3, callbacks=[stops], verbose=0)
    assert stops.batches == 2
    frozen = small(tf.distribute.get_strategy())
    frozen.trainable = False
    several = keras.metrics.F1Score(average=None)
    frozen.compile("sgd", "mse", metrics=[several])
    before = networks.weights_of(frozen)
    labels = data.map(lambda x, y: (x, tf.one_hot(tf.argmax(y, 1), 2)))
    history = DistributedTrainer(frozen).fit(labels, verbose=0).history
    networks.assert_equal_weights(networks.weights_of(frozen), before, 0)
    assert history["f1_score"][0].shape == (2,)


def test_parameter_servers_are_refused(monkeypatch):
    """The class stands for such a strategy, which would need servers."""
    servers = object.__new__(tf.distribute.ParameterServerStrategy)
    model = small(tf.distribute.get_strategy())
    monkeypatch.setattr(type(model), "distribute_strategy", servers)
    with pytest.raises(RuntimeError, match="DistributedTrainer: .* do not. Use MirroredStrategy"):
        DistributedTrainer(model)
    monkeypatch.setattr(tf.distribute, "get_strategy", lambda: servers)
    layer = keras_norms.SyncBatchNormalization(name="bn")
    with pytest.raises(RuntimeError, match="'bn': synchronized statistics need replicas that"):
        layer.build((None, 2))
