"""Whole layers in training: batch normalization, with ReLU, and with a residual and ReLU.

Ours is `normalize` and `normalize_grad`. PyTorch's is `torch.nn.functional.batch_norm` with what
comes after it, eager and, for a few shapes, through `torch.compile`. Every one includes all the
arithmetic on vectors.
"""

import torch
from gpu_contenders import EPSILON, Buffers, buffer_sets
from gpu_library import Rectifier

LAYERS = ("BN", "BN+ReLU", "BN+add+ReLU")
# How often ours reads or writes an activation, forward and backward.
TRANSFERS = {"BN": (3, 5), "BN+ReLU": (3, 5), "BN+add+ReLU": (4, 7)}
DIRECTIONS = ("forward", "backward")


def contenders(library, case, device, l2_bytes, compiles):
    """Returns a dictionary of lists of calls; `compiles` adds those of `torch.compile`."""
    buffers = buffer_sets(case, device, l2_bytes)
    named = [ours(library, buffer) for buffer in buffers]
    if device.type == "cuda":
        for calls, buffer in zip(named, buffers, strict=True):
            calls |= theirs("eager", buffer, lambda function: function)
    if compiles and device.type == "cuda":
        torch.compiler.reset()  # A shape is compiled for itself.
        wrapped = {}

        def compiled(function):
            # One for all buffers, which are alike.
            if function.__name__ not in wrapped:
                wrapped[function.__name__] = torch.compile(function, dynamic=False)
            return wrapped[function.__name__]

        for calls, buffer in zip(named, buffers, strict=True):
            calls |= theirs("compiled", buffer, compiled)
    calls = {name: [calls[name] for calls in named] for name in named[0]}
    return calls | {"copy": [lambda b=b: b.y.copy_(b.x) for b in buffers]}


def ours(library, buffers: Buffers):
    x, dy, y, device = buffers.x, buffers.dy, buffers.y, buffers.x.device
    channels = x.shape[1]
    residual, dx, dresidual = torch.randn_like(x), torch.empty_like(x), torch.empty_like(x)
    gamma, beta = (torch.randn(channels, device=device) for _ in "ab")
    dgamma, dbeta = torch.empty_like(gamma), torch.empty_like(beta)
    mean, variance = buffers.vectors[:2]
    moments = dict(count=buffers.count, mean=mean, variance=variance)
    calls = {}
    for layer in LAYERS:
        options = dict(gamma=gamma, epsilon=EPSILON, rectifier=Rectifier(layer != "BN", 0.0, 0.0))
        added = dict(residual=residual) if "add" in layer else {}
        forward = library.normalize(x, y, beta=beta, **moments, **added, **options)
        gate = dict(beta=beta) if layer == "BN+ReLU" else {}
        if added:
            gate = dict(y=y, dresidual=dresidual)
        backward = library.normalize_grad(dy, dx, dgamma, dbeta, x=x, **moments, **gate, **options)
        forward()  # Backward has to find moments.
        calls |= {f"ours {layer} forward": forward, f"ours {layer} backward": backward}
    return calls


def batch_norm(x, residual, weight, bias):
    return torch.nn.functional.batch_norm(x, None, None, weight, bias, training=True, eps=EPSILON)


def batch_norm_relu(x, residual, weight, bias):
    return torch.relu(batch_norm(x, residual, weight, bias))


def batch_norm_add_relu(x, residual, weight, bias):
    return torch.relu(batch_norm(x, residual, weight, bias) + residual)


FUNCTIONS = dict(zip(LAYERS, (batch_norm, batch_norm_relu, batch_norm_add_relu), strict=True))


def theirs(name, buffers, wrap):
    """The same layers of PyTorch, each function passed through `wrap`."""
    case = buffers.case
    x = case.image(buffers.x).detach().requires_grad_()
    residual = case.image(torch.randn_like(buffers.x)).requires_grad_()
    dy = case.image(buffers.dy)
    weight, bias = (
        torch.rand(case.shape[1], device=x.device).add_(0.5).requires_grad_() for _ in "ab"
    )
    calls = {}
    for layer, function in FUNCTIONS.items():
        given = (x, residual, weight, bias)
        inputs = given if "add" in layer else (x, weight, bias)
        calls |= both_ways(f"{name} {layer}", wrap(function), given, inputs, dy)
    return calls


def both_ways(name, function, given, inputs, dy):
    kept = []

    def forward():
        return function(*given)

    def backward():
        if not kept:
            kept.append(forward())
        return torch.autograd.grad(kept[0], inputs, dy, retain_graph=True)

    return {f"{name} forward": forward, f"{name} backward": backward}


def summarize(case, seconds):
    """Medians in milliseconds, bandwidths, and times of others over those of ours."""
    bandwidth, ratios = {}, {}
    for layer in LAYERS:
        for direction, transfers in zip(DIRECTIONS, TRANSFERS[layer], strict=True):
            what = f"{layer} {direction}"
            own = seconds[f"ours {what}"]
            bandwidth[what] = transfers * case.size_bytes / own / 1e9
            for other in ("eager", "compiled"):
                if f"{other} {what}" in seconds:
                    ratios[f"{other} {what}"] = seconds[f"{other} {what}"] / own
    return {
        "fused": True,
        "shape": case.shape,
        "layout": case.layout,
        "dtype": str(case.dtype).removeprefix("torch."),
        "megabytes": case.size_bytes / 1e6,
        "milliseconds": {name: 1e3 * value for name, value in seconds.items()},
        "copy": 2 * case.size_bytes / seconds["copy"] / 1e9,
        "bandwidth": bandwidth,
        "ratios": ratios,
    }


LEGEND = """
Whole layers in training: GB/s of ours, and the time of PyTorch's over ours, eager/compiled."""


def titles():
    columns = (f"{layer} {direction[:3]}" for layer in LAYERS for direction in DIRECTIONS)
    return f"{'shape':>22} {'MB':>7} {'copy':>6} " + " ".join(f"{name:>20}" for name in columns)


def row(result):
    cells = []
    for what, bandwidth in result["bandwidth"].items():
        found = (result["ratios"].get(f"{other} {what}") for other in ("eager", "compiled"))
        others = "/".join("-" if ratio is None else f"{ratio:.2f}" for ratio in found)
        cells.append(f"{bandwidth:>8.0f} {others:>11}")
    shape = "x".join(map(str, result["shape"]))
    head = f"{shape:>22} {result['megabytes']:>7.1f} {result['copy']:>6.0f}"
    return f"{head} {' '.join(cells)}"
