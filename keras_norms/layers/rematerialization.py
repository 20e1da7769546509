"""Training calls inside a block that is run again in the backward pass.

`tf.recompute_grad`, and `keras.remat` and `keras.RematScope` that are made of it, save memory: a
block first runs unrecorded, and the backward pass runs it again, recorded, for the gradient. So a
layer in it is called twice in one step. Both calls would update its state, the second would
compute with a state that has moved, and a loss that the first one adds would have no gradient.

Therefore a layer reads and writes its state through `once`. The first run keeps what that returned;
a repeated run gets it back and touches no state. A loss of the first run is formed again where
it is read: there, outside the block, TensorFlow records.

TensorFlow has no public flag for the run that a layer is in. What does is the call stack: both runs
are functions inside `tf.recompute_grad`, and have the tuple `args` in common. All that is assumed
of TensorFlow is in `_functions_of_tensorflow`, `TRACER` and `_SCRATCH`. Where it does not hold, a
layer in such a block raises.
"""

import collections
import functools
import sys

import tensorflow as tf

from keras_norms.keras_api import read_loss
from keras_norms.layers.losses import TRACER, add_loss
from keras_norms.ops.exporting import is_exporting

# Part of the name of a graph in which Keras finds out a shape, and which never runs.
_SCRATCH = "scratch_graph"
# What frames and tensors keep our objects under.
_KEY = "_keras_norms_rematerialization"
# How many blocks that are called eagerly on one tensor may wait for their second run. It cannot be
# seen that one waits no more, and a tensor that lives long is to keep no trace of every step.
_WAITING = 100


class Run:
    """A training call of a layer that is in no such block."""

    def __init__(self, layer, owner):
        self.layer, self.owner = layer, owner

    def once(self, function, *arguments):
        """What `function` returns, which reads or writes state. No repeated run calls it."""
        return function(*arguments)

    def add_loss(self, loss, anew=None):
        """Adds a loss to the layer.

        `anew()` forms it from weights, if its gradient goes to weights of the layer only. Without
        that the gradient goes back through the block, which runs once more for it.
        """
        del anew
        add_loss(self.layer, loss, self.owner)


class _RunInBlock(Run):
    """A first run of blocks in each other, a repeated run, or the one inside the other.

    Args:
        frames: of the first runs, the innermost first.
        repetition: None, or the repeated run that all this happens in.
    """

    def __init__(self, layer, owner, frames, repetition):
        super().__init__(layer, owner)
        self.frames, self.repetition = frames, repetition
        self.blocks = [_block_of(frame, owner) for frame in frames]

    def once(self, function, *arguments):
        if self.repetition is None:
            result = function(*arguments)
        else:
            result = self.repetition.next_result(self.layer, self.owner)
        for block in self.blocks:
            block.results[id(self.layer)].append(result)
        return result

    def add_loss(self, loss, anew=None):
        if not self.blocks:
            add_loss(self.layer, loss, self.owner)
        else:
            read = self._through_block() if anew is None else lambda _: anew()
            loss = add_loss(self.layer, loss, self.owner, read)
            if loss is None:
                rule = "cannot have losses that are returned, as by `stateless_call`"
                raise _error(self.owner, rule, "a loss")
        if anew is None:
            for block in self.blocks:
                block.losses += 1
            if self.repetition is not None:
                self.repetition.losses.append(loss)

    def _through_block(self):
        """How to read the next loss, which has a gradient to the inputs of the outermost block.

        What is read is a block of its own, which TensorFlow recomputes by running ours.
        """
        frame, block, owner = self.frames[-1], self.blocks[-1], self.owner
        index, names = block.losses, frame.f_locals
        function, args, kwargs = names["f"], names["args"], names["kwargs"]
        watcher = frame.f_back.f_locals.get("variable_watcher")
        if watcher is None:
            raise _unknown_tensorflow(owner)
        variables = watcher.watched_variables()

        def read(loss):
            if _is_inside(block):
                return loss
            unread = [loss]

            def loss_of_block(*args):
                frame, _ = next(_frames_of_blocks(sys._getframe()))
                if unread:
                    _begin(block, frame, owner)
                    for variable in variables:  # TensorFlow takes note of their use.
                        tf.convert_to_tensor(variable)
                    return tf.identity(unread.pop())
                # Outputs are held meanwhile: a tape forgets what made those that are gone.
                _, loss = (
                    function(*args, **kwargs),
                    read_loss(_repetition_of(frame, owner).losses[index]),
                )
                return loss

            return tf.recompute_grad(loss_of_block)(*args)

        return read


class _Block:
    """What the first run of a block leaves to those that repeat it.

    Attributes:
        results: of `once`, by the `id` of the layer, in order.
        losses: how many were added whose gradient goes back through the block.
    """

    def __init__(self):
        self.results = collections.defaultdict(list)
        self.losses = 0


class _Repetition:
    """How far a repeated run of a block has come, and its losses."""

    def __init__(self, block):
        self.block, self.losses = block, []
        self._results = {key: iter(results) for key, results in block.results.items()}

    def next_result(self, layer, owner):
        try:
            return next(self._results[id(layer)])
        except (KeyError, StopIteration):
            rule = "must make the same training calls in both runs"
            raise _error(owner, rule, "one more in the second run") from None


@tf.autograph.experimental.do_not_convert
def run_of(layer, owner):
    """The `Run` that the calling training call of a layer is in. `owner` names it in errors."""
    first, _ = _functions_of_tensorflow()
    if first is None and _is_unrecorded():
        raise _unknown_tensorflow(owner)
    frames, repetition = [], None
    for frame, traced in _frames_of_blocks(sys._getframe(1)):
        if _is_scratch() or is_exporting():  # Nothing trains here.
            return Run(layer, owner)
        if traced:
            rule = (
                "must call it directly, not in a `tf.function`, `tf.cond` or loop inside the "
                "block; decorate the whole step instead"
            )
            raise _error(owner, rule, "a call from a function inside the block")
        if frame.f_code is not first:
            repetition = _repetition_of(frame, owner)
            break
        frames.append(frame)
    if not frames and repetition is None:
        return Run(layer, owner)
    return _RunInBlock(layer, owner, frames, repetition)


@functools.cache
def _functions_of_tensorflow():
    """The code of the first and of the repeated run of a block; None where it is not as known."""
    first = _inside(tf.recompute_grad, "inner")
    repeated = _inside(_inside(first, "grad_wrapper"), "inner_recompute_grad")
    if repeated is not None and {"f", "args", "kwargs"} <= set(repeated.co_freevars):
        return first, repeated
    return None, None


def _inside(function, name):
    """The code of a function that is defined inside another one, or None."""
    code = getattr(function, "__code__", function)
    for constant in getattr(code, "co_consts", ()):
        if getattr(constant, "co_name", None) == name:
            return constant
    return None


def _frames_of_blocks(frame):
    """The runs of blocks on the stack, and for each whether a function is traced inside it."""
    first, repeated = _functions_of_tensorflow()
    traced = False
    while frame is not None:
        code = frame.f_code
        if code is first or code is repeated:
            yield frame, traced
        elif code.co_name == TRACER:
            traced = True
        frame = frame.f_back


def _is_inside(block):
    """Whether a run of the block is on the stack."""
    for frame, _ in _frames_of_blocks(sys._getframe(1)):
        found = frame.f_locals.get(_KEY)
        if found is block or getattr(found, "block", None) is block:
            return True
    return False


def _block_of(frame, owner):
    """What a first run leaves. It lives as long as the inputs, since the run may be repeated."""
    if _KEY not in frame.f_locals:
        _begin(_Block(), frame, owner)
    return frame.f_locals[_KEY]


def _begin(block, frame, owner):
    args = frame.f_locals["args"]
    blocks = _blocks_of(args, owner)
    blocks.pop(id(args), None)  # Of a tuple that is no more.
    if tf.executing_eagerly() and len(blocks) == _WAITING:
        del blocks[next(iter(blocks))]
    frame.f_locals[_KEY] = blocks[id(args)] = block


def _repetition_of(frame, owner):
    if _KEY not in frame.f_locals:
        args = frame.f_locals["args"]
        block = _blocks_of(args, owner).get(id(args))
        frame.f_locals[_KEY] = _Repetition(block or _Block())
    return frame.f_locals[_KEY]


def _blocks_of(args, owner):
    """What first runs that took these arguments have left, by the `id` of the tuple."""
    for tensor in filter(tf.is_tensor, tf.nest.flatten(args)):
        if not hasattr(tensor, _KEY):
            setattr(tensor, _KEY, {})
        return getattr(tensor, _KEY)
    raise _error(owner, "must have a tensor among its positional arguments", "none")


def _is_scratch():
    return not tf.executing_eagerly() and _SCRATCH in getattr(
        tf.compat.v1.get_default_graph(), "name", ""
    )


def _is_unrecorded():
    """Whether TensorFlow records nothing, as in the first run of a block."""
    with tf.Graph().as_default(), tf.GradientTape() as tape:
        x = tf.constant(0.0)
        tape.watch(x)
        return tape.gradient(tf.identity(x), x) is None


def _unknown_tensorflow(owner):
    rule = "cannot have layers that train with moving statistics or losses in this TensorFlow"
    return _error(owner, rule, f"version {tf.__version__}")


def _error(owner, rule, received):
    return RuntimeError(
        f"{owner}: a block that the backward pass recomputes (`tf.recompute_grad`, `keras.remat`, "
        f"`keras.RematScope`) {rule}. Received: {received}."
    )
