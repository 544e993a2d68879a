"""How families of language models name and lay out their gated MLPs: one table, a few lines a family."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from bilens._internal.checks import choice, instance, number
from bilens.errors import BilensError, StoreError
from bilens.models.gated.mlp import Gate

ROOTS = ("", "model.", "language_model.", "model.language_model.", "language_model.model.")
"""What a file may put before the name of a layer: it holds the model alone, with its head, or beside a picture's."""


@dataclass(frozen=True)
class Layout:
    """Where the gated MLPs of a model are, and how their weights lie. `{layer}`, `{expert}` and `{root}` are filled in.

    A bias is looked for under the name of its weight: `….weight` gives `….bias`, any other name gives `…_bias`.

    Args:
        gate, up, down: names of W, V and D, for example "blocks.{layer}.ffn.w1.weight". `up` is the same name as `gate`
            where both are rows of one matrix.
        norm: name of the gain of the norm before the MLP, or of what would be its gain where it has none; empty for no
            norm. post_norm: of the norm after it, before the residual stream.
        rows: how the rows of W and V lie in their one matrix: "apart" in two, "halves" W over V, "interleaved" in turn.
        transposed: whether matrices are stored as (in, out).
        norm_kind: "rms", "layer", or "none" for a gain without any normalisation.
        gain: "w" where the gain is what is stored, "1+w" where 1 is added to it, "none" where there is none.
        eps: of the norm; None takes it from the config.
        activation: σ; empty takes it from the config.
        part: "mlp", "experts" (numbered by `{expert}`, or along the first axis of one tensor) or "shared expert".
        width: entry of the config with the number of units.

    Raises:
        BilensError: a name without `{layer}`, or a choice that is not offered.
    """

    gate: str
    up: str
    down: str
    norm: str = ""
    post_norm: str = ""
    rows: Literal["apart", "halves", "interleaved"] = "apart"
    transposed: bool = False
    norm_kind: Literal["rms", "layer", "none"] = "rms"
    gain: Literal["w", "1+w", "none"] = "w"
    eps: float | None = None
    activation: str = ""
    part: Literal["mlp", "experts", "shared expert"] = "mlp"
    width: str = "intermediate_size"

    def __post_init__(self) -> None:
        for entry in ("gate", "up", "down", "norm", "post_norm"):
            name = getattr(self, entry)
            instance(entry, name, str, "a name as a text")
            if "{layer}" not in name and (name or not entry.endswith("norm")):
                raise BilensError(f"{entry} = {name!r} in a layout", "a name with {layer} in it")
        choice("rows", self.rows, ("apart", "halves", "interleaved"))
        choice("norm_kind", self.norm_kind, ("rms", "layer", "none"))
        choice("gain", self.gain, ("w", "1+w", "none"))
        choice("part", self.part, ("mlp", "experts", "shared expert"))
        if type(self.transposed) is not bool:
            raise BilensError(f"transposed = {self.transposed!r} in a layout", "true or false")
        if self.eps is not None:
            number("eps", self.eps, 0)
        if self.activation:
            choice("activation", self.activation, tuple(GATES), f"one of {', '.join(GATES)}")
        if (self.rows == "apart") == (self.gate == self.up):
            raise BilensError(
                f"rows = {self.rows!r} with gate = {self.gate!r} and up = {self.up!r}",
                "one name for both where their rows lie in one matrix, and two names where they lie apart",
            )

    @property
    def stacked(self) -> bool:
        """Whether all experts of a layer are one tensor, along its first axis."""
        return self.part == "experts" and "{expert}" not in self.gate

    def pattern(self) -> re.Pattern[str]:
        """Matches the name of W, with the groups root, layer and expert where it has them."""
        text = re.escape(self.gate)
        for word, what in (("root", "|".join(map(re.escape, ROOTS))), ("layer", r"\d+"), ("expert", r"\d+")):
            text = text.replace(re.escape(f"{{{word}}}"), f"(?P<{word}>{what})")
        return re.compile(text)


def bias_name(weight: str) -> str:
    """The name of a weight's bias."""
    stem = weight.removesuffix(".weight")
    return f"{weight}_bias" if stem == weight else f"{stem}.bias"


GATES = {
    "linear": Gate("identity"),
    "identity": Gate("identity"),
    "silu": Gate("silu"),
    "swish": Gate("silu"),
    "gelu": Gate("gelu"),
    "gelu_python": Gate("gelu"),
    "gelu_new": Gate("gelu_tanh"),
    "gelu_fast": Gate("gelu_tanh"),
    "gelu_tanh": Gate("gelu_tanh"),
    "gelu_pytorch_tanh": Gate("gelu_tanh"),
    "quick_gelu": Gate("silu", slope=1.702),
    "relu": Gate("relu"),
    "relu2": Gate("relu2"),
}
"""σ by the names that configs give it."""

_LAYER = "{root}layers.{layer}."
_LLAMA = Layout(
    gate=f"{_LAYER}mlp.gate_proj.weight",
    up=f"{_LAYER}mlp.up_proj.weight",
    down=f"{_LAYER}mlp.down_proj.weight",
    norm=f"{_LAYER}post_attention_layernorm.weight",
)
_GEMMA = replace(_LLAMA, gain="1+w")
_GEMMA_2 = replace(
    _GEMMA,
    norm=f"{_LAYER}pre_feedforward_layernorm.weight",
    post_norm=f"{_LAYER}post_feedforward_layernorm.weight",
)
_OLMO_2 = replace(_LLAMA, norm="", post_norm=f"{_LAYER}post_feedforward_layernorm.weight")
_FUSED = f"{_LAYER}mlp.gate_up_proj.weight"
_STACKED = replace(  # as transformers holds experts in memory
    _LLAMA,
    gate=f"{_LAYER}mlp.experts.gate_up_proj",
    up=f"{_LAYER}mlp.experts.gate_up_proj",
    down=f"{_LAYER}mlp.experts.down_proj",
    rows="halves",
    part="experts",
)
_MIXTRAL = replace(
    _LLAMA,
    gate=f"{_LAYER}block_sparse_moe.experts.{{expert}}.w1.weight",
    up=f"{_LAYER}block_sparse_moe.experts.{{expert}}.w3.weight",
    down=f"{_LAYER}block_sparse_moe.experts.{{expert}}.w2.weight",
    part="experts",
)
_QWEN_MOE = (
    _LLAMA,
    replace(
        _LLAMA,
        gate=f"{_LAYER}mlp.experts.{{expert}}.gate_proj.weight",
        up=f"{_LAYER}mlp.experts.{{expert}}.up_proj.weight",
        down=f"{_LAYER}mlp.experts.{{expert}}.down_proj.weight",
        part="experts",
        width="moe_intermediate_size",
    ),
    replace(_STACKED, width="moe_intermediate_size"),
    replace(
        _LLAMA,
        gate=f"{_LAYER}mlp.shared_expert.gate_proj.weight",
        up=f"{_LAYER}mlp.shared_expert.up_proj.weight",
        down=f"{_LAYER}mlp.shared_expert.down_proj.weight",
        part="shared expert",
        width="shared_expert_intermediate_size",
    ),
)

FAMILIES: dict[str, tuple[Layout, ...]] = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "smollm3"), (_LLAMA,)),
    "olmo": (replace(_LLAMA, norm_kind="layer", gain="none", eps=1e-5),),
    **dict.fromkeys(("olmo2", "olmo3"), (_OLMO_2,)),
    "phi3": (replace(_LLAMA, gate=_FUSED, up=_FUSED, rows="halves"),),
    "gemma": (_GEMMA,),
    **dict.fromkeys(("gemma2", "gemma3", "gemma3_text"), (_GEMMA_2,)),
    "mixtral": (_MIXTRAL, _STACKED),
    **dict.fromkeys(("qwen2_moe", "qwen3_moe"), _QWEN_MOE),
    "gpt_oss": (replace(_STACKED, rows="interleaved", transposed=True),),
    "bilinear_transformer": (  # the authors of arXiv 2410.08417
        Layout(
            gate="transformer.h.{layer}.mlp.w.weight",
            up="transformer.h.{layer}.mlp.w.weight",
            down="transformer.h.{layer}.mlp.p.weight",
            norm="transformer.h.{layer}.n2",
            rows="halves",
            gain="none",
            eps=1e-8,
        ),
    ),
    "bilinear_rules": (  # henrylhale/bilinear-vpd: products alone, a gain and no normalisation
        Layout(
            gate="blocks.{layer}.mlp.w_m.weight",
            up="blocks.{layer}.mlp.w_n.weight",
            down="blocks.{layer}.mlp.w_proj.weight",
            norm="blocks.{layer}.norm_mlp.scale",
            norm_kind="none",
            eps=0.0,
            activation="linear",
        ),
    ),
}
"""Layouts by the `model_type` of a config. A layer has whichever of them its tensors show."""

_BLOCK = "blk.{layer}."
_GGUF = Layout(
    gate=f"{_BLOCK}ffn_gate.weight",
    up=f"{_BLOCK}ffn_up.weight",
    down=f"{_BLOCK}ffn_down.weight",
    norm=f"{_BLOCK}ffn_norm.weight",
    activation="silu",
    width="feed_forward_length",
)
_GGUF_EXPERTS = replace(
    _GGUF,
    gate=f"{_BLOCK}ffn_gate_exps.weight",
    up=f"{_BLOCK}ffn_up_exps.weight",
    down=f"{_BLOCK}ffn_down_exps.weight",
    part="experts",
    width="expert_feed_forward_length",
)
_GGUF_SHARED = replace(
    _GGUF,
    gate=f"{_BLOCK}ffn_gate_shexp.weight",
    up=f"{_BLOCK}ffn_up_shexp.weight",
    down=f"{_BLOCK}ffn_down_shexp.weight",
    part="shared expert",
    width="expert_shared_feed_forward_length",
)
# The gain of Gemma's norms is stored with its 1 already added.
_GGUF_GEMMA = replace(_GGUF, activation="gelu_tanh")
_GGUF_GEMMA_2 = replace(_GGUF_GEMMA, post_norm=f"{_BLOCK}post_ffw_norm.weight")
_GGUF_PHI = f"{_BLOCK}ffn_up.weight"

GGUF_FAMILIES: dict[str, tuple[Layout, ...]] = {
    "llama": (_GGUF, replace(_GGUF_EXPERTS, width="feed_forward_length")),  # Mistral, Mixtral and SmolLM2 too
    **dict.fromkeys(("qwen2", "qwen3", "smollm3"), (_GGUF,)),
    **dict.fromkeys(("qwen2moe", "qwen3moe"), (_GGUF, _GGUF_EXPERTS, _GGUF_SHARED)),
    "olmo": (replace(_GGUF, norm=f"{_BLOCK}ffn_norm", norm_kind="layer", gain="none", eps=1e-5),),
    "olmo2": (replace(_GGUF, norm="", post_norm=f"{_BLOCK}post_ffw_norm.weight"),),
    "phi3": (replace(_GGUF, gate=_GGUF_PHI, up=_GGUF_PHI, rows="halves"),),
    "gemma": (_GGUF_GEMMA,),
    **dict.fromkeys(("gemma2", "gemma3"), (_GGUF_GEMMA_2,)),
    "gpt-oss": (replace(_GGUF_EXPERTS, norm=f"{_BLOCK}post_attention_norm.weight", activation=""),),
}
"""Layouts of GGUF files, by `general.architecture`."""

LEFT_OUT: dict[str, dict[str, Any]] = {
    kind: {"hidden_act": "gelu_pytorch_tanh", "rms_norm_eps": 1e-6}
    for kind in ("gemma", "gemma2", "gemma3", "gemma3_text")
}
"""What published configs leave out, by their kind, as transformers fills it in."""

UNGATED = {
    **dict.fromkeys(
        ("gpt2", "openai-gpt", "gpt_neo", "gptj", "gpt_neox", "gptneox", "gpt_bigcode"), "GPT-2's plain MLP"
    ),
    **dict.fromkeys(("opt", "bloom", "phi", "phi2", "mpt", "codegen", "starcoder2", "nemotron"), "a plain MLP"),
    **dict.fromkeys(("falcon", "bert", "roberta", "t5", "xglm", "biogpt", "arcee"), "a plain MLP"),
}
"""Kinds of models whose MLPs have no gate, and what they have."""


BILINEAR = "bilinear_"
"""What the kind of a model begins with whose MLPs are bilinear in some layers, and its family's in the others."""


def _converted(layout: Layout) -> Layout:
    """Where a bilinear MLP is in a layer that had another."""
    owner, _, _ = layout.gate.rpartition("mlp.")
    left, right, down = (f"{owner}mlp.{name}.weight" for name in ("left", "right", "down"))
    names = replace(layout, gate=left, up=right, down=down, rows="apart")
    return replace(names, activation="linear", width="bilinear_units")


@dataclass(frozen=True)
class Family:
    """What a config says of every layer.

    Args:
        name: its kind of model; layouts: where its MLPs may be.
        gate: σ; eps: of the norms, where the layout has none of its own.
        config: with transformers' names: hidden_size, num_hidden_layers, and the widths that layouts name.
    """

    name: str
    layouts: tuple[Layout, ...]
    gate: Gate | None
    eps: float | None
    config: Mapping[str, Any]

    def activation(self, layout: Layout) -> Gate:
        """σ of the MLPs of a layout.

        Raises:
            BilensError: neither the layout nor the config names one.
        """
        if layout.activation:
            return GATES[layout.activation]
        if self.gate is None:
            raise BilensError("a config without hidden_act", f"one of {', '.join(GATES)}", "name it in the layout")
        return self.gate


def recognised(
    config: Mapping[str, Any], *, title: str, gguf: bool, layout: Layout | str | None = None
) -> Family | None:
    """The family of a model by its config, or as the caller says; None where nothing tells.

    Args:
        config: of config.json, of a model in memory, or the metadata of a GGUF file; title: of the model, for messages.
        gguf: whether the names are those of GGUF files.
        layout: one of the caller's own, or the name of a family whose layout this model has.

    Raises:
        StoreError: a model without gates, or an activation that is not read. BilensError: no such family.
    """
    table = GGUF_FAMILIES if gguf else FAMILIES
    config = _unified(config)
    kind = str(config.get("model_type"))
    if isinstance(layout, str):
        choice("layout", layout, tuple(table), f"a layout, or one of {', '.join(table)}")
        kind, layouts = layout, table[layout]
    elif layout is not None:
        instance("layout", layout, Layout)
        layouts = (layout,)
    elif kind in UNGATED or config.get("bilinear") is False:
        what = UNGATED.get(kind, "a plain MLP")
        raise StoreError(
            f"{title} of kind {kind!r}, which is not gated: it has {what}, down(σ(up(x)))",
            "a model with gated MLPs, down(σ(gate(x)) * up(x))",
        )
    elif kind in table:
        layouts = table[kind]
    elif (base := kind.removeprefix(BILINEAR)) in table and base != kind:
        layouts = (*(_converted(one) for one in table[base] if one.part == "mlp"), *table[base])
        config.pop("mlp_bias", None)  # of the layers that are as they were
    else:
        return None
    config = {**LEFT_OUT.get(kind.removeprefix(BILINEAR), {}), **config}
    if config.get("normalization") is False:
        layouts = tuple(replace(one, norm_kind="none", gain="none", eps=0.0) for one in layouts)
    eps = config.get("rms_norm_eps", config.get("layer_norm_eps"))
    if eps is not None and (not isinstance(eps, int | float) or not 0 <= eps < 1):
        raise StoreError(f"{title} with rms_norm_eps = {eps!r}", "a number from 0 to 1")
    return Family(kind, layouts, _gate(config, kind, title), None if eps is None else float(eps), config)


def _gate(config: Mapping[str, Any], kind: str, title: str) -> Gate | None:
    if kind in ("gpt_oss", "gpt-oss"):
        alpha, limit = config.get("swiglu_alpha", 1.702), config.get("swiglu_limit", 7.0)
        return Gate("silu", slope=alpha, limit=limit, shift=1.0)
    named = config.get("hidden_activation") or config.get("hidden_act")
    if kind.removeprefix(BILINEAR) in LEFT_OUT and named == "gelu" and not config.get("hidden_activation"):
        named = "gelu_pytorch_tanh"  # Gemma's releases say hidden_act = gelu, and mean this
    if named is None:
        return None
    if not isinstance(named, str) or named not in GATES:
        raise StoreError(f"{title} with the activation {named!r}, which is not supported", f"one of {', '.join(GATES)}")
    return GATES[named]


def _unified(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config by transformers' names: of the text's part, and of the two layouts that have names of their own."""
    config = dict(config)
    if isinstance(text := config.get("text_config"), Mapping):
        config = {**config, **text, "model_type": config.get("model_type") or text.get("model_type")}
    if "model_type" in config:
        return config
    if {"n_layer", "d_model", "d_hidden", "bilinear"} <= config.keys():
        ours = {"hidden_size": "d_model", "intermediate_size": "d_hidden", "num_hidden_layers": "n_layer"}
        act = config.get("gate") or "linear"
        return {**config, **_renamed(config, ours), "model_type": "bilinear_transformer", "hidden_act": act}
    if {"n_layers", "d_model", "d_mlp", "norm_type"} <= config.keys() and config["norm_type"] == "channel":
        ours = {"hidden_size": "d_model", "intermediate_size": "d_mlp", "num_hidden_layers": "n_layers"}
        return {**config, **_renamed(config, ours), "model_type": "bilinear_rules"}
    return config


def _renamed(config: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {ours: config[theirs] for ours, theirs in names.items()}


__all__ = [
    "BILINEAR",
    "FAMILIES",
    "GATES",
    "GGUF_FAMILIES",
    "ROOTS",
    "UNGATED",
    "Family",
    "Layout",
    "bias_name",
    "recognised",
]
