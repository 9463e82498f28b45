"""Tiny models of three architectures, and specs and families just large enough to save and prove adapters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tuner.catalog.spec import ComponentSpec, ModelSpec
from tuner.config.schema import MethodSection
from tuner.families.base import Cond, Family, Latents, Source
from tuner.formats.probe import DenoiserInputs, EncoderInputs, Probe, encoder_inputs, record
from tuner.methods import AdapterAttachment, attach

CPU = torch.device("cpu")
ATTENTION = r".*\.(to_q|to_k|to_v|to_out\.0)"
ENCODER = {
    "class": "transformers.CLIPTextModel",
    "role": "text_encoder",
    "trainable": True,
    "lora_targets": [r".*(q_proj|k_proj|v_proj|out_proj|fc1|fc2)"],
}
DENOISERS: dict[str, dict[str, Any]] = {
    "flux": {
        "transformer": {
            "class": "diffusers.FluxTransformer2DModel",
            "role": "denoiser",
            "lora_targets": [r".*transformer_blocks\.\d+\.(attn|ff|ff_context|proj).*"],
        }
    },
    "sdxl": {
        "unet": {
            "class": "diffusers.UNet2DConditionModel",
            "role": "denoiser",
            "lora_targets": [ATTENTION, r".*\.ff\.net\..*"],
        }
    },
    "wan": {
        name: {
            "class": "diffusers.WanTransformer3DModel",
            "role": "denoiser",
            "label": label,
            "sigma_min": low,
            "sigma_max": high,
            "lora_targets": [r"blocks\..*"],
        }
        for name, label, low, high in (
            ("transformer", "high_noise", 0.875, 1.0),
            ("transformer_2", "low_noise", 0.0, 0.875),
        )
    },
}
ENCODERS: dict[str, dict[str, Any]] = {
    "flux": {"text_encoder": ENCODER},
    "sdxl": {
        "text_encoder": ENCODER,
        "text_encoder_2": ENCODER | {"class": "transformers.CLIPTextModelWithProjection"},
    },
    "wan": {},
}
PIPELINES = {"flux": "FluxPipeline", "sdxl": "StableDiffusionXLPipeline", "wan": "WanPipeline"}
REST = {
    "flux": {
        "scheduler": "scheduler",
        "vae": "vae",
        "tokenizer": "tokenizer",
        "text_encoder_2": "text_encoder",
        "tokenizer_2": "tokenizer",
    },
    "sdxl": {"scheduler": "scheduler", "vae": "vae", "tokenizer": "tokenizer", "tokenizer_2": "tokenizer"},
    "wan": {"scheduler": "scheduler", "vae": "vae", "tokenizer": "tokenizer", "text_encoder": "text_encoder"},
}
AUTO = {"flux": "diffusers", "sdxl": "kohya", "wan": "comfyui"}


def spec_of(family: str) -> ModelSpec:
    rest = {name: {"class": "diffusers.Unused", "role": role} for name, role in REST[family].items()}
    return ModelSpec.model_validate(
        {
            "id": f"tiny-{family}",
            "title": "Tiny",
            "params": 1,
            "licence": "Apache-2.0",
            "source": "test",
            "bundled": "none",
            "pipeline": PIPELINES[family],
            "resolution_px": 64,
            "text_tokens": 8,
            "components": {**DENOISERS[family], **ENCODERS[family], **rest},
            "latents": {"channels": 4, "spatial": 8, "divisible_px": 16, "tokens_px": 16},
            "objective": {"prediction": "epsilon" if family == "sdxl" else "flow"},
            "sampling": {"steps": 1, "guidance_scale": 1.0},
            "save": {"auto": AUTO[family], "architecture": f"arch-{family}", "base_version": f"base_{family}"},
            "methods": ["lora", "dora", "lokr", "loha", "full"],
            "family": family,
            "implementation": f"tuner.families.{family}.family:Unused",
        }
    )


class TinyFamily(Family):
    """Feeds conditions to the network under the names its forward has."""

    def encode_text(self, encoders, captions, references=None):
        raise AssertionError("not part of these tests")

    def encode_media(self, vae, pixels):
        raise AssertionError("not part of these tests")

    def pipeline_inputs(self, cond, negative):
        raise AssertionError("not part of these tests")

    def predict(
        self, denoiser: nn.Module, x_t: Latents, t: torch.Tensor, cond: Cond, guidance: float | None
    ) -> Latents:
        given = dict(cond.tensors)
        if "time_ids" in given:
            given["added_cond_kwargs"] = {name: given.pop(name) for name in ("text_embeds", "time_ids")}
        ((name, latents),) = x_t.items()
        return {name: denoiser(latents, timestep=t, **given, return_dict=False)[0]}


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def flux_parts() -> dict[str, nn.Module]:
    from diffusers import FluxTransformer2DModel

    network = FluxTransformer2DModel(
        patch_size=1,
        in_channels=8,
        num_layers=2,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=12,
        pooled_projection_dim=6,
        guidance_embeds=False,
        axes_dims_rope=(2, 2, 4),
    )
    return {"transformer": network, "text_encoder": clip()}


def sdxl_parts() -> dict[str, nn.Module]:
    from diffusers import UNet2DConditionModel

    network = UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=20,
        attention_head_dim=(1, 2),
        transformer_layers_per_block=(1, 1),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=12 + 24,
        norm_num_groups=4,
    )
    return {"unet": network, "text_encoder": clip(), "text_encoder_2": clip(projection=12)}


def wan_parts() -> dict[str, nn.Module]:
    from diffusers import WanTransformer3DModel

    def expert() -> nn.Module:
        return WanTransformer3DModel(
            patch_size=(1, 2, 2),
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=4,
            out_channels=4,
            text_dim=8,
            freq_dim=16,
            ffn_dim=20,
            num_layers=2,
            cross_attn_norm=True,
            qk_norm="rms_norm_across_heads",
            rope_max_seq_len=16,
        )

    return {"transformer": expert(), "transformer_2": expert()}


def clip(projection: int | None = None) -> nn.Module:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=30,
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=20,
        projection_dim=projection or 8,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    return CLIPTextModelWithProjection(config) if projection else CLIPTextModel(config)


PARTS = {"flux": flux_parts, "sdxl": sdxl_parts, "wan": wan_parts}


def inputs_of(family: str) -> DenoiserInputs:
    flow_t, diffusion_t = torch.tensor([0.6]), torch.tensor([501.0])
    if family == "flux":
        tensors = {
            "encoder_hidden_states": drawn(1, 3, 12, seed=1),
            "pooled_projections": drawn(1, 6, seed=2),
            "img_ids": drawn(4, 3, seed=3),
            "txt_ids": torch.zeros(3, 3),
        }
        return DenoiserInputs({"image": drawn(1, 4, 8)}, flow_t, Cond(tensors), None)
    if family == "sdxl":
        tensors = {
            "encoder_hidden_states": drawn(1, 3, 20, seed=1),
            "text_embeds": drawn(1, 12, seed=2),
            "time_ids": torch.tensor([[8.0, 8, 0, 0, 8, 8]]),
        }
        return DenoiserInputs({"image": drawn(1, 4, 8, 8)}, diffusion_t, Cond(tensors), None)
    tensors = {"encoder_hidden_states": drawn(1, 3, 8, seed=1)}
    return DenoiserInputs({"video": drawn(1, 4, 2, 4, 4)}, flow_t * 1000, Cond(tensors), None)


class World:
    """One architecture on disk, with adapters trained on it (that is: moved somewhere at random)."""

    def __init__(self, family: str, folder: Path) -> None:
        self.name = family
        self.spec = spec_of(family)
        self.family = TinyFamily(self.spec)
        self.source = Source(folder)

    def fresh(self, component: str, dtype: torch.dtype = torch.float32) -> nn.Module:
        return self.family.load(component, self.source, dtype)

    def inputs(self, component: str, module: nn.Module) -> DenoiserInputs | EncoderInputs:
        return encoder_inputs(module, seed=4) if component.startswith("text") else inputs_of(self.name)

    def train(self, components: list[str], *, dtype: torch.dtype = torch.float32, scale: float = 0.3, **method):
        """Adapters and probes of ``components``."""
        adapters, probes = {}, {}
        for number, component in enumerate(components):
            module = self.fresh(component, dtype)
            part: ComponentSpec = self.spec.components[component]
            attachment = attach(module, MethodSection(**method), part, seed=number, dtype=torch.float32)
            generator = torch.Generator().manual_seed(10 + number)
            with torch.no_grad():
                for parameter in attachment.parameters().values():
                    spread = float(parameter.std()) if parameter.ndim > 1 and parameter.any() else 0.3
                    parameter.add_(torch.randn(parameter.shape, generator=generator) * scale * spread)
            assert isinstance(attachment, AdapterAttachment)
            adapters[component] = attachment.adapter()
            probes[component] = self.probe(component, module, attachment, dtype)
        return adapters, probes

    def probe(self, component: str, module: nn.Module, attachment, dtype: torch.dtype = torch.float32, **more) -> Probe:
        inputs = self.inputs(component, module)
        return record(module, self.family, inputs, attachment, device=CPU, dtype=dtype, **more)


@pytest.fixture(scope="session")
def worlds(tmp_path_factory) -> dict[str, World]:
    """One model folder per architecture, with weights of comparable size everywhere."""
    found = {}
    for number, (name, build) in enumerate(PARTS.items()):
        torch.manual_seed(number)
        folder = tmp_path_factory.mktemp(name)
        parts = build()
        index = {"_class_name": PIPELINES[name], "tokenizer": ["transformers", "CLIPTokenizer"]}
        index |= {component: ["any", type(module).__name__] for component, module in parts.items()}
        (folder / "model_index.json").write_text(json.dumps(index))
        (folder / "tokenizer").mkdir()
        (folder / "tokenizer" / "vocab.json").write_text("{}")
        for component, module in parts.items():
            with torch.no_grad():
                for parameter in module.parameters():
                    if parameter.ndim > 1:
                        parameter.normal_(std=1 / parameter[0].numel() ** 0.5)
            module.save_pretrained(folder / component)
        found[name] = World(name, folder)
    return found
