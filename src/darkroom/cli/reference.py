"""Writes docs/cli.md from the option declarations: `python -m darkroom.cli.reference > docs/cli.md`."""

from __future__ import annotations

import sys

from darkroom.api.help import table
from darkroom.cli.options import SECTIONS

_HEAD = """\
# sd-cli

<!-- Made by `python -m darkroom.cli.reference > docs/cli.md`; edit the declarations, not this page. -->

`sd-cli` draws pictures from a prompt, says how a picture was made, or converts a model
([convert.md](convert.md)). It understands stable-diffusion.cpp's options; without `--model` it draws with
the built-in model.

```
sd-cli -p "a red circle on a blue background"
sd-cli -m model.safetensors -p "a cat" -i photo.png --strength 0.6 -o cat.jpg
sd-cli -m model.safetensors -p "a dog" -b 4 -o dog_%02d.png
sd-cli -M metadata --image cat.jpg
sd-cli -M convert -m model.safetensors --type q8_0 -o model.gguf
```

## How the command line is read

- An option is matched whole: there is no `--steps=20`, no `--st` and no `-vb 2`. The value is always the
  next argument, even where it begins with a dash.
- Of a repeated option the last value counts. Options marked "joined with commas" collect their values
  instead.
- A mistake ends with `error: ...` and exit code 1 before any model file is opened. `--help` and
  `--version` end the reading where they stand.
- Exit codes: 0 done, 1 an error, 130 stopped with Ctrl+C. The first Ctrl+C stops at the next step, a
  second one at once. A picture appears under its name only when it is complete.
- Standard output carries what a program may want to read (help, version, devices, metadata); progress,
  log and errors go to standard error.

## Names of the pictures

`--output` names the picture; folders that are missing are made. The ending chooses the format: `.png`, `.jpg`
(`.jpeg`, `.jpe`) or `.webp`, the last two at quality 90; `.png` is added to any other name.

With `--batch-count` above 1 the pictures are `out_0.png`, `out_1.png` and so on, counted from
`--output-begin-idx`. `%d` or `%03d` in the name becomes that number instead; `%%` is a percent sign then.

## Metadata in pictures

Every picture holds the text `parameters` that A1111 and related programs read: the prompt, the negative
prompt, and one line of settings in stable-diffusion.cpp's order. `--disable-image-metadata` leaves it
out.

| format | written as | also read |
| --- | --- | --- |
| PNG | text chunk `parameters` (iTXt where ASCII does not suffice) | tEXt in UTF-8, zTXt, eXIf |
| JPEG | EXIF UserComment in UTF-16, as A1111 does | the comment `parameters` of stable-diffusion.cpp |
| WebP | EXIF UserComment in UTF-16, as A1111 does | the XMP packet of stable-diffusion.cpp |

`-M metadata --image FILE` prints what a file holds, ComfyUI's `prompt` and `workflow` included, and takes
a `parameters` text apart.
"""


def reference() -> str:
    """The page, in Markdown."""
    return "\n".join([_HEAD, *(line for section in SECTIONS for line in table(section))])


if __name__ == "__main__":
    sys.stdout.write(reference())
