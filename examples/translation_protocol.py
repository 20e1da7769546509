"""What `translation.py` trains: sizes, weights, and how they were chosen."""

from text_report import Experiment

VOCABULARY = 6000
MOST_TOKENS = 40
WIDTH = 128
HEADS = 4
BLOCKS = 2
DROPOUT = 0.2
BATCH = 128
TOKENS = 1600  # Real ones of the source in a batch, about.
RATE = 2e-3
WEIGHTS = {
    "pre": dict(mean_weight=0.1 / TOKENS, variance_weight=0.01 / TOKENS),
    "post": dict(mean_weight=60 / TOKENS, variance_weight=0.0),
}

PROTOCOL = """\
* Data: Multi30k, German to English, {pairs:,} pairs of sentences to train on, and the 1,000 of
  test_2016_flickr. Split at blanks, the {vocabulary:,} most frequent words of each language, at
  most {most} a sentence.
* Network: a Transformer of {blocks} encoder and {blocks} decoder blocks of width {width} with
  {heads} heads and trained positions, dropout {dropout}. Pre-Norm and Post-Norm.
* Methods, in the encoder only, as in the paper: LN is `keras.layers.LayerNormalization`, BN
  `BatchNormalization`, RBN `RegularizedBatchNormalization`; the decoder has LN always. Epsilon
  1e-5, and momentum 0.95 for both batch norms.
* Weights of RBN's penalty: those published for IWSLT14, {mean:g} and {variance:g} with Pre-Norm
  and {post:g} and 0 with Post-Norm, divided by the {tokens:,} tokens of a batch, since the loss is
  a mean. Not tuned.
* Training: {epochs} epochs of {steps} steps of {batch} pairs, cross-entropy over the real tokens,
  Adam, learning rate {rate} with a linear warm-up over a tenth of the steps and cosine decay to 0.
* Pairs: for one seed all methods see the same sentences in the same batches in the same order. A
  method is said to be above or below another where the mean of the differences, seed by seed, is
  more than two of its standard errors from 0.
* Measured: BLEU of sacrebleu on the tokens as they are (`tokenize="none"`), greedy decoding, after
  the last epoch; cross-entropy on the validation pairs after each. TID by
  `callbacks.TrainingInferenceDiscrepancy` every 10 batches, and at the end by
  `diagnostics.training_inference_discrepancy` over 100 training batches: averages over layers.
* Claim to be tested: the TID of RBN at the end is below that of BN, mean and variance. Where RBN
  is above or below LN and BN in BLEU is reported as it is.
"""


def experiment(size):
    """What the report is of; `size` has the pairs and epochs."""
    protocol = PROTOCOL.format(
        **size,
        steps=size["pairs"] // BATCH,
        vocabulary=VOCABULARY,
        most=MOST_TOKENS,
        blocks=BLOCKS,
        width=WIDTH,
        heads=HEADS,
        dropout=DROPOUT,
        batch=BATCH,
        tokens=TOKENS,
        rate=RATE,
        mean=0.1,
        variance=0.01,
        post=60,
    )
    return Experiment(
        name="translation",
        title="Translation",
        metric="bleu",
        label="BLEU",
        scale=1,
        curves={"validation cross-entropy": ("val_loss", 1)},
        data="multi30k",
        protocol=protocol,
    )
