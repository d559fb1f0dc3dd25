"""torch.save's file since 1.6: a zip archive with a pickle and one uncompressed entry for each storage."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib

from darkroom.api.errors import CheckpointError
from darkroom.weights import torch_pickle
from darkroom.weights.mapped import MappedFile
from darkroom.weights.torch_state import StorageRange, TorchFile

MAGIC = b"PK\x03\x04"
PICKLE = "data.pkl"
PICKLE_LIMIT = 256 << 20
LOCAL_HEADER = 30

ZIP_ERRORS = (
    *(zipfile.BadZipFile, zlib.error, struct.error, NotImplementedError),
    *(RuntimeError, EOFError, OSError, ValueError),
)
"""What zipfile raises over damaged archives, sooner or later."""


def open_torch_zip(file: MappedFile) -> TorchFile:
    """Reads the archive's directory and its pickle.

    Raises CheckpointError for a zip that is not torch's, and for a damaged one.
    """
    try:
        with zipfile.ZipFile(file.path) as archive:
            entries = archive.infolist()
            info = next(
                (e for e in entries if e.filename == PICKLE or e.filename.endswith("/" + PICKLE)), None
            )
            if info is None:
                names = ", ".join(e.filename for e in entries[:3])
                raise CheckpointError(
                    f"{file.path}: is a zip archive ({names}, ...) but no torch checkpoint; "
                    f"expected an entry {PICKLE}"
                )
            if info.file_size > PICKLE_LIMIT:
                raise CheckpointError(
                    f"{file.path}: its {PICKLE} claims {info.file_size} bytes; "
                    f"at most {PICKLE_LIMIT} are read"
                )
            pickle = archive.read(info)
            _check_byte_order(archive, info.filename.removesuffix(PICKLE), file)
    except ZIP_ERRORS as err:
        raise CheckpointError(
            f"{file.path}: is a truncated or damaged zip archive ({err}); download it again"
        ) from err
    folder = info.filename.removesuffix(PICKLE) + "data/"
    storages = {
        entry.filename.removeprefix(folder): _locate(file, entry)
        for entry in entries
        if entry.filename.startswith(folder)
    }
    return TorchFile(file, torch_pickle.load(io.BytesIO(pickle), str(file.path)).value, storages)


def _check_byte_order(archive: zipfile.ZipFile, folder: str, file: MappedFile) -> None:
    name = folder + "byteorder"
    if name in archive.NameToInfo and archive.read(name).strip() != b"little":
        raise CheckpointError(f"{file.path}: was saved on a big-endian machine; only little-endian is read")


def _locate(file: MappedFile, entry: zipfile.ZipInfo) -> StorageRange:
    header = file.bytes(entry.header_offset, LOCAL_HEADER)
    if entry.header_offset < 0 or len(header) < LOCAL_HEADER or not header.startswith(MAGIC):
        raise CheckpointError(f"{file.path}: its zip entry {entry.filename} is damaged; download it again")
    name, extra = struct.unpack_from("<HH", header, 26)
    start = entry.header_offset + LOCAL_HEADER + name + extra
    if start + entry.compress_size > file.size:
        raise CheckpointError(f"{file.path}: is truncated inside {entry.filename}; download it again")
    if entry.compress_type == zipfile.ZIP_STORED and not entry.flag_bits & 1:
        return StorageRange(start, min(entry.file_size, entry.compress_size))
    if entry.compress_type == zipfile.ZIP_DEFLATED and not entry.flag_bits & 1:
        return StorageRange(start, entry.file_size, deflated=entry.compress_size)
    raise CheckpointError(
        f"{file.path}: its zip entry {entry.filename} is encrypted or packed in an unknown way; "
        "torch stores them as they are"
    )
