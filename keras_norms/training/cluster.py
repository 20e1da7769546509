"""The strategy of several machines, with waits that end and errors that name the machine."""

import json
import os
import platform
import zlib

import tensorflow as tf

from keras_norms.arguments import is_int, is_number, require
from keras_norms.keras_api import IS_KERAS_3
from keras_norms.printable import printable
from keras_norms.training.rendezvous import NotTogetherError, host_and_port, meet
from keras_norms.version import __version__

_OWNER = "multi_worker_strategy"
_EXAMPLE = (
    '\'{"cluster": {"worker": ["host0:port", "host1:port"]}, '
    '"task": {"type": "worker", "index": 0}}\''
)


def multi_worker_strategy(start_timeout=300, *, communication="auto"):
    """A `tf.distribute.MultiWorkerMirroredStrategy` of the cluster in `TF_CONFIG`.

    Every machine runs the same program, with an environment variable `TF_CONFIG` that lists all of
    them and says which one it is:

        {"cluster": {"worker": ["10.0.0.1:2222", "10.0.0.2:2222"]},
         "task": {"type": "worker", "index": 0}}

    All workers first meet at the address of the first one. So a worker that does not come up, or
    has other versions or another list, ends all of them with its address, where TensorFlow alone
    would wait. Afterwards TensorFlow notices a worker that ends or does not answer within some ten
    seconds; `DistributedTrainer` says which one, and limits all other waits.

    Use it for `DistributedTrainer`, for custom loops and, with Keras 2, for `model.fit`. It is to
    be called once, before anything else uses TensorFlow.

    Args:
        start_timeout: seconds to wait until all workers have started. Defaults to `300`.
        communication: `"auto"`, `"ring"` (gRPC) or `"nccl"`. Defaults to `"auto"`.

    Returns:
        The strategy.

    Raises:
        ValueError: if an argument or `TF_CONFIG` is invalid.
        NotTogetherError: a RuntimeError, if the workers do not come together.

    Example:

    >>> keras_norms.training.multi_worker_strategy(start_timeout=0)
    Traceback (most recent call last):
    ...
    ValueError: multi_worker_strategy: `start_timeout` must be a number of seconds above 0...
    """
    rule = "`start_timeout` must be a number of seconds above 0"
    is_time = is_number(start_timeout, 0) and start_timeout > 0
    require(is_time, _OWNER, rule, start_timeout=start_timeout)
    known = tf.distribute.experimental.CommunicationImplementation
    kinds = {"auto": known.AUTO, "ring": known.RING, "nccl": known.NCCL}
    is_known = isinstance(communication, str) and communication in kinds
    rule = f"`communication` must be one of {', '.join(map(repr, kinds))}"
    require(is_known, _OWNER, rule, communication=communication)
    addresses, index = cluster_of_environment()
    if len(addresses) > 1:
        greeting = {
            "TF_CONFIG": f"{zlib.crc32(' '.join(addresses).encode()):08x}",
            "tensorflow": tf.__version__,
            "keras": "3" if IS_KERAS_3 else "2",
            "keras_norms": __version__,
            "python": platform.python_version(),
        }
        try:
            meet(addresses, index, start_timeout, greeting)
        except NotTogetherError as error:
            raise NotTogetherError(f"{_OWNER}: {printable(error)}") from None
    # Without `timeout_seconds`: for each collective TensorFlow starts a thread that sleeps so long.
    options = tf.distribute.experimental.CommunicationOptions(implementation=kinds[communication])
    return tf.distribute.MultiWorkerMirroredStrategy(communication_options=options)


def cluster_of_environment():
    """The addresses of all workers in `TF_CONFIG`, a chief first, and the index of this one.

    Raises:
        ValueError: if there is none, or it does not describe a cluster and a place in it.
    """
    text = os.environ.get("TF_CONFIG", "")
    rule = f"TF_CONFIG must be a cluster and a task in JSON, such as {_EXAMPLE}"
    _require(text, rule, "no TF_CONFIG")
    try:
        config = json.loads(text)
        cluster, task = dict(config["cluster"]), config["task"]
        kind, position = task["type"], task["index"]
    except (ValueError, TypeError, KeyError, AttributeError):
        _require(False, rule, f"TF_CONFIG={printable(text)!r}")
    others = [name for name in cluster if name not in ("chief", "worker", "evaluator")]
    rule = "replicas in step have the tasks 'chief' and 'worker' only"
    _require(not others and kind in ("chief", "worker"), rule, f"{sorted(cluster)}, a {kind!r}")
    jobs = {name: cluster.get(name, []) for name in ("chief", "worker")}
    for name, addresses in jobs.items():
        is_list = isinstance(addresses, list) and all(map(_is_address, addresses))
        rule = f"the {name}s of TF_CONFIG must be a list of 'host:port'"
        _require(is_list, rule, repr(addresses))
    every = [*jobs["chief"], *jobs["worker"]]
    rule = "every worker of TF_CONFIG must have an address of its own"
    _require(len(set(every)) == len(every), rule, repr(every))
    is_index = is_int(position) and 0 <= position < len(jobs[kind])
    rule = (
        f"the index of the task in TF_CONFIG must be that of one of its {len(jobs[kind])} {kind}s"
    )
    _require(is_index, rule, f"index={position!r}")
    return every, position + (len(jobs["chief"]) if kind == "worker" else 0)


def addresses_of(strategy):
    """The addresses of the workers of a strategy, a chief first; none for a single machine."""
    resolver = getattr(strategy, "cluster_resolver", None)
    jobs = resolver.cluster_spec().as_dict() if resolver is not None else {}
    return [*jobs.get("chief", []), *jobs.get("worker", [])]


def worker_of(strategy):
    """The index of this process among `addresses_of(strategy)`, 0 for a single machine."""
    if not addresses_of(strategy):
        return 0
    resolver = strategy.cluster_resolver
    chiefs = len(resolver.cluster_spec().as_dict().get("chief", []))
    return int(resolver.task_id) + (chiefs if resolver.task_type == "worker" else 0)


def _is_address(value):
    try:
        host, port = host_and_port(value)
    except (ValueError, AttributeError):
        return False
    return bool(host) and 0 < port < 65_536


def _require(holds, rule, received):
    if not holds:
        raise ValueError(f"{_OWNER}: {rule}. Received: {received}.")
