"""README.md of an exported directory: all that a consumer in another language must know."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from tagger.bundle import Bundle
from tagger.calibration import FILE_NAME as CALIBRATION
from tagger.card import as_text
from tagger.config import Config, Preprocess
from tagger.drift import FILE_NAME as PROFILE
from tagger.exported import GOLDEN, MANIFEST, Manifest, TensorSpec, TitleSpec
from tagger.shelf import CARD, CONFIG
from tagger.systems.zero_shot import ClipZeroShot
from tagger.tokenizer import FILE_NAME as TOKENIZER
from tagger.trained_on import FILE_NAME as TRAINED_ON

_STORED = {
    "fp32": "computes in float32",
    "fp16": "computes in float16, the modality-wise attention and the heads in float32",
    "bf16": "holds its matrices in bfloat16 and computes in float32",
    "int8": "holds its matrices in 8 bits with a scale per row and computes in float32",
}


def write_export_card(bundle: Bundle, manifest: Manifest) -> str:
    """Markdown with Hugging Face metadata: files, tensors, preprocessing, how to check oneself."""
    head, body = split_card(bundle.path / CARD)
    tasks = as_text(", ".join(task.name for task in bundle.config.tasks))
    largest = max(a.confidence_difference for a in manifest.agreement)
    title = manifest.title
    lengths = "" if title.fixed_length else f" and `length` one from 1 to {title.context_length}"
    thresholds, temperatures = "", "The model is not calibrated: they are those of the network."
    if bundle.calibration is not None:
        thresholds = f"| `{CALIBRATION}` | thresholds of confidence that promise a precision |\n"
        temperatures = f"The temperatures of `{CALIBRATION}` are built into the graph."
    return f"""---
license: {license_of(head)}
library_name: tagger
pipeline_tag: image-classification
tags: [product-tagging, cma-clip, {manifest.format}]
---

# Product tagger as {manifest.format}: {tasks}

`{manifest.graph}` is the whole network of `{manifest.source.name}` in one graph; it \
{_STORED[manifest.precision]}. Made by tagger {manifest.tagger_version}, and checked against its \
source before it was written: probabilities differ by {largest:.1e} at most.

| file | holds |
|---|---|
| `{manifest.graph}` | the graph |
| `{CONFIG}` | tasks with their labels in the order of the outputs; `preprocess` |
| `{TOKENIZER}` | titles to ids, for the `tokenizers` library; special tokens and cutting included |
{thresholds}\
| `{PROFILE}`, `{TRAINED_ON}` | for `tagger eval`: what the model was fitted on, where it says so |
| `{GOLDEN}` | golden vectors: products with all inputs and expected outputs |
| `{MANIFEST}` | this page for programs; hashes of all files and of the source |

## Inputs

`batch` may be any number{lengths}, in each call another.

{_tensors(manifest.inputs)}

Missing modalities: `image_present` false, or `token_mask` false throughout, or both.

## Outputs

{_tensors(manifest.outputs)}

The label of a task is that of its largest probability; without a picture and without a title \
there is none. {temperatures}
{_trees(bundle.config)}
## Pictures

Decoding and resizing stand outside the graph, because no two runtimes resize alike; the golden \
vectors pin them. Scaling to 0..1 and normalising are inside. With Pillow:

{_numbered(_picture_steps(bundle.config.preprocess))}

A decoder or filter other than Pillow's gives other pixels: compare yours with `pixels` of the \
golden vectors. What differs by a few grey levels hardly moves an answer.

## Titles

{_numbered(_title_steps(manifest.title))}

## Check yourself

`{GOLDEN}` is a [safetensors](https://github.com/huggingface/safetensors) file: eight bytes with \
the length of a JSON header, little endian, the header, the tensors. It holds every input and \
output by name, for {manifest.agreement[0].num_products} rendered products. Of product i, \
`image_file.i` holds the bytes of its picture file and `title.i` its title in UTF-8; an absent \
one is not there.

1. Feed the stored inputs: the outputs must differ by no more than \
{manifest.limits.difference:g} from the stored ones, and be NaN where these are.
2. Make the inputs yourself from `image_file.i` and `title.i`: ids and masks must be equal.

## The source model

{body}"""


def write_towers_card(bundle: Bundle) -> str:
    """Markdown with Hugging Face metadata for towers that open_clip loads."""
    head, _ = split_card(bundle.path / CARD)
    name = bundle.config.architecture.open_clip
    return f"""---
license: {license_of(head)}
library_name: open_clip
pipeline_tag: zero-shot-image-classification
tags: [clip, product-tagging]
---

# Towers of {bundle.path.name}: {name}

Image and text tower of the product tagger `{bundle.path.name}`, for open_clip:

    model, _, preprocess = open_clip.create_model_and_transforms("local-dir:DIR")

{_PAIRED if isinstance(bundle.model, ClipZeroShot) else _UNPAIRED}
"""


_PAIRED = "They match pictures with texts, and `logit_scale` is what they learned or came with."
_UNPAIRED = (
    "Training fitted them to tell attributes of products, not to match pictures with texts; "
    "`logit_scale` has open_clip's initial value."
)


def split_card(path: Path) -> tuple[str, str]:
    """The YAML metadata and the text of a model card; empty where there is none."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    found = re.match(r"---\n(.*?\n)---\n+(.*)", text, re.DOTALL)
    return (found[1], found[2]) if found else ("", text)


def license_of(metadata: str) -> str:
    """The licence that a card names, `unknown` if it names none."""
    found = re.search(r"^license: *(\S+)", metadata, re.MULTILINE)
    return found[1] if found else "unknown"


def _in_a_cell(code: str) -> str:
    """Where code stands in a table, only "|" needs to be escaped, and only that can be."""
    return code.replace("|", r"\|")


def _tensors(specs: Sequence[TensorSpec]) -> str:
    rows = [
        f"| `{_in_a_cell(spec.name)}` | {spec.dtype} | ({', '.join(map(str, spec.shape))}) "
        f"| {spec.meaning} |"
        for spec in specs
    ]
    return "\n".join(["| name | type | shape | holds |", "|---|---|---|---|", *rows])


def _trees(config: Config) -> str:
    """What a consumer must know of tasks whose labels are paths, and of tasks that do not apply."""
    trees = [task for task in config.tasks if task.separator is not None]
    if not trees:
        return ""
    named = ", ".join(f"{as_text(task.name)} (`{task.separator}`)" for task in trees)
    text = f"""
The labels of {named} are paths, parted by what stands in brackets, and the outputs are those of \
the leaves: the probability of a node above is the sum of those of the leaves below it, which lie \
side by side. With a threshold, publish the deepest node on the way to the likeliest leaf that \
reaches it.
"""
    rule = config.applicability
    if rule is None:
        return text
    decides = as_text(rule.task)
    return f"""{text}
`applicability` in `{CONFIG}` says to which nodes of {decides} a task does not apply: where the \
likeliest leaf of {decides} is one of these or below, put out nothing for it.
"""


def _numbered(steps: Sequence[str]) -> str:
    return "\n".join(f"{number}. {step}" for number, step in enumerate(steps, 1))


def _picture_steps(preprocess: Preprocess) -> list[str]:
    height, width, fill = preprocess.height, preprocess.width, preprocess.fill
    kernel = preprocess.interpolation.upper()
    side = "min" if preprocess.resize == "longest" else "max"
    fit = {
        "squash": f"`image.resize(({width}, {height}), {kernel})`.",
        "shortest": f"`ImageOps.fit(image, ({width}, {height}), {kernel})`: the centre.",
        "longest": f"`scale = min({width} / image.width, {height} / image.height)`; resize to "
        "`(max(1, round(image.width * scale)), max(1, round(image.height * scale)))` with "
        f"{kernel}, and paste on {width} x {height} pixels of ({fill}, {fill}, {fill}) at half of "
        "the room that is left, rounded down.",
    }[preprocess.resize]
    return [
        f"Open the file; of a JPEG, with w, h = {width}, {height}, or the other way round where "
        f"its EXIF orientation is 5 to 8, and s = 2 * {side}(w / image.width, h / image.height), "
        "call `image.draft('RGB', (ceil(s * image.width), ceil(s * image.height)))` before reading "
        "pixels: it decodes at 1/2, 1/4 or 1/8 where that is enough.",
        "Take the first frame and turn it upright by its EXIF orientation.",
        "Of grey with more than 8 bits (modes I, F and those that begin with I;16), clip to "
        "0..65535, or 0..255 where the mode is I or F and no value is above 255, and scale that to "
        "0..255, rounded down: Pillow's own conversion clips instead.",
        f"Lay transparency on ({fill}, {fill}, {fill}); convert to 8-bit RGB.",
        f"{fit} Pillow's filters are antialiased.",
    ]


def _title_steps(title: TitleSpec) -> list[str]:
    cleaning = ", ".join(f"`{name}`" for name in title.cleaning)
    steps = [
        "A title of white space only, or that is not UTF-8, is absent.",
        "`tokenizers.Tokenizer.from_file('tokenizer.json').encode(title).ids` are its ids, "
        f"{title.context_length} at most.",
        f"Fill up with {title.pad_id}"
        + (f" to {title.fixed_length} ids." if title.fixed_length else " to the longest title."),
    ]
    if cleaning:
        steps.insert(
            1,
            f"Clean it as CLIP does, by the Python functions {cleaning}, in that order. That "
            "changes titles with HTML entities, wrongly decoded characters, curly quotes and the "
            "like; others may skip it.",
        )
    return steps
