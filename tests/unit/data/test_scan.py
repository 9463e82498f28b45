"""Every fault is found, named and explained, all of them at once; every usable file is taken."""

import os
import shutil

import pytest
from PIL import Image

from tuner.config.schema import DataSection
from tuner.data.problems import HINTS, LISTED
from tuner.errors import DatasetError, ExitCode


def names(samples):
    return [sample.path.name for sample in samples]


def fault(look, *arguments, **options):
    with pytest.raises(DatasetError) as caught:
        look(*arguments, **options)
    assert caught.value.exit_code is ExitCode.DATASET
    assert caught.value.hint
    return caught.value


def test_every_image_is_found_in_a_stable_order(folder, look, image_model):
    for name in ("z.png", "a.JPG", "deep/er/m.webp", "deep/b.bmp", "c.tiff", "d.avif"):
        folder.image(name)
    found = look(image_model)
    paths = [sample.path.relative_to(folder.path).as_posix() for sample in found.train]
    assert paths == ["a.JPG", "c.tiff", "d.avif", "deep/b.bmp", "deep/er/m.webp", "z.png"]
    assert found.train == look(image_model).train
    assert found.warnings == [] and found.validation == []


def test_a_sample_says_what_the_file_is(folder, look, image_model):
    path = folder.image("a.png", size=(80, 60), caption="a red thing")
    options = {"trigger": "ohwx", "dropout": 0.25}
    (sample,) = look(image_model, captions=options).train
    assert (sample.path, sample.kind, sample.width_px, sample.height_px) == (path, "image", 80, 60)
    assert (sample.frames, sample.fps, sample.source) == (1, None, 0)
    assert (sample.caption, sample.caption_dropout) == ("ohwx, a red thing", 0.25)
    assert (sample.references, sample.mask) == ((), None)


def test_hidden_files_are_no_samples_and_links_are_followed_once(folder, tmp_path, look, image_model):
    folder.image("a.png")
    folder.image(".hidden.png")
    folder.image(".cache/b.png")
    folder.image("__MACOSX/c.png")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.copy(folder / "a.png", elsewhere / "linked.png")
    (elsewhere / "linked.txt").write_text("linked")
    os.symlink(elsewhere, folder / "link")
    os.symlink(folder.path, folder / "round")
    assert names(look(image_model).train) == ["a.png", "linked.png"]


@pytest.mark.parametrize("path", ["nowhere", "photos/a.png"])
def test_a_folder_that_is_none(folder, look, image_model, path):
    folder.image("a.png")
    error = fault(look, image_model, DataSection(path=path))
    assert path in error.message
    assert "folder" in error.message
    assert error.hint == HINTS["missing-folder"]


def test_an_empty_folder(folder, look, image_model):
    error = fault(look, image_model)
    assert str(folder.path) in error.message and "no images" in error.message


def test_an_empty_folder_says_what_it_holds_instead(folder, look, image_model):
    folder.clip("a.mp4", frames=3)
    (folder / "b.heic").touch()
    message = fault(look, image_model).message
    assert "1 clips, which flux1-dev does not train" in message
    assert "1 .heic files" in message


def test_what_is_left_out_is_told(folder, look, image_model):
    folder.image("a.png")
    folder.clip("b.mp4", frames=3)
    (folder / "c.heic").touch()
    (folder / "readme.md").touch()
    found = look(image_model)
    assert names(found.train) == ["a.png"]
    (warning,) = found.warnings
    assert "clips" in warning and ".heic" in warning and "md" not in warning


def test_all_faults_are_reported_at_once(folder, look, image_model):
    folder.image("good.png")
    folder.image("no-caption.png", caption=None)
    folder.image("empty-caption.png", caption="")
    folder.image("latin.png", caption=None)
    (folder / "latin.txt").write_bytes("café".encode("latin-1"))
    truncated = folder.image("truncated.png", size=(300, 300))
    truncated.write_bytes(truncated.read_bytes()[:-60])
    (folder / "zero.png").touch()
    (folder / "zero.txt").write_text("zero")
    (folder / "text.jpg").write_text("not a picture")
    message = fault(look, image_model).message
    assert message.startswith("the training data has 7 problems:")
    for name in (
        "no-caption.png",
        "empty-caption.txt",
        "latin.txt",
        "truncated.png",
        "zero.png",
        "text.jpg",
        "text.txt",
    ):
        assert name in message
    assert "good" not in message


def test_hints_say_what_to_do_about_each_kind_once(folder, look, image_model):
    folder.image("a.png", caption=None)
    folder.image("b.png", caption=None)
    (folder / "c.png").touch()
    (folder / "c.txt").write_text("c")
    hint = fault(look, image_model).hint
    assert hint.count(HINTS["missing-caption"]) == 1
    assert HINTS["unreadable"] in hint


def test_a_thousand_faults_are_counted_not_listed(folder, look, image_model):
    for number in range(LISTED + 7):
        folder.image(f"{number:03}.png", size=(4, 4), caption=None)
    lines = fault(look, image_model).message.splitlines()
    assert len(lines) == 1 + LISTED + 1
    assert lines[-1].strip() == "and 7 more"


def test_faults_of_all_sources_are_collected(folder, look, image_model):
    folder.image("a.png", caption=None)
    message = fault(look, image_model, DataSection(path="nowhere"), DataSection(path="photos")).message
    assert "nowhere" in message and "a.png" in message


@pytest.mark.parametrize(("kind", "left"), [("images", ["a.png"]), ("clips", ["b.mp4"]), ("auto", ["a.png", "b.mp4"])])
def test_video_models_take_images_and_clips(folder, look, video_model, kind, left):
    folder.image("a.png")
    folder.clip("b.mp4", frames=20, fps=10, size=(64, 48))
    found = look(video_model, kind=kind)
    assert names(found.train) == left
    assert found.warnings == []
    clips = [sample for sample in found.train if sample.kind == "clip"]
    assert all((clip.frames, round(clip.fps, 3), clip.width_px) == (20, 10.0, 64) for clip in clips)


def test_a_kind_that_the_model_does_not_train(folder, look, image_model):
    folder.image("a.png")
    error = fault(look, image_model, kind="clips")
    assert "clips" in error.message and error.hint == HINTS["kind"]


def test_clips_that_give_one_latent_frame_are_too_short(folder, look, video_model):
    folder.clip("short.mp4", frames=4, fps=10)
    folder.clip("enough.mp4", frames=5, fps=10)
    folder.clip("slow.mp4", frames=20, fps=50)
    message = fault(look, video_model).message
    assert "short.mp4" in message and "slow.mp4" in message and "enough" not in message
    assert "4 frames at 10 frames per second; at least 5 are needed" in message
    assert names(look(video_model, frames=1).train) == ["enough.mp4", "short.mp4", "slow.mp4"]
    assert len(look(video_model, frames=4).train) == 3


def test_clips_below_the_wanted_length_are_told(folder, look, video_model):
    folder.clip("short.mp4", frames=6, fps=10)
    folder.clip("long.mp4", frames=20, fps=10)
    (warning,) = look(video_model).warnings
    assert "fewer than 9 frames" in warning and warning.endswith(": 1")
    assert look(video_model, frames=5).warnings == []


class TestCompanions:
    """References and masks: matched by stem, checked like samples."""

    @pytest.fixture
    def pairs(self, folder, tmp_path):
        folder.image("a.png", size=(80, 60))
        folder.image("sub/b.png", size=(40, 30))
        for name, size in {"before/a.jpg": (20, 10), "before/sub/b.webp": (30, 30), "masks/a.png": (8, 6)}.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", size).save(path)
        Image.new("L", (80, 60)).save(tmp_path / "masks" / "b.png")
        return tmp_path

    def test_references_are_matched_by_stem_and_place(self, pairs, look, edit_model):
        first, second = look(edit_model, references=["before"]).train
        assert first.references == (pairs / "before/a.jpg",)
        assert second.references == (pairs / "before/sub/b.webp",)
        assert first.reference_sizes_px == ((20, 10),)

    def test_several_references_keep_the_order_of_the_preset(self, pairs, look, edit_model):
        sample = look(edit_model, references=["masks", "before"]).train[0]
        assert sample.references == (pairs / "masks/a.png", pairs / "before/a.jpg")
        assert sample.reference_sizes_px == ((8, 6), (20, 10))

    def test_masks_of_any_size_and_one_shape(self, pairs, look, image_model):
        assert [sample.mask.name for sample in look(image_model, masks="masks").train] == ["a.png", "b.png"]
        Image.new("L", (60, 60)).save(pairs / "masks/a.png")
        error = fault(look, image_model, masks="masks")
        assert "60x60" in error.message and "80x60" in error.message

    def test_a_missing_reference_and_a_missing_mask(self, pairs, look, edit_model):
        (pairs / "before/a.jpg").unlink()
        (pairs / "masks/b.png").unlink()
        error = fault(look, edit_model, references=["before"], masks="masks")
        assert "a.png: it has no reference in" in error.message
        assert "b.png: it has no mask in" in error.message
        assert HINTS["missing-reference"] in error.hint and HINTS["missing-mask"] in error.hint

    def test_an_unreadable_reference(self, pairs, look, edit_model):
        (pairs / "before/a.jpg").write_bytes(b"nothing")
        assert "before/a.jpg" in fault(look, edit_model, references=["before"]).message

    def test_two_files_of_one_name(self, pairs, look, edit_model):
        shutil.copy(pairs / "before/a.jpg", pairs / "before/a.jpeg")
        assert "a.jpeg, a.jpg" in fault(look, edit_model, references=["before"]).message

    def test_an_empty_folder_is_one_fault(self, pairs, look, edit_model):
        (pairs / "none").mkdir()
        message = fault(look, edit_model, references=["none"]).message
        assert message.startswith(str(pairs / "none")) and "\n" not in message

    def test_a_missing_folder(self, pairs, look, edit_model):
        assert "nowhere" in fault(look, edit_model, references=["nowhere"]).message

    @pytest.mark.parametrize("folders", [["before"], ["before", "masks"]])
    def test_more_references_than_the_model_takes(self, pairs, look, image_model, folders):
        message = fault(look, image_model, references=folders).message
        assert f"{len(folders)} folders" in message and "takes none" in message

    def test_any_number_where_the_model_takes_any(self, pairs, look, edit_model):
        model = edit_model.model_copy(update={"references": -1})
        assert len(look(model, references=["before", "masks", "before"]).train[0].references) == 3

    def test_companions_inside_the_folder_are_no_samples(self, folder, look, edit_model):
        folder.image("a.png")
        folder.image("before/a.png", caption=None)
        folder.image("masks/a.png", caption=None)
        found = look(edit_model, references=["photos/before"], masks="photos/masks")
        assert [sample.path for sample in found.train] == [folder / "a.png"]


class TestRoles:
    """What is validated is never trained."""

    def test_a_validation_source(self, folder, tmp_path, look, image_model):
        folder.image("a.png")
        folder.image("../held/b.png")
        sources = [DataSection(path="photos"), DataSection(path="held", role="validation")]
        found = look(image_model, *sources)
        assert (names(found.train), names(found.validation)) == (["a.png"], ["b.png"])
        assert found.validation[0].source == 1

    def test_a_validation_folder_inside_a_training_folder(self, folder, look, image_model):
        folder.image("a.png")
        folder.image("held/b.png")
        sources = [DataSection(path="photos"), DataSection(path="photos/held", role="validation")]
        found = look(image_model, *sources)
        assert (names(found.train), names(found.validation)) == (["a.png"], ["b.png"])
        assert "1 files are in a validation folder too" in found.warnings[0]

    def test_nothing_left_to_train(self, folder, look, image_model):
        folder.image("a.png")
        sources = [DataSection(path="photos"), DataSection(path="photos", role="validation")]
        assert fault(look, image_model, *sources).hint == HINTS["nothing-to-train"]

    def test_a_share_is_held_out(self, folder, look, image_model):
        for number in range(20):
            folder.image(f"{number}.png", size=(8, 8))
        found = look(image_model, share=0.3, seed=5)
        assert 1 <= len(found.validation) < 20
        assert sorted(names(found.train + found.validation)) == sorted(f"{number}.png" for number in range(20))
        assert not set(names(found.train)) & set(names(found.validation))
        again = look(image_model, share=0.3, seed=5)
        assert (again.train, again.validation) == (found.train, found.validation)
        assert names(look(image_model, share=0.3, seed=6).validation) != names(found.validation)

    def test_the_share_goes_by_name_not_by_content_or_place(self, folder, tmp_path, look, image_model):
        for number in range(20):
            folder.image(f"{number}.png", size=(8, 8))
        before = names(look(image_model, share=0.3).validation)
        folder.image(before[0], size=(16, 16), colour="blue")
        folder.path.rename(tmp_path / "moved")
        assert names(look(image_model, DataSection(path="moved"), share=0.3).validation) == before

    def test_one_sample_is_not_split(self, folder, look, image_model):
        folder.image("a.png")
        found = look(image_model, share=0.5)
        assert names(found.train) == ["a.png"] and found.validation == []
        assert "validation.share" in found.warnings[0]
