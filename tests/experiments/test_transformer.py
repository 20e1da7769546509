"""Padding changes nothing in the Transformers of the studies, however long it is."""

import dataclasses
import importlib

import numpy as np
import pytest
import tensorflow as tf

keras = tf.keras
pytestmark = pytest.mark.main_leg
ORDERS = pytest.mark.parametrize("order", ["pre", "post"])
METHODS = pytest.mark.parametrize("method", ["LN", "BN", "RBN"])
TOKENS = np.array([[4, 5, 6, 7, 8], [9, 4, 3, 0, 0], [7, 0, 0, 0, 0]])


@pytest.fixture
def network_of(monkeypatch):
    """Makes the small network of a study, without dropout: its masks depend on the shape."""

    def make(name, order, method):
        study = importlib.import_module(f"experiments.{name}.training")
        small = dict(vocabulary=12, most_tokens=20, width=16, heads=2, dropout=0.0)
        monkeypatch.setattr(study, "SIZES", dataclasses.replace(study.SIZES, **small))
        keras.utils.set_random_seed(1)
        return study.network(order, study.NORMALIZATIONS[method])

    return make


def padded(tokens, more):
    return tf.constant(np.pad(tokens, ((0, 0), (0, more))))


def states_after(model, inputs):
    """Outputs in training, outputs in inference, and the weights, which training has changed."""
    outputs = [model(inputs, training=training) for training in (True, False)]
    return [np.asarray(value) for value in (*outputs, *model.get_weights())]


@ORDERS
@METHODS
def test_classification(network_of, order, method):
    narrow, wide = (
        states_after(network_of("text_classification", order, method), padded(TOKENS, more))
        for more in (0, 7)
    )
    for one, other in zip(narrow, wide, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@ORDERS
@METHODS
def test_translation(network_of, order, method):
    target = TOKENS[::-1]
    narrow, wide = (
        states_after(
            network_of("translation", order, method)[0],
            [padded(TOKENS, more), padded(target, more and 3)],
        )
        for more in (0, 7)
    )
    is_real = target > 0
    for one, other in zip(narrow[:2], wide[:2], strict=True):
        np.testing.assert_allclose(one[is_real], other[:, :5][is_real], rtol=1e-4, atol=1e-5)
    for one, other in zip(narrow[2:], wide[2:], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
