"""Predicts with an exported model in a process that cannot import keras_norms.

python examples/serve.py MODEL_FOLDER IMAGES.npy PREDICTIONS.npy
"""

import sys

sys.modules["keras_norms"] = None  # Any import of it raises from here on.

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

if len(sys.argv) != 4:
    sys.exit(__doc__)
folder, images, predictions = sys.argv[1:]
model = tf.saved_model.load(folder)
np.save(predictions, model.serve(np.load(images)).numpy())
