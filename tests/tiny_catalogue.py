"""A catalogue of made-up models, one for each thing a preset may ask of a model or not."""

import pytest

from tuner.catalog import registry

SPEC = r"""
family = "tiny"
implementation = "tuner.families.tiny.family:TinyFamily"
source = "made up"
licence = "Apache-2.0"
pipeline = "TinyPipeline"
params = 1_500_000
resolution_px = 64
text_tokens = 8
methods = ["lora", "full"]

[components.tokenizer]
class = "tiny.Tokenizer"
role = "tokenizer"
[components.text_encoder]
class = "tiny.TextEncoder"
role = "text_encoder"
trainable = true
[components.vae]
class = "tiny.Vae"
role = "vae"
[components.transformer]
class = "tiny.Transformer"
role = "denoiser"

[latents]
channels = 4
spatial = 8
divisible_px = 8
tokens_px = 8
[objective]
prediction = "flow"
sampling = "logit_normal"
[sampling]
steps = 4
guidance_scale = 1.0
[save]
auto = "diffusers"
architecture = "tiny"
base_version = "tiny"
[download]
repo = "tiny/still"
patterns = ["*/config.json", "*/*.safetensors"]
size_gib = 1.5

[[models]]
id = "tiny-still"
title = "Still"
[models.defaults.method]
rank = 32
[models.defaults.training]
learning_rate = 3e-4
[models.defaults.training.schedule]
name = "wsd"
decay_share = 0.5

[[models]]
id = "tiny-edit"
title = "Edit"
references = 1
methods = ["lora", "lokr", "loha", "dora", "full"]
[models.objective]
guidance = 1.0
[models.download]
gated = true

[[models]]
id = "tiny-clip"
title = "Clip"
modality = "video"
frames = 5
fps = 8.0

[[models]]
id = "tiny-bundled"
title = "Bundled"
bundled = "tiny/base"
"""


@pytest.fixture
def catalogue(tmp_path, monkeypatch):
    """The made-up catalogue in place of the real one."""
    families = tmp_path / "families"
    (families / "tiny").mkdir(parents=True)
    (families / "tiny" / "spec.toml").write_text(SPEC)
    monkeypatch.setattr(registry, "FAMILIES_FOLDER", families)
    registry.models.cache_clear()
    yield registry.models()
    registry.models.cache_clear()
