"""Drift of activation statistics, and poisoned batches, on CIFAR-10."""
