"""The spellings of Wan 2.1's and Qwen-Image's autoencoder; they lead to Wan's own names.

Diffusers' names are those of its AutoencoderKLWan and AutoencoderKLQwenImage. GGUF has no tensors of five
axes: stable-diffusion.cpp, which writes such files, folds the first two into one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from darkroom.weights.keys import Derived, KeyRules, Rename, Rule
from darkroom.weights.recipes import Recipe, Recipes
from darkroom.weights.spellings import VAE, VAE_PLACES

_VAE = r"^(first_stage_model\."
_BLOCK = _VAE + r"(?:en|de)coder\.(?:downsamples|upsamples|middle)\.\d+\.)"

_CONVOLUTION = re.compile(
    _VAE + r"(?:conv[12]|(?:en|de)coder\.(?:conv1|head\.2|"
    r"(?:downsamples|upsamples|middle)\.\d+\.(?:residual\.[26]|shortcut|time_conv)))\.)weight$"
)
_UP_RESNET = re.compile(_VAE + r"decoder\.)up_blocks\.(\d+)\.resnets\.(\d+)\.")


@dataclass(frozen=True)
class UnfoldConvolutions:
    """Gives the weights of causal convolutions their five axes (out, in, t, h, w) back.

    (out * in, t, h, w) is how GGUF has them; (out, in, h, w) have files that were cut down to what pictures
    need. The bias tells one from the other.
    """

    def apply(self, recipes: Recipes) -> Recipes:
        """Reshapes every such weight of four axes."""
        return {name: self._unfolded(name, recipe, recipes) for name, recipe in recipes.items()}

    def _unfolded(self, name: str, recipe: Recipe, recipes: Recipes) -> Recipe:
        match = _CONVOLUTION.match(name)
        bias = recipes.get(f"{match[1]}bias") if match else None
        if bias is None or len(recipe.shape) != 4:
            return recipe
        (out, *_), (rows, *rest) = bias.shape, recipe.shape
        if rows == out:
            return replace(recipe, shape=(out, rest[0], 1, *rest[1:]))
        return replace(recipe, shape=(out, rows // out, *rest)) if rows % out == 0 else recipe


def _from_diffusers(shapes: Mapping[str, tuple[int, ...]]) -> tuple[Rule, ...]:
    """Wan numbers the blocks of all decoder levels through; KL autoencoders of diffusers stay as they are."""
    if len(shapes.get(f"{VAE}decoder.conv_in.weight", ())) != 5:
        return ()
    blocks = 1 + max((int(match[3]) for name in shapes if (match := _UP_RESNET.match(name))), default=-1)

    def level(match: re.Match[str]) -> str:
        number = int(match[2]) * (blocks + 1) + (int(match[4]) if match[3] == "resnets" else blocks)
        return f"{match[1]}upsamples.{number}."

    return (
        Rename(_VAE + r")quant_conv\.", r"\1conv1."),
        Rename(_VAE + r")post_quant_conv\.", r"\1conv2."),
        Rename(_VAE + r"(?:en|de)coder\.)conv_in\.", r"\1conv1."),
        Rename(_VAE + r"(?:en|de)coder\.)norm_out\.", r"\1head.0."),
        Rename(_VAE + r"(?:en|de)coder\.)conv_out\.", r"\1head.2."),
        Rename(_VAE + r"encoder\.)down_blocks\.", r"\1downsamples."),
        Rename(_VAE + r"decoder\.)up_blocks\.(\d+)\.(resnets|upsamplers)\.(\d+)\.", level),
        Rename(_VAE + r"(?:en|de)coder\.)mid_block\.resnets\.0\.", r"\1middle.0."),
        Rename(_VAE + r"(?:en|de)coder\.)mid_block\.attentions\.0\.", r"\1middle.1."),
        Rename(_VAE + r"(?:en|de)coder\.)mid_block\.resnets\.1\.", r"\1middle.2."),
        Rename(_BLOCK + r"norm1\.", r"\1residual.0."),
        Rename(_BLOCK + r"conv1\.", r"\1residual.2."),
        Rename(_BLOCK + r"norm2\.", r"\1residual.3."),
        Rename(_BLOCK + r"conv2\.", r"\1residual.6."),
        Rename(_BLOCK + r"conv_shortcut\.", r"\1shortcut."),
    )


WAN_VAE = KeyRules(
    (
        VAE_PLACES,
        Derived(_from_diffusers),
        UnfoldConvolutions(),
    )
)
