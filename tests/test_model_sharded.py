"""Compressed models where several processes train one model, in a group of one."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from models import D, bert, compressed, outputs, torch
from torch import nn

from ksubspaces.integrations.transformers import load_compressed

distributed = torch.distributed
pytestmark = pytest.mark.skipif(not distributed.is_available(), reason="this Torch has no torch.distributed")


@pytest.fixture(scope="module", autouse=True)
def group() -> Iterator[None]:
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.fixture(params=[None, "int8"])
def model(request: pytest.FixtureRequest) -> Any:
    """Rows of zeros at the end, and a padding row that is none."""
    made = bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    with torch.no_grad():
        made.get_input_embeddings().weight[256:] = 0
        made.get_input_embeddings().weight[0] = 0.1
    compressed(made, storage=request.param, k=3, init=np.repeat([0, 1, 2], [128, 128, 44]).astype(np.int32))
    assert 0 in made.get_input_embeddings().dims
    return made.train()


def step(model: nn.Module, wrapped: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    ids = torch.arange(14).view(2, 7)
    wrapped(input_ids=ids, labels=ids).loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0, norm_type=float("inf"))
    optimizer.step()
    optimizer.zero_grad()


def trained(model: Any) -> Any:
    """After steps in one process, as nothing is wrapped."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(3):
        step(model, model, optimizer)
    return model


def test_ddp_trains_as_one_process_does(model):
    expected = trained(copy.deepcopy(model))
    wrapped = nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(3):
        step(model, wrapped, optimizer)
    torch.testing.assert_close(outputs(model.eval()), outputs(expected.eval()))


def test_zero_of_torch_trains_as_one_process_does(model):
    from torch.distributed.optim import ZeroRedundancyOptimizer

    expected = trained(copy.deepcopy(model))
    wrapped = nn.parallel.DistributedDataParallel(model)
    optimizer = ZeroRedundancyOptimizer(model.parameters(), torch.optim.AdamW, lr=1e-2)
    for _ in range(3):
        step(model, wrapped, optimizer)
    torch.testing.assert_close(outputs(model.eval()), outputs(expected.eval()))


def test_fsdp2_trains_as_one_process_does_and_is_saved(model, tmp_path):
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    expected = trained(copy.deepcopy(model))
    fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(3):
        step(model, model, optimizer)
    whole = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))
    model.save_pretrained(tmp_path, state_dict=whole)  # as a Trainer does
    loaded = load_compressed(tmp_path)
    assert type(loaded) is type(expected)
    torch.testing.assert_close(outputs(loaded), outputs(expected.eval()))


def test_what_is_fixed_stays_and_no_parameter_is_empty(model):
    table = trained(model).get_input_embeddings()
    assert torch.equal(
        table(torch.tensor([0, 7, 256, 299])) != 0, torch.tensor([True, True, False, False])[:, None].expand(4, D)
    )
    assert (table(torch.tensor([0])) == 0.1).all()
    assert all(part.numel() for part in model.parameters())
    assert all(part.dtype != torch.int16 for part in model.buffers())
