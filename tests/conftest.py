"""Fixtures of the whole suite."""

import pytest

from tuner.events import Emitter


class Recorder:
    """A sink that keeps every event."""

    def __init__(self):
        self.events = []

    def handle(self, event, envelope):
        self.events.append(event)

    def close(self):
        pass

    def of(self, kind: str) -> list:
        return [event for event in self.events if event.type == kind]


@pytest.fixture
def recorder():
    return Recorder()


@pytest.fixture
def emitter(recorder):
    return Emitter([recorder])
