"""A recorded run as lines, as a log, as JSON and on a terminal."""

import io
import json
import re
import time

import pytest
from rich.console import Console

from cli.render.jsonl import JsonSink
from cli.render.lenient import Lenient
from cli.render.lines import LineSink, LogSink
from cli.render.live import LiveSink
from cli.render.words import duration, how_to_load, sentences, size
from tests.cli.conftest import RECORDED, RESULT, step
from tuner.events import Failed, Noted, PhaseProgress, PhaseStarted, ProofDone, RunFinished, RunStarted, SampleSaved

LINES = """\
run runs/demo
lora on demo, 300 steps
plan dtype fp32 (there is no GPU)
plan device cpu
scan
scan done in 0.2 s; 24 images; peak RAM 0.5 GiB
cache-text: 25 captions
cache-text 5/25 20.0%
cache-text 25/25 100.0%
cache-text done in 0.6 s; peak RAM 1.2 GiB, VRAM 3.5 GiB
warning: 3 captions are longer than 24 tokens (shorten them)
step 0 preview runs/demo/samples/step-000000-0.png (a [red] star)
step 0 validation loss 0.2500 (0.2500 before training)
train: 300 steps
step 1/300 0.3% loss 0.1000 lr 1.0e-04 0.50 s/it eta 2m
step 4/300 1.3% loss 0.0361 lr 1.0e-04 0.50 s/it eta 2m
step 7/300 2.3% loss 0.0170 lr 1.0e-04 0.50 s/it eta 2m
step 8/300 2.7% loss 0.0200 lr 1.0e-04 34.50 s/it vram 17.9 GiB eta 2h 00m
step 8 checkpoint runs/demo/checkpoints/step-000008 (12.3 MB in 0.2 s)
step 300/300 100.0% loss 0.0003 lr 1.0e-04 0.50 s/it eta 0s
train done in 40.8 s
saving
proof: FluxPipeline loads demo.safetensors: 12 modules, update norm 1.5, output within 1.0e-07 of the trained model
finished: 300 steps in 1h 05m, final loss 0.0512, peak RAM 1.2 GiB
saved: runs/demo/demo.safetensors
contact sheet: runs/demo/samples/sheet.png
use it in Python: pipeline.load_lora_weights("runs/demo/demo.safetensors")
use it in ComfyUI: put it into models/loras, add Load LoRA
"""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59.4, "59s"), (59.6, "1m"), (2640, "44m"), (3599, "1h 00m"), (7500, "2h 05m"), (360_000, "100h 00m")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(("count", "text"), [(12_300_000, "12.3 MB"), (3 * 2**30, "3.0 GiB")])
def test_sizes(count, text):
    assert size(count) == text


def test_lines_are_exact(play):
    stream = io.StringIO()
    play(LineSink(stream))
    assert stream.getvalue() == LINES


def test_long_steps_speak_every_thirty_seconds_and_short_ones_every_percent(play):
    stream = io.StringIO()
    slow = [(31.0 * number, step(number, total_steps=100_000)) for number in range(1, 4)]
    fast = [(100.0 + 0.001 * number, step(number, total_steps=100_000)) for number in range(4, 3001)]
    play(LineSink(stream), slow + fast)
    spoken = [int(number) for number in re.findall(r"step (\d+)/", stream.getvalue())]
    assert spoken == [1, 2, 3, 1003, 2003]


def test_the_figures_of_a_line_are_means_since_the_line_before(play):
    stream = io.StringIO()
    losses = [4.0, 1.0, 2.0, 3.0]
    play(LineSink(stream), [(0.1 * n, step(n, loss=loss)) for n, loss in enumerate(losses, start=1)])
    assert re.findall(r"loss ([\d.]+)", stream.getvalue()) == ["4.0000", "2.0000"]


def test_phases_without_a_total_speak_by_the_clock(play):
    stream = io.StringIO()
    events = [(0.0, PhaseStarted(phase="scan"))]
    events += [(float(second), PhaseProgress(phase="scan", done=second)) for second in range(1, 70)]
    play(LineSink(stream), events)
    assert stream.getvalue() == "scan\nscan 30\nscan 60\n"


def test_a_failure_is_left_to_the_command_but_logged(play, tmp_path, monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    failure = [(86_400.0, Failed(message="no pictures", hint="add some", exit_code=3))]
    stream = io.StringIO()
    play(LineSink(stream), failure)
    assert stream.getvalue() == ""
    play(LogSink(tmp_path / "log.txt"), failure)
    assert (tmp_path / "log.txt").read_text() == (
        "1970-01-02 00:00:00 error: no pictures\n1970-01-02 00:00:00 hint: add some\n"
    )


def test_the_log_appends_and_waits_for_the_folder(play, tmp_path):
    folder = tmp_path / "later"
    sinks = [LogSink(folder / "log.txt"), LogSink(folder / "log.txt")]
    folder.mkdir()
    for sink in sinks:
        play(sink)
    lines = (folder / "log.txt").read_text().splitlines()
    assert len(lines) == 2 * len(LINES.splitlines())
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \S", line) for line in lines)


def test_a_log_of_nothing_makes_no_file(tmp_path):
    LogSink(tmp_path / "log.txt").close()
    assert list(tmp_path.iterdir()) == []


def test_json_lines_are_the_envelopes(play):
    stream = io.StringIO()
    play(JsonSink(stream))
    events = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [event["type"] for event in events] == [event.type for _, event in RECORDED]
    assert events[0] == {
        "v": 1,
        "seq": 1,
        "t": 0.0,
        "type": "run_started",
        "run": "runs/demo",
        "model": "demo",
        "method": "lora",
        "total_steps": 300,
        "resumed_step": None,
    }


@pytest.fixture
def console():
    return Console(record=True, force_terminal=True, width=80, file=io.StringIO(), color_system="truecolor")


def test_on_a_terminal_finished_things_stay_in_order(play, console):
    sink = LiveSink(console)
    play(sink)
    text = console.export_text(clear=False)
    expected = [
        "run runs/demo",
        "lora on demo, 300 steps",
        "dtype",
        "there is no GPU",
        "✓ scan  0.2 s  24 images; peak RAM 0.5 GiB",
        "✓ cache-text  0.6 s",
        "warning: 3 captions",
        "step 0 preview runs/demo/samples/step-000000-0.png (a [red] star)",
        "step 0 validation loss 0.2500",
        "step 8 checkpoint runs/demo/checkpoints/step-000008 (12.3 MB in 0.2 s)",
        "✓ train  40.8 s",
        "saving",
        "✓ proof: FluxPipeline loads demo.safetensors",
        "finished: 300 steps in 1h 05m",
        "saved: runs/demo/demo.safetensors",
        "contact sheet: runs/demo/samples/sheet.png",
        "use it in Python: pipeline.load_lora_weights",
    ]
    places = [text.find(words) for words in expected]
    assert -1 not in places
    assert places == sorted(places)


def moving_part(sink: LiveSink, width: int = 80) -> str:
    plain = Console(record=True, force_terminal=True, width=width, file=io.StringIO())
    plain.print(sink._progress.get_renderable())
    return plain.export_text()


def test_on_a_terminal_the_bar_shows_the_step_on_one_line_of_80(console):
    sink = LiveSink(console)
    assert "starting" in moving_part(sink)
    sink.handle(RECORDED[0][1], {})
    sink.handle(PhaseStarted(phase="cache-text", total=25, unit="captions"), {})
    sink.handle(PhaseProgress(phase="cache-text", done=5, total=25), {})
    assert re.search(r"cache-text .* 5/25\s*\n", moving_part(sink))
    for number in (1, 2):
        sink.handle(step(number, loss=float(number), vram_gib=17.94), {})
    (line,) = [line for line in moving_part(sink).splitlines() if "train" in line]
    assert "2/300 loss 1.0500 lr 1.0e-04 0.50 s/it vram 17.9 GiB eta 2m" in line
    assert len(line) <= 80
    sink.close()


def test_on_a_terminal_long_paths_are_not_broken(console):
    sink = LiveSink(console)
    path = "/data/" + "x" * 120 + ".png"
    sink.handle(SampleSaved(step=1, prompt="p", path=path), {})
    sink.close()
    assert path in console.export_text()


def test_on_a_terminal_without_unicode_marks_are_words(play):
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="backslashreplace")  # as stderr is
    play(LiveSink(Console(force_terminal=True, width=80, file=file)))
    file.flush()
    text = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", file.buffer.getvalue().decode("ascii"))
    assert "ok scan  0.2 s" in text
    assert "\\u" not in text


def test_on_a_terminal_a_failure_takes_the_bar_away_and_leaves_the_words_to_the_command(console):
    sink = LiveSink(console)
    sink.handle(step(1), {})
    sink.handle(Failed(message="no pictures"), {})
    assert not sink._progress.live.is_started
    sink.close()
    assert "no pictures" not in console.export_text()


class Broken:
    def __init__(self):
        self.handled = 0

    def handle(self, event, envelope):
        self.handled += 1
        raise BrokenPipeError

    def close(self):
        raise OSError("gone")


def test_a_lost_audience_does_not_stop_a_run(play):
    broken = Broken()
    play(Lenient(broken))
    assert broken.handled == 1
    play(Lenient(Broken()), [])


def test_a_closed_sink_is_closed_once_and_hears_no_more():
    class Counting:
        closed = 0

        def handle(self, event, envelope):
            raise AssertionError

        def close(self):
            self.closed += 1

    counting = Counting()
    lenient = Lenient(counting)
    lenient.close()
    lenient.close()
    lenient.handle(Noted(message="late"), {})
    assert counting.closed == 1


def test_a_resumed_run_says_from_where():
    event = RunStarted(run="r", model="m", method="lora", total_steps=9, resumed_step=4)
    assert sentences(event)[1] == "lora on m, 9 steps, going on from step 4"


def test_a_full_fine_tune_is_loaded_as_a_folder():
    result = {**RESULT, "lora": None, "artifact": "runs/full/model", "final_loss": None, "contact_sheet": None}
    assert sentences(RunFinished(result=result))[1:] == [
        "saved: runs/full/model",
        'use it in Python: DiffusionPipeline.from_pretrained("runs/full/model")',
    ]


def test_two_files_are_loaded_one_after_the_other():
    result = {**RESULT, "lora": ["high", "low"], "artifact": ["high", "low"]}
    lines = sentences(RunFinished(result=result))
    assert [line for line in lines if line.startswith("saved")] == ["saved: high", "saved: low"]
    assert 'pipeline.load_lora_weights("high"); pipeline.load_lora_weights("low")' in "\n".join(lines)


@pytest.mark.parametrize(
    ("loader", "call"),
    [
        ("FluxPipeline.load_lora_weights", 'pipeline.load_lora_weights("a.safetensors")'),
        ("FluxTransformer2DModel.load_lora_adapter", 'denoiser.load_lora_adapter("a.safetensors")'),
        ("lycoris.create_lycoris_from_weights", None),
        ("WanPipeline.load_lora_weights (renamed from kohya)", None),
    ],
)
def test_the_last_words_name_the_loader_that_was_proven(loader, call):
    result = {**RESULT, "lora": "a.safetensors", "artifact": "a.safetensors", "proof": {"loader": loader}}
    *python, comfyui = how_to_load(result)
    assert python == ([f"use it in Python: {call}"] if call else [])
    assert "ComfyUI" in comfyui


def test_the_proof_says_who_loaded_what_and_how_close_it_is():
    event = ProofDone(path="a.safetensors", loader="X", modules=3, update_norm=0.12345, relative_error=0.0)
    assert sentences(event) == [
        "proof: X loads a.safetensors: 3 modules, update norm 0.123, output within 0.0e+00 of the trained model"
    ]
