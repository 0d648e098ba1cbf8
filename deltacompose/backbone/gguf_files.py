"""Models in GGUF files, dequantised once into a folder of safetensors in the user's cache.

The file is read by the `gguf` package and by transformers, which know the names and layouts of its tensors. Nothing of
a GGUF file is executed: it holds numbers, texts and a vocabulary.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor

from deltacompose.backbone.pretrained import Checkpoint, clearly, quietly
from deltacompose.cache.file_digests import cache_folder, file_digest
from deltacompose.errors import BadInput

SUFFIX = ".gguf"
LAYOUT = 1
"""Version of what a cached folder holds; a change of it dequantises anew."""

SOURCE = "source.json"
"""The file of a cached folder that says what it was made of; written last."""


def is_gguf(name: str) -> bool:
    """Whether a backbone's name is the path of a GGUF file."""
    return Path(name).suffix.lower() == SUFFIX and Path(name).expanduser().is_file()


def dequantised(path: str | Path, sha256: str = "") -> Checkpoint:
    """The model of a GGUF file as a folder of float32 safetensors with its tokenizer.

    The folder lies in the user's cache (`DELTACOMPOSE_CACHE`) under the digest of the file. It is written next to its
    final place and renamed, so an interrupted conversion leaves nothing that is read. `Checkpoint.sha256` is the digest
    of the weights as they were written.

    Args:
        sha256: what the file must hash to; "" where that is not checked.

    Raises:
        BadInput: the file is another one, is not GGUF, has an architecture or a type of tensor that cannot be read, or
            the packages `gguf` and `accelerate` are missing.
    """
    path = Path(path).expanduser()
    try:
        digest = file_digest(path)
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror or error}") from None
    if sha256 and digest != sha256:
        raise BadInput(f"{path} is not the file that was tested: its sha256 is {digest}, expected {sha256}")
    folder = cache_folder() / "gguf" / f"{digest[:32]}-{LAYOUT}"
    written = _written(folder)
    if written is None:
        _check_types(path)
        with _replacing(folder) as draft:
            _convert(path, draft, digest)
        written = _written(folder)
    if written is None:
        raise BadInput(f"{folder} was changed while {path.name} was dequantised into it; remove it and load again")
    return Checkpoint(str(folder), written)


def _written(folder: Path) -> str | None:
    """The digest of the weights in a cached folder; None where there is no complete one."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return str(json.loads((folder / SOURCE).read_text(encoding="utf-8"))["weights"])
    return None


@contextlib.contextmanager
def _replacing(folder: Path) -> Iterator[Path]:
    """A new folder next to a path, renamed to it on leaving; where another process was first, its folder is kept."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(mkdtemp(prefix=".", dir=folder.parent))
    try:
        yield draft
        draft.chmod(0o755)
        with contextlib.suppress(OSError):
            os.rename(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _package() -> Any:
    try:
        import accelerate  # noqa: F401, which transformers needs to read a GGUF file
        import gguf
    except ImportError as error:
        raise BadInput(
            f"reading a GGUF file needs the package {error.name}: pip install 'deltacompose[gguf]'"
        ) from None
    return gguf


def _check_types(path: Path) -> None:
    """Refuses a file with a tensor of a type that cannot be dequantised, before any work."""
    gguf = _package()
    import numpy as np

    try:
        reader = gguf.GGUFReader(path)
    except (ValueError, OSError, LookupError, OverflowError, MemoryError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise BadInput(f"{path} is not a GGUF file that can be read ({type(error).__name__}: {reason})") from None
    for kind, name in {tensor.tensor_type: tensor.name for tensor in reversed(reader.tensors)}.items():
        size = gguf.GGML_QUANT_SIZES[kind][1]
        try:
            gguf.dequantize(np.zeros((1, size), np.uint8).view(_held_as(gguf, kind)), kind)
        except NotImplementedError:
            raise BadInput(
                f"{path} holds {name[:100]} as {kind.name}, which cannot be dequantised; export the model as F16, "
                "BF16, Q8_0, Q6_K or Q4_K"
            ) from None


def _held_as(gguf: Any, kind: Any) -> str:
    """The numpy type in which the reader gives tensors of a type."""
    types = gguf.GGMLQuantizationType
    return {types.F32: "float32", types.F16: "float16"}.get(kind, "uint8")


def _convert(path: Path, folder: Path, digest: str) -> None:
    """Writes the model, its configuration and its tokenizer, as `from_pretrained` reads them."""
    where: dict[str, Any] = {"gguf_file": path.name}
    with clearly(path, "model"), quietly():
        tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent, **where)
        config = transformers.AutoConfig.from_pretrained(path.parent, **where)
        maker = transformers.AutoModelForSeq2SeqLM if config.is_encoder_decoder else transformers.AutoModelForCausalLM
        model = maker.from_pretrained(path.parent, dtype=torch.float32, **where)
    with clearly(path, "tokenizer"):
        tokenizer.save_pretrained(folder)
    config = model.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config.architectures = [type(model).__name__]
    config.save_pretrained(folder)
    if model.can_generate():
        model.generation_config.save_pretrained(folder)
    weights = folder / "model.safetensors"
    save_file(dict(_untied(model.state_dict(keep_vars=True))), weights, metadata={"format": "pt"})
    source = {"file": path.name, "sha256": digest, "weights": _sha256(weights)}
    (folder / SOURCE).write_text(json.dumps(source), encoding="utf-8")


def _untied(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Every tensor once, under the first of its names."""
    seen: set[int] = set()
    for name, tensor in sorted(tensors.items(), key=lambda item: ("lm_head" in item[0], item[0])):
        if id(tensor) not in seen:
            seen.add(id(tensor))
            yield name, tensor.detach().contiguous()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
