"""Measuring models: scores of text, and reports against what is known to be true."""

from llmcourse.evaluate.language import Score, score_documents, score_text, total_loss

__all__ = ["Score", "score_documents", "score_text", "total_loss"]
