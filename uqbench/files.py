"""Writing files so that an interruption never leaves half of one."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from uqbench.errors import UqbenchError


def write_safely(path: Path, save: Callable[[Path], Any]) -> None:
    """Has ``save`` write a temporary file beside ``path``, flushes it to disk, and renames it to ``path``.

    Whatever is raised, the temporary file is removed and what ``path`` held before is still there.

    Raises:
        UqbenchError: if the disk is full.
        OSError: as ``save`` or the rename raise it, for a read-only directory for example.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        save(temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except Exception as error:
        if _disk_is_full(path.parent, error):
            raise UqbenchError(
                f"no space left for {path}: free some and start the same command again, it continues from here"
            ) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def make_directory(path: Path) -> Path:
    """Creates a directory and its parents.

    Raises:
        UqbenchError: if it cannot be created or written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UqbenchError(f"cannot create {path}: {error.strerror}; choose another output_dir=DIR") from error
    if not os.access(path, os.W_OK):
        raise UqbenchError(f"cannot write to {path}: permission denied; choose another output_dir=DIR")
    return path


def _disk_is_full(folder: Path, error: BaseException) -> bool:
    """By the system's word, or, since torch and safetensors raise errors of their own, by the space that is left."""
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or shutil.disk_usage(folder).free < 2**16
