"""Events: envelopes, order, and a file that others can read while it is written, even after a kill."""

import json

import pytest

from tuner import events
from tuner.events import Emitter, Event, JsonlSink, Noted, StepDone, Warned, read_events


def test_events_are_numbered_and_carry_version_time_and_type(monkeypatch):
    seen = []

    class Sink:
        def handle(self, event, envelope):
            seen.append((event, envelope))

        def close(self):
            seen.append("closed")

    monkeypatch.setattr(events.time, "time", lambda: 12.34567)
    emitter = Emitter([Sink()], seq=4)
    emitter.emit(Noted(message="one"))
    emitter.emit(Warned(message="two", hint="do this"))
    emitter.close()
    assert [envelope for _, envelope in seen[:2]] == [
        {"v": 1, "seq": 5, "t": 12.346, "type": "note", "message": "one"},
        {"v": 1, "seq": 6, "t": 12.346, "type": "warning", "message": "two", "hint": "do this"},
    ]
    assert seen[0][0] == Noted(message="one")
    assert seen[2] == "closed"


def test_every_event_has_a_type_of_its_own():
    kinds = Event.__subclasses__()
    assert len({kind.type for kind in kinds} | {Event.type}) == len(kinds) + 1


def test_the_file_is_flushed_line_by_line_and_appended_to(tmp_path):
    path = tmp_path / "events.jsonl"
    sink = JsonlSink(path)
    emitter = Emitter([sink])
    emitter.emit(Noted(message="größer"))
    assert [event["message"] for event in read_events(path)] == ["größer"]
    sink.close()
    Emitter([JsonlSink(path)], seq=1).emit(Noted(message="later"))
    assert [event["seq"] for event in read_events(path)] == [1, 2]


def test_a_line_cut_short_by_a_kill_costs_only_itself(tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_text(json.dumps({"seq": 1}) + "\n" + '{"seq": 2, "mess')
    Emitter([JsonlSink(path)], seq=2).emit(Noted(message="after"))
    assert [event["seq"] for event in read_events(path)] == [1, 3]


def test_a_missing_file_has_no_events(tmp_path):
    assert list(read_events(tmp_path / "none.jsonl")) == []


def test_events_cannot_be_changed_after_the_fact():
    step = StepDone(
        step=1, total_steps=2, loss=0.5, learning_rate=1e-4, grad_norm=1.0, step_s=0.1, eta_s=0.1, epoch=0.5
    )
    with pytest.raises(AttributeError):
        step.loss = 0.0
