"""Presets on a made-up catalogue."""

import json
import re

import pytest

from tests.tiny_catalogue import catalogue as catalogue
from tuner.config.load import load_preset
from tuner.errors import ConfigError

SMALLEST = {"model": {"id": "tiny-still"}, "data": [{"path": "photos"}]}


@pytest.fixture
def load(tmp_path, catalogue):
    """Write a preset, with whole sections replaced, and load it."""

    def load(*flags, **sections):
        path = tmp_path / "mine.json"
        path.write_text(json.dumps({**SMALLEST, **sections}))
        return load_preset(str(path), flags)

    return load


@pytest.fixture
def problems(load):
    """The problems that loading such a preset meets: dotted path -> sentence."""

    def problems(*flags, **sections):
        with pytest.raises(ConfigError) as caught:
            load(*flags, **sections)
        _, *lines = caught.value.message.splitlines()
        found = dict(re.fullmatch(r"  (?:([\w.-]+): )?(.+)", line).groups() for line in lines)
        assert len(found) == len(lines)
        return found

    return problems
