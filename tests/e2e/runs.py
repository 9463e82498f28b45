"""Presets of short runs."""

import json
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def write_preset(folder: Path, **changes) -> Path:
    """A short LoRA run on the demo's base and pictures; ``changes`` replace whole sections."""
    preset = {
        "name": "small",
        "model": {"id": "demo"},
        "method": {"kind": "lora", "rank": 4, "dropout": 0.1},
        "data": [{"path": str(ROOT / "presets" / "demo" / "images"), "captions": {"dropout": 0.2}}],
        "training": {"steps": 12, "batch_size": 2, "learning_rate": 1e-3, "ema": {"decay": 0.9}},
        "save": {"every_steps": 4, "dtype": "fp32"},
        **changes,
    }
    path = folder / "preset.json"
    path.write_text(json.dumps(preset))
    return path
