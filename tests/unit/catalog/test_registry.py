"""How specs are read, and that every spec in the repository is sound."""

import importlib.util

import pytest

from tests.tiny_catalogue import SPEC
from tests.tiny_catalogue import catalogue as catalogue
from tuner.catalog import registry
from tuner.config.checks import check
from tuner.config.effects import refused
from tuner.config.load import resolve
from tuner.errors import ConfigError, ExitCode

REAL = registry.models()


def test_overlay_merges_tables_and_replaces_everything_else():
    base = {"a": {"x": 1, "y": [1, 2]}, "b": 1, "c": {"z": 1}}
    over = {"a": {"y": [3]}, "b": {"new": 1}, "c": 2}
    assert registry.overlay(base, over) == {"a": {"x": 1, "y": [3]}, "b": {"new": 1}, "c": 2}
    assert base == {"a": {"x": 1, "y": [1, 2]}, "b": 1, "c": {"z": 1}}


def test_a_model_takes_what_it_does_not_state_from_its_family(catalogue):
    still, clip = catalogue["tiny-still"], catalogue["tiny-clip"]
    assert (still.modality, clip.modality) == ("image", "video")
    assert still.components == clip.components
    assert still.defaults["method"] == {"rank": 32}
    assert clip.defaults == {}


def test_a_bundled_model_takes_no_download_from_its_family(catalogue):
    assert catalogue["tiny-bundled"].download is None
    assert catalogue["tiny-still"].download.repo == "tiny/still"


def test_components_are_found_by_role(catalogue):
    still = catalogue["tiny-still"]
    assert list(still.denoisers) == ["transformer"]
    assert list(still.of_role("tokenizer", "text_encoder")) == ["tokenizer", "text_encoder"]
    assert still.trainable == ["text_encoder", "transformer"]


def test_the_listing_tells_the_same_as_the_validated_models(catalogue):
    assert [entry["id"] for entry in registry.listing()] == list(catalogue)


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ('role = "denoiser"', 'role = "denoise"', "role"),
        ('role = "denoiser"', 'role = "vae"', "no component has the role 'denoiser'"),
        ("text_tokens = 8", "text_tokens = 8\ntext_tokns = 8", "text_tokns"),
        ('bundled = "tiny/base"', "", "needs either"),
    ],
)
def test_a_faulty_spec_is_named(tmp_path, before, after, words):
    path = tmp_path / "spec.toml"
    text = SPEC.replace(before, after)
    if words == "needs either":
        head, _, download = text.partition("[download]")
        text = head + download[download.index("[[models]]") :]
    path.write_text(text)
    with pytest.raises(ValueError, match=words) as caught:
        registry.read_spec(path)
    assert str(path) in str(caught.value)


def test_the_same_id_in_two_families_is_an_error(catalogue, monkeypatch):
    other = registry.FAMILIES_FOLDER / "zother"
    other.mkdir()
    (other / "spec.toml").write_text(SPEC.replace('family = "tiny"', 'family = "zother"'))
    registry.models.cache_clear()
    with pytest.raises(ValueError, match="'tiny-still' is taken by family tiny"):
        registry.models()


def test_an_unknown_model_gets_the_closest_name(catalogue):
    with pytest.raises(ConfigError) as caught:
        registry.find("tiny-clp")
    assert caught.value.hint == "did you mean 'tiny-clip'?"
    assert caught.value.exit_code == ExitCode.PRESET
    with pytest.raises(ConfigError) as caught:
        registry.find("nothing like it")
    assert "tuner models" in caught.value.hint


@pytest.mark.parametrize("spec", REAL.values(), ids=REAL)
def test_a_shipped_spec_states_its_source_and_fits_itself(spec):
    assert spec.source
    assert spec.licence
    assert spec.resolution_px % spec.latents.divisible_px == 0
    assert (spec.frames - 1) % spec.latents.temporal == 0
    assert spec.latents.divisible_px % spec.latents.spatial == 0
    assert spec.of_role("vae")
    module, _, name = spec.implementation.partition(":")
    assert name
    assert importlib.util.find_spec(module) is not None
    if spec.download is not None:
        assert spec.download.patterns


@pytest.mark.parametrize("spec", REAL.values(), ids=REAL)
def test_a_shipped_models_defaults_make_a_valid_preset_for_every_method(spec):
    for kind in spec.methods:
        document = {"model": {"id": spec.id}, "method": {"kind": kind}, "data": [{"path": "x"}]}
        resolved = resolve(document, base=registry.FAMILIES_FOLDER, name="defaults")
        assert check(resolved.preset, spec) == []
    plain = resolve({"model": {"id": spec.id}, "data": [{"path": "x"}]}, base=registry.FAMILIES_FOLDER, name="plain")
    ruling = registry.overlay(spec.defaults, {"model": {"id": spec.id}})
    assert refused(spec.defaults, ruling, spec) == []
    stated = {path for path, origin in plain.origins.items() if origin == "model"}
    assert bool(stated) == bool(spec.defaults)
