"""Where a model's weights are on this machine: named by the preset, shipped with tuner, or in the hub's cache."""

from __future__ import annotations

import json
import shlex
from collections.abc import Collection
from pathlib import Path

from tuner.catalog.spec import DownloadSpec, ModelSpec
from tuner.config import shipped
from tuner.config.schema import ModelSection
from tuner.errors import AccessError

WITHOUT_WEIGHTS = ("tokenizer", "scheduler", "processor")


def folder_of(section: ModelSection, spec: ModelSpec, base: Path) -> Path | None:
    """The folder in diffusers layout that holds the components ``section`` does not replace; None if it replaces all.

    Raises ``AccessError`` naming what is missing.
    """
    wanted = [name for name in spec.components if name not in section.components]
    if not wanted:
        return None
    if section.path is not None:
        folder = base / Path(section.path).expanduser()
        lacking = missing_parts(folder, spec, wanted)
        if lacking:
            raise AccessError(f"model.path: {folder} lacks {', '.join(lacking)}", hint=_layout_hint(spec))
        return folder
    if spec.bundled is not None:
        folder = shipped.folder() / spec.bundled
        lacking = missing_parts(folder, spec, wanted)
        if lacking:
            raise AccessError(
                f"the weights of {spec.id} are missing: {folder} lacks {', '.join(lacking)}",
                hint="install tuner again; the weights belong to it",
            )
        return folder
    assert spec.download is not None  # the spec has either: checked when it is read
    return _cached(spec.download, section.revision or spec.download.revision, spec, wanted)


def missing_parts(folder: Path, spec: ModelSpec, wanted: Collection[str]) -> list[str]:
    """Names of the components in ``wanted`` that ``folder`` does not hold whole: sub-folder, weights, every shard."""
    return [name for name in wanted if not _whole(folder / name, spec.components[name].role in WITHOUT_WEIGHTS)]


def _whole(folder: Path, without_weights: bool) -> bool:
    if not folder.is_dir():
        return False
    if without_weights:
        return any(folder.iterdir())
    shards = {
        shard
        for index in folder.glob("*.index.json")
        for shard in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
    }
    weights = [path for ending in ("*.safetensors", "*.bin", "*.gguf") for path in folder.glob(ending)]
    return bool(weights) and all((folder / shard).is_file() for shard in shards)


def _cached(download: DownloadSpec, revision: str | None, spec: ModelSpec, wanted: Collection[str]) -> Path:
    # The hub's client costs a moment to import, and only models that are downloaded need it.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    missing: list[str] = []
    try:
        snapshot = Path(
            snapshot_download(download.repo, revision=revision, allow_patterns=download.patterns, local_files_only=True)
        )
        missing = missing_parts(snapshot, spec, wanted)
        if not missing:
            return snapshot
    except LocalEntryNotFoundError:
        missing = list(wanted)
    raise AccessError(
        f"the weights of {spec.id} are not on this machine: {', '.join(missing)} of {download.repo}",
        hint=f"fetch them with: {download_command(download, revision)}\n"
        "or set model.path to a folder in diffusers layout",
    )


def download_command(download: DownloadSpec, revision: str | None) -> str:
    """The shell command that fetches exactly what is needed into the hub's cache."""
    words = ["hf", "download", download.repo]
    if revision is not None:
        words += ["--revision", revision]
    for pattern in download.patterns:
        words += ["--include", pattern]
    return shlex.join(words)


def _layout_hint(spec: ModelSpec) -> str:
    return f"a folder in diffusers layout has one sub-folder for each of: {', '.join(spec.components)}"
