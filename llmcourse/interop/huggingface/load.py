"""`load_huggingface`: a published model from a local folder, tensor by tensor.

Taught in Part 3. First everything is checked from the headers alone; then an empty model is made
and filled, one published tensor at a time. So a folder that does not fit costs nothing, nobody sees
a model that is half loaded, and the peak of memory is the model itself and one tensor.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from llmcourse.errors import CheckpointError
from llmcourse.interop.huggingface.config import read_config
from llmcourse.interop.huggingface.files import FLOATS, TensorFiles, read_json
from llmcourse.interop.huggingface.match import matched
from llmcourse.model import Transformer


def load_huggingface(
    path: str | os.PathLike[str],
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    **overrides: Any,
) -> Transformer:
    """The model of a folder with `config.json` and safetensors weights, in evaluation mode.

    Args:
        path: a local folder, as `save_pretrained` of transformers or `save_huggingface` writes it.
        dtype: of the parameters: float64, float32, bfloat16 or float16. The file's own dtype may be
            another one. A selection bias of experts stays float32.
        device: where the model is made.
        overrides: fields of `ModelConfig` to replace, for example `attention="flash"`.

    Raises:
        CheckpointError: a missing, damaged or truncated file; an architecture or a config value
            that is not supported; missing or extra tensors, a wrong shape, weights that are not
            floating-point numbers.
        ValueError: an override that is no field or an impossible value; a dtype that is no float.
    """
    if not isinstance(dtype, torch.dtype) or dtype not in FLOATS.values():
        raise ValueError(f"dtype={dtype} must be float64, float32, bfloat16 or float16")
    folder = Path(path)
    if not folder.is_dir():
        raise CheckpointError(f"no folder at {folder}: expected one that holds config.json")
    values = read_json(folder / "config.json")
    # The one override that decides whether a config can be read; the others come after it.
    first = {"dropout": overrides["dropout"]} if "dropout" in overrides else {}
    try:
        family, config = read_config(values, **first)
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{folder / 'config.json'}: {error}") from error
    if overrides:
        config = config.replace(**overrides)
    rules = family.rules(config, values)
    with torch.device("meta"):
        model = Transformer(config)  # shapes only: the numbers come from the files
    rules, entries = matched(folder, family, config, rules, model)
    _allocate(model, dtype, torch.device(device))
    parameters, files = dict(model.named_parameters()), TensorFiles()
    with torch.no_grad():
        for rule in rules:
            rule.fill(parameters[rule.name], lambda name: files.read(entries[name]))
    return model.eval()


def _allocate(model: Transformer, dtype: torch.dtype, device: torch.device) -> None:
    """Give every parameter of a model on the meta device memory of its own, not yet filled."""
    for module in model.modules():
        wide = getattr(module, "keeps_float32", ())
        for name, parameter in module._parameters.items():
            if parameter is not None:
                kept = torch.float32 if name in wide else dtype
                memory = torch.empty(parameter.shape, dtype=kept, device=device)
                module._parameters[name] = nn.Parameter(memory, parameter.requires_grad)
