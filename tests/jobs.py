"""Background jobs for tests of the workers that run them."""

from __future__ import annotations

import os
import signal
from pathlib import Path


def write(path: str, text: str) -> None:
    """Leaves a mark that it ran."""
    with Path(path).open("a") as mark:
        mark.write(text + "\n")


def hang(path: str) -> None:
    """Leaves its process number, and never ends by itself."""
    write(path, str(os.getpid()))
    while True:
        signal.pause()
