"""``multiprocessing``: processes that run a function, and tensors that pass between them."""

from __future__ import annotations

import os
import signal
import time

import numpy as np
import pytest

import fastdl
import fastdl.multiprocessing as mp


def send_back(i, queue, factor):
    queue.put((i, fastdl.ones(2, requires_grad=True).detach() * i * factor))


def fail(i, how):
    if i == 1:
        if how == "raise":
            raise KeyError("nothing here" + " " * 200_000)
        if how == "exit":
            os._exit(3)
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


@pytest.mark.parametrize("method", ["spawn", "fork"])
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_tensors_come_back(method):
    queue = mp.get_context(method).Queue()
    context = mp.start_processes(send_back, (queue, fastdl.tensor(2.5)), 2, join=False, start_method=method)
    got = dict(queue.get(timeout=60) for _ in range(2))
    while not context.join(timeout=60):
        pass
    assert {i: t.tolist() for i, t in got.items()} == {0: [0.0, 0.0], 1: [2.5, 2.5]}
    assert len(context.pids()) == 2


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ("raise", mp.ProcessRaisedException, "(?s)Process 1 terminated.*  '"),
        ("exit", mp.ProcessExitedException, "process 1 terminated with exit code 3"),
        ("kill", mp.ProcessExitedException, "process 1 terminated with signal SIGKILL"),
    ],
)
def test_a_failure_ends_the_others(how, error, message):
    began = time.monotonic()
    with pytest.raises(error, match=message) as caught:
        mp.start_processes(fail, (how,), nprocs=2, start_method="fork")
    assert time.monotonic() - began < 50
    assert caught.value.error_index == 1
    assert isinstance(caught.value, mp.ProcessException)


def test_names_are_torch_s():
    theirs = pytest.importorskip("torch.multiprocessing")
    assert [n for n in theirs.__all__ if not hasattr(mp, n)] == []
    assert fastdl.multiprocessing is mp
    assert mp.get_all_sharing_strategies() == theirs.get_all_sharing_strategies()
    mp.set_sharing_strategy("file_system")
    assert mp.get_sharing_strategy() == "file_system"
    mp.set_sharing_strategy("file_descriptor")
    with pytest.raises(ValueError, match="set_sharing_strategy"):
        mp.set_sharing_strategy("memory")
    with pytest.raises(ValueError, match="nprocs must be 1 or more"):
        mp.spawn(fail, nprocs=0)


def test_storage_counts_memory():
    for lib in (fastdl, pytest.importorskip("torch")):
        x = lib.ones(3, 4)
        whole = x.untyped_storage()
        for view in (x[1:], x.T, x.reshape(2, 6), x.detach(), x[1:][0, 2:]):
            storage = view.untyped_storage()
            assert storage.nbytes() == storage.size() == len(storage) == 48
            assert storage.data_ptr() == x.data_ptr()
        assert whole.device == x.device
        assert lib.from_numpy(np.ones(5)).untyped_storage().nbytes() == 40
        assert x.clone().untyped_storage().data_ptr() != whole.data_ptr()
        assert lib.zeros(0).untyped_storage().nbytes() == 0
    x = fastdl.ones(3, 4)
    assert len({t.untyped_storage() for t in (x, x[1:], x.clone(), x.T)}) == 2
