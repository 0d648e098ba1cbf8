"""A pretrained checkpoint from a folder or the hub: found, checked and read, frozen and without dropout.

A name on the hub may have a third part, the folder of one model of a pipeline: `owner/name/unet`.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, StrictDataclassError
from safetensors import SafetensorError
from torch import nn
from transformers.models.auto import modeling_auto

from deltacompose.backbone.quantization import QUANTISED, differentiable, loading_options
from deltacompose.cache.file_digests import WEIGHTS, file_digest
from deltacompose.errors import BadInput, quoted, unknown
from deltacompose.formats.files import is_folder
from deltacompose.plugins.checkpoint import Checkpoint
from deltacompose.study import machine
from deltacompose.study.config import SHARDED

__all__ = ["Checkpoint", "Manner", "class_name", "find", "kind_of", "read_config", "read_model", "read_tokenizer"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SPREAD = ("auto", "balanced", "balanced_low_0", "sequential")
"""Devices besides torch's own: how accelerate spreads the layers over several."""

ATTENTION = ("eager", "sdpa", "flash_attention_2")
CLASSES = {"encoder": "AutoModel", "decoder": "AutoModelForCausalLM", "encoder-decoder": "AutoModelForSeq2SeqLM"}
HEADS = {"mlm": "AutoModelForMaskedLM"}
"""The transformers class of each kind of backbone, and of an encoder with a head that was asked for."""

SAFETENSORS = "*.safetensors"
WANTED = ["*.json", SAFETENSORS, "*.txt", "*.model", "*.spm"]
UNWANTED = ["*.fp16*", "*.non_ema*"]
"""Variants of the weights in the same folder, as in diffusers' checkpoints; none is read."""

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model", "*.spm")


@dataclass(frozen=True)
class Manner:
    """How a model's weights are held, where, and how its attention is computed."""

    dtype: str | torch.dtype = "float32"
    device: str | torch.device | None = None
    attention: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.dtype, str) and self.dtype == "auto":
            object.__setattr__(self, "dtype", machine.suitable_dtype(None if self.device is None else str(self.device)))

    def options(self) -> dict[str, Any]:
        """Arguments of transformers' `from_pretrained`.

        Raises:
            BadInput: an unknown dtype, device or attention, or one that asks for what is not installed.
        """
        if self.attention is not None and self.attention not in ATTENTION:
            raise unknown("attention", self.attention, ATTENTION)
        few = isinstance(self.dtype, str) and self.dtype in QUANTISED
        if few and self.device == SHARDED:
            raise BadInput(
                f"a backbone in {self.dtype} cannot be sharded; take bfloat16, or spread it by device='auto'"
            )
        told: dict[str, Any] = loading_options(str(self.dtype)) if few else {"dtype": _dtype(self.dtype)}
        if self.device in SPREAD:
            told["device_map"] = self.device
        elif few:
            told["device_map"] = {"": self.place or torch.get_default_device()}
        return told | ({} if self.attention is None else {"attn_implementation": self.attention})

    @property
    def place(self) -> torch.device | None:
        """The device of the model; None if none or several are set."""
        device = "cpu" if self.device == SHARDED else self.device
        return None if device is None or device in SPREAD else _device(device)


def find(checkpoint: Checkpoint, weights: bool = True) -> Path:
    """The folder of a checkpoint, fetched from the hub if it has to be, and its weights checked.

    Args:
        weights: whether they must be there; if not, they are not fetched, and checked only if they are there.

    Raises:
        BadInput: there is no such folder and the hub's copy is not available, its weights are not in safetensors, or
            they are not those that the checkpoint promises.
    """
    location = checkpoint.location
    folder = Path(location).expanduser()
    if not is_folder(folder):
        folder = _fetched(location, weights)
    if not any((folder / name).is_file() for name in WEIGHTS):
        pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
        if pickles:
            raise BadInput(
                f"{location} has its weights only as pickles ({', '.join(pickles)}), which can run code when they are "
                "read; expected model.safetensors, which `model.save_pretrained(folder)` writes"
            )
        parts = sorted({path.parent.name for path in folder.glob("*/diffusion_pytorch_model*.safetensors*")})
        among = f"; it is a pipeline, whose parts {', '.join(parts)} are folders with a model each" if parts else ""
        if weights or among or not (folder / "config.json").is_file():
            raise BadInput(f"{folder} holds no model: it has no model.safetensors{among}")
    expected, file = checkpoint.sha256, folder / WEIGHTS[0]
    if expected and (weights or file.is_file()) and (digest := _sha256(file)) != expected:
        raise BadInput(f"{file} is not the file that was tested: its sha256 is {digest}, expected {expected}")
    return folder


def read_config(folder: Path) -> Any:
    """The configuration in a folder, with every dropout set to zero."""
    with clearly(folder, "configuration"):
        return without_dropout(transformers.AutoConfig.from_pretrained(folder))


def without_dropout(config: Any) -> Any:
    """The configuration, every one of its dropout rates set to zero."""
    for name, value in vars(config).items():
        if "drop" in name and isinstance(value, int | float) and not isinstance(value, bool):
            setattr(config, name, 0.0)
    return config


def kind_of(config: Any) -> str:
    """The kind of backbone that a configuration is of, from what it was saved as, else from what can be made of it."""
    if config.is_encoder_decoder:
        return "encoder-decoder"
    causal = modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    masked = modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    if any(name in masked.values() for name in config.architectures or ()):
        return "encoder"
    if any(name in causal.values() for name in config.architectures or ()):
        return "decoder"
    return "decoder" if config.model_type in causal and config.model_type not in masked else "encoder"


def class_name(kind: str, head: str | None) -> str:
    """The transformers class that makes a kind of backbone, with a head that was asked for."""
    if kind not in CLASSES:
        raise BadInput(f"a table of the kind {kind} serves models of diffusers, and this one is of transformers")
    if head is None:
        return CLASSES[kind]
    if head not in HEADS:
        raise unknown("head", head, HEADS)
    if kind != "encoder":
        raise BadInput(f"head={head!r} is for encoders; this backbone is of the kind {kind}")
    return HEADS[head]


def read_model(folder: Path, config: Any, maker: str, manner: Manner) -> Any:
    """The model in a folder: frozen, in evaluation mode, its dropout zero.

    Args:
        maker: the name of the transformers class that reads it.

    Raises:
        BadInput: the files cannot be read, or lack weights, so that random ones would stand in for them.
    """
    told, place = manner.options(), manner.place
    with clearly(folder, "model"), quietly():
        model, report = getattr(transformers, maker).from_pretrained(
            folder, config=config, use_safetensors=True, output_loading_info=True, **told
        )
    missing = sorted(report["missing_keys"])
    if missing and all(name.startswith("pooler.") for name in missing):
        model.pooler = None  # BERT without its pooler is BERT; with a random one it has no fingerprint
    elif missing:
        raise BadInput(
            f"{folder} has no weights for {len(missing)} tensors of {type(model).__name__}, among them {missing[0]}; "
            f"it was saved as {', '.join(config.architectures or ['an unknown class'])}"
        )
    return still(model if place is None or "device_map" in told else model.to(place))


def still(model: Any) -> Any:
    """The model frozen, in evaluation mode, its dropout zero."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    differentiable(model)
    return model.requires_grad_(False).eval()


def read_tokenizer(folder: Path) -> Any:
    """The tokenizer in a folder; one without a padding token pads with its end-of-sequence token."""
    if not any(path for pattern in VOCABULARIES for path in folder.glob(pattern)):
        raise BadInput(f"{folder} holds no tokenizer; give one by tokenizer=, as a folder or as a tokenizer in hand")
    with clearly(folder, "tokenizer"), quietly():
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    if tokenizer.pad_token is None and tokenizer.eos_token is not None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _fetched(name: str, weights: bool) -> Path:
    """The snapshot of a model on the hub, or of one part of a pipeline; from the cache where there is no network."""
    match = re.fullmatch(r"(\w[\w.-]*(?:/\w[\w.-]*)?)(/\w[\w.-]*)?", name)
    if match is None:
        raise BadInput(
            f"no folder {quoted(name)}, and it is not a name on the Hugging Face hub, such as google-t5/t5-small"
        )
    repository, part = match[1], (match[2] or "")[1:]
    patterns = WANTED if weights else [pattern for pattern in WANTED if pattern != SAFETENSORS]
    wanted = [f"{part}/{pattern}" for pattern in patterns] if part else patterns
    try:
        with quietly():
            return Path(snapshot_download(repository, allow_patterns=wanted, ignore_patterns=UNWANTED), part)
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise BadInput(
            f"no backbone {name!r}: it is not a folder, the cache {constants.HF_HUB_CACHE} has no copy, and the hub "
            f"did not give it ({type(error).__name__}); where there is a network run `hf download {repository}`, or "
            "`deltacompose prefetch` for all of a study, take its cache along, and say where it lies by HF_HOME"
        ) from error


def _dtype(dtype: str | torch.dtype) -> torch.dtype:
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype not in DTYPES:
        raise unknown("dtype", dtype, ["auto", *DTYPES, *QUANTISED])
    return DTYPES[dtype]


def _device(device: str | torch.device) -> torch.device:
    """A device that this machine has."""
    try:
        usable = torch.device(device)
        torch.empty(0, device=usable)
    except (RuntimeError, AssertionError) as error:
        here = ["cpu", *(f"cuda:{k}" for k in range(torch.cuda.device_count()))]
        reason = str(error).splitlines()[0]
        raise BadInput(
            f"no device {str(device)!r} here ({reason}); devices: {', '.join([*here, *SPREAD, SHARDED])}"
        ) from None
    return usable


def _sha256(path: Path) -> str:
    if not path.is_file():
        raise BadInput(f"{path} does not exist, so its sha256 cannot be checked")
    return file_digest(path)


_DAMAGES = (OSError, ValueError, RuntimeError, LookupError, TypeError, AttributeError, ImportError)
"""Exceptions that transformers raises for a file whose content has an unexpected type."""


@contextlib.contextmanager
def clearly(folder: Path, what: str) -> Iterator[None]:
    """Turns what transformers raises for damaged files into one sentence."""
    try:
        yield
    except (*_DAMAGES, SafetensorError, StrictDataclassError) as error:
        reason = " ".join(str(error).split()[:60])
        raise BadInput(f"the {what} in {folder} cannot be read: {reason}") from error


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Without transformers' progress bars and reports: what matters in them is checked here."""
    level, bars = transformers.logging.get_verbosity(), transformers.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        transformers.logging.set_verbosity(level)
        if bars:
            transformers.logging.enable_progress_bar()  # type: ignore[no-untyped-call]
