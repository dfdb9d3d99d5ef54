"""Other programs' models and files: reading them, writing them. Part 3 onwards."""

from llmcourse.interop.huggingface import load_huggingface, save_huggingface

__all__ = ["load_huggingface", "save_huggingface"]
