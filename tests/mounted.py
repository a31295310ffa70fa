"""A folder of secrets as Kubernetes mounts it: ``python -m tests.mounted FOLDER NAME TEXT TEXT`` swaps it until
its input ends, and 300 times at least.

A new folder is written beside the old one, and one symbolic link is renamed over the one that leads to it.
"""

from __future__ import annotations

import itertools
import os
import select
import sys
from pathlib import Path

SWAPS = 300


def swap(folder: Path, number: int, **files: str) -> None:
    """Replaces what is mounted, all files at once."""
    fresh = folder / f"..2026_{number}"
    fresh.mkdir()
    for name, text in files.items():
        (fresh / name).write_text(text)
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(Path("..data") / name)
    (folder / "..data_tmp").symlink_to(fresh.name)
    os.replace(folder / "..data_tmp", folder / "..data")


if __name__ == "__main__":
    for turn in itertools.count():
        if turn >= SWAPS and select.select([sys.stdin], [], [], 0)[0]:
            break
        swap(Path(sys.argv[1]), turn + 1000, **{sys.argv[2]: sys.argv[3 + turn % 2]})
