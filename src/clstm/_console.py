"""Who prints and who writes files: the one place where a command speaks.

Messages go to stderr and data to stdout.  Where a job has several processes, one of them leads and the others
keep silent.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from . import files
from .nn import parallel


class Console:
    """What a command says, shows and writes.

    Parameters
    ----------
    ranks : nn.parallel.Ranks, optional
        The processes of the job; but for the first one, nothing is printed and no file is written.
    """

    def __init__(self, ranks: Any = None) -> None:
        self.leads = ranks is None or ranks.rank == 0

    @property
    def shows_progress(self) -> bool:
        """Whether somebody watches."""
        return self.leads and sys.stderr.isatty()

    def say(self, *lines: str) -> None:
        """Print messages at once, in order with a progress bar."""
        if self.leads:
            print(*lines, sep="\n", file=sys.stderr, flush=True)

    def put(self, text: str) -> None:
        """Print data, which bring their own line ends."""
        if self.leads:
            sys.stdout.write(text)
            sys.stdout.flush()

    def write(self, path: Path, text: str) -> None:
        """Write data to a file, whole or not at all."""
        if self.leads:
            files.replace(path, text.encode())
            self.say(f"Written: {path}")

    def keep(self, path: Path, text: str) -> None:
        """Write a file into a folder of its own, which is made if it is missing."""
        if self.leads:
            path.parent.mkdir(exist_ok=True)
            files.replace(path, text.encode())

    def save(self, path: Path, model: Any) -> None:
        """Write a model."""
        if self.leads:
            model.save(path)

    def draw(self, path: Path, figure: Any) -> None:
        """Write a picture."""
        if self.leads:
            figure.savefig(path, dpi=120)
            self.say(f"Picture: {path}")


def leads() -> bool:
    """Whether this is the process of its job that tells what went wrong."""
    try:
        comm = parallel.world()
    except ImportError:  # which is then what went wrong
        return True
    return comm is None or comm.Get_rank() == 0


def complain(message: str) -> None:
    """Print what went wrong, once for all processes of a job."""
    if leads():
        print(f"clstm: {message}", file=sys.stderr)
