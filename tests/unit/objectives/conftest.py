"""Specs and sections as small as they can be."""

from types import SimpleNamespace

import pytest

from tuner import objectives
from tuner.catalog.spec import ObjectiveSpec
from tuner.config.schema import ObjectiveSection


@pytest.fixture
def make():
    """An objective from spec values and preset values."""

    def build(own: str, spec: dict | None = None, **section):
        facts = ObjectiveSpec.model_validate({"prediction": own, **(spec or {})})
        # Only these two fields of a model's spec matter here.
        model = SimpleNamespace(id="toy", objective=facts)
        return objectives.build(model, ObjectiveSection.model_validate(section))

    return build
