"""Text and tensors written in one step: an interrupted run leaves the old file whole."""

from pathlib import Path

import torch
from safetensors.torch import save_file

from nmfcore._files import replacing


def save_text(text: str, file: Path) -> None:
    """Write a text file. Raises OSError, with the file's name, and leaves nothing behind."""
    with replacing(file) as partial:
        partial.write_text(text, encoding="utf-8")


def save_tensors(tensors: dict[str, torch.Tensor], file: Path) -> None:
    """Write tensors, of any device, as safetensors."""
    with replacing(file) as partial:
        save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, partial)
