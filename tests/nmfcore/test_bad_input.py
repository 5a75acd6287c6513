"""Arguments of wrong type, shape, dtype, device and value, for each public function that takes a model or its maps.

Whatever is passed, the answer is a result of finite numbers or a ValueError that this package raises: no error from
inside PyTorch or NumPy, and nothing left behind on the model.
"""

import copy
import dataclasses
import inspect
import traceback
from collections import OrderedDict

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from nmfbook import training
from nmfcore import activations, compression, matching, memorized, networks, segmentation, stopping, visualization
from nmfcore import cam as cam_module
from nmfcore import feature_maps as feature_maps_module
from nmfcore import heatmaps as heatmaps_module
from nmfcore import importance as importance_module
from nmfcore.activations import capture, relu_layers
from nmfcore.cam import cam, grad_cam, predicted_grad_cam
from nmfcore.compression import Curve, accuracy_curve, class_batches, mixed_batches
from nmfcore.factorization import Factorization
from nmfcore.feature_maps import feature_maps
from nmfcore.heatmaps import Heatmaps, factorize, heatmaps
from nmfcore.importance import importance, masked_logits, removal_curves
from nmfcore.index import Index
from nmfcore.memorized import compression_scores, neighbor_scores
from nmfcore.precision import average_precision, average_precision_at
from nmfcore.regularization import NMFPerturbation
from nmfcore.report import Report, memorization_report
from nmfcore.retrieval import Whitening, describe, pooled
from nmfcore.signed import Join, Split, semi_nmf
from nmfcore.stopping import EarlyStopping
from nmfcore.stored_maps import stored_maps
from nmfcore.streaming import StreamingNMF
from nmfcore.visualization import responses, visualize

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore")]

with torch.random.fork_rng(devices=[]):
    torch.manual_seed(0)
    MODEL = nn.Sequential(OrderedDict(conv=nn.Conv2d(3, 5, 3, padding=1), relu=nn.ReLU(), pool=nn.AdaptiveAvgPool2d(1),
                                      flat=nn.Flatten(), head=nn.Linear(5, 4)))
    X, MAPS, ROWS = torch.randn(4, 3, 8, 8), torch.rand(4, 5, 6, 6), [torch.rand(2, 5) for _ in range(4)]
    PARTS_OF = Factorization(torch.rand(4 * 64, 2), torch.rand(2, 5))
    TWO, MASKS = torch.rand(4, 2, 6, 6), torch.rand(4, 2, 12, 10) < 0.4
Y = torch.arange(4)
MANY = [(X.repeat(20, 1, 1, 1), Y.repeat(20))]

SHAPES = st.lists(st.integers(0, 5), max_size=5).map(tuple)
DTYPES = st.sampled_from([torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8,
                          torch.bool, torch.complex64])


@st.composite
def tensors(draw):
    shape = draw(st.one_of(SHAPES, st.sampled_from([(4, 3, 8, 8), (4,), (4, 5, 6, 6), (3, 8, 8), (4, 8, 8, 3)])))
    tensor = torch.full(shape, draw(st.sampled_from([0.0, 1.0, 2.0, -1.0, 1e30, float("nan"), float("inf")])))
    dtype, kind = draw(DTYPES), draw(st.sampled_from(["dense", "dense", "meta", "numpy", "list", "sparse", "gradient"]))
    tensor = tensor.nan_to_num(0, 1, 0).clamp(-1, 1).to(dtype) if dtype not in (
        torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64) else tensor.to(dtype)
    if kind == "gradient" and dtype.is_floating_point:
        return tensor.requires_grad_()
    if kind == "numpy" and dtype != torch.bfloat16:
        return tensor.numpy()
    return {"meta": lambda: tensor.to("meta"), "list": lambda: list(tensor) if tensor.dim() else [tensor],
            "sparse": tensor.to_sparse}.get(kind, lambda: tensor)()


JUNK = st.one_of(
    tensors(), tensors(), tensors(),
    st.sampled_from([None, True, 0, -1, 3, 7, 1.5, float("nan"), "", "relu", "tokens", "abc", b"abc", (), [], {},
                     [None], ["relu", "relu"], {"a": 1}, object(), int, nn.ReLU(), nn.Identity(), nn.Linear(3, 3),
                     MODEL.relu, MODEL.head, np.float64(2), np.array("a"), [[1, 2], [3]], "0", ["a", "a"]]),
    st.just(lambda x: x), st.just(lambda x: None))

FUNCTIONS = {
    capture: dict(model=MODEL, layers="relu", inputs=X, channels=None, skip=0, batch_size=2),
    relu_layers: dict(model=MODEL, inputs=X),
    accuracy_curve: dict(model=MODEL, layers="relu", inputs=X, labels=Y, ranks=[2], method="nmf", channels=None, skip=0,
                         output=None, batch_size=None),
    memorization_report: dict(model=MODEL, loader=MANY, layers=["relu"], classes=4, samples=20, channels=None, skip=0,
                              output=None, batch_size=None),
    compression_scores: dict(model=MODEL, layers="relu", inputs=X, labels=Y, draws=1, size=2, ranks=[2], method="nmf",
                             channels=None, skip=0, output=None, batch_size=None),
    neighbor_scores: dict(features=MAPS, labels=Y, k=2, of=Y),
    "EarlyStopping": dict(model=MODEL, layers="relu", inputs=X, labels=Y, ranks=[2], channels=None, skip=0, output=None,
                          batch_size=None, radius=1),
    class_batches: dict(labels=Y, size=2), mixed_batches: dict(labels=Y, size=2, count=2),
    feature_maps: dict(model=MODEL, images=X, layer="relu", channels=None, skip=0, preprocess=None, batch_size=16),
    heatmaps: dict(model=MODEL, images=X, rank=2, layer="relu", channels=None, skip=0, preprocess=None, batch_size=16),
    "stored_maps": dict(model=MODEL, images=X, layer="relu", channels=None, skip=0, preprocess=None, batch_size=16),
    factorize: dict(features=MAPS, rank=2),
    cam: dict(model=MODEL, images=X, classes=1, layer="relu", classifier="head", channels=None, skip=0, preprocess=None,
              batch_size=16),
    grad_cam: dict(model=MODEL, images=X, classes=1, layer="relu", channels=None, skip=0, output=None, preprocess=None,
                   batch_size=16),
    predicted_grad_cam: dict(tail=MODEL[2:], features=MAPS, top=2, output=None, batch_size=8),
    masked_logits: dict(model=MODEL, layer="relu", inputs=X, factors=PARTS_OF, masks=torch.eye(2), channels=None,
                        skip=0, output=None, batch_size=None),
    importance: dict(model=MODEL, layer="relu", inputs=X, factors=PARTS_OF, of="logit", exact=1, draws=2,
                     channels=None, skip=0, output=None, batch_size=None),
    removal_curves: dict(model=MODEL, layer="relu", inputs=X, factors=PARTS_OF, scores=torch.rand(4, 2), classes=Y,
                         channels=None, skip=0, output=None, batch_size=None),
    visualize: dict(model=MODEL, directions=torch.rand(2, 5), layer="relu", preprocess=lambda x: x, channels=None,
                    skip=0, side=32, steps=1, objective="cosine"),
    responses: dict(model=MODEL, images=X, directions=torch.rand(2, 5), layer="relu", channels=None, skip=0,
                    preprocess=None),
    describe: dict(features=MAPS, method="nmf_v", rank=2),
    pooled: dict(rows=ROWS), Whitening.fit: dict(rows=ROWS),
    "Index": dict(descriptors=torch.rand(4, 5), names=list("abcd")),
    "search": dict(queries=torch.rand(2, 5), top=2, expand=1),
    average_precision: dict(ranking="abc", positives="ab", junk="c"),
    average_precision_at: dict(ranking="abc", positives="ab", n=2),
    "Split": dict(x=X, channels=None), "Join": dict(x=torch.rand(2, 4, 3), channels=None),
    "StreamingNMF": dict(A=MAPS[0].flatten(1), rank=2, forget=0.9, turns=1, sweeps=1),
    "NMFPerturbation": dict(rank=2, channels=None, x=MAPS, strength=0.5, every=1, sweeps=1),
    semi_nmf: dict(A=X.flatten(1), rank=2, max_iter=2),
    matching.match: dict(maps=TWO, reference=TWO), matching.correlation: dict(first=TWO, second=MAPS),
    matching.agreement: dict(maps=TWO, reference=TWO), matching.overlap: dict(children=MAPS, parents=TWO),
    matching.stability: dict(features=MAPS, ranks=[2], seeds=[0, 1]), matching.border_share: dict(maps=TWO),
    matching.off_border: dict(maps=MAPS), matching.foreground: dict(maps=TWO),
    segmentation.single_maps: dict(features=MAPS, method="nmf", rank=2),
    segmentation.multi_scale: dict(maps=[TWO, TWO]),
    segmentation.binarize: dict(maps=TWO, sizes=4 * [(12, 10)], threshold=0.75),
    segmentation.refine: dict(maps=TWO, photographs=list(torch.rand(4, 3, 12, 10)), threshold=0.75, side=8),
    segmentation.areas: dict(first=MASKS, second=MASKS), segmentation.iou: dict(first=MASKS, second=MASKS),
    segmentation.containment: dict(masks=MASKS, targets=MASKS),
    segmentation.merge: dict(masks=MASKS, targets=MASKS, threshold=0.2),
    segmentation.match_parts: dict(factors=MASKS, parts=MASKS, names=["head", "tail"], threshold=0.2),
    segmentation.assemble_parts: dict(factors=MASKS, parts=MASKS, images=[0, 1]),
    segmentation.one_shot: dict(candidates=[MASKS, MASKS], image=0, truth=MASKS[0, 0], threshold=0.2),
    segmentation.mutual_best: dict(scores=torch.rand(2, 3)), segmentation.box: dict(mask=MASKS[0, 0]),
    segmentation.box_iou: dict(first=(0, 0, 3, 3), second=(2, 0, 5, 3)),
    segmentation.corloc: dict(boxes=[(0, 0, 9, 9), None], truth=[[(0, 0, 9, 7)], [(0, 0, 9, 9)]])}


PASS_ON = ("Split", "Join")  # what they get, as modules of a network do


def call(function, arguments, folder):
    if function is segmentation.multi_scale:
        return function(*arguments["maps"]) if isinstance(arguments["maps"], list) else function(arguments["maps"])
    if function == "EarlyStopping":
        stopper = EarlyStopping(**arguments)
        stopper.check()
        return torch.tensor(stopper.auc)
    if function == "stored_maps":
        return list(stored_maps(file=folder / "maps", **arguments))
    if function == "StreamingNMF":
        arguments = dict(arguments)
        A = arguments.pop("A")
        return StreamingNMF(**arguments).update(A)
    if function == "Index":
        return Index(**arguments).descriptors
    if function == "search":
        return Index(torch.eye(5)[:4], list("abcd")).search(**arguments)[0]
    if function in ("Split", "Join"):
        return {"Split": Split, "Join": Join}[function](channels=arguments["channels"])(arguments["x"])
    if function == "NMFPerturbation":
        arguments = dict(arguments)
        x = arguments.pop("x")
        return NMFPerturbation(**arguments).train()(x)
    return function(**arguments)


# Of these functions, or contexts for the reader's own passes.
PARTS = {"replaced", "resumed", "reflection_padding", "against_negatives", "mapped", "naming_images", "widths",
         "train", "prepared", "updates", "snapshot", "restore", "accuracy", "classifies"}


def test_every_function_that_takes_a_model_is_tried():
    names = {function if isinstance(function, str) else function.__qualname__ for function in FUNCTIONS}
    for module in (activations, cam_module, compression, feature_maps_module, heatmaps_module, importance_module,
                   memorized, networks, stopping, training, visualization):
        for name, thing in vars(module).items():
            if name.startswith("_") or not callable(thing) or getattr(thing, "__module__", "") != module.__name__:
                continue
            if {"model", "tail"} & set(inspect.signature(thing).parameters):
                assert name in names | PARTS, f"{module.__name__}.{name} takes a model and is not in FUNCTIONS"


def finite(result):
    if isinstance(result, Tensor):
        return not result.is_floating_point() or bool(torch.isfinite(result).all())
    if isinstance(result, Curve | Report | Heatmaps) or dataclasses.is_dataclass(result):
        return all(finite(getattr(result, entry.name)) for entry in dataclasses.fields(result))
    if isinstance(result, dict):
        return all(map(finite, result.values()))
    if isinstance(result, list | tuple):
        return all(map(finite, result))
    return not isinstance(result, float) or np.isfinite(result)


def left():
    return ([module.training for module in MODEL.modules()], [(p.requires_grad, p.grad) for p in MODEL.parameters()],
            [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in MODEL.modules()],
            torch.is_grad_enabled(), torch.is_inference_mode_enabled())


WEIGHTS = copy.deepcopy(MODEL.state_dict())


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f if isinstance(f, str) else f.__qualname__)
def test_valid_arguments_are_taken(function, tmp_path):
    assert finite(call(function, FUNCTIONS[function], tmp_path))


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f if isinstance(f, str) else f.__qualname__)
@settings(max_examples=60, deadline=None, derandomize=True,
          suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_anything_else_is_taken_or_refused(function, data, tmp_path):
    name = data.draw(st.sampled_from(sorted(FUNCTIONS[function])))
    arguments = FUNCTIONS[function] | {name: data.draw(JUNK)}
    before = left()
    try:
        result = call(function, arguments, tmp_path)
        assert function in PASS_ON or finite(result), f"not finite, and not a word, for {name}"
    except ValueError as error:
        place = traceback.extract_tb(error.__traceback__)[-1].filename
        assert "/nmfcore/" in place, f"{name}: raised in {place}"
    finally:
        (tmp_path / "maps").unlink(missing_ok=True)
    assert left() == before and all(torch.equal(value, WEIGHTS[key]) for key, value in MODEL.state_dict().items())
