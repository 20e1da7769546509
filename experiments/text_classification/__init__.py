"""Batch normalization in a small Transformer encoder, on SST-2."""
