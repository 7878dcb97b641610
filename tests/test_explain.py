"""explain: every number against its definition, and that the text, the page, the picture and the command show them."""

import html.parser
import json
import math
import re
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from cases import CASES, LAYOUTS, random_case, small_integers

import im2colx
from im2colx import PatchMatrix, _reference, cli, col2im, conv2d, datasets, explain, im2col, output_shape
from im2colx._explain import drawing
from im2colx._explain.html import slots
from im2colx._explain.words import amount, digits, duration
from im2colx._methods import METHODS, choose, phi_nbytes

PAPER_LIKE = {"stride": 2, "pad": 1, "at": (0, 0, 0, 1)}
LARGE = [
    ((32, 256, 224, 224), (512, 256, 3, 3), {"pad": 1}),
    ((1, 512, 7, 7), (4096, 512, 7, 7), {}),
    ((64, 512, 14, 14), (512, 1, 3, 3), {"pad": 1, "groups": 512}),
    ((1, 1, 100_000, 100_000), (1, 1, 3, 3), {}),
    ((1, 1, 2000, 2000), (1, 1, 1500, 1500), {}),
    ((1, 3, 40, 40), (12, 3, 11, 11), {"pad": 0}),
    ((8, 16, 16, 16), (12, 16, 3, 3), {"pad": "same"}),
    ((1, 60, 60, 1), (3, 3, 1, 1), {"pad": 30, "dilation": 29, "layout": "NHWC"}),
    ((100_000, 3, 32, 32), (16, 3, 3, 3), {"stride": 5}),
    ((1, 4096, 1, 1), (8, 4096, 1, 1), {}),
]  # fmt: skip


def positions(y_shape, layout):
    """(n, f, a, b) sizes."""
    n, *rest = y_shape
    return (n, *rest) if layout == "NCHW" else (n, rest[2], rest[0], rest[1])


def first_axes(array, layout):
    """x or y as (n, c, i, j)."""
    return array if layout == "NCHW" else np.moveaxis(array, -1, 1)


def filters_first(w, layout):
    """w as (f, c, u, v)."""
    return w if layout == "NCHW" else w.transpose(3, 2, 0, 1)


def some_explanations(count, seed, dtypes=("float32", "int8", "float64")):
    """(explanation, case, layout, x, w) of the table's shapes and of random ones, at random outputs."""
    rng = np.random.default_rng(seed)
    for number, case in enumerate([*CASES, *(random_case(rng) for _ in range(count))]):
        layout, dtype = LAYOUTS[number % 2], dtypes[number % len(dtypes)]
        x, w = (small_integers(rng, shape, dtype) for shape in (case.x_shape(layout), case.w_shape(layout)))
        sizes = positions(output_shape(x.shape, w.shape, *case.geometry, layout=layout), layout)
        at = tuple(int(rng.integers(size)) for size in sizes)
        yield explain(x, w, *case.geometry, layout=layout, at=at), case, layout, x, w


def group_of(case, layout, x, w, f):
    """x and w of the group of filter f, and the group."""
    group = f // (case.f // case.groups)
    channels, filters = (slice(group * size // case.groups, (group + 1) * size // case.groups) for size in (case.c, case.f))
    return (x[:, channels], w[filters], group) if layout == "NCHW" else (x[..., channels], w[..., filters], group)


# ---- The numbers ----------------------------------------------------------------------------------------------------


def test_the_row_the_column_their_product_and_where_it_lands():
    for e, case, layout, x, w in some_explanations(60, 0):
        facts, (n, f, a, b) = e.facts, (e.facts["at"][name] for name in "nfab")
        xg, wg, group = group_of(case, layout, x, w, f)
        phi = im2col(xg, case.kernel, *case.geometry[:3], layout=layout)
        columns = wg.reshape(len(wg), -1).T if layout == "NCHW" else wg.reshape(-1, wg.shape[-1])
        y = conv2d(x, w, *case.geometry, layout=layout)
        oh, ow = first_axes(y, layout).shape[2:]
        p = (n * oh + a) * ow + b

        assert (facts["phi"]["rows"], facts["phi"]["columns"]) == phi.shape and facts["phi"]["entries"] == phi.size
        assert (facts["weights"]["rows"], facts["weights"]["columns"]) == columns.shape
        assert facts["weights"]["entries"] == columns.size
        assert facts["at"] == {"n": n, "f": f, "a": a, "b": b, "p": p, "group": group}
        assert facts["left_out"] == {"entries": 0, "sum": 0, "what": []}
        assert [entry["q"] for entry in facts["entries"]] == list(range(phi.shape[1]))
        np.testing.assert_array_equal([entry["x"] for entry in facts["entries"]], phi[p])
        column = f % (case.f // case.groups)
        np.testing.assert_array_equal([entry["w"] for entry in facts["entries"]], columns[:, column])
        assert all(entry["term"] == entry["x"] * entry["w"] for entry in facts["entries"])
        value = first_axes(y, layout)[n, f, a, b]
        assert facts["sum"] == sum(entry["term"] for entry in facts["entries"]) == facts["y"] == value

        lands = facts["lands"]
        assert (lands["row"], lands["column"]) == (p, column)
        assert lands["index"] == ([n, f, a, b] if layout == "NCHW" else [n, a, b, f])
        assert np.ravel_multi_index(lands["index"], y.shape) == lands["offset"]


def test_the_sizes_and_their_formula():
    for e, case, layout, x, w in some_explanations(40, 1):
        sizes, call = e.facts["sizes"], e.facts["call"]
        assert [sizes[name] for name in ("N", "C", "H", "W", "F", "G", "KH", "KW")] == [
            case.n, case.c, case.h, case.w, case.f, case.groups, *case.kernel,
        ]  # fmt: skip
        shape = output_shape(x.shape, w.shape, *case.geometry, layout=layout)
        assert (sizes["OH"], sizes["OW"]) == positions(shape, layout)[2:]
        assert call["x_shape"] == list(x.shape) and call["w_shape"] == list(w.shape) and call["y_shape"] == list(shape)
        assert (call["layout"], call["groups"], call["dtype"]) == (
            layout,
            case.groups,
            str(conv2d(x, w, *case.geometry, layout=layout).dtype),
        )
        for number, axis in enumerate(e.facts["output_size"]):
            span = axis["dilation"] * (axis["kernel"] - 1) + 1
            padded = axis["size"] + axis["before"] + axis["after"]
            assert (axis["reach"], axis["padded"]) == (span, padded)
            assert axis["output"] == (sizes["OH"], sizes["OW"])[number] == math.floor((padded - span) / axis["stride"]) + 1
            assert axis["unused"] == padded - (span + (axis["output"] - 1) * axis["stride"])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_index_map_both_ways(layout):
    rng = np.random.default_rng(2)
    for _ in range(40):
        case = random_case(rng)
        x_shape = case.x_shape(layout)
        sizes = positions(output_shape(x_shape, case.w_shape(layout), *case.geometry, layout=layout), layout)
        at = tuple(int(rng.integers(size)) for size in sizes)
        e = explain(x_shape, case.w_shape(layout), *case.geometry, layout=layout, at=at)
        per_group = case.c // case.groups
        group = e.facts["at"]["group"]
        shape = (case.n, per_group, case.h, case.w) if layout == "NCHW" else (case.n, case.h, case.w, per_group)
        phi = PatchMatrix(np.zeros(shape, "f4"), case.kernel, *case.geometry[:3], layout=layout)
        n, c, i, j, inside = np.broadcast_arrays(*_reference.index_map(shape, case.kernel, *case.geometry[:3], layout))

        for _ in range(30):
            p, q = int(rng.integers(phi.shape[0])), int(rng.integers(phi.shape[1]))
            expected = phi.index(p, q)
            assert e.index(p, q) == (expected and (expected[0], expected[1] + group * per_group, *expected[2:]))
        pixel = tuple(int(rng.integers(size)) for size in (case.n, case.c, case.h, case.w))
        reads = inside & (n == pixel[0]) & (c == pixel[1] % per_group) & (i == pixel[2]) & (j == pixel[3])
        assert e.readers(*pixel) == [tuple(pair) for pair in np.argwhere(reads).tolist()]

        place, entry = e.facts["index_map"], e.facts["entries"][e.facts["mark"]]
        p, q = place["p"], place["q"]
        assert (p, q) == (e.facts["at"]["p"], entry["q"])
        assert [place[name] for name in "nijc"] == [n[p, q], i[p, q], j[p, q], c[p, q] + group * per_group]
        assert place["inside"] == inside[p, q] and place["r"] == p % (sizes[2] * sizes[3])
        assert (place["a"], place["b"]) == (place["r"] // sizes[3], place["r"] % sizes[3]) == at[2:]
        assert (place["u"], place["v"]) == (entry["u"], entry["v"])
        # An element of the padded image: a number of the row plus one of the column.
        pads = [(0, 0), (0, 0), *case.pad] if layout == "NCHW" else [(0, 0), *case.pad, (0, 0)]
        padded = np.pad(np.arange(np.prod(x_shape)).reshape(x_shape) + 1, pads)
        assert place["base"] + place["offset_of_q"] == place["offset"]
        inner = (
            [place["n"], place["c"], place["i"], place["j"]]
            if layout == "NCHW"
            else [place["n"], place["i"], place["j"], place["c"]]
        )
        at_offset = padded.ravel()[place["offset"]]
        assert at_offset == (np.ravel_multi_index(inner, x_shape) + 1 if place["inside"] else 0)

        found = e.facts["readers"]
        if place["inside"]:
            assert found["pixel"] == entry["from"]
            every = e.readers(*found["pixel"])
            assert found["count"] == len(every) and found["list"] == [list(pair) for pair in every[:64]]
            assert [p, q] in [list(pair) for pair in every]
        else:
            assert found == {"pixel": None, "count": 0, "list": []} and entry["from"] is None


def test_base_depends_on_the_row_only_and_offset_on_the_column_only():
    from im2colx._explain.facts import index_map

    e = explain((2, 4, 7, 6), (4, 2, 3, 2), (2, 1), ((1, 2), (0, 1)), (1, 2), 2)
    base = {p: {index_map(e._geometry, 1, p, q)["base"] for q in range(12)} for p in range(e.facts["phi"]["rows"])}
    offsets = {q: {index_map(e._geometry, 1, p, q)["offset_of_q"] for p in range(12)} for q in range(12)}
    assert all(len(values) == 1 for values in (*base.values(), *offsets.values()))
    assert len(set(map(min, base.values()))) == len(base) and len(set(map(min, offsets.values()))) == 12


def test_how_often_pixels_are_used_is_what_col2im_adds():
    for e, case, layout, x, _ in some_explanations(50, 3):
        ones = np.ones(
            (case.n * np.prod([e.facts["sizes"][name] for name in ("OH", "OW")]), case.c * np.prod(case.kernel)), int
        )
        counts = first_axes(col2im(ones, x.shape, case.kernel, *case.geometry[:3], layout=layout), layout)
        uses = e.facts["uses"]
        assert (counts == counts[:1, :1]).all()  # the same in every image and channel
        rows, columns = slice(*uses["i"]), slice(*uses["j"])
        assert uses["i"] == [0, case.h] and uses["j"] == [0, case.w]
        np.testing.assert_array_equal(np.array(uses["counts"], int).reshape(case.h, case.w), counts[0, 0, rows, columns])
        assert uses["most"] == counts.max(initial=0) and uses["never"] == np.count_nonzero(counts[0, 0] == 0)


def test_the_matrix_of_the_layer():
    rng = np.random.default_rng(4)
    for e, case, layout, x, w in some_explanations(25, 5):
        if not x[0].size:
            continue
        units = np.eye(x[0].size, dtype="float32").reshape(-1, *x.shape[1:])
        places = conv2d(units, np.ones(w.shape, "float32"), *case.geometry, layout=layout).reshape(len(units), -1).T
        matrix = e.facts["matrix"]
        assert (matrix["rows"], matrix["columns"]) == places.shape and matrix["entries"] == places.size
        assert matrix["weights"] == w.size and matrix["weight_places"] == np.count_nonzero(places)
        mark = e.facts["entries"][e.facts["mark"]]
        one = np.zeros(filters_first(w, layout).shape, "float32")
        one[e.facts["at"]["f"], mark["c"] % (case.c // case.groups), mark["u"], mark["v"]] = 1
        one = one if layout == "NCHW" else one.transpose(2, 3, 1, 0)
        stands = conv2d(units, one, *case.geometry, layout=layout).reshape(len(units), -1).T
        assert matrix["weight_of_mark"] == np.count_nonzero(stands)
        assert matrix["row"] == e.facts["lands"]["offset"] % places.shape[0]
        if mark["from"]:
            assert stands[matrix["row"], matrix["column"]] == 1
        else:
            assert matrix["column"] is None

        n, _, _, _, inside = np.broadcast_arrays(*_reference.index_map(x.shape, case.kernel, *case.geometry[:3], layout))
        inside = inside & (n == 0)
        assert matrix["patch_entries"] == np.count_nonzero(n == 0) and matrix["patch_pixels"] == np.count_nonzero(inside)
        assert matrix["patch_padding"] == matrix["patch_entries"] - matrix["patch_pixels"]
        assert matrix["weight_most"] == inside.sum(axis=0).max()

        drawn = drawing.layer(e.facts, 10**6)
        assert drawn.is_whole == (drawn.rows != [] and len(drawn.columns) == places.shape[1])
        expected = {(int(r), int(s)) for r, s in np.argwhere(places)}
        assert {(row, column) for row, column, _, _ in drawn.cells} == expected and len(drawn.cells) == len(expected)
        assert drawn.row == matrix["row"]
        some = drawing.layer(e.facts, 3)
        assert len(some.rows) == min(3, places.shape[0]) and some.rows[some.row] == tuple(e.facts["at"][name] for name in "fab")

        xg, _, _ = group_of(case, layout, x, w, e.facts["at"]["f"])
        patches = drawing.patches(e.facts, 10**6)
        phi = PatchMatrix(xg, case.kernel, *case.geometry[:3], layout=layout)
        assert len(patches.cells) == phi.shape[0] * phi.shape[1] and patches.row == e.facts["at"]["p"] and patches.is_whole
        for row, column, k, pixel in (patches.cells[int(at)] for at in rng.integers(len(patches.cells), size=20)):
            assert column == k and pixel == e.index(row, column)


def test_the_view_holds_the_values():
    for e, case, layout, x, w in some_explanations(30, 6):
        facts, view = e.facts, e.facts["view"]
        padded = np.pad(first_axes(x, layout).astype(object), [(0, 0), (0, 0), *case.pad], constant_values=None)
        np.testing.assert_array_equal(np.array(facts["x"], object), padded)
        assert view["n"] == [0, case.n] and view["c"] == [0, case.c] and view["f"] == [0, case.f]
        assert view["i"] == [-case.pad[0][0], case.h + case.pad[0][1]] and view["j"] == [
            -case.pad[1][0],
            case.w + case.pad[1][1],
        ]
        np.testing.assert_array_equal(facts["y_values"], first_axes(conv2d(x, w, *case.geometry, layout=layout), layout))
        columns = w.reshape(case.f, -1) if layout == "NCHW" else w.reshape(-1, case.f).T
        np.testing.assert_array_equal(facts["w"], columns)
        json.loads(e.json())


def test_values_of_shapes_alone_are_small_and_distinct():
    e = explain((1, 2, 5, 5), (3, 2, 3, 3), **PAPER_LIKE)
    inner = np.array(e.facts["x"], object)[0, :, 1:-1, 1:-1].astype(int)
    np.testing.assert_array_equal(inner.ravel(), np.arange(1, 51))
    for column in e.facts["w"]:
        assert len(set(column)) == 18 and max(map(abs, column)) == 9
    assert len(set(map(tuple, e.facts["w"]))) == 3
    assert e.facts["call"]["dtype"] == "float32"
    assert explain((5, 5), (3, 3), dtype="int16").facts["call"]["dtype"] == "int32"
    # the same numbers in either layout
    other = explain((1, 5, 5, 2), (3, 3, 2, 3), layout="NHWC", **PAPER_LIKE)
    assert other.facts["y"] == e.facts["y"] and other.facts["x"] == e.facts["x"]
    assert [entry["c"] for entry in other.facts["entries"][:4]] == [0, 1, 0, 1]
    # an array and a shape
    x = np.arange(1, 51, dtype="float32").reshape(1, 2, 5, 5)
    assert explain(x, (3, 2, 3, 3), **PAPER_LIKE).facts["y"] == e.facts["y"]
    assert explain((1, 2, 5, 5), np.ones((3, 2, 3, 3)), **PAPER_LIKE).facts["sum"] == sum(
        (2, 3, 4, 7, 8, 9, 27, 28, 29, 32, 33, 34)
    )


@pytest.mark.parametrize("given", ["image", "plane"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_missing_axes(given, layout):
    x = np.arange(20.0).reshape(4, 5)
    w = np.arange(4.0).reshape(2, 2)
    if given == "image":
        x, w = (x[None], w[None, None]) if layout == "NCHW" else (x[..., None], w[..., None, None])
    e = explain(x, w, layout=layout, at=(0, 0, 1, 2))
    y = conv2d(x, w, layout=layout)
    assert tuple(e.facts["call"]["y_shape"]) == y.shape
    assert y[tuple(e.facts["lands"]["index"])] == e.facts["y"] == y.ravel()[e.facts["lands"]["offset"]]
    assert f"y[{', '.join(map(str, e.facts['lands']['index']))}]" in e.html()


def test_the_output_that_is_chosen_by_default():
    assert explain((1, 1, 28, 28), (1, 1, 7, 7), 7).facts["at"]["p"] == 2 * 4 + 2  # the middle
    assert explain((1, 1, 5, 5), (1, 1, 3, 3), 2, 1).facts["at"] == {"n": 0, "f": 0, "a": 0, "b": 1, "p": 1, "group": 0}
    e = explain((1, 1, 5, 5), (1, 1, 3, 3), 1, 10)  # the first rows are nothing but padding
    assert e.facts["at"]["a"] == 9 and {entry["from"] is None for entry in e.facts["entries"]} == {True, False}


def test_floats_and_what_is_no_number():
    rng = np.random.default_rng(7)
    x, w = rng.standard_normal((1, 3, 6, 6)).astype("f4"), rng.standard_normal((2, 3, 3, 3)).astype("f4")
    e = explain(x, w, at=(0, 1, 2, 1))
    assert e.facts["y"] == conv2d(x, w)[0, 1, 2, 1]
    # 27 products of numbers near 1 in float32
    assert e.facts["sum"] == pytest.approx(e.facts["y"], abs=27 * 2**-24 * 30)
    x[0, 0, 2, 1], x[0, 1, 3, 2], x[0, 2, 3, 3] = np.nan, np.inf, -np.inf
    e = explain(x, w, at=(0, 1, 2, 1))
    assert math.isnan(e.facts["y"]) and math.isnan(e.facts["sum"])
    facts = json.loads(e.json(), parse_constant=lambda word: pytest.fail(word))
    assert facts["y"] == "NaN" and {"NaN", "Infinity", "-Infinity"} <= {entry["x"] for entry in facts["entries"]}
    for shown in (e.text(), e.html()):
        assert "NaN" in shown and "∞" in shown
    e = explain(np.full((1, 1, 30, 30), np.inf), (1, 1, 3, 3))  # shades have no scale
    assert "∞" in e.html() and e.figure()


def test_cost_is_the_librarys_own():
    for layout, dtype in (("NCHW", "float32"), ("NHWC", "int16")):
        x = np.ones((2, 4, 20, 20), dtype)
        w = np.ones((8, 4, 3, 3) if layout == "NCHW" else (3, 3, 20, 8), dtype)
        e = explain(x, w, pad=1, layout=layout)
        cost, code = e.facts["cost"], {"float32": "f4", "int16": "i4"}[dtype]
        chosen, _ = choose("auto", "forward", e._geometry, code, None)
        assert cost["auto"] == chosen.name == im2colx.plan_conv2d(x.shape, w, pad=1, layout=layout).method
        assert [method["name"] for method in cost["methods"]] == list(im2colx.methods()[1:])
        for method, row in zip(cost["methods"], METHODS, strict=True):
            reason = row.declines("forward", e._geometry, code, None)
            assert method["declines"] == reason and method["summary"] == row.summary
            if reason is None:
                plan = im2colx.plan_conv2d(x.shape, w, pad=1, layout=layout, method=row.name)
                if row.kind != "implicit":  # a plan has packed the weights beforehand
                    assert method["workspace_nbytes"] == plan.workspace_nbytes
                assert method["seconds"] == row.seconds("forward", e._geometry, code)
        y = conv2d(x, w, pad=1, layout=layout)
        size = y.itemsize
        assert (cost["x_nbytes"], cost["w_nbytes"], cost["y_nbytes"]) == (x.size * size, w.size * size, y.nbytes)
        assert cost["phi_nbytes"] == phi_nbytes(e._geometry, code) == im2col(x, 3, pad=1, layout=layout).size * size
        assert cost["matrix_nbytes"] == y[0].size * x[0].size * size
        assert cost["multiply_adds"] == y.size * w.size // 8
        assert all(method["name"] in e.text() and method["summary"][:30] in e.html() for method in cost["methods"])
    assert "implicit" in [method["name"] for method in cost["methods"] if method["declines"]]
    assert "declines" in e.text() and "declines" in e.html()


# ---- Large shapes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("x_shape", "w_shape", "options"), LARGE, ids=lambda value: str(value).replace(" ", ""))
def test_large_shapes_are_bounded(x_shape, w_shape, options):
    tracemalloc.start()
    start = time.perf_counter()
    e = explain(x_shape, w_shape, **options)
    text, page, facts = e.text(), e.html(), e.json()
    seconds = time.perf_counter() - start
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seconds < 20  # under tracemalloc, on a busy machine; half a second without
    assert peak < 200e6  # the largest x would take 1.6 GB
    assert len(text) < 40_000 and len(page) < 500_000 and len(facts) < 250_000
    assert max(map(len, text.splitlines())) <= 80
    left = e.facts["left_out"]
    assert left["entries"] == e.facts["phi"]["columns"] - len(e.facts["entries"])
    assert e.facts["sum"] + left["sum"] == pytest.approx(e.facts["y"])
    for what in left["what"]:
        assert what.replace("-", "−") in page
    assert bool(left["what"]) == ("These shapes are large" in text) == ("These shapes are large" in page)


def test_what_is_shown_of_large_arrays_is_right():
    rng = np.random.default_rng(8)
    for layout, groups, x_shape, w_shape, stride, pad, dilation in (
        ("NCHW", 1, (3, 40, 50, 60), (20, 40, 3, 3), (2, 1), ((1, 2), (0, 3)), (1, 2)),
        ("NHWC", 4, (12, 45, 50, 32), (5, 3, 8, 24), (1, 3), ((2, 0), (1, 1)), (2, 1)),
        ("NCHW", 1, (1, 2, 70, 70), (1, 2, 30, 33), (7, 5), 0, 1),
        ("NCHW", 30, (2, 30, 20, 20), (60, 1, 3, 3), 1, 1, 1),
        ("NCHW", 1, (1, 2, 5, 6), (3, 2, 3, 3), (2, 1), ((50, 60), (70, 40)), 1),  # outputs of nothing but padding
    ):
        x, w = small_integers(rng, x_shape, "float32"), small_integers(rng, w_shape, "float32")
        y = first_axes(conv2d(x, w, stride, pad, dilation, groups, layout=layout), layout)
        inner = tuple(tuple(int(rng.integers(size)) for size in y.shape) for _ in range(5))
        for at in ((0, 0, 0, 0), tuple(size - 1 for size in y.shape), *inner):
            e = explain(x, w, stride, pad, dilation, groups, layout=layout, at=at)
            facts, view = e.facts, e.facts["view"]
            for name, axis in zip("ij", facts["output_size"], strict=True):
                assert -axis["before"] <= view[name][0] < view[name][1] <= axis["size"] + axis["after"]
                assert view[name][1] - view[name][0] >= min(14, axis["padded"])
            assert facts["y"] == y[at] and facts["left_out"]["what"]
            ranges = [slice(*view[name]) for name in "nfab"]
            assert all(part.start <= position < part.stop for part, position in zip(ranges, at, strict=True))
            np.testing.assert_array_equal(facts["y_values"], y[tuple(ranges)])
            if facts["left_out"]["entries"]:
                assert facts["sum"] + facts["left_out"]["sum"] == facts["y"]
            else:
                assert facts["sum"] == facts["y"]
            every, weights = first_axes(x, layout), filters_first(w, layout)
            for entry in facts["entries"]:
                if entry["from"]:
                    assert e.index(facts["at"]["p"], entry["q"]) == tuple(entry["from"])
                    assert every[tuple(entry["from"])] == entry["x"]
                else:
                    assert entry["x"] == 0 and e.index(facts["at"]["p"], entry["q"]) is None
                assert weights[at[1], entry["c"] % weights.shape[1], entry["u"], entry["v"]] == entry["w"]
            # All that the page may be asked for is there: the shown taps of every output in view.
            for a in range(*view["a"]):
                for b in range(*view["b"]):
                    for i, j in drawing.taps_of(facts, a, b):
                        assert view["i"][0] <= i < view["i"][1] and view["j"][0] <= j < view["j"][1]
            ones = np.ones((len(x) * np.prod(y.shape[2:]), every.shape[1] * np.prod(weights.shape[2:])), "f4")
            counts = col2im(ones, x.shape, weights.shape[2:], stride, pad, dilation, layout=layout)
            counts = first_axes(counts, layout)[0, 0]
            uses = facts["uses"]
            shown = counts[slice(*uses["i"]), slice(*uses["j"])]
            np.testing.assert_array_equal(np.array(uses["counts"]).reshape(shown.shape), shown)
            assert uses["most"] == counts.max() and uses["never"] == np.count_nonzero(counts == 0)


# ---- Text -----------------------------------------------------------------------------------------------------------


def test_the_text_has_the_numbers():
    for e, *_ in some_explanations(30, 9):
        facts, text = e.facts, e.text()
        assert max(map(len, text.splitlines())) <= 80
        table = [line.split() for line in text[text.index("5. Row times column") : text.index("6. Where")].splitlines()[2:]]
        total = 0
        for line, entry in zip(table, facts["entries"][:50], strict=False):
            total += entry["term"]
            assert line[0] == str(entry["q"])
            assert line[-4:] == [digits(entry[name]) for name in ("x", "w", "term")] + [digits(total)]
            where = f"({', '.join(map(str, entry['from']))})" if entry["from"] else "padding"
            assert where in " ".join(line)
        assert f"The sum is {digits(facts['y'])}; conv2d gives y = {digits(facts['y'])}" in text
        for axis in facts["output_size"]:
            padded = f"{axis['size']} + {axis['before']} + {axis['after']}"
            formula = f"⌊({padded} - {axis['dilation']}·({axis['kernel']} - 1) - 1) / {axis['stride']}⌋ + 1"
            assert formula in text and f"⌊{axis['padded'] - axis['reach']} / {axis['stride']}⌋ + 1 = {axis['output']}" in text
        place, found = facts["index_map"], facts["readers"]
        for name in "nrabcuvij":
            formula, numbers, value = re.search(rf"^   {name} = (.*?)  *= (.*?)  *= (-?\d+)$", text, re.MULTILINE).groups()
            assert eval(numbers.replace("div", "//").replace("mod", "%").replace("·", "*")) == place[name] == int(value)
            names = facts["sizes"] | place | {"g": facts["at"]["group"]}
            if name in "ij":
                names |= {
                    letter: facts["output_size"][name == "j"][key]
                    for letter, key in (("S", "stride"), ("D", "dilation"), ("P", "before"))
                }
            assert eval(
                formula.replace("div", "//").replace("mod", "%").replace("·", "*").replace("C/G", "C//G"), names
            ) == int(value)
        flat = " ".join(text.split())
        assert f"element {place['base']:,} + {place['offset_of_q']:,} = {place['offset']:,}:" in flat
        if place["inside"]:
            assert ", ".join(f"({p}, {q})" for p, q in found["list"]) in flat
        for number in (facts["matrix"][name] for name in ("rows", "columns", "weights", "weight_places", "patch_pixels")):
            assert f"{number:,}" in flat
    assert str(e) == e.text()


def test_the_text_sums_up_what_it_leaves_out():
    for side, channels in ((3, 4), (7, 3)):  # of 64; 36 entries, all written, and 147, of which 50
        e = explain((1, 64, 10, 10), (2, 64, side, side), at=(0, 1, 2, 3))
        more, rest = re.search(r"\.\.\. and ([\d,]+) more terms, which add up to (-?\d+)", e.text()).groups()
        written = re.findall(r"^ +\d+  \(.* (-?\d+)  +-?\d+$", e.text(), re.MULTILINE)
        assert len(written) == min(50, channels * side * side) and len(written) + int(more.replace(",", "")) == 64 * side * side
        assert sum(map(int, written)) + int(rest) == e.facts["y"]
        assert f"Only {channels} of its channels are shown" in " ".join(e.text().split())


def test_the_drawings_of_the_text():
    text = explain((1, 1, 3, 3), (2, 1, 2, 2)).text()
    lines = [line.split() for line in text[text.index("M (8 x 9)") :].splitlines()]
    assert lines[0] == ["M", "(8", "x", "9)", "Φ", "(4", "x", "4)"]
    assert lines[1:5] == [["ab.cd....", "abde"], [".ab.cd...", "bcef"], ["...ab.cd.", "degh"], [">....ab.cd", ">efhi"]]
    assert lines[5:9] == [["ab.cd...."], [".ab.cd..."], ["...ab.cd."], ["....ab.cd"]]
    text = explain((1, 1, 9, 9), (1, 1, 2, 2), pad=1, at=(0, 0, 0, 0)).text()  # 81 pixels, 100 outputs
    lines = [line.split() for line in text[text.index("M (100 x 81)") :].splitlines()]
    assert lines[0] == ["M", "(100", "x", "81),", "a", "part"]
    assert lines[1] == [">d" + 74 * "."] and lines[2] == ["cd" + 73 * "."] and lines[10] == [8 * "." + "c" + 66 * "."]
    assert len(lines[27][0]) == 75
    at = text.index("Φ (100 x 4), a part")
    assert text[at:].split()[6:11] == [">...a", "..ab", "..bc", "..cd", "..de"]


def test_numbers_as_words():
    for value, word in (
        (0, "0"), (-0.0, "0"), (7.0, "7"), (-373, "-373"), (999999, "999999"), (1234567, "1.235e6"), (0.5, "0.5"),
        (1 / 3, "0.3333"), (-2.71828, "-2.718"), (1.0625, "1.063"), (-1.0625, "-1.063"), (9.99996, "10"), (12345.678, "12350"),
        (1.5e-5, "1.5e-5"), (0.00012345, "0.0001234"), (2**70, "1.181e21"), (math.inf, "∞"), (-math.inf, "-∞"), (math.nan, "NaN"),
    ):  # fmt: skip
        assert digits(value) == word
    assert [amount(size) for size in (0, 9999, 10_240, 1023_500, 3 * 2**30, 2**60)] == [
        "0 bytes",
        "9,999 bytes",
        "10.0 KiB",
        "0.98 MiB",
        "3.00 GiB",
        "1,024 PiB",
    ]
    assert [duration(value) for value in (2e-9, 1.5e-6, 0.25, 3, 4000)] == ["2 ns", "1.5 µs", "250 ms", "3 s", "4,000 s"]


# ---- Page -----------------------------------------------------------------------------------------------------------


class Page(html.parser.HTMLParser):
    """The page as a browser without scripts sees it; fails for tags that do not match."""

    VOID = ("meta", "input", "br", "img", "rect", "path")  # those of svg are closed by "/>"

    def __init__(self, text):
        super().__init__()
        self.stack, self.ids, self.addresses, self.tables, self.cards, self.slots = [], [], [], [], {}, {}
        self.scripts, self.pairs, self.paths, self.policy, self.labels = [], [], {}, None, []
        self.feed(text)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if "id" in attrs:
            self.ids.append(attrs["id"])
        self.addresses += [
            value for name, value in attrs.items() if name in ("src", "href", "srcset", "action", "data", "poster")
        ]
        if attrs.get("http-equiv") == "Content-Security-Policy":
            self.policy = attrs["content"]
        if tag == "table" and "data-panel" in attrs:
            self.tables.append((attrs["data-panel"], attrs.get("data-c"), []))
        if tag == "tr" and self._in_panel():
            self.tables[-1][2].append([])
        if tag == "td" and self._in("tbody") and self._in_panel():
            self.tables[-1][2][-1].append(["", attrs.get("class", "")])
        if tag == "button" and self._in("div", "data-panel"):
            self.cards.setdefault(self._in("div", "data-panel"), []).append([attrs["class"], []])
        if tag == "button" and attrs.get("class", "").startswith("pair"):
            self.pairs.append((int(attrs["data-p"]), int(attrs["data-q"])))
        if tag == "svg":
            self.labels.append(attrs["aria-label"])
        if tag == "path":
            self.paths[self._in("svg", "data-panel"), attrs["class"]] = attrs["d"]
        if tag == "script":
            self.scripts.append([attrs, ""])
        if tag not in self.VOID:
            self.stack.append((tag, attrs))

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.stack.pop()[0] == tag

    def handle_data(self, data):
        if self._in("script"):
            self.scripts[-1][1] += data
        if self._in("td") and self._in_panel():
            self.tables[-1][2][-1][-1][0] += data
        panel = self._in("div", "data-panel")
        if panel and self._in("button"):
            self.cards[panel][-1][1].append(data)
        name = self._in("span", "data-t")
        if name:
            self.slots.setdefault(name, []).append(data)

    def _in(self, tag, attribute=None):
        found = [attrs for name, attrs in self.stack if name == tag and (attribute is None or attribute in attrs)]
        return (found[-1].get(attribute) if attribute else True) if found else None

    def _in_panel(self):
        return self._in("table", "data-panel") and self._in("tbody")

    def grids(self, panel):
        return [[[text for text, _ in row] for row in rows] for name, _, rows in self.tables if name == panel]

    def marked(self, panel, mark):
        return [
            (number, r, s)
            for number, (_, _, rows) in enumerate(table for table in self.tables if table[0] == panel)
            for r, row in enumerate(rows)
            for s, (_, classes) in enumerate(row)
            if mark in classes.split()
        ]


def typeset(value):
    return digits(value).replace("-", "−")


def plane(values):
    """A table as the page writes it; None is padding."""
    return [[typeset(value or 0) for value in row] for row in values]


def read(table):
    return [[float(text.replace("−", "-")) for text in row] for row in table]


def test_the_page_holds_the_facts():
    for e, case, layout, x, w in some_explanations(25, 10):
        facts, page = e.facts, Page(e.html())
        assert len(page.scripts) == 2 and page.scripts[0][0]["type"] == "application/json"
        assert json.loads(page.scripts[0][1]) == json.loads(e.json())
        at, view = facts["at"], facts["view"]

        assert page.grids("image") == [plane(channel) for channel in facts["x"][at["n"]]]
        for _, r, s in page.marked("image", "in"):
            i, j = r + view["i"][0], s + view["j"][0]
            assert any((i, j) == where for where in drawing.taps_of(facts, at["a"], at["b"]))
        assert len(page.marked("image", "in")) == len(facts["entries"])
        assert page.grids("y") == [plane(facts["y_values"][at["n"]][at["f"]])]
        assert page.marked("y", "out") == [(0, at["a"], at["b"])]
        weights = filters_first(w, layout)[at["f"]]
        assert page.grids("filter") == [plane(channel) for channel in weights.tolist()]

        assert [card[1][1] for card in page.cards["row"]] == [typeset(entry["x"]) for entry in facts["entries"]]
        sources = [",".join(map(str, entry["from"])) if entry["from"] else "padding" for entry in facts["entries"]]
        assert [card[1][2] for card in page.cards["row"]] == sources
        assert [card[1][1] for card in page.cards["column"]] == [typeset(entry["w"]) for entry in facts["entries"]]
        assert [card[1][1] for card in page.cards["product"]] == [typeset(entry["term"]) for entry in facts["entries"]]
        for cards in page.cards.values():
            assert [number for number, (classes, _) in enumerate(cards) if "hot" in classes.split()] == [facts["mark"]]

        (phi,), (columns,), (product,) = (page.grids(name) for name in ("phi", "w", "Y"))
        xg, wg, _ = group_of(case, layout, x, w, at["f"])
        whole = im2col(xg, case.kernel, *case.geometry[:3], layout=layout)
        first = max(0, min(at["p"] - 8, len(whole) - 16))
        assert phi == plane(whole[first : first + 16].tolist())
        assert columns == plane((wg.reshape(len(wg), -1).T if layout == "NCHW" else wg.reshape(-1, wg.shape[-1])).tolist())
        np.testing.assert_array_equal(np.matmul(read(phi), read(columns)), read(product))
        assert page.marked("Y", "out") == [(0, at["p"] - first, facts["lands"]["column"])]
        same = [
            (p - first, q)
            for p, q in facts["readers"]["list"]
            if first <= p < first + len(phi) and (p, q) != (at["p"], facts["index_map"]["q"])
        ]
        if facts["readers"]["count"] <= 64:
            assert [place[1:] for place in page.marked("phi", "same")] == same
        assert page.pairs == [tuple(pair) for pair in facts["readers"]["list"]]
        if facts["uses"]["counts"] and facts["uses"]["counts"][0]:
            assert page.grids("uses") == [[[f"{count:,}" for count in row] for row in facts["uses"]["counts"]]]

        shades = sum(page.paths["M", f"s{shade}"].count("M") for shade in range(drawing.SHADES))
        assert shades == len(drawing.layer(facts, view["drawn_rows"]).cells)
        for name, text in slots(facts).items():
            for shown in page.slots.get(name, []):
                assert shown == text
        assert page.slots["y"] == [typeset(facts["y"])]
        plain = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", e.html().split("<script")[0]))
        for number in (
            facts["phi"]["rows"],
            facts["matrix"]["weight_places"],
            facts["matrix"]["patch_padding"],
            facts["cost"]["multiply_adds"],
        ):
            assert f"{number:,}" in plain


def test_the_page_needs_nothing_else_and_is_well_formed():
    text = explain((1, 2, 5, 5), (3, 2, 3, 3), **PAPER_LIKE).html()
    page = Page(text)
    assert page.addresses == [] and "default-src 'none'" in page.policy
    assert not re.search(r"https?:|//[a-z]|@import|url\(|\bfetch\(|XMLHttpRequest|import\(", text)
    assert len(page.ids) == len(set(page.ids))
    assert all(page.labels) and 'lang="en"' in text and "viewport" in text
    for wanted in ("prefers-color-scheme: dark", "prefers-reduced-motion", ":focus-visible", 'role="status"'):
        assert wanted in text
    assert "{{" not in text and "<!--" not in text


def test_every_text_that_changes_is_known_to_page_and_script():
    folder = Path(im2colx.__file__).parent / "_explain"
    names = set(re.findall(r"\{\{(\w+)\}\}", (folder / "page.html").read_text(encoding="utf-8")))
    e = explain((1, 2, 5, 5), (3, 2, 3, 3), **PAPER_LIKE)
    assert names <= set(slots(e.facts)) and {"weights", "pixels"} <= set(slots(e.facts))
    script = (folder / "page.js").read_text(encoding="utf-8")
    for name in slots(e.facts):
        assert re.search(rf"texts\.{name} =|^    {name}: |\b{name}, ", script, re.MULTILINE), name
    panels = set(re.findall(r'data-panel="(\w+)"', e.html()))
    for panel in panels:
        assert re.search(rf"^  {panel}(\(|: )", script, re.MULTILINE), panel


def test_a_title_cannot_break_the_page():
    title = "</script><script>alert(1)</script> {{y}} {{nothing}} <!--facts--> & “x” $a_b$"
    e = explain((1, 1, 4, 4), (1, 1, 2, 2), title=title)
    page = Page(e.html())
    assert len(page.scripts) == 2 and json.loads(page.scripts[0][1])["call"]["title"] == title
    assert "{{nothing}} &lt;!--facts--&gt; &amp;" in e.html()
    assert title in e.text().replace("\n", " ") and e.png()


def test_a_notebook_shows_the_page_in_a_frame_of_its_own():
    e = explain((1, 1, 4, 4), (1, 1, 2, 2))
    found = re.fullmatch(r'<iframe [^>]*srcdoc="([^"<>]*)"></iframe>', e._repr_html_())
    assert html.unescape(found[1]) == e.html()
    assert (
        repr(e) == f"<Explanation of y[0, 0, 1, 1] = {digits(e.facts['y'])}: x (1, 1, 4, 4), w (1, 1, 2, 2) -> y (1, 1, 3, 3)>"
    )


# ---- Picture, files, command ----------------------------------------------------------------------------------------


def test_the_picture():
    from matplotlib.figure import Figure

    e = explain((1, 2, 5, 5), (3, 2, 3, 3), **PAPER_LIKE)
    figure = e.figure()
    assert isinstance(figure, Figure)
    texts = [text.get_text() for text in figure.axes[0].texts]
    for wanted in ("−373", "⌊4 / 2⌋ + 1 = 3", "Φ[1, q]", "M, 27 × 50", "Φ, 9 × 18", "= 1·2 + 0·1 − 1"):
        assert any(wanted in text for text in texts), wanted
    assert [text for text in texts if text in ("padding", "0,1,1,3")] == ["padding"] * 6 + ["0,1,1,3"]
    light = e.png()
    assert light.startswith(b"\x89PNG") and light == e.png() and figure.get_facecolor() != e.figure(dark=True).get_facecolor()
    width, height = (int.from_bytes(light[start : start + 4], "big") for start in (16, 20))
    assert width == 1650 and 1500 < height < 4000
    *shapes, options = LARGE[5]
    assert len(explain(*shapes, **options).png()) < 800_000


def test_awkward_shapes_are_drawn_too():
    for x_shape, w_shape, options in (
        ((2, 2, 0, 3), (3, 2, 2, 2), {"pad": ((1, 1), (0, 0))}),  # no pixels
        ((1, 2, 5, 6), (3, 2, 3, 3), {"pad": 50, "at": (0, 0, 0, 0)}),  # none in sight
        ((1, 1, 1, 1), (1, 1, 1, 1), {}),
        ((1, 70, 2), (1, 30, 2, 5), {"layout": "NHWC", "dilation": 2}),
    ):
        e = explain(x_shape, w_shape, **options)
        texts = [text.get_text() for text in e.figure().axes[0].texts]
        assert any(f"conv2d gives {typeset(e.facts['y'])}" in text for text in texts)
        page = Page(e.html())
        assert page.slots["y"] == [typeset(e.facts["y"])] and len(page.labels) == 2
        assert max(map(len, e.text().splitlines())) <= 80


def test_without_matplotlib_the_error_names_the_extra(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    e = explain((1, 1, 4, 4), (1, 1, 2, 2))
    with pytest.raises(ImportError, match=r"pip install 'im2colx\[experiment\]'"):
        e.png()
    assert e.text() and e.html()
    assert cli.main(["explain", "--out", str(tmp_path / "x.png")]) == 2
    assert "im2colx[experiment]" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_save_writes_what_the_ending_says(tmp_path):
    e = explain((1, 1, 4, 4), (1, 1, 2, 2))
    for ending, content in ((".html", e.html()), (".txt", e.text() + "\n"), (".json", e.json() + "\n")):
        e.save(tmp_path / f"x{ending}")
        assert (tmp_path / f"x{ending}").read_text(encoding="utf-8") == content
    e.save(tmp_path / "X.PNG")
    assert (tmp_path / "X.PNG").read_bytes().startswith(b"\x89PNG")
    e.save(tmp_path / "plain", "text")
    assert (tmp_path / "plain").read_text(encoding="utf-8") == e.text() + "\n"
    for bad in (lambda: e.save(tmp_path / "x.pdf"), lambda: e.save(tmp_path / "x.html", "pdf")):
        with pytest.raises(ValueError, match="must (end in|be one of)"):
            bad()
    assert len(list(tmp_path.iterdir())) == 5


COMMAND = ["explain", "--x", "1,2,5,5", "--w", "3,2,3,3", "--stride", "2", "--pad", "1", "--at", "0,0,0,1"]


def test_the_command(capsys, tmp_path):
    e = explain((1, 2, 5, 5), (3, 2, 3, 3), **PAPER_LIKE)
    assert cli.main(COMMAND) == 0
    assert capsys.readouterr().out == e.text() + "\n"
    assert cli.main([*COMMAND, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(e.json())
    assert cli.main([*COMMAND, "--format", "html"]) == 0
    assert capsys.readouterr().out == e.html() + "\n"
    for name, options in (
        ("a.html", []),
        ("b.txt", []),
        ("c.png", ["--format", "png"]),
        ("d", ["--format", "html"]),
        ("e.json", []),
    ):
        assert cli.main([*COMMAND, "--out", str(tmp_path / name), *options]) == 0
        assert capsys.readouterr().out == f"Wrote {tmp_path / name}\n"
    assert (tmp_path / "a.html").read_text(encoding="utf-8") == (tmp_path / "d").read_text(encoding="utf-8") == e.html()
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
    assert cli.main([*COMMAND, "--out", str(tmp_path / "a.html"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["y"] == -373
    assert cli.main(["explain"]) == 0
    assert "x (1, 2, 5, 5), w (3, 2, 3, 3) -> y (1, 3, 3, 3)" in capsys.readouterr().out


def test_options_of_the_command(capsys):
    def facts(*options):
        assert cli.main(["explain", *options, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    call = facts(
        "--x",
        "2,9,8,4",
        "--w",
        "3,2,2,6",
        "--layout",
        "NHWC",
        "--stride",
        "2,1",
        "--pad",
        "1:0,0:2",
        "--dilation",
        "1,2",
        "--groups",
        "2",
    )["call"]
    assert (call["stride"], call["pad"], call["dilation"], call["groups"]) == ([2, 1], [[1, 0], [0, 2]], [1, 2], 2)
    assert facts("--pad", "same")["call"]["y_shape"] == [1, 3, 5, 5]
    assert facts("--pad", "1,2", "--dtype", "float64")["call"]["pad"] == [[1, 1], [2, 2]]
    assert facts("--x", "6,6", "--w", "2,2")["call"]["y_shape"] == [5, 5]


@pytest.fixture
def digits_of_mnist(monkeypatch):
    """Three images that stand for MNIST's."""
    images = np.random.default_rng(11).integers(0, 256, (3, 28, 28)).astype(np.uint8)
    found = datasets.MNIST(images, np.array([5, 0, 4], np.uint8), images, np.array([1, 2, 3], np.uint8), {})
    monkeypatch.setattr(datasets, "load_mnist", lambda data: found)
    return images


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_worked_example_of_the_paper_on_a_digit(capsys, digits_of_mnist, layout):
    """Fig. 6: one 28 x 28 image, one 7 x 7 filter with a stride of 7: 16 patches of 49 that do not overlap."""
    assert cli.main(["explain", "--image", "mnist:2", "--kernel", "7", "--stride", "7", "--layout", layout, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["phi"] == {"rows": 16, "columns": 49, "entries": 784} and facts["weights"]["columns"] == 1
    assert facts["call"]["title"] == "training image 2 of MNIST, a handwritten 4"
    np.testing.assert_array_equal(facts["x"][0][0], digits_of_mnist[2])
    filter_ = np.tile([-1, -1, -1, 0, 1, 1, 1], (7, 1))
    np.testing.assert_array_equal(facts["w"][0], filter_.ravel())
    blocks = digits_of_mnist[2].astype(int).reshape(4, 7, 4, 7).swapaxes(1, 2)
    np.testing.assert_array_equal(facts["y_values"][0][0], (blocks * filter_).sum(axis=(2, 3)))
    assert facts["uses"]["most"] == 1 and facts["uses"]["never"] == 0
    assert facts["matrix"]["weight_most"] == 16 and facts["left_out"]["what"] == []


def test_a_picture_file(capsys, tmp_path):
    from matplotlib.image import imsave

    pixels = np.random.default_rng(12).integers(0, 256, (9, 11, 3)).astype(np.uint8)
    imsave(tmp_path / "picture.png", pixels)  # with an opaque fourth channel
    assert cli.main(["explain", "--image", str(tmp_path / "picture.png"), "--kernel", "3", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["call"]["x_shape"] == [1, 3, 9, 11] and facts["call"]["title"] == "the picture picture.png"
    np.testing.assert_array_equal(facts["x"][0], pixels.transpose(2, 0, 1))
    assert cli.main(["explain", "--image", str(tmp_path / "picture.png"), "--w", "4,1,1,1", "--groups", "3"]) == 2
    assert "w has 4 filters, which 3 groups do not divide" in capsys.readouterr().err
    assert cli.main(["explain", "--image", str(tmp_path / "picture.png"), "--groups", "3", "--kernel", "1", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["w"] == [[1], [1], [1]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--x", "1,2"], "--w has 4 axes"),
        (["--w", "3,3,3,3"], "--w has 3 input channels x 1 groups = 3, but --x has 2"),
        (["--x", "1,2,a"], "is not a list of integers"),
        (["--pad", "some"], "is not a list of integers"),
        (["--pad", "1,1,1,1"], "write ((top, bottom), (left, right))"),
        (["--stride", "0"], "stride is 0"),
        (["--at", "0,0,0"], "must be (n, f, a, b)"),
        (["--at", "0,3,0,0"], "at[1] is 3, but y has only 3 filters"),
        (["--at", "0,0,-1,0"], "at[2] is -1"),
        (["--x", "0,2,5,5"], "no images"),
        (["--format", "png"], "needs --out"),
        (["--format", "gif"], "invalid choice"),
        (["--out", "explanation.gif"], "must end in .txt, .html, .png, .json"),
        (["--out", "no/such/folder/x.txt"], "No such file"),
        (["--dtype", "uint8"], "must hold the values that are made up, -9 to 99"),
        (["--dtype", "complex64"], "not complex ones"),
        (["--dtype", "sort of"], "dtype must be a NumPy dtype"),
        (["--kernel", "3"], "--kernel goes with --image"),
        (["--image", "mnist:-1"], "must be mnist:K"),
        (["--image", "mnist:3"], "there are only 3 training images"),
        (["--image", "mnist:0", "--x", "1,1,28,28"], "--x and --image"),
        (["--image", "mnist:0", "--w", "1,1,3,3", "--kernel", "3"], "--w and --kernel"),
        (["--image", "mnist:0", "--kernel", "0"], "--kernel is 0"),
        (["--image", "mnist:0", "--kernel", "29"], "the kernel spans 29"),
        (["--image", "mnist:0", "--dtype", "int8"], "does not hold the numbers of an image"),
        (["--image", "no-such-picture.png"], "No such file"),
        (["--image", __file__], "cannot identify image file"),
    ],
)
def test_mistakes_end_with_2_and_a_line(arguments, message, capsys, digits_of_mnist):
    try:
        code = cli.main(["explain", *arguments])
    except SystemExit as stopped:
        code = stopped.code
    assert code == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


def test_bad_arguments():
    x, w = (1, 2, 5, 5), (3, 2, 3, 3)
    for call, kind, message in (
        (lambda: explain(x, w, groups=2), ValueError, "w has 2 input channels x 2 groups = 4, but x has 2"),
        (lambda: explain(x, w, stride=np.ones(3)), (TypeError, ValueError), "bias"),
        (lambda: explain((1, 2, 2, 2), w), ValueError, "the kernel spans 3"),
        (lambda: explain((1, 2.0, 5, 5), w), TypeError, r"x\[1\] must be an integer, not 2.0"),
        (lambda: explain((1, -2, 5, 5), w), ValueError, r"x\[1\] is -2"),
        (lambda: explain(np.ones((1, 2, 5, 5), complex), w), TypeError, "x has dtype complex128"),
        (lambda: explain(x, np.ones((3, 2, 3, 3), "U1")), TypeError, "w has dtype <U1"),
        (lambda: explain(None, w), TypeError, "x has dtype object"),
        (lambda: explain(np.ma.masked_array(np.ones(x)), w), TypeError, "MaskedArray"),
        (lambda: explain(x, w, at=5), TypeError, "at must be a tuple"),
        (lambda: explain(x, w, at=(0, 0, 0, 3)), ValueError, r"at\[3\] is 3, but y has only 3 columns"),
        (lambda: explain(x, w, at=(0, 0, 0, True)), TypeError, r"at\[3\] must be an integer"),
        (lambda: explain(x, w, layout="nchw"), ValueError, "layout is 'nchw'"),
        (lambda: explain(x, w, dtype="bool"), ValueError, "dtype is bool"),
        (lambda: explain(x, w, dtype=object), TypeError, "x has dtype object"),
        (lambda: explain((1, 1, 3000, 3000), (1, 1, 2999, 2999)), ValueError, "more than 4,194,304 elements"),
        (lambda: explain((1, 1, 2**23, 1), (1, 1, 1, 1)), ValueError, "too large to explain"),
        (lambda: explain((2**30, 2**30, 2**30, 1), (1, 2**30, 1, 1)), ValueError, "more elements than fit into memory"),
        (lambda: explain(x, w).index(9, 0), ValueError, "p is 9"),
        (lambda: explain(x, w).index(0, 0.5), TypeError, "q must be an integer"),
        (lambda: explain(x, w).readers(0, 2, 0, 0), ValueError, "c is 2"),
    ):  # fmt: skip
        with pytest.raises(kind, match=message):
            call()
