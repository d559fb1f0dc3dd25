"""A file that somebody wants: what it is called, where it is offered, how it is known."""

from __future__ import annotations

import hashlib
import re
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any, Protocol, Self
from urllib.parse import unquote, urlsplit

from darkroom.api.errors import RequestError

MAIN_ROLES = frozenset({"model", "diffusion_model", "high_noise_diffusion_model", "uncond_diffusion_model"})

_SHA256 = re.compile(r"[0-9a-f]{64}")
_REPO_PART = re.compile(r"[\w][\w.-]{0,95}")
_HUB_PAGE = re.compile(
    r"https?://(?:huggingface\.co|hf\.co)/(?P<repo>[\w.-]+/[\w.-]+)/(?:resolve|blob)/(?P<revision>[^/?#]+)/(?P<path>[^?#]+)"
)
_SECRETS = re.compile(r"(?i)([?&][\w-]*(?:token|key|sig|signature|secret|password|auth)=)[^&#]*")
_UNSAFE = re.compile(r'[\x00-\x1f<>:"/\\|?*]+')
_RESERVED = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?")


class Published(Protocol):
    """A row of a catalogue. Its size is exact only where it is `verified`; absent values are None."""

    @property
    def role(self) -> str: ...  # noqa: D102
    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def size(self) -> int | None: ...  # noqa: D102
    @property
    def sha256(self) -> str | None: ...  # noqa: D102
    @property
    def repo(self) -> str | None: ...  # noqa: D102
    @property
    def path(self) -> str | None: ...  # noqa: D102
    @property
    def revision(self) -> str: ...  # noqa: D102
    @property
    def url(self) -> str | None: ...  # noqa: D102
    @property
    def licence(self) -> str: ...  # noqa: D102
    @property
    def gated(self) -> bool: ...  # noqa: D102
    @property
    def verified(self) -> bool: ...  # noqa: D102


@dataclass(frozen=True)
class Wanted:
    """One file. `repo` and `path` name it on the hub, `url` anywhere; with both, the hub is asked first.

    sha256 and size are pinned where they are given: anything else is rejected.
    """

    role: str
    name: str
    size: int | None = None
    sha256: str = ""
    repo: str = ""
    path: str = ""
    revision: str = "main"
    url: str = ""
    licence: str = ""
    gated: bool = False

    def __post_init__(self) -> None:
        if self.sha256 and not _SHA256.fullmatch(self.sha256):
            raise RequestError(f"sha256 '{self.sha256}': not 64 small hexadecimal digits")
        if self.name != safe_name(self.name):
            raise RequestError(
                f"file name '{self.name}': not a plain file name; say '{safe_name(self.name)}'"
            )
        if not re.fullmatch(r"\w+", self.role):
            raise RequestError(f"role '{self.role}': not a role; name one such as vae or t5xxl")

    @classmethod
    def of(cls, file: Published) -> Self:
        """A row of a catalogue; what is not known for sure is not pinned."""
        return cls(
            role=str(file.role),
            name=safe_name(file.name),
            size=file.size if file.verified else None,
            sha256=file.sha256 or "",
            repo=file.repo or "",
            path=file.path or "",
            revision=file.revision,
            url=file.url or "",
            licence=file.licence,
            gated=file.gated,
        )

    @property
    def key(self) -> str:
        """64 hexadecimal digits for this file: its sha256, else a digest of where it comes from."""
        return self.sha256 or hashlib.sha256((self.origin if self.repo else self.url).encode()).hexdigest()

    @property
    def origin(self) -> str:
        """Where it comes from, in the words that `parse_source` takes; tokens in a URL are left out."""
        if self.repo:
            return f"hf:{self.repo}/{self.path}" + ("" if self.revision == "main" else f"@{self.revision}")
        return _SECRETS.sub(r"\1...", self.url)

    @property
    def is_main(self) -> bool:
        """It is a model itself, not a companion of one."""
        return self.role in MAIN_ROLES

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """What `to_dict` gave."""
        return cls(**values)


def parse_source(text: str, role: str = "model", sha256: str = "") -> Wanted:
    """`hf:owner/repo/path/to/file[@revision]`, the hub's page of a file, or any http(s) URL.

    Errors: RequestError for anything else.
    """
    if found := _HUB_PAGE.match(text):
        text = f"hf:{found['repo']}/{unquote(found['path'])}@{unquote(found['revision'])}"
    if text.startswith("hf:"):
        whole, _, revision = text[3:].partition("@")
        parts = whole.split("/")
        if len(parts) < 3 or not all(_REPO_PART.fullmatch(part) for part in parts[:2]):
            raise RequestError(f"'{text}': not a file of a repository; write hf:owner/repo/file")
        if any(part in ("", ".", "..") for part in parts[2:]):
            raise RequestError(f"'{text}': not a path inside a repository; write hf:owner/repo/folder/file")
        return Wanted(
            role=role,
            name=safe_name(parts[-1]),
            sha256=sha256,
            repo="/".join(parts[:2]),
            path="/".join(parts[2:]),
            revision=revision or "main",
        )
    try:
        url = urlsplit(text)
        host = url.hostname
    except ValueError:
        host = None
    if not host or url.scheme not in ("http", "https"):
        raise RequestError(f"'{text}': neither hf:owner/repo/file nor an http or https URL")
    return Wanted(role=role, name=safe_name(unquote(PurePosixPath(url.path).name)), sha256=sha256, url=text)


def safe_name(name: str) -> str:
    """The last part of `name` as a file name that every system takes; `download` when nothing is left."""
    plain = PureWindowsPath(PurePosixPath(name).name).name if name not in ("", ".", "..") else ""
    plain = _UNSAFE.sub("_", plain).strip(" .")[-200:]
    if not plain or _RESERVED.fullmatch(plain):
        return f"download{'_' + plain if plain else ''}"
    return plain
