"""A run outlives its audience: a closed pipe, a lost terminal or a full disk only silences a sink."""

from __future__ import annotations

from typing import Any

from tuner.events import Event, Sink


class Lenient:
    """Passes events on until the first failure to write; closes once."""

    def __init__(self, sink: Sink) -> None:
        self._sink: Sink | None = sink

    def handle(self, event: Event, envelope: dict[str, Any]) -> None:
        """Pass one event on."""
        if self._sink is None:
            return
        try:
            self._sink.handle(event, envelope)
        except OSError:
            self._sink = None

    def close(self) -> None:
        """Close the sink; a second call does nothing."""
        sink, self._sink = self._sink, None
        if sink is None:
            return
        try:
            sink.close()
        except OSError:
            # Nobody listens any more, and the run's own files say how it went.
            return
