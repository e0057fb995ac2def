"""torch tensors travel in a state; only where torch is installed, for it is no dependency."""

from __future__ import annotations

import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from agents_adapter import codec, rng  # noqa: E402
from agents_adapter.state import AgentState  # noqa: E402
from journal.errors import EventRejected, ResumeImpossible  # noqa: E402


@pytest.mark.parametrize(
    "dtype", ["float64", "float32", "float16", "bfloat16", "int64", "uint8", "bool", "complex64", "float8_e4m3fn"]
)
@pytest.mark.parametrize("shape", [(), (3,), (2, 0), (2, 3)])
def test_tensors_come_back_as_tensors_of_their_dtype(dtype: str, shape: tuple[int, ...]) -> None:
    tensor = torch.randn(shape).to(getattr(torch, dtype))
    back = codec.decode(codec.encode({"t": tensor}))["t"]
    assert back.dtype == tensor.dtype and back.shape == tensor.shape
    as_bytes = [t.reshape(-1).view(torch.uint8) for t in (back, tensor)] if tensor.numel() else [back, tensor]
    assert torch.equal(*as_bytes)


def test_views_and_conjugates_come_back_as_they_read() -> None:
    tensor = torch.randn(3, 4, dtype=torch.complex64)
    for view in (tensor.T, tensor.conj(), tensor[:, 1:3], torch.view_as_real(tensor)[..., 1], tensor.conj().imag):
        assert torch.equal(codec.decode(codec.encode(view)), view)


def test_special_layouts_are_refused() -> None:
    with pytest.raises(EventRejected, match=r"state\['t'\] is a torch tensor of layout"):
        codec.encode({"t": torch.eye(3).to_sparse()})


def test_decoding_without_torch_says_to_import_it(monkeypatch: pytest.MonkeyPatch) -> None:
    data = codec.encode(torch.zeros(2))
    monkeypatch.delitem(sys.modules, "torch")
    with pytest.raises(ValueError, match="import torch"):
        codec.decode(data)


def test_a_network_and_its_optimizer_resume() -> None:
    def build() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 1))
        return net, torch.optim.Adam(net.parameters())

    def train(net: torch.nn.Module, opt: torch.optim.Optimizer) -> None:
        opt.zero_grad()
        net(torch.arange(15.0).reshape(5, 3)).sum().backward()
        opt.step()

    net, opt = build()
    train(net, opt)
    data = codec.encode(AgentState("A", {"net": net, "opt": opt}).capture())
    other, other_opt = build()
    AgentState("A", {"net": other, "opt": other_opt}).restore(codec.decode(data))
    train(net, opt)
    train(other, other_opt)
    for one, two in zip(net.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(one, two)


def test_a_tensor_part_is_restored_in_place() -> None:
    weight = torch.zeros(3, requires_grad=True)
    AgentState("A", {"w": weight}).restore({"w": torch.ones(3)})
    assert weight.tolist() == [1, 1, 1] and weight.requires_grad
    with pytest.raises(ResumeImpossible, match=r"shape \(3,\).*shape \(2,\)"):
        AgentState("A", {"w": weight}).restore({"w": torch.ones(2)})
    with pytest.raises(ResumeImpossible, match="a tensor, in the checkpoint it is a ndarray"):
        AgentState("A", {"w": weight}).restore({"w": np.ones(3)})


def test_the_global_generator_goes_on() -> None:
    captured = codec.decode(codec.encode(rng.capture_global()))
    drawn = torch.rand(3)
    rng.restore_global(captured)
    assert torch.equal(torch.rand(3), drawn)


def test_a_state_of_torch_is_refused_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    captured = rng.capture_global()
    monkeypatch.delitem(sys.modules, "torch")
    with pytest.raises(ResumeImpossible, match="import torch"):
        rng.restore_global(captured)
