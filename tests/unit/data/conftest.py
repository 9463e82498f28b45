"""Small files to train on, and the models they are for."""

from fractions import Fraction
from pathlib import Path

import pytest
from PIL import Image

from tuner.catalog import registry
from tuner.config.schema import DataSection, ValidationSection
from tuner.data.scan import scan


class Folder:
    """A folder that a test fills."""

    def __init__(self, path: Path):
        self.path = path

    def __truediv__(self, name):
        return self.path / name

    def image(self, name, size=(80, 60), mode="RGB", colour="red", caption="a red thing", **options):
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new(mode, size, colour).save(path, **options)
        if caption is not None:
            path.with_suffix(".txt").write_text(caption, encoding="utf-8")
        return path

    def gradient(self, name, size=(80, 60), **options):
        """Red rises to the right and green to the bottom, so that places can be told apart."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        red = Image.linear_gradient("L").rotate(90).resize(size)
        green = Image.linear_gradient("L").resize(size)
        Image.merge("RGB", (red, green, Image.new("L", size))).save(path, **options)
        path.with_suffix(".txt").write_text("a gradient", encoding="utf-8")
        return path

    def clip(self, name, frames=20, fps=10, size=(64, 48), codec="libx264", caption="a moving thing"):
        """Frame number n is grey of value 10 n, so that a decoded frame tells its number."""
        import av

        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1001))
            stream.width, stream.height = size
            stream.pix_fmt = "yuv420p"
            for number in range(frames):
                picture = Image.new("RGB", size, (number * 10,) * 3)
                container.mux(stream.encode(av.VideoFrame.from_image(picture)))
            container.mux(stream.encode())
        if caption is not None:
            path.with_suffix(".txt").write_text(caption, encoding="utf-8")
        return path


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "photos").mkdir()
    return Folder(tmp_path / "photos")


def model(base, **latents):
    """A model of the catalogue at 64 px."""
    spec = registry.find(base)
    return spec.model_copy(update={"resolution_px": 64, "latents": spec.latents.model_copy(update=latents)})


@pytest.fixture
def image_model():
    return model("flux1-dev")


@pytest.fixture
def edit_model():
    return model("flux1-kontext-dev").model_copy(update={"references": 2})


@pytest.fixture
def video_model():
    return model("wan2.1-t2v-1.3b").model_copy(update={"frames": 9, "fps": 10.0})


@pytest.fixture
def look(tmp_path):
    """``scan`` with the rest of its arguments filled in; keyword arguments describe the one source."""

    def run(spec, *sources, share=0.0, seed=0, **section):
        sections = list(sources) or [DataSection(path="photos", **section)]
        return scan(sections, tmp_path, spec, ValidationSection(share=share), seed)

    return run
