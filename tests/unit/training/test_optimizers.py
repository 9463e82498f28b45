import io
import sys

import pytest
import torch
from torch import nn

from tuner.config.schema import TrainingSection
from tuner.errors import ConfigError
from tuner.training import optimizers
from tuner.training.bf16 import Bf16Optimizer
from tuner.training.optimizers import NAMED, Group

SHAPE = (96, 64)  # more than the 4096 elements below which bitsandbytes keeps 32 bits


def section(name="adamw", **values):
    own = values.pop("optimizer", {})
    rate = values.pop("learning_rate", 1.0 if name == "prodigy" else 1e-3)
    return TrainingSection.model_validate({"learning_rate": rate, "optimizer": {"name": name, **own}, **values})


def weight_of(seed=0, dtype=torch.float32):
    return nn.Parameter(torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed)).to(dtype))


def built(name="adamw", weight=None, **values):
    given = section(name, **values)
    return optimizers.build(
        [Group("denoiser", [weight_of() if weight is None else weight], given.learning_rate)], given
    )


def train(weight, optimizer, steps):
    for step in steps:
        optimizers.set_factor(optimizer, 1 - step / 100)
        weight.grad = (weight.detach() * 0.01).to(weight.dtype)
        optimizer.step()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", [*NAMED, "torch.optim.RAdam"])
def test_learns_and_resumes_bit_for_bit(name, dtype):
    if name == "prodigy" and dtype == torch.bfloat16:
        with pytest.raises(ConfigError, match="all weights together"):
            built(name, weight_of(dtype=dtype))
        return
    weight = weight_of(dtype=dtype)
    before = weight.detach().float().norm()
    optimizer = built(name, weight)
    train(weight, optimizer, range(5))
    stored = io.BytesIO()
    torch.save(optimizer.state_dict(), stored)
    resumed = nn.Parameter(weight.detach().clone())
    train(weight, optimizer, range(5, 10))
    with optimizers.evaluating(optimizer):
        assert weight.detach().float().norm() < before
    stored.seek(0)
    other = built(name, resumed)
    other.load_state_dict(torch.load(stored, weights_only=True))
    train(resumed, other, range(5, 10))
    assert torch.equal(weight, resumed)


def test_adamw_is_fused_and_nothing_is_foreach():
    assert built("adamw").param_groups[0]["fused"] is True
    for name in ("adamw", "schedule_free_adamw", "torch.optim.RAdam"):
        assert built(name).param_groups[0]["foreach"] is False


def test_eight_bits_are_used():
    weight = weight_of()
    optimizer = built("adamw8bit", weight)
    train(weight, optimizer, range(1))
    assert optimizer.state[weight]["state1"].dtype == torch.uint8


def test_nothing_is_printed_to_stdout(capsys):
    built("prodigy")
    assert capsys.readouterr().out == ""


def test_groups_have_their_own_rate_and_zero_freezes():
    groups = [
        Group("transformer", [weight_of()], 2e-4),
        Group("text_encoder", [weight_of(1)], 0.0),
        Group("other", [weight_of(2)], 1e-5),
    ]
    optimizer = optimizers.build(groups, section())
    assert [(group["name"], group["lr"]) for group in optimizer.param_groups] == [
        ("transformer", 2e-4),
        ("other", 1e-5),
    ]
    optimizers.set_factor(optimizer, 0.5)
    optimizers.set_factor(optimizer, 0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [5e-5, 2.5e-6]


def test_nothing_to_train_is_an_error():
    with pytest.raises(ConfigError, match="nothing is left"):
        optimizers.build([Group("a", [weight_of()], 0.0)], section())


def test_fields_reach_the_class():
    own = {"betas": (0.8, 0.9), "weight_decay": 0.3, "eps": 1e-5, "args": {"amsgrad": True}}
    group = built("adamw", optimizer=own).param_groups[0]
    assert (group["betas"], group["weight_decay"], group["eps"], group["amsgrad"]) == ((0.8, 0.9), 0.3, 1e-5, True)


def test_adafactor_uses_our_rate_and_the_first_of_its_two_eps():
    group = built("adafactor", optimizer={"eps": 1e-20, "args": {"beta1": 0.9}}).param_groups[0]
    assert group["eps"] == (1e-20, 1e-3)
    assert (group["relative_step"], group["scale_parameter"], group["beta1"]) == (False, False, 0.9)


@pytest.mark.parametrize(
    ("name", "own", "text"),
    [
        ("adamw", {"args": {"betta1": 0.9}}, r"args\.betta1: adamw takes no such option"),
        ("adamw", {"args": {"lr": 1.0}}, r"args\.lr"),
        ("adamw", {"args": {"weight_decay": 1.0}}, r"args\.weight_decay"),
        ("adamw", {"args": {"params": []}}, r"args\.params"),
        ("adamw", {"eps": 1e-6, "args": {"eps": 1e-5}}, "given twice"),
        ("adamw", {"betas": (0.9, 0.99, 0.999)}, "takes 2 numbers, not 3"),
        ("adamw", {"betas": (0.9, 1.5)}, "cannot be made: Invalid beta"),
        ("adamw", {"args": {"foreach": True}}, "cannot be made"),
        ("lion", {"eps": 1e-6}, "lion has no eps"),
        ("adafactor", {"betas": (0.9, 0.99)}, "adafactor has no betas"),
        ("torch.optim.Rprop", {"weight_decay": 0.1}, "has none"),
        ("adamw8bit", {"args": {"amsgrad": True}}, "cannot be made"),
    ],
)
def test_what_a_class_does_not_take_is_refused(name, own, text):
    with pytest.raises(ConfigError, match=text) as caught:
        built(name, optimizer=own)
    assert caught.value.message.startswith("training.optimizer")


def test_an_unknown_option_names_the_known_ones():
    with pytest.raises(ConfigError) as caught:
        built("adamw", optimizer={"args": {"amsgrat": True}})
    assert "did you mean 'amsgrad'" in caught.value.message
    assert "capturable" in caught.value.hint


def test_the_default_decay_is_no_demand():
    assert "weight_decay" not in built("torch.optim.Rprop").param_groups[0]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("adamv", "did you mean 'adamw'"),
        ("AdamW", "no optimizer"),
        ("os.system", "not installed"),
        ("subprocess.Popen", "not installed"),
        ("no_such_package.Adam", "not installed"),
        ("torch.nn.Linear", "not an optimizer"),
        ("torch.optim.NoSuch", "not an optimizer"),
        ("torch.no_such_module.Adam", "cannot import"),
        ("torch.optim.LBFGS", "several times per step"),
    ],
)
def test_other_classes_are_refused(name, text):
    with pytest.raises(ConfigError, match=text) as caught:
        built(name)
    assert caught.value.hint


def test_files_that_lie_about_are_never_imported(tmp_path, monkeypatch):
    (tmp_path / "stranger.py").write_text("import torch\nraise SystemExit('ran')\nclass Adam(torch.optim.Adam): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="not installed"):
        built("stranger.Adam")


def test_a_missing_library_names_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "prodigyopt", None)
    with pytest.raises(ConfigError, match="cannot import prodigyopt") as caught:
        built("prodigy")
    assert caught.value.hint == "pip install prodigyopt"


def test_prodigy_wants_one_rate_of_about_one():
    with pytest.raises(ConfigError, match="would stop prodigy") as caught:
        built("prodigy", learning_rate=1e-4)
    assert caught.value.hint == "--set training.learning_rate=1"
    groups = [Group("a", [weight_of()], 1.0), Group("b", [weight_of(1)], 0.5)]
    with pytest.raises(ConfigError, match="one rate for everything"):
        optimizers.build(groups, section("prodigy"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_schedule_free_shows_its_average_and_goes_on_where_it_was(dtype):
    weight, undisturbed = weight_of(dtype=dtype), weight_of(dtype=dtype)
    optimizer, other = built("schedule_free_adamw", weight), built("schedule_free_adamw", undisturbed)
    train(weight, optimizer, range(5))
    train(undisturbed, other, range(5))
    before = weight.detach().clone()
    with optimizers.evaluating(optimizer):
        assert not torch.equal(weight, before)
    assert torch.equal(weight, before)
    train(weight, optimizer, range(5, 8))
    train(undisturbed, other, range(5, 8))
    assert torch.equal(weight, undisturbed)


def test_other_optimizers_show_what_they_train():
    weight = weight_of()
    optimizer = built("adamw", weight)
    train(weight, optimizer, range(2))
    before = weight.detach().clone()
    with optimizers.evaluating(optimizer):
        assert torch.equal(weight, before)


def test_two_averages_are_refused():
    with pytest.raises(ConfigError, match=r"training\.ema"):
        built("schedule_free_adamw", ema={})


def test_bfloat16_weights_are_rounded_as_asked():
    optimizer = built("adamw", weight_of(dtype=torch.bfloat16), bf16_update="kahan")
    assert isinstance(optimizer, Bf16Optimizer)
    assert optimizer.state_dict()["compensation"][0] is not None
    assert not isinstance(built("adamw", bf16_update="kahan"), Bf16Optimizer)
