"""Coders of activations in a run's folder: trained once, measured as `sae.evaluate` and hooks say, beside a null."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from bilens import activations, decompose, sae
from bilens.analyses import site_coders
from bilens.analyses.audit import table_rows
from bilens.analyses.site_coders import UNTRAINED, CoderSettings, null, site_coder
from bilens.errors import BilensError
from bilens.store import Folder
from tiny_models import made, texts

pytestmark = pytest.mark.filterwarnings("ignore")  # of a library that is not ours
FIT, HELD_OUT = texts(16), texts(6, seed=2)
SMALL = CoderSettings(features=40, k=4, steps=30, batch=32, lr=0.01)


def trained(run: Folder, site: Any = "mlp_out", settings: CoderSettings = SMALL, **more: Any) -> Any:
    return site_coder(
        run, "one", made(), 1, site, fit=FIT, held_out=HELD_OUT, settings=settings, progress=False, **more
    )


@pytest.mark.parametrize("kind", ["topk", "relu"])
@pytest.mark.parametrize("site", ["mlp_out", "residual_before", ("mlp_in", "mlp_out")])
def test_a_coder_is_measured_on_text_that_it_did_not_see(kind: Any, site: Any, tmp_path: Path) -> None:
    settings = CoderSettings(kind, 40, 4, 0.5, 30, 32, 0.01)
    coder, report = trained(Folder(tmp_path, {"job": "test"}), site, settings)
    sites = (site,) if isinstance(site, str) else site
    x, y = (activations.collect(made(), 1, part, HELD_OUT) for part in (sites[0], sites[-1]))
    with torch.no_grad():
        codes, given = coder.encode(x), coder(x)
    lost = (y - given).square().sum() / (y - y.mean(dim=0)).square().sum()
    assert report.fvu == pytest.approx(float(lost), rel=1e-4)
    assert report.l0 == pytest.approx(float((codes != 0).sum(dim=1).float().mean()))
    assert report.dead == pytest.approx(float((codes == 0).all(dim=0).float().mean()))
    assert (report.tokens, report.vectors) == (66, 30 * 32)
    assert [cost.by for cost in report.costs] == ["coder", UNTRAINED, "mean"]
    assert [cost.site for cost in report.costs] == [sites[-1]] * 3
    assert report.costs[0].fvu == pytest.approx(report.fvu, rel=1e-4)
    if isinstance(site, str):  # a transcoder learns too little from so few tokens
        assert report.costs[0].fvu < report.costs[1].fvu < 1.3
    (expected,) = activations.replaced(made(), 1, sites[-1], HELD_OUT, {"coder": coder}, reads=sites[0])[:1]
    assert report.costs[0].delta_ce == pytest.approx(expected.delta_ce, abs=1e-6)


def test_the_run_keeps_the_coder_and_goes_on_where_it_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight, report = trained(Folder(tmp_path / "straight", {}))
    count = 0

    class Killed(activations.ActivationStream):
        def batch(self, n: int) -> Tensor:
            nonlocal count
            count += 1
            if count == 20:
                raise KeyboardInterrupt
            return super().batch(n)

    plain = activations.stream(made(), 1, "mlp_out", FIT, batch_size=32)
    fields = {name: getattr(plain, name) for name in plain.__dataclass_fields__}
    with pytest.raises(KeyboardInterrupt):
        trained(Folder(tmp_path / "killed", {}), stream=Killed(**fields))
    assert (tmp_path / "killed" / "one.part").exists()
    resumed, again = trained(Folder(tmp_path / "killed", {}))
    assert again == report
    for ours, theirs in zip(resumed.parameters(), straight.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert not (tmp_path / "killed" / "one.part").exists()
    assert str(sae.load(tmp_path / "killed" / "coders" / "one").site) == "mlp_out of layer 1"
    monkeypatch.setattr(site_coders.sae, "train", None)  # a finished run trains nothing
    _, third = trained(Folder(tmp_path / "killed", {}))
    assert third == report


def test_the_null_has_the_scale_and_mean_that_fit_best() -> None:
    x = activations.collect(made(), 1, "mlp_out", HELD_OUT)
    y = null(sae.TopKSAE(16, 40, 4), x, x, SMALL)(x).detach()
    assert_close(y.mean(dim=0), x.mean(dim=0), atol=1e-4, rtol=1e-4)
    off, part = x - x.mean(dim=0), y - y.mean(dim=0)
    assert float((part * (off - part)).sum()) == pytest.approx(0, abs=1e-2)  # no other scale is nearer
    assert float((off - part).square().sum()) < float(off.square().sum())


@pytest.mark.bad_input
def test_settings_are_checked() -> None:
    with pytest.raises(BilensError, match="k = 9 of 8 features"):
        CoderSettings(features=8, k=9)
    with pytest.raises(BilensError, match="kind = 'gated'"):
        CoderSettings("gated")  # type: ignore[arg-type]


def test_an_audit_as_rows_of_its_table() -> None:
    one = decompose.Audit(
        "coder",
        ("a", "b"),
        "weighted",
        (1, 2),
        torch.tensor([[0.1, 0.2], [0.3, 0.4]]),
        torch.tensor([[0.5, 0.6], [torch.nan, torch.nan]]),
        torch.tensor([0.7, 0.8]),
        torch.tensor([0.9, torch.nan]),
        torch.tensor([20, 3]),
        50,
        15,
    )
    rows = table_rows(one, first=10)
    assert rows["feature"] == [10, 10, 10, 11, 11, 11]
    assert rows["pairs"] == [1, 2, 0, 1, 2, 0]
    assert rows["correlation"] == pytest.approx([0.1, 0.2, 0.7, 0.3, 0.4, 0.8])
    assert rows["correlation_active"][:3] == pytest.approx([0.5, 0.6, 0.9])
    assert rows["correlation_active"][3:] == [None, None, None]
    assert (rows["tokens"], rows["active"]) == ([50] * 6, [20] * 3 + [3] * 3)
