"""Opens one image or clip and measures it. Reads every byte, so that damage is found before training. No torch.

Sizes are those a person sees: after the EXIF orientation of images and the rotation of clips.
"""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import ExifTags, Image, UnidentifiedImageError, features

from tuner.errors import DatasetError

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}) | (
    {".avif"} if features.check("avif") else set()
)
CLIP_SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".mkv", ".webm", ".gif", ".avi"})
FOREIGN_SUFFIXES = (
    frozenset(
        {".heic", ".heif", ".avif", ".jxl", ".jp2", ".psd", ".svg", ".dng", ".cr2", ".nef", ".arw", ".wmv", ".flv"}
    )
    - IMAGE_SUFFIXES
)
"""Media that a person may expect to be trained, but that cannot be read."""

COLOUR_MODES = frozenset(
    {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "F"}
    | {"I", "I;16", "I;16L", "I;16B", "I;16N"}
)
"""Pillow's modes that ``media`` turns into RGB."""

# What Pillow's decoders raise on damaged files.
_DAMAGE = (
    *(OSError, EOFError, SyntaxError, RuntimeError, ValueError, TypeError, MemoryError),
    *(ArithmeticError, LookupError, struct.error, zlib.error),
)

# What Pillow remarks on damaged tags does not matter as long as the pixels are there.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
# Photographs above 89 megapixels are legitimate; above twice that Pillow refuses, and the file is reported.
warnings.simplefilter("ignore", Image.DecompressionBombWarning)


class Unreadable(DatasetError):
    """One file that cannot be used; ``reason`` is the message without the path."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}", hint="remove the file or save it again in another program")
        self.reason = reason


@dataclass(frozen=True)
class Measured:
    """What a file holds. ``fps`` is None for images; ``frames`` / ``fps`` is a clip's length in seconds."""

    width_px: int
    height_px: int
    frames: int = 1
    fps: float | None = None


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """An image whose faults, while it is opened or decoded in the block, become ``Unreadable``."""
    try:
        with Image.open(path) as image:
            if image.mode not in COLOUR_MODES:
                raise Unreadable(path, f"its colour mode {image.mode} cannot be converted to RGB")
            yield image
    except Image.DecompressionBombError as error:
        raise Unreadable(path, "it has too many pixels to be a photograph") from error
    except _DAMAGE as error:
        raise Unreadable(path, f"it cannot be read ({_reason(error)})") from error


def measure_image(path: Path) -> Measured:
    """Size after EXIF rotation; decodes the whole image. Raises ``Unreadable``."""
    with opened(path) as image:
        # JPEGs decode at an eighth of their size: every byte is still read, in a fraction of the time.
        stated_size = image.size
        drafted = image.draft(None, (1, 1)) is not None
        image.load()
        width, height = stated_size if drafted else image.size
        if image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8):
            width, height = height, width
    return Measured(width, height)


@contextmanager
def opened_clip(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """A clip and its first video stream; faults in the block become ``Unreadable``."""
    import av

    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise Unreadable(path, "it holds no video")
            yield container, container.streams.video[0]
    except av.FFmpegError as error:
        raise Unreadable(path, f"it cannot be read ({_reason(error)})") from error


def measure_clip(path: Path) -> Measured:
    """Size after rotation, frames and their average rate.

    Reads every packet and decodes the key frames only: whole files are found whole in a tenth of the time
    that full decoding takes. Raises ``Unreadable``.
    """
    size: tuple[int, int] | None = None
    count, stamps = 0, []
    with opened_clip(path) as (container, stream):
        stream.codec_context.skip_frame = "NONKEY"
        for packet in container.demux(stream):
            if packet.is_corrupt:
                raise Unreadable(path, "it is truncated")
            count += bool(packet.size)
            stamps += [packet.pts] if packet.size and packet.pts is not None else []
            for frame in packet.decode():
                turned = round(frame.rotation / 90) % 2 == 1
                size = size or ((frame.height, frame.width) if turned else (frame.width, frame.height))
        fps = _average_fps(stamps, stream)
    if size is None:
        raise Unreadable(path, "it holds no frame that can be decoded")
    return Measured(*size, frames=count, fps=fps)


def measure(path: Path) -> Measured:
    """``measure_image`` or ``measure_clip``, by the file's ending. Raises ``Unreadable``."""
    if path.stat().st_size == 0:
        raise Unreadable(path, "the file is empty (zero bytes)")
    return measure_clip(path) if path.suffix.lower() in CLIP_SUFFIXES else measure_image(path)


def _average_fps(stamps: list[int], stream: VideoStream) -> float:
    if len(stamps) > 1 and stream.time_base:
        return (len(stamps) - 1) / float((max(stamps) - min(stamps)) * stream.time_base)
    return float(stream.average_rate or stream.guessed_rate or 1)


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text.splitlines()[0][:120]
