"""Which worker is gone, when a collective has failed."""

import contextlib
import os
import re
import socket
import sys
import threading

import tensorflow as tf

from keras_norms.arguments import is_number, require
from keras_norms.printable import printable
from keras_norms.training.cluster import addresses_of, worker_of
from keras_norms.training.rendezvous import host_and_port

# What TensorFlow raises, by the way in which it notices.
_KINDS = (
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.FailedPreconditionError,
    tf.errors.InternalError,
    tf.errors.UnavailableError,
)
_OF_A_PEER = re.compile(r"[Cc]ollective|[Cc]oordination|/job:|heartbeat")
_CAUSE = re.compile(r"aborted by|timed out|heartbeat|[Mm]ismatch|unreachable")
_TASK = re.compile(r"/job:(chief|worker)/replica:\d+/task:(\d+)")


class WorkerLostError(RuntimeError):
    """Another worker has ended, cannot be reached, or has made another number of steps."""


@contextlib.contextmanager
def waiting_for_workers(strategy, timeout=600.0, *, owner="waiting_for_workers", advice=""):
    """Limits the wait for other workers in a step, and names the one that is missing.

    Collectives wait for all workers without a limit. TensorFlow ends them when a worker has died or
    does not answer, but not where one is alive and makes no such step. In this context a wait that
    is too long ends, too. Either error becomes one that names a worker that ended or cannot be
    reached, with its address; of those that are alive it cannot say which one is late.

    Use it around the steps of a custom loop; `DistributedTrainer` does. After the error a
    process can make no further step: start all of them again. On one machine it does nothing.

    Args:
        strategy: a `MultiWorkerMirroredStrategy`, or another one.
        timeout: seconds. They have to cover what another worker does alone meanwhile, such as the
            tracing of a large model. Defaults to `600`.
        owner: who is named in the error.
        advice: a sentence for it.

    Raises:
        ValueError: if `timeout` is not a number above 0.
        WorkerLostError: a RuntimeError, as described.

    Example:

    >>> strategy = tf.distribute.get_strategy()
    >>> with keras_norms.training.waiting_for_workers(strategy, timeout=60):
    ...     result = strategy.run(lambda: tf.constant(1.0))
    """
    holds = is_number(timeout, 0) and timeout > 0
    require(holds, owner, "`timeout` must be a number of seconds above 0", timeout=timeout)
    addresses = addresses_of(strategy)
    if len(addresses) < 2:
        yield
        return
    timer = threading.Timer(timeout, _abort_collectives, [timeout])
    timer.daemon = True
    timer.start()
    try:
        yield
    except _KINDS as error:
        if not _OF_A_PEER.search(str(error)):
            raise
        # Where one hangs, all can be reached. Else TensorFlow may name a neighbour in the ring.
        lost = sorted(_unreachable(addresses, worker_of(strategy)) or _named(error, strategy))
        named = ", ".join(f"worker {i} ({addresses[i]})" for i in lost)
        found = "all can be reached, so one waits elsewhere or makes another number of steps"
        if lost:
            found = f"{named} ended or cannot be reached"
        said = printable(_summary(error))
        raise WorkerLostError(
            f"{owner}: a step needs all {len(addresses)} workers, and {found}. "
            f"{advice}{' ' if advice else ''}TensorFlow: {said}"
        ) from error
    finally:
        timer.cancel()


def _abort_collectives(seconds):
    """Ends the collectives that this process waits in, which TensorFlow has no public way for.

    `CommunicationOptions(timeout_seconds=...)` is none: for each collective it starts a thread that
    sleeps for so long, tens of thousands of them before the first one ends.
    """
    message = f"Collective has timed out: no worker came within {seconds:g} seconds."
    try:
        context = sys.modules["tensorflow.python.eager.context"].context()
        context.abort_collective_ops(tf.errors.DEADLINE_EXCEEDED, message)
    except (KeyError, AttributeError):  # A TensorFlow that has it elsewhere.
        print(message, file=sys.stderr, flush=True)
        os._exit(1)


def _summary(error):
    """The line of TensorFlow's message that says what happened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    for pattern in (_CAUSE, _OF_A_PEER):
        for line in filter(pattern.search, lines):
            return line[:300]
    return lines[0][:300] if lines else ""


def _named(error, strategy):
    """The workers that TensorFlow names, this one apart."""
    resolver = strategy.cluster_resolver
    chiefs = len(resolver.cluster_spec().as_dict().get("chief", []))
    found = {
        int(task) + (chiefs if job == "worker" else 0) for job, task in _TASK.findall(str(error))
    }
    return {i for i in found if i != worker_of(strategy) and i < len(addresses_of(strategy))}


def _unreachable(addresses, own):
    """The workers at whose address nothing listens."""
    found = set()
    for index, address in enumerate(addresses):
        if index != own:
            try:
                socket.create_connection(host_and_port(address), timeout=2.0).close()
            except OSError:
                found.add(index)
    return found
