"""Pixels come out as a person sees the file, cut as the item says."""

import numpy as np
import pytest
import torch
from PIL import Image

from tests.unit.data.test_probe import exif, turned
from tuner.config.schema import DataSection
from tuner.data import media
from tuner.data.buckets import Crop, assign, cover
from tuner.data.probe import measure
from tuner.errors import DatasetError
from tuner.families.base import Geometry, load_family


@pytest.fixture
def item_of(look):
    """The only item of the folder."""

    def build(spec, **section):
        found = look(spec, **section)
        (item,) = assign(found.train, [DataSection(path="photos", **section)], spec)
        return item

    return build


def close(pixels, colour, within=0.03):
    expected = torch.tensor(colour).view(3, *[1] * (pixels.ndim - 1)) / 127.5 - 1
    return bool(((pixels - expected).abs() <= within).all())


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp", ".tif"])
def test_pixels_are_floats_from_minus_one_to_one(folder, item_of, image_model, suffix):
    folder.image(f"a{suffix}", size=(100, 60), colour=(255, 128, 0))
    pixels = media.load_pixels(item_of(image_model), "image")
    assert pixels.shape == (3, 48, 80) and pixels.dtype == torch.float32
    assert close(pixels, (255.0, 128.0, 0.0))
    assert pixels.min() >= -1 and pixels.max() <= 1


def test_an_image_is_one_frame_of_a_video_model(folder, item_of, video_model):
    folder.image("a.png", size=(64, 64))
    item = item_of(video_model)
    assert media.load_pixels(item, "video").shape == (3, 1, 64, 64)
    assert torch.equal(media.load_pixels(item, "video")[:, 0], media.load_pixels(item, "image"))


def test_the_middle_is_cut_out(folder, item_of, image_model):
    folder.gradient("a.png", size=(400, 100))
    pixels = media.load_pixels(item_of(image_model, bucketing=False), "image")
    assert pixels.shape == (3, 64, 64)
    red, green = pixels[0].mean(0), pixels[1].mean(1)
    assert red[0] == pytest.approx(2 * 0.375 - 1, abs=0.05) and red[-1] == pytest.approx(2 * 0.625 - 1, abs=0.05)
    assert green[0] < -0.9 and green[-1] > 0.9


def test_nothing_is_stretched():
    image = Image.new("RGB", (300, 200), "black")
    image.paste("white", (100, 50, 200, 150))
    pixels = media._pixels(image, cover(300, 200, 64, 64))
    lit = pixels[0] > 0
    assert lit.any(0).sum() == pytest.approx(int(lit.any(1).sum()), abs=1)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
def test_exif_rotation_is_applied(folder, item_of, image_model, orientation, suffix):
    upright = folder.gradient("upright.png", size=(80, 48))
    shown = media.load_pixels(item_of(image_model), "image")
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # orientation -> Image.Transpose that stores it that way
    stored = Image.open(upright)
    if orientation > 1:
        stored = stored.transpose(Image.Transpose(undo[orientation]))
    options = {"lossless": True} if suffix == ".webp" else {}
    upright.unlink()
    stored.save(folder / f"upright{suffix}", exif=exif(orientation), **options)
    item = item_of(image_model)
    assert (item.sample.width_px, item.sample.height_px) == (80, 48)
    assert torch.equal(media.load_pixels(item, "image"), shown)


class TestColours:
    """Every colour mode becomes the RGB that a viewer shows."""

    @pytest.fixture
    def shown(self, folder, item_of, image_model):
        def show(image, name="a.png", **options):
            image.save(folder / name, **options)
            (folder / "a.txt").write_text("a")
            return media.load_pixels(item_of(image_model), "image")

        return show

    def test_transparency_is_laid_on_white(self, shown):
        assert close(shown(Image.new("RGBA", (64, 64), (255, 0, 0, 0))), (255.0, 255.0, 255.0))

    def test_half_transparency_is_mixed(self, shown):
        assert close(shown(Image.new("RGBA", (64, 64), (0, 0, 0, 128))), (127.0, 127.0, 127.0))

    def test_opaque_alpha_changes_nothing(self, shown):
        assert close(shown(Image.new("RGBA", (64, 64), (10, 20, 30, 255))), (10.0, 20.0, 30.0))

    def test_grey_with_alpha(self, shown):
        assert close(shown(Image.new("LA", (64, 64), (0, 0))), (255.0, 255.0, 255.0))

    def test_a_transparent_colour(self, shown):
        assert close(shown(Image.new("RGB", (64, 64), (9, 9, 9)), transparency=(9, 9, 9)), (255.0, 255.0, 255.0))

    def test_a_palette(self, shown):
        image = Image.new("P", (64, 64), 1)
        image.putpalette([0, 0, 0, 200, 40, 0])
        assert close(shown(image), (200.0, 40.0, 0.0))

    def test_a_palette_with_transparency(self, shown):
        image = Image.new("P", (64, 64), 1)
        image.putpalette([0, 0, 0, 200, 0, 0])
        assert close(shown(image, transparency=1), (255.0, 255.0, 255.0))

    @pytest.mark.parametrize("level", [0, 1000, 32768, 65535])
    def test_sixteen_bits(self, shown, level):
        image = Image.fromarray(np.full((64, 64), level, dtype=np.uint16))
        assert close(shown(image), (level / 257,) * 3)

    def test_sixteen_bits_in_integers(self, shown):
        assert close(shown(Image.new("I", (64, 64), 32768), "a.tif"), (127.5,) * 3)
        assert close(shown(Image.new("I", (64, 64), 128), "a.tif"), (128.0,) * 3)

    @pytest.mark.parametrize(("level", "expected"), [(0.5, 127.5), (0.0, 0.0), (1.0, 255.0), (100.0, 100.0)])
    def test_floats(self, shown, level, expected):
        assert close(shown(Image.new("F", (64, 64), level), "a.tif"), (expected,) * 3)

    @pytest.mark.parametrize("name", ["a.jpg", "a.tif"])
    def test_cmyk(self, shown, name):
        assert close(shown(Image.new("CMYK", (64, 64), (0, 255, 255, 0)), name), (255.0, 0.0, 0.0), within=0.06)

    @pytest.mark.parametrize(("mode", "colour"), [("L", 77), ("1", 1)])
    def test_grey(self, shown, mode, colour):
        assert close(shown(Image.new(mode, (64, 64), colour)), ((77.0 if mode == "L" else 255.0),) * 3)


class TestClips:
    """Frame n of the clips made here is grey of value 10 n."""

    @staticmethod
    def numbers(pixels):
        return [round(float(value)) for value in ((pixels.mean((0, 2, 3)) + 1) * 12.75)]

    def test_the_middle_of_the_clip_at_its_own_rate(self, folder, item_of, video_model):
        folder.clip("a.mp4", frames=19, fps=10, size=(64, 64))
        pixels = media.load_pixels(item_of(video_model), "video")
        assert pixels.shape == (3, 9, 64, 64) and pixels.dtype == torch.float32
        assert self.numbers(pixels) == list(range(5, 14))

    @pytest.mark.parametrize(
        ("name", "codec"),
        [("a.mov", "libx264"), ("a.mkv", "libx264"), ("a.webm", "libvpx-vp9"), ("a.avi", "mpeg4")],
    )
    def test_every_container(self, folder, item_of, video_model, name, codec):
        folder.clip(name, frames=9, fps=10, size=(64, 64), codec=codec)
        assert self.numbers(media.load_pixels(item_of(video_model), "video")) == list(range(9))

    def test_an_animated_gif(self, folder, item_of, video_model):
        pictures = [Image.new("RGB", (64, 64), (number * 10,) * 3) for number in range(9)]
        pictures[0].save(folder / "a.gif", save_all=True, append_images=pictures[1:], duration=100)
        (folder / "a.txt").write_text("a")
        assert self.numbers(media.load_pixels(item_of(video_model), "video")) == list(range(9))

    def test_a_faster_clip_is_thinned_out(self, folder, item_of, video_model):
        folder.clip("a.mp4", frames=18, fps=20, size=(64, 64))
        assert self.numbers(media.load_pixels(item_of(video_model), "video")) == [0, 2, 4, 6, 8, 10, 12, 14, 16]

    def test_a_slower_clip_repeats_its_nearest_frames(self, folder, item_of, video_model):
        folder.clip("a.mp4", frames=6, fps=5, size=(64, 64))
        numbers = self.numbers(media.load_pixels(item_of(video_model), "video"))
        assert len(numbers) == 9 and numbers == sorted(numbers) and set(numbers) == {1, 2, 3, 4, 5} | set(numbers[:1])

    def test_frames_and_rate_of_the_preset(self, folder, item_of, video_model):
        folder.clip("a.mp4", frames=20, fps=20, size=(64, 64))
        item = item_of(video_model, frames=5, fps=5)
        assert self.numbers(media.load_pixels(item, "video")) == [0, 4, 8, 12, 16]

    def test_the_clip_of_a_phone(self, folder, item_of, video_model):
        path = turned(folder.clip("a.mp4", frames=5, size=(64, 32)))
        item = item_of(video_model)
        assert media.load_pixels(item, "video").shape == (3, 5, item.crop.height_px, item.crop.width_px)
        assert item.crop.height_px > item.crop.width_px
        with media.opened_clip(path) as (container, stream):
            frame = next(container.decode(stream))
            assert frame.rotation in (90, -90)

    def test_turned_the_right_way(self, folder, item_of, video_model):
        """The matrix (0 1 -1 0) takes the left edge of the stored picture to the top of the shown one."""
        import av

        with av.open(str(folder / "a.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=10)
            stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
            picture = Image.new("RGB", (64, 64), "black")
            picture.paste("white", (0, 0, 16, 64))
            for _ in range(5):
                container.mux(stream.encode(av.VideoFrame.from_image(picture)))
            container.mux(stream.encode())
        (folder / "a.txt").write_text("a")
        turned(folder / "a.mp4")
        pixels = media.load_pixels(item_of(video_model), "video")[:, 0]
        assert pixels[:, :12].mean() > 0.8 and pixels[:, 20:].mean() < -0.8

    def test_written_clips_read_back(self, folder, item_of, video_model):
        frames = [Image.new("RGB", (64, 64), (number * 10,) * 3) for number in range(9)]
        media.write_clip(folder / "a.mp4", frames, 10)
        (folder / "a.txt").write_text("a")
        assert self.numbers(media.load_pixels(item_of(video_model), "video")) == list(range(9))

    @pytest.mark.parametrize(("size", "fps"), [((33, 31), 16.0), ((64, 48), 23.976)])
    def test_clips_of_any_size_and_rate_are_written(self, tmp_path, size, fps):
        media.write_clip(tmp_path / "a.mp4", [Image.new("RGB", size)] * 5, fps)
        measured = measure(tmp_path / "a.mp4")
        assert (measured.width_px, measured.height_px, measured.frames) == (*size, 5)
        assert measured.fps == pytest.approx(fps, rel=0.01)


@pytest.mark.parametrize(
    ("times", "wanted", "expected"),
    [
        ([0, 1, 2, 3], [0, 1, 2], [0, 1, 2]),
        ([0, 1, 2, 3], [0.4, 0.6], [0, 1]),
        ([0, 1, 2, 3], [0.5], [0]),
        ([0, 0.1, 5], [0, 1, 2, 3, 4, 5, 6], [0, 1, 1, 2, 2, 2, 2]),
        ([0], [0, 1], [0, 0]),
    ],
)
def test_the_nearest_frame_is_taken(times, wanted, expected):
    timed = [(time, number) for number, time in enumerate(times)]
    assert list(media._nearest(timed, wanted)) == expected


class TestMasks:
    """White is learned; the mask lies over the sample as it is cut."""

    @pytest.fixture
    def masked(self, folder, item_of, image_model):
        def build(mask, size=(100, 100), **section):
            folder.image("a.png", size=size)
            (folder.path.parent / "masks").mkdir(exist_ok=True)
            mask.save(folder.path.parent / "masks" / "a.png")
            return item_of(image_model, masks="masks", **section)

        return build

    @staticmethod
    def half(size):
        mask = Image.new("L", size, 0)
        mask.paste(255, (0, 0, size[0] // 2, size[1]))
        return mask

    @pytest.mark.parametrize("size", [(100, 100), (16, 16), (300, 300)])
    def test_it_is_shrunk_by_area(self, masked, size):
        mask = media.load_mask(masked(self.half(size)), 8, 8)
        assert mask.shape == (1, 8, 8) and mask.dtype == torch.float32
        assert torch.equal(mask[0, 0], torch.tensor([1.0, 1, 1, 1, 0, 0, 0, 0]))

    def test_a_latent_that_is_half_covered_counts_half(self, masked):
        assert media.load_mask(masked(self.half((100, 100))), 1, 1).item() == pytest.approx(0.5, abs=0.01)

    def test_it_is_cut_as_its_sample(self, masked):
        mask = Image.new("L", (40, 10), 0)
        mask.paste(255, (15, 0, 25, 10))
        assert media.load_mask(masked(mask, size=(400, 100), bucketing=False), 8, 8).min() == 1.0

    def test_what_is_transparent_is_not_learned(self, masked):
        mask = Image.new("RGBA", (100, 100), (255, 255, 255, 0))
        mask.paste((255, 255, 255, 255), (0, 0, 50, 100))
        assert media.load_mask(masked(mask), 1, 2)[0, 0].tolist() == pytest.approx([1.0, 0.0], abs=0.01)

    def test_a_sample_without_one(self, folder, item_of, image_model):
        folder.image("a.png")
        with pytest.raises(ValueError, match="no mask"):
            media.load_mask(item_of(image_model), 8, 8)


def test_references_are_cut_to_their_own_crop(folder):
    path = folder.gradient("a.png", size=(400, 100))
    pixels = media.load_reference(path, cover(400, 100, 32, 32))
    assert pixels.shape == (3, 32, 32) and pixels.dtype == torch.float32
    assert pixels[0].mean(0)[0] == pytest.approx(-0.25, abs=0.06)


def test_what_a_network_is_told_about_the_cut(folder, item_of, image_model):
    folder.image("a.png", size=(400, 100))
    item = item_of(image_model, bucketing=False)
    assert media.geometry(item) == Geometry(
        original_height_px=100, original_width_px=400, top_px=0, left_px=96, height_px=64, width_px=64
    )


def test_the_family_decides_the_size_of_references(edit_model, folder, look):
    folder.image("a.png", size=(120, 60))
    folder.image("../before/a.png", size=(300, 100))
    sources = [DataSection(path="photos", references=["before"])]
    found = look(edit_model, *sources)
    family = load_family(edit_model)
    asked = []
    family.reference_size_px = lambda width, height, target: asked.append((width, height, target)) or (96, 32)
    (item,) = assign(found.train, sources, edit_model, reference_size=media.reference_sizer(family))
    assert item.reference_crops == (Crop(96, 32, 0, 0, 96, 32),)
    assert asked == [(300, 100, media.geometry(item))]


def test_a_file_that_vanished(folder, item_of, image_model):
    path = folder.image("a.png")
    item = item_of(image_model)
    path.unlink()
    with pytest.raises(DatasetError, match=r"a\.png"):
        media.load_pixels(item, "image")
