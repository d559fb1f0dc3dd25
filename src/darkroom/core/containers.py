"""The parts that PNG, JPEG and WebP files are made of, and what those say that hold metadata."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable, Iterator
from html import unescape
from typing import Any

from PIL import Image
from PIL.ExifTags import GPSTAGS, IFD, TAGS, Base
from PIL.TiffImagePlugin import IFDRational

from darkroom.api.errors import RequestError
from darkroom.core.image_files import UNICODE_COMMENT

Entry = dict[str, Any]
"""One part of a file, keys as stable-diffusion.cpp's `-M metadata` has them: name, length, data ..."""

_XMP_PARAMETERS = re.compile(r"<sdcpp:parameters>(.*?)</sdcpp:parameters>", re.DOTALL)
_TEXT_CHUNKS = ("tEXt", "zTXt", "iTXt")
_METADATA_CHUNKS = (*_TEXT_CHUNKS, "eXIf", "iCCP", "gAMA", "cHRM", "sRGB", "pHYs", "tIME")


def read_container(data: bytes, subject: str, raw: bool = False) -> tuple[str, list[Entry]]:
    """The format and the parts of a picture file, each marked `metadata_like` or not.

    subject: what messages begin with. raw: add the first bytes, in hexadecimal, of parts that are not
    understood.
    Raises RequestError for other formats and for files whose parts do not add up.
    """
    readers: dict[str, tuple[bytes, Callable[[bytes, bool], Iterator[Entry]]]] = {
        "PNG": (rb"\x89PNG\r\n\x1a\n", _png),
        "JPEG": (rb"\xff\xd8", _jpeg),
        "WEBP": (rb"RIFF....WEBP", _webp),
    }
    for format, (start, read) in readers.items():
        if re.match(start, data, re.DOTALL):
            try:
                return format, list(read(data, raw))
            except (struct.error, IndexError, ValueError) as error:
                raise RequestError(f"{subject} is damaged ({error})") from None
    what = "is empty" if not data else "is no PNG, JPEG or WebP picture"
    raise RequestError(f"{subject} {what}; only PNG, JPEG and WebP are read")


def parameters_of(entries: list[Entry]) -> str | None:
    """The `parameters` text, wherever A1111 or stable-diffusion.cpp put it."""
    for entry in entries:
        data = entry.get("data", {})
        if data.get("keyword", data.get("label")) == "parameters":
            return str(data["text"])
        if "parameters" in data:
            return str(data["parameters"])
        if comment := data.get("Exif", {}).get("UserComment"):
            return str(comment)
    return None


def _entry(kind: str, name: str, payload: bytes, metadata_like: bool) -> Entry:
    key = "name" if kind == "chunk" else "marker"
    return {"entry_type": kind, key: name, "length": len(payload), "metadata_like": metadata_like}


def _with_raw(entry: Entry, payload: bytes, raw: bool) -> Entry:
    if raw and payload and "data" not in entry:
        entry["raw_hex_preview"] = payload[:64].hex(" ") + (" ..." if len(payload) > 64 else "")
    return entry


def _png(data: bytes, raw: bool) -> Iterator[Entry]:
    at, name = 8, ""
    while name != "IEND":
        if at + 12 > len(data):
            raise ValueError("the IEND chunk is missing")
        length = struct.unpack_from(">I", data, at)[0]
        name = data[at + 4 : at + 8].decode("latin-1")
        payload = data[at + 8 : at + 8 + length]
        if at + 12 + length > len(data):
            raise ValueError(f"chunk {name} is longer than the file")
        at += 12 + length
        entry = _entry("chunk", name, payload, name in _METADATA_CHUNKS)
        if name in _TEXT_CHUNKS:
            entry["data"] = _png_text(name, payload)
        elif name == "eXIf":
            entry["data"] = read_exif(payload)
        elif name == "IHDR" and length == 13:
            width, height, depth, color = struct.unpack_from(">IIBB", payload)
            entry["data"] = {"width": width, "height": height, "bit_depth": depth, "color_type": color}
        yield _with_raw(entry, payload, raw)


def _png_text(name: str, payload: bytes) -> dict[str, Any]:
    keyword, _, rest = payload.partition(b"\0")
    if name == "zTXt":
        rest = _inflate(rest[1:])
    if name == "iTXt":
        compressed, rest = rest[:1] == b"\1", rest[2:]
        _language, _, rest = rest.partition(b"\0")
        _translated, _, rest = rest.partition(b"\0")
        rest = _inflate(rest) if compressed else rest
    return {"keyword": keyword.decode("latin-1"), "text": _text(rest)}


def _inflate(data: bytes, limit: int = 64 << 20) -> bytes:
    try:
        return zlib.decompressobj().decompress(data, limit)
    except zlib.error as error:
        raise ValueError(f"a compressed text cannot be read: {error}") from None


def _text(data: bytes) -> str:
    """UTF-8 as stable-diffusion.cpp writes, else Latin-1 as the PNG standard says."""
    try:
        return data.decode("utf-8").rstrip("\0")
    except UnicodeDecodeError:
        return data.decode("latin-1").rstrip("\0")


def _jpeg(data: bytes, raw: bool) -> Iterator[Entry]:
    at = 2
    while at + 2 <= len(data):
        if data[at] != 0xFF:
            raise ValueError("a segment does not begin where the one before it ends")
        marker = data[at + 1]
        at += 2 if marker != 0xFF else 1
        if marker in (0xFF, 0x01) or 0xD0 <= marker <= 0xD7:
            continue
        if marker in (0xD9, 0xDA):  # the end, or the pixels
            return
        length = struct.unpack_from(">H", data, at)[0]
        if length < 2 or at + length > len(data):
            raise ValueError("a segment is longer than the file")
        payload = data[at + 2 : at + length]
        at += length
        is_app = 0xE0 <= marker <= 0xEF
        name = "COM" if marker == 0xFE else f"APP{marker - 0xE0}" if is_app else f"0x{marker:X}"
        entry = _entry("segment", name, payload, is_app or name == "COM")
        if found := _jpeg_data(name, payload):
            entry["data"] = found
        yield _with_raw(entry, payload, raw)


def _jpeg_data(name: str, payload: bytes) -> dict[str, Any]:
    # stable-diffusion.cpp's comment; the segment is looked for in APPn as well
    if payload.startswith(b"parameters\0"):
        return {"label": "parameters", "text": _text(payload[11:])}
    if name == "COM":
        return {"text": _text(payload)}
    if payload.startswith(b"Exif\0\0"):
        return read_exif(payload[6:])
    if payload.startswith(b"http://ns.adobe.com/xap/1.0/\0"):
        return read_xmp(payload[29:])
    identifier = payload.split(b"\0")[0]
    return {"identifier": identifier.decode("ascii")} if re.fullmatch(rb"[\w ]{3,30}", identifier) else {}


def _webp(data: bytes, raw: bool) -> Iterator[Entry]:
    at = 12
    while at + 8 <= len(data):
        name = data[at : at + 4].decode("latin-1").strip()
        length = struct.unpack_from("<I", data, at + 4)[0]
        if at + 8 + length > len(data):
            raise ValueError(f"chunk {name} is longer than the file")
        payload = data[at + 8 : at + 8 + length]
        at += 8 + length + (length & 1)
        entry = _entry("chunk", name, payload, name in ("EXIF", "XMP", "ICCP"))
        if name == "EXIF":
            entry["data"] = read_exif(payload.removeprefix(b"Exif\0\0"))
        elif name == "XMP":
            entry["data"] = read_xmp(payload)
        yield _with_raw(entry, payload, raw)


def read_xmp(packet: bytes) -> dict[str, Any]:
    """An XMP packet; stable-diffusion.cpp's `sdcpp:parameters` on its own."""
    xml = _text(packet)
    found: dict[str, Any] = {"type": "XMP", "xml": xml}
    if parameters := _XMP_PARAMETERS.search(xml):
        found["parameters"] = unescape(parameters[1])
    return found


def read_exif(tiff: bytes) -> dict[str, Any]:
    """The tags of an EXIF block by name, those of its inner directories under `Exif` and `GPS`.

    A block that cannot be read is an `error`; the picture around it may be sound.
    """
    exif = Image.Exif()
    try:
        exif.load(b"Exif\0\0" + tiff)
        return _exif_tags(exif, tiff)
    except (SyntaxError, TypeError, ValueError, IndexError, struct.error) as error:
        return {"error": f"the EXIF block cannot be read ({error})"}


def _exif_tags(exif: Image.Exif, tiff: bytes) -> dict[str, Any]:
    big_endian = tiff[:2] == b"MM"
    inner = {IFD.Exif: "Exif", IFD.GPSInfo: "GPS"}
    found = {
        TAGS.get(tag, f"0x{tag:04X}"): _exif_value(tag, value, big_endian)
        for tag, value in exif.items()
        if tag not in inner
    }
    for directory, title in inner.items():
        names = GPSTAGS if title == "GPS" else TAGS
        if tags := exif.get_ifd(directory):
            found[title] = {
                names.get(tag, f"0x{tag:04X}"): _exif_value(tag, value, big_endian)
                for tag, value in tags.items()
            }
    return found


def _exif_value(tag: int, value: object, big_endian: bool) -> Any:  # noqa: ANN401
    if tag == Base.UserComment and isinstance(value, bytes):
        return _user_comment(value, big_endian)
    if isinstance(value, bytes):
        return _text(value) if value.isascii() else value[:64].hex(" ")
    if isinstance(value, tuple):
        return [_exif_value(0, item, big_endian) for item in value]
    if isinstance(value, IFDRational):
        return float(value) if value.denominator else None
    return value if isinstance(value, int | float | str) else None


def _user_comment(value: bytes, big_endian: bool) -> str:
    """UTF-16 in the block's byte order, says the standard; A1111's piexif is always big-endian."""
    text = value[8:]
    if not value.startswith(UNICODE_COMMENT):
        return _text(text if value[:8] in (b"ASCII\0\0\0", b"\0" * 8) else value)
    if text[:2] in (b"\xfe\xff", b"\xff\xfe"):
        return text.decode("utf-16", "replace")
    # most prompts begin with a Latin letter, whose high byte is 0
    high_first = text[:1] == b"\0" if b"\0" in text[:2] else big_endian
    return text.decode("utf-16-be" if high_first else "utf-16-le", "replace").rstrip("\0")
