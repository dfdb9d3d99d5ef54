"""The papers behind the course, each once: author, year, and where to read it for free.

Source lines in the package name a paper by its arXiv number; `llmcourse where` looks the rest up
here. A test holds every number that the package mentions against this list.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Paper:
    """One publication; `str(paper)` is how the course cites it."""

    authors: str  # surnames as cited, "Vaswani et al."
    year: int  # of the first public version
    title: str
    arxiv: str | None = None  # "1706.03762"; None where there is none

    @property
    def link(self) -> str:
        """Where to read it: the arXiv page, or nothing for the few that are elsewhere."""
        return f"https://arxiv.org/abs/{self.arxiv}" if self.arxiv else ""

    def __str__(self) -> str:
        place = f", arXiv {self.arxiv}" if self.arxiv else ""
        return f"{self.authors} {self.year}, {self.title}{place}"


_TABLE = """
1207.0580 | Hinton et al. | 2012 | Improving Neural Networks by Preventing Co-adaptation
1211.5063 | Pascanu et al. | 2012 | On the Difficulty of Training Recurrent Neural Networks
1412.6980 | Kingma and Ba | 2014 | Adam: A Method for Stochastic Optimization
1506.02438 | Schulman et al. | 2015 | Continuous Control Using Generalized Advantage Estimation
1508.07909 | Sennrich et al. | 2015 | Neural Machine Translation of Rare Words with Subword Units
1512.03385 | He et al. | 2015 | Deep Residual Learning for Image Recognition
1604.06174 | Chen et al. | 2016 | Training Deep Nets with Sublinear Memory Cost
1606.08415 | Hendrycks and Gimpel | 2016 | Gaussian Error Linear Units
1607.06450 | Ba et al. | 2016 | Layer Normalization
1608.03983 | Loshchilov and Hutter | 2016 | SGDR: Stochastic Gradient Descent with Warm Restarts
1608.05859 | Press and Wolf | 2016 | Using the Output Embedding to Improve Language Models
1701.06538 | Shazeer et al. | 2017 | The Sparsely-Gated Mixture-of-Experts Layer
1705.08039 | Nickel and Kiela | 2017 | Poincaré Embeddings for Learning Hierarchies
1706.03741 | Christiano et al. | 2017 | Deep Reinforcement Learning from Human Preferences
1706.03762 | Vaswani et al. | 2017 | Attention Is All You Need
1707.06347 | Schulman et al. | 2017 | Proximal Policy Optimization Algorithms
1710.03740 | Micikevicius et al. | 2017 | Mixed Precision Training
1711.05101 | Loshchilov and Hutter | 2017 | Decoupled Weight Decay Regularization
1805.04833 | Fan et al. | 2018 | Hierarchical Neural Story Generation
1904.09751 | Holtzman et al. | 2019 | The Curious Case of Neural Text Degeneration
1909.05858 | Keskar et al. | 2019 | CTRL: A Conditional Transformer Language Model
1909.08053 | Shoeybi et al. | 2019 | Megatron-LM: Training Multi-Billion Parameter Language Models
1909.08593 | Ziegler et al. | 2019 | Fine-Tuning Language Models from Human Preferences
1910.07467 | Zhang and Sennrich | 2019 | Root Mean Square Layer Normalization
1911.02150 | Shazeer | 2019 | Fast Transformer Decoding: One Write-Head is All You Need
2001.08361 | Kaplan et al. | 2020 | Scaling Laws for Neural Language Models
2002.04745 | Xiong et al. | 2020 | On Layer Normalization in the Transformer Architecture
2002.05202 | Shazeer | 2020 | GLU Variants Improve Transformer
2004.05150 | Beltagy et al. | 2020 | Longformer: The Long-Document Transformer
2006.15704 | Li et al. | 2020 | PyTorch Distributed: Accelerating Data Parallel Training
2006.16668 | Lepikhin et al. | 2020 | GShard: Scaling Giant Models with Conditional Computation
2009.01325 | Stiennon et al. | 2020 | Learning to Summarize from Human Feedback
2010.04245 | Henry et al. | 2020 | Query-Key Normalization for Transformers
2012.14913 | Geva et al. | 2020 | Transformer Feed-Forward Layers Are Key-Value Memories
2101.00027 | Gao et al. | 2021 | The Pile: An 800GB Dataset of Diverse Text for Language Modeling
2101.03961 | Fedus et al. | 2021 | Switch Transformers
2103.03404 | Dong et al. | 2021 | Attention is not all you need: Pure Attention Loses Rank
2104.09864 | Su et al. | 2021 | RoFormer: Transformer with Rotary Position Embedding
2105.13626 | Xue et al. | 2021 | ByT5: Towards a Token-Free Future
2106.09685 | Hu et al. | 2021 | LoRA: Low-Rank Adaptation of Large Language Models
2109.01652 | Wei et al. | 2021 | Finetuned Language Models Are Zero-Shot Learners
2109.08668 | So et al. | 2021 | Primer: Searching for Efficient Transformers
2202.08906 | Zoph et al. | 2022 | ST-MoE: Designing Stable and Transferable Sparse Expert Models
2202.09368 | Zhou et al. | 2022 | Mixture-of-Experts with Expert Choice Routing
2203.02155 | Ouyang et al. | 2022 | Training Language Models to Follow Instructions
2203.15556 | Hoffmann et al. | 2022 | Training Compute-Optimal Large Language Models
2204.02311 | Chowdhery et al. | 2022 | PaLM: Scaling Language Modeling with Pathways
2205.14135 | Dao et al. | 2022 | FlashAttention
2209.11895 | Olsson et al. | 2022 | In-context Learning and Induction Heads
2210.10760 | Gao et al. | 2022 | Scaling Laws for Reward Model Overoptimization
2211.15841 | Gale et al. | 2022 | MegaBlocks: Efficient Sparse Training with Mixture-of-Experts
2211.17192 | Leviathan et al. | 2022 | Fast Inference from Transformers via Speculative Decoding
2212.05055 | Komatsuzaki et al. | 2022 | Sparse Upcycling
2302.01318 | Chen et al. | 2023 | Accelerating LLM Decoding with Speculative Sampling
2304.11277 | Zhao et al. | 2023 | PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel
2305.07759 | Eldan and Li | 2023 | TinyStories
2305.13245 | Ainslie et al. | 2023 | GQA: Training Generalized Multi-Query Transformers
2305.18290 | Rafailov et al. | 2023 | Direct Preference Optimization
2306.15595 | Chen et al. | 2023 | Extending Context Window via Positional Interpolation
2307.08691 | Dao | 2023 | FlashAttention-2
2307.09288 | Touvron et al. | 2023 | Llama 2: Open Foundation and Fine-Tuned Chat Models
2309.00071 | Peng et al. | 2023 | YaRN: Efficient Context Window Extension
2309.06180 | Kwon et al. | 2023 | Efficient Memory Management with PagedAttention
2309.17453 | Xiao et al. | 2023 | Efficient Streaming Language Models with Attention Sinks
2310.06825 | Jiang et al. | 2023 | Mistral 7B
2401.04088 | Jiang et al. | 2024 | Mixtral of Experts
2401.06066 | Dai et al. | 2024 | DeepSeekMoE
2402.01739 | Xue et al. | 2024 | OpenMoE: An Early Effort on Open Mixture-of-Experts Models
2402.03300 | Shao et al. | 2024 | DeepSeekMath
2403.17031 | Huang et al. | 2024 | The N+ Implementation Details of RLHF with PPO
2404.06395 | Hu et al. | 2024 | MiniCPM: Unveiling the Potential of Small Language Models
2404.10830 | Ding et al. | 2024 | Fewer Truncations Improve Language Modeling
2405.04434 | DeepSeek-AI | 2024 | DeepSeek-V2
2405.18392 | Hägele et al. | 2024 | Scaling Laws and Compute-Optimal Training Beyond Fixed Durations
2406.17557 | Penedo et al. | 2024 | The FineWeb Datasets: Decanting the Web for the Finest Text Data
2407.01082 | Nguyen et al. | 2024 | Turning Up the Heat: Min-p Sampling
2407.10671 | Yang et al. | 2024 | Qwen2 Technical Report
2407.21783 | Grattafiori et al. | 2024 | The Llama 3 Herd of Models
2408.00118 | Gemma Team | 2024 | Gemma 2: Improving Open Language Models at a Practical Size
2408.15664 | Wang et al. | 2024 | Auxiliary-Loss-Free Load Balancing Strategy
2409.02060 | Muennighoff et al. | 2024 | OLMoE: Open Mixture-of-Experts Language Models
2412.05496 | Dong et al. | 2024 | Flex Attention: Generating Optimized Attention Kernels
2412.06769 | Hao et al. | 2024 | Training Large Language Models to Reason in Latent Space
2412.08821 | LCM team et al. | 2024 | Large Concept Models
2412.09871 | Pagnoni et al. | 2024 | Byte Latent Transformer
2412.15115 | Qwen Team | 2024 | Qwen2.5 Technical Report
2412.19437 | DeepSeek-AI | 2024 | DeepSeek-V3 Technical Report
2501.00656 | OLMo Team | 2025 | 2 OLMo 2 Furious
2501.12948 | DeepSeek-AI | 2025 | DeepSeek-R1
2502.16982 | Liu et al. | 2025 | Muon is Scalable for LLM Training
2503.14476 | Yu et al. | 2025 | DAPO: An Open-Source LLM Reinforcement Learning System
2503.19786 | Gemma Team | 2025 | Gemma 3 Technical Report
2503.20783 | Liu et al. | 2025 | Understanding R1-Zero-Like Training
2505.09388 | Qwen Team | 2025 | Qwen3 Technical Report
"""


def _read(table: str) -> dict[str, Paper]:
    papers = {}
    for line in table.strip().splitlines():
        arxiv, authors, year, title = (cell.strip() for cell in line.split("|"))
        papers[arxiv] = Paper(authors, int(year), title, arxiv)
    return papers


# By arXiv number; the few that are not on arXiv by a short name.
PAPERS: dict[str, Paper] = _read(_TABLE) | {
    "gpt2": Paper("Radford et al.", 2019, "Language Models are Unsupervised Multitask Learners"),
    "shannon": Paper("Shannon", 1951, "Prediction and Entropy of Printed English"),
    "bradley-terry": Paper("Bradley and Terry", 1952, "Rank Analysis of Incomplete Block Designs"),
}
