"""Experiment trackers as a sink of events: TensorBoard and Weights & Biases through accelerate."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from accelerate.tracking import GeneralTracker, TensorBoardTracker, WandBTracker

from tuner.errors import ConfigError
from tuner.events import Event, StepDone, ValidationDone
from tuner.rundir import RunDir

PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb"}


class TrackerSink:
    """Forwards steps and validation to the trackers; needs their packages, which are extras."""

    def __init__(self, names: Sequence[str], folder: RunDir, run_name: str, config: dict[str, Any]) -> None:
        for name in names:
            if find_spec(PACKAGES[name]) is None:
                raise ConfigError(
                    f"track: the package {PACKAGES[name]} is not installed", hint=f"pip install 'tuner[{name}]'"
                )
        flat = dict(_flattened(config))
        self._trackers: list[GeneralTracker] = []
        # Trackers greet on stdout, which carries data only.
        with contextlib.redirect_stdout(io.StringIO()):
            for name in names:
                tracker: GeneralTracker
                if name == "tensorboard":
                    tracker = TensorBoardTracker(run_name, logging_dir=str(folder.path / "trackers"))
                else:
                    tracker = WandBTracker(run_name, dir=str(folder.path))
                tracker.start()
                tracker.store_init_configuration(flat)
                self._trackers.append(tracker)

    def handle(self, event: Event, envelope: dict[str, Any]) -> None:
        """Forward the numbers of an event."""
        if isinstance(event, StepDone):
            values: dict[str, float] = {
                "loss": event.loss,
                "learning_rate": event.learning_rate,
                "grad_norm": event.grad_norm,
                "step_s": event.step_s,
            }
        elif isinstance(event, ValidationDone):
            values = {"validation/loss": event.loss}
            values |= {f"validation/{name}": loss for name, loss in event.by_quantile.items()}
        else:
            return
        for tracker in self._trackers:
            tracker.log(values, step=event.step)

    def close(self) -> None:
        """Write what is buffered."""
        for tracker in self._trackers:
            tracker.finish()


def _flattened(value: Any, path: str = "") -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return [pair for key, entry in value.items() for pair in _flattened(entry, f"{path}.{key}" if path else key)]
    return [(path, value if isinstance(value, int | float | str | bool) else str(value))]
