"""What the documents say is so: models, commands, files and targets they name exist."""

import json
import re
from pathlib import Path

import typer
from typer.main import get_command

from tuner.catalog import registry
from tuner.config.load import load_preset

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
DOCUMENTS = [ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "docs/verification.md")]


def test_every_model_is_in_the_readme_and_the_other_way_round():
    table = README[README.index("## Models") : README.index("## Presets")]
    named = {name for name in re.findall(r"`([a-z0-9.\-]+)`", table) if not name.startswith("tuner")}
    assert named == set(registry.models()) - {"demo"}


def test_every_command_in_the_documents_exists():
    from cli.main import app

    command = get_command(app)
    context = typer.Context(command)
    known = set(command.list_commands(context))
    for document in DOCUMENTS:
        text = document.read_text()
        blocks = "\n".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL))
        for name in re.findall(r"`tuner ([a-z]+)", text) + re.findall(r"^tuner ([a-z]+)", blocks, re.MULTILINE):
            assert name in known, f"{document.name}: tuner {name}"


def test_every_make_target_in_the_documents_exists():
    targets = set(re.findall(r"^([a-z\-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for document in DOCUMENTS:
        for name in re.findall(r"(?:`|\n)make ([a-z\-]+)", document.read_text()):
            assert name in targets, f"{document.name}: make {name}"


def test_every_link_and_picture_of_the_readme_is_there():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_shortest_preset_of_the_readme_is_valid(tmp_path):
    document = re.search(r"```json\n(.*?)\n```", README, re.DOTALL).group(1)
    path = tmp_path / "short.json"
    path.write_text(document)
    assert load_preset(str(path)).model.id == json.loads(document)["model"]["id"]


def test_every_shipped_preset_is_valid():
    shipped = sorted((ROOT / "presets").glob("*.json"))
    assert len(shipped) >= 4
    for path in shipped:
        load_preset(str(path))


def test_the_architecture_names_every_model_that_exists():
    table = (ROOT / "ARCHITECTURE.md").read_text()
    have = sum("| have |" in line for line in table.splitlines())
    assert have >= 6
    for family in {model.family for model in registry.models().values()}:
        assert f"`{family}`" in table
