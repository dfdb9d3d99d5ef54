"""The oracles and the library were written apart; where they mean the same they must say it.

What the parts teach and what the exercises ask for can only drift apart past this test.
"""

from __future__ import annotations

import pytest
import torch

from llmcourse.data.batches import IGNORE_INDEX, document_aligned
from llmcourse.generate import sampling
from llmcourse.grading.records import find
from llmcourse.grading.values import difference
from llmcourse.model import ModelConfig, Transformer
from llmcourse.model.attention import attend, attend_visible
from llmcourse.model.layers import gelu
from llmcourse.model.masks import NOWHERE, Visibility, causal_mask, padding_mask
from llmcourse.model.norms import layer_norm
from llmcourse.model.positions import sinusoidal_positions
from llmcourse.model.self_attention import merge_heads, split_heads
from llmcourse.train.losses import bits_per_byte, cross_entropy, perplexity
from llmcourse.train.schedules import warmup_cosine


def heads(x):
    return x[:, None]  # (B, T, D) -> (B, 1, T, D)


def one_head(q, k, v):
    return attend(q[None, None], k[None, None], v[None, None], causal=False)[0, 0]


def masked(q, k, v, lengths):
    # Padded queries, which the model's own padding leaves at 0, look at the real keys here.
    t = q.shape[1]
    places = torch.arange(t)
    real = places.expand(len(q), t).masked_fill(~padding_mask(lengths, t), NOWHERE)  # (B, T)
    visibility = Visibility(t, t, q_positions=places, k_positions=real)
    return attend_visible(heads(q), heads(k), heads(v), visibility)[:, 0]


def parameters(vocab_size, context_length, n_layers, d_model):
    config = ModelConfig(
        vocab_size=vocab_size,
        context_length=context_length,
        n_layers=n_layers,
        n_heads=1,
        d_model=d_model,
    )
    return sum(parameter.numel() for parameter in Transformer(config).parameters())


def documents(rows, end_of_text, context_length):
    whole = [[*row, end_of_text] for row in rows]
    wanted = {tuple(row) for row in map(tuple, whole)}
    (batch,) = document_aligned(whole, context_length, len(rows), shuffle=False, epochs=1)
    found = set()
    for inputs, targets in zip(batch.inputs.tolist(), batch.targets.tolist()):
        kept = [label for label in targets if label != IGNORE_INDEX]
        found.add((*inputs[: len(kept)], kept[-1]))
    assert found == wanted
    return batch


def scores(losses, sizes):
    return perplexity(losses.mean().item()), bits_per_byte(losses.sum().item(), int(sizes.sum()))


def schedule(step, peak, warmup_steps, total_steps, floor):
    return warmup_cosine(
        step, peak=peak, warmup_steps=warmup_steps, total_steps=total_steps, floor=floor
    )


def top_k(logits, temperature, k):
    return sampling.keep_top_k(logits / temperature, k).softmax(-1)


def top_p(probabilities, p):
    return sampling.keep_top_p(probabilities.log(), p).softmax(-1)


def min_p(probabilities, share):
    return sampling.keep_min_p(probabilities.log(), share).softmax(-1)


LIBRARY = {
    "1.1": sinusoidal_positions,
    "1.3": one_head,
    "1.4": causal_mask,
    "1.5": masked,
    "1.6": split_heads,
    "1.7": merge_heads,
    "1.8": layer_norm,
    "1.9": gelu,
    "1.11": parameters,
    "2.2": cross_entropy,
    "2.4": scores,
    "2.5": schedule,
    "2.7": top_k,
    "2.8": top_p,
    "2.9": min_p,
    "2.10": sampling.penalise_repetition,
}


@pytest.mark.parametrize("exercise_id", LIBRARY)
def test_oracle_and_library_agree(exercise_id, greatest_error):
    assert greatest_error(exercise_id, LIBRARY[exercise_id]) < 1e-5


def test_document_batches_hold_the_same_rows():
    exercise = find("2.3")
    for seed in range(3):
        rows, end_of_text, context_length = exercise.inputs(seed, 5)
        batch = documents(rows, end_of_text, context_length)
        inputs, targets = exercise.oracle(rows, end_of_text, context_length)
        width = batch.inputs.shape[1]  # the library pads to the longest row, the task to T
        assert bool((targets[:, width:] == IGNORE_INDEX).all())
        ours = sorted(zip(inputs[:, :width].tolist(), targets[:, :width].tolist()))
        assert ours == sorted(zip(batch.inputs.tolist(), batch.targets.tolist()))


def test_clipping_agrees_with_torch():
    exercise = find("2.6")
    for seed in range(3):
        for size in range(exercise.sizes):
            gradients, max_norm = exercise.inputs(seed, size)
            parameters = [torch.nn.Parameter(torch.zeros_like(g)) for g in gradients]
            for parameter, gradient in zip(parameters, gradients):
                parameter.grad = gradient.clone()
            torch.nn.utils.clip_grad_norm_(parameters, max_norm)
            got = [parameter.grad for parameter in parameters]
            assert difference(got, exercise.oracle(gradients, max_norm)).error < 1e-5
