"""What comes from the hub and from plain URLs, and where it comes to rest."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from tests.manager.store.conftest import MIB, OpenStore, bytes_on_disk, content, fetching_process
from tests.manager.store.hub_server import COMMIT, HubServer, Serve, Served

from darkroom.manager.config import Paths
from darkroom.manager.library.catalogue import KnownFile
from darkroom.manager.library.roles import FileRole
from darkroom.manager.store.errors import DownloadFailed, FileNotOffered, FileRejected, GatedFile, Offline
from darkroom.manager.store.progress import Progress, State
from darkroom.manager.store.store import Store
from darkroom.manager.store.wanted import Wanted, parse_source

pytestmark = pytest.mark.anyio

REPO, PATH = "comfyanonymous/flux_text_encoders", "text_encoders/t5xxl_fp16.safetensors"


def t5(served: Served, **changes: object) -> Wanted:
    fields = {
        "role": "t5xxl",
        "name": "t5xxl_fp16.safetensors",
        "size": len(served.content),
        "sha256": served.sha256,
        "repo": REPO,
        "path": PATH,
        "licence": "apache-2.0",
    }
    return Wanted(**(fields | changes))  # type: ignore[arg-type]


async def test_a_file_of_the_hub(hub: HubServer, store: Store) -> None:
    served = hub.add(REPO, PATH, content())
    seen: list[Progress] = []
    path = await store.fetch(t5(served), seen.append)
    assert path == store.folders.root / "companions" / "t5xxl" / "t5xxl_fp16.safetensors"
    assert path.read_bytes() == served.content
    blob = store.folders.blob(served.sha256)
    assert blob.samefile(path)
    assert blob.stat().st_mode & 0o777 == 0o444
    assert seen[-1] == Progress(State.COMPLETED, 3 * MIB, 3 * MIB)
    assert [p.received for p in seen] == sorted(p.received for p in seen)
    known = store.describe(served.sha256)
    assert known is not None
    source = known.sources[0]
    assert (source.repo, source.revision, source.licence) == (REPO, COMMIT, "apache-2.0")
    assert source.etag == served.sha256
    assert not list(store.folders.partial.iterdir())
    assert store.downloads()[0].state is State.COMPLETED


async def test_a_second_fetch_asks_nobody(hub: HubServer, store: Store, open_store: OpenStore) -> None:
    wanted = t5(hub.add(REPO, PATH, content()))
    first = await store.fetch(wanted)
    asked = len(hub.asked)
    assert await store.fetch(wanted) == first
    assert await open_store(offline=True).fetch(wanted) == first
    assert len(hub.asked) == asked


async def test_a_row_of_the_catalogue(hub: HubServer, store: Store) -> None:
    served = hub.add(REPO, PATH, content(1000))
    row = KnownFile(
        role=FileRole.T5XXL,
        kind="t5xxl",
        repo=REPO,
        path=PATH,
        sha256=served.sha256,
        size=990,
        licence="apache-2.0",
    )
    path = await store.fetch(row)
    assert path.name == "t5xxl_fp16.safetensors"
    assert path.read_bytes() == served.content


async def test_without_a_sum_the_hub_s_is_used(hub: HubServer, store: Store) -> None:
    served = hub.add(REPO, PATH, content())
    wanted = parse_source(f"hf:{REPO}/{PATH}", role="t5xxl")
    path = await store.fetch(wanted)
    assert store.sum_of(path) == served.sha256
    await store.fetch(wanted)
    assert len(hub.gets()) == 1


async def test_what_changed_on_the_hub_is_fetched_anew(hub: HubServer, store: Store) -> None:
    hub.add(REPO, PATH, content(seed=1))
    wanted = parse_source(f"hf:{REPO}/{PATH}", role="t5xxl")
    old = await store.fetch(wanted)
    served = hub.add(REPO, PATH, content(seed=2))
    new = await store.fetch(wanted)
    assert new.read_bytes() == served.content
    assert old != new
    assert old.read_bytes() == content(seed=1)


async def test_small_files_that_are_in_git(hub: HubServer, store: Store) -> None:
    served = hub.add(REPO, "config.gguf", content(5000), lfs=False)
    path = await store.fetch(parse_source(f"hf:{REPO}/config.gguf"))
    assert path == store.folders.root / "models" / "config.gguf"
    assert path.read_bytes() == served.content


async def test_a_plain_url(hub: HubServer, store: Store) -> None:
    served = hub.add("any", "my model.safetensors", content())
    wanted = parse_source(hub.plain("any", "my model.safetensors"))
    path = await store.fetch(wanted)
    assert path.name == "my model.safetensors"
    assert store.sum_of(path) == served.sha256
    assert await store.fetch(wanted) == path
    assert [a.status for a in hub.gets()] == [200, 304]


async def test_the_hub_first_then_the_url(hub: HubServer, store: Store) -> None:
    served = hub.add("mirror", "t5.safetensors", content())
    wanted = t5(served, url=hub.plain("mirror", "t5.safetensors"))
    assert (await store.fetch(wanted)).read_bytes() == served.content


async def test_two_files_of_one_name(hub: HubServer, store: Store) -> None:
    one = hub.add("a/flux", "ae.safetensors", content(seed=1))
    two = hub.add("b/other", "ae.safetensors", content(seed=2))
    first = await store.fetch(Wanted("vae", "ae.safetensors", None, one.sha256, "a/flux", "ae.safetensors"))
    second = await store.fetch(Wanted("vae", "ae.safetensors", None, two.sha256, "b/other", "ae.safetensors"))
    assert first.name == "ae.safetensors"
    assert second.name == f"ae-{two.sha256[:8]}.safetensors"


async def test_one_file_under_two_names(hub: HubServer, store: Store) -> None:
    served = hub.add(REPO, PATH, content())
    first = await store.fetch(t5(served))
    second = await store.fetch(t5(served, name="google_t5.safetensors", role="llm"))
    assert second.name == "google_t5.safetensors"
    assert first.samefile(second)
    assert bytes_on_disk(store.folders.root) == 3 * MIB


async def test_gated_without_a_token(hub: HubServer, store: Store) -> None:
    served = hub.add(REPO, PATH, content(), gated=True)
    with pytest.raises(GatedFile, match="gated; accept its terms") as caught:
        await store.fetch(t5(served))
    assert caught.value.repo == REPO
    assert caught.value.page == f"{hub.endpoint}/{REPO}"
    assert "HF_TOKEN" in str(caught.value)
    assert store.downloads()[0].state is State.FAILED


async def test_gated_with_a_token_that_was_not_let_in(hub: HubServer, open_store: OpenStore) -> None:
    served = hub.add(REPO, PATH, content(), gated=True)
    with pytest.raises(GatedFile, match="has not accepted"):
        await open_store(token="hf_other").fetch(t5(served))


async def test_the_token_stays_with_the_hub(hub: HubServer, open_store: OpenStore) -> None:
    served = hub.add(REPO, PATH, content(), gated=True)
    hub.tokens.add("hf_mine")
    await open_store(token="hf_mine").fetch(t5(served))
    assert {a.headers.get("authorization") for a in hub.asked if a.host == "hub"} == {"Bearer hf_mine"}
    assert {a.headers.get("authorization") for a in hub.asked if a.host == "cdn"} == {None}
    assert all("hf_mine" not in str(a.headers) for a in hub.asked if a.host == "cdn")
    assert all("darkroom/" in a.headers["user-agent"] for a in hub.asked)


async def test_tokens_of_other_hosts(hub: HubServer, open_store: OpenStore) -> None:
    served = hub.add("civ", "m.safetensors", content())
    wanted = parse_source(f"{hub.cdn}/locked/civ/m.safetensors")
    with pytest.raises(GatedFile, match="wants an account"):
        await open_store().fetch(wanted)
    path = await open_store(host_tokens={"localhost": "civ"}).fetch(wanted)
    assert path.read_bytes() == served.content


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (Wanted("vae", "x", repo="no/body", path="x"), "no repository no/body"),
        (Wanted("vae", "x", repo=REPO, path="x"), "has no file 'x'"),
        (Wanted("vae", "x", repo=REPO, path=PATH, revision="v9"), "has no revision 'v9'"),
        (Wanted("vae", "x"), "not known where it is offered"),
    ],
)
async def test_what_is_not_there(hub: HubServer, store: Store, wanted: Wanted, message: str) -> None:
    hub.add(REPO, PATH, b"x")
    with pytest.raises(FileNotOffered, match=message):
        await store.fetch(wanted)


async def test_a_url_that_leads_nowhere(hub: HubServer, store: Store) -> None:
    with pytest.raises(FileNotOffered, match=r"is not there \(404\)"):
        await store.fetch(parse_source(hub.plain("any", "x.gguf")))
    with pytest.raises(DownloadFailed, match="more than 5 redirects"):
        await store.fetch(parse_source(f"{hub.cdn}/hop/9"))
    with pytest.raises(DownloadFailed, match="not http or https"):
        await store.fetch(parse_source(f"{hub.cdn}/hop/2"))


async def test_private_addresses_are_not_asked(hub: HubServer, open_store: OpenStore) -> None:
    hub.add("any", "m.gguf", b"x")
    download = open_store(allow_private=False).start(parse_source(hub.plain("any", "m.gguf")))
    with pytest.raises(Exception, match="not a public address"):
        await download.wait()
    assert not hub.asked


async def test_wrong_bytes_are_rejected(hub: HubServer, store: Store) -> None:
    served = hub.add(REPO, PATH, content(seed=1), lies=content(seed=2))
    with pytest.raises(FileRejected) as caught:
        await store.fetch(t5(served))
    lie = hashlib.sha256(served.lies).hexdigest()
    assert (caught.value.expected, caught.value.received) == (served.sha256, lie)
    assert served.sha256 in str(caught.value)
    assert lie in str(caught.value)
    assert store.find(served.sha256) is None
    assert store.find(lie) is None
    (kept,) = store.folders.quarantine.iterdir()
    assert kept.read_bytes() == served.lies
    assert not list(store.folders.partial.glob("*.part"))


async def test_another_sum_is_seen_before_a_byte_comes(hub: HubServer, store: Store) -> None:
    served = hub.add(REPO, PATH, content())
    with pytest.raises(FileRejected, match=f"now has {served.sha256}"):
        await store.fetch(t5(served, sha256="0" * 64))
    assert not hub.gets()


async def test_another_size_is_seen_before_a_byte_comes(hub: HubServer, store: Store) -> None:
    served = hub.add("any", "m.gguf", content())
    wanted = Wanted("vae", "m.gguf", size=7, sha256=served.sha256, url=hub.plain("any", "m.gguf"))
    with pytest.raises(FileRejected, match="7 bytes were expected, the server has 3145728"):
        await store.fetch(wanted)
    assert not list(store.folders.quarantine.iterdir())


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (b"\n<!DOCTYPE html><html>please sign in</html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "a Git LFS pointer"),
    ],
)
async def test_pages_are_no_models(hub: HubServer, store: Store, body: bytes, what: str) -> None:
    hub.add("any", "m.safetensors", body)
    with pytest.raises(FileRejected, match=what):
        await store.fetch(parse_source(hub.plain("any", "m.safetensors")))


async def test_offline(hub: HubServer, open_store: OpenStore) -> None:
    served = hub.add(REPO, PATH, content())
    store = open_store(offline=True)
    place = store.folders.root / "companions" / "t5xxl" / "t5xxl_fp16.safetensors"
    with pytest.raises(Offline, match="put it at") as caught:
        await store.fetch(t5(served))
    assert str(place) in str(caught.value)
    assert not hub.asked
    place.parent.mkdir(parents=True)
    place.write_bytes(served.content)
    assert await store.fetch(t5(served)) == place
    assert store.find(served.sha256) == place


async def test_a_wrong_file_put_there_by_hand_stays(hub: HubServer, store: Store) -> None:
    served = hub.add(REPO, PATH, content(seed=1))
    place = store.folders.root / "companions" / "t5xxl" / "t5xxl_fp16.safetensors"
    place.parent.mkdir(parents=True)
    place.write_bytes(content(seed=2))
    path = await store.fetch(t5(served))
    assert path.name == f"t5xxl_fp16-{served.sha256[:8]}.safetensors"
    assert place.read_bytes() == content(seed=2)


async def test_the_environment_of_huggingface_hub(hub: HubServer, paths: Paths) -> None:
    served = hub.add(REPO, PATH, content(), gated=True)
    hub.tokens.add("hf_env")
    fetch = fetching_process(paths, t5(served), HF_ENDPOINT=hub.endpoint, HF_TOKEN="hf_env")
    printed, errors = fetch.communicate(timeout=30)
    assert Path(printed.strip()).read_bytes() == served.content, errors


async def test_offline_in_the_environment(hub: HubServer, paths: Paths) -> None:
    served = hub.add(REPO, PATH, content())
    fetch = fetching_process(paths, t5(served), HF_ENDPOINT=hub.endpoint, HF_HUB_OFFLINE="1")
    assert "unset HF_HUB_OFFLINE" in fetch.communicate(timeout=30)[1]
    assert not hub.asked


async def test_hub_that_is_busy(hub: HubServer, store: Store) -> None:
    served = hub.add(REPO, PATH, content())
    hub.hub_script += [Serve(status=503), Serve(status=429, headers={"Retry-After": "0"})]
    assert (await store.fetch(t5(served))).read_bytes() == served.content


async def test_nobody_listens(hub: HubServer, open_store: OpenStore, tmp_path: Path) -> None:
    served = hub.add(REPO, PATH, content(10))
    store = open_store(endpoint="http://127.0.0.1:9", tries=2)
    with pytest.raises(DownloadFailed, match="given up after 2 tries"):
        await store.fetch(t5(served))


@pytest.mark.parametrize(
    ("begin", "disposition", "name"),
    [
        (b"????", 'attachment; filename="pony v6.safetensors"', "pony v6.safetensors"),
        (b"????", "attachment; filename*=UTF-8''..%2F..%2Fevil.ckpt", "evil.ckpt"),
        (b"GGUF", "", "290640.gguf"),
        (b"\x10\0\0\0\0\0\0\0{", "", "290640.safetensors"),
        (b"????", 'attachment; filename="page.html"', "290640"),
    ],
)
async def test_addresses_without_a_file_name(
    hub: HubServer, store: Store, begin: bytes, disposition: str, name: str
) -> None:
    served = hub.add("download", "290640", begin + content(100))
    served.script.append(Serve(headers={"Content-Disposition": disposition} if disposition else {}))
    assert (await store.fetch(parse_source(hub.plain("download", "290640")))).name == name


async def test_a_signature_that_ran_out(hub: HubServer, store: Store) -> None:
    served = hub.add(REPO, PATH, content())
    served.script.append(Serve(status=403))
    assert (await store.fetch(t5(served))).read_bytes() == served.content
