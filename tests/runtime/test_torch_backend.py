"""The processor as a device; the accelerators' arithmetic where one is at hand."""

from __future__ import annotations

import logging

import pytest
import torch

from darkroom.api.names import ComputeType
from darkroom.runtime import torch_backend
from darkroom.runtime.backends import Backend
from darkroom.runtime.devices import Devices
from darkroom.runtime.torch_backend import DTYPES, CpuBackend, TorchProvider


@pytest.fixture
def cpu() -> CpuBackend:
    provider = TorchProvider()
    backend = provider.open(provider.devices()[0], threads=1)
    assert isinstance(backend, CpuBackend)
    return backend


def test_threads_as_told_until_closed(cpu: CpuBackend) -> None:
    before = torch.get_num_threads()
    provider = TorchProvider()
    backend = provider.open(provider.devices()[0], threads=before + 1)
    backend.prepare()
    assert torch.get_num_threads() == before + 1
    backend.close()
    assert torch.get_num_threads() == before


def test_threads_left_alone_where_the_environment_sets_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(torch_backend, "physical_cores", lambda: 99)
    provider = TorchProvider()
    before = torch.get_num_threads()
    backend = provider.open(provider.devices()[0], threads=-1)
    backend.prepare()
    assert torch.get_num_threads() == before
    backend.close()


def test_one_thread_a_core_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(torch_backend, "physical_cores", lambda: 3)
    provider = TorchProvider()
    backend = provider.open(provider.devices()[0], threads=-1)
    backend.prepare()
    try:
        assert torch.get_num_threads() == 3
    finally:
        backend.close()


def test_f32_products_stay_f32(cpu: CpuBackend) -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(256, 256, generator=generator) for _ in range(2))
    exact = a.double() @ b.double()
    cpu.prepare()
    try:
        assert (a @ b - exact).abs().max() / exact.abs().max() < 2e-6
    finally:
        cpu.close()


def test_f32_setting_ends_with_the_backend(cpu: CpuBackend) -> None:
    before = torch.get_float32_matmul_precision()
    cpu.prepare()
    cpu.close()
    assert torch.get_float32_matmul_precision() == before


@pytest.mark.parametrize(("has_bf16", "best"), [(True, torch.bfloat16), (False, torch.float32)])
def test_cpu_computes_in_bf16_only_where_that_is_fast(
    cpu: CpuBackend, monkeypatch: pytest.MonkeyPatch, has_bf16: bool, best: torch.dtype
) -> None:
    monkeypatch.setattr(torch_backend, "has_bf16_arithmetic", lambda: has_bf16)
    assert cpu.compute_dtype(ComputeType.AUTO) is best
    assert cpu.compute_dtype(ComputeType.F32) is torch.float32
    assert cpu.compute_dtype(ComputeType.BF16) is torch.bfloat16


def test_cpu_declines_f16_and_says_so_once(
    cpu: CpuBackend, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch_backend, "has_bf16_arithmetic", lambda: False)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert cpu.compute_dtype(ComputeType.F16) is torch.float32
    assert [record.getMessage() for record in caplog.records] == [
        "compute type: f16 is very slow on a CPU; f32 is used instead"
    ]


@pytest.mark.parametrize(
    ("asked", "auto", "expected"),
    [
        (ComputeType.F16, torch.bfloat16, torch.bfloat16),
        (ComputeType.F16, torch.float16, torch.float32),
        (ComputeType.AUTO, torch.float16, torch.float32),
        (ComputeType.AUTO, torch.bfloat16, torch.bfloat16),
        (ComputeType.F32, torch.float16, torch.float32),
        (ComputeType.BF16, torch.float16, torch.bfloat16),
    ],
)
def test_what_overflows_in_f16_is_computed_in_another_type(
    cpu: CpuBackend,
    monkeypatch: pytest.MonkeyPatch,
    asked: ComputeType,
    auto: torch.dtype,
    expected: torch.dtype,
) -> None:
    monkeypatch.setattr(cpu, "compute_dtype", lambda kind: DTYPES.get(kind, auto))
    assert cpu.wide_dtype(asked) is expected


def test_cpu_takes_tensors_without_a_copy(cpu: CpuBackend) -> None:
    tensor = torch.zeros(3)
    assert cpu.take(tensor).data_ptr() == tensor.data_ptr()


def test_cpu_memory_is_within_the_machine(cpu: CpuBackend) -> None:
    free, total = cpu.memory()
    assert 0 < free <= total


def test_networks_are_not_changed_by_default(cpu: CpuBackend) -> None:
    net = torch.nn.Linear(2, 2)
    assert cpu.accelerate(net) is net


@pytest.fixture
def cuda() -> Backend:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    devices = Devices.discover()
    return devices.open(devices.resolve("cuda"))


@pytest.mark.gpu
def test_cuda_honours_the_compute_type(cuda: Backend) -> None:
    assert cuda.compute_dtype(ComputeType.F16) is torch.float16
    assert cuda.compute_dtype(ComputeType.F32) is torch.float32
    capability = torch.cuda.get_device_capability(cuda.device)
    assert cuda.compute_dtype(ComputeType.AUTO) is (torch.bfloat16 if capability >= (8, 0) else torch.float16)


@pytest.mark.gpu
def test_cuda_f32_is_not_tf32(cuda: Backend) -> None:
    cuda.prepare()
    x = torch.randn(1, 64, 32, 32, generator=torch.Generator().manual_seed(0))
    weight = torch.randn(64, 64, 3, 3, generator=torch.Generator().manual_seed(1))
    exact = torch.nn.functional.conv2d(x.double(), weight.double())
    got = torch.nn.functional.conv2d(cuda.take(x), cuda.take(weight)).cpu()
    cuda.close()
    assert (got - exact).abs().max() / exact.abs().max() < 1e-5


@pytest.mark.gpu
def test_cuda_memory_moves_with_tensors(cuda: Backend) -> None:
    cuda.take(torch.zeros(1))
    cuda.synchronize()
    cuda.empty_cache()  # what earlier work left would be used again, and the driver see no change
    before = cuda.memory().free
    tensor = cuda.take(torch.zeros(2**28))
    assert before - cuda.memory().free >= 2**30
    del tensor
    cuda.empty_cache()
    assert before - cuda.memory().free < 2**28


def test_engines_that_close_in_any_order_leave_the_process_as_it_was() -> None:
    before = torch.get_num_threads(), torch.get_float32_matmul_precision()
    provider = TorchProvider()
    first, second = (provider.open(provider.devices()[0], threads=before[0] + more) for more in (1, 2))
    first.prepare()
    second.prepare()
    first.close()
    assert torch.get_num_threads() == before[0] + 2
    second.close()
    assert (torch.get_num_threads(), torch.get_float32_matmul_precision()) == before
