"""Whether two threads hold their speed: call after call, in fresh processes, beside an idle or a busy core.

    python benchmarks/two_threads.py                 # ten fresh processes for each kind of call
    python benchmarks/two_threads.py --busy          # the same while another program uses a core

Each process times a kind of call on one thread, on two, and on one again; a line tells what two threads make
of the time of one.  The other program is a loop in Python.  Figures mean something on a machine that has two
cores and nothing else to do.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np

import clstm

CALLS = 100
# T, B, H, further arguments of the layer, whether it is trained.
KINDS = {
    "units": (250, 1, 512, {}, False),
    "rows": (50, 32, 128, {}, True),
    "directions": (1000, 1, 128, {"bidirectional": True}, False),
    "layers": (1000, 1, 128, {"num_layers": 2}, True),
    "long": (25, 64, 512, {}, True),
}


def prepare(kind: str) -> Callable[[], object]:
    """Return a call of a kind."""
    T, B, H, further, training = KINDS[kind]
    layer = clstm.LSTM(H, H, dtype=np.float32, rng=0, **further)
    x = np.random.default_rng(0).standard_normal((T, B, H)).astype(np.float32)
    dy = np.ones((T, B, H * layer.num_directions), np.float32)

    def train() -> None:
        layer.forward(x)
        layer.backward(dy)

    return train if training else lambda: layer(x)


def seconds(call: Callable[[], object], count: int) -> list[float]:
    """Time calls one by one."""
    taken = []
    for _ in range(count):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return taken


def measure(kind: str) -> None:
    """Print a line for this process."""
    call = prepare(kind)
    clstm.set_num_threads(1)
    call()
    one = seconds(call, 10)
    clstm.set_num_threads(2)
    two = np.array(seconds(call, CALLS))
    clstm.set_num_threads(1)
    one += seconds(call, 10)
    ratio = np.median(one) / two
    print(
        f"{kind:10}  one thread {1e3 * np.median(one):7.2f} ms   two threads: second call {ratio[1]:.2f}x, "
        f"5 % below {np.quantile(ratio, 0.05):.2f}x, median {np.median(ratio):.2f}x, "
        f"all {np.median(one) * CALLS / two.sum():.2f}x",
        flush=True,
    )


def main() -> None:
    """Run processes, or be one of them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), metavar="KIND")
    parser.add_argument("--processes", type=int, default=10, help="for each kind (default 10)")
    parser.add_argument("--busy", action="store_true", help="let another program use a core")
    parser.add_argument("--measure", choices=KINDS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        measure(given.measure)
        return
    for kind in given.kinds:
        for _ in range(given.processes):
            other = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if given.busy else None
            try:
                subprocess.run([sys.executable, __file__, "--measure", kind], check=True)
            finally:
                if other is not None:
                    other.kill()
                    other.wait()


if __name__ == "__main__":
    main()
