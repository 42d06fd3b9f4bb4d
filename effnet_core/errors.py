"""Everything that can go wrong, as types; each says whether trying again can help.

    EffnetError
    |-- ConfigError            a setting is unknown, of the wrong type or out of range
    |-- DataError              a data set, image folder or manifest cannot be used
    |   `-- InputLost          the folder that is being read has gone (retryable)
    |-- CheckpointError        a checkpoint is missing, damaged or of another model
    |-- ExportError            an exported file cannot be used or does not agree with MindSpore
    |-- DownloadFailed         a file cannot be fetched from its address (retryable)
    |-- StoreError             the model store refuses or misses something
    |   |-- StoreBusy          the object store does not answer or is overloaded (retryable)
    |   |-- StoreDamaged       a record of the store is missing or is not what was written
    |   |-- Conflict           somebody else created or changed the same thing first
    |   `-- GateRefused        a version is not good enough to be promoted
    |-- QuantizationRefused    an int8 network loses more than is allowed
    |-- OutputExists           an output folder already holds something else
    |   `-- FolderInUse        another command is writing to it now (retryable)
    |-- TrainingDiverged       the loss stopped being a number
    `-- JobError               a child process failed
        |-- WorkerLost         a rank died without an answer (retryable)
        |   `-- WorkerStalled  nothing happens any more (retryable)
        |-- JobTimeout         a job ran out of its time (retryable)
        `-- Interrupted        a job was asked to stop; it can be resumed (retryable)

A message says what is wrong, the values, what is allowed and what to change, in one sentence or
two, because it is shown to people as it is.

Exit codes, the same for ``effnet``, a rank and the supervisor of a job:

    0    done
    1    failed
    2    wrong usage or setting: nothing was done
    75   stopped on request (SIGTERM); the same command resumes. EX_TEMPFAIL of sysexits.h
    130  interrupted (Ctrl-C) at a terminal; the same command resumes
"""

from __future__ import annotations

from effnet_core.text import visible

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_STOPPED = 75
EXIT_INTERRUPTED = 130
EXIT_UNREAD = 141
"""As of a program that SIGPIPE ended: nobody reads what it prints any more."""


class EffnetError(Exception):
    """Base of every error that a user can meet."""

    retryable: bool = False
    """Whether the same call may succeed later without any change."""

    def __str__(self) -> str:
        """The message in one line, with nothing in it that a terminal or a log would obey."""
        return visible(super().__str__())


class ConfigError(EffnetError):
    """A setting is unknown, of the wrong type or out of range."""


class DataError(EffnetError):
    """A data set, image folder or manifest cannot be used."""


class InputLost(DataError):
    """The folder that is being read has gone: a share that was taken away, a disk that was unplugged."""

    retryable = True


class CheckpointError(EffnetError):
    """A checkpoint is missing, damaged or belongs to another model."""


class ExportError(EffnetError):
    """An exported file cannot be used or does not agree with MindSpore."""


class DownloadFailed(EffnetError):
    """A file cannot be fetched from its address."""

    retryable = True


class StoreError(EffnetError):
    """The model store refuses or misses something."""


class StoreBusy(StoreError):
    """The object store does not answer, is overloaded, or the connection broke."""

    retryable = True


class StoreDamaged(StoreError):
    """A record of the store is missing or is not what was written."""


class Conflict(StoreError):
    """Somebody else created or changed the same thing first; look again before the next try."""


class GateRefused(StoreError):
    """A version is not good enough to be promoted."""


class QuantizationRefused(EffnetError):
    """An int8 network loses more than is allowed."""


class OutputExists(EffnetError):
    """An output folder already holds something else."""


class FolderInUse(OutputExists):
    """Another command is writing to a folder or file now; it will be free once that has ended."""

    retryable = True


class TrainingDiverged(EffnetError):
    """The loss stopped being a finite number."""


class JobError(EffnetError):
    """A child process failed; its log says more."""


class WorkerLost(JobError):
    """A rank died without leaving an answer."""

    retryable = True


class WorkerStalled(WorkerLost):
    """The processes of a job are there but do nothing; they were ended."""


class JobTimeout(JobError):
    """A job ran longer than it was allowed to."""

    retryable = True


class Interrupted(JobError):
    """A job was asked to stop and did; what it had saved can be resumed."""

    retryable = True


def error_type(name: str) -> type[EffnetError]:
    """The class called ``name`` in this module, or ``JobError`` where there is none."""
    found = globals().get(name)
    if isinstance(found, type) and issubclass(found, EffnetError):
        return found
    return JobError
