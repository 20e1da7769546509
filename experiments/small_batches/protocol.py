"""What is trained: the settings, and the protocol that the report begins with."""

import dataclasses

BATCH = 64
CLASSES = 10
LEARNING_RATE = 0.3
MOMENTUM = 0.99
PILOT = {0.03: 59.1, 0.1: 61.7, 0.3: 64.7}  # The accuracy that each rate had, in percent.
PILOT_SEED = 1000
SLOW = 0.03  # The `learning_rate_multiplier` of Batchless-slow.
# The same for a step per image, of Batchless: by learning rate and multiplier.
PILOT_BATCHLESS = {
    (0.1, 1.0): 56.0,
    (0.3, 1.0): 55.1,
    (1.0, 1.0): 48.4,
    (0.3, 10.0): 45.0,
    (0.1, 0.1): 58.9,
    (0.3, 0.1): 57.8,
    (1.0, 0.1): 44.9,
    (0.3, 0.03): 59.1,
    (0.3, 0.01): 58.1,
}
PILOT_TEST_IMAGES = 5000


@dataclasses.dataclass(frozen=True)
class Setting:
    title: str
    methods: tuple
    batch: int = BATCH  # Images in a step.
    group: int | None = None  # Images in a statistic; None for all of the batch.
    arranged: str | None = None  # How images are put into groups: by "label", in "pairs".


SETTINGS = {
    "whole": Setting("all 64 images", ("BN", "BRN", "GroupNorm", "Batchless")),
    "groups-4": Setting("groups of 4", ("BN", "BRN"), group=4),
    "groups-2": Setting("groups of 2", ("BN", "BRN"), group=2),
    "groups-1": Setting("each image by itself", ("BN", "BRN"), group=1),
    "by-label": Setting("groups of 8, sorted by label", ("BN", "BRN"), BATCH, 8, "label"),
    "pairs": Setting("groups of 8, pairs of a label", ("BN", "BRN"), BATCH, 8, "pairs"),
    "batch-1": Setting("a step per image", ("GroupNorm", "Batchless", "Batchless-slow"), batch=1),
}
COLORS = {
    "BN": "tab:orange",
    "BRN": "tab:blue",
    "GroupNorm": "tab:green",
    "Batchless": "tab:red",
    "Batchless-slow": "tab:purple",
}

PROTOCOL = """\
* Data: the first {images:,} training images of CIFAR-10 and the first {test_images:,} test images,
  32x32. Each training image is mirrored or not at random in each epoch; no other augmentation. A
  fraction of the data and of the usual epochs, so that all runs take hours on two CPU cores:
  compare methods, not with published accuracies.
* Network: a ResNet with a 3x3 convolution of 16 channels and stride 2, and one block of two 3x3
  convolutions in each of three stages of 16, 32 and 64 channels: 9 normalization layers. He's
  initialization.
* Training: {epochs} epochs of {steps} steps of {batch} images. SGD with momentum 0.9, learning rate
  {learning_rate} with cosine decay to 0, no weight decay. {chosen} was chosen from {rates} by one
  run each of BN over all 64 images, with 10,240 images and 12 epochs, with a seed that is not used
  below, on {pilot} training images that are not among the above (`--pilot`): {found} %. Nothing
  else was tuned, and no method has a rate of its own, but for Batchless-slow.
* Groups: the gradient is always that of all 64 images; `virtual_batch_size` sets how many
  consecutive images share statistics. "Sorted by label": the images of the same batch, sorted by
  label, the labels in an order drawn for each batch, so that the groups of 8 hold about 2 labels
  where drawn at random they hold 6. "Pairs of a label": arranged so that a group holds about 4
  labels with two images each, as the batches of the paper do.
* Methods, all with their default epsilon: BN is `BatchNormalization`, BRN `BatchRenormalization`,
  both with momentum {momentum}. BRN's limits have the shares of the paper's schedule: `r_max`
  from 1 to 3 between 4 % and 30 % of the steps, `d_max` from 0 to 5 between 4 % and 19 %.
  GroupNorm is `keras.layers.GroupNormalization(groups=8)`. Batchless is
  `BatchlessNormalization(parametrization="log")`, started by `initialize_statistics` on the first
  {first} images of the training's order. BN over all 64 images is what `SyncBatchNormalization`
  computes, however the images are spread over replicas.
* A step per image: the learning rate is divided by {batch}, all else is the same, and as many
  images are seen. Added after the results of the others: Batchless-slow, whose statistics move with
  `learning_rate_multiplier={slow}`, chosen as the learning rate was, from these rates (before the
  division) and multipliers: {batchless}. Adam did not do better: 55.9 % with a
  rate of 0.001, 51.5 % with 0.0003, 42.6 % with 0.0001, multiplier 1.
* Pairs: for one seed, all methods and settings start from the same weights and see the same
  images in the same batches in the same order. Seeds are 1 to 5. A method is said to be above or
  below another where the mean of the differences, seed by seed, is more than two of its standard
  errors from 0.
* Measured: accuracy and cross-entropy on the test images in inference mode after each epoch. The
  last epoch counts, not the best. Seconds are those of the training steps, tracing included,
  with one thread.
* Claims to be tested: BRN is above BN with groups of 4; BRN is above BN with groups sorted by
  label; Batchless with a step per image is less than 3 points below BN over all 64 images.
"""
