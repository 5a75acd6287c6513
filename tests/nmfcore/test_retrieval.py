import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import convolve
from sklearn.decomposition import PCA

from nmfcore.index import Index
from nmfcore.precision import average_precision, average_precision_at, oxford_queries
from nmfcore.retrieval import (
    METHODS,
    Whitening,
    channel_weights,
    describe,
    locate,
    pooled,
    rmac_regions,
    share_inside,
)
from nmfcore.solver import nmf

PLAIN = [method for method in METHODS if method != "cam"]


def features(n=4, C=12, h=9, w=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, C, h, w, generator=generator) * (torch.rand(n, C, h, w, generator=generator) > 0.5)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


# --- local descriptors: against slow references ---


def weights_reference(A):
    C = len(A)
    share = [np.mean(A[c] > 0) for c in range(C)]
    return np.array([np.log(sum(share) / share[c]) if share[c] else 0 for c in range(C)])


def test_mac_and_crow_match_their_formulas():
    A = features(1)[0]
    x = A.numpy().astype(float)
    assert np.allclose(describe([A], "mac")[0][0], unit(x.reshape(12, -1).max(1)), atol=1e-6)
    S = x.sum(0)
    spatial = np.sqrt(S / np.sqrt((S ** 2).sum()))
    crow = np.array([(spatial * x[c]).sum() for c in range(12)]) * weights_reference(x)
    assert np.allclose(describe([A], "crow")[0][0], unit(crow), atol=1e-6)


def test_crow_of_one_active_channel_has_a_closed_form():
    A = torch.zeros(3, 2, 2)
    A[0, 0, 0] = A[1] = 1  # channel 0 at one position of four, channel 1 at all
    assert torch.allclose(channel_weights(A), torch.tensor([np.log(5.0), np.log(1.25), 0]).float())
    S = np.array([2, 1, 1, 1]) / np.sqrt(7)
    expected = np.array([np.sqrt(S[0]) * np.log(5), np.sqrt(S).sum() * np.log(1.25), 0])
    assert np.allclose(describe([A], "crow")[0][0], unit(expected), atol=1e-6)


def test_cam_weighs_positions_by_the_maps():
    A, maps = features(1)[0], torch.rand(2, 9, 7, generator=torch.Generator().manual_seed(3))
    maps[0, :5] = 0
    rows = np.array([[(maps[k] * A[c]).sum() for c in range(12)] for k in range(2)]) * weights_reference(A.numpy())
    assert np.allclose(describe([A], "cam", maps=[maps])[0], unit(rows), atol=1e-6)


@pytest.mark.parametrize(("h", "w", "count"), [
    (12, 12, 14), (12, 16, 20), (16, 12, 20), (12, 24, 26), (30, 30, 14), (1, 1, 14)])
def test_rmac_regions_count_and_cover(h, w, count):
    regions = rmac_regions(h, w)
    assert len(regions) == count
    seen = np.zeros((h, w), int)
    for top, left, side in regions:
        assert 0 <= top <= top + side <= h and 0 <= left <= left + side <= w
        seen[top:top + side, left:left + side] += 1
    assert seen.min() > 0
    assert {side for *_, side in regions} == {max(1, 2 * min(h, w) // (level + 1)) for level in (1, 2, 3)}


def test_rmac_rows_are_the_maxima_of_the_regions():
    A = features(1)[0].numpy()
    rows = np.array([[A[c, y:y + s, x:x + s].max() for c in range(12)] for y, x, s in rmac_regions(9, 7)])
    assert np.allclose(describe([torch.from_numpy(A)], "rmac")[0], unit(rows), atol=1e-6)


def test_nmf_rows_match_the_steps_one_by_one():
    A = features(1)[0]
    weighted = (A.permute(1, 2, 0) * torch.from_numpy(weights_reference(A.numpy())).float()).reshape(63, 12)
    found = nmf(weighted, 3)
    U, V = found.U.numpy().astype(float), found.V.numpy().astype(float)
    length = np.linalg.norm(U, axis=0)
    V = V * length[:, None]
    assert np.allclose(describe([A], "nmf_v", rank=3)[0], unit(V), atol=1e-5)
    ticks = np.arange(-6, 7)
    G = np.exp(-(ticks[:, None] ** 2 + ticks ** 2) / (2 * 2))  # variance 2
    G /= G.sum()
    smooth = np.stack([convolve(U[:, k].reshape(9, 7) / length[k], G, mode="constant").ravel() for k in range(3)])
    smooth = unit(smooth)
    mixed = np.array([sum((smooth[k] @ smooth[j]) * V[j] for j in range(3)) for k in range(3)])
    assert np.allclose(describe([A], "nmf_vu", rank=3)[0], unit(mixed), atol=1e-5)


@pytest.mark.parametrize("method", PLAIN)
def test_order_and_company_of_the_images_change_nothing(method):
    sets = [*features(3, seed=1), *features(2, h=6, w=11, seed=2)]
    together = describe(sets, method)
    order = [4, 0, 3, 2, 1]
    for i, rows in zip(order, describe([sets[i] for i in order], method), strict=True):
        assert torch.allclose(rows, together[i], atol=1e-5)
        assert torch.allclose(rows, describe([sets[i]], method)[0], atol=1e-5)


@pytest.mark.parametrize("method", PLAIN)
def test_an_image_without_activations_is_zero_and_matches_nothing(method):
    rows = describe([torch.zeros(12, 5, 5), *features(1, h=5, w=5)], method)
    assert rows[0].abs().max() == 0 and rows[1].abs().max() > 0
    assert torch.isfinite(pooled(rows)).all()


def test_bad_input_is_named():
    A = features(2)
    with pytest.raises(ValueError, match="'vlad' is not one of"):
        describe(A, "vlad")
    with pytest.raises(ValueError, match="no images"):
        describe([], "mac")
    bad = A.clone()
    bad[1, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="image 1 are not finite"):
        describe(bad, "mac")
    with pytest.raises(ValueError, match="not finite and ≥ 0"):
        describe(-A, "mac")
    with pytest.raises(ValueError, match="boxes need a method on NMF, not 'mac'"):
        describe(A, "mac", boxes=[None, None], sizes=[(9, 7)] * 2)
    with pytest.raises(ValueError, match="maps are for method 'cam'"):
        describe(A, "cam")
    with pytest.raises(ValueError, match="does not lie in an image of 70 × 90"):
        describe(A, "nmf_v", boxes=[None, (60, 0, 70, 5)], sizes=[(90, 70)] * 2)


# --- the box of a query ---


def test_share_inside_counts_cut_positions_by_their_part():
    maps = torch.arange(1.0, 13).reshape(1, 3, 4)
    large = maps.repeat_interleave(10, 1).repeat_interleave(10, 2)  # 30 × 40 pixels
    for box in ((0, 0, 39, 29), (3, 7, 22, 25), (11, 11, 11, 11)):
        x0, y0, x1, y1 = box
        expected = large[0, y0:y1 + 1, x0:x1 + 1].sum() / large.sum()
        assert share_inside(maps, box, (30, 40))[0] == pytest.approx(float(expected), rel=1e-5)
    assert share_inside(torch.zeros(1, 3, 4), (0, 0, 3, 3), (30, 40))[0] == 0


def two_things():
    """One thing on the left, another on the right."""
    A = torch.zeros(6, 8, 8)
    A[:3, 1:7, 0:3] = torch.rand(3, 6, 3, generator=torch.Generator().manual_seed(0)) + 0.5
    A[3:, 1:7, 5:8] = torch.rand(3, 6, 3, generator=torch.Generator().manual_seed(1)) + 0.5
    return A


def test_the_box_selects_the_rows_of_what_it_shows():
    rows = describe([two_things()], "nmf_v", rank=2, boxes=[(0, 0, 39, 79)], sizes=[(80, 80)])[0]
    assert rows.shape == (1, 6)
    assert rows[0, 3:].abs().max() < 1e-3 < rows[0, :3].min()


def test_a_box_without_a_factor_falls_back_with_a_notice():
    with pytest.warns(UserWarning, match="image 0: no factor has over 75% of its heatmap"):
        rows = describe([two_things()], "nmf_v", rank=2, boxes=[(30, 70, 40, 79)], sizes=[(80, 80)])[0]
    assert rows.shape == (1, 6)


def test_locate_finds_the_same_thing_elsewhere():
    maps = torch.zeros(3, 2, 8, 8)
    maps[0, 0, 1:4, 1:4] = maps[1, 0, 4:7, 2:5] = 1
    maps[0, 1, :, 6:] = maps[1, 1, :, 6:] = 1  # the background
    boxes = locate(maps, 0, (5, 5, 44, 44), [(80, 80)] * 3)
    for found, (x0, y0) in zip(boxes, ((10, 10), (20, 40)), strict=False):
        assert np.allclose(found, (x0, y0, x0 + 29, y0 + 29), atol=6)
    assert boxes[2] is None


def test_the_highest_three_tenths_of_a_photograph_are_taken_for_the_match():
    maps = torch.linspace(0, 1, 20).expand(2, 1, 5, 20)  # brighter to the right
    query, other = locate(maps, 0, (0, 0, 199, 49), [(50, 200), (100, 400)])
    assert query == (140, 0, 199, 49)
    assert other == (280, 0, 399, 99)


# --- whitening, pooling ---


def test_whitening_matches_scikit_learn_and_survives_rank_deficiency():
    generator = np.random.default_rng(0)
    X = generator.normal(size=(200, 5)) @ generator.normal(size=(5, 8))  # rank 5 in 8 dimensions
    ours = Whitening.fit([torch.from_numpy(X[:50]).float(), torch.from_numpy(X[50:]).float()])
    assert ours.directions.shape == (5, 8)
    peer = PCA(5, whiten=True).fit(X)
    mine, theirs = ours(torch.from_numpy(X).float()).numpy(), peer.transform(X) * np.sqrt(200 / 199)
    assert np.allclose(np.abs(mine), np.abs(theirs), atol=1e-3)
    assert np.allclose(mine.T @ mine / 200, np.eye(5), atol=1e-3)
    assert Whitening.fit([torch.from_numpy(X).float()], dimensions=2).directions.shape == (2, 8)
    with pytest.raises(ValueError, match="3 equal rows"):
        Whitening.fit([torch.ones(3, 4)])


def test_pooled_is_the_sum_of_whitened_rows():
    rows = describe(features(5), "rmac")
    whitening = Whitening.fit(rows)
    first = whitening(rows[0]).numpy()
    assert np.allclose(pooled(rows, whitening)[0], unit(first.sum(0)), atol=1e-5)
    assert np.allclose(pooled(rows, whitening, regional=True)[0], unit(unit(first).sum(0)), atol=1e-5)


# --- index ---


def index(n=20, d=6):
    descriptors = pooled([torch.randn(1, d, generator=torch.Generator().manual_seed(i)) for i in range(n)])
    return Index(descriptors, [f"{i}.jpg" for i in range(n)], {"method": "mac"}, ["broken.jpg"])


def test_search_ranks_by_cosine_and_an_image_finds_itself_first():
    ours = index()
    scores, places = ours.search(ours.descriptors)
    assert places[:, 0].tolist() == list(range(20))
    full = (ours.descriptors @ ours.descriptors.mT).numpy()
    assert np.allclose(scores, -np.sort(-full, axis=1), atol=1e-6)
    few = ours.search(ours.descriptors[:3], top=4)
    assert torch.equal(few[1], places[:3, :4])
    assert ours.search(ours.descriptors[:1], top=99)[1].shape == (1, 20)


def test_permuting_the_database_permutes_the_result():
    ours, order = index(), torch.randperm(20, generator=torch.Generator().manual_seed(0))
    other = Index(ours.descriptors[order], [ours.names[i] for i in order])
    query = index(21).descriptors[20:]
    for expand in (0, 5):
        names = [[it.names[i] for i in it.search(query, expand=expand)[1][0]] for it in (ours, other)]
        assert names[0] == names[1]


def test_expansion_adds_the_best_matches():
    ours = index()
    query = index(21).descriptors[20:]
    first = ours.search(query, top=5)[1][0]
    wider = unit((query[0] + ours.descriptors[first].sum(0)).numpy())
    assert torch.equal(ours.search(query, expand=5)[1], ours.search(torch.from_numpy(wider)[None])[1])


def test_index_survives_saving(tmp_path):
    ours = index()
    ours.save(tmp_path)
    again = Index.load(tmp_path)
    assert torch.equal(again.descriptors, ours.descriptors) and (again.names, again.about, again.left_out) == (
        ours.names, ours.about, ours.left_out)
    again.add(index(21).descriptors[20:], ["new.jpg"])
    again.save(tmp_path)
    assert Index.load(tmp_path).names[-1] == "new.jpg"
    assert sorted(file.suffix for file in tmp_path.iterdir()) == [".json", ".safetensors"]


def test_an_index_keeps_what_has_not_changed_by_its_stamps(tmp_path):
    ours = index()
    names, stamps = list(ours.names), [f"stamp {i}" for i in range(20)]
    ours = Index(ours.descriptors, names, ours.about, stamps=stamps)
    ours.save(tmp_path)
    now = dict(zip(names, stamps, strict=True)) | {names[3]: "edited", "new": "stamp 3"}
    del now[names[5]]
    same = Index.load(tmp_path).unchanged(now)
    kept = [i for i in range(20) if i not in (3, 5)]
    assert same.names == [names[i] for i in kept] and torch.equal(same.descriptors, ours.descriptors[kept])
    same.add(ours.descriptors[[3]], [names[3]], stamps=["edited"])
    assert same.unchanged(now).names == same.names and same.about == ours.about
    same.add(ours.descriptors[[5]], [names[5]])  # without a stamp: nobody knows whether it is the same
    assert names[5] not in same.unchanged(now | {names[5]: ""}).names
    with pytest.raises(ValueError, match="2 stamps for 20 names"):
        Index(ours.descriptors, names, stamps=["a", "b"])


def test_an_index_of_an_earlier_version_has_no_stamps(tmp_path):
    index().save(tmp_path)
    card = json.loads((tmp_path / "index.json").read_text())
    del card["stamps"]
    (tmp_path / "index.json").write_text(json.dumps(card))
    assert Index.load(tmp_path).stamps == [""] * 20


def test_names_of_an_index_need_not_be_text(tmp_path):
    name = b"caf\xe9\n.jpg".decode("utf-8", "surrogateescape")
    Index(torch.eye(1, 4), [name]).save(tmp_path)
    assert Index.load(tmp_path).names == [name]


def test_an_image_that_activates_nothing_stays_dead_through_whitening():
    generator = torch.Generator().manual_seed(0)
    rows = [torch.nn.functional.normalize(torch.rand(4, 12, generator=generator) + 0.2, dim=1) for _ in range(30)]
    dead = describe([torch.zeros(12, 5, 5)], "nmf_v", rank=4)
    whitening = Whitening.fit(rows)
    for regional in (False, True):
        vectors = pooled([*rows, *dead], whitening, regional=regional)
        assert torch.allclose(vectors[:-1].norm(dim=1), torch.ones(30), atol=1e-5) and not vectors[-1].any()
        scores, _ = Index(vectors, [str(i) for i in range(31)]).search(vectors[-1:])
        assert not scores.any()
    half = [torch.cat([each, torch.zeros(3, 12)]) for each in rows]  # as of factors that died
    assert torch.equal(pooled(half, whitening), pooled(rows, whitening))
    learned = Whitening.fit([*rows, *dead])
    assert torch.allclose(learned.mean, whitening.mean) and torch.allclose(learned.directions, whitening.directions)
    with pytest.raises(ValueError, match="equal rows"):
        Whitening.fit(dead)


def test_an_interrupted_save_leaves_the_old_index(tmp_path, monkeypatch):
    ours = index()
    ours.save(tmp_path)
    real, calls = os.replace, []

    def fails(*args):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(*args)

    monkeypatch.setattr("nmfcore._files.os.replace", fails)
    larger = index(21)
    with pytest.raises(KeyboardInterrupt):
        larger.save(tmp_path)
    assert Index.load(tmp_path).names == ours.names
    monkeypatch.undo()
    larger.save(tmp_path)
    assert Index.load(tmp_path).names == larger.names


def test_a_damaged_or_foreign_index_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError):
        Index.load(tmp_path)
    ours = index()
    ours.save(tmp_path)
    card = json.loads((tmp_path / "index.json").read_text())
    (tmp_path / "index.json").write_text(json.dumps(card)[:50])
    with pytest.raises(ValueError, match=r"index\.json is damaged .*build the index again"):
        Index.load(tmp_path)
    (tmp_path / "index.json").write_text(json.dumps({**card, "version": 99}))
    with pytest.raises(ValueError, match="version 99"):
        Index.load(tmp_path)
    (tmp_path / "index.json").write_text(json.dumps(card))
    file = next(tmp_path.glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-4] + b"oops")
    with pytest.raises(ValueError, match="missing or damaged"):
        Index.load(tmp_path)
    ours.check({"method": "mac"})
    with pytest.raises(ValueError, match="made with method 'mac', not 'crow'"):
        ours.check({"method": "crow"})
    with pytest.raises(ValueError, match="made with method 'mac', not None"):
        ours.check({})
    with pytest.raises(ValueError, match="made with rank None, not 4"):
        ours.check({"method": "mac", "rank": 4})


def test_an_index_refuses_what_does_not_fit():
    ours = index()
    with pytest.raises(ValueError, match="not finite"):
        ours.add(torch.full((1, 6), float("nan")), ["x"])
    with pytest.raises(ValueError, match=r"'3.jpg'"):
        ours.add(torch.zeros(1, 6), ["3.jpg"])
    with pytest.raises(ValueError, match="width 5 do not fit"):
        ours.add(torch.zeros(1, 5), ["x"])
    with pytest.raises(ValueError, match="2 names"):
        ours.add(torch.zeros(1, 6), ["x", "y"])
    with pytest.raises(ValueError, match="queries of shape"):
        ours.search(torch.zeros(6))
    assert len(ours.names) == 20


# --- the index by faiss ---


def clustered(n=4000, d=32):
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(n // 50, d, generator=generator)
    vectors = centres[torch.randint(len(centres), (n,), generator=generator)]
    vectors += torch.randn(n, d, generator=generator)
    return Index(vectors / vectors.norm(dim=1, keepdim=True), [str(i) for i in range(n)])


def test_search_by_faiss_finds_what_exact_search_finds():
    pytest.importorskip("faiss")
    ours = clustered()
    made, queries = ours.faiss(), ours.descriptors[:200]
    exact, found = (ours.search(queries, top=10, by=by) for by in (None, made))
    assert found[1][:, 0].tolist() == list(range(200))  # an image finds itself
    common = [len({*a} & {*b}) for a, b in zip(exact[1].tolist(), found[1].tolist(), strict=True)]
    assert np.mean(common) > 9.5
    assert torch.allclose(found[0], (queries[:, None] * ours.descriptors[found[1]]).sum(2), atol=1e-5)
    few = ours.search(queries, top=10, by=ours.faiss(probes=1))[1]
    assert np.mean([len({*a} & {*b}) for a, b in zip(exact[1].tolist(), few.tolist(), strict=True)]) < np.mean(common)
    wide = [ours.search(queries[:20], top=10, expand=5, by=by)[1] for by in (None, made)]
    assert (wide[0] == wide[1]).float().mean() > 0.95 and not torch.equal(wide[0], exact[1][:20])


def test_where_faiss_finds_too_few_the_search_is_exact():
    pytest.importorskip("faiss")
    ours = clustered()
    for top in (None, 500):
        exact, found = (ours.search(ours.descriptors[:3], top=top, by=by) for by in (None, ours.faiss(probes=2)))
        assert torch.equal(exact[1], found[1]) and torch.equal(exact[0], found[0])
    few = index()
    assert torch.equal(few.search(few.descriptors, top=4, by=few.faiss())[1], few.search(few.descriptors, top=4)[1])


def test_a_faiss_index_of_fewer_images_is_refused():
    pytest.importorskip("faiss")
    ours = index()
    made = ours.faiss()
    ours.add(index(21).descriptors[20:], ["new.jpg"])
    with pytest.raises(ValueError, match="holds 20 descriptors of 21; make it anew"):
        ours.search(ours.descriptors[:1], by=made)


def test_without_faiss_the_cure_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'nmfcore\[faiss\]'"):
        index().faiss()


# --- average precision ---


@pytest.mark.parametrize(("ranking", "positives", "junk", "expected"), [
    ("ab", "ab", "", 1.0),
    ("xab", "ab", "", (0 + 1 / 2 + 1 / 2 + 2 / 3) / 4),
    ("axb", "ab", "", (1 + 1 + 1 / 2 + 2 / 3) / 4),
    ("ajb", "ab", "j", 1.0),  # junk does not count as a place
    ("jax", "ab", "j", (1 + 1) / 4),  # b is never found
    ("xyz", "a", "", 0.0)])
def test_average_precision_by_hand(ranking, positives, junk, expected):
    assert average_precision(ranking, positives, junk) == pytest.approx(expected)


def published(ranking, positives, junk):
    """The loop of the benchmark's program: old and new recall and precision, junk skipped."""
    old_recall, old_precision, ap, seen, j = 0.0, 1.0, 0.0, 0, 0
    for image in ranking:
        if image in junk:
            continue
        seen += image in positives
        recall, precision = seen / len(positives), seen / (j + 1)
        ap += (recall - old_recall) * (old_precision + precision) / 2
        old_recall, old_precision = recall, precision
        j += 1
    return ap


@given(st.permutations(range(9)), st.sets(st.integers(0, 8), min_size=1), st.sets(st.integers(0, 8)))
def test_average_precision_is_the_published_program(ranking, positives, junk):
    assert average_precision(ranking, positives, junk) == pytest.approx(published(ranking, positives, junk))


def test_average_precision_at():
    assert average_precision_at("ab", "ab", n=2) == 1
    assert average_precision_at("axb", "ab", n=3) == pytest.approx((1 + 2 / 3) / 3)
    assert average_precision_at("xyzab", "ab", n=3) == 0
    with pytest.raises(ValueError, match="without positives"):
        average_precision("ab", "")


# --- Oxford's queries ---


def test_oxford_queries_in_their_layout(tmp_path):
    (tmp_path / "tower_1_query.txt").write_text("oxc1_tower_000013 136.5 34.1 648.5 955.7\n")
    for kind, names in (("good", "tower_000013\ntower_7\n"), ("ok", "tower_8\n"), ("junk", "tower_9\n")):
        (tmp_path / f"tower_1_{kind}.txt").write_text(names)
    query, = oxford_queries(tmp_path)
    assert (query.name, query.image, query.box) == ("tower_1", "tower_000013", (136.5, 34.1, 648.5, 955.7))
    assert query.positives == {"tower_000013", "tower_7", "tower_8"} and query.junk == {"tower_9"}
    with pytest.raises(FileNotFoundError, match="holds no file"):
        oxford_queries(tmp_path / "none")


@pytest.mark.skipif("NMFCORE_DATA" not in os.environ, reason="needs the data folder")
def test_the_official_oxford_queries():
    queries = oxford_queries(Path(os.environ["NMFCORE_DATA"]) / "oxford5k" / "gt")
    assert len(queries) == 55 and len({query.name.rsplit("_", 1)[0] for query in queries}) == 11
    for query in queries:
        x0, y0, x1, y1 = query.box
        assert 0 <= x0 < x1 and 0 <= y0 < y1 and query.positives and not query.positives & query.junk
        best = [*query.positives, *query.junk, "another"]
        assert average_precision(best, query.positives, query.junk) == 1
        assert average_precision(["a third", *best], query.positives, query.junk) < 1


def test_gem_is_the_power_mean_and_lies_between_mean_and_maximum():
    features = torch.rand(2, 5, 4, 6)
    for maps, rows in zip(features, describe(features, "gem"), strict=True):
        mean = maps.pow(3).mean((1, 2)).pow(1 / 3)
        torch.testing.assert_close(rows[0], mean / mean.norm())
        assert (maps.mean((1, 2)) <= mean).all() and (mean <= maps.amax((1, 2))).all()


def test_rmac_overlap_on_a_long_map():
    assert len(rmac_regions(10, 30)) == 4 + 2 * 5 + 3 * 6  # neighbours at the coarsest level overlap by a third


def test_a_factor_with_three_fifths_of_its_heatmap_in_the_box_is_left_out_of_the_query():
    features = torch.zeros(2, 4, 5)
    features[0, 0] = 1  # three of five positions in the box
    features[1, 2, :3] = 1  # all of them
    rows, = describe([features], "nmf_v", rank=2, boxes=[(0, 0, 29, 39)], sizes=[(40, 50)])
    assert len(rows) == 1 and rows[0].argmax() == 1
