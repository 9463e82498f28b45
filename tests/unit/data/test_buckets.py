import math
import random

import pytest

from tests.unit.data.conftest import model
from tuner.config.schema import DataSection
from tuner.data.buckets import MAX_ASPECT, Crop, assign, cover, nearest_size, sizes
from tuner.data.frames import frames_at
from tuner.data.samples import Sample

GRIDS = [(resolution, step) for resolution in (64, 96, 256, 640, 1000, 1024, 1536) for step in (8, 16, 32, 64)]


def sample(width=80, height=60, **values):
    base = {"path": "a.png", "kind": "image", "frames": 1, "fps": None, "caption": "", "caption_dropout": 0.0}
    return Sample(**{**base, "source": 0, "width_px": width, "height_px": height, **values})


def clip(frames, fps, **values):
    return sample(kind="clip", frames=frames, fps=fps, **values)


def one(sample, spec, **section):
    (item,) = assign([sample], [DataSection(path="x", **section)], spec)
    return item


@pytest.mark.parametrize(("resolution", "step"), GRIDS)
def test_sizes_are_divisible_and_no_larger_than_the_square(resolution, step):
    square = resolution // step * step
    assert sizes(resolution, step)[0] == (square, square)
    for width, height in sizes(resolution, step):
        assert width % step == 0 and height % step == 0
        assert width * height <= square * square
        assert max(width, height) / min(width, height) <= MAX_ASPECT
        assert (height, width) in sizes(resolution, step)


@pytest.mark.parametrize("step", [16, 32, 64])
def test_at_full_size_little_is_cropped(step):
    dice = random.Random(step)
    for _ in range(500):
        aspect = math.exp(dice.uniform(-math.log(3), math.log(3)))
        width, height = nearest_size(round(1000 * aspect), 1000, 1024, step)
        kept = min(width / height / aspect, aspect * height / width)
        assert kept > 0.93
        assert width * height > 0.85 * 1024**2


def test_shapes_that_are_mirrored_get_sizes_that_are():
    for width, height in [(1920, 1080), (4032, 3024), (500, 333), (100, 999)]:
        assert nearest_size(width, height, 1024, 64) == nearest_size(height, width, 1024, 64)[::-1]


def test_known_sizes():
    assert nearest_size(1920, 1080, 1024, 64) == (1344, 768)
    assert nearest_size(1920, 1080, 640, 16) == (832, 480)
    assert nearest_size(777, 777, 1024, 64) == (1024, 1024)


def test_a_model_with_coarse_sizes_at_a_low_resolution():
    assert nearest_size(100, 300, 16, 64) == (64, 64)


def random_shapes(count=400):
    dice = random.Random(0)
    return [(dice.randint(1, 5000), dice.randint(1, 5000)) for _ in range(count)] + [(1, 9000), (9000, 1), (1, 1)]


def test_resizing_covers_the_crop_and_keeps_the_aspect():
    for width, height in random_shapes():
        target = nearest_size(width, height, 1024, 64)
        crop = cover(width, height, *target)
        assert (crop.width_px, crop.height_px) == target
        assert crop.left_px >= 0 and crop.top_px >= 0
        assert crop.left_px + crop.width_px <= crop.scaled_width_px
        assert crop.top_px + crop.height_px <= crop.scaled_height_px
        assert crop.scaled_width_px == crop.width_px or crop.scaled_height_px == crop.height_px
        assert abs(crop.scaled_width_px * height - crop.scaled_height_px * width) <= 0.5 * max(width, height) + 1
        assert abs((crop.scaled_width_px - crop.width_px) - 2 * crop.left_px) <= 1
        assert abs((crop.scaled_height_px - crop.height_px) - 2 * crop.top_px) <= 1


def test_no_sample_is_dropped_and_none_depends_on_another(image_model):
    samples = [sample(*shape) for shape in random_shapes()]
    source = [DataSection(path="x")]
    items = assign(samples, source, image_model)
    assert [item.sample for item in items] == samples
    assert [assign([entry], source, image_model)[0] for entry in samples[:50]] == items[:50]


def test_without_bucketing_all_are_square(image_model):
    items = [one(sample(*shape), image_model, bucketing=False) for shape in random_shapes(50)]
    assert {item.bucket for item in items} == {(64, 64, 1, (), False)}
    assert {item.bucket for item in [one(sample(200, 60), image_model)]} != {items[0].bucket}


@pytest.mark.parametrize(
    ("given", "squares"), [("auto", [64]), (128, [128]), ([128, 256, 128], [128, 256]), (100, [96])]
)
def test_each_resolution_gives_an_item(image_model, given, squares):
    samples = [sample(70, 70), sample(90, 90)]
    items = assign(samples, [DataSection(path="x", resolution_px=given, repeats=3)], image_model)
    assert [item.crop.width_px for item in items] == squares * 2
    assert [item.sample for item in items] == [entry for entry in samples for _ in squares]
    assert {item.repeats for item in items} == {3}


def test_every_source_has_its_own_settings(image_model):
    sources = [DataSection(path="x", resolution_px=128), DataSection(path="y", bucketing=False, repeats=4)]
    first, second = assign([sample(90, 45), sample(90, 45, source=1)], sources, image_model)
    assert first.crop.width_px > 128 and second.crop.width_px == second.crop.height_px == 64
    assert (first.repeats, second.repeats) == (1, 4)


def test_images_have_one_frame_in_video_models(video_model):
    crop = one(sample(), video_model).crop
    assert (crop.frames, crop.fps, crop.start_s) == (1, None, 0.0)


@pytest.mark.parametrize("frames", range(1, 60))
@pytest.mark.parametrize("asked", ["auto", 1, 8, 33])
def test_the_frame_rule(video_model, frames, asked):
    crop = one(clip(frames, 10.0), video_model, frames=asked).crop
    wanted = 9 if asked == "auto" else asked
    assert crop.frames % 4 == 1
    assert crop.frames <= min(frames, wanted) < crop.frames + 4


@pytest.mark.parametrize(
    ("section", "own_fps", "fps", "frames"),
    [({}, 10.0, 10.0, 9), ({}, 30.0, 10.0, 5), ({"fps": 30}, 30.0, 30.0, 9), ({"fps": 5, "frames": 13}, 30.0, 5.0, 1)],
)
def test_clips_are_resampled(video_model, section, own_fps, fps, frames):
    crop = one(clip(20, own_fps), video_model, **section).crop
    assert (crop.fps, crop.frames) == (fps, frames)


def test_a_model_without_a_rate_keeps_the_clips_own(video_model):
    spec = video_model.model_copy(update={"fps": None})
    assert one(clip(20, 23.976), spec).crop.fps == 23.976


def test_the_middle_of_a_clip_is_taken(video_model):
    crop = one(clip(29, 10.0), video_model).crop
    assert crop.start_s == pytest.approx(1.0)
    assert one(clip(9, 10.0), video_model).crop.start_s == 0.0


@pytest.mark.parametrize("own_fps", [10.0, 23.976, 29.97, 30.0])
def test_resampling_to_the_own_rate_keeps_all_frames(own_fps):
    assert [frames_at(own_fps, frames, own_fps) for frames in range(1, 300)] == list(range(1, 300))


def test_references_are_cut_as_their_sample_unless_the_family_knows_better(edit_model):
    edited = sample(100, 50, references=("r.png",), reference_sizes_px=((40, 90),))
    (item,) = assign([edited], [DataSection(path="x")], edit_model)
    (reference,) = item.reference_crops
    assert (reference.width_px, reference.height_px) == (item.crop.width_px, item.crop.height_px)
    seen = []

    def as_it_is(width_px, height_px, of, crop):
        seen.append((width_px, height_px, of, crop))
        return width_px, height_px

    (item,) = assign([edited], [DataSection(path="x")], edit_model, reference_size=as_it_is)
    assert item.reference_crops == (Crop(40, 90, 0, 0, 40, 90),)
    assert seen == [(40, 90, edited, item.crop)]


def test_what_cannot_be_batched_differs_in_its_bucket(edit_model):
    plain = sample(70, 70)
    others = [
        sample(140, 70),
        sample(70, 70, mask="m.png"),
        sample(70, 70, references=("r",), reference_sizes_px=((9, 9),)),
        sample(70, 70, references=("r", "s"), reference_sizes_px=((9, 9), (8, 8))),
    ]
    items = assign([plain, *others], [DataSection(path="x")], edit_model)
    assert len({item.bucket for item in items}) == 5
    same = assign([plain, sample(35, 35)], [DataSection(path="x")], edit_model)
    assert len({item.bucket for item in same}) == 1
    assert one(sample(9, 9), model("wan2.1-t2v-1.3b")).bucket != one(clip(50, 16.0), model("wan2.1-t2v-1.3b")).bucket
