"""What a model cannot give is refused; nothing asked for is ignored in silence."""

import pytest


def data(**options):
    return [{"path": "photos", **options}]


@pytest.mark.parametrize(
    ("sections", "path", "words"),
    [
        ({"name": "../up"}, "name", "cannot be the name of a file"),
        ({"method": {"kind": "lokr"}}, "method.kind", "cannot be trained with 'lokr'; it can with: lora, full"),
        ({"method": {"train": []}}, "method.train", "nothing is left to train"),
        ({"method": {"train": ["transfomer"]}}, "method.train.0", "did you mean 'transformer'?"),
        ({"method": {"train": ["vae"]}}, "method.train.0", "no trainable component 'vae'"),
        (
            {"training": {"learning_rates": {"text_encoder": 1e-5}}},
            "training.learning_rates.text_encoder",
            "not trained",
        ),
        ({"training": {"learning_rates": {"unet": 1e-5}}}, "training.learning_rates.unet", "no trained component"),
        ({"model": {"id": "tiny-still", "components": {"vea": "x"}}}, "model.components.vea", "did you mean 'vae'?"),
        ({"model": {"id": "tiny-still", "path": "x", "revision": "y"}}, "model.revision", "no effect with model.path"),
        ({"model": {"id": "tiny-bundled", "revision": "y"}}, "model.revision", "comes with tuner"),
        ({"data": data(references=["a"])}, "data.0.references", "takes no reference images"),
        (
            {"model": {"id": "tiny-edit"}, "data": data(references=["a", "b"])},
            "data.0.references",
            "takes 1 per sample",
        ),
        ({"data": data(kind="clips")}, "data.0.kind", "does not train on clips"),
        ({"data": data(frames=5)}, "data.0.frames", "image model"),
        ({"model": {"id": "tiny-clip"}, "data": data(kind="images", fps=8)}, "data.0.fps", "data.kind is 'images'"),
        ({"objective": {"guidance": 2.0}}, "objective.guidance", "does not embed guidance"),
        ({"preview": {"frames": 5}}, "preview.frames", "image model"),
        (
            {"preview": {"prompts": [{"prompt": "a", "references": ["x.png"]}]}},
            "preview.prompts.0.references",
            "takes no reference images",
        ),
        (
            {"model": {"id": "tiny-edit"}, "preview": {"prompts": ["a", {"prompt": "a", "references": ["x", "y"]}]}},
            "preview.prompts.1.references",
            "takes 1 per picture",
        ),
        ({"method": {"kind": "full"}, "save": {"format": "kohya"}}, "save.format", "diffusers folder"),
        ({"objective": {"loss": {"c": 0.5}}}, "objective.loss.c", "no effect with objective.loss.kind 'mse'"),
        ({"objective": {"snr_gamma": 5.0}}, "objective.snr_gamma", "no effect with objective.weighting 'none'"),
        ({"objective": {"timesteps": {"beta": [1, 1]}}}, "objective.timesteps.beta", "sampling 'logit_normal'"),
        (
            {"objective": {"timesteps": {"sampling": "custom", "values": [0.5], "shift": 3.0}}},
            "objective.timesteps.shift",
            "sampling 'custom'",
        ),
        (
            {"training": {"schedule": {"name": "constant", "end_factor": 0.5}}},
            "training.schedule.end_factor",
            "no effect with training.schedule.name 'constant'",
        ),
    ],
)
def test_what_the_model_cannot_give_is_refused(problems, sections, path, words):
    found = problems(**sections)
    assert list(found) == [path]
    assert words in found[path]


@pytest.mark.parametrize(
    "sections",
    [
        {"method": {"train": ["transformer", "text_encoder"]}, "training": {"learning_rates": {"text_encoder": 0}}},
        {"model": {"id": "tiny-edit"}, "data": data(references=["a"]), "objective": {"guidance": 3.5}},
        {"model": {"id": "tiny-clip"}, "data": data(kind="clips", frames=5, fps=8.0), "preview": {"frames": 5}},
        {"model": {"id": "tiny-still", "revision": "main"}},
        {"method": {"kind": "full"}, "save": {"format": "diffusers"}},
        {"objective": {"timesteps": {"mean": 0.5, "std": 2.0}}},
        {"training": {"schedule": {"end_factor": 0.1}}},
    ],
)
def test_what_the_model_can_give_passes(load, sections):
    resolved = load(**sections)
    assert all(resolved.origins[path] != "default" for path in ("model.id", "data.0.path"))


def test_method_options_without_effect_are_refused_by_the_schema(problems):
    found = problems(method={"kind": "full", "rank": 4})
    assert "rank has no effect with kind 'full'" in found["method"]


def test_a_models_defaults_for_another_method_or_schedule_are_dropped(load):
    resolved = load(method={"kind": "full"}, training={"schedule": {"name": "cosine"}})
    assert resolved.origins["method.rank"] == "default"
    assert resolved.origins["training.schedule.decay_share"] == "default"
    assert load().preset.training.schedule.decay_share == 0.5
