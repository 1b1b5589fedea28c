"""The page of a search: whole, self-contained, and right about what it shows."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from typing import Any

import pytest
import report_sample as sample

from planish.compiler.errors import UsageError
from planish.search.record import bound_of, record_of
from planish.search.report import page_of, render_report
from planish.search.report.flow import flow
from planish.search.report.front import front
from planish.search.report.kernel_bars import kernel_bars
from planish.search.report.page import short, tone
from planish.search.report.scale import axis, number
from planish.search.report.sensitivity_map import sensitivity_map

VOID = {"meta", "input", "br", "link", "img"}


class Structure(HTMLParser):
    """Tags that do not match, everything that would be fetched, and the text outside of style and script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.fetched: list[str] = []
        self.ids: list[str] = []
        self.tags: dict[str, int] = {}
        self.text = ""
        self.feed(text)
        self.wrong += self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] = self.tags.get(tag, 0) + 1
        self.fetched += [str(v) for k, v in attrs if k in ("src", "href", "srcset", "action")]
        self.ids += [str(v) for k, v in attrs if k == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] = self.tags.get(tag, 0) + 1

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(f"/{tag} at {self.getpos()}")

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "script"):
            self.text += data


def html(report: dict[str, Any] | None = None, layers: int = 3) -> str:
    return render_report(report or sample.report(layers), sample.manifest(layers), "encoder.planish")


def test_the_page_is_well_formed_and_fetches_nothing() -> None:
    text = html()
    found = Structure(text)
    assert found.wrong == []
    assert found.fetched == []
    assert not re.search(r"url\(|@import|https?://(?!www\.w3\.org)", text)
    assert len(found.ids) == len(set(found.ids))
    assert found.tags["script"] == 1  # inline; everything below is in the markup itself


def test_every_drawing_is_an_xml_document() -> None:
    drawings = re.findall(r"<svg.*?</svg>", html(), re.DOTALL)
    assert len(drawings) == 4  # time and size, each wide and narrow
    trials = len(sample.search(3)["trials"])
    for drawing in drawings:
        tree = ElementTree.fromstring(drawing)
        assert len(list(tree.iter("title"))) == trials


def test_the_answer_comes_first_and_everything_is_said() -> None:
    report = sample.report(3)
    data = report["search"]
    text = Structure(html(report)).text
    said = [
        "cosine ≥ 0.995 each",
        "holds",
        "5.0",
        "64 calibration",
        "batch=1 seq=128, 1 thread",
        "95 %",
        "questions[112]",
    ]
    said += [u["name"] for u in data["units"]] + [t["label"] for t in data["trials"]] + data["never_slower"]
    assert [words for words in said if words not in text] == []
    assert text.index("holds") < text.index("Every trial")


def test_a_missed_bar_and_a_search_that_was_interrupted_are_not_dressed_up() -> None:
    report = sample.report(2)
    report["search"]["proof"][0]["holds"] = False
    assert page_of(report, sample.manifest(2), "x").answer == f"misses {sample.TERM}"
    report["search"] |= {"proof": [], "units": [], "worst": [], "complete": False}
    text = Structure(html(report, 2)).text
    assert "Not proved" in text


def test_names_of_layers_are_text() -> None:
    report = sample.report(2)
    report["search"]["units"][0]["name"] = "<script>alert(1)</script>"
    text = html(report, 2)
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert" in text


def test_a_report_of_an_artifact_without_a_search_is_refused() -> None:
    with pytest.raises(UsageError, match="without a search"):
        render_report({"notes": []}, sample.manifest(2), "x.planish")


@pytest.mark.parametrize(
    ("change", "words"),
    [({"version": 2}, "newer than this planish"), ({"units": [{"name": 3}]}, "cannot be read: units.0")],
)
def test_a_record_that_cannot_be_read_is_one_sentence(change: dict[str, Any], words: str) -> None:
    report = sample.report(2)
    report["search"] |= change
    with pytest.raises(UsageError, match=words):
        record_of(report)


# -- the plot -------------------------------------------------------------------------------------------------------------
def test_better_is_up_and_faster_is_left() -> None:
    record = record_of(sample.report(3))
    assert record is not None
    drawn = front(record, sample.TERM, "seconds", 640, 400)
    assert drawn is not None
    at = {p.tip.partition(":")[0]: p for p in drawn.points}
    assert at["f32"].y < at["bf16"].y < at["w8a8-dynamic"].y < at["w4a8"].y
    assert at["chosen"].x < at["bf16"].x < at["f32"].x
    assert at["chosen"].shape == "chosen"
    assert drawn.bar is not None
    assert at["w8a8"].met == (at["w8a8"].y <= drawn.bar)
    left, top, across, down = drawn.plot
    assert all(left <= p.x <= left + across and top <= p.y <= top + down for p in drawn.points)


def test_the_line_goes_through_what_nothing_beats() -> None:
    record = record_of(sample.report(3))
    assert record is not None
    drawn = front(record, sample.TERM, "bytes", 640, 400)
    assert drawn is not None
    corners = [tuple(map(float, c)) for c in re.findall(r"(?:M|H)([\d.]+)[V ]([\d.]+)", drawn.line)]
    best = [p for p in drawn.points if not any(q.x <= p.x and q.y <= p.y and q is not p for q in drawn.points)]
    assert sorted(corners) == sorted((p.x, p.y) for p in best)


def test_labels_cover_nothing() -> None:
    record = record_of(sample.report(6))
    assert record is not None
    for size in ((640, 400), (340, 340)):
        drawn = front(record, sample.TERM, "seconds", *size)
        assert drawn is not None
        shift = {"start": 0.0, "middle": 0.5, "end": 1.0}
        wide = {t: 6.4 * len(t.text) for t in drawn.labels}
        spans = [(t.x - shift[t.anchor] * wide[t], t.y, wide[t]) for t in drawn.labels]
        assert spans
        for i, a in enumerate(spans):
            for b in spans[:i]:
                apart = abs(a[1] - b[1]) >= 13 or a[0] + a[2] <= b[0] or b[0] + b[2] <= a[0]
                assert apart


def test_rounding_does_not_stretch_the_plot() -> None:
    report = sample.report(3)
    for trial in report["search"]["trials"]:
        if trial["label"] == "f32":
            trial["quality"][sample.TERM] = 1 - 2.0**-53
    record = record_of(report)
    assert record is not None
    drawn = front(record, sample.TERM, "seconds", 640, 400)
    assert drawn is not None
    marks = [text for _, text in drawn.y_ticks]
    assert len(set(marks)) == len(marks)
    assert "1.0" not in marks


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.99561, "0.99561"), (0.999983, "0.999983"), (0.5, "0.5"), (1.0, "1"), (31.4159, "31.4"), (0.0, "0")],
)
def test_numbers_near_one_keep_what_tells_them_from_one(value: float, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize("values", [[1.0, 2.0, 3.5], [1e-6, 0.3], [5.0, 5.0], [-3.0, 40.0], [0.0, 1e-9]])
def test_axes_hold_their_values_and_have_marks_in_order(values: list[float]) -> None:
    made = axis(values, lambda v: f"{v:g}")
    places = [made.at(v) for v in values]
    assert all(0 <= p <= 1 for p in places)
    marks = [p for p, _ in made.ticks]
    assert 2 <= len(marks) <= 9
    assert marks == sorted(marks)
    assert made.kind == ("log" if values == [1e-6, 0.3] else "linear")


@pytest.mark.parametrize(
    ("term", "parts"),
    [
        ("cosine >= 0.99 each", ("cosine", True, 0.99, "each")),
        ("kl(logits) <= 1e-3 p95", ("kl(logits)", False, 1e-3, "p95")),
        ("top1 >= 98% mean", ("top1", True, 0.98, "mean")),
    ],
)
def test_terms_are_read(term: str, parts: tuple[str, bool, float, str]) -> None:
    bound = bound_of(term)
    assert bound is not None
    assert (bound.metric, bound.upward, bound.statistic) == (parts[0], parts[1], parts[3])
    assert math.isclose(bound.number, parts[2])


# -- map, flow, kernels ---------------------------------------------------------------------------------------------------
def test_the_map_marks_what_was_chosen_and_says_why_not() -> None:
    record = record_of(sample.report(3))
    assert record is not None
    drawn = sensitivity_map(record, sample.TERM)
    assert drawn is not None
    for row, unit in zip(drawn.rows, record.units, strict=True):
        assert [p for p, c in zip(drawn.precisions, row.cells, strict=True) if c.chosen] == [unit.chosen]
    heats = [(float(c.sort), c.heat) for row in drawn.rows for c in row.cells if c.sort and float(c.sort) > 0]
    ordered = sorted(heats)
    assert [h for _, h in ordered] == sorted(h for _, h in heats if h is not None)
    assert {0.0, 1.0} <= {round(h, 6) for _, h in heats if h is not None}
    assert any("no multiple of the group" in c.tip for row in drawn.rows for c in row.cells)


def test_equal_blocks_are_drawn_once() -> None:
    report = sample.report(4)
    units = {s: u["name"] for u in report["search"]["units"] for s in u["sources"]}
    blocks = flow(report["kernels"], units)
    assert [b.title for b in blocks] == ["", "encoder.layer.0..3"]
    stack = blocks[1]
    assert len(stack.steps) == 5
    assert all(len(step.cells) == 4 for step in stack.steps)
    total = sum(step.seconds for b in blocks for step in b.steps)
    assert math.isclose(total, sum(k["seconds"] for k in report["kernels"]))


def test_a_block_of_its_own_kind_stays_apart() -> None:
    one = {"label": "conv", "precision": "f32"}
    launches = [{**one, "sources": [name]} for name in ("stem", "stage.0.a", "stage.1.a", "middle", "stage.2.a")]
    assert [b.title for b in flow(launches, {})] == ["", "stage.0..1", "", "stage.2"]


def test_kernels_are_ordered_by_time_and_held_against_the_limit() -> None:
    report = sample.report(4)
    bars = kernel_bars(report["kernels"], {s: u["name"] for u in report["search"]["units"] for s in u["sources"]})
    assert bars[0].length == 1.0
    assert [b.length for b in bars] == sorted((b.length for b in bars), reverse=True)
    assert sum(b.count for b in bars) == len(report["kernels"])
    assert all(b.limit is not None and 0 < b.limit < 1 for b in bars)
    assert kernel_bars([], {}) == []


def test_the_graph_before_and_after_is_counted() -> None:
    report = sample.report(2)
    text = Structure(html(report, 2)).text
    before, after = (sum(report["graph"][part].values()) for part in ("captured", "lowered"))
    assert f"{before} ops were captured; the passes made {after} of them" in text
    del report["graph"]
    assert "were captured" not in Structure(html(report, 2)).text


def test_precisions_have_a_short_name_and_a_colour() -> None:
    assert [short(p) for p in ("bf16", "w8a8-dynamic", "w4a16-g32", "w8a8")] == ["bf16", "8·8d", "4·16/32", "8·8"]
    assert [tone(p) for p in ("w4a8-g64", "w8a8", "mine", "f32")] == ["w4a8", "w8a8", "other", "f32"]
