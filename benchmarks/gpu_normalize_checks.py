"""Checks of normalize and its gradient against float64, with rectifiers, residuals and segments.

What a rectifier lets through is told from a number that rounding may have moved past 0 or the cap:
there a gradient may be either.
"""

import itertools
import math

import torch
from gpu_checks import OFFSETS, expect
from gpu_library import MovingAverage, Rectifier, vector

EPSILON, SHARE = 1e-3, 0.25
SHAPES = (
    (5000, 64, 1),
    (40_000, 3, 1),
    (3000, 65, 1),
    (33, 10_007, 1),
    (64, 7, 49),
    (8, 256, 196),
    (4, 3, 50_176),
    (1, 1, 300_001),
    (0, 5, 1),
)
SMALL_SHAPES = ((70, 16, 1), (40, 3, 1), (6, 7, 49), (3, 4, 64), (0, 5, 1))
RECTIFIERS = {
    "no rectifier": Rectifier(False, 0.0, 0.0),
    "ReLU": Rectifier(True, 0.0, 0.0),
    "leaky ReLU": Rectifier(True, 0.25, 0.0),
    "capped ReLU": Rectifier(True, 0.0, 1.5),
}
# Rectifier, residual, segments.
FORMS = tuple(itertools.product(RECTIFIERS, (False, True), (False, True)))


def check_normalize(library, shapes, dtypes, device):
    """Checks every shape, dtype and form; raises `Failure` at the first wrong result."""
    for dtype, shape, form in itertools.product(dtypes, shapes, FORMS):
        check_form(library, shape, dtype, device, *form)


def rectified(z, rectifier):
    if not rectifier.is_given:
        return z
    return torch.where(z > 0, z.clamp(max=rectifier.cap or math.inf), rectifier.negative_slope * z)


def slope(z, rectifier):
    if not rectifier.is_given:
        return torch.ones_like(z)
    above = (z < (rectifier.cap or math.inf)).double()
    return torch.where(z > 0, above, rectifier.negative_slope)


def check_form(library, shape, dtype, device, name, has_residual, has_segments):
    """Checks a call each way."""
    rows, channels, inner = shape
    rectifier = RECTIFIERS[name]
    what = f"{dtype}, {shape}, {name}, residual {has_residual}, segments {has_segments}"
    mean, deviation = OFFSETS.get(dtype, (3.0, 2.0))
    segment_rows = max(1, rows // 3) if has_segments else rows
    segments = 1 if segment_rows == rows else -(-rows // segment_rows)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    epsilon, stored = torch.finfo(wide).eps, torch.finfo(dtype)
    x = torch.randn(shape, dtype=dtype, device=device).mul_(deviation).add_(mean)
    dy, residual = (torch.randn(shape, dtype=dtype, device=device) for _ in "ab")
    gamma, beta = (torch.randn(channels, dtype=wide, device=device) for _ in "ab")
    double = dict(dtype=torch.float64, device=device)
    count = torch.full((segments,), torch.nan, **double)
    found_mean, variance = (torch.full((segments, channels), torch.nan, **double) for _ in "ab")
    y, dx, dresidual = (torch.full_like(x, torch.nan) for _ in range(3))
    options = dict(segment_rows=segment_rows, gamma=gamma, epsilon=EPSILON, rectifier=rectifier)
    added = dict(residual=residual) if has_residual else {}
    moving = [torch.randn(channels, dtype=wide, device=device) for _ in range(4)]
    share = torch.full((1,), SHARE, dtype=wide, device=device)
    old = [average.double() for average in moving]
    if segments == 1:
        old_vectors, new = map(vector, moving[:2]), (t.data_ptr() for t in moving[2:])
        added["moving"] = MovingAverage(*old_vectors, share.data_ptr(), *new)
    library.normalize(x, y, count, found_mean, variance, beta=beta, **added, **options)()

    by_y = rectifier.is_given and has_residual
    gate = dict(y=y, dresidual=dresidual) if by_y else {}
    gate |= dict(beta=beta) if rectifier.is_given and not by_y else {}
    dgamma, dbeta = (torch.full((channels,), torch.nan, **double) for _ in "ab")
    moments = dict(count=count, mean=found_mean, variance=variance)
    library.normalize_grad(dy, dx, dgamma, dbeta, x=x, **moments, **gate, **options)()

    expected_dgamma, expected_dbeta = (torch.zeros(channels, **double) for _ in "ab")
    tolerance_dgamma, tolerance_dbeta = (torch.zeros(channels, **double) for _ in "ab")

    def rounding(value):
        return stored.eps * (value.abs() + stored.smallest_normal)

    for segment in range(segments):
        part = slice(segment * segment_rows, min((segment + 1) * segment_rows, rows))
        wide_x, wide_dy, added = (t[part].double() for t in (x, dy, residual))
        added = added if has_residual else torch.zeros_like(added)
        n = wide_x.shape[0] * inner
        exact_mean = wide_x.mean((0, 2)) if n else torch.zeros(channels, **double)
        centred = wide_x - exact_mean[:, None]
        exact = centred.square().mean((0, 2)) if n else torch.zeros(channels, **double)
        spread, low = exact.sqrt(), 1e-15 * exact_mean.abs()
        of_mean = 64 * epsilon * spread + low
        expect(what, "count", count[segment], torch.full((), float(n), **double), 0.0)
        expect(what, "mean", found_mean[segment], exact_mean, of_mean)
        of_variance = 512 * epsilon * exact + low * (spread + low)
        expect(what, "variance", variance[segment], exact, of_variance)

        if segments == 1:
            kept = 1 - SHARE if n else 1.0
            for i, batch, of_batch in ((0, exact_mean, of_mean), (1, exact, of_variance)):
                expected = kept * old[i] + (1 - kept) * batch
                size = epsilon * (old[i].abs() + batch.abs())
                expect(what, "moving", moving[2 + i].double(), expected, 2 * size + of_batch)

        inverse = (exact + EPSILON).rsqrt()
        # How far the rounding of a variance moves its powers, relative to them.
        relative = (2 * of_variance / (exact + EPSILON) + 16 * epsilon)[:, None]
        scale = (gamma.double() * inverse)[:, None]
        scaled, shift = scale * centred, beta.double()[:, None]
        expected = rectified(scaled + shift + added, rectifier)
        size = scaled.abs() + shift.abs() + added.abs()
        moved = relative * size + scale.abs() * of_mean[:, None]
        expect(what, "y", y[part].double(), expected, rounding(expected) + moved)

        z = y[part].double() if by_y else scaled + shift
        doubt = torch.zeros_like(z) if by_y else moved
        let_through = slope(z, rectifier)
        is_sure = slope(z - doubt, rectifier) == slope(z + doubt, rectifier)
        passed = let_through * wide_dy
        unsure = torch.where(is_sure, 0.0, wide_dy.abs())
        if by_y:
            expect(what, "dresidual", dresidual[part].double(), passed, rounding(passed))
        sums, sizes = passed.sum((0, 2)), 64 * epsilon * passed.abs().sum((0, 2))
        products = (passed * centred).sum((0, 2))
        product_sizes = 64 * epsilon * (passed * centred).abs().sum((0, 2))
        sizes += unsure.sum((0, 2)) + 1e-14 * passed.abs().sum((0, 2))
        # The mean that is subtracted and the variance are rounded, too.
        product_sizes += (unsure * centred).abs().sum((0, 2)) + of_mean * passed.abs().sum((0, 2))
        product_sizes += relative[:, 0] * products.abs()
        expected_dgamma += products * inverse
        expected_dbeta += sums
        tolerance_dgamma += product_sizes * inverse
        tolerance_dbeta += sizes
        if n == 0:
            continue
        cubed = (gamma.double() * inverse**3)[:, None] / n
        second, third = -cubed * centred * products[:, None], -scale * sums[:, None] / n
        expected = scale * passed + second + third
        size = (scale * passed).abs() + second.abs() + third.abs()
        tolerance = rounding(expected) + relative * size
        tolerance += scale.abs() * (unsure + (rounding(passed) if by_y else 0.0))
        tolerance += (cubed * centred).abs() * product_sizes[:, None]
        tolerance += (cubed * products[:, None]).abs() * of_mean[:, None]
        tolerance += scale.abs() * sizes[:, None] / n
        expect(what, "dx", dx[part].double(), expected, tolerance)
    expect(what, "dgamma", dgamma, expected_dgamma, tolerance_dgamma)
    expect(what, "dbeta", dbeta, expected_dbeta, tolerance_dbeta)
