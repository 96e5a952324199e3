"""Sequences of different lengths: packing, padding, what layers make of them."""

from __future__ import annotations

import numpy as np
import pytest

import fastdl
from fastdl import nn
from fastdl.nn.utils import rnn as sequences


def test_packing_messages():
    x = fastdl.zeros(4, 3, 2)
    pack = sequences.pack_padded_sequence
    for call, error, match in (
        (lambda: pack(x, [4, 2]), RuntimeError, "one entry for each of the 3 sequences"),
        (lambda: pack(x, [4, 2, 2, 1]), RuntimeError, "batch_first=True"),
        (lambda: pack(x, [5, 2, 1]), RuntimeError, "sequence 0 is said to have 5 steps"),
        (lambda: pack(x, [3, 2, 0]), RuntimeError, "sequence 2 has 0"),
        (lambda: pack(x, [2, 3, 1]), RuntimeError, "enforce_sorted=False"),
        (lambda: pack(x, [2.0, 1.0, 1.0]), RuntimeError, "ints"),
        (lambda: pack(fastdl.zeros(4, 0, 2), np.zeros(0, np.int64)), RuntimeError, "empty batch"),
        (lambda: pack(fastdl.zeros(4), [4]), RuntimeError, "two axes"),
        (lambda: sequences.pad_sequence([]), RuntimeError, "at least one"),
        (lambda: sequences.pad_sequence([x, fastdl.zeros(2, 2)]), RuntimeError, "first axis only"),
        (lambda: sequences.pad_sequence(5), RuntimeError, "list of tensors"),
        (
            lambda: sequences.pad_packed_sequence(pack(x, [4, 2, 1]), total_length=3),
            ValueError,
            "longest sequence's 4",
        ),
    ):
        with pytest.raises(error, match=match):
            call()


@pytest.mark.parametrize("lengths", [[5, 3, 3, 1], [4, 4, 4, 4], [1, 5, 2, 5]])
@pytest.mark.parametrize("batch_first", [True, False])
def test_packing_against_torch(lengths, batch_first):
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).standard_normal((4, 5, 3) if batch_first else (5, 4, 3))
    in_order = lengths == sorted(lengths, reverse=True)
    packs = []
    for lib, utils in ((fastdl, sequences), (torch, torch.nn.utils.rnn)):
        leaf = lib.tensor(x)
        leaf.requires_grad_(True)
        pack = utils.pack_padded_sequence(leaf, lengths, batch_first, enforce_sorted=in_order)
        padded, back = utils.pad_packed_sequence(pack, batch_first, padding_value=-1.5, total_length=6)
        (padded * padded).sum().backward()
        packs.append(
            [pack.batch_sizes.numpy(), padded.detach().numpy(), back.numpy(), leaf.grad.numpy()]
            + [v.detach().numpy() for v in utils.unpack_sequence(pack)]
        )
        assert (pack.sorted_indices is None) == in_order
    for a, b in zip(*packs, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("side", ["left", "right"])
def test_pad_sequence_against_torch(side, batch_first):
    torch = pytest.importorskip("torch")
    arrays = [np.random.default_rng(0).standard_normal((n, 2)) for n in (3, 1, 4)]
    results = []
    for lib, utils in ((fastdl, sequences), (torch, torch.nn.utils.rnn)):
        leaves = [lib.tensor(a) for a in arrays]
        for leaf in leaves:
            leaf.requires_grad_(True)
        padded = utils.pad_sequence(leaves, batch_first, 7.0, side)
        (padded * padded).sum().backward()
        results.append([padded.detach().numpy(), *[leaf.grad.numpy() for leaf in leaves]])
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)


def test_packed_sequence():
    pack = sequences.pack_sequence([fastdl.ones(2), fastdl.ones(3)], enforce_sorted=False)
    assert pack.sorted_indices.tolist() == [1, 0]
    assert pack.unsorted_indices.tolist() == [1, 0]
    assert pack.double().data.dtype == fastdl.float64
    assert pack.to(fastdl.float32) is pack
    data, sizes, _, _ = pack
    again = sequences.PackedSequence((data, sizes), sorted_indices=pack.sorted_indices)
    assert again.unsorted_indices.tolist() == [1, 0]
    assert [s.tolist() for s in sequences.unpack_sequence(again)] == [[1, 1], [1, 1, 1]]


def test_padding_costs_no_steps():
    """What lies beyond a sequence's end is never read."""
    gru = nn.GRU(3, 4, bidirectional=True)
    x = np.random.default_rng(0).standard_normal((6, 3, 3)).astype(np.float32)
    x[4:, 1] = x[1:, 2] = np.nan
    y, h = gru(sequences.pack_padded_sequence(fastdl.tensor(x), [6, 4, 1]))
    assert np.isfinite(y.data.detach().numpy()).all()
    assert np.isfinite(h.detach().numpy()).all()
    assert y.data.shape[0] == 11
