"""Part 4's oracles and the library were written apart; where they mean the same they must say it.

Beside `test_agrees_with_library.py` because tokenizers and optimisers take more than one call. 4.9
and 4.10 have no twin of their signature in the library: their oracles meet NumPy, and a walk
through all the batches.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from llmcourse.data.packing import Piece, packed_batch
from llmcourse.grading.records import find
from llmcourse.grading.values import difference
from llmcourse.model import ModelConfig
from llmcourse.model.feed_forward import FeedForward
from llmcourse.model.masks import Visibility, positions_in_documents
from llmcourse.tokenizers.bpe_merge import merge
from llmcourse.tokenizers.bpe_train import learn_merges
from llmcourse.train import TrainConfig, training_steps
from llmcourse.train.adamw import adamw_step as step_of_adamw
from llmcourse.train.chunked_loss import chunked_cross_entropy
from llmcourse.train.muon import orthogonalise
from llmcourse.train.scaler import LossScaler, ScalerConfig, ScalerState
from llmcourse.train.schedules import warmup_stable_decay


def merge_pair(ids, pair, new_id):
    parts = merge(bytes(ids), {bytes(pair): 0})
    return [new_id if len(part) == 2 else part[0] for part in parts]


def encode_word(word, merges):
    spelled = {i: bytes([i]) for i in range(256)}
    for rank, (left, right) in enumerate(merges):
        spelled[256 + rank] = spelled[left] + spelled[right]
    ids = {text: i for i, text in spelled.items()}
    ranks = {text: i - 256 for text, i in ids.items() if i >= 256}
    return [ids[part] for part in merge(bytes(word), ranks)]


def wsd_rate(step, peak, warmup_steps, decay_steps, total_steps, floor):
    return warmup_stable_decay(
        step,
        peak=peak,
        warmup_steps=warmup_steps,
        total_steps=total_steps,
        floor=floor,
        decay_steps=decay_steps,
        decay="1-sqrt",
    )


def adamw_step(parameter, gradient, mean, square, step, lr, betas, eps, weight_decay):
    settings = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
    return step_of_adamw(parameter, gradient, mean, square, step, **settings)


def scaled_step(weights, gradients, scale, good_steps, lr, interval):
    parameters = [nn.Parameter(weight) for weight in weights]
    for parameter, gradient in zip(parameters, gradients):
        parameter.grad = gradient.to(parameter.dtype)
    scaler = LossScaler(ScalerConfig(interval=interval), ScalerState(scale, good_steps))
    finite = scaler.unscale_(parameters)
    if finite:
        torch.optim.SGD(parameters, lr=lr).step()
    scaler.update(finite)
    return [p.detach() for p in parameters], scaler.state.scale, scaler.state.good_steps


def pack_row(documents, context_length):
    row = [Piece(number, 0, len(document)) for number, document in enumerate(documents)]
    batch = packed_batch([row], lambda piece: documents[piece.document], context_length)
    home = batch.documents
    visibility = Visibility(context_length, context_length, q_documents=home, k_documents=home)
    positions = positions_in_documents(home)[0]
    return batch.inputs[0], batch.targets[0], positions, visibility.table()[0, 0]


def chunked_loss(hidden, weight, targets, chunk):
    hidden = hidden.as_subclass(Tensor).requires_grad_()  # without the watch over its size
    weight = weight.requires_grad_()
    loss = chunked_cross_entropy(hidden, weight, targets, chunk_tokens=chunk)
    loss.backward()
    return loss.detach(), hidden.grad, weight.grad


def predict_loss(sizes, losses, floor, size):
    slope, height = np.polyfit(np.log(sizes.numpy()), np.log(losses.numpy() - floor), 1)
    return -slope, floor + np.exp(height + slope * np.log(size))


def batch_at(step, n, batch_size, order):
    epochs = range(step // (n // batch_size) + 1)
    batches = [x for e in epochs for x in order(e).split(batch_size) if len(x) == batch_size]
    return batches[step]


LIBRARY = {
    "4.1": merge_pair,
    "4.3": encode_word,
    "4.4": wsd_rate,
    "4.5": adamw_step,
    "4.8": scaled_step,
    "4.9": predict_loss,
    "4.10": batch_at,
    "4.11": pack_row,
    "4.13": chunked_loss,
}


@pytest.mark.parametrize("exercise_id", LIBRARY)
def test_oracle_and_library_agree(exercise_id, greatest_error):
    assert greatest_error(exercise_id, LIBRARY[exercise_id]) < 1e-9


def test_newton_schulz_agrees_up_to_the_librarys_guard_against_zero(greatest_error):
    assert greatest_error("4.6", orthogonalise) < 1e-6


def test_the_next_merge_is_the_librarys():
    exercise = find("4.2")
    for seed in range(9):
        for size in range(exercise.sizes):
            words, counts = exercise.inputs(seed, size)
            spelled = Counter()  # the library wants each word once
            for word, count in zip(words, counts):
                spelled[bytes(word)] += count
            (pair,) = learn_merges(spelled, 1, min_count=1)
            assert exercise.oracle(words, counts)[:2] == pair


class Rows(NamedTuple):
    inputs: Tensor
    targets: Tensor


def test_accumulated_gradients_are_the_loops():
    """One update of plain descent in the real loop moves the weight by the oracle's gradient."""
    exercise = find("4.7")
    rate = 0.25
    for size in range(exercise.sizes):
        losses, weight, batches = exercise.inputs(5, size)
        model = nn.Linear(len(weight), 1, bias=False).double()
        with torch.no_grad():
            model.weight.copy_(weight)
        config = TrainConfig(
            steps=1,
            learning_rate=rate,
            min_learning_rate=rate,
            warmup_steps=0,
            optimizer="sgd",
            beta1=0.0,
            weight_decay=0.0,
            clip_norm=1e9,
            accumulate=len(batches),
        )
        rows = [Rows(batch, torch.zeros(len(batch), dtype=torch.int64)) for batch in batches]

        def mean(model, batch, losses=losses):
            return losses(model.weight[0], batch.inputs).mean()

        list(training_steps(model, iter(rows), config, loss=mean))
        moved = (weight - model.weight[0].detach()) / rate
        assert difference(moved, exercise.oracle(losses, weight, batches)).error < 1e-9


def test_the_parts_of_a_split_layer_are_the_librarys_whole():
    exercise = find("4.12")
    for seed in range(3):
        for size in range(exercise.sizes):
            x, up, up_bias, down, down_bias, ranks = exercise.inputs(seed, size)
            config = ModelConfig(
                vocab_size=2,
                context_length=8,
                n_layers=1,
                n_heads=1,
                d_model=x.shape[1],
                d_ff=len(up),
                activation="relu",
            )
            layer = FeedForward(config, out_std=0.02).double()
            with torch.no_grad():
                for module, weight, bias in (
                    (layer.up, up, up_bias),
                    (layer.down, down, down_bias),
                ):
                    module.weight.copy_(weight)
                    module.bias.copy_(bias)
                whole = layer(x[None])[0]
            parts = exercise.oracle(x, up, up_bias, down, down_bias, ranks)
            assert float((torch.stack(parts).sum(dim=0) - whole).abs().max()) < 1e-12
