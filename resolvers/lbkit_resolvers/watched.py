"""Whether a file may have changed since somebody last looked."""

from __future__ import annotations

import os
from typing import NamedTuple


class Stamp(NamedTuple):
    """What a look without reading tells. The time of change (ctime) cannot be set back as mtime can."""

    modified_ns: int
    changed_ns: int
    device: int
    inode: int
    size: int


def stamp_of(path: str) -> Stamp | None:
    """Look at what is there now, behind symbolic links: never an open descriptor, which would miss a rename.

    Returns:
        None if there is nothing.

    Raises:
        OSError: for another reason than that there is nothing.
    """
    try:
        found = os.stat(path)  # noqa: PTH116 -- no pathlib where it would be the only reason to import it
    except FileNotFoundError:
        return None
    return Stamp(found.st_mtime_ns, found.st_ctime_ns, found.st_dev, found.st_ino, found.st_size)
