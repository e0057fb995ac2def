"""The one place that knows torch. It never imports torch: where nobody has, there are no tensors to care for."""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from journal.errors import ResumeImpossible


def loaded() -> Any:
    """The module torch if the program has imported it, else None."""
    torch = sys.modules.get("torch")
    # A half imported torch (another thread is at it) has no tensors yet.
    return torch if hasattr(torch, "Tensor") else None


def is_tensor(value: Any) -> bool:
    """Is `value` a torch tensor?"""
    torch = loaded()
    return torch is not None and isinstance(value, torch.Tensor)


def take_apart(tensor: Any) -> tuple[str, list[int], memoryview]:
    """(dtype's name, shape, the raw items in C order). Raises `TypeError` for sparse and other special layouts."""
    torch = loaded()
    if any((tensor.layout != torch.strided, tensor.is_quantized)):
        raise TypeError(f"a torch tensor of layout {tensor.layout} and dtype {tensor.dtype}, not a plain dense one")
    flat = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous().reshape(-1)
    # numpy has no bfloat16; as bytes every dtype is the same.
    raw: NDArray[np.uint8] = flat.view(torch.uint8).numpy() if flat.numel() else np.empty(0, np.uint8)
    return str(tensor.dtype).removeprefix("torch."), list(tensor.shape), raw.data


def put_together(name: str, shape: Any, raw: memoryview) -> Any:
    """The tensor that `take_apart` took apart, on the CPU. Raises `ValueError`, also where torch is not imported."""
    torch = loaded()
    if torch is None:
        raise ValueError("it holds torch tensors: import torch before resuming")
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"torch knows no dtype {name!r:.40}")
    empty = torch.empty(0, dtype=dtype)
    if not isinstance(shape, list) or math.prod(shape) * empty.element_size() != len(raw):
        raise ValueError(f"a tensor of shape {shape!r:.80} and dtype {name} has {len(raw):,} bytes")
    if not len(raw):
        return empty.reshape(shape)
    return torch.from_numpy(np.frombuffer(raw, np.uint8).copy()).view(dtype).reshape(shape)


def assign(target: Any, value: Any) -> None:
    """Copy `value` into the tensor `target`, in place and unseen by autograd."""
    target.detach().copy_(value)


def capture_rng() -> dict[str, Any] | None:
    """The state of torch's global generators as numpy arrays; None where torch is not imported."""
    torch = loaded()
    if torch is None:
        return None
    captured: dict[str, Any] = {"cpu": torch.get_rng_state().numpy().copy()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        captured["cuda"] = [state.cpu().numpy().copy() for state in torch.cuda.get_rng_state_all()]
    return captured


def restore_rng(captured: dict[str, Any]) -> None:
    """Set torch's global generators back. Raises `ResumeImpossible` where torch or its devices are not the same."""
    torch = loaded()
    if torch is None:
        raise ResumeImpossible("the checkpoint holds torch's random state: import torch before resuming")
    cuda = [torch.from_numpy(state.copy()) for state in captured.get("cuda", ())]
    if cuda and torch.cuda.device_count() != len(cuda):
        raise ResumeImpossible(
            f"the checkpoint holds the random state of {len(cuda)} CUDA devices, here are {torch.cuda.device_count()}: "
            "resume where as many are visible"
        )
    torch.set_rng_state(torch.from_numpy(captured["cpu"].copy()))
    if cuda:
        torch.cuda.set_rng_state_all(cuda)
