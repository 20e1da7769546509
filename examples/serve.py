"""Predicts with an exported model in a process that cannot import keras_norms.

python examples/serve.py MODEL_DIRECTORY IMAGES.npy PREDICTIONS.npy
"""

import sys

sys.modules["keras_norms"] = None  # Any import of it raises from here on.

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf


def main():
    directory, images, predictions = sys.argv[1:]
    model = tf.saved_model.load(directory)
    np.save(predictions, model.serve(np.load(images)).numpy())


if __name__ == "__main__":
    main()
