"""Normalization with few images in each statistic, on CIFAR-10."""
