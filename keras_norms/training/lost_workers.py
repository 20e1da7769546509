"""Which worker is gone, when a collective has failed."""

import contextlib
import re
import socket

import tensorflow as tf

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
def naming_lost_workers(owner, strategy, advice):
    """Turns a failed collective into a `WorkerLostError` that names the worker and its address."""
    try:
        yield
    except _KINDS as error:
        addresses = addresses_of(strategy)
        if len(addresses) < 2 or not _OF_A_PEER.search(str(error)):
            raise
        # Where one hangs, all can be reached. Else TensorFlow may name a neighbour in the ring.
        lost = sorted(_unreachable(addresses, worker_of(strategy)) or _named(error, strategy))
        named = ", ".join(f"worker {i} ({addresses[i]})" for i in lost)
        found = "all can be reached, so one waits elsewhere or makes another number of steps"
        if lost:
            found = f"{named} ended or cannot be reached"
        said = printable(_summary(error))
        raise WorkerLostError(
            f"{owner}: a step needs all {len(addresses)} workers, and {found}. {advice} "
            f"TensorFlow: {said}"
        ) from error


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
