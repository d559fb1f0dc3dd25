"""What is here already: files shared by models, adopted from others, taken in, collected."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.manager.store.conftest import MIB, OpenStore, bytes_on_disk, content, until
from tests.manager.store.hub_server import HubServer, Serve

from darkroom.api.errors import RequestError
from darkroom.manager.config import Paths
from darkroom.manager.store import blobs as blobs_module
from darkroom.manager.store.errors import StoreError
from darkroom.manager.store.ledger import Use
from darkroom.manager.store.store import Store
from darkroom.manager.store.wanted import Wanted

pytestmark = pytest.mark.anyio

REPO = "owner/repo"


def wanted(hub: HubServer, name: str, role: str, seed: int = 0, size: int = MIB) -> Wanted:
    served = hub.add(REPO, name, content(size, seed))
    return Wanted(role, name, size, served.sha256, REPO, name)


async def test_two_models_share_a_file(hub: HubServer, store: Store) -> None:
    t5 = wanted(hub, "t5xxl_fp16.safetensors", "t5xxl")
    for model in ("flux", "sd3"):
        path = await store.fetch(t5)
        store.use(model, {"t5xxl": path})
    assert store.references(t5.sha256) == [Use("flux", "t5xxl", t5.sha256), Use("sd3", "t5xxl", t5.sha256)]
    assert hub.sent == MIB
    assert bytes_on_disk(store.folders.root) == MIB
    store.drop("flux")
    assert (await store.gc(dry_run=False)).removed == []
    assert path.exists()
    store.drop("sd3")
    would = await store.gc()
    assert [(i.name, i.size, i.reason) for i in would.removed] == [
        ("t5xxl_fp16.safetensors", MIB, "no model uses it")
    ]
    assert would.dry_run
    assert would.bytes == MIB
    assert path.exists()
    await store.gc(dry_run=False)
    assert not path.exists()


async def test_a_model_that_was_never_loaded_keeps_what_it_fetched(hub: HubServer, store: Store) -> None:
    t5 = wanted(hub, "t5.safetensors", "t5xxl")
    await store.fetch(t5, model="flux")
    assert store.references() == [Use("flux", "t5xxl", t5.sha256)]
    assert (await store.gc()).removed == []
    store.use("flux", {})
    assert [i.sha256 for i in (await store.gc()).removed] == [t5.sha256]


async def test_garbage_comes_back_without_a_download(hub: HubServer, store: Store) -> None:
    t5 = wanted(hub, "t5.safetensors", "t5xxl")
    path = await store.fetch(t5)
    await store.gc(dry_run=False)
    assert not path.exists()
    assert "in quarantine for" in (await store.gc()).kept[0].reason
    assert await store.fetch(t5) == path
    assert path.read_bytes() == content(MIB)
    assert len(hub.gets()) == 1


async def test_quarantine_ends(hub: HubServer, open_store: OpenStore) -> None:
    store = open_store(quarantine_s=0.0)
    t5 = wanted(hub, "t5.safetensors", "t5xxl")
    await store.fetch(t5)
    await store.gc(dry_run=False)
    assert [i.sha256 for i in (await store.gc(dry_run=False)).deleted] == [t5.sha256]
    assert bytes_on_disk(store.folders.root) == 0
    assert store.files() == []


async def test_purge_deletes_at_once(hub: HubServer, store: Store) -> None:
    t5 = wanted(hub, "t5.safetensors", "t5xxl")
    await store.fetch(t5)
    assert [i.sha256 for i in (await store.gc(dry_run=False, purge=True)).deleted] == [t5.sha256]
    assert bytes_on_disk(store.folders.root) == 0


async def test_why_files_are_kept(hub: HubServer, open_store: OpenStore) -> None:
    store = open_store()
    pinned, running, main, used = (
        wanted(hub, "pinned.gguf", "vae", 1),
        wanted(hub, "running.gguf", "vae", 2),
        wanted(hub, "main.gguf", "diffusion_model", 3),
        wanted(hub, "used.gguf", "llm", 4),
    )
    paths = [await store.fetch(w) for w in (pinned, running, main, used)]
    store.pin(pinned.sha256)
    store.use("z-image", {"llm": used.sha256})
    kept = {i.name: i.reason for i in (await store.gc(running=[paths[1]])).kept}
    assert kept == {
        "pinned.gguf": "pinned",
        "running.gguf": "a model takes it",
        "main.gguf": "a model itself; `darkroom rm` removes it",
        "used.gguf": "used by z-image as llm",
    }
    store.pin(pinned.sha256, pinned=False)
    assert {i.name for i in (await store.gc()).removed} == {"pinned.gguf", "running.gguf"}
    young = await open_store(grace_s=3600.0).gc()
    assert {i.reason for i in young.kept if i.name == "pinned.gguf"} == {"new"}


async def test_what_is_being_fetched_is_no_garbage(hub: HubServer, store: Store, paths: Paths) -> None:
    t5 = wanted(hub, "t5.safetensors", "t5xxl")
    serve = Serve(hold_at=1000)
    hub.files[f"{REPO}/t5.safetensors"].script.append(serve)
    download = store.start(t5)
    await until(serve.held.is_set)
    (paths.store / "partial" / f"{'0' * 64}.part").write_bytes(b"remains")
    assert [(i.name, i.size) for i in (await store.gc(dry_run=False)).deleted] == [(f"{'0' * 64}.part", 7)]
    serve.release.set()
    assert (await download.wait()).read_bytes() == content(MIB)


async def test_remove_a_model(hub: HubServer, store: Store) -> None:
    main = wanted(hub, "z.gguf", "diffusion_model")
    path = await store.fetch(main)
    store.use("z", {"diffusion_model": path})
    with pytest.raises(RequestError, match="used by z"):
        store.remove(main.sha256)
    store.drop("z")
    store.remove(main.sha256)
    assert not path.exists()
    assert store.find(main.sha256) is None
    assert store.files() == []
    assert await store.fetch(main) == path
    assert len(hub.gets()) == 1


async def test_remove_what_is_not_here(store: Store) -> None:
    for sha256 in ("", "a" * 64):
        with pytest.raises(RequestError, match="not a file of the store"):
            store.remove(sha256)
    with pytest.raises(StoreError, match="hexadecimal"):
        store.find("../..")


def hf_cache(folder: Path, sha256: str, data: bytes) -> Path:
    """As huggingface_hub lays it out: blobs by ETag, snapshots with links to them."""
    repo = folder / "models--owner--repo"
    blob = repo / "blobs" / sha256
    blob.parent.mkdir(parents=True)
    blob.write_bytes(data)
    link = repo / "snapshots" / "abc" / "t5.safetensors"
    link.parent.mkdir(parents=True)
    link.symlink_to("../../blobs/" + sha256)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("abc")
    return blob


async def test_a_hugging_face_cache_is_used_in_place(hub: HubServer, store: Store, tmp_path: Path) -> None:
    t5 = wanted(hub, "t5.safetensors", "t5xxl")
    blob = hf_cache(tmp_path / "hf", t5.sha256, content(MIB))
    before = blob.stat()
    path = await store.fetch(t5)
    assert path.name == "t5.safetensors"
    assert path.samefile(blob)
    assert not hub.asked
    assert bytes_on_disk(store.folders.root) == 0
    known = store.describe(t5.sha256)
    assert known is not None
    assert known.external
    await store.gc(dry_run=False, purge=True)
    after = blob.stat()
    assert (after.st_mode, after.st_mtime_ns, after.st_nlink) == (
        before.st_mode,
        before.st_mtime_ns,
        before.st_nlink,
    )


async def test_the_hub_s_sum_finds_it_in_the_cache(hub: HubServer, store: Store, tmp_path: Path) -> None:
    t5 = wanted(hub, "t5.safetensors", "t5xxl")
    hf_cache(tmp_path / "hf", t5.sha256, content(MIB))
    await store.fetch(Wanted("t5xxl", "t5.safetensors", repo=REPO, path="t5.safetensors"))
    assert not hub.gets()


async def test_offline_the_cache_knows_the_sum(hub: HubServer, open_store: OpenStore, tmp_path: Path) -> None:
    t5 = wanted(hub, "t5.safetensors", "t5xxl")
    blob = hf_cache(tmp_path / "hf", t5.sha256, content(MIB))
    unpinned = Wanted("t5xxl", "t5.safetensors", repo=REPO, path="t5.safetensors")
    assert (await open_store(offline=True).fetch(unpinned)).samefile(blob)


async def test_adopting_a_cache_reads_nothing(hub: HubServer, store: Store, tmp_path: Path) -> None:
    t5 = wanted(hub, "t5.safetensors", "t5xxl")
    blob = hf_cache(tmp_path / "other", t5.sha256, content(MIB))
    os.utime(blob, ns=(1, 1))
    adopted = await store.adopt(tmp_path / "other")
    assert (adopted.kind, adopted.files, adopted.size) == ("hf-cache", 1, MIB)
    assert blob.stat().st_atime_ns == 1
    assert store.find(t5.sha256) == blob
    (tmp_path / "other" / "blobs" / "ab").mkdir(parents=True)
    shutil.copy(blob, tmp_path / "other" / "blobs" / "ab" / t5.sha256)  # the shared store has xet's sums
    assert (await store.adopt(tmp_path / "other")).files == 1


@pytest.fixture
def comfy(tmp_path: Path) -> Path:
    folder = tmp_path / "ComfyUI" / "models"
    for name, seed in (("text_encoders/t5.safetensors", 0), ("vae/ae.safetensors", 1), ("notes.txt", 2)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content(MIB, seed))
    (folder / "vae" / "small.safetensors").write_bytes(b"small")
    return folder


async def test_a_folder_of_comfyui(hub: HubServer, store: Store, comfy: Path) -> None:
    adopted = await store.adopt(comfy)
    assert (adopted.kind, adopted.files, adopted.size) == ("folder", 3, 2 * MIB + 5)
    t5 = wanted(hub, "t5xxl_fp16.safetensors", "t5xxl")
    assert store.find(t5.sha256) is None  # nothing was read yet
    path = await store.fetch(t5)
    assert path.samefile(comfy / "text_encoders" / "t5.safetensors")
    assert not hub.asked
    assert store.adopted() == [adopted]


async def test_sums_in_the_background(hub: HubServer, store: Store, comfy: Path) -> None:
    await store.adopt(comfy, sizes=[MIB])
    t5 = wanted(hub, "t5.safetensors", "t5xxl")
    await until(lambda: store.find(t5.sha256))
    await store.adopt(comfy)
    assert store.find(t5.sha256) is not None  # the sum is remembered


@pytest.mark.parametrize("harm", ["changed", "gone"])
async def test_adopted_files_that_are_no_more(hub: HubServer, store: Store, comfy: Path, harm: str) -> None:
    await store.adopt(comfy)
    t5 = wanted(hub, "t5.safetensors", "t5xxl")
    await store.fetch(t5)
    theirs = comfy / "text_encoders" / "t5.safetensors"
    if harm == "changed":
        theirs.write_bytes(content(MIB, seed=9))
    else:
        theirs.unlink()
    assert store.find(t5.sha256) is None
    path = await store.fetch(t5)
    assert path.read_bytes() == content(MIB)
    assert len(hub.gets()) == 1
    if harm == "changed":
        assert theirs.read_bytes() == content(MIB, seed=9)


async def test_forgotten_folders_are_left_alone(hub: HubServer, store: Store, comfy: Path) -> None:
    await store.adopt(comfy)
    store.forget(comfy)
    await store.fetch(wanted(hub, "t5.safetensors", "t5xxl"))
    assert len(hub.gets()) == 1
    assert store.adopted() == []


async def test_adopting_nothing(store: Store, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="not a folder that can be read"):
        await store.adopt(tmp_path / "none")


async def test_add_a_file(store: Store, comfy: Path) -> None:
    source = comfy / "vae" / "ae.safetensors"
    mode = source.stat().st_mode
    added = await store.add(source, "vae", "flux_ae.safetensors")
    assert added.path == store.folders.root / "companions" / "vae" / "flux_ae.safetensors"
    assert added.path.read_bytes() == source.read_bytes()
    assert not added.external
    assert source.stat().st_mode == mode
    assert bytes_on_disk(comfy) + bytes_on_disk(store.folders.root) > bytes_on_disk(comfy.parent.parent)
    source.unlink()
    assert store.find(added.sha256) == added.path
    again = await store.add(added.path, "vae", "flux_ae.safetensors")
    assert again.path == added.path


async def test_add_from_another_file_system(
    store: Store, comfy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blobs_module, "hard_link", lambda source, target: False)
    source = comfy / "vae" / "ae.safetensors"
    added = await store.add(source, "vae")
    assert added.external
    assert added.path.samefile(source)
    assert bytes_on_disk(store.folders.root) == 0
    copied = await store.add(comfy / "text_encoders" / "t5.safetensors", "t5xxl", copy=True)
    assert not copied.external
    assert bytes_on_disk(store.folders.root) == MIB


async def test_blobs_that_somebody_changed_are_not_served(hub: HubServer, store: Store) -> None:
    t5 = wanted(hub, "t5.safetensors", "t5xxl")
    path = await store.fetch(t5)
    path.chmod(0o644)
    path.write_bytes(b"oh no")
    assert store.find(t5.sha256) is None
    assert (await store.fetch(t5)).read_bytes() == content(MIB)


async def test_a_lost_ledger(hub: HubServer, open_store: OpenStore, paths: Paths) -> None:
    store = open_store()
    t5 = wanted(hub, "t5.safetensors", "t5xxl")
    await store.fetch(t5)
    await store.close()
    for file in paths.store.glob("links.sqlite*"):
        file.unlink()
    again = open_store()
    assert (await again.fetch(t5)).read_bytes() == content(MIB)
    assert len(hub.gets()) == 1


async def test_a_place_that_is_no_folder(open_store: OpenStore, paths: Paths) -> None:
    paths.store.parent.mkdir(parents=True)
    paths.store.write_text("in the way")
    with pytest.raises(StoreError, match="cannot be made"):
        open_store()


async def test_only_the_owner_reads_the_ledger(store: Store, paths: Paths) -> None:
    assert {file.stat().st_mode & 0o777 for file in paths.store.glob("links.sqlite*")} == {0o600}
    assert store.files() == []


async def test_a_ledger_that_is_none(open_store: OpenStore, paths: Paths) -> None:
    paths.store.mkdir(parents=True)
    (paths.store / "links.sqlite").write_bytes(b"not a database" * 100)
    with pytest.raises(StoreError, match="ledger"):
        open_store()


async def test_two_stores_on_one_folder(hub: HubServer, open_store: OpenStore) -> None:
    stores = [open_store(), open_store()]
    files = [wanted(hub, f"{n}.gguf", "vae", n, size=5000) for n in range(8)]
    await asyncio.gather(*(store.fetch(file) for file in files for store in stores))
    assert len(hub.gets()) == len(files)
    assert len(stores[0].files()) == len(stores[1].files()) == len(files)


@pytest.fixture
def unprivileged() -> Iterator[None]:
    """Not root, who may do anything."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    yield
    os.seteuid(before)


@pytest.mark.usefixtures("unprivileged")
async def test_a_store_of_somebody_else() -> None:
    locked = Path(tempfile.mkdtemp())
    try:
        locked.chmod(0o500)
        with pytest.raises(StoreError, match=r"Permission denied.*can be written to"):
            Store(Paths.under(locked / "home"))
    finally:
        locked.rmdir()


_OPEN = """
import sys
from pathlib import Path
from darkroom.manager.store.ledger import Ledger

sys.stdin.read(1)
ledger = Ledger(Path(sys.argv[1]))
for i in range(20):
    ledger.add_name("vae", f"{sys.argv[2]}-{i}", "a" * 64)
print(len(ledger.rows("SELECT * FROM names")))
"""


async def test_processes_that_begin_a_ledger_at_once(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", _OPEN, str(tmp_path / "links.sqlite")]
    processes = [
        subprocess.Popen([*argv, str(n)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for n in range(5)
    ]
    answers = await asyncio.gather(*(asyncio.to_thread(p.communicate, "x", 50) for p in processes))
    assert max(int(printed) for printed, _ in answers) == 100
