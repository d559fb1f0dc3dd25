"""Signed URLs."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

import pytest

from darkroom.server.files import FOLDER, FileGone, FileNotFound, SignedFiles


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def parts(path: str) -> tuple[str, str, str]:
    """Name, expiry and signature of a signed path."""
    url = urlsplit(path)
    query = parse_qs(url.query)
    assert url.path.startswith(FOLDER + "/")
    return url.path.removeprefix(FOLDER + "/"), query["exp"][0], query["sig"][0]


def test_a_signed_path_gives_its_picture() -> None:
    files = SignedFiles()
    stored = files.get(*parts(files.put(b"picture", "webp")))
    assert (stored.data, stored.media_type) == (b"picture", "image/webp")


def test_two_pictures_have_two_names() -> None:
    files = SignedFiles()
    assert files.put(b"a", "png") != files.put(b"a", "png")


def test_it_expires() -> None:
    clock = Clock()
    files = SignedFiles(lifetime=60, clock=clock)
    path = files.put(b"picture", "png")
    clock.now += 59
    files.get(*parts(path))
    clock.now += 1
    with pytest.raises(FileGone, match="expired"):
        files.get(*parts(path))


def test_only_our_own_signature_counts() -> None:
    files = SignedFiles()
    name, expires, signature = parts(files.put(b"picture", "png"))
    for forged in (
        (name, str(int(expires) + 9999), signature),
        (name, expires, "0" * 64),
        (name, expires, ""),
        (name, "", signature),
        (name, f"+{expires}", signature),
        (name, f"{expires}\u0660", signature),
        ("../" + name, expires, signature),
        (name, expires, "é"),
    ):
        with pytest.raises(FileNotFound):
            files.get(*forged)
    with pytest.raises(FileNotFound):
        SignedFiles().get(name, expires, signature)


def test_the_oldest_make_room() -> None:
    files = SignedFiles(most_bytes=10)
    first, second, third = (files.put(bytes(5), "png") for _ in range(3))
    with pytest.raises(FileGone, match="room"):
        files.get(*parts(first))
    files.get(*parts(second))
    files.get(*parts(third))


def test_what_has_expired_makes_room() -> None:
    clock = Clock()
    files = SignedFiles(lifetime=60, clock=clock)
    files.put(bytes(5), "png")
    clock.now += 61
    files.put(b"new", "png")
    assert files.held_bytes == 3
