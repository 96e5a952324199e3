"""DataLoader's workers: seeds, errors, ends, timeouts, spawning, forking beside the kernels' threads."""

from __future__ import annotations

import gc
import os
import random
import signal
import threading
import time

import numpy as np
import pytest

import fastdl
from fastdl.utils import data
from fastdl.utils.data import DataLoader, TensorDataset, get_worker_info
from test_data import Squares, lists

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")


class Whoami(data.Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, i):
        info = get_worker_info()
        ident = (os.getpid(), threading.get_ident())
        return info.id, info.seed, ident, random.random(), float(np.random.random()), info.num_workers  # noqa: NPY002


def keep(batch):
    return batch[0]


@pytest.mark.parametrize("kind", ["process", "thread"])
def test_worker_info_seeds_and_persistence(kind):
    def epochs(persistent):
        fastdl.manual_seed(7)
        loader = DataLoader(
            Whoami(), collate_fn=keep, num_workers=2, worker_kind=kind, persistent_workers=persistent
        )
        return [list(loader) for _ in range(2)]

    for persistent in (False, True):
        first, second = epochs(persistent)
        assert [s[0] for s in first] == [0, 1] * 4
        assert {s[5] for s in first} == {2}
        assert first[1][1] == first[0][1] + 1
        assert first[0][1] != second[0][1]
        assert len({s[2] for s in first}) == 2
        if persistent or kind == "process":  # a new thread may be given an old one's number
            assert ({s[2] for s in first} == {s[2] for s in second}) == persistent
        assert (os.getpid() in {s[2][0] for s in first}) == (kind == "thread")
        if kind == "process":
            again, _ = epochs(persistent)
            assert [s[3:5] for s in first] == [s[3:5] for s in again]
    assert get_worker_info() is None


def fail_init(number):
    if number == 1:
        raise ValueError("init failed")


class Failing(data.Dataset):
    def __init__(self, error):
        self.error = error

    def __len__(self):
        return 6

    def __getitem__(self, i):
        if i == 3:
            raise self.error
        return i


class Awkward(Exception):
    def __init__(self, one, two):
        super().__init__(one, two)


@pytest.mark.parametrize("kind", ["process", "thread"])
def test_errors_come_with_the_workers_traceback(kind):
    options = {"num_workers": 2, "worker_kind": kind}
    for error, expected in (
        (ValueError("bad sample"), ValueError),
        (KeyError("bad sample"), KeyError),
        (Awkward("bad", "sample"), RuntimeError),
    ):
        loader = DataLoader(Failing(error), **options)
        got = []
        with pytest.raises(expected) as caught:
            got.extend(batch.item() for batch in loader)
        assert got == [0, 1, 2]
        text = str(caught.value)
        assert f"Caught {type(error).__name__} in DataLoader worker {kind} 1.\nOriginal Traceback" in text
        assert "raise self.error" in text
    with pytest.raises(ValueError, match="init failed"):
        list(DataLoader(range(4), worker_init_fn=fail_init, **options))
    with pytest.raises(RuntimeError, match="StopIteration"):
        list(DataLoader(Failing(StopIteration()), **options))


def unpicklable(batch):
    return lambda: batch


def test_unpicklable_batches_are_an_error_not_a_hang():
    with pytest.raises(RuntimeError, match="ForkingPickler"):
        list(DataLoader(range(4), num_workers=1, collate_fn=unpicklable))


class Suicidal(data.Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, i):
        if i == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return i


@pytest.mark.parametrize("persistent", [False, True])
def test_a_killed_worker_is_an_error_not_a_hang(persistent):
    loader = DataLoader(Suicidal(), num_workers=1, persistent_workers=persistent)
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"worker \(pid \d+\) exited unexpectedly with exit code -9"):
            list(loader)


class Slow(data.Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, i):
        time.sleep(3 if i == 1 else 0)
        return i


@pytest.mark.parametrize("kind", ["process", "thread"])
def test_timeout(kind):
    with pytest.raises(RuntimeError, match=r"timed out after 0\.5 seconds"):
        list(DataLoader(Slow(), num_workers=1, timeout=0.5, worker_kind=kind))


@pytest.mark.parametrize("persistent", [False, True])
def test_workers_end_when_dropped(persistent):
    import multiprocessing

    before = set(multiprocessing.active_children())
    loader = DataLoader(Squares(1000), num_workers=2, persistent_workers=persistent)
    iterator = iter(loader)
    next(iterator)
    workers = set(multiprocessing.active_children()) - before
    assert len(workers) == 2
    pids = [w.pid for w in workers]
    del iterator
    if persistent:
        assert len(list(loader)) == 1000  # what was still under way is dropped
        del loader
    gc.collect()
    del workers
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_spawned_workers():
    loader = DataLoader(Squares(3), batch_size=2, num_workers=1, multiprocessing_context="spawn")
    assert [b[1].tolist() for b in loader] == [[0.0, 0.5], [1.0]]


class Computing(data.Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, i):
        x = fastdl.ones(300, 300)
        return (x @ x)[0, 0].item() + i


def test_kernels_work_in_forked_workers():
    x = fastdl.ones(300, 300)
    assert (x @ x)[0, 0].item() == 300  # the threads exist before the fork
    assert lists(DataLoader(Computing(), batch_size=2, num_workers=2)) == [[300, 301], [302, 303]]


def test_large_batches_travel_whole():
    big = TensorDataset(fastdl.from_numpy(np.arange(1 << 20, dtype=np.float32).reshape(4, -1)))
    got = list(DataLoader(big, batch_size=2, num_workers=2))
    np.testing.assert_array_equal(got[1][0].numpy(), big.tensors[0].numpy()[2:])
