"""A converted model as transformers opens it, as we open it, and as distillation changes it."""

from __future__ import annotations

import copy
import functools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from bilens.errors import BilensError, StoreError
from bilens.models import gated
from bilens.models.conversion import (
    ConvertedMLP,
    ConvertedModule,
    Sequence,
    Stack,
    assembled,
    distil,
    distilled,
    divergence,
    register,
    save,
)
from tiny_models import made, texts

transformers = pytest.importorskip("transformers", reason="pip install 'bilens[lm]'")
pytestmark = pytest.mark.filterwarnings("ignore")  # of a library that is not ours


@functools.cache
def _mlps(kind: str, tied: bool, layers: tuple[int, ...]) -> dict[int, ConvertedMLP]:
    sequence = Sequence(Stack(made(kind, tie_word_embeddings=tied)), texts(20), texts(3, seed=2), texts=2)
    found = {}
    for layer in range(3):
        if layer in layers:
            found[layer] = sequence.convert().mlp
        else:
            sequence.skip(None)
    return found


def converted(stack: Stack, layers: tuple[int, ...] = (0, 1, 2)) -> dict[int, ConvertedMLP]:
    """The conversions of layers of a model by `made`, whose weights are those of its kind alone; they never change."""
    config = stack.model.config
    return dict(_mlps(config.model_type, config.tie_word_embeddings, layers))


def logits(model: Any, tokens: Tensor) -> Tensor:
    with torch.no_grad():
        given: Tensor = model(tokens).logits
    return given


@pytest.mark.parametrize("kind", ["llama", "smollm3"])
def test_a_family_whose_config_says_it_stays_itself(kind: str, tmp_path: Path) -> None:
    stack, tokens = Stack(made(kind)), texts(3, seed=5)
    mlps = converted(stack)
    save(assembled(stack, mlps), None, tmp_path / "model")
    opened = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert type(opened) is type(stack.model)
    assert (opened.config.hidden_act, opened.config.mlp_bias, opened.config.intermediate_size) == ("linear", True, 40)
    with stack.with_mlps({layer: ConvertedModule(mlp) for layer, mlp in mlps.items()}):
        expected = logits(stack.model, tokens)
    assert_close(logits(opened, tokens), expected, rtol=1e-4, atol=1e-4)
    again = gated.load(tmp_path / "model")
    assert all(entry.bilinear for entry in again.entries())
    for layer, mlp in mlps.items():
        x = torch.randn(9, 16, generator=torch.Generator().manual_seed(layer))
        read = again.mlp(layer)
        expected = mlp(read.norm(x))
        assert_close(read(x), expected, rtol=1e-4, atol=1e-4)
        assert_close(read.tensor()(read.norm.normalize(x)), expected, rtol=1e-4, atol=1e-4)
        assert_close(mlp.mlp(stack.mlp(layer)).tensor()(read.norm.normalize(x)), expected, rtol=1e-4, atol=1e-4)
    assert all(one.agrees for one in gated.check(again))


@pytest.mark.parametrize("tied", [False, True])
def test_tied_embeddings_stay_tied(tied: bool, tmp_path: Path) -> None:
    stack, tokens = Stack(made(tie_word_embeddings=tied)), texts(2, seed=5)
    save(assembled(stack, converted(stack)), None, tmp_path / "model")
    opened = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert (opened.lm_head.weight is opened.model.embed_tokens.weight) == tied
    assert_close(logits(opened, tokens), logits(assembled(stack, converted(stack)), tokens), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "layers"),
    [
        ("llama", (0, 2)),
        *((kind, (0, 1, 2)) for kind in ("qwen2", "mistral", "olmo2", "phi3", "gemma2")),
        ("phi3", (1,)),
    ],
)
def test_other_models_are_opened_by_a_class_of_ours(kind: str, layers: tuple[int, ...], tmp_path: Path) -> None:
    stack, tokens = Stack(made(kind)), texts(3, seed=5)
    mlps = converted(stack, layers)
    model = assembled(stack, mlps)
    save(model, None, tmp_path / "model")
    register(kind)
    opened = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert opened.config.model_type == f"bilinear_{kind}"
    assert type(opened).__name__.startswith("Bilinear")
    with stack.with_mlps({layer: ConvertedModule(mlp) for layer, mlp in mlps.items()}):
        expected = logits(stack.model, tokens)
    assert_close(logits(opened, tokens), expected, rtol=1e-4, atol=1e-4)
    again = gated.load(tmp_path / "model")
    assert [entry.layer for entry in again.entries() if entry.bilinear] == list(layers)
    assert all(one.agrees for one in gated.check(again, opened))
    for layer in range(3):
        x = torch.randn(9, 16, generator=torch.Generator().manual_seed(layer))
        theirs = stack.mlp(layer)
        expected = mlps[layer](theirs.norm(x)) if layer in layers else theirs(x)
        assert_close(again.mlp(layer)(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_another_process_checks_a_model_of_a_class_of_ours(tmp_path: Path) -> None:
    stack = Stack(made("qwen2"))
    save(assembled(stack, converted(stack, (1,))), None, tmp_path / "model")
    command = [sys.executable, "-m", "bilens", "layers", str(tmp_path / "model"), "--check"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "checked: 3 MLPs" in ended.stdout


def test_the_original_stays_as_it_is(tmp_path: Path) -> None:
    model, tokens = made(), texts(2)
    before, config = logits(model, tokens), copy.deepcopy(model.config.to_dict())
    state = torch.get_rng_state()
    assembled(Stack(model), converted(Stack(model)))
    assert_close(logits(model, tokens), before, rtol=0, atol=0)
    assert model.config.to_dict() == config
    assert torch.equal(torch.get_rng_state(), state)
    save(model, None, tmp_path / "model")
    save(model, None, tmp_path / "model")  # in place of the one before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.bad_input
def test_bad_input_is_refused(tmp_path: Path) -> None:
    stack = Stack(made())
    mlps = converted(stack)
    small = ConvertedMLP(1, *(torch.zeros(shape) for shape in ((5, 16), (5,), (5, 16), (5,), (16, 5), (16, 16), (16,))))
    (tmp_path / "file").write_text("")
    cases: list[tuple[Any, type[Exception], str]] = [
        (lambda: assembled(stack, {}), BilensError, "without converted layers"),
        (lambda: assembled(stack, {**mlps, 1: small}), BilensError, "layers of different sizes"),
        (lambda: register("gpt2"), BilensError, "models of kind 'gpt2'; expected one of llama"),
        (lambda: save(stack.model, None, tmp_path / "file" / "model"), StoreError, "on writing"),
    ]
    for make, kind, message in cases:
        with pytest.raises(kind, match=message):
            make()


# Distillation end to end


@pytest.mark.parametrize("precision", [None, "bfloat16"])
def test_distillation_brings_the_model_nearer_to_its_original(
    precision: Literal["bfloat16"] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = Stack(made())
    student = assembled(stack, converted(stack))
    others = {name: value.clone() for name, value in student.state_dict().items() if ".mlp." not in name}
    fit, check = texts(300, seed=8), texts(4, seed=9)
    monkeypatch.setattr(distil, "RATE", 5e-3)
    before, after = distilled(student, stack.model, fit, check, steps=80, precision=precision, progress=False)
    assert after < 0.93 * before
    assert after == divergence(student, stack.model, check)
    p, q = (torch.distributions.Categorical(logits=logits(one, check)[:, :-1]) for one in (stack.model, student))
    assert float(torch.distributions.kl_divergence(p, q).mean()) == pytest.approx(after, rel=1e-4)
    assert all(torch.equal(value, student.state_dict()[name]) for name, value in others.items())
    assert all(value.requires_grad for value in student.parameters())
    assert all(entry.bilinear for entry in gated.load(student).entries())


def test_distillation_leaves_the_first_token_as_it_is() -> None:
    stack = Stack(made())
    student = assembled(stack, converted(stack))
    with torch.no_grad():
        stack.model.get_input_embeddings().weight[1] *= 100  # type: ignore[operator]
        student.get_input_embeddings().weight[1] *= 100  # type: ignore[operator]
    fit, check = texts(40, seed=8), texts(4, seed=9)

    def streams() -> list[Tensor]:
        with torch.no_grad():
            return [*student(check, output_hidden_states=True).hidden_states]

    def maps() -> list[Tensor]:
        return [value.clone() for name, value in student.named_parameters() if ".mlp." in name]

    old, weights = streams(), maps()
    before, after = distilled(student, stack.model, fit, check, steps=20, progress=False)
    assert after < before
    for then, now in zip(old[1:], streams()[1:], strict=True):
        assert float((now[:, 0] - then[:, 0]).norm() / then[:, 0].norm()) < 1e-6
        assert float((now[:, 1:] - then[:, 1:]).norm() / then[:, 1:].norm()) > 1e-4
    width = stack.model.config.hidden_size
    for then, now in zip(weights, maps(), strict=True):
        assert not torch.equal(then, now)
        if then.ndim == 2 and then.shape[0] == width:
            assert torch.equal(now[:, -width:], torch.eye(width))  # the units that carry the linear map


def test_distillation_that_does_not_help_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distil, "RATE", 10.0)
    stack = Stack(made())
    student = assembled(stack, converted(stack))
    before = {name: value.clone() for name, value in student.state_dict().items()}
    first, second = distilled(student, stack.model, texts(9), texts(3), steps=3, progress=False)
    assert first == second
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())


def test_distillation_that_was_stopped_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distil, "SECONDS", 0.0)
    monkeypatch.setattr(distil.checkpoint.Pace, "due", lambda self, seconds: True)
    stack = Stack(made())
    mlps = converted(stack)
    fit, check = texts(9), texts(3)
    whole, stopped = assembled(stack, mlps), assembled(stack, mlps)
    distilled(whole, stack.model, fit, check, steps=6, progress=False)

    def killed(*_: Any, **more: Any) -> None:
        saved(*_, **more)
        if more["done"] == 4:
            raise MemoryError("killed")

    saved = distil.checkpoint.save
    monkeypatch.setattr(distil.checkpoint, "save", killed)
    with pytest.raises(MemoryError):
        distilled(stopped, stack.model, fit, check, steps=6, kept=tmp_path / "part", progress=False)
    again = assembled(stack, mlps)
    distilled(again, stack.model, fit, check, steps=6, kept=tmp_path / "part", progress=False)
    for name, value in whole.state_dict().items():
        assert_close(again.state_dict()[name], value, rtol=0, atol=0)
    with pytest.raises(StoreError, match="other settings"):
        distilled(again, stack.model, fit, check, steps=6, kept=tmp_path / "part", settings={"seed": 1}, progress=False)
    assert isinstance(whole, nn.Module)
