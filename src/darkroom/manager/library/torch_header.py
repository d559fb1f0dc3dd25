"""The tensors of torch checkpoints, zip archives and files from before torch 1.6; nothing is unpickled.

Every pickle in the file is looked through, not only the one that torch reads first: a harmless one in front
of a harmful one is an old trick.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib

from darkroom.core.torch_globals import TensorRef, named_tensors
from darkroom.manager.library.limited import HeaderError, LimitedFile
from darkroom.manager.library.parts import FileFormat
from darkroom.manager.library.pickles import Unpickled, describe_wanted, read_pickle
from darkroom.manager.library.tensors import ITEM_SIZES, MAX_TENSORS, Header, TensorHead, elements

ZIP_MAGIC = b"PK\x03\x04"
PICKLE = "data.pkl"
PICKLE_LIMIT = 16 << 20
"""Bytes of one pickle; those of published models have a megabyte."""

MAX_NESTED = 2
MAX_STREAMS = 16
MAX_ENTRIES = 200_000

LEGACY_NUMBER = 0x1950A86A20F9469CFC6C
PICKLE_STARTS = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
_OLD_PICKLE_STARTS = (b"(d", b"(l", b"(i", b"c", b"}q", b"]q", b"(c", b"(S", b"(V", b"cos\n", b"cposix\n")

_ZIP_ERRORS = (
    *(zipfile.BadZipFile, zlib.error, struct.error, NotImplementedError),
    *(RuntimeError, EOFError, OSError, ValueError, OverflowError),
)


def is_pickle(head: bytes) -> bool:
    """Whether a file that begins with `head` may be a pickle."""
    return head.startswith(PICKLE_STARTS) or head.startswith(_OLD_PICKLE_STARTS)


def read_zip(file: LimitedFile) -> Header:
    """A zip archive with a pickle and one entry for each storage.

    Raises HeaderError for a damaged one, one that is not torch's, and one that would run code.
    """
    try:
        return _read_zip(file)
    except HeaderError:
        raise
    except _ZIP_ERRORS as err:
        raise HeaderError("it is a truncated or damaged zip archive; download it again") from err


def _read_zip(file: LimitedFile) -> Header:
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        if len(entries) > MAX_ENTRIES:
            raise HeaderError(f"it is a zip archive of {len(entries)} entries; no model has so many")
        main = next((e for e in entries if e.filename.rpartition("/")[2] == PICKLE), None)
        if main is None:
            names = ", ".join(e.filename[:60] for e in entries[:3])
            raise HeaderError(f"it is a zip archive ({names}, ...) but no torch checkpoint")
        folder = main.filename.removesuffix(PICKLE)
        _refuse_harm(archive, entries, folder, 0)
        value = read_pickle(io.BytesIO(_content(archive, main))).value
        sizes = {
            entry.filename.removeprefix(f"{folder}data/"): entry.file_size
            for entry in entries
            if entry.filename.startswith(f"{folder}data/")
        }
    tensors = named_tensors(value)
    for name, ref in tensors.items():
        _check_storage(name, ref, sizes)
    end = max((entry.header_offset + entry.compress_size for entry in entries), default=0)
    if end > file.size:
        raise HeaderError("it is truncated; download it again")
    return _header(tensors)


def _refuse_harm(archive: zipfile.ZipFile, entries: list[zipfile.ZipInfo], folder: str, depth: int) -> None:
    """Raises HeaderError for a pickle anywhere in the archive that names what no model needs."""
    wanted: list[str] = []
    for entry in entries:
        if entry.filename.startswith(f"{folder}data/") and not entry.filename.endswith(".pkl"):
            continue  # numbers
        content = _content(archive, entry)
        if content.startswith(ZIP_MAGIC) and depth < MAX_NESTED:
            with zipfile.ZipFile(io.BytesIO(content)) as inner:
                _refuse_harm(inner, inner.infolist(), "\0", depth + 1)
        elif entry.filename.endswith((".pkl", ".pickle")) or is_pickle(content):
            wanted += _scan(io.BytesIO(content), strict=entry.filename.endswith(PICKLE))
    if wanted:
        raise HeaderError(describe_wanted(wanted))


def _content(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    if entry.file_size > PICKLE_LIMIT:
        raise HeaderError(
            f"its entry {entry.filename[:60]} claims {entry.file_size} bytes; at most {PICKLE_LIMIT} are read"
        )
    with archive.open(entry) as stream:
        content = stream.read(PICKLE_LIMIT + 1)
    if len(content) > PICKLE_LIMIT:
        raise HeaderError(f"its entry {entry.filename[:60]} is larger than it claims; it is made to harm")
    return content


def _scan(stream: io.BytesIO, *, strict: bool) -> list[str]:
    """What all pickles that stand one after the other in a stream want. strict: the first must be whole."""
    wanted: list[str] = []
    for number in range(MAX_STREAMS):
        here = stream.tell()
        head = stream.read(8)
        stream.seek(here)
        if not head or (number and not is_pickle(head)):
            break
        try:
            wanted += read_pickle(stream).wanted
        except HeaderError as err:
            if "run code" in str(err) or (strict and not number):
                raise
            break
    return wanted


def read_legacy(file: LimitedFile) -> Header:
    """Pickles one after the other, then each storage with its length in front of it.

    Raises HeaderError for a damaged file, and for one that would run code.
    """
    file.seek(0)
    streams: list[Unpickled] = []
    for _ in range(MAX_STREAMS):
        here = file.tell()
        head = file.read(8)
        file.seek(here)
        if len(streams) == 5 and streams[0].value == LEGACY_NUMBER:
            break
        if not head or (streams and not is_pickle(head)):
            break
        streams.append(read_pickle(file))  # type: ignore[arg-type]
    if wanted := [name for stream in streams for name in stream.wanted]:
        raise HeaderError(describe_wanted(wanted))
    if streams[0].value != LEGACY_NUMBER:
        tensors = next((found for stream in streams if (found := named_tensors(stream.value))), {})
        if not tensors:
            raise HeaderError("it is a pickle without a tensor; it is no model")
        return _header(tensors)
    if len(streams) < 5:
        raise HeaderError("it is a torch file whose pickles break off; download it again")
    _, protocol, _, content, keys = streams[:5]
    if protocol.value != 1001 or not isinstance(keys.value, list):
        raise HeaderError("it is of a file protocol of torch that is not known")
    _walk_storages(file, keys.value, content)
    return _header(named_tensors(content.value))


def _walk_storages(file: LimitedFile, keys: list[object], content: Unpickled) -> None:
    """Steps from length to length, to see that the file is whole and that nothing comes behind."""
    at = file.tell()
    for key in keys:
        storage = content.storages.get(str(key))
        if storage is None:
            raise HeaderError("it has a storage that nothing refers to; the file is damaged")
        file.seek(at)
        head = file.read(8)
        numel = struct.unpack("<q", head)[0] if len(head) == 8 else -1
        at += 8 + numel * ITEM_SIZES[storage.dtype]
        if numel < 0 or at > file.size:
            raise HeaderError(f"it is truncated: a tensor ends at byte {at} and the file has {file.size}")
    file.seek(at)
    rest = file.read(min(1 << 20, file.size - at))
    if is_pickle(rest) and (wanted := _scan(io.BytesIO(rest), strict=False)):
        raise HeaderError(describe_wanted(wanted))


def _check_storage(name: str, ref: TensorRef, sizes: dict[str, int]) -> None:
    size = sizes.get(ref.storage.key)
    if size is None:
        raise HeaderError(f"the data of tensor {name[:80]!r} is missing; download it again")
    if elements(ref.shape) and size < ITEM_SIZES[ref.dtype]:
        raise HeaderError(f"the data of tensor {name[:80]!r} is cut off; download it again")


def _header(tensors: dict[str, TensorRef]) -> Header:
    if not tensors:
        raise HeaderError("it is a torch file without a tensor; it is no model")
    if len(tensors) > MAX_TENSORS:
        raise HeaderError(f"it lists {len(tensors)} tensors; no model has more than {MAX_TENSORS}")
    heads: dict[str, TensorHead] = {}
    for name, ref in tensors.items():
        try:
            count = elements(ref.shape)
        except ValueError as err:
            raise HeaderError(f"tensor {name[:80]!r} has {err}; the file is damaged") from err
        heads[name] = TensorHead(ref.shape, ref.dtype, count * ITEM_SIZES[ref.dtype])
    return Header(FileFormat.CKPT, heads)
