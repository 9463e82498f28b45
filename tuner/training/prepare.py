"""From files on disk to rows a training step can use: scan, buckets, text cache, latent cache.

Encoders and the VAE are loaded only when something is missing from the cache, and freed before the next part
is loaded. Both caches are keyed by content, so an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from tuner.config.load import Resolved
from tuner.config.schema import PreviewPrompt
from tuner.data import buckets, keys, media, scan
from tuner.data.buckets import Item
from tuner.data.cache import RowCache
from tuner.events import Warned
from tuner.families.base import Family, Parts, Row, Source
from tuner.memory.placement import Placement, release
from tuner.training.phases import Phase, PhaseLog
from tuner.training.signals import StopRequest

TEXT_BATCH = 8
FLUSH_EVERY = 64


def cache_root() -> Path:
    """Where latents and text embeddings are kept between runs: ``TUNER_CACHE`` or the user's cache folder."""
    if "TUNER_CACHE" in os.environ:
        return Path(os.environ["TUNER_CACHE"]).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "tuner"


def memo() -> Path:
    """Where digests of large weight files are remembered."""
    return cache_root() / "digests.json"


class TextRows(Protocol):
    """Text conditions by caption."""

    def rows(self, captions: Sequence[str]) -> list[Row]:
        """One row per caption, in order."""
        ...


@dataclass
class CachedText:
    """Text conditions encoded before training, by frozen encoders."""

    cache: RowCache
    identity: str
    text_tokens: int

    def key(self, caption: str) -> str:
        """Content key of a caption."""
        return keys.text_key(caption, self.identity, self.text_tokens)

    def rows(self, captions: Sequence[str]) -> list[Row]:
        """Rows from the cache."""
        return [self.cache.get(self.key(caption)) for caption in captions]


@dataclass
class LiveText:
    """Text conditions encoded in every step, because an encoder is being trained."""

    family: Family
    encoders: Parts

    def rows(self, captions: Sequence[str]) -> list[Row]:
        """Rows with gradients (where gradients are on)."""
        return self.family.encode_text(self.encoders, captions)


@dataclass
class MediaRows:
    """Latents, reference latents and masks of every item."""

    cache: RowCache
    identity: str
    dtype: torch.dtype
    _keys: dict[Item, str] = field(default_factory=dict)

    def key(self, item: Item) -> str:
        """Content key of an item, found once: a file edited while the run goes on changes nothing."""
        if item not in self._keys:
            self._keys[item] = keys.latent_key(item, self.identity, str(self.dtype))
        return self._keys[item]

    def row(self, item: Item) -> Row:
        """The item's row: a tensor per modality, ``reference.<k>`` and ``mask``."""
        return self.cache.get(self.key(item))


@dataclass(frozen=True)
class Dataset:
    """What there is to train on, and to validate on."""

    train: list[Item]
    validation: list[Item]

    @property
    def items(self) -> list[Item]:
        """Both."""
        return self.train + self.validation


def short(identity: str) -> str:
    """A folder name for a long identity."""
    return hashlib.sha256(identity.encode()).hexdigest()[:16]


@contextlib.contextmanager
def flushed(rows: RowCache) -> Iterator[None]:
    """Write what is pending at the end, however that comes: nothing that was encoded is encoded again."""
    try:
        yield
    finally:
        rows.flush()


@dataclass
class Preparation:
    """The phases before training, for one run."""

    resolved: Resolved
    family: Family
    source: Source
    placement: Placement
    log: PhaseLog
    stop: StopRequest

    def scan(self) -> Dataset:
        """Find the samples and give each its size; raises ``DatasetError`` naming every unusable file."""
        preset, spec = self.resolved.preset, self.family.spec
        with self.log.phase("scan") as phase:
            found = scan.scan(preset.data, self.resolved.base, spec, preset.validation, preset.training.seed)
            for warning in found.warnings:
                self.log.emitter.emit(Warned(message=warning))
            reference_size = media.reference_sizer(self.family)
            train, validation = (
                buckets.assign(samples, preset.data, spec, reference_size=reference_size)
                for samples in (found.train, found.validation)
            )
            sizes = {item.bucket for item in train}
            held_out = f", {len(validation)} held out" if validation else ""
            phase.summary = f"{len(train)} samples in {len(sizes)} sizes{held_out}"
        return Dataset(train, validation)

    def cache_text(self, captions: Sequence[str]) -> CachedText:
        """Encode the captions that the cache does not hold yet; encoders are freed afterwards."""
        names = list(self.family.spec.of_role("tokenizer", "processor", "text_encoder"))
        identities = [keys.component_identity(self.source, name, memo()) for name in names]
        identity = "-".join([self.family.spec.implementation, *identities, str(self.placement.dtype)])
        text = CachedText(self._rows("text", identity), identity, self.family.spec.text_tokens)
        missing_keys = set(text.cache.missing([text.key(caption) for caption in captions]))
        missing = [caption for caption in captions if text.key(caption) in missing_keys]
        with self.log.phase("cache-text", total=len(missing), unit="captions") as phase:
            phase.summary = f"{len(missing)} captions encoded, {len(captions) - len(missing)} from the cache"
            if missing:
                self._encode_text(missing, text, phase)
        return text

    def _rows(self, kind: str, identity: str) -> RowCache:
        def warn(message: str) -> None:
            self.log.emitter.emit(Warned(message=message))

        return RowCache(cache_root() / kind / short(identity), warn)

    def _encode_text(self, captions: Sequence[str], text: CachedText, phase: Phase) -> None:
        encoders = load_encoders(self.family, self.source, self.placement)
        with flushed(text.cache):
            for start in range(0, len(captions), TEXT_BATCH):
                self.stop.check()
                chunk = captions[start : start + TEXT_BATCH]
                with torch.no_grad():
                    rows = self.family.encode_text(encoders, chunk)
                for caption, row in zip(chunk, rows, strict=True):
                    text.cache.put(text.key(caption), {name: value.cpu() for name, value in row.items()})
                if start % FLUSH_EVERY == 0:
                    text.cache.flush()
                phase.advance(len(chunk))
        del encoders
        release(self.placement.device)

    def cache_media(self, dataset: Dataset) -> MediaRows:
        """Encode the latents that the cache does not hold yet, one sample at a time; the VAE is freed afterwards."""
        # Tiles give other latents than the whole picture does.
        tiled = "-tiled" if self.placement.vae_tiling else ""
        identity = self.family.spec.implementation + keys.component_identity(self.source, "vae", memo()) + tiled
        dtype = self.placement.dtype
        rows = MediaRows(self._rows("latents", identity), identity, dtype)
        by_key = {rows.key(item): item for item in dataset.items}
        missing = rows.cache.missing(list(by_key))
        with self.log.phase("cache-latents", total=len(missing), unit="samples") as phase:
            phase.summary = f"{len(missing)} samples encoded, {len(by_key) - len(missing)} from the cache"
            if missing:
                self._encode_media({key: by_key[key] for key in missing}, rows, phase)
        return rows

    def _encode_media(self, items: Mapping[str, Item], rows: MediaRows, phase: Phase) -> None:
        vae = load_vae(self.family, self.source, self.placement)
        with flushed(rows.cache):
            for count, (key, item) in enumerate(items.items(), start=1):
                self.stop.check()
                rows.cache.put(key, encode_item(item, self.family, vae, self.placement))
                if count % FLUSH_EVERY == 0:
                    rows.cache.flush()
                phase.advance()
        del vae
        release(self.placement.device)


def captions_of(dataset: Dataset, prompts: Iterable[PreviewPrompt]) -> list[str]:
    """Every text the run will need, without repeats: captions, the empty one where it is used, previews."""
    texts = [item.sample.caption for item in dataset.items]
    if any(item.sample.caption_dropout > 0 for item in dataset.train):
        texts.append("")
    for prompt in prompts:
        texts += [prompt.prompt, prompt.negative_prompt]
    return list(dict.fromkeys(texts))


def load_encoders(family: Family, source: Source, placement: Placement) -> Parts:
    """Tokenizers, and text encoders on the device."""
    parts: Parts = {}
    for name in family.spec.of_role("tokenizer", "processor", "text_encoder"):
        part = family.load(name, source, placement.dtype)
        parts[name] = part.to(placement.device) if isinstance(part, nn.Module) else part
    return parts


def load_vae(family: Family, source: Source, placement: Placement) -> nn.Module:
    """The VAE in float32: half precision costs more quality here than it saves memory."""
    vae: nn.Module = family.load("vae", source, torch.float32).to(placement.device)
    if placement.vae_tiling and hasattr(vae, "enable_tiling"):
        vae.enable_tiling()
    return vae


@torch.no_grad()
def encode_item(item: Item, family: Family, vae: nn.Module, placement: Placement) -> Row:
    """The row of one item: latents by modality, reference latents, and its mask at latent size."""

    def stored(tensor: Tensor) -> Tensor:
        return tensor[0].to("cpu", placement.dtype).contiguous()

    pixels = media.load_pixels(item, family.spec.modality)[None].to(placement.device)
    row = {name: stored(latents) for name, latents in family.encode_media(vae, pixels).items()}
    for number, (path, crop) in enumerate(zip(item.sample.references, item.reference_crops, strict=True)):
        reference = media.load_reference(path, crop)[None].to(placement.device)
        row[f"reference.{number}"] = stored(family.encode_reference(vae, reference))
    if item.sample.mask is not None:
        latents = next(iter(row.values()))
        row["mask"] = media.load_mask(item, latents.shape[-2], latents.shape[-1])
    return row
