"""Placement on devices, and who owns and shares the open ones."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

from darkroom.api.config import EngineConfig
from darkroom.api.errors import OutOfMemoryError, PlacementError
from darkroom.api.names import Module, SplitMode
from darkroom.runtime.backends import BackendManager, Placement
from darkroom.runtime.devices import Devices


def place(devices: Devices, **config: object) -> Placement:
    return Placement.parse(EngineConfig.model_validate(config), devices)


def names(placement: Placement, module: Module) -> tuple[str, str | None]:
    runtime, params = placement.of(module)
    return runtime.name, params and params.name


def test_one_name_places_everything(devices: Devices) -> None:
    placement = place(devices, backend="cuda")
    assert {names(placement, module) for module in Module} == {("cuda0", "cuda0")}


def test_nothing_said_means_the_default_device(devices: Devices) -> None:
    assert names(place(devices), Module.VAE) == ("vulkan0", "vulkan0")


def test_modules_not_named_take_the_default_device(devices: Devices) -> None:
    placement = place(devices, backend="te=cpu")
    assert names(placement, Module.TE) == ("cpu", "cpu")
    assert names(placement, Module.DIFFUSION) == ("vulkan0", "vulkan0")


def test_weights_follow_their_module_unless_told_otherwise(devices: Devices) -> None:
    placement = place(devices, backend="diffusion=cuda0,te=cpu", params_backend="vae=cpu")
    assert names(placement, Module.DIFFUSION) == ("cuda0", "cuda0")
    assert names(placement, Module.TE) == ("cpu", "cpu")
    assert names(placement, Module.VAE) == ("vulkan0", "cpu")


def test_auto_for_weights_is_the_default_device_and_not_the_modules(devices: Devices) -> None:
    assert names(place(devices, backend="cpu", params_backend="auto"), Module.TE) == ("cpu", "vulkan0")


def test_weights_on_disk_have_no_device(devices: Devices) -> None:
    placement = place(devices, backend="cuda0", params_backend="Disk")
    assert names(placement, Module.DIFFUSION) == ("cuda0", None)


def test_examples_of_the_documentation(devices: Devices) -> None:
    placement = place(devices, backend="te=cpu,vae=cuda0,diffusion=vulkan0")
    assert [names(placement, m)[0] for m in (Module.TE, Module.VAE, Module.DIFFUSION)] == [
        "cpu",
        "cuda0",
        "vulkan0",
    ]
    placement = place(devices, backend="cuda0", params_backend="te=cpu,vae=cpu")
    assert names(placement, Module.VAE) == ("cuda0", "cpu")
    placement = place(devices, backend="all=cuda0,te=cpu")
    assert names(placement, Module.TE) == ("cpu", "cpu")
    assert names(placement, Module.VAE) == ("cuda0", "cuda0")


def test_old_flags_place_modules(devices: Devices) -> None:
    placement = place(devices, clip_on_cpu=True, offload_to_cpu=True)
    assert names(placement, Module.TE) == ("cpu", "cpu")
    assert names(placement, Module.DIFFUSION) == ("vulkan0", "cpu")


@pytest.mark.parametrize(
    ("backend", "params_backend", "complaint"),
    [
        ("te=no1", "no2", "--params-backend: backend 'no2'"),
        ("vae=no1,te=no2", "", "--backend: backend 'no2'"),
        ("cpu,vae=no1", "te=no2", "--backend: backend 'no1'"),
        ("no1", "te=no2=no3", "--backend: backend 'no1'"),
    ],
    ids=["defaults first", "modules in their order", "runtime before params", "value keeps its equals sign"],
)
def test_first_unknown_device_is_reported(
    devices: Devices, backend: str, params_backend: str, complaint: str
) -> None:
    with pytest.raises(PlacementError, match=f"^{complaint} was not found; available: cpu, vulkan2, "):
        place(devices, backend=backend, params_backend=params_backend)


def test_a_list_of_devices_is_a_spread_over_each_of_them_once(devices: Devices) -> None:
    placement = place(devices, backend="diffusion=vulkan1&cuda&vulkan1,te=cuda0&CUDA", split_mode="row")
    assert placement.spreads == {
        Module.DIFFUSION: ((devices.resolve("vulkan1"), devices.resolve("cuda0")), SplitMode.ROW)
    }
    assert names(placement, Module.DIFFUSION) == ("vulkan1", "vulkan1")
    assert names(placement, Module.TE) == ("cuda0", "cuda0")
    with BackendManager(placement) as manager:
        assert [backend.name for backend in manager.spread(Module.DIFFUSION)] == ["vulkan1", "cuda0"]
        assert [backend.name for backend in manager.spread(Module.TE)] == ["cuda0"]


def test_unknown_device_in_a_list(devices: Devices) -> None:
    with pytest.raises(PlacementError, match=r"^--backend: backend 'cuda7' was not found; "):
        place(devices, backend="te=cuda0&cuda7")


def test_modules_on_one_device_share_its_backend(devices: Devices) -> None:
    with BackendManager(place(devices, backend="te=cpu,vae=CPU,diffusion=cuda0")) as manager:
        assert manager.runtime(Module.TE) is manager.runtime(Module.VAE)
        assert manager.runtime(Module.TE) is not manager.runtime(Module.DIFFUSION)


def test_runtime_and_weights_on_one_device_share_its_backend(devices: Devices) -> None:
    placement = place(devices, backend="diffusion=cuda0,te=cpu", params_backend="diffusion=cuda,vae=cpu")
    with BackendManager(placement) as manager:
        assert manager.params(Module.DIFFUSION) is manager.runtime(Module.DIFFUSION)
        assert manager.params(Module.VAE) is manager.runtime(Module.TE)


def test_disk_opens_no_backend(devices: Devices) -> None:
    with BackendManager(place(devices, backend="cuda0", params_backend="disk")) as manager:
        assert manager.params(Module.TE) is None
        assert manager.backends == ()


def test_device_is_opened_and_prepared_once_and_only_when_asked_for(devices: Devices, provider) -> None:
    with BackendManager(place(devices, backend="cuda0,te=vulkan1"), threads=3) as manager:
        assert provider.opened == []
        for module in (Module.VAE, Module.DIFFUSION, Module.VAE):
            assert manager.runtime(module).prepared == 1
        assert provider.opened == [("cuda0", 3)]


def test_closing_the_manager_closes_what_it_opened(devices: Devices) -> None:
    with BackendManager(place(devices, backend="cuda0,te=vulkan1")) as manager:
        first, second = manager.runtime(Module.VAE), manager.runtime(Module.TE)
        assert not first.is_closed
    assert first.is_closed
    assert second.is_closed
    assert manager.backends == ()


def test_closing_twice_is_harmless(devices: Devices) -> None:
    manager = BackendManager(place(devices, backend="cuda0"))
    backend = manager.runtime(Module.VAE)
    manager.close()
    manager.close()
    assert backend.emptied == 1


def test_manager_holds_the_only_reference(devices: Devices) -> None:
    manager = BackendManager(place(devices, backend="cuda0"))
    backend = weakref.ref(manager.runtime(Module.VAE))
    gc.collect()
    assert backend() is not None
    manager.close()
    gc.collect()
    assert backend() is None


def test_two_managers_share_nothing(devices: Devices) -> None:
    placement = place(devices, backend="cuda0")
    with BackendManager(placement) as kept, BackendManager(placement) as other:
        backend = kept.runtime(Module.VAE)
        assert backend is not other.runtime(Module.VAE)
        other.close()
        assert not backend.is_closed


def test_closed_manager_opens_nothing(devices: Devices) -> None:
    manager = BackendManager(place(devices, backend="cuda0"))
    manager.close()
    with pytest.raises(RuntimeError, match="the manager is closed"):
        manager.runtime(Module.VAE)


def test_closed_backend_has_no_device(devices: Devices) -> None:
    with BackendManager(place(devices, backend="cuda0")) as manager:
        backend = manager.runtime(Module.VAE)
    with pytest.raises(RuntimeError, match=r"^cuda0: the backend is closed"):
        _ = backend.device


def test_device_that_does_not_start(devices: Devices) -> None:
    with (
        BackendManager(place(devices, backend="te=broken0")) as manager,
        pytest.raises(
            PlacementError, match="failed to initialize backend 'broken0' for module te: no driver"
        ),
    ):
        manager.runtime(Module.TE)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("MPS backend out of memory (MPS allocated: 5 GB)"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        RuntimeError("could not create a primitive"),
        RuntimeError("std::bad_alloc"),
        MemoryError(),
    ],
    ids=["cuda", "mps", "cpu", "onednn", "c++", "python"],
)
def test_lack_of_memory_says_where_and_how_much(devices: Devices, error: Exception) -> None:
    with BackendManager(place(devices, backend="cuda0")) as manager:
        backend = manager.runtime(Module.VAE)
        with pytest.raises(OutOfMemoryError) as caught, backend.guarded("running vae"):
            raise error
    assert str(caught.value).startswith("cuda0: out of memory while running vae, 4.0 GB of 8.0 GB free; ")
    assert caught.value.__cause__ is error


def test_other_errors_pass_the_guard(devices: Devices) -> None:
    with BackendManager(place(devices, backend="cuda0")) as manager:
        backend = manager.runtime(Module.VAE)
        with pytest.raises(RuntimeError, match=r"^shapes differ$"), backend.guarded("running vae"):
            raise RuntimeError("shapes differ")
