"""A bilinear decoder against plain NumPy loops, its folder, and its logits as sums over paths."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from bilens.errors import BilensError, ShapeError, StoreError
from bilens.models.decoder import BilinearDecoder, effect, paths
from messages import refuses
from oracle import array, near
from strategies import SEEDS


def random_decoder(seed: int = 0, blocks: int = 2, vocabulary: int = 7) -> BilinearDecoder:
    """A model in float64 whose scales are not 1."""
    model = BilinearDecoder(vocabulary, width=6, head=4, mlp=5, blocks=blocks, base=50.0, std=0.5, seed=seed).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("scale"):
                weight.copy_(torch.randn(len(weight), generator=generator, dtype=torch.float64))
    return model.requires_grad_(False)


def drawn_decoder(seed: int, blocks: int) -> BilinearDecoder:
    """One whose logits, of degree 10 more with each block, are far from the end of float64."""
    model = random_decoder(seed, blocks)
    assume(float(model(torch.arange(7)[:, None]).abs().max()) < 1e9)
    return model


def turned(x: np.ndarray, position: int, base: float) -> np.ndarray:
    half = len(x) // 2
    z = (x[:half] + 1j * x[half:]) * np.exp(1j * position * base ** (-np.arange(half) / half))
    return np.concatenate([z.real, z.imag])


def by_hand(model: BilinearDecoder, tokens: list[int], positions: list[int]) -> np.ndarray:
    """Logits after every token, one position and one key at a time."""
    weights = {name: array(value) for name, value in model.state_dict().items()}
    base = model.config["rope_base"]
    x = [weights["embed.weight"][token] for token in tokens]
    for block in range(model.config["n_layers"]):
        at = f"blocks.{block}."
        scaled = [weights[at + "norm_attn.scale"] * row for row in x]
        part = {
            n: [weights[f"{at}attn.{n}_proj.weight"] @ row for row in scaled] for n in ("q1", "q2", "k1", "k2", "v")
        }
        for n in ("q1", "q2", "k1", "k2"):
            part[n] = [turned(row, p, base) for row, p in zip(part[n], positions, strict=True)]
        added = []
        for i in range(len(x)):
            sums = np.zeros(model.config["d_head"])
            for j in range(i + 1):
                both = (part["q1"][i] @ part["k1"][j]) * (part["q2"][i] @ part["k2"][j])
                sums = sums + both / model.config["d_head"] * part["v"][j]
            added.append(weights[at + "attn.o_proj.weight"] @ sums)
        x = [row + more for row, more in zip(x, added, strict=True)]
        for i, row in enumerate(x):
            z = weights[at + "norm_mlp.scale"] * row
            products = (weights[at + "mlp.w_m.weight"] @ z) * (weights[at + "mlp.w_n.weight"] @ z)
            x[i] = row + weights[at + "mlp.w_proj.weight"] @ products
    return np.stack([weights["unembed.weight"] @ (weights["final_norm.scale"] * row) for row in x])


contexts = st.lists(st.integers(0, 6), min_size=1, max_size=5)


@given(SEEDS, contexts, st.integers(1, 3), st.data())
def test_logits_are_those_of_the_formulas(seed, tokens, blocks, data):
    model = drawn_decoder(seed, blocks)
    gaps = data.draw(st.lists(st.integers(1, 9), min_size=len(tokens), max_size=len(tokens)))
    positions = list(itertools.accumulate(gaps))
    expected = by_hand(model, tokens, positions)
    found = model(torch.tensor([tokens]), torch.tensor(positions))
    near(found[0], expected, 1 + np.abs(expected).max())
    expected = by_hand(model, tokens, list(range(len(tokens))))
    near(model(torch.tensor([tokens]))[0], expected, 1 + np.abs(expected).max())


@given(SEEDS, contexts, st.integers(1, 3))
def test_paths_are_an_exact_sum(seed, tokens, blocks):
    model = drawn_decoder(seed, blocks)
    several = torch.tensor([tokens, [*tokens[1:], 0]])
    found = paths(model, several)
    expected = model(several)[:, -1]
    sizes = sum(part.abs() for part in found.values())
    near(sum(found.values()), array(expected), array(sizes))
    assert len(found) == 1 + sum(
        len(tokens) + (n := 1 + block * (len(tokens) + 1) + len(tokens)) * (n + 1) // 2 for block in range(blocks)
    )
    readout, first = array(model.readout()), array(model.embed.weight)[several[:, -1]]
    near(found["token"], first @ readout.T)


@given(SEEDS, st.lists(st.integers(0, 6), min_size=2, max_size=5), st.integers(1, 3), st.data())
def test_an_effect_is_the_difference_of_two_runs(seed, tokens, blocks, data):
    model = drawn_decoder(seed, blocks)
    source = data.draw(st.integers(0, len(tokens) - 2))
    positions = list(
        itertools.accumulate(data.draw(st.lists(st.integers(1, 4), min_size=len(tokens), max_size=len(tokens))))
    )
    found = effect(model, torch.tensor([tokens]), torch.tensor(positions), source=source)
    rest = [place for place in range(len(tokens)) if place != source]
    with_it = by_hand(model, tokens, positions)[-1]
    without = by_hand(model, [tokens[place] for place in rest], [positions[place] for place in rest])[-1]
    scale = float(found.logits.abs().sum()) + np.abs(with_it).max() + np.abs(without).max()
    near(found.total[0], with_it - without, scale)
    near(found.without[0], without, scale)
    assert found.products.shape == (blocks, 1, 5)


def test_the_first_paths_of_an_effect_by_hand():
    """Attention of block 1 is the head's form; its product with the own token is 2 B(own, ·)."""
    model = random_decoder(3)
    loc, adj, distance = 2, 5, 4
    found = effect(model, torch.tensor([[loc, adj]]), torch.tensor([0, distance]))
    e = model.embed.weight
    moved = model.head(0, distance)(e[adj], e[loc])
    near(found.path("attention 1")[0], array(model.readout() @ moved))
    own = e[adj] + model.head(0, 0)(e[adj], e[adj])
    mlp = model.mlp(0)
    near(found.path("mlp 1: own × attention 1")[0], array(model.readout() @ (2 * mlp(own, moved))))
    near(found.path("mlp 1: attention 1 × attention 1")[0], array(model.readout() @ mlp(moved)))
    hidden = mlp.left @ (own + moved) * (mlp.right @ (own + moved)) - mlp.left @ own * (mlp.right @ own)
    near(found.products[0, 0], array(hidden))
    with refuses(BilensError, "path 'attention 9'", "one of attention 1"):
        found.path("attention 9")
    assert "Effect(paths × 19" in repr(found)


@given(SEEDS, st.integers(0, 40), st.integers(0, 40))
def test_scores_agree_with_running_the_model(seed, first, gap):
    """The bar: 1e-12 in float64, at every offset and wherever the two tokens stand."""
    model = random_decoder(seed)
    positions = torch.tensor([first, first + gap + 1])
    x = model.embed(torch.tensor([[1, 4]]))
    for number in (0, 1):
        block = model.block(number)
        run = block.attn.scores(block.norm_attn(x), positions)
        score = model.score(number, gap + 1)
        assert abs(float(score(x[0, 1], x[0, 0]) - run[0, 1, 0])) <= 1e-12 * (1 + abs(float(run[0, 1, 0])))
        assert float(run[0, 0, 1]) == 0
        x = block(x, positions)


def test_a_folder_is_read_as_it_was_written(tmp_path):
    model = random_decoder()
    model.save_pretrained(tmp_path)
    read = BilinearDecoder.from_pretrained(tmp_path, labels=tuple("abcdefg"))
    assert read.tokens.labels == tuple("abcdefg")
    tokens = torch.tensor([[0, 4, 2, 2]])
    near(read(tokens).detach(), array(model(tokens)), 0)
    assert read.config == {**model.config}
    safetensors.torch.save_file(
        {name: 2 * value for name, value in model.state_dict().items()}, tmp_path / "step_00500.safetensors"
    )
    earlier = BilinearDecoder.from_pretrained(tmp_path, "step_00500.safetensors")
    near(earlier.embed.weight.detach(), 2 * array(model.embed.weight), 0)


def test_a_folder_of_another_program_without_checksums(tmp_path):
    model = random_decoder()
    safetensors.torch.save_file(model.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({**model.config, "init_std": 0.02}), "utf-8")
    tokens = torch.tensor([[3, 1]])
    near(BilinearDecoder.from_pretrained(tmp_path)(tokens).detach(), array(model(tokens)), 0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"norm_type": "rms"}, ("norm_type = 'rms'", "A model that divides by norms is no polynomial")),
        ({"d_head": 3}, ("which describes no model", "an even number")),
        ({"d_model": 0}, ("d_model = 0", "a number of at least 1")),
        ({"n_layers": True}, ("n_layers = True", "a number of at least 1")),
        ({"rope_base": "ten"}, ("rope_base = 'ten'", "a number above 0")),
        ({"n_layers": 3}, ("without blocks.2.attn.k1_proj.weight",)),
        ({"n_layers": 30_000}, ("30000 blocks, but 25 tensors",)),
        ({"d_mlp": 9}, ("mlp.w_m.weight of shape (5, 6)", "(9, 6)")),
    ],
)
def test_a_config_that_fits_no_model_is_refused(tmp_path, change, said):
    model = random_decoder()
    safetensors.torch.save_file(model.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({**model.config, **change}), "utf-8")
    with refuses(StoreError, *said):
        BilinearDecoder.from_pretrained(tmp_path)


def test_files_that_are_missing_pickled_or_not_finite_are_refused(tmp_path):
    model = random_decoder()
    (tmp_path / "config.json").write_text(json.dumps(model.config), "utf-8")
    with refuses(StoreError, "model.safetensors"):
        BilinearDecoder.from_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "step.safetensors")
    with refuses(StoreError, "which looks like a pickle"):
        BilinearDecoder.from_pretrained(tmp_path, "step.safetensors")
    weights = model.state_dict()
    weights["embed.weight"][0, 0] = float("nan")
    safetensors.torch.save_file(weights, tmp_path / "model.safetensors")
    with refuses(StoreError, "NaN or infinity in embed.weight"):
        BilinearDecoder.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{}", "utf-8")
    with refuses(StoreError, "without vocab_size"):
        BilinearDecoder.from_pretrained(tmp_path)


def test_the_seed_alone_decides_the_first_weights():
    one, two = random_decoder(5), random_decoder(5)
    state = torch.random.get_rng_state()
    other = BilinearDecoder(7, width=6, head=4, mlp=5, seed=6)
    assert torch.equal(state, torch.random.get_rng_state())  # the global generator is nobody's
    assert torch.equal(one.embed.weight, two.embed.weight)
    assert 0.01 < float(other.embed.weight.detach().std()) < 0.03
    assert not torch.equal(other.embed.weight, BilinearDecoder(7, width=6, head=4, mlp=5, seed=7).embed.weight)


@pytest.mark.bad_input
def test_arguments_that_are_refused():
    model = random_decoder()
    tokens = torch.tensor([[0, 1]])
    with refuses(ShapeError, "head = 3", "an even number"):
        BilinearDecoder(7, width=6, head=3, mlp=5)
    with refuses(BilensError, "mlp = 0"):
        BilinearDecoder(7, width=6, head=4, mlp=0)
    with refuses(ShapeError, "6 labels for space 'tokens'"):
        BilinearDecoder(7, width=6, head=4, mlp=5, labels=tuple("abcdef"))
    with refuses(ShapeError, "tokens of shape (2,)", "one sequence per row"):
        model(tokens[0])
    with refuses(BilensError, "tokens of type torch.float32"):
        model(tokens.float())
    with refuses(BilensError, "tokens from 0 to 7", "0 to 6"):
        model(torch.tensor([[0, 7]]))
    with refuses(ShapeError, "positions of shape (3,)", "(2,), one per token"):
        model(tokens, torch.tensor([0, 1, 2]))
    with refuses(BilensError, "positions [1, 1]", "whole numbers that rise"):
        model(tokens, torch.tensor([1, 1]))
    with refuses(BilensError, "block = 2"):
        model.block(2)
    with refuses(BilensError, "source = 1"):
        effect(model, tokens, source=1)
    with refuses(ShapeError, "two tokens at least"):
        effect(model, tokens[:, :1])
    with refuses(BilensError, "decoder of type str"):
        paths("model", tokens)
