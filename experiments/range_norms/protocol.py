"""What is trained: the data sets, and the protocol that the report begins with.

Question: what do ranges instead of variances, narrow number formats and block floating point cost
in accuracy, each alone and together, and does normalizing only heterogeneous batches help?
"""

import dataclasses

BATCH = 128
CLASSES = 10
CLASSES_IN_A_BATCH = 2  # Of homogeneous batches.
LEARNING_RATE = 0.1
PILOT = {0.03: 45.9, 0.1: 51.5, 0.3: 52.8}  # The accuracy of `batch` with each rate, in percent.
PILOT_NONE = {0.03: 32.2, 0.1: 36.9, 0.3: 24.6}  # The same of `none`.
PILOT_SEED = 1000
PILOT_TEST_IMAGES = 2000
MOMENTUM = 0.95
BAND = 1.2  # That of the authors of adaptive batch normalization.
SEEDS = [1, 2, 3]
LIMIT = 1.0  # Points of accuracy that count as a small difference.
DIGITS = {"images": 1280, "test_images": 517}


@dataclasses.dataclass(frozen=True)
class DataSet:
    """A data set.

    Attributes:
        title: what the report calls it.
        stages: channels and stride of each convolution. Blocks of 32 channels must be whole.
        narrow_band: a band that some batches of mixed images leave.
        open_share: how many of them do, in percent, counted before the runs.
    """

    title: str
    stages: tuple
    narrow_band: float
    open_share: int


DATA_SETS = {
    "cifar10": DataSet("CIFAR-10", ((32, 2), (64, 2), (64, 2)), 0.8, 48),
    "digits": DataSet("digits", ((32, 1), (64, 2), (64, 1)), 0.3, 30),
}

PROTOCOL = """\
* Question: what do ranges instead of variances, narrow number formats and block floating point cost
  in accuracy, each alone and together? Does it help to normalize heterogeneous batches only?
* Data: the first {images:,} training images of CIFAR-10 and the first {test_images:,} test images,
  32x32x3; and scikit-learn's handwritten digits, 8x8, {digit_images:,} to train on
  and {digit_test_images} others to test on, divided by a seed that is the same for all runs.
  Values are in [0, 1]. No augmentation. Small data and a short training: compare methods, not with
  published accuracies.
* Network: 3x3 convolutions without bias, each followed by a normalization and a ReLU, the mean over
  all positions, and a dense layer. CIFAR-10: {cifar10_stages}. Digits: {digits_stages}. He's
  initialization. All normalized widths are multiples of 32, the largest block.
* Training: {epochs} epochs on CIFAR-10 and {digits_epochs} on the digits, of batches of {batch}
  images, float32. SGD with momentum 0.9, learning rate {learning_rate} with cosine decay to 0, no
  weight decay. The rate was chosen on CIFAR-10 as one at which networks with and without
  normalization both train well, with seed {pilot_seed}, which is not used below, on
  {pilot_test_images:,} training images that are not among the above (`--pilot`): batch
  normalization had {found}; no normalization had {found_none}. Nothing else was tuned, and no
  contender has a rate of its own.
* Contenders: all layers have moving statistics with momentum {momentum} and their default epsilon.
  "Ranges" is `RangeBatchNormalization` with each `range_constant`, in chunks of 1/8 of the values.
  "LightNorm" is `LightNormalization`: ranges, fp10_154 forward, gradients in bfloat16, and blocks
  of 4, 16 or 32 channels aligned to the second largest or to the largest exponent. It rounds to the
  nearest; truncated is the same with the second largest exponent. "Only" is one part of it with all
  others off and with mean and variance: the number format, the blocks, or the format of the
  gradients; only ranges is "ranges, lightnorm constant". LightNorm with the calibrated constant was
  added after the others had been seen.
* Adaptive: `AdaptiveBatchNormalization` in the place of batch normalization, where the means of
  activations are near 0 and so its band is narrow; and after each ReLU, where they are not, whose
  counterpart is batch normalization there. And `AdaptiveBatchStandardization` of the training
  batches, adapted to the training images, before a network without normalization layers; the
  counterpart of both it and the first is that network without it. Test images are not standardized.
  Band {band} is that of the authors. No image of these data lies outside of it, which was counted
  before the runs, so that the input form can change nothing there; the narrow bands, {narrow}, are
  left by about {shares} of the mixed batches.
* Batches: mixed batches are a permutation of the images in each epoch. Homogeneous batches hold
  {classes_in_a_batch} of {classes} classes, as many images of one as of the other, and as many
  steps are taken; five batches in a row hold each class once.
* Pairs: for one seed, all contenders start from the same weights and see the same images in the
  same batches in the same order. Seeds are {seeds}.
* Measured: accuracy and cross-entropy on the test images in inference mode after each epoch; the
  mean training loss of each epoch; the share of open gates, which is that of the training batches
  (of an adaptive layer, the mean over the layers) that were normalized. The last epoch counts, not
  the best. Seconds are those of the training steps, tracing included.
* Compared: the accuracy less that of batch normalization with the same data, batches and seed, in
  points: the mean over seeds and its 95 % interval by Student's t. With three seeds such an
  interval is wide: what includes 0 is not shown to be equal. Several contenders are compared, and
  intervals are not widened for that.
* Claims to be tested, on CIFAR-10 with mixed batches, by the mean over seeds: ranges, with the
  calibrated constant, are at most {limit:g} point below batch normalization; so is LightNorm with
  blocks of 32 at the second largest exponent; the second largest exponent is above the largest with
  blocks of 32. And with homogeneous batches, the adaptive layer is above batch normalization.
"""
