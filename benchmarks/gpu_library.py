"""The CUDA kernels as a plain shared library, and their faces for PyTorch tensors.

An activation is a contiguous tensor (rows, channels, inner), as in custom_ops/kernels; vectors are
float64 tensors. A face binds a call to its tensors once, so that timing it times the kernel.
"""

import concurrent.futures
import ctypes
import pathlib
import shutil
import subprocess

import torch

ROOT = pathlib.Path(__file__).resolve().parents[1]
KERNELS = ROOT / "custom_ops" / "kernels"
SOURCES = (*sorted(KERNELS.glob("cuda/*.cu")), ROOT / "benchmarks" / "gpu_bindings.cc")
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)  # In the order of DataType.
NVCC = ("nvcc", "-O3", "-std=c++17", "-Xcompiler=-fPIC", f"-I{KERNELS}")
CODE = (
    "-gencode=arch=compute_80,code=sm_80",
    "-gencode=arch=compute_90,code=sm_90",
    "-gencode=arch=compute_90,code=compute_90",
)
# The emulation that the tests use executes the same kernels on the host.
EMULATION = ("g++", "-O2", "-std=c++17", "-fPIC", "-pthread", "-DKERAS_NORMS_EMULATE_CUDA")


def build(folder, sources=SOURCES, emulate=False, flags=()):
    """Compiles and links into `folder`; returns the path of the library."""
    command = (*NVCC, *CODE)
    if emulate:
        command = (*EMULATION, f"-I{KERNELS}", f"-I{ROOT / 'tests' / 'native'}", "-x", "c++")
    if shutil.which(command[0]) is None:
        raise SystemExit(f"{command[0]} was not found. It is needed to build the kernels.")

    def compiled(source):
        output = pathlib.Path(folder, source.stem + ".o")
        subprocess.run([*command, *flags, "-c", source, "-o", output], check=True)
        return output

    with concurrent.futures.ThreadPoolExecutor() as pool:
        objects = list(pool.map(compiled, sources))
    library = pathlib.Path(folder, "kernels.so")
    subprocess.run([command[0], "-shared", *objects, "-o", library], check=True)
    return library


class Layout(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_int64)
        for name in ("rows", "channels", "inner", "segments", "segment_rows", "row_channels")
    ]


class Vector(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("is_double", ctypes.c_bool),
        ("per_segment", ctypes.c_bool),
    ]


def vector(tensor):
    """A vector per channel, or per segment and channel."""
    return Vector(tensor.data_ptr(), tensor.dtype == torch.float64, tensor.dim() == 2)


class Rectifier(ctypes.Structure):
    _fields_ = [
        ("is_given", ctypes.c_bool),
        ("negative_slope", ctypes.c_float),
        ("cap", ctypes.c_float),
    ]


class Gate(ctypes.Structure):
    _fields_ = [
        ("rectifier", Rectifier),
        ("y", ctypes.c_void_p),
        ("scale", Vector),
        ("shift", Vector),
    ]


class MovingAverage(ctypes.Structure):
    _fields_ = [
        ("mean", Vector),
        ("variance", Vector),
        *((name, ctypes.c_void_p) for name in ("share", "new_mean", "new_variance")),
    ]


VECTORS = "center a b c scale shift gamma beta of_mean of_variance".split()
KINDS = dict.fromkeys(VECTORS, Vector) | {
    "weighted": ctypes.c_bool,
    "backwards": ctypes.c_bool,
    "vectors_are_double": ctypes.c_bool,
    "epsilon": ctypes.c_double,
    "members": ctypes.c_int64,
    "rectifier": Rectifier,
    "gate": Gate,
    "moving": MovingAverage,
}


def _structure(name, fields, **kinds):
    kinds = KINDS | kinds
    members = [(field, kinds.get(field, ctypes.c_void_p)) for field in fields.split()]
    header = [("dtype", ctypes.c_int), ("layout", Layout)]
    return type(name, (ctypes.Structure,), {"_fields_": header + members})


ARGUMENTS = {
    "Moments": _structure("Moments", "x weights count mean m2"),
    "Sums": _structure("Sums", "u v center scale shift weights weighted gate sum_u sum_uv y"),
    "Blend": _structure("Blend", "u v a b c center weights weighted rectifier gate y backwards"),
    "Normalize": _structure(
        "Normalize",
        "x residual gamma beta parts members epsilon rectifier moving y count mean variance",
    ),
    "NormalizeGrad": _structure(
        "NormalizeGrad",
        "dy x y own_sums sums gamma beta epsilon rectifier count mean variance of_mean of_variance "
        "dx dresidual dgamma dbeta vectors_are_double",
        mean=Vector,
        variance=Vector,
    ),
}


class Library:
    """The kernels. Each method returns a function without arguments that queues the call."""

    def __init__(self, path):
        self._library = ctypes.CDLL(str(path))
        for name, arguments in ARGUMENTS.items():
            size = getattr(self._library, f"{name}Size")
            size.restype = ctypes.c_int64
            if size() != ctypes.sizeof(arguments):
                raise SystemExit(f"{name}Arguments is not what gpu_library.py takes it for.")
            getattr(self._library, f"{name}Scratch").restype = ctypes.c_int64
            getattr(self._library, name).restype = ctypes.c_char_p

    def moments(self, x, count, mean, m2, *, weights=None, segment_rows=None):
        return self._bind("Moments", x, segment_rows, x=x, weights=weights, count=count, mean=mean,
                          m2=m2)  # fmt: skip

    def sums(self, v, sum_u, sum_uv, *, segment_rows=None, **operands):
        return self._bind("Sums", v, segment_rows, v=v, sum_u=sum_u, sum_uv=sum_uv, **operands)

    def blend(self, y, *, segment_rows=None, **operands):
        return self._bind("Blend", y, segment_rows, y=y, **operands)

    def normalize(self, x, y, count, mean, variance, *, segment_rows=None, **operands):
        outputs = dict(y=y, count=count, mean=mean, variance=variance)
        return self._bind("Normalize", x, segment_rows, x=x, **outputs, **operands)

    def normalize_grad(self, dy, dx, dgamma, dbeta, *, segment_rows=None, **operands):
        outputs = dict(dx=dx, dgamma=dgamma, dbeta=dbeta)
        outputs["vectors_are_double"] = dgamma.dtype == torch.float64
        return self._bind("NormalizeGrad", dy, segment_rows, dy=dy, **outputs, **operands)

    def _bind(self, name, like, segment_rows, **operands):
        rows, channels, inner = like.shape
        segment_rows = rows if segment_rows is None else segment_rows
        segments = 1 if segment_rows == rows else -(-rows // segment_rows)
        arguments = ARGUMENTS[name]()
        arguments.dtype = DTYPES.index(like.dtype)
        arguments.layout = Layout(rows, channels, inner, segments, segment_rows, 0)
        memory = [value for value in operands.values() if isinstance(value, torch.Tensor)]
        for field, kind in arguments._fields_[2:]:
            value = operands.pop(field, None)
            if kind is ctypes.c_bool:
                setattr(arguments, field, bool(value))
            elif isinstance(value, torch.Tensor):
                assert value.is_contiguous(), field
                setattr(arguments, field, vector(value) if kind is Vector else value.data_ptr())
            elif value is not None:  # A number, or a structure.
                setattr(arguments, field, value)
        assert not operands, operands
        return self._queue(name, arguments, memory, like.device)

    def _queue(self, name, arguments, memory, device):
        kernel = getattr(self._library, name)
        size = getattr(self._library, f"{name}Scratch")(ctypes.byref(arguments))
        scratch = torch.full((max(size, 8) // 8,), torch.nan, dtype=torch.float64, device=device)
        pointer, structure = ctypes.c_void_p(scratch.data_ptr()), ctypes.byref(arguments)

        memory.append(scratch)

        def call():
            assert memory  # The call needs it for as long as the function lives.
            stream = 0
            if device.type == "cuda":
                stream = torch.cuda.current_stream(device).cuda_stream
            error = kernel(structure, pointer, ctypes.c_void_p(stream))
            if error is not None:
                raise RuntimeError(f"{name}: {error.decode()}")

        return call
