import pytest

from tuner import objectives
from tuner.catalog import registry
from tuner.config.schema import ObjectiveSection


@pytest.mark.parametrize(
    ("model", "section", "prediction", "zero"),
    [
        ("sdxl-base", {}, "epsilon", False),
        ("sdxl-base", {"prediction": "v_prediction"}, "v_prediction", False),
        ("sdxl-base", {"prediction": "v_prediction", "zero_terminal_snr": True}, "v_prediction", True),
        ("sdxl-vpred", {}, "v_prediction", True),
        ("sdxl-vpred", {"prediction": "epsilon"}, "epsilon", False),
    ],
)
def test_previews_follow_what_the_preset_trains(model, section, prediction, zero):
    section = ObjectiveSection.model_validate(section)
    objective = objectives.as_trained(registry.find(model), section).objective
    assert (objective.prediction, objective.schedule.zero_terminal_snr) == (prediction, zero)
    built = objectives.build(registry.find(model), section)
    assert built.prediction == prediction
    assert (float(built.alphas_cumprod[-1]) == 0.0) is zero
