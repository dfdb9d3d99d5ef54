"""Damaged and mismatched folders: each named precisely, and no model comes out of any."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from llmcourse.errors import CheckpointError
from llmcourse.interop.huggingface import load_huggingface, save_huggingface
from llmcourse.model import Transformer

DOWN = "model.layers.1.mlp.down_proj.weight"


def change(folder, edit):
    """Rewrite the single weight file with `edit` applied to its tensors."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    edit(tensors)
    path.unlink()
    save_file(tensors, path, metadata={"format": "pt"})


def configure(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def refused(folder, *words, **options):
    with pytest.raises(CheckpointError) as caught:
        load_huggingface(folder, **options)
    for word in words:
        assert word in str(caught.value), str(caught.value)


def test_whole_folders_load(saved):
    model, shards, single = saved
    assert len(list(shards.glob("model-*.safetensors"))) >= 3
    ids = torch.randint(60, (2, 20))
    with torch.no_grad():
        wanted = model(ids)
        for folder in (shards, single):
            again = load_huggingface(folder)
            assert not again.training
            assert all(p.requires_grad for p in again.parameters())
            for name, tensor in model.state_dict().items():
                assert torch.equal(again.state_dict()[name], tensor), name
            assert torch.equal(again(ids), wanted)


def test_dtypes_and_overrides(single):
    half = load_huggingface(single, dtype=torch.bfloat16, attention="naive", context_length=16)
    assert half.config.attention == "naive" and half.config.context_length == 16
    exact = load_huggingface(single).embedding.weight
    assert torch.equal(half.embedding.weight, exact.bfloat16())
    change(single, lambda t: t.update({k: v.double() for k, v in t.items()}))
    assert torch.equal(load_huggingface(single).embedding.weight, exact)
    with pytest.raises(ValueError, match="int8"):
        load_huggingface(single, dtype=torch.int8)
    with pytest.raises(ValueError, match="windoww"):
        load_huggingface(single, windoww=3)
    refused(single, "shape", "expected (48, 32)", d_ff=48)


def test_no_folder_and_no_files(tmp_path, single):
    refused(tmp_path / "nowhere", "no folder at")
    refused(tmp_path, "config.json is missing")
    (single / "model.safetensors").rename(single / "pytorch_model.bin")
    refused(single, "neither", "pytorch_model.bin", "could run code")


@pytest.mark.parametrize("text", ["{", "[1]", "", '{"model_type": "llama"}', '{"a": 1e999'])
def test_damaged_config(single, text):
    (single / "config.json").write_text(text)
    refused(single, "config.json")


def test_unsupported_config(single):
    configure(single, rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0})
    refused(single, "config.json", "rope_type='dynamic'")


def test_missing_and_extra_tensors(single):
    change(single, lambda t: t.pop(DOWN))
    refused(single, f"missing {DOWN}")
    change(single, lambda t: t.update({"model.layers.1.mlp.dwn_proj.weight": torch.ones(2)}))
    refused(single, f"missing {DOWN}", "unexpected model.layers.1.mlp.dwn_proj.weight")


def test_biases_that_the_config_denies(single):
    name = "model.layers.0.self_attn.q_proj.bias"
    change(single, lambda t: t.update({name: torch.ones(32)}))
    refused(single, f"unexpected {name}", "no such biases")


def test_a_layer_too_few_in_the_config(single):
    configure(single, num_hidden_layers=1)
    refused(single, "unexpected model.layers.1.", "more")


def test_wrong_shapes(single):
    change(single, lambda t: t.update({DOWN: t[DOWN].T.contiguous()}))
    refused(single, f"{DOWN} has shape (40, 32), expected (32, 40)")


@pytest.mark.parametrize(
    ("dtype", "name"),
    [(torch.int8, "I8"), (torch.uint8, "U8"), (torch.int64, "I64"), (torch.float8_e4m3fn, "F8")],
)
def test_wrong_dtypes(single, dtype, name):
    change(single, lambda t: t.update({DOWN: t[DOWN].to(dtype)}))
    refused(single, DOWN, f"stored as {name}", "quantised")


def test_quantised_config(single):
    configure(single, quantization_config={"quant_method": "awq"})
    refused(single, "awq")


@pytest.mark.parametrize(
    "keep", [0, 5, 40, -1], ids=["empty", "in the size", "in the header", "end"]
)
def test_truncated_files(single, keep):
    path = single / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:keep])
    refused(single, "model.safetensors", "damaged or truncated", f"{len(data[:keep]):,} bytes")


def test_damaged_header(single):
    path = single / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[20:30] = b"\x00" * 10
    path.write_bytes(data)
    refused(single, "model.safetensors", "damaged or truncated")


def test_missing_shard(shards):
    victim = sorted(shards.glob("model-*.safetensors"))[1]
    victim.unlink()
    refused(shards, f"shard {victim} is missing", "tensors should be in it")


def test_truncated_shard(shards):
    victim = sorted(shards.glob("model-*.safetensors"))[1]
    victim.write_bytes(victim.read_bytes()[:-4])
    refused(shards, str(victim), "damaged or truncated")


def test_an_index_that_disagrees(shards):
    path = shards / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    good = json.dumps(index)
    index["weight_map"]["ghost"] = index["weight_map"][DOWN]
    path.write_text(json.dumps(index))
    refused(shards, "places ghost", "does not hold it")
    index = json.loads(good)
    del index["weight_map"][DOWN]
    path.write_text(json.dumps(index))
    refused(shards, f"'{DOWN}'", "places in no shard")
    index = json.loads(good)
    index["weight_map"][DOWN] = "../elsewhere.safetensors"
    path.write_text(json.dumps(index))
    refused(shards, "../elsewhere.safetensors", "not a plain file")
    path.write_text('{"metadata": {}}')
    refused(shards, "weight_map")


def test_untied_head_that_is_missing(single):
    change(single, lambda t: t.pop("lm_head.weight"))
    refused(single, "missing lm_head.weight", "tied")


def test_tied_head_that_is_stored(make_llama, tmp_path):
    """Some files hold it although it is tied: welcome if it is the embedding, refused if not."""
    model = Transformer(make_llama(tie_embeddings=True), torch.Generator().manual_seed(0))
    folder = save_huggingface(model, tmp_path / "tied")
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    change(folder, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].clone()}))
    assert load_huggingface(folder).head is None
    change(folder, lambda t: t["lm_head.weight"].mul_(2))
    refused(folder, "ties the head", "differs from model.embed_tokens.weight")


def test_names_without_their_prefix_and_computed_tensors(make_llama, single):
    wanted = load_huggingface(single)

    def strip(tensors):
        for name in list(tensors):
            if name.startswith("model."):
                tensors[name.removeprefix("model.")] = tensors.pop(name)
        tensors["layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)

    change(single, strip)
    again = load_huggingface(single)
    for name, tensor in wanted.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    change(single, lambda t: t.update({"model.norm.weight": torch.ones(32)}))
    refused(single, "model.norm.weight twice")


def test_a_refused_folder_is_never_read(single, monkeypatch):
    """Everything is checked from headers: no number is read of a folder that does not fit."""
    from llmcourse.interop.huggingface.files import TensorFiles

    read = []
    monkeypatch.setattr(TensorFiles, "read", lambda self, entry: read.append(entry.name))
    change(single, lambda t: t.update({DOWN: torch.ones(3)}))
    refused(single, DOWN)
    assert read == []


def test_a_file_is_opened_anew_after_some_megabytes(saved, monkeypatch):
    """Neither for every tensor, of which there may be thousands, nor never."""
    from llmcourse.interop.huggingface import files

    model, _, single = saved
    opened = []

    def note(path, **options):
        opened.append(path)
        return safe_open(path, **options)

    monkeypatch.setattr(files, "safe_open", note)
    total = sum(p.nbytes for p in model.parameters())
    for kept in (0, 30_000, 10_000_000):
        opened.clear()
        monkeypatch.setattr(files, "KEPT_BYTES", kept)
        load_huggingface(single)
        n_tensors = len(files.tensors_of(single))
        assert len(opened) - 2 <= min(n_tensors, total // max(kept, 1) + 1)  # 2 for the headers
        assert len(opened) > 2 and (kept > 0 or len(opened) == n_tensors + 2)


def test_saving_refuses_and_leaves_nothing(make_llama, tmp_path, monkeypatch):
    model = Transformer(make_llama(), torch.Generator().manual_seed(0))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="full"):
        save_huggingface(model, tmp_path / "full")
    with pytest.raises(ValueError, match="eos_id"):
        save_huggingface(model, tmp_path / "new", eos_id=3)
    with pytest.raises(ValueError, match="sinks=1"):
        save_huggingface(model.with_options(window=8, sinks=1), tmp_path / "new")
    mixed = Transformer(make_llama())
    mixed.head.half()
    with pytest.raises(ValueError, match=r"float16, torch\.float32"):
        save_huggingface(mixed, tmp_path / "new")

    def full(*_, **__):
        raise OSError("no space left on device")

    monkeypatch.setattr("llmcourse.interop.huggingface.save.save_file", full)
    with pytest.raises(OSError, match="no space"):
        save_huggingface(model, tmp_path / "new")
    assert [p.name for p in tmp_path.iterdir()] == ["full"]
