import pytest

from tuner.config.schema import CaptionSection
from tuner.data.captions import BadCaption, caption_of, completed


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "a cat"),
        ({"prefix": "photo of"}, "photo of a cat"),
        ({"prefix": "photo: "}, "photo: a cat"),
        ({"suffix": ", grainy"}, "a cat, grainy"),
        ({"suffix": "at night"}, "a cat at night"),
        ({"trigger": "ohwx"}, "ohwx, a cat"),
        ({"trigger": "cat"}, "a cat"),
        ({"trigger": "ca"}, "ca, a cat"),
        ({"trigger": "ohwx", "prefix": "photo of ohwx,"}, "photo of ohwx, a cat"),
        ({"trigger": "t.k", "suffix": "txk"}, "t.k, a cat txk"),
    ],
)
def test_captions_are_completed(options, expected):
    assert completed("a cat", CaptionSection(**options)) == expected


def test_an_empty_caption_still_gets_the_trigger():
    assert completed("", CaptionSection(trigger="ohwx")) == "ohwx"
    assert completed("", CaptionSection(prefix="photo of", trigger="ohwx")) == "ohwx, photo of"


@pytest.mark.parametrize("extension", [".txt", "txt", ".caption.md"])
def test_the_extension_names_the_file(tmp_path, extension):
    (tmp_path / f"a.b.{extension.lstrip('.')}").write_text("  right \r\n", encoding="utf-8")
    assert caption_of(tmp_path / "a.b.png", CaptionSection(extension=extension)) == "right"


def test_a_byte_order_mark_is_dropped_and_accents_stay(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf" + "un café\r\nnoir".encode())
    assert caption_of(tmp_path / "a.png", CaptionSection()) == "un café\nnoir"


@pytest.mark.parametrize(("missing", "expected"), [("empty", ""), ("filename", "my red dog")])
@pytest.mark.parametrize("written", [None, " \n"])
def test_what_replaces_a_caption_that_is_missing_or_empty(tmp_path, missing, expected, written):
    if written is not None:
        (tmp_path / "my_red_dog.txt").write_text(written)
    assert caption_of(tmp_path / "my_red_dog.png", CaptionSection(missing=missing)) == expected


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (None, "missing-caption"),
        (b" \n", "empty-caption"),
        ("café".encode("latin-1"), "caption-encoding"),
        ("a cat".encode("utf-16"), "caption-encoding"),
        ("a cat".encode("utf-16-le"), "caption-encoding"),
    ],
)
def test_bad_captions_have_a_code_and_the_file(tmp_path, content, code):
    if content is not None:
        (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(BadCaption) as caught:
        caption_of(tmp_path / "a.png", CaptionSection())
    assert caught.value.code == code
    assert caught.value.path.parent == tmp_path
    assert "a." in str(caught.value.path)


def test_a_caption_that_is_a_folder_is_reported(tmp_path):
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(BadCaption) as caught:
        caption_of(tmp_path / "a.png", CaptionSection())
    assert caught.value.code == "caption-unreadable"
