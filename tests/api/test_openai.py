"""OpenAI's requests and answers as data, against the types of the openai package itself."""

from __future__ import annotations

import types
import typing
from typing import Any

import openai.types as sdk
import pytest
from openai.types import image_create_variation_params, image_edit_params, image_generate_params
from pydantic import BaseModel

from darkroom.api.names import SampleMethod, Scheduler
from darkroom.api.openai import (
    CompletedEvent,
    ErrorObject,
    FieldError,
    ImageData,
    ImageEditRequest,
    ImageGenerateRequest,
    ImageRequest,
    ImagesResponse,
    ImageVariationRequest,
    ModelFacts,
    PartialImageEvent,
    Usage,
    parse,
    to_generation,
)
from darkroom.api.request import GenerationRequest

FACTS = ModelFacts(width=512, height=512, steps=20, size_multiple=8, smallest=64, largest=2048)
USAGE = Usage.of(text=7, images_in=5, images_out=4)


def drawn(model: type[ImageRequest] = ImageGenerateRequest, /, **fields: object) -> GenerationRequest:
    """What the engine is asked for; `prompt` is given where the model needs one."""
    if model is not ImageVariationRequest:
        fields = {"prompt": "a cat", **fields}
    return to_generation(parse(model, fields).request, FACTS, GenerationRequest())


def refusal(model: type[ImageRequest] = ImageGenerateRequest, /, **fields: object) -> FieldError:
    with pytest.raises(FieldError) as caught:
        drawn(model, **fields)
    return caught.value


def names_of(params: object) -> set[str]:
    """The fields of a TypedDict of the SDK, and of those it builds on."""
    return set(typing.get_type_hints(params, include_extras=False))


def known(model: type[ImageRequest], name: str) -> bool:
    """Whether a field is one of the model's own, whatever its value."""
    try:
        return name not in parse(model, {"prompt": "a cat", name: "1"}).ignored
    except FieldError as error:
        return error.param.partition(".")[0] == name


@pytest.mark.parametrize(
    ("model", "params", "files"),
    [
        (ImageGenerateRequest, image_generate_params.ImageGenerateParamsStreaming, set()),
        (ImageEditRequest, image_edit_params.ImageEditParamsStreaming, {"image", "mask", "markup"}),
        (ImageVariationRequest, image_create_variation_params.ImageCreateVariationParams, {"image"}),
    ],
)
def test_every_field_of_the_sdk_is_known(model: type[ImageRequest], params: object, files: set[str]) -> None:
    fields = names_of(params) - files
    assert fields
    assert [name for name in sorted(fields) if not known(model, name)] == []


def literals(hint: object) -> list[object]:
    """All values of the Literals inside a type."""
    if typing.get_origin(hint) is typing.Literal:
        return list(typing.get_args(hint))
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return [value for part in typing.get_args(hint) for value in literals(part)]
    return []


def refused_literals(model: type[ImageRequest], params: object) -> set[tuple[str, object]]:
    """Values that the SDK's types allow and that are refused here."""
    refused = set[tuple[str, object]]()
    for name, hint in typing.get_type_hints(params).items():
        for value in literals(hint):
            try:
                parse(model, {"prompt": "a cat", name: value})
            except FieldError as error:
                refused.add((error.param, value))
    return refused


def test_literals_of_the_sdk_are_accepted_or_refused_by_name() -> None:
    hopeless = {("background", "transparent"), ("output_format", "gif"), ("output_format", "svg")}
    generate = image_generate_params.ImageGenerateParamsStreaming
    assert refused_literals(ImageGenerateRequest, generate) == hopeless
    assert refused_literals(ImageEditRequest, image_edit_params.ImageEditParamsStreaming) == hopeless
    variation = image_create_variation_params.ImageCreateVariationParams
    assert refused_literals(ImageVariationRequest, variation) == set()


RESPONSE = ImagesResponse(
    created=1, data=[ImageData(b64_json="aa", seed=3)], output_format="png", size="8x8", usage=USAGE
)
PICTURE: dict[str, Any] = {"b64_json": "aa", "created_at": 1, "output_format": "webp", "size": "8x8"}


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (RESPONSE, sdk.ImagesResponse),
        (
            CompletedEvent(type="image_generation.completed", usage=USAGE, **PICTURE),
            sdk.ImageGenCompletedEvent,
        ),
        (
            PartialImageEvent(type="image_generation.partial_image", partial_image_index=2, **PICTURE),
            sdk.ImageGenPartialImageEvent,
        ),
        (CompletedEvent(type="image_edit.completed", usage=USAGE, **PICTURE), sdk.ImageEditCompletedEvent),
        (
            PartialImageEvent(type="image_edit.partial_image", partial_image_index=0, **PICTURE),
            sdk.ImageEditPartialImageEvent,
        ),
    ],
)
def test_answers_are_those_of_the_sdk(
    ours: ImagesResponse | CompletedEvent | PartialImageEvent, theirs: type[BaseModel]
) -> None:
    body = ours.body()
    read = theirs.model_validate(body)
    required = {name for name, field in theirs.model_fields.items() if field.is_required()}
    assert required <= set(body)
    assert read.model_dump(mode="json", exclude_none=True) == body


def test_usage_adds_up() -> None:
    assert (USAGE.input_tokens, USAGE.output_tokens, USAGE.total_tokens) == (12, 4, 16)


def test_error_object_has_its_four_fields() -> None:
    body = ErrorObject(message="no", param="n", code="invalid_value").body()
    assert body["error"] == {
        "message": "no", "type": "invalid_request_error", "param": "n", "code": "invalid_value",
    }  # fmt: skip
    assert ErrorObject(message="no", details=[1]).body()["error"]["details"] == [1]


def test_empty_is_unset() -> None:
    names = (*ImageGenerateRequest.model_fields, "sampler", "lora", "foo")
    empty = dict.fromkeys((name for name in names if name != "prompt"), "")
    assert drawn(**empty) == drawn()
    assert parse(ImageGenerateRequest, {"prompt": "a", **empty}).ignored == ()
    assert drawn(lora=[], n=None, svg={}) == drawn()


def test_texts_of_a_form_become_numbers() -> None:
    request = drawn(ImageEditRequest, n="2", steps="7", cfg_scale="1.5", vae_tiling="true", strength="0.25")
    assert (request.batch_count, request.steps, request.cfg_scale) == (2, 7, 1.5)
    assert (request.vae_tiling, request.strength) == (True, 0.25)


@pytest.mark.parametrize(
    ("names", "value", "field", "expected"),
    [
        (("steps", "num_inference_steps"), 5, "steps", 5),
        (("cfg_scale", "guidance_scale"), 3, "cfg_scale", 3.0),
        (("guidance", "distilled_guidance"), 3.5, "guidance", 3.5),
        (
            ("sampler", "sample_method", "sampling_method"),
            "euler_a",
            "sampling_method",
            SampleMethod.EULER_A,
        ),
        (("scheduler",), "normal", "scheduler", Scheduler.DISCRETE),
        (("seed",), 0, "seed", 0),
        (("negative_prompt",), "blur", "negative_prompt", "blur"),
        (("clip_skip",), 2, "clip_skip", 2),
        (("flow_shift",), 3, "flow_shift", 3.0),
        (("vae_tiling", "tiling"), True, "vae_tiling", True),
    ],
)
def test_extensions_reach_the_engine(
    names: tuple[str, ...], value: object, field: str, expected: object
) -> None:
    for name in names:
        assert getattr(drawn(**{name: value}), field) == expected


def test_unknown_fields_are_named_or_refused() -> None:
    fields = {"prompt": "a cat", "foo": 1, "hires": True}
    assert parse(ImageGenerateRequest, fields).ignored == ("foo", "hires")
    assert refusal(foo=1, strict=True).code == "unknown_parameter"


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"prompt": ""}, "prompt", "missing_required_parameter"),
        ({"prompt": 5}, "prompt", "invalid_type"),
        ({"prompt": "x" * 32_001}, "prompt", "string_above_max_length"),
        ({"n": 0}, "n", "integer_below_min_value"),
        ({"n": 11}, "n", "integer_above_max_value"),
        ({"n": "two"}, "n", "invalid_type"),
        ({"n": 1.5}, "n", "invalid_type"),
        ({"size": "large"}, "size", "invalid_value"),
        ({"size": "500x300"}, "size", "invalid_value"),
        ({"size": "32x32"}, "size", "invalid_value"),
        ({"size": "4096x4096"}, "size", "invalid_value"),
        ({"quality": "best"}, "quality", "invalid_value"),
        ({"background": "transparent"}, "background", "unsupported_value"),
        ({"output_format": "gif"}, "output_format", "unsupported_value"),
        ({"output_format": "svg"}, "output_format", "unsupported_value"),
        ({"output_format": "bmp"}, "output_format", "invalid_value"),
        ({"output_compression": 101}, "output_compression", "integer_above_max_value"),
        ({"output_compression": 50}, "output_compression", "unsupported_parameter"),
        ({"response_format": "file"}, "response_format", "invalid_value"),
        ({"partial_images": 4, "stream": True}, "partial_images", "integer_above_max_value"),
        ({"partial_images": 2}, "partial_images", "unsupported_parameter"),
        ({"stream": "perhaps"}, "stream", "invalid_type"),
        ({"frame_count": 3}, "frame_count", "unsupported_parameter"),
        ({"svg": {"model": "m"}}, "svg", "unsupported_parameter"),
        ({"lora": [{"name": "a", "scale": 1}]}, "lora", "unsupported_parameter"),
        ({"sampler": "magic"}, "sampler", "invalid_value"),
        ({"cfg_scale": "nan"}, "cfg_scale", "invalid_value"),
        ({"cfg_scale": "inf"}, "cfg_scale", "invalid_value"),
        ({"strength": 1.5}, "strength", "decimal_above_max_value"),
        ({"seed": 2**63}, "seed", "integer_above_max_value"),
        ({"num_inference_steps": 0}, "num_inference_steps", "integer_below_min_value"),
    ],
)
def test_what_is_wrong_is_refused_by_name(fields: dict[str, Any], param: str, code: str) -> None:
    error = refusal(**fields)
    assert (error.param, error.code) == (param, code)
    assert str(error).startswith(f"{param}: ")


def test_a_refused_size_names_one_that_works() -> None:
    message = str(refusal(size="500x300"))
    assert "multiples of 8 from 64 to 2048" in message
    drawn(size=message.partition("for example ")[2].partition(",")[0])


def test_sizes() -> None:
    assert (drawn(size="320x256").width, drawn(size="320x256").height) == (320, 256)
    for auto in ("auto", "AUTO", "", None):
        assert drawn(size=auto).width is None


@pytest.mark.parametrize(
    ("quality", "steps"),
    [("low", 10), ("medium", 20), ("high", 30), ("xhigh", 40), ("max", 60), ("standard", 20), ("hd", 30)],
)
def test_quality_is_a_share_of_the_usual_steps(quality: str, steps: int) -> None:
    assert drawn(quality=quality).steps == steps
    assert drawn(quality=quality, steps=3).steps == 3
    assert drawn(quality="auto").steps is None


def test_quality_counts_from_the_servers_own_steps() -> None:
    request = parse(ImageGenerateRequest, {"prompt": "a", "quality": "low"}).request
    assert to_generation(request, FACTS, GenerationRequest(steps=8)).steps == 4


def test_seeds_are_drawn_unless_somebody_names_one() -> None:
    request = parse(ImageGenerateRequest, {"prompt": "a"}).request
    assert to_generation(request, FACTS, GenerationRequest()).seed < 0
    assert to_generation(request, FACTS, GenerationRequest(seed=5)).seed == 5
    variation = parse(ImageVariationRequest, {}).request
    assert to_generation(variation, FACTS, GenerationRequest(seed=5), first_image=(64, 64)).seed < 0


@pytest.mark.parametrize(
    ("first", "size"),
    [((512, 512), (512, 512)), ((300, 201), (304, 200)), ((4000, 2000), (1448, 728)), ((10, 30), (64, 64))],
)
def test_auto_is_the_first_images_size_as_the_model_allows_it(
    first: tuple[int, int], size: tuple[int, int]
) -> None:
    request = parse(ImageEditRequest, {"prompt": "a"}).request
    made = to_generation(request, FACTS, GenerationRequest(width=128), first_image=first)
    assert (made.width, made.height) == size
    FACTS.check(*size)


def test_a_model_that_looks_at_references_chooses_its_own_size() -> None:
    facts = ModelFacts(512, 512, 20, 8, 64, 2048, takes_references=True)
    request = parse(ImageEditRequest, {"prompt": "a"}).request
    made = to_generation(request, facts, GenerationRequest(width=128, height=128), first_image=(300, 300))
    assert (made.width, made.height) == (None, None)


def test_json_edits() -> None:
    url = "data:image/png;base64,AAAA"
    for images in ([{"image_url": url}], [url], [{"image_url": {"url": url}}]):
        request = parse(ImageEditRequest, {"prompt": "a", "images": images}).request
        assert [image.image_url for image in request.input_images] == [url]
    assert parse(ImageEditRequest, {"prompt": "a", "image": url}).request.input_images[0].image_url == url
    both = {"image_url": url, "file_id": "f"}
    assert refusal(ImageEditRequest, images=[both]).param == "images.0"
    assert refusal(ImageEditRequest, images=[{}]).param == "images.0"
    assert refusal(ImageEditRequest, images=[url] * 17).code == "array_above_max_length"


@pytest.mark.parametrize("body", [None, [], "text", 5])
def test_a_body_is_an_object(body: object) -> None:
    with pytest.raises(FieldError, match="object"):
        parse(ImageGenerateRequest, body)
