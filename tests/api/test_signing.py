"""Signed links."""

from __future__ import annotations

from urllib.parse import parse_qs

import pytest

from darkroom.api.signing import Signer


def test_only_what_was_signed_is_ours() -> None:
    signer = Signer()
    query = {name: values[0] for name, values in parse_qs(signer.query("a.png", 1000)).items()}
    assert signer.is_ours("a.png", query["exp"], query["sig"])
    assert not signer.is_ours("b.png", query["exp"], query["sig"])
    assert not signer.is_ours("a.png", "1001", query["sig"])
    assert not Signer().is_ours("a.png", query["exp"], query["sig"])


@pytest.mark.parametrize("expires", ["", "x", "-1", "01000", "١٠٠٠", "1" * 5000])
@pytest.mark.parametrize("signature", ["", "\x80", "\ud800", "0" * 64])
def test_nonsense_is_refused(expires: str, signature: str) -> None:
    assert not Signer().is_ours("a.png", expires, signature)
