"""Arithmetic: sums and word problems with worked steps, of any difficulty, each verifiable.

Taught in Part 4, where it joins the base model's training text; worked on in the parts on
instructions and on rewards. Unlike the tales, whose next sentence is open, a question here has one
right answer, and a long way to it can be checked step by step.

    difficulty     the dial: digits, operations
    calculation    operations, and the small steps that work them out
    sums           bare calculations, written and read
    templates      the sentences of word problems
    stories        word problems, told and read
    problems       a problem from a seed; the text's form
    verify         judging any text, step by step
    corpus         documents to train on, and others held out by their calculation
"""

from llmcourse.data.arithmetic.calculation import Calculation, Step
from llmcourse.data.arithmetic.corpus import arithmetic_corpus
from llmcourse.data.arithmetic.difficulty import LEVELS, Difficulty
from llmcourse.data.arithmetic.problems import (
    ANSWER,
    QUESTION,
    STEP,
    Problem,
    problem,
    sample,
    solve,
)
from llmcourse.data.arithmetic.verify import StepVerdict, Verdict, verify

__all__ = [
    "ANSWER",
    "LEVELS",
    "QUESTION",
    "STEP",
    "Calculation",
    "Difficulty",
    "Problem",
    "Step",
    "StepVerdict",
    "Verdict",
    "arithmetic_corpus",
    "problem",
    "sample",
    "solve",
    "verify",
]
