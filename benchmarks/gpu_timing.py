"""Time on the device, with contenders in turns.

A call is too short for the host to keep up: so that its time is not measured, the calls of a turn
are queued while the device is made to wait, and events on the device time them alone.
"""

import statistics
import time

import torch

TURN_SECONDS = 2e-3  # About as long as the calls of one turn should take.
MOST_CALLS = 200  # Of a turn: the queue of the device must hold their launches.


class CudaClock:
    """Seconds of a number of calls on a GPU."""

    def __init__(self, device):
        self._device = device
        self._ticks = self._ticks_per_second()

    def _ticks_per_second(self):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        for _ in range(2):  # The first has to load the kernel.
            start.record()
            torch.cuda._sleep(10_000_000)
            end.record()
            torch.cuda.synchronize(self._device)
        return 10_000_000 / (start.elapsed_time(end) / 1e3)

    def seconds(self, calls):
        """Runs the functions one after the other; returns what the device took for all."""
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(self._device)
        # Queued once for nothing: how long the host takes, and caches as in the timed round.
        before = time.perf_counter()
        for call in calls:
            call()
        queueing = time.perf_counter() - before
        torch.cuda.synchronize(self._device)
        torch.cuda._sleep(int(self._ticks * (2 * queueing + 1e-3)))
        start.record()
        for call in calls:
            call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3


class HostClock:
    """The same for the host, to test the script."""

    def seconds(self, calls):
        before = time.perf_counter()
        for call in calls:
            call()
        return time.perf_counter() - before


def interleaved(contenders, clock, rounds):
    """Times contenders in turns.

    Args:
        contenders: for each name a list of functions, the same work on different memory.
        clock: `CudaClock` or `HostClock`.
        rounds: turns of each contender; one more before warms up.

    Returns:
        For each name the median of the seconds of a call.
    """
    turns = {}
    for name, calls in contenders.items():
        once = clock.seconds(calls) / len(calls)
        wanted = min(MOST_CALLS, TURN_SECONDS / max(once, 1e-7))
        turns[name] = calls * max(1, round(wanted / len(calls)))
    seconds = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, calls in turns.items():
            seconds[name].append(clock.seconds(calls) / len(calls))
    return {name: statistics.median(values) for name, values in seconds.items()}
