"""`--json`: the events themselves, one document per line."""

from __future__ import annotations

import json
from typing import Any, TextIO

from tuner.events import Event


class JsonSink:
    """Writes every event's envelope to a stream, flushed at once."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def handle(self, event: Event, envelope: dict[str, Any]) -> None:
        """Write one line."""
        self.stream.write(json.dumps(envelope) + "\n")
        self.stream.flush()

    def close(self) -> None:
        """Nothing to do: the stream belongs to the caller."""
