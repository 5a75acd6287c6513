"""Feature visualization: pictures that a direction of feature space responds to, by gradient ascent (section 5.2).

A direction is a vector over the channels of a layer: a row of V, or one channel.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from torchvision.transforms import v2

from .activations import _Captured, capture, evaluation_mode

# A square root of the correlation of R, G and B over the pixels of two photographs that come with scikit-learn; a test
# computes it again. Channels of a photograph vary together, and a picture that starts so looks less garish.
COLOR = ((0.8307, 0.4622, 0.3104), (0.4622, 0.6941, 0.5519), (0.3104, 0.5519, 0.774))


def visualize(model: nn.Module, directions: Tensor, *, layer: str, preprocess: Callable[[Tensor], Tensor],
              side: int = 128, steps: int = 256, step_size: float = 0.05, objective: str = "cosine",
              seed: int = 0) -> Tensor:
    """Images (n, 3, side, side), RGB in [0, 1], one for each direction.

    directions: (n, C), C the channels of `layer`. preprocess: from RGB in [0, 1] to what the model expects.
    objective, of which the mean over positions is raised in `steps` steps of Adam:

    - "cosine" between activation and direction (eq. 5.1);
    - "dot_cosine", the dot product times the cosine, for directions that little else is close to, as single channels
      (Olah, Mordvintsev and Schubert 2017).

    Images are given by their Fourier coefficients, scaled to the spectrum of photographs, in colours that are
    uncorrelated, and are moved, scaled and rotated a little before each step, as Olah et al. do. All start from the
    same noise and undergo the same movements, so that an image does not depend on the other directions. The model is
    run in evaluation mode and left as it was, and so is PyTorch's random state.

    Raises ValueError for a layer that does not exist or gives no feature maps, a direction of another width, that is
    zero or not finite, a side below 32, and an unknown objective.
    """
    if objective not in ("cosine", "dot_cosine"):
        raise ValueError(f"objective {objective!r} is not 'cosine' or 'dot_cosine'")
    if side < 32 or steps < 1:
        raise ValueError(f"side={side} must be at least 32 pixels, steps={steps} at least 1")
    module = dict(model.named_modules()).get(layer)
    if module is None:
        raise ValueError(f"the model has no layer {layer!r}")
    device = next((parameter.device for parameter in model.parameters()), directions.device)
    wanted = _unit(directions).to(device)[:, :, None, None]
    move = v2.Compose([
        v2.Pad(side // 8, padding_mode="reflect"),
        v2.RandomAffine(5, translate=(1 / 16, 1 / 16), scale=(0.9, 1.1), interpolation=v2.InterpolationMode.BILINEAR,
                        fill=None),  # a fill would be written in place, which has no gradient
        v2.CenterCrop(side)])
    seen: list[Tensor] = []

    def stop(_module, _args, output):
        seen.append(output)
        raise _Captured

    handle = module.register_forward_hook(stop)
    devices = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices), torch.enable_grad(), evaluation_mode(model):
            torch.manual_seed(seed)
            spectrum = 0.01 * torch.randn(3, side, side // 2 + 1, 2)
            spectrum = spectrum.expand(len(wanted), -1, -1, -1, -1).to(device).clone().requires_grad_()
            optimizer = torch.optim.Adam([spectrum], lr=step_size)
            for _ in range(steps):
                seen.clear()
                try:
                    model(preprocess(move(from_spectrum(spectrum, side))))
                except _Captured:
                    pass
                _check(seen, layer, wanted)
                dot = (seen[0] * wanted).sum(1)
                cosine = dot / seen[0].norm(dim=1).clamp(min=1e-6)
                gain = cosine if objective == "cosine" else dot * cosine.clamp(min=0.1)
                optimizer.zero_grad()
                spectrum.grad, = torch.autograd.grad(-gain.mean((1, 2)).sum(), spectrum)
                optimizer.step()
    finally:
        handle.remove()
    return from_spectrum(spectrum.detach(), side)


def responses(model: nn.Module, images: Tensor, directions: Tensor, *, layer: str) -> Tensor:
    """(m, n): the mean over positions of the cosine between the activations of m images and n directions (n, C).

    images: (m, 3, H, W), as the model expects them. A visualization that shows what it should has the largest entry of
    its row at its own direction. Raises ValueError as `visualize` does.
    """
    with torch.no_grad():
        maps = capture(model, layer, images)[layer]
    wanted = _unit(directions).to(maps.device)
    _check([maps], layer, wanted[:, :, None, None])
    return torch.einsum("mchw,nc->mnhw", normalize(maps, dim=1), wanted).mean((2, 3))


def from_spectrum(spectrum: Tensor, side: int) -> Tensor:
    """Images (n, 3, side, side) in [0, 1] from Fourier coefficients (n, 3, side, side // 2 + 1, 2).

    The coefficients are divided by their frequency, as those of photographs fall off, so that a step of Adam changes
    large forms and small ones alike; the colours are uncorrelated (see `COLOR`).
    """
    scaled = torch.view_as_complex(spectrum) * _scale(side).to(spectrum.device)
    plain = torch.fft.irfft2(scaled, s=(side, side)) / 4
    return torch.einsum("dc,nchw->ndhw", torch.tensor(COLOR, device=spectrum.device), plain).sigmoid()


def to_spectrum(images: Tensor) -> Tensor:
    """The coefficients from which `from_spectrum` makes images (n, 3, side, side), to start an optimization there.

    Values are kept 1/512 away from 0 and 1, which no finite coefficients give. Raises ValueError for other shapes.
    """
    if images.dim() != 4 or images.shape[1] != 3 or images.shape[2] != images.shape[3]:
        raise ValueError(f"images must be square, (n, 3, side, side), got {tuple(images.shape)}")
    color = torch.linalg.inv(torch.tensor(COLOR, dtype=torch.float64)).float().to(images.device)
    plain = torch.einsum("dc,nchw->ndhw", color, images.logit(1 / 512))
    return torch.view_as_real(4 * torch.fft.rfft2(plain) / _scale(images.shape[-1]).to(images.device))


def _unit(directions):
    if directions.dim() != 2 or not len(directions):
        raise ValueError(f"directions must have shape (n, C) with n ≥ 1, got {tuple(directions.shape)}")
    length = directions.float().norm(dim=1)
    wrong = (~(torch.isfinite(length) & (length > 0))).nonzero().flatten().tolist()
    if wrong:
        raise ValueError(f"direction {wrong[0]} has length {float(length[wrong[0]]):g}; leave it out")
    return directions.float() / length[:, None]


def _check(seen, layer, wanted):
    if not seen or seen[0].dim() != 4:
        raise ValueError(f"layer {layer!r} gives {tuple(seen[0].shape) if seen else 'nothing'}, not feature maps "
                         f"(n, C, H, W)")
    if seen[0].shape[1] != wanted.shape[1]:
        raise ValueError(f"directions of {wanted.shape[1]} channels do not fit the {seen[0].shape[1]} of {layer!r}")


def _scale(side):
    """(side, side // 2 + 1): how large the coefficients of photographs are at each frequency."""
    return side / torch.hypot(torch.fft.fftfreq(side)[:, None], torch.fft.rfftfreq(side)).clamp(min=1 / side)
