"""What is measured, and the protocol that the report begins with."""

BATCH = 64
SEED = 1  # Of the model, of the channels that are scaled and of the noise; streams have their own.
LEARNING_RATE = 0.3  # From the study of small batches, where it was chosen.
LAYERS = (
    *("stem", "stage1_first", "stage1_second"),
    *("stage2_first", "stage2_second", "stage2_shortcut"),
    *("stage3_first", "stage3_second", "stage3_shortcut"),
)

FACTOR = 10.0
# Hendrycks and Dietterich, 2019, https://arxiv.org/abs/1903.12261: the code's values for CIFAR-10.
CORRUPTIONS = {
    "noise": (0.04, 0.06, 0.08, 0.09, 0.10),  # Standard deviation, pixels from 0 to 1.
    "blur": (0.4, 0.6, 0.7, 0.8, 1.0),  # Standard deviation, in pixels.
    "contrast": (0.75, 0.5, 0.4, 0.3, 0.15),  # The share that is left.
}

PICTURED = 50  # Batches in the picture of a report.

POISON = 1000.0
POISONED_SHARE = 0.01
MAX_UPDATE = 5.0
ADDED = (3.0, 1.0)  # Bounds that were added after the first run.
RATES = {"statistics only": 0.0, "training": 0.01}
CLIPNORM = 1.0
STREAMS = {  # The bound of the layers, and whether there is poison.
    "clean, no bound": (None, False),
    "poisoned, no bound": (None, True),
    **{f"poisoned, `max_update={bound:g}`": (bound, True) for bound in (MAX_UPDATE, *ADDED)},
}

MOST_FLAGGED = 0.01  # Share of channels above the threshold on clean data.
MOST_MOVED = 1.0  # Points of accuracy that poison may cost where there is a bound.

PROTOCOL = """\
* Data: the first {images:,} training images of CIFAR-10, 32x32, to train on; the next {images:,}
  are what streams draw from; the first {test_images:,} test images in two halves. The first half
  makes the reference. The second is the live data, and what accuracy is measured on.
* Model: the ResNet of `small_batches`, with 9 `BatchNormalization` layers of 336 channels in
  all and the default momentum 0.99. {epochs} epochs of {steps} steps of {batch} images, mirrored
  or not at random, SGD with momentum 0.9, learning rate {learning_rate} with cosine decay to 0.
  One model, seed {seed}: what follows says nothing of other models.
* Measure: psi, threshold 0.25, the defaults; an average is over all channels of all layers.
* Clean halves. To be shown: at most 1 % of the channels are above the threshold.
* A scaled channel: in the convolution before a normalization layer one filter is multiplied by
  {factor:g}, and the live half is compared with the reference of the model before. {channels}
  channels, drawn from all. To be shown: it has rank 1 of all channels, each time. Layers behind
  it receive other values too, which no rank leaves out.
* Corruptions of the live half with severity 1 to 5, the values of CIFAR-10-C, pixels rounded to
  whole numbers as there. Noise: normal, with standard deviation {noise} (pixels from 0 to 1).
  Blur: Gaussian, with standard deviation {blur} pixels. Contrast: {contrast} of the distance
  from the mean of each image and colour is left. To be shown: the average psi rises with each
  severity, from clean on. Recorded beside it: the share of channels above the threshold, the
  accuracy.
* A picture of a report: the live half in {pictured} batches, of which one is uniform noise, and
  from the middle on contrast has severity 3.
* Poisoning: the model goes on for {stream} steps of {batch} images, drawn at random. {poisoned}
  of these batches, at random places, have all pixels multiplied by {poison:g}, a wrong unit as
  it were, and random labels: 1 %. Streams without poison and with it, with
  `max_update={max_update:g}` and without, are the same otherwise; seeds {seeds} draw the
  streams. Once with learning rate 0, so that the moving statistics alone change: this isolates
  what `max_update` acts on. And once with plain SGD, rate {rate:g}, and `clipnorm={clipnorm:g}`:
  gradients of poisoned batches then reach the weights too, which `max_update` does not prevent.
  Accuracy is measured in inference mode before, at every fifth of the stream and after each
  poisoned batch. To be shown: with `max_update` the accuracy at the end is, in the mean over
  seeds, less than 1 point from that before (learning rate 0) and from that of the clean stream
  (training). Recorded beside it: the lowest accuracy on the way, which is what a model that
  serves while it goes on would have.
* Added after a first run with the streams of the seeds 1 to 3, in which `max_update=5` left the
  accuracy at the end 2.24 ± 1.54 points (learning rate 0) and 1.91 ± 1.45 points (training)
  lower, and 7.9 and 7.6 points lower on the way: the bounds {added}, and other seeds by default.
  Everything else is as in that run, and clean, scaled and corrupted data had the same results.
"""
