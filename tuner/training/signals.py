"""Ctrl-C and SIGTERM: the first asks the run to save and stop, the second ends it at once."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import FrameType

from tuner.errors import ExitCode, Stopped
from tuner.events import Emitter, Noted

HANDLED = (signal.SIGINT, signal.SIGTERM)


@dataclass
class StopRequest:
    """Whether somebody asked the run to stop, and how."""

    emitter: Emitter
    signal_number: int | None = None
    _noted: bool = field(default=False, repr=False)

    @property
    def pending(self) -> bool:
        """True after the first signal."""
        return self.signal_number is not None

    def receive(self, number: int, frame: FrameType | None) -> None:
        """The signal handler."""
        if self.pending:
            os._exit(128 + number)
        self.signal_number = number
        self.emitter.emit(
            Noted(message="stopping: finishing this step, then saving (the same signal again ends it at once)")
        )

    def check(self) -> None:
        """Raise ``Stopped`` where stopping loses nothing, for phases that resume by themselves."""
        if self.pending:
            raise self.stopped("stopped before training; what is cached so far is kept")

    def stopped(self, message: str) -> Stopped:
        """The error that ends the run with the right exit code."""
        code = ExitCode.SIGTERM if self.signal_number == signal.SIGTERM else ExitCode.SIGINT
        return Stopped(message, code, hint="run the same command again to go on from here")


@contextlib.contextmanager
def stop_requests(emitter: Emitter) -> Iterator[StopRequest]:
    """Listen for the signals while the run works; the previous handlers come back afterwards.

    Python delivers signals to the main thread only; elsewhere the request simply never comes.
    """
    request = StopRequest(emitter)
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    previous = {number: signal.signal(number, request.receive) for number in HANDLED}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
