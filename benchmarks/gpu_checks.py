"""Checks of the kernels against float64, on fresh random inputs.

Outputs are NaN before a call, and a NaN in a result never passes. The float64 side goes through
the rows in pieces, so that arrays of many gigabytes can be checked, too.
"""

import itertools

import torch

PIECE = 1 << 25  # Values that are float64 at the same time.
# Rows, channels, inner: with and without steps of 16 bytes, few channels and many, odd sizes.
SHAPES = (
    (5000, 64, 1),
    (40_000, 3, 1),
    (3000, 65, 1),
    (70_001, 1, 1),
    (100, 2048, 1),
    (33, 10_007, 1),
    (64, 7, 49),
    (8, 256, 196),
    (4, 3, 50_176),
    (16, 48, 1024),
    (2, 10_007, 6),
    (1, 1, 300_001),
    (0, 5, 1),
)
SMALL_SHAPES = ((70, 16, 1), (40, 3, 1), (6, 7, 49), (3, 4, 64), (0, 5, 1))
OPTIONS = tuple(itertools.product((False, True), (False, True)))  # Weights, segments.
OFFSETS = {torch.float32: (1e4, 0.1), torch.float64: (1e4, 0.1)}  # Mean and deviation.


class Failure(Exception):
    """A result is wrong; the message says which."""


def check_all(library, shapes, dtypes, device, report):
    """Checks every shape, dtype and option; raises `Failure` at the first wrong result."""
    for dtype, shape in itertools.product(dtypes, shapes):
        for weights, segments in OPTIONS:
            check(library, shape, dtype, device, weights, segments)
        report(f"{str(dtype).removeprefix('torch.')} {shape}")


def check(library, shape, dtype, device, has_weights=False, has_segments=False):
    """Checks the three kernels on one shape."""
    rows, channels, inner = shape
    what = f"{dtype}, {shape}, weights {has_weights}, segments {has_segments}"
    mean, deviation = OFFSETS.get(dtype, (3.0, 2.0))
    segment_rows = max(1, rows // 3) if has_segments else rows
    segments = 1 if segment_rows == rows else -(-rows // segment_rows)
    vectors = (segments, channels)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    x = torch.randn(shape, dtype=dtype, device=device).mul_(deviation).add_(mean)
    dy = torch.randn(shape, dtype=dtype, device=device)
    y = torch.full_like(x, torch.nan)
    weights = None
    if has_weights:
        weights = torch.rand((rows, inner), dtype=wide, device=device)
        weights.mul_(weights > 0.4)
        x.masked_fill_((weights == 0)[:, None, :], torch.nan)
    options = dict(weights=weights, segment_rows=segment_rows)
    epsilon = torch.finfo(wide).eps
    view = Pieces(x, dy, weights, segment_rows, segments)

    def outputs(count, *shape):
        options = dict(dtype=torch.float64, device=device)
        return [torch.full(shape, torch.nan, **options) for _ in range(count)]

    (count,), (mean, m2) = outputs(1, segments), outputs(2, *vectors)
    library.moments(x, count, mean, m2, **options)()
    expected_count, expected_mean, expected_m2 = view.moments()
    spread = torch.sqrt(expected_m2 / expected_count.clamp_min(1e-30)[:, None])
    rounding = 1e-15 * expected_mean.abs()
    total = expected_count[:, None]
    expect(what, "count", count, expected_count, 64 * epsilon * expected_count)
    expect(what, "mean", mean, expected_mean, 64 * epsilon * spread + rounding)
    tolerance = 512 * epsilon * expected_m2 + total * rounding * (spread + rounding)
    expect(what, "m2", m2, expected_m2, tolerance)

    sum_u, sum_uv = outputs(2, *vectors)
    center = expected_mean + spread / 8
    library.sums(x, sum_u, sum_uv, u=dy, center=center, weighted=has_weights, **options)()
    expected, sizes = view.sums(center)
    expect(what, "sum_u", sum_u, expected[0], 64 * epsilon * sizes[0])
    expect(what, "sum_uv", sum_uv, expected[1], 64 * epsilon * sizes[1])

    # With y from the same pass: of u, and of v, whose centre is one that the compute type holds.
    scale, shift = (torch.randn(vectors, dtype=torch.float64, device=device) for _ in range(2))
    narrow_center = center.to(wide).double()
    for u, own_center in ((dy, center), (None, narrow_center)):
        shifted = dict(shift=shift) if u is None else {}
        operands = dict(u=u, center=own_center, scale=scale, y=y, weighted=has_weights, **shifted)
        library.sums(x, sum_u, sum_uv, **operands, **options)()
        expected, sizes = view.sums(own_center, of_u=u is not None)
        expect(what, "sum_u, one pass", sum_u, expected[0], 64 * epsilon * sizes[0])
        expect(what, "sum_uv, one pass", sum_uv, expected[1], 64 * epsilon * sizes[1])
        offset = shift if u is None else torch.zeros_like(shift)
        for actual, expected, size in view.scaled(y, scale, offset, own_center, u is not None):
            narrow = torch.finfo(dtype)
            rounding = narrow.eps * (expected.abs() + narrow.smallest_normal)
            expect(what, "y, one pass", actual, expected, rounding + 8 * epsilon * size)

    a, b, c = (torch.randn(vectors, dtype=torch.float64, device=device) for _ in range(3))
    operands = dict(u=dy, v=x, a=a, b=b, c=c, center=center, weighted=has_weights)
    library.blend(y, **operands, **options)()
    for actual, expected, size in view.blend(y, a, b, c, center):
        low = epsilon * center.abs().max() if center.numel() else 0.0
        narrow = torch.finfo(dtype)
        rounding = narrow.eps * (expected.abs() + narrow.smallest_normal)
        tolerance = rounding + 8 * epsilon * (size + low)
        expect(what, "blend", actual, expected, tolerance)
    library.blend(dy, **operands, **options)()  # Over u.
    if not torch.equal(dy, y):
        raise Failure(f"blend over its input differs: {what}")


class Pieces:
    """The float64 side: activations in pieces of rows that lie in one segment."""

    def __init__(self, v, u, weights, segment_rows, segments):
        self._v, self._u, self._weights = v, u, weights
        self._bounds = []
        step = max(1, PIECE // max(1, v.shape[1] * v.shape[2]))
        for segment in range(segments):
            end = min((segment + 1) * segment_rows, v.shape[0])
            for first in range(segment * segment_rows, end, step):
                self._bounds.append((segment, slice(first, min(first + step, end))))
        self._vectors = (segments, v.shape[1])

    def _rows(self):
        for segment, rows in self._bounds:
            v, u = self._v[rows].double(), self._u[rows].double()
            weights = torch.ones_like(v[:, :1])
            if self._weights is not None:
                weights = self._weights[rows].double()[:, None, :]
            yield segment, rows, v, u, weights

    def _zeros(self, *shape):
        return torch.zeros(shape, dtype=torch.float64, device=self._v.device)

    def moments(self):
        count, mean, m2 = (
            self._zeros(self._vectors[0]),
            *(self._zeros(*self._vectors) for _ in "ab"),
        )
        for segment, _, v, _, w in self._rows():
            count[segment] += w.sum()
            mean[segment] += torch.where(w > 0, w * v, 0.0).sum((0, 2))
        mean /= count.clamp_min(1e-30)[:, None]
        for segment, _, v, _, w in self._rows():
            centred = v - mean[segment][:, None]
            m2[segment] += torch.where(w > 0, w * centred * centred, 0.0).sum((0, 2))
        return count, mean, m2

    def _centred(self, v, w, center):
        """What is not finite under weight 0 is read as the centre in the compute type."""
        low = center.to(torch.float32).double() - center
        low = torch.zeros_like(low) if self._v.dtype == torch.float64 else low
        centred = v - center[:, None]
        return torch.where((w > 0) | centred.isfinite(), centred, low[:, None].expand_as(centred))

    def sums(self, center, of_u=True):
        """Returns the sums, and the sums of the magnitudes; of v - center in place of u."""
        sums, sizes = self._zeros(2, *self._vectors), self._zeros(2, *self._vectors)
        for segment, _, v, u, w in self._rows():
            centred = self._centred(v, w, center[segment])
            values = w * (u if of_u else centred)
            for i, terms in enumerate((values, values * centred)):
                sums[i, segment] += terms.sum((0, 2))
                sizes[i, segment] += terms.abs().sum((0, 2))
        return sums, sizes

    def scaled(self, y, scale, shift, center, of_u):
        """Yields pieces of y, of what it should be, and of the magnitude of its terms."""
        for segment, rows, v, u, w in self._rows():
            values = u if of_u else self._centred(v, w, center[segment])
            first, second = scale[segment][:, None] * values, shift[segment][:, None]
            yield y[rows].double(), first + second, first.abs() + second.abs()

    def blend(self, y, a, b, c, center):
        """Yields pieces of y, of what it should be, and of the magnitude of its terms."""
        for segment, rows, v, u, w in self._rows():
            first = a[segment][:, None] * u
            second = w * (b[segment][:, None] * self._centred(v, w, center[segment]))
            third = w * c[segment][:, None]
            size = first.abs() + second.abs() + third.abs()
            yield y[rows].double(), first + second + third, size


def expect(what, name, actual, expected, tolerance):
    wrong = ~((actual - expected).abs() <= tolerance)  # True where NaN.
    if wrong.any():
        i = tuple(wrong.nonzero()[0].tolist())
        raise Failure(
            f"{name} is wrong: {what}, at {i}: {actual[i].item()!r} instead of "
            f"{expected[i].item()!r}, {int(wrong.sum())} of {wrong.numel()} values"
        )
