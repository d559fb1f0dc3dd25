from __future__ import annotations

import io
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from darkroom.api.errors import RequestError
from darkroom.cli.metadata import read_report, text_lines
from darkroom.core.image_files import ImageFormat, encode_image

PICTURE = Image.new("RGB", (8, 8), "red")
TEXT = (
    "ein Käfer, 甲虫\nNegative prompt: blurry\n"
    "Steps: 2, CFG scale: 7.000000, Seed: 1, Size: 8x8, Version: darkroom 0.1.0"
)


def report_of(data: bytes, tmp_path: Path, **options: bool) -> dict[str, Any]:
    path = tmp_path / "picture"
    path.write_bytes(data)
    return read_report(path, **options)


def saved(format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    PICTURE.save(buffer, format, **options)
    return buffer.getvalue()


def chunk(name: bytes, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload)) + name + payload + struct.pack(">I", zlib.crc32(name + payload))


def png_with(*chunks: bytes) -> bytes:
    plain = saved("PNG")
    return plain[:33] + b"".join(chunks) + plain[33:]  # after the signature and IHDR


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    body = b"".join(
        name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2) for name, data in chunks
    )
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


@pytest.mark.parametrize("format", list(ImageFormat))
def test_our_own_pictures_are_read_back(format: ImageFormat, tmp_path: Path) -> None:
    parameters = report_of(encode_image(PICTURE, format, TEXT), tmp_path)["parameters"]
    assert parameters["prompt"] == "ein Käfer, 甲虫"
    assert parameters["negative_prompt"] == "blurry"
    assert (parameters["Steps"], parameters["Seed"]) == ("2", "1")


def test_the_png_of_stable_diffusion_cpp_holds_utf8_in_a_text_chunk(tmp_path: Path) -> None:
    data = png_with(chunk(b"tEXt", b"parameters\0" + TEXT.encode()))
    assert report_of(data, tmp_path)["parameters"]["prompt"] == "ein Käfer, 甲虫"


def test_the_jpeg_of_stable_diffusion_cpp_holds_a_comment(tmp_path: Path) -> None:
    payload = b"parameters\0" + TEXT.encode() + b"\0"
    plain = saved("JPEG")
    data = plain[:2] + b"\xff\xfe" + struct.pack(">H", len(payload) + 2) + payload + plain[2:]
    report = report_of(data, tmp_path)
    assert report["entries"][0]["marker"] == "COM"
    assert report["parameters"]["Version"] == "darkroom 0.1.0"


def test_the_webp_of_stable_diffusion_cpp_holds_xmp(tmp_path: Path) -> None:
    xmp = (
        '<?xpacket begin=""?><x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF><rdf:Description>'
        f"<sdcpp:parameters>{TEXT.replace('blurry', '&lt;b&gt; &amp; c')}</sdcpp:parameters>"
        "</rdf:Description></rdf:RDF></x:xmpmeta>"
    )
    data = riff((b"VP8 ", b"\0" * 9), (b"XMP ", xmp.encode()))
    assert report_of(data, tmp_path)["parameters"]["negative_prompt"] == "<b> & c"


def test_latin_1_is_what_the_png_standard_says(tmp_path: Path) -> None:
    data = png_with(chunk(b"tEXt", b"Comment\0" + "Käfer".encode("latin-1")))
    assert report_of(data, tmp_path)["entries"][0]["data"] == {"keyword": "Comment", "text": "Käfer"}


def test_compressed_texts_are_read(tmp_path: Path) -> None:
    info = PngInfo()
    info.add_text("parameters", TEXT, zip=True)
    info.add_text("Title", "t" * 100, zip=True)
    report = report_of(saved("PNG", pnginfo=info), tmp_path)
    assert report["parameters"]["prompt"] == "ein Käfer, 甲虫"
    assert report["entries"][1]["data"]["text"] == "t" * 100


def test_little_endian_comments_are_read_too(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif.endian = "<"
    exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + TEXT.encode("utf-16-le")
    assert report_of(saved("JPEG", exif=exif), tmp_path)["parameters"]["prompt"] == "ein Käfer, 甲虫"


def test_ascii_comments_and_other_tags_are_read(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0131] = "some program"
    exif[0x011A] = 72.5
    exif.get_ifd(0x8769)[0x9286] = b"ASCII\0\0\0a cat\nSteps: 3"
    report = report_of(saved("JPEG", exif=exif), tmp_path)
    assert report["parameters"] == {"prompt": "a cat", "negative_prompt": "", "Steps": "3"}
    (tags,) = [entry["data"] for entry in report["entries"] if "Software" in entry.get("data", {})]
    assert (tags["Software"], tags["XResolution"]) == ("some program", 72.5)


def test_the_graphs_of_comfyui_become_json(tmp_path: Path) -> None:
    info = PngInfo()
    info.add_text("prompt", json.dumps({"3": {"class_type": "KSampler", "inputs": {"seed": 5}}}))
    info.add_text("workflow", json.dumps({"nodes": []}))
    report = report_of(saved("PNG", pnginfo=info), tmp_path)
    assert report["entries"][0]["data"]["text"]["3"]["inputs"] == {"seed": 5}
    assert "parameters" not in report
    assert any("KSampler" in line for line in text_lines(report))


def test_a_broken_exif_block_does_not_hide_the_rest(tmp_path: Path) -> None:
    data = png_with(chunk(b"eXIf", b"MX broken"), chunk(b"tEXt", b"parameters\0a\nSteps: 1"))
    report = report_of(data, tmp_path)
    assert "cannot be read" in report["entries"][0]["data"]["error"]
    assert report["parameters"]["prompt"] == "a"


def test_structural_parts_are_listed_on_request(tmp_path: Path) -> None:
    data = encode_image(PICTURE, ImageFormat.PNG, "a\nSteps: 1")
    assert [entry["name"] for entry in report_of(data, tmp_path)["entries"]] == ["tEXt"]
    everything = report_of(data, tmp_path, structural=True)["entries"]
    assert [entry["name"] for entry in everything] == ["IHDR", "tEXt", "IDAT", "IEND"]
    assert everything[0]["data"]["width"] == 8


def test_first_bytes_are_shown_on_request(tmp_path: Path) -> None:
    data = png_with(chunk(b"abCd", bytes(range(100))))
    (entry,) = [
        e for e in report_of(data, tmp_path, raw=True, structural=True)["entries"] if e["name"] == "abCd"
    ]
    assert entry["raw_hex_preview"].startswith("00 01 02")
    assert entry["raw_hex_preview"].endswith("3e 3f ...")


def test_long_texts_are_cut_on_request(tmp_path: Path) -> None:
    report = report_of(encode_image(PICTURE, ImageFormat.PNG, "w" * 1000), tmp_path)
    assert max(map(len, text_lines(report, brief=True))) < 300
    assert max(map(len, text_lines(report))) > 1000


def test_a_picture_without_metadata_says_so(tmp_path: Path) -> None:
    assert "No metadata entries found." in text_lines(report_of(saved("PNG"), tmp_path))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "is empty"),
        (b"<html>", "is no PNG, JPEG or WebP picture"),
        (saved("PNG")[:-12], "IEND chunk is missing"),
        (saved("PNG")[:40], "is damaged"),
        (saved("JPEG")[:10], "is damaged"),
        (b"\xff\xd8\x00\x00\x00", "is damaged"),
        (b"RIFF\0\0\0\0WEBPVP8 \xff\xff\0\0", "is damaged"),
        (png_with(chunk(b"zTXt", b"k\0\0nonsense")), "compressed text cannot be read"),
    ],
)
def test_broken_files_are_named(data: bytes, says: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=says) as caught:
        report_of(data, tmp_path)
    assert str(caught.value).startswith(f"--image: '{tmp_path / 'picture'}'")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="No such file"):
        read_report(tmp_path / "none")


def test_lines_of_a_text_stay_under_their_key(tmp_path: Path) -> None:
    lines = "\n".join(text_lines(report_of(encode_image(PICTURE, ImageFormat.PNG, TEXT), tmp_path)))
    assert "    text: ein Käfer, 甲虫\n      Negative prompt: blurry\n      Steps: 2" in lines
