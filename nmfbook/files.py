"""Writing so that an interrupted run leaves the old file whole: beside it first, then in its place."""

import os
from pathlib import Path

import torch
from safetensors.torch import save_file


def save_text(text: str, file: Path) -> None:
    """Write a text file in one step. Raises OSError, with the file's name, and leaves nothing behind."""
    _in_one_step(file, lambda partial: partial.write_text(text, encoding="utf-8"))


def save_tensors(tensors: dict[str, torch.Tensor], file: Path) -> None:
    """Write tensors, of any device, as safetensors in one step."""
    whole = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    _in_one_step(file, lambda partial: save_file(whole, partial))


def _in_one_step(file, write):
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.name}.partial{os.getpid()}")
    try:
        write(partial)
        os.replace(partial, file)
    finally:
        partial.unlink(missing_ok=True)
