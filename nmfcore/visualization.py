"""Feature visualization: pictures that a direction of feature space responds to, by gradient ascent (section 5.2).

A direction is a vector over the channels of a layer: a row of V, or one channel.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from .feature_maps import Images, Preprocess, image_set, mapped
from .gate import (
    LayerName,
    check_channels,
    check_counts,
    described,
    find_layer,
    first_outputs,
    full_precision,
    is_dense,
    layout,
    ready,
    running,
    unwrapped,
)

# A square root of the correlation of R, G and B over the pixels of two photographs that come with scikit-learn; a test
# computes it again. Channels of a photograph vary together, and a picture that starts so looks less garish.
COLOR = ((0.8307, 0.4622, 0.3104), (0.4622, 0.6941, 0.5519), (0.3104, 0.5519, 0.774))


def visualize(model: nn.Module, directions: Tensor, *, layer: LayerName, preprocess: Callable[[Tensor], Tensor],
              channels: str | None = None, skip: int = 0, side: int = 128, steps: int = 256, step_size: float = 0.05,
              objective: str = "cosine", seed: int = 0) -> Tensor:
    """Images (n, 3, side, side), RGB in [0, 1], one for each direction.

    Images are given by their Fourier coefficients, scaled to the spectrum of photographs, in colours that are
    uncorrelated, and are moved, scaled and rotated a little before each step, as Olah et al. do. All start from the
    same noise and undergo the same movements, so that an image does not depend on the other directions. The model is
    run in evaluation mode and left as it was, and so is PyTorch's random state.

    Args:
        model: any `nn.Module`.
        directions: (n, C), C the channels of `layer`.
        layer: by name, or the module itself.
        preprocess: from RGB (n, 3, side, side) in [0, 1] to what the model expects.
        channels, skip: as for `feature_maps`.
        side: of the images, in pixels; 32 at least.
        steps: of Adam.
        step_size: of Adam.
        objective: of which the mean over positions is raised:

            - "cosine" between activation and direction (eq. 5.1);
            - "dot_cosine", the dot product times the cosine, for directions that little else is close to, as single
              channels (Olah, Mordvintsev and Schubert 2017).
        seed: of the noise and the movements.

    Raises:
        ValueError: a layer that does not exist or gives no feature maps, a direction of another width, that is zero or
            not finite, a side below 32, and an unknown objective.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 5, stride=2), nn.ReLU())
        >>> channels, centred = torch.eye(8)[:2], lambda images: images - 0.5
        >>> visualize(model, channels, layer="1", preprocess=centred, side=32, steps=4).shape
        torch.Size([2, 3, 32, 32])
    """
    if not isinstance(objective, str) or objective not in ("cosine", "dot_cosine"):
        raise ValueError(f"objective {objective!r} is not 'cosine' or 'dot_cosine'")
    check_counts(steps=steps)
    check_counts(side=side)
    if side < 32:
        raise ValueError(f"side={side} must be at least 32 pixels")
    if not callable(preprocess):
        raise ValueError(f"preprocess is {described(preprocess)}; expected a function of images (n, 3, H, W) in [0, 1]")
    check_channels(channels, skip)
    model = unwrapped(model)
    wanted_layer = find_layer(model, layer)
    device = next((parameter.device for parameter in model.parameters()), _unit(directions).device)
    from torchvision.transforms import v2  # longer to import than torch

    move = v2.Compose([
        v2.Pad(side // 8, padding_mode="reflect"),
        v2.RandomAffine(5, translate=(1 / 16, 1 / 16), scale=(0.9, 1.1), interpolation=v2.InterpolationMode.BILINEAR,
                        fill=None),  # a fill would be written in place, which has no gradient
        v2.CenterCrop(side)])
    devices = [device] if device.type == "cuda" else []
    evidence: dict | None = {}
    where = None
    with torch.random.fork_rng(devices), running(model, gradient=True):
        wanted = _unit(directions).to(device)[:, :, None, None]
        torch.manual_seed(seed)
        spectrum = 0.01 * torch.randn(3, side, side // 2 + 1, 2)
        spectrum = spectrum.expand(len(wanted), -1, -1, -1, -1).to(device).clone().requires_grad_()
        optimizer = torch.optim.Adam([spectrum], lr=step_size)
        for _ in range(steps):
            inputs = ready(model, preprocess(move(from_spectrum(spectrum, side))), "what preprocess gives")
            if len(inputs) != len(wanted) or not inputs.requires_grad:
                raise ValueError(f"preprocess gives {tuple(inputs.shape)} for {len(wanted)} images; expected as many, "
                                 "differentiable")
            output = first_outputs(model, [wanted_layer], inputs, evidence=evidence)[wanted_layer.name]
            if where is None:
                where = layout(wanted_layer, output, len(inputs), channels=channels, skip=skip,
                               evidence=(evidence or {})[wanted_layer.name])
                evidence = None
            maps = _maps(where, output, wanted_layer.name, wanted)
            dot = (maps * wanted).sum(1)
            cosine = dot / maps.norm(dim=1).clamp(min=1e-6)
            gain = cosine if objective == "cosine" else dot * cosine.clamp(min=0.1)
            optimizer.zero_grad()
            slope, = torch.autograd.grad(-gain.mean((1, 2)).sum(), spectrum, allow_unused=True)
            if slope is None:
                raise ValueError(f"layer {wanted_layer.name!r} does not depend on the images, so nothing can be "
                                 "improved")
            spectrum.grad = slope
            optimizer.step()
        return from_spectrum(spectrum.detach(), side)


@full_precision()
def responses(model: nn.Module, images: Images, directions: Tensor, *, layer: LayerName, channels: str | None = None,
              skip: int = 0, preprocess: Preprocess = None) -> Tensor:
    """(m, n): the mean over positions of the cosine between the activations of m images and n directions (n, C).

    A visualization that shows what it should has the largest entry of its row at its own direction.

    Args:
        model, images, layer, channels, skip, preprocess: as for `feature_maps`.
        directions: (n, C), C the channels of `layer`.

    Raises:
        ValueError: as `visualize` and `feature_maps`.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 5, stride=2), nn.ReLU())
        >>> responses(model, torch.rand(4, 3, 32, 32), torch.eye(8)[:2], layer="1").shape
        torch.Size([4, 2])
    """
    wanted = _unit(directions)
    images = image_set(images, preprocess)
    found: dict[int, Tensor] = {}
    with torch.no_grad():
        for i, _, maps in mapped(model, images, layer, channels=channels, skip=skip, signed=True):
            if len(maps) != wanted.shape[1]:
                raise ValueError(f"directions of {wanted.shape[1]} channels do not fit the {len(maps)} of {layer!r}")
            found[i] = torch.einsum("chw,nc->nhw", normalize(maps, dim=0), wanted.to(maps)).mean((1, 2))
    return torch.stack([found[i] for i in range(len(found))])


def from_spectrum(spectrum: Tensor, side: int) -> Tensor:
    """Images (n, 3, side, side) in [0, 1] from Fourier coefficients (n, 3, side, side // 2 + 1, 2).

    The coefficients are divided by their frequency, as those of photographs fall off, so that a step of Adam changes
    large forms and small ones alike; the colours are uncorrelated (see `COLOR`).

    Example:
        >>> from_spectrum(torch.zeros(1, 3, 32, 17, 2), 32).unique()
        tensor([0.5000])
    """
    scaled = torch.view_as_complex(spectrum) * _scale(side).to(spectrum.device)
    plain = torch.fft.irfft2(scaled, s=(side, side)) / 4
    return torch.einsum("dc,nchw->ndhw", torch.tensor(COLOR, device=spectrum.device), plain).sigmoid()


def to_spectrum(images: Tensor) -> Tensor:
    """The coefficients from which `from_spectrum` makes images (n, 3, side, side), to start an optimization there.

    Values are kept 1/512 away from 0 and 1, which no finite coefficients give.

    Raises:
        ValueError: images of other shapes.

    Example:
        >>> images = torch.rand(2, 3, 32, 32) * 0.9 + 0.05
        >>> spectrum = to_spectrum(images)
        >>> spectrum.shape, torch.allclose(from_spectrum(spectrum, 32), images, atol=1e-4)
        (torch.Size([2, 3, 32, 17, 2]), True)
    """
    if images.dim() != 4 or images.shape[1] != 3 or images.shape[2] != images.shape[3]:
        raise ValueError(f"images must be square, (n, 3, side, side), got {tuple(images.shape)}")
    color = torch.linalg.inv(torch.tensor(COLOR, dtype=torch.float64)).float().to(images.device)
    plain = torch.einsum("dc,nchw->ndhw", color, images.logit(1 / 512))
    return torch.view_as_real(4 * torch.fft.rfft2(plain) / _scale(images.shape[-1]).to(images.device))


def _unit(directions):
    if not is_dense(directions) or directions.dim() != 2 or not len(directions) or directions.is_complex():
        raise ValueError(f"directions must have shape (n, C) with n ≥ 1, got {described(directions)}")
    length = directions.float().norm(dim=1)
    wrong = (~(torch.isfinite(length) & (length > 0))).nonzero().flatten().tolist()
    if wrong:
        raise ValueError(f"direction {wrong[0]} has length {float(length[wrong[0]]):g}; leave it out")
    return directions.float().detach() / length[:, None].detach()


def _maps(where, output, name, wanted):
    """(n, C, h, w) float: a layer's output, the tokens in one line, as only means over positions are taken."""
    if output.dim() != 4 and where.channels != "tokens":
        raise ValueError(f"layer {name!r} gives {tuple(output.shape)}, not feature maps (n, C, H, W)")
    maps = where.channels_first(output)
    if maps.shape[1] != wanted.shape[1]:
        raise ValueError(f"directions of {wanted.shape[1]} channels do not fit the {maps.shape[1]} of {name!r}")
    maps = maps[:, :, None] if maps.dim() == 3 else maps
    return maps.to(torch.promote_types(maps.dtype, torch.float32))


def _scale(side):
    """(side, side // 2 + 1): how large the coefficients of photographs are at each frequency."""
    return side / torch.hypot(torch.fft.fftfreq(side)[:, None], torch.fft.rfftfreq(side)).clamp(min=1 / side)
