"""Converts stock Keras layers to ours and back; see `keras_norms.models.conversion`."""

from keras_norms.models.conversion import renorm_from_stock, renorm_to_stock

__all__ = ["renorm_from_stock", "renorm_to_stock"]
