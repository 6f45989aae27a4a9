"""Every door that a compressed model's folder is opened by, in a process that imported ksubspaces and in one that did
not. ``pytest tests/test_model_doors.py -s -n 0 -k door`` prints each command and what came of it.
"""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers import import_or_skip
from models import SENTENCES, N, bert, compressed, sentence_model, tokenizer, torch, transformers

from ksubspaces.integrations.transformers import compress_model, load_compressed, save_compressed

OPENED = """
import json, sys
import sentence_transformers, torch, transformers
from transformers import AutoModel, AutoModelForMaskedLM, BertForMaskedLM, pipeline
if {imported}:
    import ksubspaces.integrations.transformers
torch.manual_seed(0)
found = {{}}
for name, (folder, door) in json.loads(sys.argv[1]).items():
    try:
        with torch.no_grad():
            found[name] = torch.as_tensor(eval(door)).flatten().double().tolist()
    except Exception as error:
        found[name] = f"{{type(error).__name__}}: {{error}}"
print(json.dumps(found))
"""
REMEDY = "this model is compressed: pip install ksubspaces, and import ksubspaces.integrations.transformers"
IDS = "torch.arange(14).view(2, 7)"
LOGITS = f"AutoModelForMaskedLM.from_pretrained(folder)({IDS}).logits"
STATES = f"AutoModel.from_pretrained(folder)({IDS})[0]"
VECTORS = f"sentence_transformers.SentenceTransformer(folder, device='cpu').encode({SENTENCES[:3]!r})"
DOORS = {
    "AutoModel": ("saved", STATES),
    "AutoModelForMaskedLM": ("saved", LOGITS),
    "its class": ("saved", LOGITS.replace("AutoModelFor", "BertFor")),
    "pipeline": ("saved", "pipeline('feature-extraction', model=folder)('the cat sat')"),
    "fill-mask": ("saved", "[word['score'] for word in pipeline('fill-mask', model=folder)('the cat [MASK]')]"),
    "SentenceTransformer of a model": ("saved", VECTORS),
    "AutoModel of what was trained": ("trained", STATES),
    "AutoModel of save_pretrained": ("own", STATES),
    "AutoModelForMaskedLM of save_pretrained": ("own", LOGITS),
    "SentenceTransformer": ("sentences", VECTORS),
    "SentenceTransformer of save_pretrained": ("own-sentences", VECTORS),
    "AutoModel of a pipeline": ("sentences", STATES),
    "CrossEncoder": (
        "pairs",
        "sentence_transformers.CrossEncoder(folder, device='cpu').predict([['the cat', 'a dog'], ['a hat', 'a mat']])",
    ),
}


def train(model: Any, folder: Path) -> Path:
    """One step of a Trainer, and the checkpoint that it leaves."""
    import_or_skip("accelerate", "1.1")
    rows = [{"input_ids": list(range(7)), "labels": list(range(7))}] * 4
    asked = transformers.TrainingArguments(
        str(folder), max_steps=1, save_steps=1, report_to=[], use_cpu=True, disable_tqdm=True
    )
    transformers.Trainer(model, asked, train_dataset=rows).train()
    return folder / "checkpoint-1"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    top = tmp_path_factory.mktemp("doors")
    found = {name: top / name for name in ("saved", "own", "sentences", "own-sentences", "pairs")}
    model = bert()
    compressed(model)
    save_compressed(model, found["saved"], tokenizer())
    model.save_pretrained(found["own"])
    found["trained"] = train(model, top / "training")
    pipeline = sentence_model(top / "dense")
    compress_model(pipeline, 0.1, seed=0)
    save_compressed(pipeline, found["sentences"])
    pipeline.save_pretrained(str(found["own-sentences"]))
    classifier = bert("BertForSequenceClassification", num_labels=1)
    compressed(classifier)
    save_compressed(classifier, found["pairs"], tokenizer())
    return found


def opened(folders: dict[str, Path], imported: bool) -> dict[str, Any]:
    asked = json.dumps({name: (str(folders[folder]), door) for name, (folder, door) in DOORS.items()})
    command = [sys.executable, "-c", OPENED.format(imported=imported), asked]
    ran = subprocess.run(command, check=True, capture_output=True, text=True)
    found = json.loads(ran.stdout.splitlines()[-1])
    lines = [f"{'import' if imported else 'no import of'} ksubspaces.integrations.transformers"]
    for name, (folder, door) in DOORS.items():
        told = found[name]
        if not isinstance(told, str):
            told = f"{len(told)} numbers, {told[:3]} ..."
        elif REMEDY in told:  # a pipeline's error has all traces in it
            told = f"{told.partition(':')[0]}: ... {REMEDY}"
        lines += [f"{name}: {door.replace('folder', repr(folder))}", f"    {told}"]
    sys.stdout.write("\n" + "\n".join(lines) + "\n")
    return found


def test_every_door_opens_once_ksubspaces_is_imported(folders):
    found = opened(folders, imported=True)
    for name, (folder, door) in DOORS.items():
        assert not isinstance(found[name], str), f"{name}: {found[name]}"
        expected = _expected(load_compressed(folders[folder]), door)
        if expected is not None:
            actual = torch.tensor(found[name], dtype=torch.float64).view(expected.shape)
            torch.testing.assert_close(
                actual, expected.double(), atol=1e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
            )


def _expected(model: Any, door: str) -> Any:
    """What the model that ``load_compressed`` opens computes; None where another library computes more with it."""
    ids = torch.arange(14).view(2, 7)
    with torch.no_grad():
        if "logits" in door:
            return model(ids).logits
        if door == STATES:
            body = model[0].auto_model if hasattr(model, "encode") else model.base_model
            return body(ids)[0]
        return torch.as_tensor(model.encode(SENTENCES[:3])) if "encode" in door and hasattr(model, "encode") else None


def test_no_door_opens_onto_noise_where_ksubspaces_is_not_imported(folders):
    for name, text in opened(folders, imported=False).items():
        assert isinstance(text, str), name
        assert REMEDY in text, f"{name}: {text}"


@pytest.mark.parametrize("name", ["saved", "own", "trained", "sentences", "own-sentences"])
def test_a_folder_is_complete(folders, name):
    folder = folders[name]
    card = (folder / "README.md").read_text()
    manifest = json.loads((folder / "ksubspaces.json").read_text())
    report = manifest["report"]["modules"][0]
    assert f"{report['n_parameters_before']:,} -> {report['n_parameters']:,}" in card
    assert "import ksubspaces.integrations.transformers" in card
    assert {"config.json", "model.safetensors"} <= manifest["files"].keys()
    loaded = load_compressed(folder)
    assert json.loads(json.dumps(loaded.compression_report.to_dict())) == manifest["report"]
    (folder / "README.md").write_text("Mine.\n\n" + card)
    loaded.save_pretrained(str(folder))
    again = (folder / "README.md").read_text()
    if "sentences" not in name:  # whose own save writes a card first
        assert again.startswith("Mine.\n")
    assert again.count("## Compressed with ksubspaces") == 1


def test_what_was_trained_is_the_model(folders):
    before, after = (load_compressed(folders[name]).get_input_embeddings().to_dense() for name in ("saved", "trained"))
    assert 0 < (before - after).abs().max() < 0.1


def test_a_folder_without_its_manifest_opens(folders, tmp_path):
    model = load_compressed(folders["own"])
    model.save_pretrained(tmp_path)
    (tmp_path / "ksubspaces.json").unlink()
    again = load_compressed(tmp_path)
    assert type(again) is type(model)
    assert torch.equal(again.get_input_embeddings().to_dense(), model.get_input_embeddings().to_dense())
    assert again.compression_report is None


def test_copies_and_pickles_save_themselves_whole(folders, tmp_path):
    model = load_compressed(folders["own"])
    for name, twin in (("copy", copy.deepcopy(model)), ("pickle", pickle.loads(pickle.dumps(model)))):
        with torch.no_grad():
            twin.cls.predictions.bias.fill_(7)
        twin.save_pretrained(tmp_path / name)
        assert load_compressed(tmp_path / name).cls.predictions.bias[0] == 7
        assert "transformers_weights" in json.loads((tmp_path / name / "config.json").read_text())
    assert model.cls.predictions.bias[0] != 7


def test_a_state_dict_that_is_given_is_what_is_saved(folders, tmp_path):
    """As where a model is in shards, and a Trainer gathers them."""
    model = load_compressed(folders["own"])
    whole = {name: part.clone() for name, part in model.state_dict().items()}
    whole["cls.predictions.bias"] = torch.full((N,), 7.0)
    model.save_pretrained(tmp_path, state_dict=whole)
    assert load_compressed(tmp_path).cls.predictions.bias[0] == 7
    with pytest.raises(ValueError, match=r"call model\.push_to_hub\(repo_id\)"):
        model.save_pretrained(tmp_path, push_to_hub=True)


def test_nothing_in_a_folder_runs_code(folders, tmp_path):
    """What is read is JSON and safetensors: weights in a pickle are refused, by whatever door."""
    model = load_compressed(folders["own"])
    model.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "ksubspaces.json").unlink()
    for door in (load_compressed, transformers.AutoModel.from_pretrained):
        with pytest.raises(ValueError, match=r"pytorch_model\.bin is no file of safetensors, which alone are read"):
            door(tmp_path)
