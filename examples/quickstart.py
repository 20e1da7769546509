"""Four replicas with four images each: statistics per replica, and synchronized.

A small network learns handwritten digits under `tf.distribute.MirroredStrategy`: once with
`BatchNormalization`, which takes statistics of a replica's 4 images, and once with
`SyncBatchNormalization`, of all 16. The second model is exported, and served by a process that
cannot import keras_norms. One seed shows how to use the layers; it does not rank them.

    python examples/quickstart.py             about a minute on two CPU cores
    python examples/quickstart.py --smoke     one epoch on 160 images
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits

import keras_norms
from keras_norms.diagnostics import training_inference_discrepancy

keras, layers = tf.keras, tf.keras.layers

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--epochs", type=int, default=8, help="default %(default)s")
parser.add_argument("--replicas", type=int, default=4, help="default %(default)s")
parser.add_argument("--out", type=Path, default=Path("demo_output"), help="default %(default)s")
parser.add_argument("--smoke", action="store_true", help="one epoch on 160 images")
options = parser.parse_args()
if not 1 <= options.replicas <= 16 or options.epochs < 1:
    parser.exit(2, "quickstart: --replicas must be from 1 to 16, and --epochs at least 1.\n")
if options.out.is_file():
    parser.exit(2, f"quickstart: {options.out} is a file, not a folder.\n")
options.out.mkdir(parents=True, exist_ok=True)

logical = [tf.config.LogicalDeviceConfiguration()] * options.replicas
tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], logical)
strategy = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(options.replicas)])
batch, count = 4 * options.replicas, 160 if options.smoke else 1280
x, y = load_digits(return_X_y=True)
x = x.reshape(-1, 8, 8, 1).astype("float32") / 16
training = tf.data.Dataset.from_tensor_slices((x[:count], y[:count])).shuffle(count, seed=7)
test, labels = x[1280:1792], y[1280:1792]

table = Table("layer", "statistics of", "accuracy", "training-inference gap")
for layer, group in (("BatchNormalization", 4), ("SyncBatchNormalization", batch)):
    keras.utils.set_random_seed(7)
    with strategy.scope():
        model = keras.Sequential([keras.Input((8, 8, 1))])
        for channels in (32, 64):
            model.add(layers.Conv2D(channels, 3, padding="same", use_bias=False))
            model.add(getattr(keras_norms, layer)(momentum=0.95))
            model.add(layers.ReLU())
        model.add(layers.GlobalAveragePooling2D())
        model.add(layers.Dense(10))
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("adam", loss, metrics=["accuracy"])
    epochs = 1 if options.smoke else options.epochs
    model.fit(training.batch(batch, drop_remainder=True), epochs=epochs, verbose=2)
    _, accuracy = model.evaluate(test, labels, batch_size=256, verbose=0)
    gaps = training_inference_discrepancy(model, x[:count], batch_size=group, verbose=0).values()
    gap = np.mean([of_layer.variance for of_layer in gaps])
    table.add_row(layer, f"{group} images", f"{accuracy:.1%}", f"{gap:.3f}")
Console(width=80).print(table)

exported, inputs, outputs = (options.out / n for n in ("model", "images.npy", "predictions.npy"))
model.export(exported)
np.save(inputs, test)
command = [sys.executable, Path(__file__).with_name("serve.py"), exported, inputs, outputs]
subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
apart = np.abs(np.load(outputs) - model.predict(test, batch_size=256, verbose=0)).max()
print(f"Served from {exported} without keras_norms: largest difference {apart:.1e}")
