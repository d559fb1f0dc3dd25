"""The Hugging Face hub: where a file's bytes are, what they should be, and what it says when it refuses."""

from __future__ import annotations

import asyncio
import re
from importlib.metadata import version
from pathlib import Path

import httpx2

from darkroom.manager.store.errors import DownloadFailed, FileNotOffered, GatedFile, Offline, StoreError
from darkroom.manager.store.offer import Offer
from darkroom.manager.store.options import StoreOptions
from darkroom.manager.store.retry import RETRIED, TryAgain, wait_asked_for
from darkroom.manager.store.wanted import Wanted

_SHA256 = re.compile(r"[0-9a-f]{64}")
_TIMEOUT_S = 10.0


def is_offline(options: StoreOptions) -> bool:
    """Whether the network must not be used."""
    from huggingface_hub import constants

    return constants.is_offline_mode() if options.offline is None else options.offline


def cache_folder(options: StoreOptions) -> Path:
    """Where huggingface_hub keeps files on this machine."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) if options.hf_cache is None else options.hf_cache


def cached_sum(wanted: Wanted, options: StoreOptions) -> str:
    """The sha256 of a repository's file in the Hugging Face cache, if it is a large one that is there."""
    from huggingface_hub import try_to_load_from_cache

    if not wanted.repo:
        return ""
    found = try_to_load_from_cache(
        wanted.repo, wanted.path, cache_dir=cache_folder(options), revision=wanted.revision
    )
    name = Path(found).resolve().name if isinstance(found, str) else ""
    return name if _SHA256.fullmatch(name) else ""


async def hub_offer(wanted: Wanted, options: StoreOptions) -> Offer:
    """Asks the hub for a file of a repository.

    Errors: GatedFile, FileNotOffered, Offline, DownloadFailed; TryAgain where another try may help.
    """
    return await asyncio.to_thread(_ask, wanted, options)


def _ask(wanted: Wanted, options: StoreOptions) -> Offer:
    from huggingface_hub import constants, get_hf_file_metadata, get_token, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    endpoint = (options.endpoint or constants.ENDPOINT).rstrip("/")
    token = get_token() if options.token is None else options.token
    url = hf_hub_url(wanted.repo, wanted.path, revision=wanted.revision, endpoint=endpoint)
    headers = build_hf_headers(
        token=token or False, library_name="darkroom", library_version=version("darkroom")
    )
    try:
        found = get_hf_file_metadata(
            url, token=token or False, timeout=_TIMEOUT_S, headers=headers, endpoint=endpoint
        )
    except OfflineModeIsEnabled as error:
        raise Offline(f"{wanted.name}: offline mode is on; unset HF_HUB_OFFLINE to fetch it") from error
    except HfHubHTTPError as error:
        raise refusal(error.response, wanted, endpoint, has_token=bool(token)) from error
    except (httpx2.TransportError, OSError) as error:
        raise TryAgain(f"{endpoint}: {_reason(error)}") from error
    etag = found.etag or ""
    return Offer(
        url=url,
        headers=headers,
        size=found.size,
        sha256=etag if _SHA256.fullmatch(etag) else "",
        etag=etag,
        revision=found.commit_hash or "",
        repo=wanted.repo,
        page=f"{endpoint}/{wanted.repo}",
    )


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__


def refusal(response: httpx2.Response, wanted: Wanted, endpoint: str, *, has_token: bool) -> StoreError:
    """What a hub's answer above 399 means, as an error that says what to do."""
    status, code = response.status_code, response.headers.get("X-Error-Code", "")
    page = f"{endpoint}/{wanted.repo}"
    if status in RETRIED:
        return TryAgain(f"{endpoint} answered {status}", wait_asked_for(response.headers))
    if code == "GatedRepo":
        how = (
            "the account of the token in use has not accepted them, or still waits to be let in"
            if has_token
            else f"then set HF_TOKEN to a token of that account ({endpoint}/settings/tokens)"
        )
        return GatedFile(
            f"{wanted.name}: {wanted.repo} is gated; accept its terms at {page}; {how}", wanted.repo, page
        )
    if code == "RevisionNotFound":
        return FileNotOffered(f"{wanted.name}: {wanted.repo} has no revision '{wanted.revision}'; see {page}")
    if code == "EntryNotFound" or (status == 404 and code != "RepoNotFound"):
        return FileNotOffered(f"{wanted.name}: {wanted.repo} has no file '{wanted.path}'; see {page}")
    if code == "RepoNotFound" or status == 401:
        how = "the token in use may not see it" if has_token else "if it is private, set HF_TOKEN"
        return FileNotOffered(f"{wanted.name}: no repository {wanted.repo}; check the spelling; {how}")
    if status == 403:
        message = response.headers.get("X-Error-Message", "") or "forbidden"
        return GatedFile(
            f"{wanted.name}: {wanted.repo} refuses: {message}; see {page}, and check what HF_TOKEN may do",
            wanted.repo,
            page,
        )
    return DownloadFailed(f"{wanted.name}: {endpoint} answered {status}; see {page}")
