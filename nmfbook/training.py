"""Training a classifier until it has every label right, true or random: the networks of thesis chapter 3.

    data = labeled_images("fashion_mnist")
    labels = randomized_labels(data.labels, p=0.5, classes=10)
    history = train(memorization_network("fashion_mnist"), data.inputs(), labels, checkpoint="mlp.safetensors")
    history.converged  # every label learned?

No augmentation: the thesis mentions none. It does not print learning rates or schedules either.
"""

import hashlib
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from tqdm.auto import tqdm

from nmfcore._files import replacing
from nmfcore.gate import logits, ready, run, running

_FORMAT = "nmfcore.training/2"


@contextmanager
def one_thread() -> Iterator[None]:
    """Within the block, PyTorch has one thread: small networks do not share, and two processes of one are faster."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@dataclass(frozen=True)
class History:
    """One entry per epoch. `loss` is the mean over the epoch's batches, accuracies are measured after it."""

    loss: list[float] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)  # on the whole training set, float32; see `near`
    test_accuracy: list[float] = field(default_factory=list)  # empty without `test`

    @property
    def epochs(self) -> int:
        return len(self.accuracy)

    @property
    def converged(self) -> bool:
        """Whether the whole training set is classified right; if not, training stopped at the limit of epochs."""
        return self.epochs > 0 and self.accuracy[-1] == 1.0


def train(model: nn.Module, images: torch.Tensor, labels: torch.Tensor, *, epochs: int = 200, batch_size: int = 100,
          optimizer: str = "sgd", lr: float = 0.01, decay: float = 1.0, weight_decay: float = 0.0, seed: int = 0,
          precision: str = "float32", near: float = 0.0, device: str | torch.device = "cpu",
          test: tuple[torch.Tensor, torch.Tensor] | None = None, checkpoint: str | Path | None = None,
          progress: bool = False) -> History:
    """Train `model` in place until it classifies the whole training set right, for `epochs` epochs at most.

    Cross-entropy; batches are drawn anew in each epoch. On a CPU the same seed and number of threads give the same
    weights to the bit, however often training was interrupted; on CUDA sums may be taken in another order. Layers of
    images are in channels-last layout, which is faster on both.

    Args:
        model: gives (n, classes) logits. Left on `device`, in evaluation mode.
        images: (n, ...) floating, as the model takes them.
        labels: (n,) int64.
        optimizer: "sgd" (momentum 0.9) or "adam".
        decay: factor of the learning rate after each epoch; Zhang et al. 2017 take 0.95. Without it, a network that
            has to learn random labels may hover just below accuracy 1.
        precision: "float32", or "bfloat16": the forward pass in bfloat16 where autocast finds that safe, weights and
            accuracies in float32. About twice as fast on a CPU that has bfloat16 instructions.
        near: measure the accuracy of the whole training set only after epochs whose running accuracy, that of the
            batches as they were trained on, is at least this; until then the running accuracy stands for it.
        test: images and labels on which to measure accuracy after each epoch.
        checkpoint: a safetensors file, written after each epoch: weights, the labels trained on (`labels`), history,
            and until the end the optimizer's and the random state. If it exists, training goes on from it. `epochs`
            counts from the beginning and may be raised.
        progress: show a bar.

    Raises:
        ValueError: data that do not fit together; a loss that is not finite; a checkpoint that is damaged, of
            another kind, or from a training with other data, settings or another model.
    """
    device = torch.device(device)
    _check(images, labels, "training")
    if test is not None:
        _check(*test, "test")
    if batch_size < 1 or epochs < 0 or not 0 < decay <= 1:
        raise ValueError(f"batch_size={batch_size}, epochs={epochs}, decay={decay}: expected at least 1, at least 0, "
                         "and a factor above 0, at most 1")
    if not 0 <= near <= 1:
        raise ValueError(f"near={near} is not an accuracy; take one from 0 to 1")
    settings = dict(batch_size=batch_size, optimizer=optimizer, lr=lr, decay=decay, weight_decay=weight_decay,
                    seed=seed)
    if (precision, near) != ("float32", 0):  # what older checkpoints do not name
        settings |= dict(precision=precision, near=near)
    cuda = device.type == "cuda"
    steps = prepared(model, images, optimizer, lr, weight_decay=weight_decay, precision=precision, device=device)
    history = History()
    with torch.random.fork_rng(devices=[device] if cuda else []):
        torch.manual_seed(seed)  # for the order of the batches, and for models with dropout
        if checkpoint is not None:
            settings |= dict(data=_digest(images, labels), test=None if test is None else _digest(*test),
                             start=_digest(*model.state_dict().values()))
            if Path(checkpoint).exists():
                history = _load(Path(checkpoint), settings, model, steps, device)
        images, labels = images.to(device), labels.to(device)
        if test is not None:
            test = test[0].to(device), test[1].to(device)
        bar = tqdm(total=epochs, initial=history.epochs, unit="epoch") if progress else None
        with nullcontext() if bar is None else bar:
            while history.epochs < epochs and not history.converged:
                for group in steps.param_groups:
                    group["lr"] = lr * decay ** history.epochs
                order = torch.randperm(len(labels)).to(device)
                loss, running = updates(model, steps, images, labels, order.split(batch_size), precision=precision)
                if not loss < float("inf"):
                    raise ValueError(f"the loss is {loss} in epoch {history.epochs + 1}; lower lr={lr}, or look for "
                                     "NaN in the images")
                history.loss.append(loss)
                history.accuracy.append(accuracy(model, images, labels) if running >= near else running)
                if test is not None:
                    history.test_accuracy.append(accuracy(model, *test))
                if checkpoint is not None:
                    _save(Path(checkpoint), settings, model, labels, steps, history, device)
                if bar is not None:
                    bar.set_postfix(loss=f"{loss:.3g}", accuracy=f"{history.accuracy[-1]:.4f}", refresh=False)
                    bar.update()
    model.eval()
    return history


def accuracy(model: nn.Module, images: torch.Tensor, labels: torch.Tensor, *, batch_size: int = 1000) -> float:
    """Share of the images that the model classifies right, in evaluation mode; leaves its mode as it was."""
    with running(model):
        right = [(logits(run(model, ready(model, x)), len(x), least=2).argmax(1) == y.to(x.device)).sum()
                 for x, y in zip(images.split(batch_size), labels.split(batch_size), strict=True)]
    return int(torch.stack(right).sum()) / len(labels)


def prepared(model: nn.Module, images: torch.Tensor, optimizer: str, lr: float, *, weight_decay: float = 0.0,
             precision: str = "float32", device: str | torch.device = "cpu") -> torch.optim.Optimizer:
    """Put a model on its device, in the layout that suits its images, and give it an optimizer: "sgd" or "adam"."""
    if optimizer not in ("sgd", "adam"):
        raise ValueError(f"optimizer {optimizer!r} is neither 'sgd' nor 'adam'")
    if precision not in ("float32", "bfloat16"):
        raise ValueError(f"precision {precision!r} is neither 'float32' nor 'bfloat16'")
    model.to(device=device)
    if images.dim() == 4:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    fused = precision == "bfloat16" or None  # one pass over the weights; float32 keeps the order of its sums
    if optimizer == "sgd":
        return torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=weight_decay, fused=fused)
    return torch.optim.Adam(model.parameters(), lr=lr, weight_decay=weight_decay, fused=fused)


def updates(model: nn.Module, steps: torch.optim.Optimizer, images: torch.Tensor, labels: torch.Tensor,
            batches: Iterable[torch.Tensor], *, precision: str = "float32") -> tuple[float, float]:
    """One update of the weights for each batch of indices; returns loss and accuracy, means over the samples."""
    model.train()
    layout = torch.channels_last if images.dim() == 4 else torch.contiguous_format
    total = torch.zeros(2, device=images.device)  # read once, at the end: reading it makes a GPU wait
    count = 0

    def gradients(batch):
        target = labels[batch]
        with torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            logits = model(images[batch].contiguous(memory_format=layout))
            loss = nn.functional.cross_entropy(logits, target)
        steps.zero_grad()
        loss.backward()
        total.add_(torch.stack([loss.detach() * len(batch), (logits.detach().argmax(1) == target).sum()]))

    with _replayed(gradients, model, images.device) as gradients_of:
        for batch in batches:
            gradients_of(batch)
            steps.step()
            count += len(batch)
    loss, right = (total.double() / count).tolist()
    return loss, right


_EAGER = 3  # batches before one is captured: libraries choose their algorithms in the first


@contextmanager
def _replayed(function: Callable[[torch.Tensor], None], model: nn.Module,
              device: torch.device) -> Iterator[Callable[[torch.Tensor], None]]:
    """A function of a batch that sets the gradients; on a GPU, batches as long as the first replay a CUDA graph of it.

    A small network is otherwise bound by the launches of its kernels.
    """
    if device.type != "cuda":
        yield function
        return
    stream, seen, graph, written, place = torch.cuda.Stream(device), 0, None, [], None

    def call(batch):
        nonlocal seen, graph, written, place
        seen += 1
        if place is None:
            place = batch.clone()
        if seen <= _EAGER or len(batch) != len(place):
            function(batch)
            return
        if graph is None:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=stream):
                function(place)
            written = [parameter.grad for parameter in model.parameters()]
        place.copy_(batch)
        graph.replay()
        for parameter, gradient in zip(model.parameters(), written, strict=True):
            parameter.grad = gradient  # a batch of another length has put others there

    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        yield call
    torch.cuda.current_stream(device).wait_stream(stream)


def _check(images, labels, what):
    if not images.is_floating_point():
        raise ValueError(f"{what} images are {images.dtype}; pass floating ones (of LabeledImages: .inputs())")
    if labels.dtype != torch.int64 or labels.shape != images.shape[:1] or len(labels) == 0:
        raise ValueError(f"{what} labels are {labels.dtype} of shape {tuple(labels.shape)}; expected int64, "
                         f"one for each of {len(images)} images, and at least one")


# --- checkpoints ------------------------------------------------------------------------------------------


def _digest(*tensors):
    """What tells these tensors from others: SHA-256 of them, shortened."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(repr((tensor.shape, tensor.dtype)).encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()[:16]


def _bytes(tensor):
    """A tensor's memory as a flat NumPy array, whatever its type (bfloat16, too)."""
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()


def _crc(tensors, state):
    """Checksum of a checkpoint's content: a safetensors file has none of its own."""
    crc = zlib.crc32(state.encode())
    for key in sorted(tensors):
        crc = zlib.crc32(_bytes(tensors[key]), zlib.crc32(key.encode(), crc))
    return str(crc)


def _save(file, settings, model, labels, steps, history, device):
    tensors = {"labels": labels} | snapshot(model, steps)
    if history.converged:  # nothing will go on from here
        tensors = {key: value for key, value in tensors.items() if not key.startswith("optimizer.")}
    else:
        tensors["rng.cpu"] = torch.get_rng_state()
        if device.type == "cuda":
            tensors["rng.cuda"] = torch.cuda.get_rng_state(device)
    # Clones, because a safetensors file takes no tensors that share memory, as tied weights do.
    tensors = {key: value.detach().cpu().clone(memory_format=torch.contiguous_format)
               for key, value in tensors.items()}
    state = json.dumps({"settings": settings, "history": asdict(history)})
    with replacing(file) as partial:
        save_file(tensors, partial, {"format": _FORMAT, "state": state, "crc32": _crc(tensors, state)})


def snapshot(model: nn.Module, steps: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Weights and optimizer state, named "model.<parameter>" and "optimizer.<number>.<entry>"."""
    tensors = {f"model.{key}": value for key, value in model.state_dict().items()}
    for i, entries in steps.state_dict()["state"].items():
        tensors |= {f"optimizer.{i}.{key}": value for key, value in entries.items()}
    return tensors


def restore(model: nn.Module, steps: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]) -> None:
    """Put back what `snapshot` gave."""
    parameters = [p for group in steps.param_groups for p in group["params"]]
    entries: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, i, entry = key.split(".")
            like = parameters[int(i)]
            value = torch.empty_like(like).copy_(value) if value.shape == like.shape else value  # its layout, too
            entries.setdefault(int(i), {})[entry] = value
    model.load_state_dict({key.removeprefix("model."): value for key, value in tensors.items()
                           if key.startswith("model.")})
    steps.load_state_dict({"state": entries, "param_groups": steps.state_dict()["param_groups"]})


def _load(file, settings, model, steps, device):
    """Put a checkpoint into the model, the optimizer and the random state; returns its history."""
    cure = "delete it to begin anew, or name another file"
    try:
        with safe_open(file, "pt") as f:
            about, tensors = f.metadata() or {}, {key: f.get_tensor(key) for key in f.keys()}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"checkpoint {file} cannot be read ({error}); {cure}") from error
    if about.get("format") != _FORMAT:
        raise ValueError(f"{file} is not a checkpoint of this kind; {cure}")
    if about.get("crc32") != _crc(tensors, about.get("state", "")):
        raise ValueError(f"checkpoint {file} is damaged: its checksum is wrong; {cure}")
    state = json.loads(about["state"])
    own = {f"model.{key}": value for key, value in model.state_dict().items()}
    stored = {key: value for key, value in tensors.items() if key.startswith("model.")}
    misfit = sorted({*own} ^ {*stored}) or [key for key in own if (own[key].shape, own[key].dtype)
                                                    != (stored[key].shape, stored[key].dtype)]
    if misfit:
        raise ValueError(f"checkpoint {file} is of another model: {', '.join(misfit[:4])} differ; {cure}")
    before = state["settings"]
    other = [f"{key}={before.get(key)!r} instead of {settings.get(key)!r}" for key in {**settings, **before}
             if before.get(key) != settings.get(key)]
    if other:
        raise ValueError(f"checkpoint {file} is from another training: {', '.join(other)}; {cure}")
    if "rng.cpu" not in tensors:
        model.load_state_dict({key.removeprefix("model."): value for key, value in stored.items()})
        return History(**state["history"])
    restore(model, steps, tensors)
    torch.set_rng_state(tensors["rng.cpu"])
    if device.type == "cuda" and "rng.cuda" in tensors:
        torch.cuda.set_rng_state(tensors["rng.cuda"], device)
    return History(**state["history"])
