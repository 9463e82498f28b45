"""What the network is asked to predict: noise levels, noisy latents, targets, weights and losses."""

from __future__ import annotations

from tuner.catalog.spec import ModelSpec
from tuner.config.schema import ObjectiveSection
from tuner.errors import ConfigError
from tuner.objectives.base import Objective
from tuner.objectives.diffusion import DiffusionObjective, zero_terminal_snr
from tuner.objectives.flow import FlowObjective


def as_trained(spec: ModelSpec, section: ObjectiveSection) -> ModelSpec:
    """The model's facts as the preset has them trained, so that previews are drawn for the same objective."""
    prediction = spec.objective.prediction if section.prediction == "auto" else section.prediction
    schedule = spec.objective.schedule
    if prediction != "flow":
        zero = zero_terminal_snr(section, schedule, prediction)
        schedule = schedule.model_copy(update={"zero_terminal_snr": zero})
    objective = spec.objective.model_copy(update={"prediction": prediction, "schedule": schedule})
    return spec.model_copy(update={"objective": objective})


def build(spec: ModelSpec, section: ObjectiveSection) -> Objective:
    """The objective of a model as a preset asks for it.

    Raises ``ConfigError`` for every option that has no meaning for this kind of model: nothing is ignored.
    """
    own = spec.objective.prediction
    prediction = own if section.prediction == "auto" else section.prediction
    if (prediction == "flow") != (own == "flow"):
        raise ConfigError(
            f"objective.prediction: {spec.id} was trained for {own!r} and cannot learn {prediction!r}",
            hint="leave objective.prediction on 'auto'",
        )
    if prediction == "flow":
        return FlowObjective(spec.objective, section)
    return DiffusionObjective(spec.objective, section, prediction)
