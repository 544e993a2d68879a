"""What the recipes of the programme share: data, trained models, and the form of a recipe."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from matplotlib.figure import Figure

from bilens import data, files, models
from bilens.data import Dataset, Split
from bilens.models import Augmentation, ImageClassifier
from bilens.store import Folder
from reproduction.measurement import Measurement

_LR = 1e-3
"""The founding draft's learning rate; another one is named in the folder of the model."""


@dataclass(frozen=True, eq=False)
class Lab:
    """Data and trained models, each made once and kept in the run's folder.

    Args:
        run: the folder of the whole programme.
        quick: the 5,000 digits and small models, to see that everything works; its numbers say nothing of the claims.
    """

    run: Folder
    quick: bool
    _datasets: dict[str, Dataset] = field(default_factory=dict)

    def dataset(self, name: str = "mnist") -> Dataset:
        """A data set by name; the small one of its kind in a quick programme."""
        if self.quick:
            name = {"mnist": "small_mnist", "fashion_mnist": "digits"}.get(name, name)
        if name not in self._datasets:
            self._datasets[name] = data.load(name)
        return self._datasets[name]

    def size(self, full: int, quick: int) -> int:
        """A number that a quick programme makes smaller."""
        return quick if self.quick else full

    def classifier(
        self,
        seed: int,
        *,
        hidden: int,
        dataset: str = "mnist",
        activation: str = "bilinear",
        epochs: int = 10,
        batch_size: int = 100,
        lr: float = 1e-3,
        weight_decay: float = 1.0,
        noise: float = 0.0,
        schedule: str = "step",
        embedding: int | None = None,
        augmentation: Augmentation | None = None,
        few: int | None = None,
    ) -> ImageClassifier:
        """A trained classifier, without gradients and on the CPU: read from the folder, or trained and kept there.

        The founding draft's setting, AdamW with lr 1e-3 and weight decay 1, unless something else is asked for.
        `few` takes the first training images alone.
        """
        images = self.dataset(dataset)
        train = Split(images.train.images[:few], images.train.labels[:few])
        settings: Mapping[str, Any] = {
            "epochs": epochs,
            "batch_size": batch_size,
            "weight_decay": weight_decay,
            "noise": noise,
            "schedule": schedule,
            "seed": seed,
        }
        if lr != _LR:
            settings = {"lr": lr, **settings}
        name = f"{images.name}-{len(train)}-{activation}-{hidden}-" + "-".join(
            f"{value:g}" if isinstance(value, float) else str(value) for value in settings.values()
        )
        if embedding is not None:
            name += f"-embedding-{embedding}"
        if augmentation is not None:
            name += "".join(f"-{how}-{amount:g}" for how, amount in augmentation.settings.items() if amount)
        folder = self.run.path / "models" / name
        if not (folder / "config.json").exists():
            model = ImageClassifier(
                images.input, images.output, hidden, embedding=embedding, activation=activation, seed=seed
            )
            checkpoint = self.run.path / "models" / f"{name}.part"
            models.train(
                model, train.images, train.labels, augmentation=augmentation, checkpoint=checkpoint, **settings
            )
            changes = {} if augmentation is None else {"augmentation": dict(augmentation.settings)}
            files.write_json(folder / "training.json", {**settings, **changes})
            model.cpu().save_pretrained(folder)
            checkpoint.unlink(missing_ok=True)
        return ImageClassifier.from_pretrained(folder).eval().requires_grad_(False)


@dataclass(frozen=True)
class Claim:
    """One line of the table of results.

    Args:
        text: what is claimed; number: the name of the measured number that answers it.
        draft: what the founding draft, or a later paper, says; "–" where nobody has said anything.
        form: a format for the number, for example ".1f"; scale: what it is multiplied by; unit: written behind it.
    """

    text: str
    number: str
    draft: str = "–"
    form: str = ".2f"
    scale: float = 1.0
    unit: str = ""


@dataclass(frozen=True)
class Recipe:
    """An experiment of the programme.

    Args:
        name: on the command line and in file names; title: in the table and over its section.
        settings: what was done, in one line.
        measure: one seed's measurement.
        claims: the lines of the table, given the numbers that were measured.
        figures: of all seeds' measurements, by name, each with its caption.
        tables: what else is generated from the measurements, Markdown by the slot of the prose that it fills.
        complete: whether it runs on what bilens and its data sets bring; one that does not runs when it is named.
    """

    name: str
    title: str
    settings: Callable[[Lab], str]
    measure: Callable[[Lab, int], Measurement]
    claims: Callable[[Measurement], Sequence[Claim]]
    figures: Callable[[Sequence[Measurement]], Mapping[str, tuple[Figure, str]]]
    tables: Callable[[Sequence[Measurement]], Mapping[str, str]] = lambda seeds: {}
    complete: bool = True
