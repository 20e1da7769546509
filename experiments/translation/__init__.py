"""Batch normalization in the encoder of a small translation model, on Multi30k."""
