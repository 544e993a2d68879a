"""Training on images that are changed at random, by whatever changes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from bilens.errors import BilensError, StoreError
from bilens.models import Augmentation, ImageClassifier, train
from bilens.space import Space


@dataclass(frozen=True)
class Faded:
    """Each image times a number of its own, from 1 − by to 1."""

    by: float

    @property
    def settings(self) -> Mapping[str, Any]:
        return asdict(self)

    def __call__(self, images: torch.Tensor, image: tuple[int, int], generator: torch.Generator) -> torch.Tensor:
        return images * (1 - self.by * torch.rand(len(images), 1, generator=generator))


def job(folder: Path, augmentation: Augmentation | None, image: tuple[int, int] | None = (3, 4)) -> torch.Tensor:
    model = ImageClassifier(Space("pixels", 12, image=image), Space("classes", 3), 5)
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.rand(30, 12, generator=generator), torch.randint(0, 3, (30,), generator=generator)
    before = images.clone()
    train(
        model, images, labels, epochs=3, batch_size=8, noise=0.1, augmentation=augmentation, device="cpu",
        checkpoint=folder / "part", progress=False,
    )  # fmt: skip
    torch.testing.assert_close(images, before, rtol=0, atol=0)
    return torch.cat([value.flatten() for value in model.state_dict().values()])


def test_an_interrupted_training_with_augmentation_ends_as_a_straight_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = Faded(0.5)
    straight = job(tmp_path / "straight", every)
    assert not torch.equal(straight, job(tmp_path / "plain", None))
    plain, calls = torch.nn.functional.cross_entropy, 0

    def counted(*arguments: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 6:
            raise KeyboardInterrupt
        return plain(*arguments)

    monkeypatch.setattr(torch.nn.functional, "cross_entropy", counted)
    with pytest.raises(KeyboardInterrupt):
        job(tmp_path / "cut", every)
    torch.testing.assert_close(job(tmp_path / "cut", every), straight, rtol=0, atol=0)
    with pytest.raises(StoreError):
        job(tmp_path / "cut", Faded(0.25))


def test_each_step_has_amounts_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, seen = Faded.__call__, []

    def noted(self: Faded, images: torch.Tensor, image: tuple[int, int], generator: torch.Generator) -> torch.Tensor:
        seen.append((generator.initial_seed(), image))
        return plain(self, images, image, generator)

    monkeypatch.setattr(Faded, "__call__", noted)
    job(tmp_path, Faded(0.5))
    assert len(set(seen)) == len(seen) == 12  # three epochs of four batches
    assert {image for _, image in seen} == {(3, 4)}


def test_images_without_a_shape_are_not_changed(tmp_path: Path) -> None:
    with pytest.raises(BilensError, match="an input space with an image shape"):
        job(tmp_path, Faded(0.5), None)
