"""explain: the text and the page show the numbers, and nothing else."""

import html.parser
import json
import math
import re
from pathlib import Path

import numpy as np
from explained import PAPER_LIKE, Page, filters_first, group_of, plane, read, some_explanations, typeset

import im2colx
from im2colx import explain, im2col
from im2colx._explain import drawing
from im2colx._explain.html import slots
from im2colx._explain.words import amount, digits, duration

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
