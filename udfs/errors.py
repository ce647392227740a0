"""The one tree of errors; every message says what was asked, what was found and what to do.

GmeLakeError                 anything a user can act on; the command line prints it without a traceback
├── SettingsError            unknown key, wrong type, unreadable file
├── CheckpointError          a model checkpoint is missing, incomplete or not what its profile says
├── RowRejected              one row cannot be embedded; becomes `status` and `error` of its vector row
│   └── ImageRejected        the row's picture is the reason
├── ServingError             the model server could not be started or was lost
│   └── CanaryError          a loaded model makes other vectors than where it was registered
├── IndexDataError           index files missing, damaged, or not made for this query
├── LakeError                a table is missing, has the wrong columns, or changed under a run
│   ├── GateError            an index or model is refused because of what was measured of it
│   ├── BudgetError          the work would cost more than was allowed
│   ├── RowsError            rows are not accounted for, or too many are rejected or would be deleted
│   └── ActiveRunError       another run does the same work in this lake at this moment
└── RegistryError            a model name, alias or version cannot be resolved
"""

from __future__ import annotations

from typing import ClassVar


class GmeLakeError(Exception):
    """Base of every error a user can act on. `exit_code` is the status that a command ends with for it."""

    exit_code: ClassVar[int] = 1


class SettingsError(GmeLakeError):
    """A setting is unknown, of the wrong type, or in a file that cannot be read."""


class CheckpointError(GmeLakeError):
    """A checkpoint folder is missing, incomplete, or contradicts its profile."""


class RowRejected(GmeLakeError):  # noqa: N818 - the name the API promises
    """One row cannot be embedded.

    `status` is the machine-readable reason written to `vectors.status`; the message is for people.
    """

    def __init__(self, status: str, detail: str) -> None:
        super().__init__(f"{status}: {detail}")
        self.status = status
        self.detail = detail

    def __reduce__(self) -> tuple[type[RowRejected], tuple[str, str]]:
        return type(self), (self.status, self.detail)


class ImageRejected(RowRejected):
    """A picture cannot be used; `reason` is one of the words of `udfs.gme.images.REASONS`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"image_{reason}", detail)
        self.reason = reason

    def __reduce__(self) -> tuple[type[ImageRejected], tuple[str, str]]:
        return type(self), (self.reason, self.detail)


class ServingError(GmeLakeError):
    """The model server could not be started or was lost."""


class CanaryError(ServingError):
    """A loaded model makes other vectors than where it was registered; loaded here again it would make them again."""


class IndexDataError(GmeLakeError):
    """Index files are missing, damaged, or were not made for this model or dimension."""


class LakeError(GmeLakeError):
    """A table is missing, has the wrong columns, or was changed by somebody else meanwhile."""


class GateError(LakeError):
    """An index or a model is refused because of what was measured of it."""

    exit_code = 3


class BudgetError(LakeError):
    """The work would cost more than was allowed."""

    exit_code = 4


class RowsError(LakeError):
    """Rows are not accounted for, or more of them are rejected or would be deleted than is allowed."""

    exit_code = 5


class ActiveRunError(LakeError):
    """Another run does the same work in this lake at this moment."""

    exit_code = 6


class RegistryError(GmeLakeError):
    """A model name, alias or version cannot be resolved to a checkpoint."""
