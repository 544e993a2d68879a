"""bilens layers and bilens import: what they show and write, and bad input answered in one line."""

from __future__ import annotations

import argparse
import functools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bilens import ImageClassifier, Space, cli
from bilens.models import gated
from goldens import GOLDEN, answers, copied


def told(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    status = cli.main([str(argument) for argument in arguments])
    text = capsys.readouterr()
    assert status == 0, text.err
    return text.out


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert cli.main([str(argument) for argument in arguments]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("bilens: got ")
    return lines[0]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def folder(path: Path, act: str = "silu", **more: Any) -> Path:
    """A Llama of two layers with 3 units of 4 inputs."""
    path.mkdir(exist_ok=True)
    tensors = {"model.embed_tokens.weight": drawn(9, 4)}
    for k in range(2):
        place = f"model.layers.{k}."
        tensors |= {
            f"{place}mlp.gate_proj.weight": drawn(3, 4, seed=1),
            f"{place}mlp.up_proj.weight": drawn(3, 4, seed=2),
            f"{place}mlp.down_proj.weight": drawn(4, 3, seed=3),
            f"{place}post_attention_layernorm.weight": drawn(4, seed=4),
        }
    config = {
        "model_type": "llama",
        "hidden_size": 4,
        "intermediate_size": 3,
        "num_hidden_layers": 2,
        "hidden_act": act,
        "rms_norm_eps": 1e-6,
        **more,
    }
    (path / "config.json").write_text(json.dumps(config))
    save_file(tensors, path / "model.safetensors")
    return path


@pytest.mark.parametrize(("act", "exact"), [("silu", "no layer is"), ("linear", "every layer is")])
def test_layers_shows_a_row_per_layer(act: str, exact: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = told(capsys, "layers", folder(tmp_path / "model", act)).splitlines()
    assert lines[0].split() == [
        "layer",
        "part",
        "inputs",
        "units",
        "outputs",
        "gate",
        "norm",
        "biases",
        "type",
        "bilinear",
    ]
    name, bilinear = ("silu", "no") if act == "silu" else ("identity", "exactly")
    assert [line.split() for line in lines[1:3]] == [
        [str(k), "mlp", "4", "3", "4", name, "rms", "none", "float32", bilinear] for k in range(2)
    ]
    assert lines[3] == f"{tmp_path / 'model'}: llama, 2 layers; {exact} exactly bilinear"


def test_layers_takes_a_layout_or_the_name_of_a_family(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = folder(tmp_path / "model", model_type="novel")
    assert "unknown kind 'novel'" in refused(capsys, "layers", model)
    assert "2 layers" in told(capsys, "layers", model, "--layout", "qwen2")
    layout = {name: f"model.layers.{{layer}}.mlp.{name}_proj.weight" for name in ("gate", "up", "down")}
    (tmp_path / "layout.json").write_text(json.dumps(layout))
    assert "2 layers" in told(capsys, "layers", model, "--layout", tmp_path / "layout.json")
    assert "--layout lama" in refused(capsys, "layers", model, "--layout", "lama")
    assert "which is not there" in refused(capsys, "layers", tmp_path / "none")


@pytest.mark.filterwarnings("ignore")
def test_layers_checks_against_the_original(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    transformers = pytest.importorskip("transformers", reason="pip install 'bilens[lm]'")
    sizes = {
        "vocab_size": 16,
        "hidden_size": 8,
        "intermediate_size": 6,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    config = transformers.AutoConfig.for_model("mixtral", **sizes, num_local_experts=3, num_key_value_heads=1)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "model")
    out = told(capsys, "layers", tmp_path / "model", "--check")
    assert "3 experts" in out
    assert "checked: 6 MLPs on 8 random tokens give what the original gives" in out
    # the same model under a mapping that takes one for the other
    place = "model.layers.{layer}.block_sparse_moe.experts.{expert}."
    wrong = {"gate": f"{place}w3.weight", "up": f"{place}w1.weight", "down": f"{place}w2.weight", "part": "experts"}
    wrong["norm"] = "model.layers.{layer}.post_attention_layernorm.weight"
    (tmp_path / "layout.json").write_text(json.dumps(wrong))
    status = cli.main(["layers", str(tmp_path / "model"), "--check", "--layout", str(tmp_path / "layout.json")])
    text = capsys.readouterr()
    assert status == 2
    assert "6 of 6 MLPs that differ from the original's" in text.err


def test_a_check_of_what_transformers_does_not_have(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("transformers", reason="pip install 'bilens[lm]'")
    copied("transformer", tmp_path)
    cli.main(["layers", str(tmp_path), "--check"])
    assert "which transformers does not load" in capsys.readouterr().err


# import


def saved(path: Path, tensors: dict[str, Tensor], **more: Any) -> Path:
    torch.save({"model": tensors, **more} if more else tensors, path)
    return path


def test_import_of_the_authors_classifier(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("image_plain", "image_residual", "image_bias_2layer"):
        config = json.loads((GOLDEN / f"{name}.config.json").read_text())
        inside = {"residual": config["residual"], "seed": 1} if name == "image_residual" else {}
        file = saved(tmp_path / f"{name}.pt", load_file(GOLDEN / f"{name}.model.safetensors"), config=inside)
        out = tmp_path / name
        if not inside:
            assert "a config with residual = false assumed; expected --yes" in refused(
                capsys, "import", file, "--out", out
            )
            assert not out.exists()
        told(capsys, "import", file, "--out", out, *([] if inside else ["--yes"]))
        io = answers(name)
        model = ImageClassifier.from_pretrained(out)
        torch.testing.assert_close(model(io["x"]).detach(), io["logits"], rtol=0, atol=1e-5)


class _Body(nn.Module):
    """embed, one layer of three matrices, head."""

    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.embed = nn.Linear(9, 5, bias=bias)
        self.body = nn.ModuleDict(
            {
                "left": nn.Linear(5, 7, bias=bias),
                "right": nn.Linear(5, 7, bias=bias),
                "down": nn.Linear(7, 5, bias=bias),
            }
        )
        self.head = nn.Linear(5, 3, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x)
        result: Tensor = self.head(self.body["down"](self.body["left"](h) * self.body["right"](h)))
        return result


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("names", [("body.left", "body.right", "body.down"), ("body.0.l", "body.0.r", "body.0.d")])
def test_import_of_a_classifier_of_three_matrices(
    bias: bool, names: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    theirs = _Body(bias)
    changes = tuple(zip(("body.left", "body.right", "body.down"), names, strict=True))
    tensors = {
        functools.reduce(lambda text, change: text.replace(*change), changes, name): value
        for name, value in theirs.state_dict().items()
    }
    file = saved(tmp_path / "model.pt", tensors)
    told(capsys, "import", file, "--out", tmp_path / "model", "--yes")
    x = drawn(6, 9)
    model = ImageClassifier.from_pretrained(tmp_path / "model")
    torch.testing.assert_close(model(x).detach(), theirs(x).detach(), rtol=1e-5, atol=1e-6)
    assert model.input.image == (3, 3)
    (tmp_path / "config.json").write_text('{"residual": true}')
    line = refused(capsys, "import", file, "--out", tmp_path / "other", "--config", tmp_path / "config.json")
    assert "with residual = True; expected a model without a residual path" in line


@pytest.mark.parametrize("embedding", [None, 6])
def test_import_of_an_own_classifier(embedding: int | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    theirs = ImageClassifier(Space("pixels", 4), Space("classes", 2), 6, bias=True, embedding=embedding, layers=2)
    file = saved(tmp_path / "model.pt", {f"module.{name}": value for name, value in theirs.state_dict().items()})
    told(capsys, "import", file, "--out", tmp_path / "model", "--yes")
    x = drawn(3, 4)
    torch.testing.assert_close(ImageClassifier.from_pretrained(tmp_path / "model")(x), theirs(x))


def test_import_of_a_language_model_of_the_authors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensors = load_file(GOLDEN / "transformer_swiglu.model.safetensors")
    file = saved(tmp_path / "model.pt", tensors)
    line = refused(capsys, "import", file, "--out", tmp_path / "model")
    assert "bilinear = true, gate = null, normalization = true assumed" in line
    config = GOLDEN / "transformer_swiglu.config.json"
    told(capsys, "import", file, "--out", tmp_path / "model", "--config", config, "--yes")
    written = json.loads((tmp_path / "model" / "config.json").read_text())
    assert json.loads(config.read_text()).items() <= written.items()
    for name, value in load_file(tmp_path / "model" / "model.safetensors").items():
        assert torch.equal(value, tensors[name])
    assert gated.load(tmp_path / "model").mlp(1).activation.name == "silu"


def test_import_of_a_language_model_of_products(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parts = {
        "mlp.w_m": (6, 4),
        "mlp.w_n": (6, 4),
        "mlp.w_proj": (4, 6),
        **{f"attn.{name}_proj": (2, 4) for name in ("q1", "q2", "k1", "k2", "v")},
        "attn.o_proj": (4, 2),
    }
    tensors = {"embed.weight": drawn(5, 4), "unembed.weight": drawn(5, 4), "final_norm.scale": drawn(4)}
    for name, shape in parts.items():
        tensors[f"blocks.0.{name}.weight"] = drawn(*shape)
    for name in ("norm_attn", "norm_mlp"):
        tensors[f"blocks.0.{name}.scale"] = drawn(4)
    file = saved(tmp_path / "model.pt", tensors, step=3)
    told(capsys, "import", file, "--out", tmp_path / "model", "--yes")
    written = json.loads((tmp_path / "model" / "config.json").read_text())
    assert written == {
        "vocab_size": 5,
        "d_model": 4,
        "d_head": 2,
        "d_mlp": 6,
        "n_layers": 1,
        "seq_len": None,
        "rope_base": 10000.0,
        "norm_type": "channel",
    }
    assert gated.load(tmp_path / "model").mlp(0).bilinear


def test_import_of_a_model_of_transformers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = folder(tmp_path / "theirs")
    file = saved(tmp_path / "pytorch_model.bin", load_file(model / "model.safetensors"))
    line = refused(capsys, "import", file, "--out", tmp_path / "model")
    assert "Give its config.json with --config" in line
    told(capsys, "import", file, "--out", tmp_path / "model", "--config", model / "config.json")
    x = drawn(3, 4)
    assert torch.equal(gated.load(tmp_path / "model").mlp(1)(x), gated.load(model).mlp(1)(x))


AUTHORS = load_file(GOLDEN / "image_plain.model.safetensors")


@pytest.mark.parametrize(
    ("tensors", "config", "message"),
    [
        ({"w": drawn(2, 2)}, {}, "with w (2, 2); expected one of these layouts"),
        (
            {**AUTHORS, "more": drawn(2)},
            {},
            "with more; expected only the tensors of an image classifier of the authors",
        ),
        ({**AUTHORS, "head.weight": drawn(5, 3)}, {}, "head.weight of shape (5, 3); expected (…, 8)"),
        ({**AUTHORS, "blocks.0.weight": drawn(8, 8)}, {}, "blocks.0.weight of shape (8, 8); expected (16, 8)"),
        ({**AUTHORS, "blocks.2.weight": drawn(16, 8)}, {}, "with layers [0, 2]; expected layers 0, 1, …"),
        ({**AUTHORS, "blocks.0.bias": drawn(3)}, {}, "blocks.0.bias of shape (3,); expected (16)"),
        ({**AUTHORS, "head.weight": drawn(5, 8) * float("nan")}, {}, "NaN or infinity in head.weight"),
        ({**AUTHORS, "head.weight": drawn(5, 8).double()}, {}, "head.weight of type torch.float64"),
        ({name: value for name, value in AUTHORS.items() if "head" not in name}, {}, "without head.weight"),
        (AUTHORS, {"d_hidden": 9}, "with d_hidden = 9 in its config; expected 8, as its tensors say"),
        (AUTHORS, {"model_type": "llama"}, "of kind 'llama' without"),
    ],
)
def test_files_that_are_not_imported(
    tensors: dict[str, Tensor], config: dict[str, Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = saved(tmp_path / "model.pt", tensors)
    (tmp_path / "config.json").write_text(json.dumps(config))
    line = refused(capsys, "import", file, "--out", tmp_path / "model", "--yes", "--config", tmp_path / "config.json")
    assert message in line
    assert not (tmp_path / "model").exists()


def test_import_runs_nothing_and_overwrites_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({**AUTHORS, "args": argparse.Namespace(lr=1)}, tmp_path / "model.pt")
    line = refused(capsys, "import", tmp_path / "model.pt", "--out", tmp_path / "model", "--yes")
    assert "argparse.Namespace, which would run code" in line
    file = saved(tmp_path / "good.pt", AUTHORS)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine").write_text("mine")
    assert "which is there already" in refused(capsys, "import", file, "--out", tmp_path / "model", "--yes")
    assert [part.name for part in (tmp_path / "model").iterdir()] == ["mine"]
    assert "No such file" in refused(capsys, "import", tmp_path / "none.pt", "--out", tmp_path / "new")
