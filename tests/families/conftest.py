"""One case per model of the catalogue, built once per session."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from tuner.catalog import registry

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(scope="session")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], object]:
    """Cases by model id, each built when it is first asked for."""
    import torch

    from tests.families import harness

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    built: dict[str, harness.Case] = {}

    def case_of(model_id: str) -> harness.Case:
        if model_id not in built:
            built[model_id] = harness.load_case(registry.find(model_id), tmp_path_factory.mktemp(model_id))
        return built[model_id]

    return case_of


@pytest.fixture(scope="session", params=list(registry.models()))
def case(request: pytest.FixtureRequest, cases: Callable[[str], object]) -> object:
    """Every model of the catalogue in turn (a ``harness.Case``)."""
    return cases(request.param)
