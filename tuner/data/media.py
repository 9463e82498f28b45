"""From files to pixels: what the VAE encodes.

Shape legend: F frames, H W pixels of the crop, h w latent height and width.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from tuner.data.buckets import Crop, Item, ReferenceSize
from tuner.data.probe import opened, opened_clip
from tuner.data.samples import Sample
from tuner.families.base import Family, Geometry

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

MAX_16_BIT = 65535


def geometry(item: Item) -> Geometry:
    """How the item was cut out of its original; top and left are in pixels of the resized original."""
    return _geometry(item.sample, item.crop)


def reference_sizer(family: Family) -> ReferenceSize:
    """The family's rule for the size of references, as ``buckets.assign`` takes it."""

    def reference_size(width_px: int, height_px: int, sample: Sample, crop: Crop) -> tuple[int, int]:
        return family.reference_size_px(width_px, height_px, _geometry(sample, crop))

    return reference_size


def load_pixels(item: Item, modality: str) -> Tensor:
    """The item's pixels, float32 in [-1, 1]: (3, F, H, W) where ``modality`` is ``video``, else (3, H, W).

    Raises ``DatasetError`` when the file can no longer be read.
    """
    if item.sample.kind == "clip":
        return torch.stack(list(_clip(item.sample, item.crop)), dim=1)  # (3, F, H, W)
    pixels = _pixels(load_image(item.sample.path), item.crop)  # (3, H, W)
    return pixels[:, None] if modality == "video" else pixels


def load_reference(path: Path, crop: Crop) -> Tensor:
    """A reference image (3, H, W), float32 in [-1, 1]. Raises ``DatasetError``."""
    return _pixels(load_image(path), crop)


def load_mask(item: Item, height: int, width: int) -> Tensor:
    """The item's mask (1, h, w), float32 in [0, 1]: how much of each latent's area is white.

    The mask is stretched over the whole sample before the sample's crop is applied; what is transparent in it
    counts as black. Raises ``DatasetError``.
    """
    if item.sample.mask is None:
        raise ValueError(f"{item.sample.path} has no mask")
    crop = item.crop
    mask = ImageOps.grayscale(load_image(item.sample.mask, background="black"))
    across, down = mask.width / crop.scaled_width_px, mask.height / crop.scaled_height_px
    window = (
        crop.left_px * across,
        crop.top_px * down,
        (crop.left_px + crop.width_px) * across,
        (crop.top_px + crop.height_px) * down,
    )
    # A box filter takes the mean over each latent's area.
    small = mask.resize((width, height), Image.Resampling.BOX, box=window)
    return torch.from_numpy(np.array(small))[None].float() / 255.0


def load_image(path: Path, background: str = "white") -> Image.Image:
    """An image in RGB as a person sees it: rotated by its EXIF tag, laid on ``background`` where it is transparent.

    Raises ``DatasetError``.
    """
    with opened(path) as image:
        upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I") or upright.mode == "F":
        return _from_deep(upright)
    if upright.has_transparency_data:
        coloured = upright.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", coloured.size, background), coloured).convert("RGB")
    return upright.convert("RGB")


def write_clip(path: Path, frames: Sequence[Image.Image], fps: float) -> None:
    """Write an H.264 clip that browsers play. ``frames`` share one size."""
    import av

    width, height = frames[0].size
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001), options={"crf": "17"})
        stream.width, stream.height = width, height
        # Colour at half resolution needs even sides, and is what every player knows.
        stream.pix_fmt = "yuv444p" if width % 2 or height % 2 else "yuv420p"
        for frame in frames:
            picture = av.VideoFrame.from_image(frame.convert("RGB"))  # type: ignore[no-untyped-call]
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


def _geometry(sample: Sample, crop: Crop) -> Geometry:
    return Geometry(
        original_height_px=sample.height_px,
        original_width_px=sample.width_px,
        top_px=crop.top_px,
        left_px=crop.left_px,
        height_px=crop.height_px,
        width_px=crop.width_px,
    )


def _pixels(image: Image.Image, crop: Crop) -> Tensor:
    """An RGB image, resized and cut: (3, H, W) float32 in [-1, 1]."""
    scaled = image.resize((crop.scaled_width_px, crop.scaled_height_px), Image.Resampling.LANCZOS)
    window = scaled.crop((crop.left_px, crop.top_px, crop.left_px + crop.width_px, crop.top_px + crop.height_px))
    values = torch.from_numpy(np.array(window))  # (H, W, 3) uint8
    return values.permute(2, 0, 1).float() / 127.5 - 1.0


def _from_deep(image: Image.Image) -> Image.Image:
    """16-bit grey, integers and floats to RGB; Pillow's own conversion would clip them at 255."""
    values = np.nan_to_num(np.asarray(image).astype(np.float64))
    highest = 1.0 if image.mode == "F" else float(MAX_16_BIT)
    if values.max() > highest or (image.mode == "I" and values.max() <= 255):
        highest = 255.0 if values.max() <= 255 else float(values.max())
    scaled = np.clip(np.rint(values / highest * 255.0), 0, 255).astype(np.uint8)
    return Image.fromarray(scaled).convert("RGB")


def _clip(sample: Sample, crop: Crop) -> Iterator[Tensor]:
    """The frames of a crop, (3, H, W) each, those whose times are nearest to the wanted ones."""
    fps = crop.fps or 1.0
    wanted = [crop.start_s + number / fps for number in range(crop.frames)]
    with opened_clip(sample.path) as (container, stream):
        for frame in _nearest(_timed_frames(container, stream, sample.fps or 1.0), wanted):
            image: Image.Image = frame.to_image()  # type: ignore[no-untyped-call]
            if frame.rotation:
                image = image.rotate(frame.rotation, expand=True)
            yield _pixels(image, crop)


def _timed_frames(container: InputContainer, stream: VideoStream, own_fps: float) -> Iterator[tuple[float, VideoFrame]]:
    """All frames with their times in seconds from the first one."""
    stream.thread_type = "AUTO"
    first: float | None = None
    for number, frame in enumerate(container.decode(stream)):
        time_s = number / own_fps if frame.time is None else float(frame.time)
        first = time_s if first is None else first
        yield time_s - first, frame


def _nearest(timed: Iterable[tuple[float, VideoFrame]], wanted: Sequence[float]) -> Iterator[VideoFrame]:
    """For each wanted time (ascending) the frame nearest to it; the last frame for times after the end."""
    number = 0
    earlier: tuple[float, VideoFrame] | None = None
    for time_s, frame in timed:
        while number < len(wanted) and time_s >= wanted[number]:
            later_is_nearer = earlier is None or time_s - wanted[number] < wanted[number] - earlier[0]
            yield frame if earlier is None or later_is_nearer else earlier[1]
            number += 1
        if number == len(wanted):
            return
        earlier = (time_s, frame)
    if earlier is not None:
        for _ in range(number, len(wanted)):
            yield earlier[1]
