"""Ranges, narrow number formats and gated normalization, against batch normalization."""
