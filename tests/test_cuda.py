"""``fastdl.cuda`` and tensors on a GPU, on the stand-in for CuPy; and what is said where there is no GPU."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import fake_cupy
import fastdl
import fastdl.nn.functional as F
from fastdl import nn

# ------------------------------------------------------------------------------------------------- without a GPU


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_importing_fastdl_imports_neither_cupy_nor_ml_dtypes() -> None:
    assert run("import sys, fastdl; print([m for m in ('cupy', 'ml_dtypes') if m in sys.modules])") == "[]\n"


def test_without_kernels_the_message_says_so(monkeypatch: Any) -> None:
    monkeypatch.setattr("fastdl.devices._is_installed", lambda module: module != "fastdl._cuda")
    assert not fastdl.cuda.is_available()
    assert fastdl.cuda.device_count() == 0
    assert "contains no CUDA kernels" in fastdl.cuda.unavailable_reason()
    with pytest.raises(RuntimeError, match="zeros: device 'cuda' is not available: this build"):
        fastdl.zeros(2, device="cuda")
    for call in (
        fastdl.cuda.synchronize,
        fastdl.cuda.current_stream,
        fastdl.cuda.Event,
        fastdl.cuda.memory_stats,
    ):
        with pytest.raises(RuntimeError, match="contains no CUDA kernels"):
            call()
    with pytest.raises(RuntimeError, match="to: device 'cuda:1' is not available"):
        nn.Linear(2, 2).to("cuda:1")
    fastdl.cuda.manual_seed_all(3)  # scripts call it always
    fastdl.cuda.empty_cache()
    with pytest.warns(UserWarning, match="no effect"):
        fastdl.amp.autocast("cuda")
    assert not fastdl.amp.GradScaler().is_enabled()


def test_without_cupy_the_message_names_the_extra(monkeypatch: Any) -> None:
    monkeypatch.setattr("fastdl.devices._is_installed", lambda module: module != "cupy")
    assert "pip install 'fastdl[cuda13]'" in fastdl.cuda.unavailable_reason()


def test_without_a_driver_the_message_says_what_cuda_says(gpu: Any, monkeypatch: Any) -> None:
    def fail() -> int:
        raise fake_cupy.CUDARuntimeError("cudaErrorInsufficientDriver: driver version is insufficient")

    monkeypatch.setattr(gpu.cuda.runtime, "getDeviceCount", fail)
    with pytest.raises(
        RuntimeError, match=r"driver is missing or too old for this CuPy \(cudaErrorInsufficientDriver"
    ):
        fastdl.ones(2).cuda()
    monkeypatch.setattr(gpu.cuda.runtime, "getDeviceCount", lambda: 0)
    assert "CUDA_VISIBLE_DEVICES" in fastdl.cuda.unavailable_reason()


def test_a_gpu_that_is_too_old_is_none_and_the_message_says_so(gpu: Any, monkeypatch: Any) -> None:
    old = {**gpu.cuda.runtime.getDeviceProperties(0), "name": b"Tesla T4", "major": 7, "minor": 5}
    monkeypatch.setattr(gpu.cuda.runtime, "getDeviceProperties", lambda i: old)
    assert not fastdl.cuda.is_available()
    with pytest.raises(RuntimeError, match=r"need compute capability 8\.0 .* GPU, Tesla T4, has 7\.5"):
        fastdl.ones(2, device="cuda")


# ------------------------------------------------------------------------------------------------------- tensors


def test_a_tensor_says_where_it_is(gpu: Any) -> None:
    x = fastdl.arange(3.0, device="cuda")
    assert x.is_cuda
    assert not x.is_cpu
    assert x.device == fastdl.device("cuda:0")
    assert x.get_device() == 0
    assert x.cpu().get_device() == -1
    assert x.cuda() is x
    assert x.to("cuda:0") is x
    assert x.cpu().device.type == "cpu"
    assert repr(x) == "tensor([0., 1., 2.], device='cuda:0')"
    assert (
        repr(nn.Parameter(x))
        == "Parameter containing:\ntensor([0., 1., 2.], device='cuda:0', requires_grad=True)"
    )
    assert x[1].item() == 1.0
    assert float(x[2]) == 2.0
    assert bool(x[1])
    assert len(x) == 3
    assert [v.item() for v in x] == x.tolist() == [0.0, 1.0, 2.0]
    assert 2.0 in x
    assert 5.0 not in x
    assert [10, 20, 30][fastdl.tensor(1, device="cuda")] == 20
    assert x.data_ptr() == x._data.data.ptr
    assert x[1:].storage_offset() == x[1:].detach().storage_offset() == 1
    assert x.is_contiguous()
    assert f"{x[1]:.2f}" == "1.00"


def test_types_in_the_older_notation_say_where(gpu: Any) -> None:
    on_cpu, on_gpu = fastdl.LongTensor([1, 2]), fastdl.cuda.FloatTensor([1.5, 2.5])
    assert (on_gpu.device.type, on_gpu.dtype, on_gpu.tolist()) == ("cuda", fastdl.float32, [1.5, 2.5])
    assert fastdl.cuda.HalfTensor(2, 3).shape == (2, 3)
    assert isinstance(on_gpu, fastdl.cuda.FloatTensor)
    assert not isinstance(on_gpu, (fastdl.FloatTensor, fastdl.cuda.LongTensor))
    assert not isinstance(on_cpu, fastdl.cuda.LongTensor)
    assert (on_cpu.type(), on_gpu.type()) == ("fastdl.LongTensor", "fastdl.cuda.FloatTensor")
    for kind in (fastdl.cuda.FloatTensor, "torch.cuda.FloatTensor", on_gpu.type()):
        moved = on_cpu.type(kind)
        assert isinstance(moved, fastdl.cuda.FloatTensor)
        assert moved.tolist() == [1.0, 2.0]
    assert isinstance(on_gpu.type(fastdl.LongTensor), fastdl.LongTensor)
    assert isinstance(on_gpu.type("torch.FloatTensor"), fastdl.FloatTensor)
    assert isinstance(on_gpu.type(fastdl.int64), fastdl.cuda.LongTensor)
    there = on_gpu.to("cuda:1")
    assert there.type(fastdl.cuda.FloatTensor) is there


def test_moving_is_an_operation(gpu: Any) -> None:
    x = fastdl.tensor([1.0, 2.0], requires_grad=True)
    (x.to("cuda") * 3).sum().backward()
    assert x.grad is not None
    assert x.grad.device.type == "cpu"
    assert x.grad.tolist() == [3.0, 3.0]
    y = x.detach().to("cuda:1", fastdl.float64, non_blocking=True, copy=True)
    assert (y.device, y.dtype) == (fastdl.device("cuda:1"), fastdl.float64)
    assert fastdl.ones(1).to(y).device == y.device
    assert fastdl.ones(1, device=1).device.index == 1
    same = fastdl.ones(1, device="cuda")
    assert same.to("cuda", copy=True) is not same
    assert same.to("cuda") is same
    with pytest.raises(RuntimeError, match="'cuda:7' does not exist; this machine has 2: cuda:0, cuda:1"):
        x.to("cuda:7")


def test_numpy_of_a_tensor_on_a_gpu_is_an_error_that_teaches(gpu: Any) -> None:
    x = fastdl.ones(2, device="cuda")
    message = r"can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu\(\)"
    with pytest.raises(TypeError, match=message):
        x.numpy()
    with pytest.raises(TypeError, match=message):
        np.asarray(x)
    assert x.numpy(force=True).tolist() == [1.0, 1.0]
    assert np.exp(x).device == x.device  # NumPy's functions by fastdl's
    assert (x + np.float32(1)).device == x.device


def test_mixed_devices_are_an_error_that_names_them(gpu: Any) -> None:
    x, y = fastdl.ones(2, 3, device="cuda"), fastdl.ones(2, 3)
    both = r"Expected all tensors to be on the same device, but found"
    with pytest.raises(
        RuntimeError, match=rf"add: {both} x \(2, 3\) on cuda:0, y \(2, 3\) on cpu; move them with .to"
    ):
        x + y
    with pytest.raises(RuntimeError, match=rf"sub: {both} x .* on cpu, y .* on cuda:0"):
        y - x
    with pytest.raises(RuntimeError, match=rf"linear: {both} x .* weight .* on cpu"):
        F.linear(x, fastdl.ones(4, 3))
    for call in (
        lambda: x @ y.T,
        lambda: fastdl.cat([x, y]),
        lambda: fastdl.where(x > 0, x, y),
        lambda: F.mse_loss(x, y),
        lambda: F.cross_entropy(x, fastdl.tensor([0, 1])),
        lambda: x.add_(y),
        lambda: x.__setitem__(0, y[0]),
    ):
        with pytest.raises((RuntimeError, TypeError)):
            call()
    with pytest.raises(RuntimeError, match="indices should be either on cpu or on the same device"):
        y[fastdl.tensor([0], device="cuda")]
    with pytest.raises(RuntimeError, match="grad: must be on the tensor's device"):
        y.grad = fastdl.ones(2, 3, device="cuda")


def test_a_number_in_a_cpu_tensor_works_with_tensors_on_a_gpu(gpu: Any) -> None:
    x = fastdl.tensor([1.0, 2.0], device="cuda", requires_grad=True)
    two = fastdl.tensor(2.0, requires_grad=True)
    y = two * x + two / x
    assert y.device == x.device
    y.sum().backward()
    assert two.grad is not None
    assert two.grad.device.type == "cpu"
    assert two.grad.item() == 3.0 + 1.5
    assert x[fastdl.tensor([1])].item() == 2.0  # index arrays come from the CPU
    z = fastdl.zeros(3, device="cuda")
    z[1] = fastdl.tensor(5.0)
    assert z.tolist() == [0.0, 5.0, 0.0]


def test_sharing_memory_with_other_libraries(gpu: Any) -> None:
    array = gpu.asarray(np.arange(4, dtype=np.float32))
    for shared in (fastdl.from_dlpack(array), fastdl.as_tensor(array)):
        assert shared.is_cuda
        assert shared.data_ptr() == array.data.ptr
    array[0] = 7.0
    assert shared[0].item() == 7.0
    assert fastdl.tensor(array).data_ptr() != array.data.ptr  # a copy
    x = fastdl.ones(2, 2, device="cuda")
    assert gpu.from_dlpack(x).data.ptr == x.data_ptr()
    assert x.__dlpack_device__() == (2, 0)
    interface = x.__cuda_array_interface__
    assert interface["data"][0] == x.data_ptr()
    assert interface["shape"] == (2, 2)
    assert interface["typestr"] == "<f4"
    assert not hasattr(x.cpu(), "__cuda_array_interface__")
    with pytest.raises(RuntimeError, match=r"requires a gradient; use x.detach\(\)"):
        x.requires_grad_().__cuda_array_interface__  # noqa: B018
    assert fastdl.from_dlpack(x.detach()).data_ptr() == x.data_ptr()


def test_copies_pickles_and_files(gpu: Any) -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).cuda()
    twin = copy.deepcopy(model)
    assert twin[0].weight.is_cuda
    assert twin[0].weight.data_ptr() != model[0].weight.data_ptr()
    again = pickle.loads(pickle.dumps(model[0].weight))
    assert again.device == model[0].weight.device
    assert fastdl.equal(again, model[0].weight)
    file = io.BytesIO()
    fastdl.save({"model": model.state_dict(), "step": 3, "x": fastdl.ones(1, device="cuda:1")}, file)
    for where, expected in ((None, "cpu"), ("cpu", "cpu"), ("cuda", "cuda:0"), ("cuda:1", "cuda:1")):
        file.seek(0)
        read = fastdl.load(file, map_location=where)
        assert {str(t.device) for t in [read["x"], *read["model"].values()]} == {expected}
    nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).load_state_dict(read["model"])  # from any device to any
    model.load_state_dict({name: t.cpu() for name, t in read["model"].items()})
    assert model[1].running_mean.is_cuda


def test_modules_move_with_buffers_and_gradients(gpu: Any) -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    model(fastdl.rand(4, 2)).sum().backward()
    assert model.to("cuda") is model
    tensors = [*model.parameters(), *model.buffers(), *[p.grad for p in model.parameters()]]
    assert len(tensors) == 11
    assert all(t.is_cuda for t in tensors)
    assert model.cuda(1)[0].weight.device.index == 1
    assert not model.cpu()[0].weight.is_cuda
    assert model.to("cuda:0", fastdl.float64)[0].weight.dtype == fastdl.float64
    assert nn.LSTM(2, 3, device="cuda").weight_ih_l0.is_cuda
    lazy = nn.LazyLinear(3).to("cuda")
    assert lazy(fastdl.rand(2, 4, device="cuda")).is_cuda


def test_one_seed_gives_the_same_numbers_on_every_device(gpu: Any) -> None:
    def numbers(device: str) -> list[float]:
        fastdl.manual_seed(5)
        x = fastdl.rand(6, device=device)
        y = F.dropout(fastdl.ones(6, device=device), 0.5)
        return [*x.tolist(), *y.tolist(), *nn.Linear(2, 2, device=device).weight.reshape(-1).tolist()]

    with fastdl.use_backend("reference"):
        assert numbers("cpu") == numbers("cuda")
    fastdl.cuda.manual_seed(5)
    assert fastdl.initial_seed() == fastdl.cuda.initial_seed() == 5
    state = fastdl.cuda.get_rng_state()
    first = fastdl.rand(3, device="cuda")
    fastdl.cuda.set_rng_state(state)
    assert fastdl.equal(first, fastdl.rand(3, device="cuda"))


def test_what_has_no_cuda_kernel_is_computed_on_the_cpu(gpu: Any, monkeypatch: Any) -> None:
    from fastdl.autograd import refused

    def missing(*args: Any) -> Any:
        raise NotImplementedError("conv has no CUDA kernel (not written yet)")

    fastdl.zeros(1, device="cuda")
    monkeypatch.setattr(fastdl.kernels.device_backend(), "conv_forward", missing)
    monkeypatch.setattr(refused, "_told", set())
    x, w = fastdl.rand(1, 2, 5, 5), fastdl.rand(3, 2, 3, 3)
    a, b = x.cuda().requires_grad_(), w.cuda().requires_grad_()
    with pytest.warns(UserWarning, match="conv has no CUDA kernel .*: computed on the CPU"):
        y = F.conv2d(a, b)
    F.conv2d(a, b)  # told once
    y.sum().backward()
    assert y.is_cuda
    assert a.grad.is_cuda
    assert b.grad.is_cuda
    assert fastdl.equal(y.cpu().detach(), F.conv2d(x, w))


# --------------------------------------------------------------------------------------- devices, streams, memory


def test_devices(gpu: Any) -> None:
    assert fastdl.cuda.is_available()
    assert fastdl.cuda.unavailable_reason() == ""
    assert fastdl.cuda.device_count() == 2
    assert fastdl.cuda.get_device_name() == "Stand-in GPU"
    assert fastdl.cuda.get_device_capability(1) == (9, 0)
    assert fastdl.cuda.get_device_properties("cuda:1").multi_processor_count == 132
    assert fastdl.cuda.is_bf16_supported()
    with fastdl.cuda.device(1):
        assert fastdl.cuda.current_device() == 1
        assert fastdl.zeros(1, device="cuda").device.index == 1
    assert fastdl.cuda.current_device() == 0
    fastdl.cuda.set_device("cuda:1")
    assert fastdl.zeros(1, device="cuda").device.index == 1
    with pytest.raises(ValueError, match="expected a GPU"):
        fastdl.cuda.set_device("cpu")
    assert fastdl.backends.cuda.is_built()
    assert "Stand-in GPU (9.0, 4 GB), Stand-in GPU (9.0, 4 GB); CuPy 14.0.0, driver for CUDA 13.0" in (
        fastdl.runtime.config()
    )


def test_streams_and_events(gpu: Any) -> None:
    side = fastdl.cuda.Stream(priority=-1)
    assert fastdl.cuda.current_stream() == fastdl.cuda.default_stream() != side
    with fastdl.cuda.stream(side):
        assert fastdl.cuda.current_stream() == side
        start, end = fastdl.cuda.Event(enable_timing=True), fastdl.cuda.Event(enable_timing=True)
        start.record()
        end.record()
    end.synchronize()
    assert start.elapsed_time(end) == 0.5
    assert end.query()
    assert side.query()
    fastdl.cuda.current_stream().wait_stream(side)
    side.synchronize()
    fastdl.cuda.synchronize()
    assert fastdl.cuda.ExternalStream(7).cuda_stream == 7


def test_memory(gpu: Any) -> None:
    fastdl.cuda.reset_peak_memory_stats()
    before = fastdl.cuda.memory_allocated()
    x = fastdl.empty(1000, device="cuda")
    assert fastdl.cuda.memory_allocated() - before == x.nbytes == fastdl.cuda.max_memory_allocated() - before
    stats = fastdl.cuda.memory_stats()
    assert stats["allocated_bytes.all.current"] == fastdl.cuda.memory_allocated()
    assert stats["total_bytes"] == 4 << 30
    assert fastdl.cuda.memory_reserved() >= fastdl.cuda.memory_allocated()
    summary = fastdl.cuda.memory_summary(abbreviated=True).splitlines()
    assert [line.split()[0] for line in summary] == list(stats)
    assert summary[-1].split()[1:] == ["4096.0", "MiB"]
    fastdl.cuda.empty_cache()
    assert fastdl.cuda.memory_allocated() == 0


def test_copies_cross_devices(gpu: Any) -> None:
    source = fastdl.tensor([1.0, 2.0, 3.0], requires_grad=True)
    there = fastdl.zeros(2, 3, device="cuda")
    assert there.detach().copy_(source.detach().double()).tolist() == [[1, 2, 3], [1, 2, 3]]
    here = fastdl.zeros(2, 3)
    assert here.copy_(there).tolist() == there.tolist()
    (there.clone().copy_(source) * 2).sum().backward()
    assert source.grad.tolist() == [4, 4, 4]
    with pytest.raises(RuntimeError, match="cannot be broadcast"):
        there.copy_(fastdl.ones(2))


def test_kernels_run_on_the_gpu_that_has_their_arrays(gpu: Any) -> None:
    """A launch goes to the current GPU, whose kernels cannot read another one's memory."""
    x = fastdl.ones(2, 3, device="cuda:1", requires_grad=True)
    layer = nn.Linear(3, 4, device="cuda:1")
    assert F.relu(layer(x)).device == fastdl.device("cuda:1")
    assert fastdl.cuda.current_device() == 0
    with pytest.raises(RuntimeError, match="same device, but found some on cuda:1 and some on cuda:0"):
        F.layer_norm(x, (3,), fastdl.ones(3, device="cuda:0"))
    with fastdl.cuda.device(1):
        assert (x > 0).device == fastdl.device("cuda:1")
        F.relu(layer(x)).sum().backward()
        assert x.grad.device == layer.weight.grad.device == fastdl.device("cuda:1")
