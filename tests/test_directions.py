"""Directions of a layer's output: tokens beside transformers' own weights, coders, and the null."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from bilens import decompose, directions, sae, text
from bilens.errors import BilensError, ShapeError, SpaceError, StoreError
from bilens.models import gated
from bilens.models.language import TINY
from bilens.models.unembedding import unembedding
from bilens.space import Space
from messages import refuses
from tiny_models import made

pytestmark = pytest.mark.filterwarnings("ignore")  # of a library that is not ours


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("family", "more"),
    [
        ("llama", {}),
        ("llama", {"tie_word_embeddings": True}),
        ("gemma2", {}),
        ("olmo2", {}),
        ("olmo", {}),
    ],
)
def test_tokens_say_what_moves_the_logits_of_the_original(family: str, more: dict[str, Any]) -> None:
    """γ ⊙ (U_t − mean) · x is the logit less the mean logit, over the scale of the norm."""
    model = made(family, **more)
    found = directions.tokens(model, [3, 7, 11])
    x = drawn(5, 16)
    with torch.no_grad():
        logits = model.get_output_embeddings()(model.model.norm(x)).double()
    if family == "olmo":
        x = x - x.mean(dim=1, keepdim=True)
    expected = (logits - logits.mean(dim=1, keepdim=True))[:, [3, 7, 11]] * x.double().square().mean(dim=1)[
        :, None
    ].sqrt()
    assert_close(x.double() @ found.matrix.double().T, expected, rtol=1e-3, atol=1e-4)
    assert found.labels == ("3", "7", "11")


def test_the_gain_of_a_norm_after_the_mlp_is_taken_along() -> None:
    """What the layer adds to the logit: the original's own modules on y, but for the scale of both norms."""
    model = made("gemma2")
    mlp = gated.load(model).mlp(1)
    y, block = drawn(6, 16), model.model.layers[1]
    with torch.no_grad():
        added = block.post_feedforward_layernorm(y)
        scale = y.square().mean(dim=1, keepdim=True).sqrt()
        logits = (added * scale * (1 + model.model.norm.weight)) @ model.get_output_embeddings().weight.T
    found = directions.tokens(model, [3, 7], mlp=mlp)
    expected = (logits - logits.mean(dim=1, keepdim=True))[:, [3, 7]]
    assert_close(y @ found.matrix.T, expected, rtol=1e-3, atol=1e-3)


def test_tokens_are_named_by_the_models_tokenizer() -> None:
    found = directions.tokens(TINY, [" the", " king", 300])
    tokenizer = text.tokenizer(TINY)
    assert found.labels[:2] == (" the", " king")
    assert found.labels[2] == tokenizer.decode([300])
    number = tokenizer.convert_tokens_to_ids(tokenizer.tokenize(" king"))[0]
    assert_close(found.matrix[1], unembedding(gated.load(TINY)).directions([number])[0])
    assert (found.kind, found.control) == ("tokens", False)


def test_rows_and_duals_of_a_coder() -> None:
    coder = sae.TopKSAE(6, 10, 3)
    with torch.no_grad():
        coder.W_enc.copy_(drawn(6, 10, seed=1))
    y = drawn(20, 6, seed=2)
    encoder, decoder, duals = (directions.coder(coder, which) for which in ("encoder", "decoder", "duals"))
    before = (y - coder.b_dec) @ coder.W_enc + coder.b_enc
    assert_close((y @ encoder.matrix.T), before.detach())
    assert torch.equal(decoder.matrix, coder.W_dec.detach())
    assert_close(duals.matrix, torch.linalg.pinv(coder.W_dec.detach().T), rtol=1e-3, atol=1e-4)
    few = directions.coder(coder, active=[4, 2], name="mine")
    assert (few.labels, few.name) == (("4", "2"), "mine")
    assert torch.equal(few.matrix, encoder.matrix[[4, 2]])


def test_a_transcoder_has_directions_of_its_output() -> None:
    coder = sae.Coder(4, 9, "standard", d_out=6, transcodes=True)
    assert directions.coder(coder, "decoder").matrix.shape == (9, 6)
    with refuses(BilensError, "the encoder of a transcoder", "its decoder or duals"):
        directions.coder(coder)


def test_reading_a_tensor_gives_the_products_with_its_output() -> None:
    mlp = gated.load(made(hidden_act="linear")).mlp(1)
    tensor = mlp.tensor()
    own = directions.svd(tensor, 3)
    assert_close(own.matrix @ own.matrix.T, torch.eye(3), atol=1e-5, rtol=0)
    assert_close(own.matrix, decompose.svd(tensor, 3).outputs)
    assert own.labels == ("component 1", "component 2", "component 3")  # as the page counts
    mine = directions.given(drawn(2, 16), ["up", "down"])
    x = drawn(7, 16, seed=3)
    read = mine.read(tensor)
    assert_close(read(x), tensor(x) @ mine.matrix.T, rtol=1e-4, atol=1e-3)
    assert read.output == Space("given", 2, ("up", "down"))
    assert mine.take([1]).labels == ("down",)


def test_the_null_is_uniform_on_the_sphere() -> None:
    null = directions.given(drawn(500, 3)).null(4000, seed=1)
    assert (len(null), null.kind, null.control) == (4000, "random", True)
    assert_close(null.matrix.norm(dim=1), torch.ones(4000))
    np.testing.assert_allclose(null.matrix.mean(dim=0), np.zeros(3), atol=0.03)
    np.testing.assert_allclose(null.matrix.T @ null.matrix / 4000, np.eye(3) / 3, atol=0.03)
    assert len(directions.given(drawn(5, 3)).null()) == 5


@pytest.mark.parametrize("family", ["llama", "olmo2"])
def test_atoms_of_what_the_mlp_reads_build_what_its_tensor_takes(family: str) -> None:
    """The layer on Σ a f + b of its own input is the tensor on the same codes of the other atoms."""
    mlp = gated.load(made(family, hidden_act="linear")).mlp(1)
    coder = sae.TopKSAE(16, 30, 4)
    with torch.no_grad():
        coder.b_dec.copy_(drawn(16, seed=4))
    x = drawn(9, 16, seed=5)
    n = mlp.norm(x)
    codes = coder.encode(n).detach()
    rebuilt = coder.decode(codes).detach()
    expected = ((rebuilt @ mlp.gate.T) * (rebuilt @ mlp.up.T)) @ mlp.down.T
    inputs = directions.input_dictionary(coder, mlp)
    assert_close(mlp.tensor()(inputs.decode(codes)), expected, rtol=1e-3, atol=1e-3)
    few = directions.input_dictionary(coder, mlp, active=[3, 5])
    assert few.features.labels == ("3", "5")


def test_a_gain_of_0_is_no_division() -> None:
    model = made(hidden_act="linear")
    with torch.no_grad():
        model.model.layers[1].post_attention_layernorm.weight[3] = 0
    mlp = gated.load(model).mlp(1)
    atoms = directions.input_dictionary(sae.TopKSAE(16, 20, 2), mlp).atoms
    assert bool(torch.isfinite(atoms).all())
    assert bool((atoms[:, 3] == 0).all())


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("call", "kind", "line"),
    [
        (lambda: directions.tokens(TINY, [" honorificabilitudinitatibus"]), BilensError, "a text of one token"),
        (lambda: directions.tokens(TINY, [10**6]), BilensError, "at least one whole number from 0 to"),
        (lambda: directions.tokens(made(), ["a"]), BilensError, "token 'a' of a model in memory"),
        (lambda: directions.tokens(TINY, []), BilensError, "tokens []"),
        (lambda: directions.given(torch.zeros(2, 3)), BilensError, "direction 0 of 'given', which is 0"),
        (lambda: directions.given(drawn(2, 3), ["a", "a"]), SpaceError, "label 'a' more than once"),
        (lambda: directions.given(drawn(2, 3), ["a"]), ShapeError, "1 labels"),
        (lambda: directions.given(drawn(3)), ShapeError, "directions of shape (3,)"),
        (lambda: directions.random(0, 3), BilensError, "n = 0"),
        (
            lambda: directions.input_dictionary(sae.TopKSAE(5, 9, 2), gated.load(made()).mlp(0)),
            ShapeError,
            "a coder of vectors of 5 numbers",
        ),
        (
            lambda: directions.input_dictionary(
                sae.Coder(16, 9, "standard", transcodes=True), gated.load(made()).mlp(0)
            ),
            BilensError,
            "a transcoder, whose atoms build outputs",
        ),
    ],
)
def test_bad_input_is_refused(call: Callable[[], Any], kind: type[Exception], line: str) -> None:
    with refuses(kind, line):
        call()


def test_a_model_without_its_unembedding_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = {name: value for name, value in load_file(TINY / "model.safetensors").items() if "layers" in name}
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes((TINY / "config.json").read_bytes())
    with refuses(StoreError, "without lm_head.weight or embed_tokens.weight"):
        unembedding(gated.load(tmp_path))
