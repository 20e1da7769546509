"""Every pair of options of the batch-statistics layers, against NumPy: outputs, state, penalty."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

import keras_norms
from tests import strategies
from tests.option_oracle import TrainingOracle
from tests.range_oracle import RangeOracle

pytestmark = pytest.mark.main_leg

# Those under "mask" and "weights" are arguments of the call.
OPTIONS = {
    "virtual": dict(virtual_batch_size=3),
    "unbiased": dict(unbiased_moving_variance=True),
    "skip": dict(skip_nonfinite_updates=True),
    "bound": dict(max_update=0.5),
    "synchronized": dict(synchronized=True),
    "average": dict(momentum=None),
    "accumulate": dict(accumulate_steps=2),
    "mask": {},
    "weights": {},
}
REFUSED = {
    ("virtual", "synchronized"): "cannot be synchronized",
    ("virtual", "accumulate"): "`accumulate_steps` above 1 excludes `virtual_batch_size`",
}
PAIRS = sorted(set(itertools.combinations(OPTIONS, 2)) - {("mask", "weights")})
ROWS = {
    # Virtual batches in which nothing counts, one value and two; and one of a single weight.
    "mask": np.array([0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 1.0, 1.0]),
    "weights": np.array([0.3, 0.04, 0.0, 0.1, 0.0, 0.0, 0.3, 0.28]),
}
EPSILON = 1e-2
LIMITS = dict(r_max=1.5, d_max=0.4)
PENALTY = dict(mean_weight=0.3, variance_weight=0.2)
LAYERS = {
    "batch": (keras_norms.BatchNormalization, {}),
    "renorm": (keras_norms.BatchRenormalization, LIMITS),
    "regularized": (keras_norms.RegularizedBatchNormalization, PENALTY),
    "range": (
        keras_norms.RangeBatchNormalization,
        dict(num_chunks=1, range_constant="lightnorm"),
    ),
}
REFUSED_BY_RANGES = {
    "unbiased": "`unbiased_moving_variance` must be False",
    "weights": "a mask must hold bools",
}
SPREADS = {"renorm": "moving_stddev", "range": "moving_scale"}
HALVES = slice(0, 4), slice(4, 8)


class RangePairOracle(RangeOracle):
    """As `TrainingOracle` is called; replicas have half of the batch each."""

    def __init__(self, momentum=0.6, virtual_batch_size=None, synchronized=False, **options):
        common = dict(num_chunks=1, constant="lightnorm", momentum=momentum)
        super().__init__(3, EPSILON, virtual=virtual_batch_size, **common, **options)
        self.parts = HALVES if synchronized else (slice(None),)

    @property
    def spread(self):
        return self.scale

    def __call__(self, x, weights=None):
        weights = np.ones(len(x)) if weights is None else weights
        y = self.train_replicas([(x[part], weights[part]) for part in self.parts])
        return np.concatenate(y), None


def batches(pair):
    generator = np.random.default_rng(7)
    found = [generator.normal(0.5, 1.0 + i, size=(8, 3)) for i in range(3)]
    if "skip" in pair:
        found[1][7, 1] = np.nan
    return found


def penalty_of(oracle, found):
    """Of the moving statistics after the update, averaged over virtual batches by count."""
    total = sum(count.mean() for count, _, _ in found)
    penalties = (
        count.mean()
        / total
        * np.sum(
            PENALTY["mean_weight"] * (mean - oracle.mean) ** 2
            + PENALTY["variance_weight"] * np.abs(variance - oracle.spread)
        )
        for count, mean, variance in found
        if count.mean() > 0.0
    )
    return sum(penalties)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_a_pair_of_options(pair, kind):
    layer_class, own = LAYERS[kind]
    options = {"momentum": 0.6, **OPTIONS[pair[0]], **OPTIONS[pair[1]]}
    if pair in REFUSED:
        with pytest.raises(ValueError, match=REFUSED[pair]):
            layer_class(**own, **options)
        return
    rows = next((ROWS[name] for name in pair if name in ROWS), None)
    is_renorm = kind == "renorm"
    if kind == "range":
        refused = [REFUSED_BY_RANGES[name] for name in pair if name in REFUSED_BY_RANGES]
        if refused:
            with pytest.raises(ValueError, match="|".join(refused)):
                layer_class(**own, **options)(tf.ones((8, 3)), mask=tf.constant(ROWS["weights"]))
            return
        oracle = RangePairOracle(**options)
    else:
        oracle = TrainingOracle(3, EPSILON, is_renorm, tuple(LIMITS.values()), **options)
    if "synchronized" in pair and kind == "batch":
        layer_class = keras_norms.SyncBatchNormalization
        del options["synchronized"]
    arguments = dict(center=False, scale=False, epsilon=EPSILON, dtype="float64")
    arguments |= own | options
    replicas = 2 if "synchronized" in pair else 1
    strategy = strategies.mirrored(replicas)
    with strategy.scope():
        layer = layer_class(**arguments)
        layer.build((None, 3))

    def step(x, weights):
        y = layer(x, training=True, mask=None if rows is None else weights)
        return y, tf.add_n(layer.losses) if layer.losses else tf.constant(0.0, tf.float64)

    for x in batches(pair):
        weights = tf.constant(np.ones(8) if rows is None else rows)
        weights = tf.cast(weights, tf.bool) if kind == "range" else weights
        if replicas == 1:
            y, penalty = (np.asarray(value) for value in step(tf.constant(x), weights))
        else:
            parts = [[value[part] for part in HALVES] for value in (tf.constant(x), weights)]
            y, penalty = strategies.run(strategy, step, *parts)
            y, penalty = np.concatenate(y), penalty[0]
        expected, found = oracle(x, rows)
        np.testing.assert_allclose(y, expected, rtol=1e-9, atol=1e-9)
        spread = getattr(layer, SPREADS.get(kind, "moving_variance"))
        np.testing.assert_allclose(layer.moving_mean, oracle.mean, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(spread, oracle.spread, rtol=1e-9)
        if kind == "regularized":
            np.testing.assert_allclose(penalty, penalty_of(oracle, found), rtol=1e-9)
    if "average" in pair:
        assert int(tf.convert_to_tensor(layer.step)) == oracle.batches
    elif is_renorm:
        assert int(tf.convert_to_tensor(layer.step)) == (1 if "accumulate" in pair else 3)
