"""explain: every number against its definition, also of large shapes."""

import json
import math
import time
import tracemalloc

import numpy as np
import pytest
from cases import LAYOUTS, random_case, small_integers
from explained import LARGE, PAPER_LIKE, filters_first, first_axes, group_of, positions, some_explanations

import im2colx
from im2colx import PatchMatrix, _reference, col2im, conv2d, explain, im2col, output_shape
from im2colx._explain import drawing
from im2colx._methods import METHODS, choose, phi_nbytes

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
