"""All replicas of a process have to reach the same exchanges in the same order.

A strategy runs the replicas of a process in threads that take turns: the first one until its next
exchange, then the second, and so on. So when any other replica comes to its n-th exchange, the
first has been at its own. Without this check TensorFlow would combine what does not belong
together, or fail without a name.
"""

import collections
import contextlib
import threading
import warnings
import weakref

import tensorflow as tf

REFUSED = "refused"
_runs: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def replica_number():
    """The number of this replica among those of all workers."""
    context = tf.distribute.get_replica_context()
    return int(tf.get_static_value(context.replica_id_in_sync_group))


@contextlib.contextmanager
def in_exchange(owner):
    """Where this replica exchanges statistics of a layer.

    Raises:
        ValueError: if the first replica is in the exchange of another layer, or in none.
    """
    # The coordinator of the threads stands for one call of `strategy.run`. It is not public; where
    # a TensorFlow has none, its own errors remain.
    run = getattr(threading.current_thread(), "coord", None)
    if run is None:
        yield
        return
    owners = _runs.setdefault(run, collections.defaultdict(list))
    _check_order(owners, owner)
    try:
        yield
    except BaseException:
        # TensorFlow raises an error of its own then, which names no layer.
        if run.should_stop() and not owners[REFUSED]:
            warnings.warn(
                f"{owner}: a replica waited for this layer, which another one did not call.",
                stacklevel=3,
            )
        raise


def _check_order(owners, owner):
    of_worker = len(tf.distribute.get_strategy().extended.worker_devices)
    replica = replica_number()
    own, first = owners[replica], owners[replica // of_worker * of_worker]
    own.append(owner)
    found = first[len(own) - 1] if len(own) <= len(first) else "none"
    if found != owner:
        owners[REFUSED].append(owner)
        raise ValueError(
            f"{owner}: every replica must call the synchronized layers in the same order, and none "
            f"of them may be left out. Received: {owner} on one replica where the first replica "
            f"called {found}."
        )
