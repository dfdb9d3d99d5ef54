"""The course map: ten parts, what each asks, and where it lives. Needs nothing but Python.

`where(name)` finds a name or a concept in the package without importing any of it.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from pathlib import Path

from llmcourse.papers import PAPERS, Paper
from llmcourse.sources import Definition, definitions


@dataclass(frozen=True)
class Part:
    """One chapter. Paths are relative to the course's root."""

    number: int  # 1 to 10
    slug: str  # as in the notebook's file name
    title: str
    question: str  # the one question it answers
    modules: tuple[str, ...] = ()  # dotted names; a package stands for everything in it
    definitions: tuple[str, ...] = ()  # dotted names of its own in modules of another part
    topics: tuple[str, ...] = ()  # what it teaches, as a reader would type it
    papers: tuple[Paper, ...] = ()
    ready: bool = False  # written, tested and in this edition

    @property
    def notebook(self) -> str:
        return f"notebooks/part{self.number:02d}_{self.slug}.ipynb"

    @property
    def exercises(self) -> str:
        return f"exercises/part{self.number:02d}.ipynb"

    @property
    def solutions(self) -> str:
        return f"solutions/part{self.number:02d}.ipynb"

    def __str__(self) -> str:
        return f"Part {self.number}: {self.title}"


def _papers(*keys: str) -> tuple[Paper, ...]:
    return tuple(PAPERS[key] for key in keys)


PARTS: tuple[Part, ...] = (
    Part(
        number=1,
        slug="transformer_core",
        title="The transformer, from first principles",
        question="How does a stack of matrix products let every word look at every earlier one?",
        modules=("llmcourse.model",),
        topics=("attention", "multi-head attention", "layer norm", "positions", "residual"),
        papers=_papers(
            "1706.03762",
            "1606.08415",
            "1607.06450",
            "1512.03385",
            "1207.0580",
            "2002.04745",
            "1608.05859",
            "2012.14913",
            "2103.03404",
            "2209.11895",
            "gpt2",
        ),
        ready=True,
    ),
    Part(
        number=2,
        slug="tiny_llm",
        title="A tiny language model",
        question="How close to the best possible loss does a model trained here and now come?",
        modules=(
            "llmcourse.tokenizers",
            "llmcourse.data",
            "llmcourse.train",
            "llmcourse.generate",
            "llmcourse.evaluate",
        ),
        topics=("bytes", "batches", "cross-entropy", "training loop", "sampling", "checkpoint"),
        papers=_papers(
            "1412.6980",
            "1711.05101",
            "1608.03983",
            "1211.5063",
            "1805.04833",
            "1904.09751",
            "2407.01082",
            "1909.05858",
            "2105.13626",
            "2305.07759",
            "2502.16982",
            "shannon",
        ),
        ready=True,
    ),
    Part(
        number=3,
        slug="modern_architecture",
        title="The modern architecture",
        question="What changed between GPT-2 and today's models, and which change pays for what?",
        modules=(
            "llmcourse.model.rotary",
            "llmcourse.model.latent_attention",
            "llmcourse.model.flash",
            "llmcourse.model.flash_tiles",
            "llmcourse.model.flash_triton",
            "llmcourse.model.triton_kernels",
            "llmcourse.model.triton_launch",
            "llmcourse.model.flex",
            "llmcourse.model.masks",
            "llmcourse.model.presets",
            "llmcourse.model.published_dense",
            "llmcourse.generate.cache",
            "llmcourse.generate.compiled",
            "llmcourse.generate.prepare",
            "llmcourse.generate.streaming",
            "llmcourse.generate.speculative",
            "llmcourse.generate.conversation",
            "llmcourse.interop.huggingface",
        ),
        definitions=(
            "llmcourse.model.norms.RMSNorm",
            "llmcourse.model.norms.rms_norm",
            "llmcourse.model.norms.rms_norm_reference",
            "llmcourse.model.feed_forward.GatedFeedForward",
            "llmcourse.model.layers.silu",
            "llmcourse.model.layers.silu_reference",
            "llmcourse.model.layers.relu2",
            "llmcourse.model.config.Latent",
            "llmcourse.model.attention.choose",
        ),
        topics=(
            "rope",
            "rmsnorm",
            "swiglu",
            "gqa",
            "mqa",
            "mla",
            "kv cache",
            "sliding window",
            "attention sinks",
            "flash attention",
            "paged cache",
            "speculative decoding",
        ),
        papers=_papers(
            "1910.07467",
            "2104.09864",
            "2306.15595",
            "2309.00071",
            "2002.05202",
            "1911.02150",
            "2305.13245",
            "2405.04434",
            "2310.06825",
            "2309.17453",
            "2205.14135",
            "2307.08691",
            "2309.06180",
            "2211.17192",
            "2407.21783",
            "2408.00118",
            "2501.00656",
        ),
        ready=True,
    ),
    Part(
        number=4,
        slug="scaling_up",
        title="Scaling up",
        question="How does the same loop train a hundred times more, and survive being killed?",
        modules=(
            "llmcourse.tokenizers.bpe",
            "llmcourse.tokenizers.bpe_train",
            "llmcourse.tokenizers.bpe_textbook",
            "llmcourse.tokenizers.bpe_files",
            "llmcourse.tokenizers.bpe_huggingface",
            "llmcourse.tokenizers.bpe_merge",
            "llmcourse.tokenizers.pretokenize",
            "llmcourse.model.products",
            "llmcourse.model.recompute",
            "llmcourse.train.adamw",
            "llmcourse.train.checked_optimizer",
            "llmcourse.train.sgd",
            "llmcourse.train.muon",
            "llmcourse.train.scaler",
            "llmcourse.train.chunked_loss",
            "llmcourse.train.objective",
            "llmcourse.train.state",
            "llmcourse.train.checkpoint_files",
            "llmcourse.train.checkpoint_series",
            "llmcourse.train.checkpoints",
            "llmcourse.train.speed",
            "llmcourse.train.processes",
            "llmcourse.train.parallel",
            "llmcourse.train.many_processes",
            "llmcourse.train.tensor_parallel",
            "llmcourse.train.sharded_checkpoint",
            "llmcourse.train.sharded_files",
            "llmcourse.train.watch",
            "llmcourse.train.tracking",
            "llmcourse.data.arithmetic",
            "llmcourse.data.shards",
            "llmcourse.data.shard_writer",
            "llmcourse.data.packing",
            "llmcourse.data.mixture",
            "llmcourse.data.loader",
            "llmcourse.data.resumable",
            "llmcourse.data.prepare",
            "llmcourse.data.prefetch",
            "llmcourse.data.records",
            "llmcourse.data.huggingface",
            "llmcourse.evaluate.scaling_law",
            "llmcourse.evaluate.scaling_solver",
            "llmcourse.evaluate.base_report",
            "llmcourse.stages",
        ),
        topics=(
            "bpe",
            "byte-pair encoding",
            "mixed precision",
            "gradient accumulation",
            "gradient checkpointing",
            "mfu",
            "muon",
            "resume",
            "tracking",
            "distributed",
            "ddp",
            "fsdp",
            "tensor parallel",
            "scaling laws",
            "arithmetic",
            "base model",
        ),
        papers=_papers(
            "1508.07909",
            "1710.03740",
            "1412.6980",
            "1711.05101",
            "1604.06174",
            "2404.10830",
            "2502.16982",
            "2404.06395",
            "2405.18392",
            "2204.02311",
            "2006.15704",
            "2304.11277",
            "1909.08053",
            "2001.08361",
            "2203.15556",
        ),
        ready=True,
    ),
    Part(
        number=5,
        slug="mixture_of_experts",
        title="Mixture of experts",
        question="Can a model know more without working more on each token?",
        modules=(
            "llmcourse.model.experts_config",
            "llmcourse.model.published_sparse",
            "llmcourse.model.routing",
            "llmcourse.model.router",
            "llmcourse.model.router_losses",
            "llmcourse.model.expert_dispatch",
            "llmcourse.model.moe",
            "llmcourse.model.upcycle",
            "llmcourse.train.balance",
            "llmcourse.train.expert_parallel",
            "llmcourse.evaluate.specialisation",
        ),
        topics=(
            "moe",
            "mixture of experts",
            "router",
            "gating",
            "top-k routing",
            "noisy top-k",
            "load balancing",
            "expert capacity",
            "token dropping",
            "dispatch",
            "shared experts",
            "expert choice",
            "z-loss",
            "selection bias",
            "upcycling",
            "expert parallel",
            "specialisation",
        ),
        papers=_papers(
            "1701.06538",
            "2006.16668",
            "2101.03961",
            "2202.08906",
            "2202.09368",
            "2211.15841",
            "2212.05055",
            "2401.04088",
            "2401.06066",
            "2405.04434",
            "2408.15664",
            "2409.02060",
            "2412.19437",
            "2505.09388",
        ),
        ready=True,
    ),
    Part(
        number=6,
        slug="supervised_fine_tuning",
        title="Supervised fine-tuning",
        question="How does a model that continues text become one that answers?",
        topics=("sft", "fine-tuning", "chat template", "lora", "dora", "curriculum", "chat"),
        papers=_papers("2109.01652", "2203.02155", "2106.09685"),
    ),
    Part(
        number=7,
        slug="reward_modelling",
        title="Reward modelling",
        question="Can a preference between two texts become a number to climb?",
        topics=("reward model", "preferences", "bradley-terry"),
        papers=_papers("1706.03741", "2009.01325", "2210.10760", "bradley-terry"),
    ),
    Part(
        number=8,
        slug="rlhf_ppo",
        title="RLHF with PPO",
        question="What does each term of the objective prevent?",
        topics=("ppo", "gae", "rlhf", "kl penalty", "dpo", "rollout"),
        papers=_papers("1707.06347", "1506.02438", "1909.08593", "2305.18290", "2403.17031"),
    ),
    Part(
        number=9,
        slug="rlhf_grpo",
        title="GRPO and verifiable rewards",
        question="How much can a model learn from nothing but right and wrong?",
        topics=("grpo", "dapo", "verifiable rewards", "group-relative advantage"),
        papers=_papers("2402.03300", "2501.12948", "2503.20783", "2503.14476"),
    ),
    Part(
        number=10,
        slug="concept_models",
        title="Concept models",
        question="What if the unit of prediction were a thought and not a token?",
        topics=(
            "concept model",
            "lcm",
            "latent thoughts",
            "hyperbolic",
            "poincare",
            "wordpiece",
            "unigram",
            "byte patches",
        ),
        papers=_papers("2412.08821", "2412.06769", "1705.08039", "2412.09871"),
    ),
)

# What a reader calls it -> what the package calls it.
CONCEPTS: dict[str, tuple[str, ...]] = {
    "bpe": ("BPETokenizer", "learn_merges"),
    "byte-pair encoding": ("BPETokenizer", "learn_merges"),
    "mixed precision": ("LossScaler", "training_steps"),
    "loss scaling": ("LossScaler",),
    "gradient accumulation": ("training_steps",),
    "gradient checkpointing": ("recomputed",),
    "mfu": ("utilisation", "matmul_peak"),
    "resume": ("TrainState", "Checkpoints"),
    "checkpoint": ("Checkpoints", "Checkpoint"),
    "tracking": ("Tracker", "Trackers"),
    "distributed": ("ManyProcesses", "ParallelConfig"),
    "ddp": ("ManyProcesses",),
    "fsdp": ("ManyProcesses",),
    "tensor parallel": ("cut_model",),
    "sharded checkpoint": ("sharded_checkpoint",),
    "scaling laws": ("ScalingLaw", "fit"),
    "packing": ("pack", "packed_batch"),
    "shards": ("Shards", "ShardWriter", "ShardLoader"),
    "wsd": ("warmup_stable_decay",),
    "newton-schulz": ("orthogonalise",),
    "base model": ("base", "stages"),
    "moe": ("MixtureOfExperts", "Experts"),
    "mixture of experts": ("MixtureOfExperts", "Experts"),
    "gating": ("Router", "choose_top_k", "weigh"),
    "top-k routing": ("choose_top_k", "weigh"),
    "noisy top-k": ("noisy_logits",),
    "load balancing": ("load_balancing_loss", "bias_step", "importance_loss"),
    "expert capacity": ("within_capacity",),
    "token dropping": ("within_capacity",),
    "dispatch": ("dispatch_grouped", "dispatch_loop"),
    "shared experts": ("Experts", "MixtureOfExperts"),
    "expert choice": ("choose_by_experts",),
    "z-loss": ("router_z_loss",),
    "selection bias": ("bias_step", "move_selection_biases"),
    "upcycling": ("upcycle",),
    "expert parallel": ("DividedStack", "DividedExperts"),
    "attention": ("attend", "SelfAttention", "attention_weights"),
    "self-attention": ("SelfAttention", "attend"),
    "scaled dot-product attention": ("attend", "attention_weights"),
    "multi-head attention": ("SelfAttention", "split_heads", "merge_heads"),
    "heads": ("SelfAttention", "split_heads", "merge_heads"),
    "mask": ("causal_mask", "padding_mask"),
    "positions": ("sinusoidal_positions", "LearnedPositions"),
    "position encoding": ("sinusoidal_positions", "LearnedPositions"),
    "layer norm": ("LayerNorm", "layer_norm"),
    "norm": ("LayerNorm", "layer_norm"),
    "activation": ("gelu", "gelu_tanh", "relu"),
    "mlp": ("FeedForward",),
    "ffn": ("FeedForward",),
    "residual": ("Block",),
    "pre-norm": ("Block",),
    "weight tying": ("Transformer",),
    "gpt-2": ("PRESETS", "ModelConfig"),
    "parameters": ("summary",),
    "flops": ("summary",),
    "bytes": ("ByteTokenizer",),
    "characters": ("CharacterTokenizer",),
    "tokenizer": ("ByteTokenizer", "CharacterTokenizer", "Tokenizer"),
    "corpus": ("load_corpus", "Corpus"),
    "batches": ("sliding_window", "document_aligned", "windows"),
    "loss": ("cross_entropy", "perplexity", "bits_per_byte"),
    "schedule": ("warmup_cosine",),
    "warm-up": ("warmup_cosine",),
    "cosine": ("warmup_cosine",),
    "training loop": ("training_steps", "train"),
    "loop": ("training_steps", "train"),
    "clipping": ("training_steps",),
    "temperature": ("scale_temperature", "Sampling"),
    "top-k": ("keep_top_k",),
    "top-p": ("keep_top_p",),
    "nucleus": ("keep_top_p",),
    "min-p": ("keep_min_p",),
    "repetition penalty": ("penalise_repetition",),
    "greedy": ("Sampling",),
    "sampling": ("Sampling", "next_token_probabilities", "sample_token"),
    "decoding": ("generate", "generate_text"),
    "rope": ("Rope", "rotate", "rotary_frequencies"),
    "rotary positions": ("Rope", "rotate", "rotary_frequencies"),
    "yarn": ("Rope", "rotary_frequencies"),
    "ntk": ("Rope", "rotary_frequencies"),
    "swiglu": ("GatedFeedForward",),
    "geglu": ("GatedFeedForward",),
    "gqa": ("SelfAttention", "grouped"),
    "mqa": ("SelfAttention", "grouped"),
    "grouped-query attention": ("SelfAttention", "grouped"),
    "mla": ("LatentAttention", "Latent"),
    "multi-head latent attention": ("LatentAttention", "Latent"),
    "kv cache": ("DenseCache", "RollingCache", "PagedCache"),
    "cache": ("DenseCache", "RollingCache", "PagedCache"),
    "paged attention": ("PagedCache",),
    "rolling buffer": ("RollingCache",),
    "window": ("Visibility", "sliding_window_mask"),
    "attention sinks": ("Visibility", "RollingCache"),
    "sinks": ("Visibility", "RollingCache"),
    "flash attention": ("flash_attention", "triton_attention"),
    "speculative decoding": ("speculative_generate", "acceptance", "residual"),
    "conversation": ("Conversation",),
    "streaming": ("stream", "stream_text"),
    "packing weights": ("prepare_for_inference", "PackedLinear"),
    "presets": ("PRESETS", "ModelConfig"),
    "hugging face": ("load_huggingface", "save_huggingface"),
    "entropy floor": ("log_probability",),
    "floor": ("log_probability",),
}


# What a module's own source line would get wrong: a file of several ideas cites one of them first.
SOURCES: dict[str, str | None] = {
    "Linear": None,
    "Embedding": None,
    "relu": None,
    "Dropout": "1207.0580",
    "Sampling": None,
    "scale_temperature": None,
    "keep_top_p": "1904.09751",
    "keep_min_p": "2407.01082",
    "penalise_repetition": "1909.05858",
    "next_token_probabilities": None,
    "sample_token": None,
}


@dataclass(frozen=True)
class Location:
    """Where a name is defined, which part teaches it and where it comes from."""

    name: str
    file: Path
    line: int  # counted from 1
    kind: str  # "function", "class", "constant" or "module"
    part: Part | None  # None for the tools around the course
    paper: Paper | None


def part_of(name: str) -> Part | None:
    """The part that teaches a module or definition, by its dotted name: the longest match wins."""
    best: tuple[int, Part | None] = (0, None)
    for part in PARTS:
        for known in part.modules + part.definitions:
            if (name == known or name.startswith(known + ".")) and len(known) > best[0]:
                best = (len(known), part)
    return best[1]


def where(name: str) -> list[Location]:
    """Find a function, class, constant, module or concept; an empty list if there is none.

    Case, spaces, hyphens and underscores do not matter. A concept ("top-p", "flops") gives the
    definitions that carry it. What a part teaches comes before the tools around the course.

    Raises:
        ValueError: `name` is empty.
    """
    key = _plain(name)
    if not key:
        raise ValueError("name is empty; say what to look for, for example: attend")
    alike = [found for found in definitions() if _plain(found.name) == key]
    # First what was typed letter by letter, then the concept's definitions, then near spellings.
    typed = [found for found in alike if found.name == name.strip() and found.kind != "module"]
    targets = next((names for alias, names in CONCEPTS.items() if _plain(alias) == key), ())
    concept = [found for target in targets for found in definitions() if found.name == target]
    ordered = [_locate(found) for found in dict.fromkeys([*typed, *concept, *alike])]
    return sorted(ordered, key=lambda location: location.part is None)


def nearest(name: str, n: int = 3) -> list[str]:
    """Up to `n` known names that resemble `name`, best first."""
    known = {_plain(found.name): found.name for found in definitions()}
    known |= {_plain(alias): alias for alias in CONCEPTS}
    close = difflib.get_close_matches(_plain(name), list(known), n=n, cutoff=0.7)
    return [known[key] for key in close]


def planned(name: str) -> Part | None:
    """The part that will teach a topic and is not in this edition yet, if there is one."""
    for part in PARTS:
        if not part.ready and _plain(name) in {_plain(topic) for topic in part.topics}:
            return part
    return None


def _locate(found: Definition) -> Location:
    if found.name in SOURCES:
        source = SOURCES[found.name]
    else:
        source = next(iter(found.cites or found.header_cites), None)
    paper = PAPERS.get(source) if source else None
    part = part_of(f"{found.module}.{found.name}")
    return Location(found.name, found.file, found.line, found.kind, part, paper)


def _plain(name: str) -> str:
    return re.sub(r"[\s_\-./]+", "", name).casefold()
