"""Which device to compute on, and whether it multiplies bf16 in hardware."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext

import torch

from tagger.errors import UsageError


def choose_device(name: str | None) -> torch.device:
    """`name`, or the first GPU, or the CPU.

    Raises:
        UsageError: `name` is not a device of this machine, or one that cannot be used.
    """
    wanted = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wanted)
        torch.zeros(1, device=device).tolist()  # of "meta" there is nothing to be had
    except torch.OutOfMemoryError as error:
        raise no_room(torch.device(wanted), "anything") from error
    except (RuntimeError, AssertionError) as error:
        there = "cpu, cuda" if torch.cuda.is_available() else "cpu"
        if name is None:
            reason = str(error).partition("\n")[0]
            raise UsageError(f"the GPU cannot be used: {reason}", "--device cpu") from error
        raise UsageError(
            f"--device {name!r} is not available here", f"this machine has: {there}"
        ) from error
    return device


def no_room(device: torch.device, for_what: str, hint: str = "") -> UsageError:
    """The error of a device whose memory cannot hold `for_what`; `hint` is what to try first."""
    elsewhere = "" if device.type == "cpu" else "compute elsewhere: --device cpu"
    ways = [hint, "close what else uses it", elsewhere]
    return UsageError(
        f"{for_what} needs more memory than {device} has free", "; or ".join(filter(None, ways))
    )


def has_bf16(device: torch.device) -> bool:
    """True where bf16 products run in hardware: then they are used in training."""
    if device.type == "cuda":
        with torch.cuda.device(device):  # it asks the current one
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        # Older versions of torch cannot tell, and compute in float32.
        capabilities: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    return False


def training_precision(device: torch.device) -> AbstractContextManager[object]:
    """Autocast to bf16 where the hardware has it, otherwise fp32."""
    if has_bf16(device):
        return torch.autocast(device.type, torch.bfloat16)
    return nullcontext()
