"""What is measured, and the protocol that the report begins with."""

BATCH = 64
LEARNING_RATE = 0.1
EMA_MOMENTUM = 0.99  # The share of the old average that each step keeps.
AVERAGED_EPOCHS = 3  # The last ones, whose weights SWA averages.
SEEDS = [1, 2, 3]
SEVERITIES = (1, 3, 5)
COUNTS = (16, 64, 256, 1024)  # Images that the statistics are taken from, fewer than all.
MOST_APART = 0.5  # Points of accuracy that count as no difference.

WEIGHTS = {"last": "of the last step", "swa": "averaged, SWA", "ema": "averaged, EMA"}
STATISTICS = {
    "kept": "as training left them",
    "averaged": "averaged as the weights",
    "recomputed": "recomputed",
    "sequential": "recomputed, sequential",
}

PROTOCOL = """\
* Question: what does `recompute_statistics` bring after weights were averaged, and on images of
  another kind than those of training?
* Data: the first {images:,} training images of CIFAR-10, 32x32, to train on. The first
  {test_images:,} test images in two halves: accuracy is that on the second half; the first half,
  without its labels, is what a model is adapted to.
* Model: the ResNet of `small_batches`, with 9 `BatchNormalization` layers and the default momentum
  0.99. {epochs} epochs of {steps} steps of {batch} images, mirrored or not at random, SGD with
  momentum 0.9 and the constant learning rate {learning_rate}. Nothing was tuned. Seeds are {seeds}.
* Averages: SWA is the mean of the weights after each of the last {averaged} epochs. EMA is the
  moving average that Keras keeps with `use_ema=True, ema_momentum={ema}`. Both are of trained
  weights; the moving statistics that go with them are those that training left, those that were
  averaged in the same way (SWA), or recomputed from the training images, in batches of {batch}, in
  one pass or layer after layer (`sequential=True`).
* To be shown: with recomputed statistics both averages are above what they are with those that
  training left, and one pass is at most {apart:g} points from `sequential`.
* Another kind of images: noise, blur and low contrast as in the study of drift, with severity
  {severities}. The weights of the last step, with the statistics of training and with those
  recomputed from the first half of the test images, which are corrupted in the same way, in batches
  of {batch}; at severity 5 also in sequence, and from the first {counts} images only.
* To be shown: at severity 5 recomputed statistics are above those of training for each corruption;
  on images that are not corrupted they are at most {apart:g} points below.
* Added after a first run, in which recomputing from training images raised the accuracy of the last
  weights by 8.7 points: those statistics on corrupted images as well, since otherwise the gain of
  adapting would have that in it. To be shown: at severity 5 statistics of the corrupted images are
  above those recomputed from training images, and on images that are not corrupted those of the
  test images are at most {apart:g} points below them. All else is as in that run.
* Recorded beside it: how far the statistics moved, as `recompute_statistics` returns it, the mean
  over layers.
"""
