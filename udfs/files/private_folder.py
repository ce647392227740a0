"""Folders in places that everybody can write to, such as /tmp, which one user alone may use."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from udfs.errors import GmeLakeError


def require_private(folder: Path, *, error: type[GmeLakeError], way_out: str) -> Path:
    """`folder`, made with mode 0700 where it is missing. Raises `error` where it is not a folder of this user alone.

    Somebody else's folder of that name, or a link to one, would let him choose what is read and run here; `way_out` says
    what to do then beside removing it.
    """
    with contextlib.suppress(FileExistsError):  # judged below: by whom, and as what
        folder.mkdir(mode=0o700, parents=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise error(
            f"{folder} must be a folder of user {os.getuid()} with mode 0700; found user "
            f"{found.st_uid}, mode {stat.filemode(found.st_mode)}; remove it or {way_out}"
        )
    return folder
