"""How workers find each other: `TF_CONFIG`, the meeting before TensorFlow's servers, bad input."""

import contextlib
import json
import socket
import threading
import time

import pytest
import tensorflow as tf

from experiments.local_cluster import free_addresses
from keras_norms.training import NotTogetherError, multi_worker_strategy, waiting_for_workers
from keras_norms.training.cluster import cluster_of_environment
from keras_norms.training.rendezvous import meet

pytestmark = pytest.mark.main_leg

CLUSTER = {"worker": ["a:1", "b:2"]}


def config(cluster, kind="worker", index=0):
    return json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"TF_CONFIG must be a cluster and a task in JSON.*Received: no TF_CONFIG"),
        ("{", r"TF_CONFIG must be a cluster and a task in JSON.*Received: TF_CONFIG='\{'"),
        ("[]", r"TF_CONFIG must be a cluster and a task in JSON"),
        ('{"cluster": {}}', r"TF_CONFIG must be a cluster and a task in JSON"),
        ("\x1b[2J", r"Received: TF_CONFIG='\\\\x1b\[2J'"),
        (
            config({**CLUSTER, "ps": ["c:3"]}),
            r"tasks 'chief' and 'worker' only.*\['ps', 'worker'\]",
        ),
        (config(CLUSTER, kind="evaluator"), r"the tasks 'chief' and 'worker' only.*a 'evaluator'"),
        (config({"worker": "a:1"}), r"the workers of TF_CONFIG must be a list of 'host:port'"),
        (config({"worker": ["a"]}), r"the workers of TF_CONFIG must be a list of 'host:port'"),
        (config({"worker": ["a:99999"]}), r"a list of 'host:port'.*a:99999"),
        (config({"worker": ["a:1", "a:1"]}), r"every worker of TF_CONFIG must have an address"),
        (config(CLUSTER, index=2), r"the index .* one of its 2 workers. Received: index=2"),
        (config(CLUSTER, index="0"), r"the index of the task in TF_CONFIG"),
    ],
)
def test_a_bad_configuration(monkeypatch, text, message):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if text is not None:
        monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(ValueError, match=f"^multi_worker_strategy: .*{message}"):
        multi_worker_strategy()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(start_timeout=0), "`start_timeout` must be a number of seconds above 0"),
        (dict(communication="mpi"), "`communication` must be one of 'auto', 'ring', 'nccl'"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        multi_worker_strategy(**options)


def test_waits_need_a_limit_and_cost_one_machine_nothing():
    strategy = tf.distribute.get_strategy()
    threads = threading.active_count()
    with waiting_for_workers(strategy, timeout=60):
        assert threading.active_count() == threads
    with pytest.raises(ValueError, match="waiting_for_workers: `timeout` must be a number of sec"):
        with waiting_for_workers(strategy, timeout=0):
            pass
    with pytest.raises(tf.errors.UnavailableError):  # Of something else, which is left as it is.
        with waiting_for_workers(strategy):
            raise tf.errors.UnavailableError(None, None, "a collective of nobody")


def test_a_chief_comes_before_the_workers(monkeypatch):
    cluster = {"chief": ["[::1]:5"], **CLUSTER}
    monkeypatch.setenv("TF_CONFIG", config(cluster, index=1))
    assert cluster_of_environment() == (["[::1]:5", "a:1", "b:2"], 2)
    monkeypatch.setenv("TF_CONFIG", config(cluster, kind="chief"))
    assert cluster_of_environment() == (["[::1]:5", "a:1", "b:2"], 0)


def meeting(addresses, present, seconds, greetings=None):
    """What `meet` does in each of the workers that are there: None or its error."""
    found: dict = {}

    def worker(index):
        greeting = {"tensorflow": (greetings or {}).get(index, "2.21")}
        try:
            found[index] = meet(addresses, index, seconds, greeting)
        except NotTogetherError as error:
            found[index] = error

    threads = [threading.Thread(target=worker, args=(index,)) for index in present]
    for thread in threads:
        thread.start()
    return threads, found


def joined(threads, found):
    for thread in threads:
        thread.join(30)
    return found


def told(address, data):
    """A connection to the port of an address that says something."""
    connection = socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])), 5)
    connection.sendall(data)
    return connection


def test_all_go_on_when_all_are_there_in_any_order():
    addresses = free_addresses(4)
    early, found = meeting(addresses, [3], 20)
    with socket.create_server(("127.0.0.1", int(addresses[0].rpartition(":")[2]))):
        time.sleep(0.3)  # What an earlier run had left at the address of the first.
    late, others = meeting(addresses, [0], 20)
    time.sleep(0.5)
    # Others that knock at the port, say nothing or something else, or end, hold up nobody.
    hello = json.dumps({"worker": 2, "greeting": {"tensorflow": "2.21"}}).encode() + b"\n"
    noise = [b"", b"GET / HTTP/1.1\r\n\r\n", b"[" * 4000 + b"\n", b'{"worker": true}\n', hello]
    with contextlib.ExitStack() as stack:
        strangers = [stack.enter_context(told(addresses[0], data)) for data in noise]
        strangers[-1].close()  # Worker 2 said that it is there, and died.
        time.sleep(0.3)
        assert not found and not others
        last, rest = meeting(addresses, [1, 2], 20)
        together = joined(early, found) | joined(late, others) | joined(last, rest)
    assert together == dict.fromkeys(range(4))


def test_time_is_up_whatever_else_talks():
    addresses = free_addresses(2)
    threads, found = meeting(addresses, [0], 2)
    time.sleep(0.5)
    begin = time.monotonic()
    with told(addresses[0], b"{") as slow:
        while threads[0].is_alive() and time.monotonic() - begin < 20:
            with contextlib.suppress(OSError):
                slow.sendall(b" ")
            time.sleep(0.1)
    assert time.monotonic() - begin < 10
    assert "Missing: worker 1" in str(joined(threads, found)[0])


@pytest.mark.parametrize("missing", [0, 2])
def test_a_worker_that_is_missing_is_named_by_all(missing):
    addresses = free_addresses(3)
    present = [index for index in range(3) if index != missing]
    begin = time.monotonic()
    found = joined(*meeting(addresses, present, 1))
    assert time.monotonic() - begin < 20
    named = (
        f"not all workers .* within 1 seconds. Missing: worker {missing} ({addresses[missing]})."
    )
    for index in present:
        assert isinstance(found[index], NotTogetherError)
        assert str(found[index]).endswith(named.partition(".* ")[2])


def test_other_versions_are_refused_in_all():
    addresses = free_addresses(2)
    found = joined(*meeting(addresses, [0, 1], 10, {1: "2.15"}))
    expected = "the workers of a cluster must agree on tensorflow. Received: tensorflow='2.21' in "
    for index in range(2):
        assert str(found[index]).startswith(expected + "worker 0, tensorflow='2.15' in worker 1 (")


def test_an_address_that_is_taken():
    addresses = free_addresses(2)
    host, _, port = addresses[0].rpartition(":")
    with socket.create_server((host, int(port))):
        found = joined(*meeting(addresses, [0], 0.5))
    assert str(found[0]) == f"worker 0 cannot listen at its address {addresses[0]}: " + (
        "Address already in use."
    )
