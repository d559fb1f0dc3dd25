from __future__ import annotations

import pytest

from darkroom.api.errors import RequestError
from darkroom.manager.store.wanted import Wanted, parse_source, safe_name

FLUX = "city96/FLUX.1-dev-gguf"
Z_IMAGE = "Comfy-Org/z_image_turbo"


@pytest.mark.parametrize(
    ("text", "repo", "path", "revision", "name"),
    [
        (f"hf:{FLUX}/flux-Q4_0.gguf", FLUX, "flux-Q4_0.gguf", "main", "flux-Q4_0.gguf"),
        (f"hf:{Z_IMAGE}/vae/ae.sft@abc123", Z_IMAGE, "vae/ae.sft", "abc123", "ae.sft"),
    ],
)
def test_files_of_the_hub(text: str, repo: str, path: str, revision: str, name: str) -> None:
    wanted = parse_source(text)
    assert (wanted.repo, wanted.path, wanted.revision, wanted.name) == (repo, path, revision, name)
    assert wanted.origin == text
    page = f"https://huggingface.co/{repo}/resolve/{revision}/{path}?download=true"
    assert parse_source(page) == wanted
    assert parse_source(page.replace("resolve", "blob")) == wanted
    assert Wanted.from_dict(wanted.to_dict()) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "hf:owner/repo",
        "hf:owner/repo/../x",
        "hf:../../x",
        "ftp://x/y",
        "file:///etc/passwd",
        "z-image",
        "http://",
    ],
)
def test_what_is_no_source(text: str) -> None:
    with pytest.raises(RequestError):
        parse_source(text)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://example.org/a/model.gguf?token=x", "model.gguf"),
        ("https://example.org/a%2F..%2Fb%5Cc.gguf", "c.gguf"),
        ("https://example.org/", "download"),
        ("https://example.org/..", "download"),
        ("https://example.org/con.gguf", "download_con.gguf"),
        ("https://example.org/a%00b%3Astream.ckpt", "a_b_stream.ckpt"),
    ],
)
def test_names_of_urls(url: str, name: str) -> None:
    assert parse_source(url).name == name
    assert safe_name(name) == name


def test_tokens_in_addresses_are_not_shown() -> None:
    wanted = parse_source(
        "https://example.org/m.gguf?type=Model&token=s3cret&format=x&X-Amz-Signature=s3cret"
    )
    assert wanted.origin == "https://example.org/m.gguf?type=Model&token=...&format=x&X-Amz-Signature=..."
    assert "s3cret" in wanted.url
    assert wanted.key != parse_source(wanted.origin).key


@pytest.mark.parametrize("name", ["../x", "a/b", "a\\b", "", "..", "nul"])
def test_names_that_lead_elsewhere(name: str) -> None:
    with pytest.raises(RequestError, match="not a plain file name"):
        Wanted("vae", name)


def test_sums_are_sums() -> None:
    with pytest.raises(RequestError, match="hexadecimal"):
        Wanted("vae", "x", sha256="12AB")
    assert Wanted("vae", "x", sha256="a" * 64).key == "a" * 64
    assert len(Wanted("vae", "x", url="https://example.org/x").key) == 64
