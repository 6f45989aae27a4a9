"""Compressed models exported to ONNX compute the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers import import_or_skip
from models import N, bert, compressed, torch
from torch import nn


class Plain(nn.Module):
    """What the older exporter can trace: plain arguments, one output."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Any, attention_mask: Any) -> Any:
        return self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state


class TestONNX:
    @pytest.mark.filterwarnings("ignore")
    @pytest.mark.parametrize("dynamo", [True, False])
    def test_parity_with_any_batch_and_length(self, tmp_path, dynamo):
        import_or_skip("onnxscript")
        runtime = import_or_skip("onnxruntime")
        model = bert("BertModel")
        compressed(model, k=3)
        names = ["input_ids", "attention_mask"]
        example = torch.arange(14).view(2, 7), torch.ones(2, 7, dtype=torch.int64)
        path = str(tmp_path / "model.onnx")
        if dynamo:
            axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length")}
            shapes = {"dynamic_shapes": dict.fromkeys(names, axes)}
            torch.onnx.export(model, example, path, input_names=names, dynamo=True, verbose=False, **shapes)
        else:
            axes = {0: "batch", 1: "length"}
            shapes = {"dynamic_axes": dict.fromkeys(names, axes)}
            torch.onnx.export(Plain(model).eval(), example, path, input_names=names, dynamo=False, **shapes)
        session = runtime.InferenceSession(path)
        for shape in ((2, 7), (1, 3), (5, 16)):
            ids = torch.arange(shape[0] * shape[1]).view(shape) * 13 % N
            mask = torch.ones_like(ids)
            mask[0, -1] = 0
            with torch.no_grad():
                expected = model(input_ids=ids, attention_mask=mask).last_hidden_state
            found = session.run(None, {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})[0]
            assert np.abs(found - expected.numpy()).max() < 1e-4
