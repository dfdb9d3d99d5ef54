"""GPT-2 as Hugging Face computes it: the same random weights give the same numbers."""

from __future__ import annotations

import pytest
import torch

from llmcourse.generate import Sampling, generate
from llmcourse.interop.huggingface import FAMILIES, load_huggingface, to_ours
from llmcourse.model import ModelConfig, Transformer
from llmcourse.train.losses import cross_entropy

transformers = pytest.importorskip("transformers", reason="transformers is not installed")


@pytest.fixture(scope="module", params=["naive", "sdpa"])
def pair(request, tmp_path_factory):
    theirs = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=97,
            n_positions=40,
            n_embd=48,
            n_layer=3,
            n_head=4,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            attn_implementation="eager",
        )
    ).double()
    generator = torch.Generator().manual_seed(0)
    for parameter in theirs.parameters():
        parameter.data += torch.empty_like(parameter).normal_(0, 0.15, generator=generator)
    folder = tmp_path_factory.mktemp("gpt2")
    theirs.save_pretrained(folder)
    ours = load_huggingface(folder, dtype=torch.float64, attention=request.param)
    wanted = ModelConfig.preset(
        "gpt2",
        vocab_size=97,
        context_length=40,
        d_model=48,
        n_layers=3,
        n_heads=4,
        attention=request.param,
    )
    assert ours.config == wanted
    assert ours.n_parameters() == sum(p.numel() for p in theirs.parameters())
    return ours, theirs


def mapped(config, published):
    """Published tensors under our names and in our layout."""
    return to_ours(FAMILIES["gpt2"].rules(config, {}), published)


@pytest.mark.parametrize("shape", [(1, 1), (3, 37), (2, 40)])
def test_logits(pair, shape):
    ours, theirs = pair
    ids = torch.randint(97, shape)
    with torch.no_grad():
        wanted = theirs(ids).logits
        assert wanted.std() > 0.5
        torch.testing.assert_close(ours(ids), wanted, rtol=0, atol=1e-10)
        single = theirs.float()(ids).logits
        torch.testing.assert_close(ours.float()(ids), single, rtol=0, atol=1e-4)
    ours.double()
    theirs.double()


def test_loss_and_every_gradient(pair):
    ours, theirs = pair
    ids = torch.randint(97, (3, 37))
    ours.zero_grad()
    theirs.zero_grad()
    mine = cross_entropy(ours(ids[:, :-1]), ids[:, 1:])
    output = theirs(ids, labels=ids)
    # Their loss shifts by itself and is float32 always; in float64 it is taken from their logits.
    assert mine.item() == pytest.approx(output.loss.item(), abs=2e-6)
    yours = torch.nn.functional.cross_entropy(output.logits[:, :-1].mT, ids[:, 1:])
    assert mine.item() == pytest.approx(yours.item(), abs=1e-10)
    mine.backward()
    yours.backward()
    wanted = mapped(ours.config, {name: p.grad for name, p in theirs.named_parameters()})
    for name, parameter in ours.named_parameters():
        assert wanted[name].abs().max() > 1e-8, name
        torch.testing.assert_close(parameter.grad, wanted[name], rtol=0, atol=1e-10, msg=name)


def test_left_padded_batch(pair):
    ours, theirs = pair
    ids = torch.randint(97, (2, 9))
    padding = torch.ones(2, 9, dtype=torch.bool)
    padding[0, :4] = False
    with torch.no_grad():
        positions = (padding.long().cumsum(-1) - 1).clamp(min=0)
        wanted = theirs(ids, attention_mask=padding.long(), position_ids=positions).logits
        out = ours(ids, padding=padding)
    torch.testing.assert_close(out[padding], wanted[padding], rtol=0, atol=1e-10)


def test_attention_maps(pair):
    ours, theirs = pair
    ids = torch.randint(97, (2, 11))
    with torch.no_grad():
        wanted = torch.stack(theirs(ids, output_attentions=True).attentions)
    maps = ours.with_options(attention="auto").attention_maps(ids)  # sdpa keeps no weights
    torch.testing.assert_close(maps, wanted, rtol=0, atol=1e-10)


@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_greedy_generation(pair, penalty):
    ours, theirs = pair
    ids = torch.randint(97, (3, 6))
    wanted = theirs.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=20,
        do_sample=False,
        repetition_penalty=penalty,
        pad_token_id=0,
        eos_token_id=None,
    )
    sampling = Sampling(temperature=0.0, repetition_penalty=penalty)
    assert torch.equal(generate(ours, ids, 20, sampling=sampling), wanted)


def test_sampling_rules_match_the_logits_processors():
    """The same tokens survive and the same probabilities come out, rule by rule."""
    from transformers.generation import logits_process as theirs

    from llmcourse.generate.sampling import next_token_probabilities

    logits = torch.randn(5, 60) * 3
    previous = torch.randint(60, (5, 9))
    rules = [
        (Sampling(temperature=0.7), theirs.TemperatureLogitsWarper(0.7)),
        (Sampling(top_k=7), theirs.TopKLogitsWarper(7)),
        (Sampling(top_p=0.8), theirs.TopPLogitsWarper(0.8)),
        (Sampling(min_p=0.1), theirs.MinPLogitsWarper(0.1)),
        (Sampling(repetition_penalty=1.7), theirs.RepetitionPenaltyLogitsProcessor(1.7)),
    ]
    for sampling, processor in rules:
        wanted = processor(previous, logits.clone()).softmax(-1)
        ours = next_token_probabilities(logits, sampling, previous)
        torch.testing.assert_close(ours, wanted, rtol=0, atol=1e-6, msg=str(sampling))
    sampling = Sampling(temperature=1.4, top_k=30, top_p=0.9, min_p=0.02, repetition_penalty=1.2)
    chain = [
        theirs.RepetitionPenaltyLogitsProcessor(1.2),
        theirs.TemperatureLogitsWarper(1.4),
        theirs.TopKLogitsWarper(30),
        theirs.TopPLogitsWarper(0.9),
        theirs.MinPLogitsWarper(0.02),
    ]
    scores = logits.clone()
    for processor in chain:
        scores = processor(previous, scores)
    ours = next_token_probabilities(logits, sampling, previous)
    torch.testing.assert_close(ours, scores.softmax(-1), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"])
def test_presets_have_the_shapes_of_the_published_models(name):
    widths = {"gpt2": 768, "gpt2-medium": 1024, "gpt2-large": 1280, "gpt2-xl": 1600}
    config = ModelConfig.preset(name)
    assert config.d_model == widths[name]
    with torch.device("meta"):
        ours = Transformer(config)
        theirs = transformers.GPT2LMHeadModel(
            transformers.GPT2Config(
                n_embd=config.d_model, n_layer=config.n_layers, n_head=config.n_heads
            )
        )
    published = mapped(config, dict(theirs.named_parameters()))
    parameters = dict(ours.named_parameters())
    assert parameters.keys() == published.keys()
    for tensor_name, tensor in parameters.items():
        assert tensor.shape == published[tensor_name].shape, tensor_name
