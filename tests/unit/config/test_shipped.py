"""The presets that come with tuner are found from a checkout and from an installed wheel, and are valid."""

import json

import pytest

from tuner.config import shipped
from tuner.config.load import load_preset
from tuner.errors import ConfigError


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """Folders as in an installed wheel, where presets lie inside the package."""
    inside = tmp_path / "site-packages" / "tuner" / "presets"
    (inside / "demo").mkdir(parents=True)
    for name in ("demo.json", "flux1-dev.lora.json", "notes.txt"):
        (inside / name).write_text(json.dumps({}))
    monkeypatch.setattr(shipped, "SHIPPED_FOLDERS", (inside, tmp_path / "presets"))
    return inside


def test_names_are_those_of_json_files_only(wheel):
    assert shipped.names() == ["demo", "flux1-dev.lora"]


def test_a_checkout_is_used_when_nothing_is_installed(wheel, tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "SHIPPED_FOLDERS", (tmp_path / "nowhere", wheel))
    assert shipped.folder() == wheel


@pytest.mark.parametrize("argument", ["flux1-dev.lora", "flux1-dev.lora.json"])
def test_a_name_is_found_with_and_without_its_ending(wheel, tmp_path, monkeypatch, argument):
    monkeypatch.chdir(tmp_path)
    assert shipped.find(argument) == wheel / "flux1-dev.lora.json"
    assert shipped.path_of(argument) == wheel / "flux1-dev.lora.json"


def test_an_existing_file_comes_before_a_name(wheel, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo.json").write_text("{}")
    assert shipped.find("demo.json").resolve() == tmp_path / "demo.json"
    assert shipped.find("demo") == wheel / "demo.json"


def test_a_folder_named_like_a_shipped_preset_does_not_hide_it(wheel, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()
    assert shipped.find("demo") == wheel / "demo.json"


@pytest.mark.parametrize(
    ("argument", "hint"),
    [("flux-dev.lora", "did you mean 'flux1-dev.lora'?"), ("zzz", "`tuner presets ls` lists the shipped presets")],
)
def test_what_is_neither_gets_the_closest_name(wheel, argument, hint):
    for look in (shipped.find, shipped.path_of):
        with pytest.raises(ConfigError) as caught:
            look(argument)
        assert caught.value.hint == hint


def test_a_folder_is_no_preset(wheel, tmp_path):
    with pytest.raises(ConfigError, match="is a folder"):
        shipped.find(str(tmp_path))


def test_the_repository_ships_the_demo():
    assert "demo" in shipped.names()


@pytest.mark.parametrize("name", shipped.names())
def test_every_shipped_preset_is_valid_and_described(name):
    resolved = load_preset(name)
    assert resolved.preset.description
    assert resolved.model.id == resolved.preset.model.id


def test_paths_of_a_shipped_preset_are_beside_it_or_where_one_is(wheel, tmp_path, monkeypatch):
    (wheel / "demo.json").write_text(
        json.dumps({"model": {"id": "demo"}, "data": [{"path": "demo"}, {"path": "photos"}]})
    )
    monkeypatch.chdir(tmp_path)
    paths = [source["path"] for source in load_preset("demo").portable()["data"]]
    assert paths == [str(wheel / "demo"), str(tmp_path / "photos")]
