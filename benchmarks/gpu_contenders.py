"""What is timed: our kernels, those of PyTorch's SyncBatchNorm, cuDNN, and a copy.

Every contender comes as a list of calls on different buffers, together larger than the L2 cache,
so that a call finds nothing there that it needs.
"""

import math
from dataclasses import dataclass

import torch

EPSILON = 1e-5


@dataclass(frozen=True)
class Case:
    """Shape (batch, channels, height, width), whatever the layout in memory is."""

    shape: tuple[int, int, int, int]
    layout: str
    dtype: torch.dtype

    @property
    def size_bytes(self):
        return math.prod(self.shape) * self.dtype.itemsize

    def flat(self):
        """As our kernels see it: rows, channels, inner."""
        batch, channels, height, width = self.shape
        if self.layout == "NHWC":
            return batch * height * width, channels, 1
        return batch, channels, height * width

    def image(self, flat):
        """The same memory as PyTorch sees it."""
        batch, channels, height, width = self.shape
        if self.layout == "NHWC":
            return flat.view(batch, height, width, channels).permute(0, 3, 1, 2)
        return flat.view(batch, channels, height, width)

    def __str__(self):
        return f"{'x'.join(map(str, self.shape))} {self.layout} {self.dtype}"


def contenders(library, case, device, l2_bytes):
    """Returns a dictionary of lists of calls."""
    buffers = buffer_sets(case, device, l2_bytes)
    named = [ours(library, buffer) for buffer in buffers]
    if device.type == "cuda":
        named = [
            {**calls, **synchronized(buffer), **cudnn(buffer)}
            for calls, buffer in zip(named, buffers, strict=True)
        ]
    return {name: [calls[name] for calls in named] for name in named[0]}


def buffer_sets(case, device, l2_bytes):
    """A list of `Buffers`, as many as it takes."""
    sets = max(2, math.ceil(4 * l2_bytes / case.size_bytes)) if case.size_bytes < 5e8 else 1
    return [Buffers(case, device) for _ in range(min(sets, 64))]


class Buffers:
    """One set of activations and vectors."""

    def __init__(self, case, device):
        shape, channels = case.flat(), case.shape[1]
        self.case = case
        self.x = torch.randn(shape, dtype=case.dtype, device=device)
        self.dy = torch.randn(shape, dtype=case.dtype, device=device)
        self.y = torch.empty_like(self.x)
        options = dict(dtype=torch.float64, device=device)
        self.count = torch.zeros(1, **options)
        self.vectors = [torch.randn(channels, **options) for _ in range(8)]


def ours(library, buffers):
    x, dy, y = buffers.x, buffers.dy, buffers.y
    mean, m2, sum_u, sum_uv, a, b, c, center = buffers.vectors
    return {
        "moments": library.moments(x, buffers.count, mean, m2),
        "blend forward": library.blend(y, v=x, b=b, c=c, center=center),
        "sums": library.sums(x, sum_u, sum_uv, u=dy, center=center),
        "blend backward": library.blend(y, u=dy, v=x, a=a, b=b, c=c, center=center),
        "one pass forward": library.sums(x, sum_u, sum_uv, center=center, scale=b, shift=c, y=y),
        "one pass backward": library.sums(x, sum_u, sum_uv, u=dy, center=center, scale=a, y=y),
        "copy": lambda: y.copy_(x),
    }


def synchronized(buffers):
    """What torch.nn.SyncBatchNorm calls on each device."""
    case = buffers.case
    x, dy = case.image(buffers.x), case.image(buffers.dy)
    channels = case.shape[1]
    weight, bias, mean, sum_dy, sum_dy_xmu = torch.randn(5, channels, device=x.device).unbind()
    inverse = torch.rand(channels, device=x.device) + 0.5
    count = torch.tensor([x.numel() // channels], dtype=torch.int32, device=x.device)
    return {
        "torch moments": lambda: torch.batch_norm_stats(x, EPSILON),
        "torch blend forward": lambda: torch.batch_norm_elemt(
            x, weight, bias, mean, inverse, EPSILON
        ),
        "torch sums": lambda: torch.batch_norm_backward_reduce(
            dy, x, mean, inverse, weight, True, True, True
        ),
        "torch blend backward": lambda: torch.batch_norm_backward_elemt(
            dy, x, mean, inverse, weight, sum_dy, sum_dy_xmu, count
        ),
    }


def cudnn(buffers):
    case = buffers.case
    x, dy = case.image(buffers.x).detach().requires_grad_(), case.image(buffers.dy)
    channels = case.shape[1]
    weight, bias = (
        torch.rand(channels, device=x.device).add_(0.5).requires_grad_() for _ in range(2)
    )

    def forward():
        return torch.nn.functional.batch_norm(
            x, None, None, weight, bias, training=True, eps=EPSILON
        )

    kept = []

    def backward():
        if not kept:
            kept.append(forward())
        return torch.autograd.grad(kept[0], (x, weight, bias), dy, retain_graph=True)

    return {"cudnn forward": forward, "cudnn backward": backward}
