"""The CUDA kernels on a GPU: checks against float64, then times against PyTorch and cuDNN.

    python benchmarks/gpu.py [--smoke] [--json FILE]

Needs an NVIDIA GPU, nvcc and PyTorch with CUDA; no TensorFlow. The kernels are built as a plain
shared library. With JAX installed, its FFI handlers are timed against `jax.jit`, too (gpu_jax.py).
`--emulate` goes through all of this script on the host, to test it; its times mean nothing.
"""

import argparse
import importlib.util
import itertools
import json
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import tempfile

import gpu_fused
import gpu_normalize_checks
import torch
from gpu_checks import SHAPES, SMALL_SHAPES, Failure, check, check_all
from gpu_contenders import Case, contenders
from gpu_library import DTYPES, Library, build
from gpu_normalize_checks import check_normalize
from gpu_timing import CudaClock, HostClock, interleaved

RESNET50 = [  # Batch, channels, height, width.
    (64, 64, 112, 112),
    (64, 64, 56, 56),
    (64, 256, 56, 56),
    (64, 128, 56, 56),
    (64, 128, 28, 28),
    (64, 512, 28, 28),
    (64, 256, 28, 28),
    (64, 256, 14, 14),
    (64, 1024, 14, 14),
    (64, 512, 14, 14),
    (64, 512, 7, 7),
    (64, 2048, 7, 7),
]
DETECTION = [(2, 64, 400, 672), (2, 256, 200, 336), (2, 256, 100, 168), (2, 2048, 25, 42)]
FEW_CHANNELS = [(32, 3, 224, 224)]
COMPILED = RESNET50[1::4]  # To compile a layer takes seconds.
TIMED = (torch.float32, torch.float16, torch.bfloat16)
KERNELS = ("moments", "blend forward", "sums", "blend backward")
TRANSFERS = dict(zip(KERNELS, (1, 2, 2, 3), strict=True))
# Of a layer whose statistics are parameters: sums with y, forward and backward.
TRANSFERS |= {"one pass forward": 2, "one pass backward": 3}


def large_shape(dtype):
    """At least 1 GB."""
    return (1024 // dtype.itemsize, 256, 64, 64)


def main():
    options = parse()
    device = torch.device("cpu" if options.emulate else "cuda")
    if device.type == "cuda" and shutil.which("nvcc") is None:
        sys.exit("nvcc was not found. It is needed to build the kernels.")
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("PyTorch sees no CUDA device. Received: torch.cuda.is_available() is False.")
    seed = torch.seed() % 2**31 if options.seed is None else options.seed
    torch.manual_seed(seed)
    print(header(device), f"seed {seed}", sep="\n", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        print("building the kernels (a minute)", flush=True)
        library = Library(build(folder, emulate=options.emulate))
        try:
            run_checks(library, device, options)
        except Failure as failure:
            sys.exit(f"FAILED: {failure}")
        results = [] if options.check_only else run_times(library, device, options)
        results += [] if options.check_only else run_layers(library, device, options)
    if results and not options.emulate and importlib.util.find_spec("jax") is not None:
        results += run_jax(options)
    if options.json:
        options.json.write_text(
            json.dumps({"header": header(device), "results": results}, indent=1)
        )


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="few shapes and rounds")
    parser.add_argument("--check-only", action="store_true", help="no times")
    parser.add_argument("--rounds", type=int, default=15, help="timed rounds of each case")
    parser.add_argument("--seed", type=int, help="of the inputs; fresh ones by default")
    parser.add_argument("--json", type=pathlib.Path, help="also write the numbers there")
    parser.add_argument("--emulate", action="store_true", help="on the host; implies --smoke")
    options = parser.parse_args()
    options.smoke |= options.emulate
    return options


def header(device):
    """Where the numbers come from."""
    parts = [f"Python {platform.python_version()}", f"PyTorch {torch.__version__}"]
    if device.type != "cuda":
        return " · ".join(["emulated on the host: times mean nothing", *parts])
    properties = torch.cuda.get_device_properties(device)
    nvcc = subprocess.run(["nvcc", "--version"], capture_output=True, text=True).stdout.split()
    release = nvcc[nvcc.index("release") + 1].rstrip(",")
    return " · ".join(
        [
            properties.name,
            f"{properties.total_memory / 2**30:.0f} GiB, L2 {l2_bytes(device) / 2**20:.0f} MiB",
            f"nvcc {release}",
            f"CUDA {torch.version.cuda} and cuDNN {torch.backends.cudnn.version()} of PyTorch",
            *parts,
        ]
    )


def l2_bytes(device):
    if device.type != "cuda":
        return 0
    return getattr(torch.cuda.get_device_properties(device), "L2_cache_size", 64 << 20)


def run_checks(library, device, options):
    """The grid of small shapes, and, where memory allows, more than 2^31 values."""
    shapes = SMALL_SHAPES if options.emulate else SHAPES
    check_all(library, shapes, DTYPES, device, lambda what: None)
    print(f"{len(shapes) * len(DTYPES) * 4} combinations of shape, dtype, weights and segments: ok")
    shapes = gpu_normalize_checks.SMALL_SHAPES if options.emulate else gpu_normalize_checks.SHAPES
    check_normalize(library, shapes, DTYPES, device)
    forms = len(shapes) * len(DTYPES) * len(gpu_normalize_checks.FORMS)
    print(f"{forms} combinations of shape, dtype, rectifier, residual and segments: ok", flush=True)
    if options.smoke or torch.cuda.mem_get_info(device)[0] < 30 << 30:
        print("more than 2^31 values: not checked")
        return
    for shape in (((1 << 31) // 64 + 100, 64, 1), (96, 11, (1 << 21) + 8)):
        check(library, shape, torch.float16, device)
        print(f"float16 {shape}, {shape[0] * shape[1] * shape[2]} values: ok", flush=True)
        torch.cuda.empty_cache()


def run_layers(library, device, options):
    """Times whole layers likewise."""
    shapes = [(2, 8, 6, 6)] if options.emulate else COMPILED if options.smoke else RESNET50
    clock = HostClock() if options.emulate else CudaClock(device)
    results = []
    print(gpu_fused.LEGEND)
    for dtype, layout in itertools.product(TIMED, ("NHWC", "NCHW")):
        print(f"\n{str(dtype).removeprefix('torch.')} {layout}\n{gpu_fused.titles()}", flush=True)
        for shape in shapes:
            case = Case(shape, layout, dtype)
            compiles = not options.smoke and shape in COMPILED
            calls = gpu_fused.contenders(library, case, device, l2_bytes(device), compiles)
            rounds = 3 if options.smoke else options.rounds
            result = gpu_fused.summarize(case, interleaved(calls, clock, rounds))
            print(gpu_fused.row(result), flush=True)
            results.append(result)
            del calls
            if device.type == "cuda":
                torch.cuda.empty_cache()
    return results


def run_times(library, device, options):
    """Times every case and prints a line for each; returns them as dictionaries."""
    shapes = [*RESNET50, *DETECTION, *FEW_CHANNELS]
    if options.smoke:
        shapes = [(2, 8, 6, 6)] if options.emulate else RESNET50[1::4]
    clock = HostClock() if options.emulate else CudaClock(device)
    rounds = 3 if options.smoke else options.rounds
    results = []
    print(LEGEND)
    for dtype, layout in itertools.product(TIMED, ("NHWC", "NCHW")):
        print(f"\n{str(dtype).removeprefix('torch.')} {layout}\n{titles()}", flush=True)
        for shape in [*shapes, *([] if options.smoke else [large_shape(dtype)])]:
            case = Case(shape, layout, dtype)
            needed = 6 * case.size_bytes
            if device.type == "cuda" and needed > torch.cuda.mem_get_info(device)[0]:
                print(f"{case}: left out, it needs {needed / 2**30:.0f} GiB", flush=True)
                continue
            calls = contenders(library, case, device, l2_bytes(device))
            result = summarize(case, interleaved(calls, clock, rounds))
            print(row(result), flush=True)
            results.append(result)
            del calls
            if device.type == "cuda":
                torch.cuda.empty_cache()
    return results


LEGEND = """
Each kernel: GB/s, and its share of the bandwidth of a device-to-device copy of the same size.
Ratios: time of theirs over time of ours, above 1 is faster. torch: the four kernels of PyTorch's
SyncBatchNorm, each against ours, and all four. cuDNN: torch.nn.functional.batch_norm, forward
against moments + blend, backward against sums + blend; it includes the arithmetic on vectors, and
PyTorch may choose a kernel of its own for it."""


def titles():
    columns = " ".join(f"{name:>18}" for name in TRANSFERS)
    return (
        f"{'shape':>22} {'MB':>7} {'copy':>6} {columns}   "
        f"{'torch / ours, and all':>32} {'cuDNN fwd':>9} {'bwd':>6}"
    )


def summarize(case, seconds):
    """Medians in milliseconds, bandwidths and ratios."""
    copy = 2 * case.size_bytes / seconds["copy"] / 1e9
    bandwidth = {k: n * case.size_bytes / seconds[k] / 1e9 for k, n in TRANSFERS.items()}
    result = {
        "shape": case.shape,
        "layout": case.layout,
        "dtype": str(case.dtype).removeprefix("torch."),
        "megabytes": case.size_bytes / 1e6,
        "milliseconds": {name: 1e3 * value for name, value in seconds.items()},
        "copy": copy,
        "bandwidth": bandwidth,
        "share_of_copy": {name: value / copy for name, value in bandwidth.items()},
        "ratios": {},
    }
    if "torch sums" in seconds:
        torch_seconds = [seconds[f"torch {name}"] for name in KERNELS]
        ratios = {k: t / seconds[k] for k, t in zip(KERNELS, torch_seconds, strict=True)}
        ratios["all"] = sum(torch_seconds) / sum(seconds[name] for name in KERNELS)
        forward = seconds["moments"] + seconds["blend forward"]
        backward = seconds["sums"] + seconds["blend backward"]
        ratios["cudnn forward"] = seconds["cudnn forward"] / forward
        ratios["cudnn backward"] = seconds["cudnn backward"] / backward
        result["ratios"] = ratios
    return result


def row(result):
    cells = [
        f"{result['bandwidth'][name]:>11.0f} ({result['share_of_copy'][name]:>4.0%})"
        for name in TRANSFERS
    ]
    shape = "x".join(map(str, result["shape"]))
    line = f"{shape:>22} {result['megabytes']:>7.1f} {result['copy']:>6.0f} {' '.join(cells)}   "
    ratios = result["ratios"]
    if not ratios:
        return line
    against = " ".join(f"{ratios[name]:>6.2f}" for name in (*KERNELS, "all"))
    return f"{line}{against} {ratios['cudnn forward']:>9.2f} {ratios['cudnn backward']:>6.2f}"


def run_jax(options):
    """In a process of its own: JAX and PyTorch would share the memory of the GPU badly."""
    script = pathlib.Path(__file__).with_name("gpu_jax.py")
    with tempfile.TemporaryDirectory() as folder:
        output = pathlib.Path(folder, "jax.json")
        smoke = ["--smoke"] if options.smoke else []
        command = [sys.executable, str(script), *smoke, "--json", str(output)]
        torch.cuda.empty_cache()
        # Memory as it is needed: this process holds some, too.
        environment = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        if subprocess.run(command, env=environment, check=False).returncode != 0:
            print("gpu_jax.py failed; its lines are missing.")
            return []
        return json.loads(output.read_text())


if __name__ == "__main__":
    main()
