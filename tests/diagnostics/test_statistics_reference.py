"""`StatisticsReference`: saved, loaded, and refused for another model, weights or data."""

import numpy as np
import pytest
import tensorflow as tf

import keras_norms
from keras_norms.diagnostics import StatisticsReference
from keras_norms.keras_api import keras
from tests.diagnostics.cases import compared, images, other_model, reference_of


def test_a_reference_survives_saving(model, tmp_path):
    reference = reference_of(model)
    reference.save(tmp_path / "model.statistics.json")
    loaded = StatisticsReference.load(tmp_path / "model.statistics.json")
    live = images(100, 8)
    one, other = (compared(r, model, live) for r in (reference, loaded))
    assert one.ranked() == other.ranked()
    assert [path.name for path in tmp_path.iterdir()] == ["model.statistics.json"]
    beside = StatisticsReference.beside(tmp_path / "model.keras")
    assert beside == tmp_path / "model.statistics.json"
    assert StatisticsReference.beside("a/saved.v2").name == "saved.v2.statistics.json"


def test_a_failed_save_keeps_the_old_file(model, tmp_path, monkeypatch):
    path = tmp_path / "model.statistics.json"
    path.write_text("old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        reference_of(model).save(path)
    assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_saving_keeps_mode_and_links(model, tmp_path):
    path, link = tmp_path / "kept.json", tmp_path / "link.json"
    path.write_text("old")
    path.chmod(0o600)
    link.symlink_to(path)
    reference_of(model).save(link)
    assert link.is_symlink() and path.stat().st_mode & 0o777 == 0o600
    StatisticsReference.load(path)
    for target, message in ((tmp_path, "is a folder"), (tmp_path / "no" / "r.json", "no folder")):
        with pytest.raises(OSError, match=message):
            reference_of(model).save(target)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"format": 2}',
        '{"format": 1, "layers": {"a": {"mean": [1]}}}',
        '{"format": 1, "layers": {"a": {"mean": [1, 2], "variance": [1]}}, "batches": 1}',
        '{"format": 1, "layers": {"a": {"mean": [NaN], "variance": [1]}}, "batches": 1}',
        '{"format": 1, "layers": {"a": {"mean": [0], "variance": [-1]}}, "batches": 1}',
        '{"format": 1, "layers": {}, "weights": "", "batches": 1e999}',
        "[" * 100_000,
    ],
)
def test_rejects_files_of_another_format(tmp_path, content):
    path = tmp_path / "reference.json"
    path.write_text(content)
    with pytest.raises(ValueError, match="must be a file that `save` wrote"):
        StatisticsReference.load(path)


@pytest.mark.parametrize(
    "layers, message",
    [
        ([keras.layers.Flatten()], "must have a layer with batch statistics"),
        (
            [keras_norms.BatchNormalization(name="ours")],
            "'ours' of 24 channels, .* with 3 channels",
        ),
        ([keras_norms.BatchNormalization(name="norm")], "'ours' of 24 .* with no such layer"),
    ],
)
def test_rejects_a_reference_of_another_model(model, layers, message):
    with pytest.raises(ValueError, match=f"^StatisticsReference: .*{message}"):
        compared(reference_of(model), other_model(*layers), images(4, 1))


def test_rejects_a_reference_of_other_weights(model):
    reference, weights = reference_of(model), model.get_weights()
    try:
        model.set_weights([w + 0.01 for w in weights])
        with pytest.raises(ValueError, match="with the same weights. Received: other weights"):
            compared(reference, model, images(4, 1))
        assert compared(reference, model, images(40, 1), same_weights=False).average > 0
    finally:
        model.set_weights(weights)


def test_rejects_nonfinite_data(model):
    data = images(40, 1)
    data[7, 0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="must lead to finite statistics. Received: mean nan"):
        reference_of(model, data)


def test_names_a_layer_inside_tf_cond():
    class Conditional(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.norm = keras.layers.BatchNormalization(name="norm")

        def build(self, shape):
            self.norm.build(shape)
            self.built = True

        def call(self, x):
            return tf.cond(tf.reduce_sum(x) > 1e9, lambda: self.norm(x), lambda: x)

    model = keras.Sequential([keras.Input((3,)), Conditional()])
    with pytest.raises(ValueError, match="'norm' runs inside a tf.cond, a loop or a tf.function"):
        reference_of(model, np.ones((4, 3), np.float32))
