"""How `student.safetensors` was made: distil the last ReLU of VGG-19 into a small network.

    python data/models/distill.py --teacher "$NMFCORE_DATA/weights/vgg19.safetensors" \
        --images "$NMFCORE_DATA" --work _build/student

Three stages, each resumable, each run alone with `--stage`:

    teach     many crops of many photographs through the teacher, once, into two arrays on disk
    train     the student learns to reproduce the stored activations
    evaluate  NMF heatmaps of teacher and student on image sets that neither of the first two stages saw

See `photographs` for the layout expected below `--images`. `student.md` says how the embedded network came out.
"""

import argparse
import hashlib
import json
import math
import os
import random
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torch.nn.functional import cosine_similarity, interpolate, mse_loss
from torch.nn.utils.fusion import fuse_conv_bn_eval

from nmfcore import networks
from nmfcore.heatmaps import heatmaps
from nmfcore.matching import correlation, match

HERE = Path(__file__).resolve().parent
SIZE, GRID, CHANNELS = 224, 14, 512
HELD_OUT = (  # whole image sets, by folder: for evaluation only
    "image_sets/icoseg",
    "voc2010_coseg/images/Bird",
    "voc2010_coseg/images/Car",
    "voc2010_coseg/images/Sheep",
    "VOCdevkit/VOC2007/horse_left",
    "monuments/golden_temple",
    "monuments/mysore_palace",
    "monuments/sun_temple_konark",
    "imagenet/val",
)


# --- photographs ------------------------------------------------------------------------------------------


def photographs(root):
    """Every image set under `root`: a dictionary from set name to sorted files. For CIFAR-10 see `mosaics`."""
    root, sets = Path(root), {}
    for pattern in ("image_sets/icoseg/*", "image_sets/object_discovery_samples/*", "image_sets/msrc_face",
                    "voc2010_coseg/images/*", "monuments/*", "imagenet/*/*"):
        for folder in sorted(root.glob(pattern)):
            sets[folder.relative_to(root).as_posix()] = sorted(
                f for f in folder.iterdir() if f.suffix.lower() in {".jpg", ".jpeg", ".bmp", ".png"})
    devkit = root / "VOCdevkit/VOC2007"
    for listing in sorted(devkit.glob("ImageSets/Main/*.txt")):
        names = [line.split()[0] for line in listing.read_text().splitlines() if line.strip()]
        sets[f"VOCdevkit/VOC2007/{listing.stem}"] = [devkit / f"JPEGImages/{name}.jpg" for name in names]
    return sets


def mosaics(root, count, *, seed):
    """Groups of four CIFAR-10 training images, of any classes: alone, they are too small for the teacher."""
    files = sorted((Path(root) / "cifar10/train").glob("*/*.jpg"))
    random.Random(seed).shuffle(files)
    return [tuple(files[4 * i : 4 * i + 4]) for i in range(min(count, len(files) // 4))]


def is_held_out(name):
    return name.startswith(HELD_OUT)


def thumbnail(file):
    """8 x 8 grey levels without their mean, unit length: near-duplicates have a cosine close to 1."""
    t = np.asarray(Image.open(file).convert("L").resize((8, 8), Image.Resampling.BOX), np.float32).ravel()
    t -= t.mean()
    return t / (np.linalg.norm(t) + 1e-6)


def split(sets, *, seed, val_fraction=0.05, duplicate=0.98):
    """Files for training and validation. Photographs that nearly repeat a held-out one are dropped from both."""
    files = sorted({f for name, fs in sets.items() if not is_held_out(name) for f in fs})
    held_out = sorted({f for name, fs in sets.items() if is_held_out(name) for f in fs})
    likeness = np.stack([thumbnail(f) for f in files]) @ np.stack([thumbnail(f) for f in held_out]).T
    files = [f for f, cosine in zip(files, likeness.max(1), strict=True) if cosine < duplicate]
    dropped = len(likeness) - len(files)
    random.Random(seed).shuffle(files)
    n_val = round(val_fraction * len(files))
    return files[n_val:], files[:n_val], dropped


def crop(file, view, seed):
    """View 0 is the whole photograph, squeezed to a square; later views are random crops, half of them mirrored.

    A tuple of four small images is a mosaic of them.
    """
    if isinstance(file, tuple):
        small = [np.asarray(Image.open(f).convert("RGB").resize((SIZE // 2,) * 2, Image.Resampling.BICUBIC))
                 for f in file]
        return np.concatenate([np.concatenate(small[:2], 1), np.concatenate(small[2:], 1)])
    image = Image.open(file).convert("RGB")
    if view == 0:
        return np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BICUBIC))
    rng = random.Random(f"{seed} {view} {file.name}")
    w, h = image.size
    while True:
        area, ratio = w * h * rng.uniform(0.3, 1), rng.uniform(3 / 4, 4 / 3)
        cw, ch = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
        if cw <= w and ch <= h:
            break
    x, y = rng.randint(0, w - cw), rng.randint(0, h - ch)
    image = image.resize((SIZE, SIZE), Image.Resampling.BICUBIC, box=(x, y, x + cw, y + ch))
    return np.asarray(image)[:, :: rng.choice((1, -1))]


# --- stage 1: the teacher ---------------------------------------------------------------------------------


def write(path, content):
    """To one side first, then renamed: an interrupted run leaves no half-written file."""
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(content)
    os.replace(temporary, path)


def write_json(path, value):
    write(path, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())


class Store:
    """Crops and what the teacher made of them, in memory-mapped files that fill up from the front."""

    def __init__(self, work, capacity):
        def array(name, dtype, shape):
            file = work / f"{name}.npy"
            if file.exists():
                return np.lib.format.open_memmap(file, mode="r+")
            return np.lib.format.open_memmap(file, mode="w+", dtype=dtype, shape=(capacity, *shape))

        self.progress = work / "progress.json"
        self.pixels = array("pixels", np.uint8, (3, SIZE, SIZE))
        self.target = array("target", np.float16, (CHANNELS, GRID, GRID))  # relu5_4
        self.hint = array("hint", np.float16, (CHANNELS, GRID, GRID))  # relu4_4, max-pooled to the same grid

    def state(self):
        return json.loads(self.progress.read_text()) if self.progress.exists() else {"done": 0, "minutes": 0}


def jobs(train, val, small, views):
    """(file, view) in the order of work: validation first, then view after view of everything, and some mosaics."""
    share = len(small) // views
    return [(f, v) for f in val for v in (0, 1)] + [
        job for v in range(views)
        for job in [*((f, v) for f in train), *((four, 0) for four in small[v * share : (v + 1) * share])]]


@torch.inference_mode()
def teach(args, work, train, val, small):
    teacher, preprocess = networks.pretrained("vgg19", weights=args.teacher)
    teacher = teacher.features[:36].to(args.device, memory_format=torch.channels_last)
    todo = jobs(train, val, small, args.views)
    store, start = Store(work, len(todo)), time.time()
    before = store.state()
    for i in range(before["done"], len(todo), 16):
        if time.time() - start > 60 * args.teach_minutes:
            break
        batch = todo[i : i + 16]
        pixels = np.stack([crop(f, v, args.seed).transpose(2, 0, 1) for f, v in batch])
        x = preprocess(torch.from_numpy(pixels) / 255).to(args.device, memory_format=torch.channels_last)
        with torch.autocast(x.device.type, torch.bfloat16):
            hint = teacher[:28](x)
            target = teacher[28:](hint)
        store.pixels[i : i + len(batch)] = pixels
        store.hint[i : i + len(batch)] = hint.half().cpu().numpy()
        store.target[i : i + len(batch)] = target.half().cpu().numpy()
        write_json(store.progress, {"done": i + len(batch), "of": len(todo),
                                    "minutes": round(before["minutes"] + (time.time() - start) / 60, 1)})
        if i // 16 % 20 == 0:
            print(f"taught {i + len(batch)} of {len(todo)} crops, {time.time() - start:.0f} s", flush=True)


# --- stage 2: the student ---------------------------------------------------------------------------------


def with_batchnorm(module):
    """Batch normalization after every convolution, in place; residual branches start at zero."""
    for name, child in list(module.named_children()):
        if isinstance(child, nn.Conv2d):
            setattr(module, name, nn.Sequential(child, nn.BatchNorm2d(child.out_channels)))
        else:
            with_batchnorm(child)
    if isinstance(module, (networks._Bottleneck, networks._Context)):
        nn.init.zeros_(module.branch[-1][1].weight)
    return module


def without_batchnorm(module):
    """Inverse of `with_batchnorm` for a trained network in evaluation mode: folded into the convolutions."""
    for name, child in list(module.named_children()):
        if isinstance(child, nn.Sequential) and len(child) == 2 and isinstance(child[1], nn.BatchNorm2d):
            setattr(module, name, fuse_conv_bn_eval(*child))
        else:
            without_batchnorm(child)
    return module


def rms(array, rows=512):
    """Root mean square of stored activations: the unit in which both losses are measured."""
    sample = np.linspace(0, len(array) - 1, min(rows, len(array))).astype(int)
    return float(np.sqrt(np.mean(np.square(array[sample].astype(np.float32)))))


def distance(found, target):
    """Squared error, which NMF minimizes too, plus 1 - cosine at every position, which heatmaps depend on."""
    return mse_loss(found, target) + (1 - cosine_similarity(found, target, dim=1)).mean()


def relations(found, target, positions=1024):
    """Squared difference of the cosines between positions of one crop or of several: what NMF groups them by."""
    chosen = torch.randperm(len(target) * GRID ** 2, device=target.device)[:positions]
    a, b = (nn.functional.normalize(maps.permute(0, 2, 3, 1).flatten(0, 2)[chosen], dim=1) for maps in (found, target))
    with torch.autocast(a.device.type, torch.bfloat16):
        return mse_loss((a @ a.T).float(), (b @ b.T).float())


def normalized(pixels, device):
    x = torch.from_numpy(pixels).to(device).float() / 255
    mean, std = (torch.tensor(c, device=device)[:, None, None]
                 for c in (networks.IMAGENET_MEAN, networks.IMAGENET_STD))
    return ((x - mean) / std).contiguous(memory_format=torch.channels_last)


@torch.inference_mode()
def validate(student, store, n, unit, device):
    """Explained variance (about each channel's mean) and mean cosine on the first `n` crops of the store."""
    student.eval()
    error = cosine = 0.0
    target = torch.from_numpy(store.target[:n].astype(np.float32)) / unit
    for i in range(0, n, 32):
        rows = slice(i, min(i + 32, n))
        found = student(normalized(store.pixels[rows], device)).cpu()
        error += (found - target[rows]).square().sum().item()
        cosine += cosine_similarity(found, target[rows], dim=1).mean((1, 2)).sum().item()
    student.train()
    return 1 - error / (target - target.mean((0, 2, 3), keepdim=True)).square().sum().item(), cosine / n


def batch(store, rows, unit, hint_unit, rng, device):
    """Crops, their contrast and brightness a little changed, and what the teacher made of them."""
    x = normalized(store.pixels[rows], device)
    contrast, brightness = (torch.from_numpy(rng.uniform(*span, (len(rows), 1, 1, 1))).float().to(device)
                            for span in ((0.8, 1.2), (-0.3, 0.3)))
    target, hint = (torch.from_numpy(array[rows]).to(device, memory_format=torch.channels_last).float() / size
                    for array, size in ((store.target, unit), (store.hint, hint_unit)))
    return x * contrast + brightness, target, hint


def keep(file, parts, progress):
    """Modules and optimizer in one safetensors file, progress as its metadata; written to one side and renamed."""
    tensors = {}
    for name, part in parts.items():
        state = part.state_dict()
        if name == "optimizer":  # {"state": {parameter: {moment: tensor}}}
            state = {f"{i}.{key}": value for i, moments in state["state"].items() for key, value in moments.items()}
        tensors |= {f"{name}/{key}": value.contiguous() for key, value in state.items()}
    save_file(tensors, file.with_suffix(".tmp"), metadata={"progress": json.dumps(progress)})
    os.replace(file.with_suffix(".tmp"), file)


def restore(file, parts, device):
    """Inverse of `keep`: fills the parts, returns the progress."""
    with safe_open(file, "pt", device=str(device)) as saved:
        tensors = {key: saved.get_tensor(key) for key in saved.keys()}
        progress = json.loads(saved.metadata()["progress"])
    for name, part in parts.items():
        state = {key.removeprefix(f"{name}/"): value for key, value in tensors.items() if key.startswith(f"{name}/")}
        if name == "optimizer":
            moments = {}
            for key, value in state.items():
                index, moment = key.split(".")
                moments.setdefault(int(index), {})[moment] = value
            state = part.state_dict() | {"state": moments}
        part.load_state_dict(state)
    return progress


def train(args, work, n_val, n_taught):
    """Train on the stored crops after the first `n_val`; returns the student, its history and the minutes it took.

    The learning rate falls to zero over `--epochs`, or over `--train-minutes` of the processor if that is less.
    """
    torch.manual_seed(args.seed)
    store, device = Store(work, n_taught), args.device
    unit, hint_unit = rms(store.target[:n_taught]), rms(store.hint[:n_taught])
    student = with_batchnorm(networks.Student()).to(device, memory_format=torch.channels_last)
    # A second, easier lesson for the lower half (Romero et al. 2015): the fourth block of the teacher.
    hint_head = nn.Conv2d(student.features[10:][-2][0].in_channels, CHANNELS, 1).to(device)
    optimizer = torch.optim.AdamW([*student.parameters(), *hint_head.parameters()], weight_decay=0.05)
    parts = {"student": student, "hint": hint_head, "optimizer": optimizer}
    steps_per_epoch = (n_taught - n_val) // args.batch
    history, step, spent, done, checkpoint = [], 0, 0.0, 0.0, work / "checkpoint.safetensors"
    if checkpoint.exists():
        history, step, spent = restore(checkpoint, parts, device)
    start = time.process_time() - 60 * spent
    while done < 1:
        rng, losses = np.random.default_rng((args.seed, len(history))), []
        order = rng.permutation(np.arange(n_val, n_taught))[: steps_per_epoch * args.batch]
        for rows in np.sort(order.reshape(-1, args.batch), axis=1):  # sorted rows read faster from disk
            done = max(step / (args.epochs * steps_per_epoch), (time.process_time() - start) / 60 / args.train_minutes)
            if done >= 1:
                break
            for group in optimizer.param_groups:
                group["lr"] = args.lr * min(1, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * done))
            x, target, hint = batch(store, rows, unit, hint_unit, rng, device)
            with torch.autocast(x.device.type, torch.bfloat16):
                middle = student.features[:10](x)
                found, found_hint = student.features[10:](middle).float(), hint_head(middle).float()
            loss = (distance(found, target) + 0.5 * distance(found_hint, hint)
                    + args.relations * relations(found, target))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            step += 1
            losses.append(loss.item())
        if not losses:
            break
        explained, cosine = validate(student, store, n_val, unit, device)
        spent = (time.process_time() - start) / 60
        history.append({"steps": step, "loss": round(float(np.mean(losses)), 4),
                        "explained": round(explained, 4), "cosine": round(cosine, 4)})
        print({**history[-1], "minutes": round(spent, 1)}, flush=True)
        keep(checkpoint, parts, [history, step, spent])
    student = without_batchnorm(student.eval().cpu())
    last = student.features[-2]
    last.weight.data *= unit  # ReLU is homogeneous: the student's output is in the teacher's units
    last.bias.data *= unit
    return student, history, spent


def export(student, file):
    """Half-precision safetensors, written to one side and renamed."""
    tensors = {key: value.detach().contiguous().half() for key, value in student.state_dict().items()}
    save_file(tensors, file.with_suffix(".tmp"), metadata={"architecture": "nmfcore.networks.Student"})
    os.replace(file.with_suffix(".tmp"), file)


# --- stage 3: do their heatmaps agree? --------------------------------------------------------------------


def agreement(maps, reference, top=0.2):
    """Mean over matched factors of two sets of heatmaps (n, K, H, W): correlation, IoU of the top fifths."""
    if maps.shape[2:] != reference.shape[2:]:
        maps = interpolate(maps, size=reference.shape[2:], mode="bilinear", align_corners=False)
    maps = maps[:, match(maps, reference)]
    matched = correlation(reference, maps).diagonal()
    iou = []
    for a, b in zip(maps.unbind(1), reference.unbind(1), strict=True):
        a, b = a > a.quantile(1 - top), b > b.quantile(1 - top)
        iou.append(((a & b).sum() / (a | b).sum().clamp(min=1)).item())
    return matched.mean().item(), float(np.mean(iou))


def evaluate(args, sets, student, per_set=6, ranks=(3, 4)):
    """Heatmaps of every network beside the teacher's on each held-out set: one row per set, rank and network."""
    teacher = networks.pretrained("vgg19", weights=args.teacher)
    torch.manual_seed(args.seed + 1)
    compared = {  # name: model, preprocess, layer, seed of the factorization
        "teacher, other NMF seed": (*teacher, 1),
        "student": (*networks.pretrained("student", weights=student), 0),
        "student, untrained": (networks.Student().eval(), networks.pretrained("student", weights=student)[1], 0),
    }
    if args.reference:
        compared["SqueezeNet 1.1, pretrained"] = (*networks.pretrained("squeezenet1_1", weights=args.reference), 0)
    rows = []
    for name, files in sets.items():
        if not is_held_out(name):
            continue
        files = [files[i] for i in np.linspace(0, len(files) - 1, min(per_set, len(files))).astype(int)]
        images = torch.stack([torch.from_numpy(crop(f, 0, 0).copy()).permute(2, 0, 1) / 255 for f in files])
        with torch.inference_mode():
            truth = heatmaps(teacher[0], teacher[1](images), ranks, layer=teacher[1].layer)
            for network, (model, preprocess, seed) in compared.items():
                found = heatmaps(model, preprocess(images), ranks, layer=preprocess.layer, seed=seed)
                for rank, a, b in zip(ranks, found, truth, strict=True):
                    r, iou = agreement(a.maps, b.maps)
                    rows.append({"set": name, "images": len(files), "rank": rank, "network": network,
                                 "correlation": round(r, 3), "iou": round(iou, 3)})
        print(name, *(f"{row['network']} {row['correlation']}" for row in rows[-2 * len(compared):]), sep=" | ",
              flush=True)
    overall = [{"network": network, "rank": rank, "sets": len(chosen),
                "correlation": round(float(np.mean([row["correlation"] for row in chosen])), 3),
                "iou": round(float(np.mean([row["iou"] for row in chosen])), 3)}
               for network in compared for rank in ranks
               if (chosen := [row for row in rows if (row["network"], row["rank"]) == (network, rank)])]
    return overall, rows


def describe(work):
    """Put weights, facts and the card's table where `networks.pretrained("student")` and its readers look."""
    weights = (work / "student.safetensors").read_bytes()
    evaluated = json.loads((work / "agreement.json").read_text())
    write(networks.MODELS / "student.safetensors", weights)
    write_json(networks.MODELS / "student.json", {
        "file": "student.safetensors",
        "sha256": hashlib.sha256(weights).hexdigest(),
        "model": "student distilled from VGG-19 by nmfcore",
        "architecture": "nmfcore.networks.Student: 4 strided convolutions, 3 residual bottlenecks, "
                        "3 more at half the resolution, 1x1 to 512, ReLU",
        "layer": "features.13",
        "normalization": "torchvision: RGB in [0, 1], minus (0.485, 0.456, 0.406), over (0.229, 0.224, 0.225)",
        "license": "MIT",
        "training": json.loads((work / "training.json").read_text()),
        **evaluated,
    })
    table = ["| network | K | image sets | correlation | IoU |", "|---|---|---|---|---|"]
    table += ["| {network} | {rank} | {sets} | {correlation:.3f} | {iou:.3f} |".format(**row)
              for row in evaluated["overall"]]
    before, _, rest = (HERE / "student.md").read_text().partition("<!-- table -->\n")
    after = rest.partition("<!-- end -->")[2]
    write(HERE / "student.md", "\n".join([f"{before}<!-- table -->", *table, f"<!-- end -->{after}"]).encode())


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = os.environ.get("NMFCORE_DATA", "data")
    p.add_argument("--teacher", default=f"{data}/weights/vgg19.safetensors", help="safetensors file of VGG-19")
    p.add_argument("--images", default=data, help="folder with the photographs")
    p.add_argument("--work", default="_build/student", type=Path, help="folder for intermediate files (about 5 GB)")
    p.add_argument("--stage", choices=("teach", "train", "evaluate", "all"), default="all")
    p.add_argument("--views", type=int, default=8, help="crops of each photograph")
    p.add_argument("--mosaics", type=int, default=4000, help="of four images of CIFAR-10 each")
    p.add_argument("--teach-minutes", type=float, default=1e9)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--epochs", type=int, default=30)
    p.add_argument("--train-minutes", type=float, default=1e9)
    p.add_argument("--batch", type=int, default=16)
    p.add_argument("--lr", type=float, default=2e-3)
    p.add_argument("--relations", type=float, default=10.0, help="weight of the cosines between positions")
    p.add_argument("--reference", help="safetensors file of SqueezeNet 1.1, for one more row of comparison")
    p.add_argument("--device", default="cpu")
    args = p.parse_args()
    torch.manual_seed(args.seed)
    args.work.mkdir(parents=True, exist_ok=True)
    sets = photographs(args.images)
    train_files, val_files, dropped = split(sets, seed=args.seed)
    small = mosaics(args.images, args.mosaics, seed=args.seed)
    print(f"{len(train_files)} photographs to train on, {len(val_files)} to validate, {dropped} near-duplicates out")
    if args.stage in ("teach", "all"):
        teach(args, args.work, train_files, val_files, small)
    if args.stage in ("train", "all"):
        progress = json.loads((args.work / "progress.json").read_text())
        student, history, minutes = train(args, args.work, 2 * len(val_files), progress["done"])
        export(student, args.work / "student.safetensors")
        write_json(args.work / "training.json", {
            "photographs": len(train_files), "validation": len(val_files), "near_duplicates_dropped": dropped,
            "sets": {name: len(files) for name, files in sets.items() if not is_held_out(name)},
            "held_out": [name for name in sets if is_held_out(name)],
            "crops": progress["done"], "mosaics": args.mosaics, "relations": args.relations,
            "steps": history[-1]["steps"], "epochs": len(history),
            "batch": args.batch, "seed": args.seed,
            "optimizer": f"AdamW, weight decay 0.05, cosine from {args.lr} to 0",
            "minutes": {"teacher": progress["minutes"], "student": round(minutes, 1)},
            "device": args.device, "threads": torch.get_num_threads(), "history": history,
        })
    if args.stage in ("evaluate", "all"):
        overall, rows = evaluate(args, sets, args.work / "student.safetensors")
        write_json(args.work / "agreement.json", {"overall": overall, "agreement": rows})
        describe(args.work)


if __name__ == "__main__":
    main()
