"""Files are measured as a person sees them, and every kind of damage is found."""

import random
import subprocess
import sys

import pytest
from PIL import Image

from tuner.data.media import load_image
from tuner.data.probe import Measured, Unreadable, measure

SUFFIXES = [".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".avif", ".JPG"]


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_format_is_measured(folder, suffix):
    assert measure(folder.image(f"a{suffix}", size=(50, 30))) == Measured(50, 30)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".avif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_size_is_the_one_after_rotation(folder, suffix, orientation):
    path = folder.image(f"a{suffix}", size=(50, 30), exif=exif(orientation))
    expected = (30, 50) if orientation >= 5 else (50, 30)
    measured = measure(path)
    assert (measured.width_px, measured.height_px) == expected == load_image(path).size


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16", "I", "F"])
def test_every_colour_mode_is_accepted(folder, mode):
    suffix = ".tif" if mode in ("CMYK", "I", "F") else ".png"
    path = folder.path / f"a{suffix}"
    Image.new(mode, (50, 30)).save(path)
    assert measure(path) == Measured(50, 30)


def test_a_mode_that_cannot_become_rgb_is_refused(folder):
    Image.new("LAB", (8, 8)).save(folder / "a.tif")
    with pytest.raises(Unreadable, match="LAB"):
        measure(folder / "a.tif")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp", ".tif", ".avif"])
@pytest.mark.parametrize("progressive", [False, True])
def test_truncated_images_are_found(folder, suffix, progressive):
    path = folder.path / f"a{suffix}"
    Image.effect_noise((200, 120), 60).convert("RGB").save(path, progressive=progressive)
    data = path.read_bytes()
    for share in (0.05, 0.3, 0.6, 0.9):
        path.write_bytes(data[: int(len(data) * share)])
        with pytest.raises(Unreadable):
            measure(path)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_is_damaged_is_reported_or_read_but_never_crashes(folder):
    dice = random.Random(0)
    for suffix in (".png", ".jpg", ".webp", ".bmp", ".tif", ".avif", ".gif"):
        path = folder.path / f"a{suffix}"
        Image.effect_noise((64, 48), 60).save(path)
        data = path.read_bytes()
        for _ in range(40):
            broken = bytearray(data)
            for _ in range(dice.randint(1, 12)):
                broken[dice.randrange(len(broken) if dice.random() < 0.5 else 64)] = dice.randrange(256)
            path.write_bytes(broken)
            try:
                assert measure(path).width_px > 0
            except Unreadable as error:
                assert str(path) in error.message and error.reason


@pytest.mark.parametrize("name", ["a.png", "a.mp4"])
def test_other_bytes_under_a_media_name(folder, name):
    (folder / name).write_bytes(b"this is a web page about cats" * 50)
    with pytest.raises(Unreadable) as caught:
        measure(folder / name)
    assert str(folder / name) not in caught.value.reason


def test_zero_bytes(folder):
    (folder / "a.png").touch()
    with pytest.raises(Unreadable, match="zero bytes"):
        measure(folder / "a.png")


def test_a_decompression_bomb_is_refused(folder, monkeypatch):
    path = folder.image("a.png", size=(100, 100))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(Unreadable, match="pixels"):
        measure(path)


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.mp4", "libx264"), ("a.mov", "libx264"), ("a.mkv", "libx264"), ("a.webm", "libvpx-vp9"), ("a.avi", "mpeg4")],
)
def test_clips_are_measured(folder, name, codec):
    measured = measure(folder.clip(name, frames=21, fps=12, size=(64, 48), codec=codec))
    assert (measured.width_px, measured.height_px, measured.frames) == (64, 48, 21)
    assert measured.fps == pytest.approx(12, rel=0.01)


def test_an_animated_gif_is_a_clip(folder):
    pictures = [Image.new("RGB", (32, 16), (20 * number, 0, 0)) for number in range(6)]
    pictures[0].save(folder / "a.gif", save_all=True, append_images=pictures[1:], duration=100)
    measured = measure(folder / "a.gif")
    assert (measured.width_px, measured.height_px, measured.frames) == (32, 16, 6)
    assert measured.fps == pytest.approx(10, rel=0.01)


def turned(path):
    """Write a rotation by 90 degrees into the track header of an mp4, as phones do."""
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40
    one, minus = (0x10000).to_bytes(4, "big"), (-0x10000).to_bytes(4, "big", signed=True)
    zero = bytes(4)
    data[matrix : matrix + 36] = zero + one + zero + minus + zero + zero + zero + zero + (1 << 30).to_bytes(4, "big")
    path.write_bytes(data)
    return path


def test_clips_of_phones_are_turned(folder):
    measured = measure(turned(folder.clip("a.mp4", size=(64, 48))))
    assert (measured.width_px, measured.height_px) == (48, 64)


@pytest.mark.parametrize("share", [0.2, 0.6, 0.95])
def test_truncated_clips_are_found(folder, share):
    path = folder.clip("a.mp4")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(Unreadable):
        measure(path)


def test_a_file_with_sound_only_is_no_clip(folder):
    import av
    import numpy as np

    with av.open(str(folder / "a.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(Unreadable, match="no video"):
        measure(folder / "a.mp4")


def test_pyav_waits_for_the_first_clip(folder):
    image = folder.image("a.png")
    clip = folder.clip("b.mp4", frames=3)
    code = (
        "import sys; from pathlib import Path; from tuner.data.probe import measure;"
        f"measure(Path({str(image)!r})); assert 'av' not in sys.modules;"
        f"measure(Path({str(clip)!r})); assert 'av' in sys.modules;"
        "assert not {'numpy', 'torch'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
