"""Runs of the real program in processes of their own, on the base model that ships with the project."""

import os
import subprocess
import sys

import pytest

from tests.e2e.runs import ROOT


@pytest.fixture(scope="session")
def cache_folder(tmp_path_factory):
    """One cache for all runs of the session, away from the user's own."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def environment(cache_folder):
    """The environment of a headless run."""
    return {
        **os.environ,
        "TUNER_CACHE": str(cache_folder),
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "2",
        "HF_HUB_OFFLINE": "1",
        "NO_COLOR": "1",
    }


@pytest.fixture(scope="session")
def tuner(environment):
    """Call the command line and wait for it."""

    def call(*arguments, **options):
        return subprocess.run(
            [sys.executable, "-m", "cli.main", *map(str, arguments)],
            env={**environment, **options.pop("env", {})},
            capture_output=True,
            text=True,
            timeout=600,
            **options,
        )

    return call
