"""What synchronization costs on many GPUs, computed: nothing here is measured by us.

Forward, every layer reduces a slot of 2 C + 1 float64 numbers for each of up to 8 replicas, and
above that 2 C + 1 numbers in two collectives; backward 2 C numbers. A collective is taken to last
as long as NCCL's own model says, by a ring or a tree, whichever is less:

    ring    base + 2 (replicas - machines) inside + 2 (machines - 1) between + 2 (n-1)/n bytes/rate
    tree    base + 2 (per machine - 1) inside + 2 log2(machines) between + 2 bytes/rate

with its latencies of the LL protocol, for messages as small as these (NVIDIA/nccl,
src/graph/tuning.cc: base 3.6 and 4.4 us, NVLink 0.47 and 0.52, network 2.7 and 5.0), and a quarter
of the link's rate, as that protocol has. For Ethernet without RDMA, of which there is no public
model, a step between machines is assumed to take 25 us.

    python benchmarks/scaling_model.py [--images 32] [--channels 26560] [--layers 53]
"""

import argparse
import math
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

PER_MACHINE = 8
SLOTS = 8  # As in keras_norms/statistics/replicas.py.
RING, TREE = 0, 1
BASE = (3.6e-6, 4.4e-6)
NVLINK = (0.47e-6, 0.52e-6)
# NVLink of an H100: 900 GB/s in both directions together.
NVLINK_RATE = 450e9
# What small messages get of it: the LL protocol sends flags with the data.
LL_SHARE = 0.25
# ResNet-50 v1.5 on an A100, mixed precision (NVIDIA/DeepLearningExamples, PaddlePaddle).
IMAGES_PER_SECOND = 2711.0


class Link(NamedTuple):
    """A network between machines of eight GPUs.

    Attributes:
        name: as in the table.
        latency: seconds that a step between machines takes, in a ring and in a tree.
        rate: bytes per second each way, for each GPU.
    """

    name: str
    latency: tuple[float, float]
    rate: float


LINKS = (
    Link("InfiniBand, 400 Gb/s a GPU", (2.7e-6, 5.0e-6), 50e9),
    Link("Ethernet, 100 Gb/s a machine", (25e-6, 25e-6), 12.5e9 / PER_MACHINE),
)


def all_reduce_seconds(size, replicas, link):
    """The time of one all-reduce of so many bytes over all replicas."""
    machines = math.ceil(replicas / PER_MACHINE)
    inside = min(replicas, PER_MACHINE)
    rate = LL_SHARE * (NVLINK_RATE if machines == 1 else min(NVLINK_RATE, link.rate))
    ring = BASE[RING] + 2 * (replicas - machines) * NVLINK[RING]
    ring += 2 * (machines - 1) * link.latency[RING] + 2 * (replicas - 1) / replicas * size / rate
    tree = BASE[TREE] + 2 * (inside - 1) * NVLINK[TREE]
    tree += 2 * math.log2(machines) * link.latency[TREE] + 2 * size / rate
    return min(ring, tree)


def ours(channels, layers, replicas, link):
    """Seconds a step: slots of moments or, for many replicas, their sums; then backward."""
    vector = 8 * channels / layers
    if replicas <= SLOTS:
        forward = all_reduce_seconds(replicas * (2 * vector + 8), replicas, link)
    else:
        forward = sum(all_reduce_seconds(size, replicas, link) for size in (vector + 8, vector))
    return layers * (forward + all_reduce_seconds(2 * vector, replicas, link))


def five_collectives(channels, layers, replicas, link):
    """Seconds a step with five all-reduces of C float32 numbers a layer, as stock layers make."""
    return layers * 5 * all_reduce_seconds(4 * channels / layers, replicas, link)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--layers", type=int, default=53, help="default: those of ResNet-50")
    parser.add_argument("--channels", type=int, default=26_560, help="of all layers together")
    parser.add_argument("--images", type=int, default=32, help="of a replica")
    options = parser.parse_args()
    step = options.images / IMAGES_PER_SECOND
    size = options.channels, options.layers
    in_machine = ours(*size, PER_MACHINE, LINKS[0])
    grid = Table()
    for name in ("replicas", "network", "ms a step", "share", "5 collectives", "groups of 8"):
        grid.add_column(name, justify="left" if name == "network" else "right")
    for replicas in (8, 16, 64, 1024):
        for link in LINKS[: 1 if replicas <= PER_MACHINE else None]:
            seconds = ours(*size, replicas, link)
            grid.add_row(
                f"{replicas:,}",
                "NVLink" if replicas <= PER_MACHINE else link.name,
                f"{1e3 * seconds:.1f}",
                f"{100 * seconds / (seconds + step):.0f} %",
                f"{1e3 * five_collectives(*size, replicas, link):.1f}",
                f"{1e3 * in_machine:.1f}",
            )
    console = Console()
    console.width = max(console.width, 110)
    console.print(grid)
    console.print(
        f"A step of {options.images} images without synchronization takes {1e3 * step:.1f} ms "
        f"({IMAGES_PER_SECOND:.0f} images a second). The share is of a step with it."
    )


if __name__ == "__main__":
    main()
