"""Live data against the reference: clean, corrupted, and with one channel of the model scaled."""

import contextlib

import numpy as np
import tensorflow as tf
from scipy.ndimage import gaussian_filter

from experiments.drift.protocol import CORRUPTIONS, FACTOR, LAYERS, PICTURED, SEED
from experiments.drift.streams import percent
from experiments.results import plain
from experiments.small_batches.training import evaluation_of
from keras_norms.diagnostics.drift_report import figure


class Comparison:
    """Compares data with the reference of a model."""

    def __init__(self, model, reference):
        self.model, self.reference = model, reference

    def drift(self, images):
        # The tests of scaled channels change the weights.
        options = dict(batch_size=100, same_weights=False, verbose=0)
        return self.reference.compare(self.model, images, **options)

    def summary(self, images):
        drift = self.drift(images)
        worst = drift.ranked(1)[0]
        return {
            "average": plain(drift.average),
            "share": plain(drift.share),
            "channels": drift.channels,
            "worst": plain(worst.value),
        }


def scale_channels(comparison, live, count, progress):
    """The ranks of channels whose filter is scaled, one channel at a time."""
    every = [
        (name, channel)
        for name, of in comparison.reference.layers.items()
        for channel in range(len(of["mean"]))
    ]
    chosen = np.random.default_rng(SEED).permutation(len(every))[:count]
    convolutions, found = convolutions_before(comparison.model), []
    for name, channel in progress.track([every[i] for i in chosen], description="channels"):
        with scaled(convolutions[name].kernel, channel):
            drift = comparison.drift(live)
        ranked = drift.ranked()
        places = [(one.layer, one.channel) for one in ranked]
        place = places.index((name, channel))
        other = ranked[place == 0]  # The worst of the other channels.
        values = drift.by_channel[name]
        found.append(
            {
                "layer": name,
                "channel": channel,
                "rank": place + 1,
                "rank_in_layer": 1 + int(np.sum(values > values[channel])),
                "value": plain(values[channel]),
                "other": [other.layer, other.channel, plain(other.value)],
                "share": plain(drift.share),
            }
        )
    return found


def convolutions_before(model):
    """`{name of the normalization layer: the convolution before it}`."""
    outputs = {id(layer.output): layer for layer in model.layers if "conv" in layer.name}
    return {name: outputs[id(model.get_layer(name).input)] for name in LAYERS}


@contextlib.contextmanager
def scaled(kernel, channel):
    before = tf.identity(kernel)
    factors = tf.one_hot(channel, before.shape[-1], FACTOR, 1.0)
    kernel.assign(before * factors)
    try:
        yield
    finally:
        kernel.assign(before)


def accuracy_of(model, images, labels):
    """In percent."""
    return percent(evaluation_of(model, images, labels))


def corrupt(comparison, live, labels, progress):
    cases = [(kind, severity) for kind in CORRUPTIONS for severity in range(1, 6)]
    found = {kind: [] for kind in CORRUPTIONS}
    for kind, severity in progress.track(cases, description="corruptions"):
        images = corrupted(live, kind, severity)
        accuracy = accuracy_of(comparison.model, images, labels)
        found[kind].append({**comparison.summary(images), "accuracy": accuracy})
    return found


def corrupted(images, kind, severity):
    """uint8 images from uint8 images."""
    value, x = CORRUPTIONS[kind][severity - 1], images.astype("float32")
    if kind == "noise":
        x = x + 255 * value * np.random.default_rng(SEED).standard_normal(x.shape, "float32")
    elif kind == "blur":
        x = gaussian_filter(x, (0, value, value, 0), mode="nearest")
    else:
        mean = x.mean((1, 2), keepdims=True)
        x = mean + value * (x - mean)
    return np.clip(np.rint(x), 0, 255).astype("uint8")


def picture(model, reference, live):
    """The picture of a report on live data in which two things go wrong."""
    size = len(live) // PICTURED
    images, generator = live[: size * PICTURED].copy(), np.random.default_rng(SEED)
    middle, bad = len(images) // 2, slice(size * (PICTURED // 4), size * (PICTURED // 4 + 1))
    images[middle:] = corrupted(images[middle:], "contrast", 3)
    images[bad] = generator.integers(0, 256, images[bad].shape)
    drift = reference.compare(model, images, batch_size=size, verbose=0)
    title = "One batch of noise, and less contrast from the middle on"
    return figure(drift, title)
