"""Layers, their origins, and everything that makes a preset unusable."""

import json

import pytest

from tuner.config.load import json_schema, load_preset, load_run
from tuner.config.schema import SCHEMA_VERSION
from tuner.errors import ConfigError, ExitCode


def test_the_smallest_preset_is_filled_in_from_the_model_and_the_schema(load, tmp_path):
    resolved = load()
    assert resolved.name == "mine"
    assert resolved.base == tmp_path
    assert resolved.model.id == "tiny-still"
    assert resolved.preset.method.rank == 32
    assert resolved.preset.training.learning_rate == 3e-4
    assert resolved.preset.training.steps == 1000


def test_a_flag_wins_over_the_preset_over_the_model_over_the_default(load):
    resolved = load("training.steps=7", training={"steps": 5, "batch_size": 2}, method={"kind": "lora"})
    assert (resolved.preset.training.steps, resolved.preset.training.batch_size) == (7, 2)
    expected = {
        "training.steps": "flag",
        "training.batch_size": "preset",
        "training.learning_rate": "model",
        "training.seed": "default",
        "data.0.path": "preset",
        "data.0.repeats": "default",
        "method.kind": "preset",
        "method.rank": "model",
    }
    assert {path: resolved.origins[path] for path in expected} == expected


def test_every_value_has_an_origin(load):
    origins = load('preview.prompts=[{"prompt": "a"}]').origins
    assert origins["preview.prompts.0.prompt"] == "flag"
    assert origins["preview.prompts.0.references"] == "default"
    assert {"training.ema", "objective.timesteps.shift", "track"} <= origins.keys()


@pytest.mark.parametrize(
    ("flag", "path", "value"),
    [
        ("training.learning_rate=1e-5", ("training", "learning_rate"), 1e-5),
        ("method.rslora=true", ("method", "rslora"), True),
        ('method.targets=["to_q"]', ("method", "targets"), ["to_q"]),
        ("name=2024", ("name",), "2024"),
        ("name=null", ("name",), None),
        ('name="2024"', ("name",), "2024"),
        ("data.0.captions.trigger=true", ("data", 0, "captions", "trigger"), "true"),
        ("data.0.resolution_px=[32, 64]", ("data", 0, "resolution_px"), [32, 64]),
        ("data.0.resolution_px=auto", ("data", 0, "resolution_px"), "auto"),
        ('data.1={"path": "/more"}', ("data", 1, "path"), "/more"),
        ("data.1.path=/more", ("data", 1, "path"), "/more"),
        ("training.ema.decay=0.5", ("training", "ema", "decay"), 0.5),
        ("training.learning_rates.transformer=0", ("training", "learning_rates", "transformer"), 0),
        ('preview.prompts=["a=b"]', ("preview", "prompts", 0), "a=b"),
    ],
)
def test_set_reads_json_where_the_field_is_not_text(load, flag, path, value):
    here = load(flag).preset
    for part in path:
        here = getattr(here, part) if isinstance(part, str) and hasattr(here, part) else here[part]
    assert here == value


def test_paths_typed_as_flags_are_relative_to_the_current_folder(load, tmp_path, monkeypatch):
    here = tmp_path / "elsewhere"
    here.mkdir()
    monkeypatch.chdir(here)
    resolved = load("data.0.path=photos", "model.path=base", data=[{"path": "x", "masks": "masks"}])
    portable = resolved.portable()
    assert portable["data"][0]["path"] == str(here / "photos")
    assert portable["model"]["path"] == str(here / "base")
    assert portable["data"][0]["masks"] == str(tmp_path / "masks")


@pytest.mark.parametrize("flag", ["training.steps", "=5", "a..b=5", ".a=5"])
def test_a_flag_that_is_no_assignment_is_refused(load, flag):
    with pytest.raises(ConfigError, match="expected KEY=VALUE"):
        load(flag)


@pytest.mark.parametrize("flag", ["data.2.path=x", "data.path=x"])
def test_a_flag_for_an_entry_that_is_not_there_is_refused(load, flag):
    with pytest.raises(ConfigError, match="data has no entry") as caught:
        load(flag)
    assert "data.1 adds one" in caught.value.hint


def test_unknown_flags_are_refused_with_the_closest_key(problems):
    assert problems("trainng.steps=5") == {"trainng": "there is no such key; did you mean 'training'?"}
    assert problems("training.stps=5") == {"training.stps": "there is no such key; did you mean 'steps'?"}
    assert problems("data.0.repeat=5") == {"data.0.repeat": "there is no such key; did you mean 'repeats'?"}


def test_a_key_in_the_wrong_section_is_sent_home(problems):
    assert problems(batch_size=4) == {"batch_size": "there is no such key; did you mean 'training.batch_size'?"}


def test_all_problems_come_at_once_in_order(problems):
    found = problems(
        model={},
        data=[{"path": 3, "repeats": 0, "resolution_px": "big"}],
        training={"steps": "500", "batch_size": 1.5, "schedule": {"name": "cosin"}},
        preview={"prompts": [{"promt": "x"}]},
    )
    assert found == {
        "model.id": "is required",
        "data.0.path": "must be text, not 3",
        "data.0.repeats": "must be above 0, not 0",
        "data.0.resolution_px": "must be a whole number or a list or 'auto', not \"big\"",
        "training.steps": 'must be a whole number, not "500"',
        "training.batch_size": "must be a whole number, not 1.5",
        "training.schedule.name": "must be 'constant', 'linear', 'cosine', 'rex' or 'wsd', not \"cosin\"; "
        "did you mean 'cosine'?",
        "preview.prompts.0.prompt": "is required",
        "preview.prompts.0.promt": "there is no such key; did you mean 'prompt'?",
    }


@pytest.mark.parametrize(
    ("sections", "path", "sentence"),
    [
        ({"data": []}, "data", "must be a list of at least 1, not []"),
        ({"data": {"path": "x"}}, "data", 'must be a list, not {"path": "x"}'),
        ({"training": []}, "training", "must be an object, not []"),
        ({"training": {"ema": {"decay": 2}}}, "training.ema.decay", "must be below 1.0, not 2"),
        ({"method": {"rslora": "yes"}}, "method.rslora", 'must be true or false, not "yes"'),
        ({"method": {"rank_pattern": {"x": 0}}}, "method.rank_pattern.x", "must be above 0, not 0"),
        ({"data": [{"path": "x", "resolution_px": [0]}]}, "data.0.resolution_px.0", "must be above 0, not 0"),
        (
            {"objective": {"timesteps": {"min": 0.9, "max": 0.1}}},
            "objective.timesteps",
            "min (0.9) must be below max (0.1)",
        ),
        (
            {"data": [{"path": "x", "role": "validation"}]},
            None,
            "data: every source has the role 'validation'; nothing is left to train",
        ),
    ],
)
def test_wrong_values_are_told_by_place_and_expectation(problems, sections, path, sentence):
    found = problems(**sections)
    assert found == ({path: sentence} if path else {"data": sentence.removeprefix("data: ")})


def test_an_unknown_model_is_told_with_the_closest_one_beside_other_problems(problems):
    found = problems(model={"id": "tiny-stil"}, training={"steps": 0})
    assert found == {
        "model.id": "there is no model 'tiny-stil'; did you mean 'tiny-still'?",
        "training.steps": "must be above 0, not 0",
    }


@pytest.mark.parametrize(
    ("text", "place", "line"),
    [
        ('{\n  "model": {"id": "x",}\n}', ":2:23: ", '  "model": {"id": "x",}'),
        ("{\n  'a': 1\n}", ":2:3: ", "  'a': 1"),
        ('{"a": 1', ":1:8: ", '{"a": 1'),
        ("", ":1:1: ", ""),
    ],
)
def test_a_syntax_error_shows_file_line_column_and_the_line(tmp_path, catalogue, text, place, line):
    path = tmp_path / "broken.json"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_preset(str(path))
    first, shown, caret = caught.value.message.split("\n")
    assert first.startswith(f"{path}{place}")
    assert shown == f"  {line}"
    assert caret.index("^") == 2 + int(place.split(":")[2]) - 1
    assert caught.value.hint is not None


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"[]", "a preset is a JSON object"),
        (b'{"model": {}, "model": {}}', "'model' appears twice"),
        (b'{"training": {"learning_rate": NaN}}', "NaN is not a number"),
        (b"\xff\xfe\x00", "not text in UTF-8"),
    ],
)
def test_a_file_that_is_no_preset_is_refused(tmp_path, catalogue, data, message):
    path = tmp_path / "odd.json"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=message):
        load_preset(str(path))


def test_a_preset_of_a_newer_version_says_to_update(load):
    with pytest.raises(ConfigError, match=f"schema_version {SCHEMA_VERSION + 1}") as caught:
        load(schema_version=SCHEMA_VERSION + 1, something_new={})
    assert "update tuner" in caught.value.hint
    assert caught.value.exit_code == ExitCode.PRESET


def test_a_missing_file_is_told_with_the_closest_shipped_preset(catalogue):
    with pytest.raises(ConfigError, match=r"no preset 'demoo\.json'") as caught:
        load_preset("demoo.json")
    assert caught.value.hint == "did you mean 'demo'?"


def test_a_run_is_read_from_its_folder_and_not_taken_for_a_preset(load, tmp_path):
    run = tmp_path / "runs" / "mine"
    run.mkdir(parents=True)
    (run / "preset.json").write_text(json.dumps(load().portable()))
    assert load_run(run).name == "mine"
    with pytest.raises(ConfigError) as caught:
        load_preset(str(run))
    assert f"--resume {run}" in caught.value.hint
    with pytest.raises(ConfigError, match="holds no run"):
        load_run(tmp_path)


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"method": {"kind": "full"}},
        {"method": {"kind": "lokr", "factor": 4}, "model": {"id": "tiny-edit"}},
        {"objective": {"timesteps": {"sampling": "custom", "values": [0.5]}, "loss": {"kind": "huber", "c": 0.2}}},
        {"objective": {"timesteps": {"sampling": "beta", "beta": [1.0, 2.0]}}, "training": {"ema": {}}},
        {"training": {"schedule": {"name": "linear", "end_factor": 0.1}}},
        {"preview": {"prompts": ["a", {"prompt": "b", "seed": 3}]}},
    ],
)
def test_the_portable_preset_means_the_same_in_any_folder(load, tmp_path, sections):
    resolved = load(**sections)
    folder = tmp_path / "another" / "place"
    folder.mkdir(parents=True)
    (folder / "preset.json").write_text(json.dumps(resolved.portable()))
    again = load_run(folder)
    assert again.portable() == resolved.portable()
    assert again.path(again.preset.data[0].path) == tmp_path / "photos"


def test_the_schema_names_models_and_describes_every_key(catalogue):
    schema = json_schema()
    assert schema["$defs"]["ModelSection"]["properties"]["id"]["examples"] == list(catalogue)
    sections = [schema, *schema["$defs"].values()]
    assert all(section["description"] for section in sections)
    # A key that holds a section is described by the section.
    fields = [(key, field) for section in sections for key, field in section["properties"].items()]
    assert [key for key, field in fields if not field.keys() & {"description", "$ref"}] == []


def test_replaced_components_are_absolute(load, tmp_path):
    resolved = load(model={"id": "tiny-still", "components": {"vae": "vae.safetensors"}})
    assert resolved.overrides == {"vae": tmp_path / "vae.safetensors"}
