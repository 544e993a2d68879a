"""Streams: every vector once an epoch, any batch by its number, and iterables that start again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from bilens import pairs, sae
from bilens.errors import BilensError, ShapeError
from bilens.space import Space
from bilens.tensor import BilinearTensor


class Batches:
    """A re-iterable without a length that counts how often it was begun."""

    def __init__(self, *batches: Tensor) -> None:
        self.batches = batches
        self.begun = 0

    def __iter__(self) -> Iterator[Tensor]:
        self.begun += 1
        return iter(self.batches)


@given(st.integers(1, 20), st.integers(1, 25), st.integers(0, 2**40), st.booleans())
def test_every_vector_comes_once_an_epoch_in_the_order_of_seed_and_epoch(
    rows: int, batch_size: int, seed: int, shuffle: bool
) -> None:
    x = torch.arange(rows).float()[:, None].expand(rows, 2)
    stream = sae.TensorStream(x, batch_size, seed, shuffle)
    epochs = [
        torch.cat([stream.batch(e * len(stream) + n) for n in range(len(stream))])[:, 0].tolist() for e in range(3)
    ]
    for epoch, values in enumerate(epochs):
        order = torch.randperm(rows, generator=torch.Generator().manual_seed((seed * 0x9E3779B1 + epoch) % 2**63))
        assert values == (order.tolist() if shuffle else list(range(rows)))
    again = sae.TensorStream(x, batch_size, seed, shuffle)
    last = 3 * len(stream) - 1
    assert torch.equal(again.batch(last), stream.batch(last))
    assert (stream.width, stream.rows) == (2, rows)
    assert all(len(stream.batch(n)) == batch_size for n in range(len(stream) - 1))


def test_streams_are_taken_as_they_are() -> None:
    tensor = BilinearTensor.from_layer(
        torch.randn(3, 4), torch.randn(3, 4), input=Space("pixels", 4), output=Space("hidden", 3)
    )
    for stream in (sae.TensorStream(torch.zeros(2, 3)), pairs.stream(tensor)):
        assert isinstance(stream, sae.Stream)
        assert sae.as_stream(stream) is stream


def test_an_iterable_starts_again_and_can_be_asked_for_any_batch() -> None:
    batches = [torch.full((2, 3), float(n)) for n in range(3)]
    stream = sae.as_stream(batches)
    assert (stream.width, stream.rows, len(stream)) == (3, 6, 3)
    for n in (0, 1, 2, 3, 4, 9, 9, 2, 0):
        assert torch.equal(stream.batch(n), batches[n % 3])


def test_an_iterable_in_order_is_read_once_an_epoch() -> None:
    batches = Batches(torch.zeros(2, 3), torch.ones(1, 3))
    stream = sae.IterableStream(batches)
    for n in range(6):
        assert torch.equal(stream.batch(n), batches.batches[n % 2])
        assert torch.equal(stream.batch(n), batches.batches[n % 2])
    assert batches.begun == 3
    assert (stream.rows, len(stream)) == (3, 2)


def test_a_data_loader_is_a_stream() -> None:
    x = torch.randn(7, 3)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x), batch_size=4)
    stream = sae.as_stream(loader)
    assert (stream.width, stream.rows, len(stream)) == (3, 7, 2)
    assert torch.equal(torch.cat([stream.batch(2), stream.batch(3)]), x)


@pytest.mark.bad_input
def test_what_cannot_be_a_stream_is_refused() -> None:
    with pytest.raises(BilensError, match="a generator, which can be read once"):
        sae.as_stream(x for x in [torch.zeros(2, 3)])
    with pytest.raises(BilensError, match="got no batch"):
        sae.as_stream(Batches()).batch(0)
    for batch, what in ((torch.zeros(3), r"a tensor of shape \(3,\)"), ("text", "str"), ([], "list")):
        with pytest.raises(ShapeError, match=f"a batch that is {what}"):
            sae.as_stream([batch]).batch(0)


@pytest.mark.bad_input
def test_wrong_tensors_are_refused() -> None:
    for shape in ((3,), (0, 3), (3, 0), (2, 2, 2)):
        with pytest.raises(ShapeError, match="vectors of shape"):
            sae.TensorStream(torch.zeros(shape))
    with pytest.raises(BilensError, match="batch_size = 0"):
        sae.TensorStream(torch.zeros(2, 2), batch_size=0)
