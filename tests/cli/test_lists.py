"""`models`, `presets` and `schema`: lists for people, documents for programs."""

import json

import pytest

from cli.render.columns import columns
from tuner.config import shipped
from tuner.config.load import load_preset
from tuner.errors import ConfigError


def test_models_line_up_for_people(invoke, catalogue):
    lines = invoke("models").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["MODEL", *catalogue]
    assert lines[2].split() == [
        "tiny-edit",
        "image",
        "1.5M",
        "lora,lokr,loha,dora,full",
        "Apache-2.0",
        "(gated)",
        "Edit",
    ]
    titles = ["TITLE", "Still", "Edit", "Clip", "Bundled"]
    assert len({line.index(title) for line, title in zip(lines, titles, strict=True)}) == 1


def test_models_are_one_document_for_programs(invoke, catalogue):
    still, edit, clip, bundled = json.loads(invoke("models", "--json").stdout)
    assert still == {
        "id": "tiny-still",
        "title": "Still",
        "family": "tiny",
        "modality": "image",
        "params": 1_500_000,
        "licence": "Apache-2.0",
        "methods": ["lora", "full"],
        "references": 0,
        "resolution_px": 64,
        "frames": 1,
        "repo": "tiny/still",
        "download_gib": 1.5,
        "gated": False,
        "source": "made up",
    }
    assert (edit["gated"], edit["references"], clip["frames"]) == (True, 1, 5)
    assert (bundled["repo"], bundled["download_gib"], bundled["gated"]) == (None, 0, False)


@pytest.mark.parametrize(("params", "shown"), [(5_146_176, "5.1M"), (742_000_000, "0.7B"), (11_901_408_320, "11.9B")])
def test_sizes_are_told_as_people_tell_them(params, shown):
    from cli.models import _params

    assert _params(params) == shown


def test_presets_are_listed(invoke):
    lines = invoke("presets", "ls").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["PRESET", *shipped.names()]
    rows = json.loads(invoke("presets", "ls", "--json").stdout)
    demo = next(row for row in rows if row["name"] == "demo")
    assert demo["model"] == "demo"
    assert demo["path"] == str(shipped.folder() / "demo.json")


def test_a_preset_is_shown_as_it_stands(invoke):
    assert invoke("presets", "show", "demo").stdout == (shipped.folder() / "demo.json").read_text()
    wrong = invoke("presets", "show", "dmo")
    assert isinstance(wrong.exception, ConfigError)
    assert wrong.exception.hint == "did you mean 'demo'?"


def test_a_copy_runs_from_where_it_is(invoke, tmp_path):
    done = invoke("presets", "copy", "demo", tmp_path)
    assert done.stdout == f"{tmp_path / 'demo.json'}\n"
    copied, original = load_preset(str(tmp_path / "demo.json")), load_preset("demo")
    assert copied.portable() == original.portable()


def test_a_copy_into_a_new_folder_under_a_new_name(invoke, tmp_path):
    target = tmp_path / "new" / "mine.json"
    assert invoke("presets", "copy", "demo", target).exit_code == 0
    assert json.loads(target.read_text())["model"] == {"id": "demo"}


def test_a_copy_replaces_nothing(invoke, tmp_path):
    (tmp_path / "demo.json").write_text("mine")
    done = invoke("presets", "copy", "demo", tmp_path)
    assert isinstance(done.exception, ConfigError)
    assert (tmp_path / "demo.json").read_text() == "mine"


def test_the_schema_is_json(invoke):
    schema = json.loads(invoke("schema").stdout)
    assert schema["properties"]["data"]["type"] == "array"
    assert schema["additionalProperties"] is False


def test_columns_leave_no_blanks_at_line_ends():
    assert columns([["a", "bb"], ["ccc", ""]]) == "a    bb\nccc"
