"""The compiled operations: what they refuse, where they run, and that threads change no bit."""

import json
import re
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import tensorflow as tf

from keras_norms.ops import library

pytestmark = pytest.mark.each_tensorflow

MOMENTS, SUMS, BLEND = "keras_norms_moments", "keras_norms_sums", "keras_norms_blend"
ROUND, EXTREMES, ADD_AT = "keras_norms_round", "keras_norms_extremes", "keras_norms_add_at"
X = dict(x=(2, 3, 4), axis=2)
UV = dict(u=[(2, 3, 4)], v=[(2, 3, 4)], axis=2)
ROWS = "weights must have the shape of the activation, with 1 on the channel axis. Received: "
VECTOR = "a vector must be [channels], or [segments, channels] with a segment_size. Received: "
RANK = "an activation must have rank 2 or more, and `axis` must lie in it. Received: "
SEGMENTS = "segment_size must not be negative, and 0 where the channels are axis 0. Received: "

# Operation, its arguments (shapes stand for tensors) and the sentence of the error.
WRONG = {
    "rank": (MOMENTS, dict(x=(3,), axis=0), RANK + "axis=0, segment_size=0, x.shape=[3]."),
    "axis": (MOMENTS, dict(x=(3, 4), axis=2), RANK + "axis=2, segment_size=0, x.shape=[3,4]."),
    "segments": (MOMENTS, dict(x=(3, 4), axis=0, segment_size=2), SEGMENTS + "axis=0"),
    "weights_rank": (MOMENTS, dict(X, weights=[(2, 3)]), ROWS + "axis=2, segment_size=0"),
    "weights_size": (
        MOMENTS,
        dict(X, weights=[(2, 2, 1)]),
        "KerasNorms>Moments: "
        + ROWS
        + "axis=2, segment_size=0, x.shape=[2,3,4], weights.shape=[2,2,1].",
    ),
    "weights_per_channel": (MOMENTS, dict(X, weights=[(2, 3, 4)]), ROWS),
    "other_shape": (
        SUMS,
        dict(UV, v=[(2, 4, 4)]),
        "KerasNorms>Sums: activations must have the same shape. Received: axis=2, "
        "segment_size=0, u.shape=[2,3,4], v.shape=[2,4,4].",
    ),
    "other_rank": (SUMS, dict(UV, v=[(6, 4)]), "activations must have the same shape."),
    "center": (
        SUMS,
        dict(UV, center=[(3,)]),
        "KerasNorms>Sums: " + VECTOR + "axis=2, segment_size=0, u.shape=[2,3,4], center.shape=[3].",
    ),
    "scalar": (SUMS, dict(UV, center=[()]), VECTOR),
    "unasked_segments": (SUMS, dict(UV, center=[(2, 4)]), VECTOR),
    "segment_count": (SUMS, dict(UV, center=[(2, 4)], segment_size=2), VECTOR),
    "unweighted": (SUMS, dict(UV, weighted=True), "weighted needs weights."),
    "scale": (SUMS, dict(UV, scale=[(3,)]), "KerasNorms>Sums: " + VECTOR),
    "scale_without_v": (SUMS, dict(UV, v=[], scale=[(4,)]), "scale needs v."),
    "shift_with_u": (SUMS, dict(UV, scale=[(4,)], shift=[(4,)]), "shift needs scale, and no u."),
    "shift_alone": (SUMS, dict(UV, u=[], shift=[(4,)]), "shift needs scale, and no u."),
    "no_sums": (SUMS, dict(center=[(4,)], axis=1), "at least one of u and v must be given."),
    "a": (BLEND, dict(u=[(2, 4)], a=[(2,)], axis=1), "KerasNorms>Blend: " + VECTOR),
    "b": (BLEND, dict(v=[(2, 4)], b=[(5,)], axis=1), VECTOR),
    "c": (BLEND, dict(v=[(2, 4)], b=[(4,)], c=[(1,)], axis=1), VECTOR),
    "nothing": (BLEND, dict(c=[(4,)], axis=1), "at least one of u and v must be given."),
    "two": (
        BLEND,
        dict(v=[(2, 4)], b=[(4,)], c=[(4,), (4,)], axis=1),
        "c must be one tensor or none. Received: num_c=2.",
    ),
    "round_rank": (
        ROUND,
        dict(x=(3,), axis=0),
        "KerasNorms>Round: x must have rank 2 or more, and `axis` must lie in it. Received: "
        "axis=0, x.shape=[3].",
    ),
    "format": (
        ROUND,
        dict(x=(2, 4), axis=1, exponent_bits=9, mantissa_bits=5),
        "a format has 2 to 8 exponent_bits and 1 to 23 mantissa_bits. Received: exponent_bits=9, "
        "mantissa_bits=5.",
    ),
    "block": (
        ROUND,
        dict(x=(2, 4), axis=1, block_size=2, block_mantissa_bits=1),
        "block_size must not be negative, and blocks have 2 to 24 block_mantissa_bits. Received: "
        "block_size=2, block_mantissa_bits=1.",
    ),
    "extremes_rank": (EXTREMES, dict(x=(3,), axis=0), "KerasNorms>Extremes: " + RANK),
    "extremes_weights": (
        EXTREMES,
        dict(X, chunks=3, weights=[(2, 2, 1)]),
        "KerasNorms>Extremes: "
        + ROWS
        + "axis=2, segment_size=0, x.shape=[2,3,4], weights.shape=[2,2,1].",
    ),
    "extremes_segments": (EXTREMES, dict(x=(3, 4), axis=0, segment_size=2), SEGMENTS + "axis=0"),
    "places": (
        ADD_AT,
        dict(x=(5, 4), values=(2, 4), high_at=(2, 4), low_at=(4, 2)),
        "KerasNorms>AddAt: places must have the shape of the values. Received: "
        "places.shape=[4,2], values.shape=[2,4].",
    ),
    "no_seed": (
        ROUND,
        dict(x=(2, 4), axis=1, exponent_bits=5, mantissa_bits=5, rounding="stochastic"),
        "stochastic rounding needs a scalar seed, and only that. Received: seed.shape=none.",
    ),
}
# Already seen when the graph is built, whatever is known of the shapes.
SEEN_WITHOUT_SHAPES = {
    *("segments", "extremes_segments", "unweighted", "nothing", "two"),
    *("scale_without_v", "shift_with_u", "shift_alone", "no_sums"),
    *("format", "block", "no_seed"),
}
LISTS = {
    MOMENTS: ["weights"],
    EXTREMES: ["weights"],
    ADD_AT: [],
    SUMS: ["u", "v", "center", "scale", "shift", "weights"],
    BLEND: ["u", "v", "a", "b", "c", "center", "weights"],
    ROUND: ["seed"],
}
# Of tensors that are not float32.
DTYPES = {"values": tf.float64, "high_at": tf.int64, "low_at": tf.int64}


@pytest.fixture
def ops(native):
    return library.ops()


def traced(ops, operation, arguments, known, **options):
    """A function of the tensors that the arguments stand for, with known shapes or without."""
    arguments = {**{name: [] for name in LISTS[operation]}, **arguments}
    specs, values = {}, {}
    for name, value in arguments.items():
        shapes = value if isinstance(value, list) else [value]
        if isinstance(value, (list, tuple)):
            dtype = DTYPES.get(name, tf.float32)
            specs[name] = [tf.TensorSpec(shape if known else None, dtype) for shape in shapes]
            values[name] = [tf.ones(shape, dtype) for shape in shapes]

    def call(tensors):
        unlisted = {k: t if isinstance(arguments[k], list) else t[0] for k, t in tensors.items()}
        return getattr(ops, operation)(**{**arguments, **unlisted})

    return tf.function(call, input_signature=[specs], **options), values


@pytest.mark.parametrize("case", WRONG)
def test_rejects_wrong_shapes_when_the_graph_is_built(ops, case):
    operation, arguments, sentence = WRONG[case]
    function, _ = traced(ops, operation, arguments, known=True)
    with pytest.raises(ValueError, match=re.escape(sentence)):
        function.get_concrete_function()


@pytest.mark.parametrize("jit_compile", [False, True], ids=["kernel", "xla"])
@pytest.mark.parametrize("case", [case for case in WRONG if case not in SEEN_WITHOUT_SHAPES])
def test_rejects_wrong_shapes_when_it_runs(ops, case, jit_compile):
    operation, arguments, sentence = WRONG[case]
    function, values = traced(ops, operation, arguments, known=False, jit_compile=jit_compile)
    with pytest.raises(tf.errors.InvalidArgumentError, match=re.escape(sentence)):
        function(values)


def test_rejects_no_chunks(ops):
    sentence = "Value for attr 'chunks' of 0 must be at least minimum 1"
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match=sentence):
        ops.keras_norms_extremes(x=tf.ones([2, 3]), weights=[], axis=1, chunks=0)


@pytest.mark.parametrize("dtype, other", [("float32", "float64"), ("float64", "float32")])
def test_rejects_weights_of_another_dtype(ops, dtype, other):
    sentence = "weights must be float, and double for double activations. Received: T="
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match=sentence):
        ops.keras_norms_moments(x=tf.ones([2, 3], dtype), weights=[tf.ones([2, 1], other)], axis=1)


def test_unknown_sizes_pass_and_known_ones_are_inferred(ops):
    def shapes(spec, segment_size):
        @tf.function(input_signature=[tf.TensorSpec(spec)])
        def compute(x):
            options = dict(axis=2, segment_size=segment_size, weights=[])
            y = ops.keras_norms_blend(
                u=[x], v=[], a=[tf.ones([4])], b=[], c=[], center=[], **options
            )
            return *ops.keras_norms_moments(x=x, **options), y

        return [shape.as_list() for shape in compute.get_concrete_function().output_shapes]

    assert shapes([5, 3, 4], 2) == [[3, 1], [3, 4], [3, 4], [5, 3, 4]]
    assert shapes([None, 3, 4], 2) == [[None, 1], [None, 4], [None, 4], [None, 3, 4]]
    assert shapes([None, None, None], 0) == [[1], [None], [None], [None, None, None]]


def test_known_sizes_of_two_activations_are_merged(ops):
    specs = [tf.TensorSpec([None, 3, 4]), tf.TensorSpec([2, None, 4])]

    @tf.function(input_signature=specs)
    def compute(u, v):
        ones = [tf.ones([4])]
        return ops.keras_norms_blend(
            u=[u], v=[v], a=ones, b=ones, c=[], center=[], weights=[], axis=2
        )

    assert compute.get_concrete_function().output_shapes == [2, 3, 4]


def run(program, *arguments):
    """Runs a program in its own process and returns what it prints last, read as JSON."""
    command = [sys.executable, "-c", textwrap.dedent(program), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_results_do_not_depend_on_the_number_of_threads(ops):
    program = """
        import hashlib, json, sys
        import numpy as np, tensorflow as tf
        tf.config.threading.set_intra_op_parallelism_threads(int(sys.argv[1]))
        from keras_norms.ops import native
        from keras_norms.ops.operands import Operands
        rng = np.random.default_rng(3)
        found = hashlib.sha256()
        for shape, axis in [((4099, 65), 1), ((9, 40, 41, 3), 3), ((5, 7, 90, 91), 1)]:
            u, v = (tf.constant(rng.normal(5.0, 1.0, shape), tf.float32) for _ in "uv")
            vector = tf.constant(rng.normal(size=shape[axis]))
            vectors = dict(a=vector, b=vector, c=vector)
            for jit_compile in (False, True):
                @tf.function(jit_compile=jit_compile)
                def compute():
                    count, mean, m2 = native.moments(v, axis=axis)
                    sums = native.sums(Operands(u=u, v=v, center=mean, axis=axis))
                    found = native.extremes(v, axis=axis, chunks=3)
                    return mean, m2, *found, *sums, native.blend(
                        Operands(u=u, v=v, center=mean, axis=axis, **vectors)
                    )
                for result in compute():
                    found.update(result.numpy().tobytes())
        print(json.dumps(found.hexdigest()))
    """
    assert run(program, 1) == run(program, 7)


# Prints the kernels registered after each library.
REGISTERED = """
    import json, sys
    import tensorflow as tf
    from tensorflow.python.framework import kernels
    found = []
    for path in sys.argv[1:]:
        tf.load_op_library(path)
        found.append([])
        for op in ("Moments", "Extremes", "AddAt", "Sums", "Blend", "Round"):
            for kernel in kernels.get_registered_kernels_for_op("KerasNorms>" + op).kernel:
                (dtypes,) = [c.allowed_values.list.type for c in kernel.constraint if c.name == "T"]
                found[-1] += [(op, kernel.device_type, tf.as_dtype(t).name) for t in dtypes]
    print(json.dumps(found))
"""


def expected_kernels(*devices):
    dtypes = ["bfloat16", "float16", "float32", "float64"]
    return sorted(
        [op, d, t]
        for op in ("Moments", "Extremes", "AddAt", "Sums", "Blend", "Round")
        for d in devices
        for t in dtypes
        if (op, t) != ("Round", "float64")
    )


def file(pattern):
    """A file of the library in use, or None."""
    places = [library.places().package(), library.places().cache()]
    return next((path for place in places for path in place.glob(pattern)), None)


def test_registered_kernels(ops):
    """Those of the GPU only where the library is built with CUDA."""
    paths = [file("_native-*.so"), file("_native_cuda-*.so")]
    on_host, *with_cuda = run(REGISTERED, *filter(None, paths))
    assert sorted(on_host) == expected_kernels("CPU", "XLA_CPU_JIT", "XLA_GPU_JIT")
    for found in with_cuda:
        assert sorted(found) == expected_kernels("CPU", "GPU", "XLA_CPU_JIT", "XLA_GPU_JIT")


def test_a_library_loaded_after_the_first_compilation_works_under_xla(ops):
    """XLA freezes its own registry of operations when it first compiles."""
    program = """
        import json
        import numpy as np, tensorflow as tf
        compiled = tf.function(lambda x: x * 2.0 + 1.0, jit_compile=True)
        assert compiled(tf.ones([3]))[0] == 3.0
        import keras_norms
        from keras_norms.ops import library
        assert not library._loaded
        keras_norms.set_implementation("native")
        model = tf.keras.Sequential([
            tf.keras.layers.Dense(8),
            keras_norms.BatchNormalization(),
            tf.keras.layers.Dense(1),
        ])
        model.compile("sgd", "mse", jit_compile=True)
        x = np.random.default_rng(0).normal(5.0, 3.0, (256, 4)).astype("float32")
        history = model.fit(x, x[:, :1], batch_size=32, epochs=3, verbose=0).history["loss"]
        assert library._loaded
        print(json.dumps(history))
    """
    losses = run(program)
    assert np.isfinite(losses).all() and losses[-1] < 0.5 * losses[0]
