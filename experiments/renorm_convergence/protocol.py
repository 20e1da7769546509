"""What is trained: settings, methods, what the pilot tries, and the protocol of the report."""

from typing import NamedTuple

from experiments.small_batches.protocol import Setting

BATCH = 32  # Images in a step.
SIZE = 16  # Pixels, after averaging.
WIDTHS = (8, 16, 32)  # Channels of the stages.
MOMENTUM = 0.99
PILOT_SEED = 1000
PILOT_SETTING = "groups-4"  # Which rates and ramps are chosen in.
TRAINING_IMAGES = 10_000  # On which a trained model is measured, beside the test images.

METHODS = {"BN": "tab:orange", "BRN": "tab:blue"}
SETTINGS = {
    "groups-4": Setting("groups of 4", ("BN", "BRN"), BATCH, 4),
    "groups-2": Setting("groups of 2", ("BN", "BRN"), BATCH, 2),
    "pairs": Setting("groups of 8, pairs of a label", ("BN", "BRN"), BATCH, 8, "pairs"),
}


class Ramps(NamedTuple):
    """Of BRN's limits: shares of the training where a ramp begins and ends, and its two values."""

    r: tuple
    d: tuple


RATES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
FIRST_RATE = 0.1
PAPER = "paper"
RAMPS = {
    PAPER: Ramps((0.04, 0.30, 1.0, 3.0), (0.04, 0.19, 0.0, 5.0)),
    "late": Ramps((0.20, 0.60, 1.0, 3.0), (0.20, 0.50, 0.0, 5.0)),
    "narrow": Ramps((0.04, 0.30, 1.0, 1.5), (0.04, 0.19, 0.0, 0.5)),
}


class Contender(NamedTuple):
    method: str
    setting: Setting
    ramps: Ramps | None  # None for BN.
    rate: float


PROTOCOL = """\
* Question: [the study of small batches](small_batches.md) found no gain of Batch Renormalization
  (BRN) over batch normalization (BN) with groups of 4, and a loss where groups hold few labels,
  in 1,920 steps with one learning rate for both. Its paper (Ioffe, 2017) reports, on ImageNet,
  76.5 % against 74.2 % with groups of 4, and 78.5 % against 67.0 % where a batch holds two images
  each of 16 labels, in trainings of more than 100,000 steps. Does that come with more steps, more
  images and a rate for each method?
* Data: the first {images:,} training images of CIFAR-10 and the first {test_images:,} test
  images, made 16x16 by averaging 2x2 pixels, so that a step takes milliseconds on one CPU core.
  Each training image is mirrored or not at random in each epoch; no other augmentation. Compare
  methods, not with published accuracies.
* Network: that of the study of small batches with half its channels, on 16x16 pixels: a 3x3
  convolution of 8 channels and stride 2, and one block of two 3x3 convolutions in each of three
  stages of 8, 16 and 32 channels, 9 normalization layers, the last of them on 2x2 positions. It
  has 20,000 weights, so it is limited by its fit rather than by the number of images.
* Training: {epochs} epochs of {steps:,} steps of {batch} images, {total:,} steps. SGD with
  momentum 0.9 and cosine decay to 0, no weight decay.
* Groups: the gradient is always that of all {batch} images; `virtual_batch_size` sets how many
  consecutive images share statistics: 4, 2, or 8. "Pairs of a label": of 64 images, arranged so
  that a group of 8 holds about 4 of the 10 labels with two images each, like the batches of the
  paper. The test images are independent draws, and each is normalized by the moving statistics.
* Methods: BN is `BatchNormalization`, BRN `BatchRenormalization`, both with momentum {momentum}
  and the default epsilon.
* Pilot: for each method a learning rate from {rates}, with groups of 4: first {first_rate}, then
  the neighbours of the best until both have been tried. For BRN with the shares of the paper's
  schedule: `r_max` from 1 to 3 between 4 % and 30 % of the steps, `d_max` from 0 to 5 between 4 %
  and 19 %. With BRN's best rate then two other ramps: "late", the same limits between 20 % and
  60 % and between 20 % and 50 %; and "narrow", the paper's shares, `r_max` to 1.5 and `d_max` to
  0.5. So BRN has two trials more than BN. Each trial is one training of {pilot_epochs} epochs on
  all but the last {held_out:,} training images, which the accuracy is taken on, with a seed that
  is not used below. The best accuracy decides. Test images have no part in it, and in the runs
  themselves all training images are trained on. It was meant to be done for each setting. To be
  done in time, rates and ramps were chosen with groups of 4 for all settings. That was decided
  before any run, when the trials of rates with groups of 4 and five trials in the other settings
  had been seen. The trials that are left there follow the runs, where time allows, and tell
  whether these settings would have chosen alike.
* Pairs: for one seed, all methods and settings start from the same weights and see the same
  images, BN and BRN in the same batches in the same order. Seeds are 1 to 3.
* Measured: accuracy and cross-entropy on the test images in inference mode after each epoch; the
  last epoch counts, not the best. For BRN the shares of channels at which r and d were clipped,
  in each epoch. After training: the loss in inference on {training_images:,} training images;
  accuracy and loss on the test images in training mode, in groups made as in training; and how
  far the statistics of such groups are from the moving ones, by
  `diagnostics.training_inference_discrepancy` (TID).
* Claims to be tested: BRN is above BN with groups of 4; with groups of 2, of which the paper says
  nothing; with pairs of a label. A claim holds where the 95 % interval of the mean difference,
  seed by seed, is above 0 (Student's t, so with three seeds 4.3 standard errors), is refuted
  where it is below 0, and else stays open.
"""
