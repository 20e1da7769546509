"""Batch normalization in NumPy float64, written from the formulas. Imports nothing of ours."""

import numpy as np


def weights_like(x, axis, mask):
    """A mask over leading non-channel axes, or of full rank, as weights of the shape of x."""
    axes = [a % x.ndim for a in np.atleast_1d(axis)]
    if mask is None:
        return np.ones(x.shape)
    mask = np.asarray(mask, np.float64)
    if mask.ndim != x.ndim:
        rows = [a for a in range(x.ndim) if a not in axes][: mask.ndim]
        shape = [1] * x.ndim
        for size, a in zip(mask.shape, rows, strict=True):
            shape[a] = size
        mask = mask.reshape(shape)
    return np.broadcast_to(mask, x.shape)


def reduction_axes(x, axis):
    axes = [a % x.ndim for a in np.atleast_1d(axis)]
    return tuple(a for a in range(x.ndim) if a not in axes)


def moments(x, axis=-1, mask=None):
    """count, mean, variance with the shape of x but 1 on the reduced axes."""
    x = np.asarray(x, np.float64)
    w = weights_like(x, axis, mask)
    x = np.where(w > 0, x, 0.0)
    axes = reduction_axes(x, axis)
    count = w.sum(axes, keepdims=True)
    safe = np.where(count > 0, count, 1.0)
    mean = (w * x).sum(axes, keepdims=True) / safe
    variance = (w * (x - mean) ** 2).sum(axes, keepdims=True) / safe
    return count, mean, variance


def batch_norm(x, gamma, beta, epsilon, axis=-1, mask=None):
    """y, and (count, mean, variance). gamma and beta broadcast to x."""
    x = np.asarray(x, np.float64)
    count, mean, variance = moments(x, axis, mask)
    centred = x - mean
    if mask is not None:
        invalid = (weights_like(x, axis, mask) == 0) & ~np.isfinite(x)
        centred = np.where(invalid, 0.0, centred)
    return gamma * centred / np.sqrt(variance + epsilon) + beta, (count, mean, variance)


def batch_norm_gradients(x, dy, gamma, epsilon, axis=-1, mask=None):
    """dx, dgamma, dbeta for an upstream gradient dy that counts at every position."""
    x, dy = np.asarray(x, np.float64), np.asarray(dy, np.float64)
    w = weights_like(x, axis, mask)
    axes = reduction_axes(x, axis)
    count, mean, variance = moments(x, axis, mask)
    safe = np.where(count > 0, count, 1.0)
    inverse = 1.0 / np.sqrt(variance + epsilon)
    valid = np.isfinite(x) | (w > 0)
    centred = np.where(valid, x - mean, 0.0)
    sum_dy = dy.sum(axes, keepdims=True)
    sum_dy_centred = (dy * centred).sum(axes, keepdims=True)
    statistics = sum_dy / safe + centred * inverse**2 * sum_dy_centred / safe
    dx = gamma * inverse * (dy - w * statistics)
    return dx, inverse * sum_dy_centred, sum_dy


def moving(old, batch, momentum):
    return momentum * old + (1.0 - momentum) * batch


def numerical_gradient(function, x, step=1e-5):
    """Central differences of a scalar function of a float64 array."""
    x = np.array(x, np.float64)
    gradient = np.zeros_like(x)
    for index in np.ndindex(*x.shape):
        kept = x[index]
        x[index] = kept + step
        above = function(x)
        x[index] = kept - step
        below = function(x)
        x[index] = kept
        gradient[index] = (above - below) / (2 * step)
    return gradient


EPSILON = {"float64": 2.3e-16, "float32": 1.2e-7, "float16": 9.8e-4, "bfloat16": 7.9e-3}


def assert_close(actual, expected, dtype="float32", terms=1, scale=0.0, factor=20.0):
    """|actual - expected| <= factor * eps(dtype) * (scale * sqrt(terms) + |expected|).

    The scale is that of what is added up, at least the largest magnitude expected: rounding
    errors of sums are absolute.
    """
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape, f"{actual.shape} is not {expected.shape}"
    assert np.all(np.isfinite(actual) == np.isfinite(expected))
    scale = max(scale, np.max(np.abs(expected), initial=0.0))
    tolerance = factor * EPSILON[str(dtype)] * (scale * np.sqrt(terms) + np.abs(expected))
    worst = np.max(np.abs(actual - expected) - tolerance, initial=-np.inf)
    assert worst <= 0, f"exceeds the tolerance by {worst:.3g} (scale {scale:.3g})"
