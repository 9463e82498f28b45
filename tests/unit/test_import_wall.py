"""Everything up to the start of a run works without a framework: they cost seconds to import."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "diffusers", "transformers", "peft", "accelerate", "numpy")
BEFORE_THE_START = [
    "cli.main",
    "tuner.errors",
    "tuner.events",
    "tuner.rundir",
    "tuner.config.schema",
    "tuner.config.load",
    "tuner.config.shipped",
    "tuner.catalog.spec",
    "tuner.catalog.registry",
    "tuner.data.scan",
    "tuner.data.buckets",
]
REPORT = "import sys, json; print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"


def loaded_after(code: str, cwd: Path = ROOT) -> set[str]:
    """Top-level modules in a fresh process that ran ``code``; what it printed itself is thrown away."""
    program = f"import contextlib, io\nwith contextlib.redirect_stdout(io.StringIO()):\n    {code}\n{REPORT}"
    done = subprocess.run([sys.executable, "-c", program], cwd=cwd, capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


@pytest.mark.parametrize("module", BEFORE_THE_START)
def test_importing_brings_in_no_framework(module):
    assert importlib.util.find_spec(module) is not None
    loaded = loaded_after(f"import {module}")
    assert loaded.isdisjoint(HEAVY)
    assert module.partition(".")[0] in loaded


@pytest.mark.parametrize("module", [module for module in BEFORE_THE_START if module.startswith("tuner")])
def test_the_engine_knows_no_screen(module):
    assert loaded_after(f"import {module}").isdisjoint({"typer", "rich", "textual", "cli"})


@pytest.mark.parametrize(
    "call",
    [
        "from tuner.config.load import load_preset; load_preset('demo').portable()",
        "from tuner.config.load import load_preset; load_preset('demo').model_folder",
        "from tuner.config.load import json_schema; json_schema()",
        "from tuner.catalog import registry; registry.models()",
    ],
)
def test_using_it_brings_in_no_framework(call):
    assert loaded_after(call).isdisjoint({*HEAVY, "typer", "rich", "textual"})


@pytest.mark.parametrize("arguments", [["--help"], ["models"], ["presets", "ls"], ["schema"], ["run", "--help"]])
def test_commands_that_inform_bring_in_no_framework(arguments):
    code = f"import sys; from cli.main import app; app({arguments!r}, standalone_mode=False)"
    assert loaded_after(code).isdisjoint({*HEAVY, "rich.live", "textual"})


def test_the_wall_would_be_seen_to_fall():
    assert not loaded_after("import numpy").isdisjoint(HEAVY)
