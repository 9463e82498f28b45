"""The one error tree: what happened, what to type next, and the exit code that goes with it.

Only the command line turns these into text. Anything that is not a ``TunerError`` is a bug of ours.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Process exit codes; scripts may rely on them."""

    OK = 0
    UNEXPECTED = 1
    PRESET = 2
    DATASET = 3
    ACCESS = 4
    DOES_NOT_FIT = 5
    DISK = 6
    SIGINT = 130
    SIGTERM = 143


class TunerError(Exception):
    """A failure a person can act on.

    ``message`` says what happened and where; ``hint`` is the next thing to type or change.
    """

    exit_code: ExitCode = ExitCode.UNEXPECTED

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class ConfigError(TunerError):
    """The preset, an option or the run folder asked for is not usable."""

    exit_code = ExitCode.PRESET


class DatasetError(TunerError):
    """The training data is missing or unusable."""

    exit_code = ExitCode.DATASET


class AccessError(TunerError):
    """Weights are missing, gated or unreachable."""

    exit_code = ExitCode.ACCESS


class DoesNotFitError(TunerError):
    """The run needs more memory than there is."""

    exit_code = ExitCode.DOES_NOT_FIT


class DiskError(TunerError):
    """Writing failed: the disk is full or the folder is read-only."""

    exit_code = ExitCode.DISK


class CheckpointError(TunerError):
    """No whole checkpoint could be read, or it belongs to another run."""


class TrainingError(TunerError):
    """Training cannot go on, for example because the loss is no longer finite."""


class ProofError(TunerError):
    """The finished file did not load back as what was trained."""


class Stopped(TunerError):
    """A signal or a request stopped the run after it saved a checkpoint."""

    def __init__(self, message: str, exit_code: ExitCode, hint: str | None = None) -> None:
        super().__init__(message, hint)
        self.exit_code = exit_code
