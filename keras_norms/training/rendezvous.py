"""Where the workers of a cluster meet before they start TensorFlow's servers.

Those servers wait for each other without a limit that is documented, and do not say for whom. So
every worker first reports to worker 0, by a line of JSON over TCP at the address where the server
of that one is going to listen. When all have, worker 0 closes the address and tells them to go on.
"""

import json
import selectors
import socket
import time
from typing import Any

from keras_norms.printable import printable

ATTEMPT_SECONDS = 0.2
LINE = 4_096


class NotTogetherError(RuntimeError):
    """The workers of a cluster did not all come up, or do not run the same program."""


def meet(addresses, index, seconds, greeting):
    """Returns when all workers have called it.

    Args:
        addresses: `"host:port"` of every worker.
        index: which of them this one is.
        seconds: how long to wait.
        greeting: what all workers have to agree on, as a dict of strings.

    Raises:
        NotTogetherError: in every worker that waits, if one does not come up in time or has another
            greeting. The message has its address.
    """
    deadline = time.monotonic() + seconds
    if index == 0:
        _gather(addresses, seconds, deadline, greeting)
    else:
        _report(addresses, index, seconds, deadline, greeting)


def host_and_port(address):
    """The two parts of `"host:port"`, where a host may be an IPv6 address in brackets."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _gather(addresses, seconds, deadline, greeting):
    found: dict[int, socket.socket] = {}
    answer: dict = {"go": True}
    try:
        _listen(addresses, deadline, greeting, found)
        missing = [i for i in range(1, len(addresses)) if i not in found]
        if missing:
            raise NotTogetherError(_missing(addresses, missing, seconds))
    except NotTogetherError as error:
        answer = {"error": str(error)}
        raise
    finally:
        for connection in found.values():
            _send(connection, answer)
            connection.close()


def _listen(addresses, deadline, greeting, found):
    """Fills `found` with the connection of each worker, until all are there or time is up.

    Whatever else connects, and says nothing or something else, holds up nobody.
    """
    said: dict[socket.socket, bytes] = {}
    with _bound(addresses[0], deadline) as server, selectors.DefaultSelector() as selector:
        server.listen(len(addresses))
        server.setblocking(False)
        selector.register(server, selectors.EVENT_READ)
        while len(found) < len(addresses) - 1 and (left := deadline - time.monotonic()) > 0:
            for key, _ in selector.select(left):
                connection: Any = key.fileobj
                if connection is server:
                    connection, _ = server.accept()
                    connection.setblocking(False)
                    selector.register(connection, selectors.EVENT_READ)
                    said[connection] = b""
                elif not _read_more(connection, said):
                    selector.unregister(connection)  # It ended, or talks of something else.
                    for index in [i for i, other in found.items() if other is connection]:
                        del found[index]
                    connection.close()
                elif message := _as_message(said[connection]):
                    index = message.get("worker")
                    is_index = type(index) is int and 0 < index < len(addresses)
                    if is_index:  # The last one counts: it was started again while it waited.
                        found[index] = connection
                        _check_greeting(addresses, index, message.get("greeting"), greeting)
        for connection in said:
            if connection not in found.values():
                connection.close()
    for connection in found.values():
        connection.settimeout(5.0)


def _read_more(connection, said):
    """Adds what has come, and returns whether more may."""
    try:
        data = connection.recv(LINE)
    except OSError:
        data = b""
    said[connection] += data
    return bool(data) and len(said[connection]) <= LINE


def _as_message(data):
    """A dict, or None if this is no whole line that holds one."""
    if not data.endswith(b"\n"):
        return None
    try:
        message = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, dict) else None


def _check_greeting(addresses, index, said, greeting):
    differ = [k for k, v in greeting.items() if not isinstance(said, dict) or said.get(k) != v]
    if differ:
        said = said if isinstance(said, dict) else {}
        theirs = ", ".join(f"{name}={said.get(name)!r}" for name in differ)
        ours = ", ".join(f"{name}={greeting[name]!r}" for name in differ)
        raise NotTogetherError(
            f"the workers of a cluster must agree on {', '.join(differ)}. "
            f"Received: {ours} in worker 0, {theirs} in worker {index} ({addresses[index]})."
        )


def _bound(address, deadline):
    """A socket at the port of an address, as soon as what is left of an earlier run is gone."""
    host, port = host_and_port(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    while True:
        server = socket.socket(family)
        try:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind(("", port))  # The host may be a name that only the others resolve.
            return server
        except OSError as error:
            server.close()
            if time.monotonic() > deadline:
                raise NotTogetherError(
                    f"worker 0 cannot listen at its address {address}: {error.strerror}."
                ) from error
        time.sleep(ATTEMPT_SECONDS)


def _report(addresses, index, seconds, deadline, greeting):
    while time.monotonic() < deadline:
        try:
            with socket.create_connection(host_and_port(addresses[0]), timeout=5.0) as connection:
                _send(connection, {"worker": index, "greeting": greeting})
                # Worker 0 may have started to wait later than this one, so it is given more time.
                answer = _received(connection, deadline + seconds + 5.0)
        except OSError:
            answer = None
        if answer and answer.get("go"):
            return
        if answer and "error" in answer:
            raise NotTogetherError(printable(answer["error"]))
        time.sleep(ATTEMPT_SECONDS)
    raise NotTogetherError(_missing(addresses, [0], seconds))


def _missing(addresses, indices, seconds):
    named = ", ".join(f"worker {i} ({addresses[i]})" for i in indices)
    return f"not all workers of the cluster came up within {seconds:g} seconds. Missing: {named}."


def _send(connection, message):
    try:
        connection.sendall(json.dumps(message).encode() + b"\n")
    except OSError:
        pass  # The other end has gone, and will report again or be missed.


def _received(connection, deadline):
    """A message, or None if none comes in time that can be read."""
    said = {connection: b""}
    while not said[connection].endswith(b"\n"):
        left = deadline - time.monotonic()
        if left <= 0:
            return None
        connection.settimeout(left)
        if not _read_more(connection, said):
            return None
    return _as_message(said[connection])
