"""One image at a time from an endless stream whose distribution changes on the way.

A small network with `BatchlessNormalization` learns to classify images that arrive one by one. At
image 5,000 the camera changes: everything gets brighter and has twice the contrast. After that it
drifts. There are no batches, so the memory stays that of one image.

The second moment E[z^2] of every layer is recorded and plotted during the training: 1 where the
statistics fit the data. It jumps when the camera changes, and returns as the statistics follow.

The model is saved after every 500 images, and `--resume` continues from there, bit by bit as if it
had never stopped: an image is a function of its number, and `optimizer.iterations` counts them.

    python -m experiments.streaming                        about a minute on two CPU cores
    python -m experiments.streaming --data cifar10_jpeg.npz
    python -m experiments.streaming --instances 4000       then, at any later time:
    python -m experiments.streaming --resume
"""

import sys
from pathlib import Path

import numpy as np

from experiments.bad_input import require
from experiments.command import check_folder, exit_status, parser_of
from experiments.images import handwritten_digits, read_jpegs
from experiments.streaming.model import Live, create, load, stream
from experiments.streaming.report import PART, summarize

IMAGES = 5_000  # Of a file, at most.


def main():
    return exit_status("streaming", learn, parse_arguments())


def parse_arguments():
    parser = parser_of("streaming", __doc__)
    add = parser.add_argument
    add("--data", type=Path, help=".npz with train_jpeg, train_offsets and train_labels")
    add(
        "--instances",
        type=int,
        default=10_000,
        help=f"how many images, in parts of {PART}; default %(default)s",
    )
    add("--step-at", type=int, help="when the camera changes; default 5000")
    add("--seed", type=int, help="default 1")
    add("--out", type=Path, default=Path("streaming_output"), help="default %(default)s")
    add("--resume", action="store_true", help="continue with the model in --out for --instances")
    return parser.parse_args()


def learn(options, console):
    require(options.instances > 0, f"--instances must be positive, not {options.instances}.")
    given = options.step_at is not None or options.seed is not None
    require(not (options.resume and given), "--resume keeps the old --step-at and --seed.")
    options.step_at = 5_000 if options.step_at is None else options.step_at
    options.seed = 1 if options.seed is None else options.seed
    check_folder(options.out)
    images, labels = read(options)
    model, record = load(options) if options.resume else create(images, labels, options)
    fits = model.input_shape[1:] == images.shape[1:]
    require(fits, f"the model in {options.out} was made for other images.")
    options.out.mkdir(parents=True, exist_ok=True)
    seen, parts = int(model.optimizer.iterations), -(-options.instances // PART)
    print(f"{len(images)} images; instances {seen} to {seen + parts * PART}, each a step.")
    model.fit(
        stream(images, labels, record, seen),
        steps_per_epoch=PART,
        epochs=parts,
        shuffle=False,
        callbacks=[Live(record, options.out)],
    )
    summarize(record, options.out, console)


def read(options):
    """Images in [0, 1], (n, height, width, channels), and labels."""
    if options.data is None:
        images, labels = handwritten_digits(options.seed)
        return images[..., np.newaxis].astype("float32") / 16.0, labels
    images, labels = read_jpegs(options.data, "train", IMAGES)
    return images.astype("float32") / 255.0, labels


if __name__ == "__main__":
    sys.exit(main())
