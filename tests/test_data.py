"""Datasets, samplers, collating, DataLoader's batches with and without workers."""

from __future__ import annotations

import collections

import numpy as np
import pytest

import fastdl
from fastdl.utils import data
from fastdl.utils.data import DataLoader, TensorDataset, get_worker_info

# Forking while the kernels' threads exist is meant: their pool survives it.
pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")

KINDS = [(0, "process"), (2, "process"), (3, "thread")]
kinds = pytest.mark.parametrize(("workers", "kind"), KINDS)


class Squares(data.Dataset):
    def __init__(self, n):
        self.n = n

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        if not 0 <= i < self.n:
            raise IndexError(i)
        return fastdl.tensor([i, i * i]), i / 2, {"name": f"sample {i}", "even": i % 2 == 0}


class Stream(data.IterableDataset):
    def __init__(self, n):
        self.n = n

    def __iter__(self):
        info = get_worker_info()
        start, step = (info.id, info.num_workers) if info else (0, 1)
        return iter(range(start, self.n, step))

    def __len__(self):
        return self.n


def lists(loader):
    return [batch.tolist() for batch in loader]


# Datasets -------------------------------------------------------------------------------------------


def test_tensor_dataset():
    x, y = fastdl.arange(6).reshape(3, 2), fastdl.tensor([5, 6, 7])
    d = TensorDataset(x, y)
    assert len(d) == 3
    assert [t.tolist() for t in d[1]] == [[2, 3], 6]
    with pytest.raises(ValueError, match=r"Size mismatch between tensors.*\[3, 2\]"):
        TensorDataset(y, fastdl.zeros(2))


def test_concat_chain_stack_subset():
    both = Squares(3) + data.Subset(Squares(10), [7, 8])
    assert len(both) == 5
    assert [both[i][1] for i in (0, 2, 3, 4, -1)] == [0.0, 1.0, 3.5, 4.0, 4.0]
    with pytest.raises(IndexError):
        both[5]
    with pytest.raises(ValueError, match="should not exceed dataset length"):
        both[-6]
    with pytest.raises(ValueError, match="empty iterable"):
        data.ConcatDataset([])
    with pytest.raises(TypeError, match="use ChainDataset"):
        data.ConcatDataset([Stream(3)])
    chained = Stream(2) + Stream(3)
    assert list(chained) == [0, 1, 0, 1, 2]
    assert len(chained) == 5
    assert data.StackDataset(range(3), "abc")[1] == (1, "b")
    assert data.StackDataset(a=range(3), b="abc")[2] == {"a": 2, "b": "c"}
    with pytest.raises(ValueError, match="Size mismatch"):
        data.StackDataset([1], [1, 2])
    with pytest.raises(ValueError, match="either"):
        data.StackDataset()
    subset = data.Subset(Squares(10), [3, 1])
    assert [s[1] for s in subset.__getitems__([1, 0])] == [0.5, 1.5]


def test_random_split():
    parts = data.random_split(range(10), [7, 3], generator=fastdl.Generator().manual_seed(1))
    again = data.random_split(range(10), [7, 3], generator=fastdl.Generator().manual_seed(1))
    assert [len(p) for p in parts] == [7, 3]
    assert sorted([*parts[0], *parts[1]]) == list(range(10))
    assert [list(p) for p in parts] == [list(p) for p in again]
    assert [len(p) for p in data.random_split(range(10), [0.34, 0.33, 0.33])] == [4, 3, 3]
    with pytest.raises(ValueError, match="does not equal the length"):
        data.random_split(range(10), [7, 4])
    with pytest.raises(ValueError, match="Fraction at index 0"):
        data.random_split(range(10), [-0.5, 1.5])
    with pytest.warns(UserWarning, match="Length of split at index 1 is 0"):
        data.random_split(range(3), [1.0, 0.0])


# Samplers -------------------------------------------------------------------------------------------


def test_random_sampler():
    g = fastdl.Generator().manual_seed(3)
    sampler = data.RandomSampler(range(100), generator=g)
    first, second = list(sampler), list(sampler)
    assert sorted(first) == list(range(100))
    assert first != second
    g.manual_seed(3)
    assert list(sampler) == first
    assert sorted(data.RandomSampler(range(3), num_samples=7)) != list(range(7))
    counts = collections.Counter(data.RandomSampler(range(3), num_samples=7))
    assert sorted(counts.values()) == [2, 2, 3]
    drawn = list(data.RandomSampler(range(5), replacement=True, num_samples=2000))
    assert set(drawn) == set(range(5))
    assert min(collections.Counter(drawn).values()) > 300  # expected 400, standard deviation 18
    with pytest.raises(TypeError, match="replacement should be a boolean"):
        data.RandomSampler([1], replacement=1)
    for source, wanted in (([1], 0), ([1], -1), ([], None)):
        with pytest.raises(ValueError, match="num_samples should be a positive integer"):
            data.RandomSampler(source, num_samples=wanted)


def test_other_samplers():
    assert list(data.SequentialSampler("abc")) == [0, 1, 2]
    assert sorted(data.SubsetRandomSampler([5, 7, 9])) == [5, 7, 9]
    weights = [0.0, 1.0, 3.0]
    counts = collections.Counter(data.WeightedRandomSampler(weights, 4000))
    assert set(counts) == {1, 2}
    assert 850 < counts[1] < 1150  # expected 1000, standard deviation 27
    assert sorted(data.WeightedRandomSampler(fastdl.tensor(weights), 2, replacement=False)) == [1, 2]
    for wrong, message in (
        (lambda: data.WeightedRandomSampler(weights, 3, replacement=False), "cannot draw 3 samples"),
        (lambda: data.WeightedRandomSampler([-1.0, 2.0], 1), "not negative"),
        (lambda: data.WeightedRandomSampler([[1.0]], 1), "1d sequence"),
        (lambda: data.WeightedRandomSampler(weights, 0), "positive integer"),
        (lambda: data.BatchSampler([1], 0, False), "batch_size should be a positive"),
        (lambda: data.BatchSampler([1], 1, 3), "drop_last should be a boolean"),
    ):
        with pytest.raises(ValueError, match=message):
            wrong()
    assert list(data.BatchSampler(range(5), 2, False)) == [[0, 1], [2, 3], [4]]
    assert list(data.BatchSampler(range(5), 2, True)) == [[0, 1], [2, 3]]
    assert len(data.BatchSampler(range(5), 2, False)) == 3
    assert len(data.BatchSampler(range(5), 2, True)) == 2


# Collating ------------------------------------------------------------------------------------------


def test_distributed_sampler_divides_a_dataset():
    shares = [data.DistributedSampler(range(7), 3, rank, shuffle=False) for rank in range(3)]
    assert [list(s) for s in shares] == [[0, 3, 6], [1, 4, 0], [2, 5, 1]]
    assert [len(s) for s in shares] == [3, 3, 3]
    assert list(data.DistributedSampler(range(7), 3, 2, shuffle=False, drop_last=True)) == [2, 5]
    assert list(data.DistributedSampler(range(1), 3, 2)) == [0]
    orders = []
    for epoch in (0, 1, 0):
        parts = [data.DistributedSampler(range(8), 2, rank, seed=3) for rank in (0, 1)]
        for part in parts:
            part.set_epoch(epoch)
        orders.append([i for part in parts for i in part])
        assert sorted(orders[-1]) == list(range(8))
    assert orders[0] == orders[2] != orders[1]
    with pytest.raises(RuntimeError, match="num_replicas and rank"):
        data.DistributedSampler(range(8))
    with pytest.raises(ValueError, match="Invalid rank 2"):
        data.DistributedSampler(range(8), 2, 2)


def test_default_collate_equals_torchs():
    torch = pytest.importorskip("torch")
    from torch.utils.data import default_collate as theirs

    Point = collections.namedtuple("Point", "x y")
    arrays = [np.arange(3, dtype=np.int16), np.ones(3, np.int16)]
    for batch in (
        [1, 2, 3],
        [True, False],
        [1.5, 2.5],
        ["a", "b"],
        [b"a"],
        [np.str_("a"), np.str_("b")],
        [np.bytes_(b"a")],
        [np.bool_(True), np.bool_(False)],
        arrays,
        [np.float32(1), np.float32(2)],
        [np.float32(1), np.float64(2)],
        [1, 2.5],
        [collections.OrderedDict(b=1, a=2), collections.OrderedDict(b=3, a=4)],
        [collections.defaultdict(int, a=1), collections.defaultdict(int, a=2)],
        [(1, 2.0), (3, 4.0)],
        [[1, "x"], [2, "y"]],
        [{"a": 1, "b": (2.0, "t")}, {"a": 3, "b": (4.0, "u")}],
        [Point(1, 2.0), Point(3, 4.0)],
    ):
        got, want = data.default_collate(batch), theirs(batch)

        def same(a, b):
            if isinstance(b, torch.Tensor):
                assert a.numpy().dtype == b.numpy().dtype
                np.testing.assert_array_equal(a.numpy(), b.numpy())
            elif isinstance(b, dict):
                assert type(a) is type(b)
                assert list(a) == list(b)
                for key in b:
                    same(a[key], b[key])
            elif isinstance(b, (list, tuple)):
                assert type(a) is type(b)
                for x, y in zip(a, b, strict=True):
                    same(x, y)
            else:
                assert a == b

        same(got, want)


@pytest.mark.parametrize(
    "batch",
    [
        [1, None],
        [1.0, None],
        [1.0, "2.5"],
        [1, "a"],
        [1, [2]],
        [np.float32(1), None],
        [np.ones(2), None],
        [fastdl.ones(2), None],
        [np.datetime64("2026-01-01")] * 2,
        [np.timedelta64(1, "D")] * 2,
        [2**70, 1],
    ],
    ids=str,
)
def test_samples_of_several_kinds_are_refused(batch):
    with pytest.raises(TypeError, match=r"default_collate: .* pass a collate_fn"):
        data.default_collate(batch)


def test_a_registered_function_comes_before_what_tensors_usually_become():
    torch = pytest.importorskip("torch")
    from torch.utils.data._utils.collate import collate as theirs

    from fastdl.utils.data.collate import collate as ours
    from fastdl.utils.data.collate import default_collate_fn_map

    def joined(batch, *, collate_fn_map):
        return "+".join(batch) if isinstance(batch[0], str) else len(batch)

    for library, collate in ((torch, theirs), (fastdl, ours)):
        known = {library.Tensor: joined, str: joined}
        batch = [{"x": library.ones(i), "names": ("a", "b")} for i in range(2)]
        assert collate(batch, collate_fn_map=known) == {"x": 2, "names": ["a+a", "b+b"]}
    with_default = DataLoader(TensorDataset(fastdl.ones(4)), batch_size=2)
    default_collate_fn_map[fastdl.Tensor] = joined
    try:
        assert list(with_default) == [[2], [2]]
    finally:
        del default_collate_fn_map[fastdl.Tensor]


def test_users_classes_are_collated_by_what_they_registered():
    torch = pytest.importorskip("torch")
    from torch.utils.data._utils.collate import default_collate_fn_map as theirs

    from fastdl.utils.data.collate import default_collate_fn_map as ours

    class Image:
        def __init__(self, value):
            self.value = value

    def together(batch, *, collate_fn_map):
        assert Image in collate_fn_map
        return [image.value for image in batch]

    for library, known in ((torch, theirs), (fastdl, ours)):
        known[Image] = together
        try:
            batch = library.utils.data.default_collate(
                [{"image": Image(1), "y": 2}, {"image": Image(3), "y": 4}]
            )
        finally:
            del known[Image]
        assert batch["image"] == [1, 3]
        assert batch["y"].tolist() == [2, 4]
        with pytest.raises(TypeError, match="batch must contain"):
            library.utils.data.default_collate([Image(1)])


def test_default_collate_tensors_and_errors():
    leaf = fastdl.ones(2, requires_grad=True)
    stacked = data.default_collate([leaf, leaf])
    stacked.backward(fastdl.ones(2, 2))
    assert leaf.grad.tolist() == [2, 2]
    with pytest.raises(RuntimeError, match=r"equal size, but got \[2\] at entry 0 and \[3\] at entry 1"):
        data.default_collate([fastdl.ones(2), fastdl.ones(3)])
    with pytest.raises(RuntimeError, match="each element in list of batch should be of equal size"):
        data.default_collate([[1], [1, 2]])
    with pytest.raises(TypeError, match="found object"):
        data.default_collate([object()])
    with pytest.raises(TypeError, match="dtype <U1"):
        data.default_collate([np.array(["a"])])


# DataLoader -----------------------------------------------------------------------------------------


@kinds
def test_batches_in_order(workers, kind):
    loader = DataLoader(Squares(7), batch_size=3, num_workers=workers, worker_kind=kind)
    assert len(loader) == 3
    got = list(loader)
    assert [b[0].tolist() for b in got] == [[[i, i * i] for i in r] for r in ([0, 1, 2], [3, 4, 5], [6])]
    assert got[1][1].tolist() == [1.5, 2.0, 2.5]
    assert got[2][2]["name"] == ["sample 6"]
    assert got[0][2]["even"].tolist() == [True, False, True]
    loader = DataLoader(Squares(7), batch_size=3, drop_last=True, num_workers=workers, worker_kind=kind)
    assert len(loader) == len(list(loader)) == 2


@kinds
def test_tensor_dataset_batches(workers, kind):
    x, y = fastdl.from_numpy(np.random.default_rng(0).standard_normal((11, 3))), fastdl.arange(11)
    for dataset in (TensorDataset(x, y), data.Subset(TensorDataset(x, y), list(range(10, -1, -1)))):
        for shuffle in (False, True):
            loader = DataLoader(dataset, batch_size=4, shuffle=shuffle, num_workers=workers, worker_kind=kind)
            batches = list(loader)
            assert [len(b[1]) for b in batches] == [4, 4, 3]
            assert all(type(b) is list for b in batches)
            order = [i for b in batches for i in b[1].tolist()]
            assert sorted(order) == list(range(11))
            if not shuffle:
                assert order == [dataset[i][1].item() for i in range(11)]
            for bx, by in batches:
                np.testing.assert_array_equal(bx.numpy(), x.numpy()[by.numpy()])
    batch = next(iter(DataLoader(TensorDataset(x), batch_size=11)))[0]
    assert not np.shares_memory(batch.numpy(), x.numpy())


def test_rows_are_what_collating_gives():
    x = fastdl.from_numpy(np.arange(24, dtype=np.float32).reshape(4, 2, 3)[:, ::-1])
    d = TensorDataset(x, fastdl.from_numpy(np.array([True, False, True, False])))
    for indices in ([0, -1, 2], [3], []):
        fast = next(iter(DataLoader(d, batch_sampler=[indices])))
        assert [t.dtype for t in fast] == [np.float32, np.bool_]
        np.testing.assert_array_equal(fast[0].numpy(), x.numpy()[np.array(indices, int)])
    for bad in (4, -5):
        with pytest.raises(IndexError, match=f"index {bad} is out of range: the dataset has 4"):
            list(DataLoader(d, batch_sampler=[[0, bad]]))


@kinds
def test_seeds_reproduce_the_order(workers, kind):
    def run(seed):
        loader = DataLoader(
            range(50),
            batch_size=7,
            shuffle=True,
            generator=fastdl.Generator().manual_seed(seed),
            num_workers=workers,
            worker_kind=kind,
        )
        return lists(loader), lists(loader)

    assert run(1) == run(1)
    assert run(1) != run(2)
    first, second = run(1)
    assert first != second
    assert sorted(i for batch in first for i in batch) == list(range(50))
    fastdl.manual_seed(5)
    one = lists(DataLoader(range(50), shuffle=True, batch_size=50))
    fastdl.manual_seed(5)
    assert one == lists(DataLoader(range(50), shuffle=True, batch_size=50))


@kinds
def test_samplers_batch_size_none_and_collate(workers, kind):
    options = {"num_workers": workers, "worker_kind": kind}
    assert lists(DataLoader(range(9), batch_size=2, sampler=[8, 0, 4], **options)) == [[8, 0], [4]]
    assert lists(DataLoader(range(9), batch_sampler=[[1], [2, 3]], **options)) == [[1], [2, 3]]
    singles = list(DataLoader(Squares(2), batch_size=None, **options))
    assert [s[1] for s in singles] == [0.0, 0.5]
    assert list(DataLoader(range(4), batch_size=2, collate_fn=sum, **options)) == [1, 5]
    assert list(DataLoader([], batch_size=2, **options)) == []
    assert type(next(iter(DataLoader([np.ones(2)], batch_size=None, **options)))) is fastdl.Tensor


@kinds
def test_streams(workers, kind):
    options = {"num_workers": workers, "worker_kind": kind}
    batches = lists(DataLoader(Stream(11), batch_size=2, **options))
    assert sorted(i for batch in batches for i in batch) == list(range(11))
    if not workers:
        assert batches == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [10]]
    dropped = lists(DataLoader(Stream(11), batch_size=2, drop_last=True, **options))
    assert all(len(b) == 2 for b in dropped)
    assert sorted(DataLoader(Stream(5), batch_size=None, **options)) == [0, 1, 2, 3, 4]
    assert list(DataLoader(Stream(0), **options)) == []
    assert len(DataLoader(Stream(11), batch_size=2)) == 6
    assert len(DataLoader(Stream(11), batch_size=2, drop_last=True)) == 5


def test_argument_errors():
    for options, message in (
        ({"num_workers": -1}, "non-negative"),
        ({"timeout": -1}, "non-negative"),
        ({"prefetch_factor": 2}, "num_workers > 0"),
        ({"num_workers": 1, "prefetch_factor": 0}, "positive"),
        ({"persistent_workers": True}, "num_workers > 0"),
        ({"shuffle": True, "sampler": [0]}, "mutually exclusive with shuffle"),
        ({"batch_sampler": [[0]], "batch_size": 2}, "mutually exclusive with batch_size"),
        ({"batch_size": None, "drop_last": True}, "mutually exclusive with drop_last"),
        ({"batch_size": 0}, "positive integer"),
        ({"worker_kind": "fiber"}, "'process' or 'thread', got 'fiber'"),
        ({"multiprocessing_context": "fork"}, "num_workers > 0"),
    ):
        with pytest.raises(ValueError, match=message):
            DataLoader(range(3), **options)
    with pytest.raises(ValueError, match="a stream has its own order"):
        DataLoader(Stream(3), shuffle=True)
    loader = DataLoader(range(3))
    with pytest.raises(ValueError, match="batch_size attribute should not be set"):
        loader.batch_size = 3


def test_defaults_are_torchs():
    import inspect

    torch = pytest.importorskip("torch")
    ours = inspect.signature(DataLoader).parameters
    for name, parameter in inspect.signature(torch.utils.data.DataLoader).parameters.items():
        assert ours[name].default == parameter.default, name
        assert ours[name].kind == parameter.kind, name


def test_loaders_of_users_that_begin_anew_without_an_end():
    """As timm and yolov5 write them: the sampler repeats for ever, one iterator serves all epochs."""

    class Repeated:
        def __init__(self, sampler):
            self.sampler = sampler

        def __iter__(self):
            while True:
                yield from iter(self.sampler)

    class Endless(data.DataLoader):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            self._DataLoader__initialized = False
            self.batch_sampler = Repeated(self.batch_sampler)
            self._DataLoader__initialized = True
            self.iterator = super().__iter__()

        def __len__(self):
            return len(self.batch_sampler.sampler)

        def __iter__(self):
            for _ in range(len(self)):
                yield next(self.iterator)

    loader = Endless(list(range(5)), batch_size=2)
    for _ in range(2):
        assert [batch.tolist() for batch in loader] == [[0, 1], [2, 3], [4]]
    with pytest.raises(ValueError, match="should not be set after"):
        loader.batch_size = 3
