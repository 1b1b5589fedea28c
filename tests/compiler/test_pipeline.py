"""Pipelines: the text form, named places, slots, errors that name pass, node and reason; the instruments."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planish.compiler.errors import LoweringError, PassError, PlanishError, UsageError
from planish.compiler.graph import Graph, Node
from planish.compiler.instruments import Dump, Time, Verify
from planish.compiler.numeric_check import NumericCheck
from planish.compiler.options import options_of
from planish.compiler.pipeline import (
    Note,
    Pass,
    PassContext,
    PassResult,
    Pipeline,
    Slot,
    after,
    as_pass,
    before,
    describe,
)
from planish.compiler.rewrite import RewriteRule
from planish.compiler.types import DType, TensorType


class Color(Enum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Fuse:
    name: ClassVar[str] = "fuse"
    version: ClassVar[int] = 3
    max_nodes: int = 64
    ratio: float = 0.5
    deep: bool = False
    label: str = "x"
    names: tuple[str, ...] = ()
    pair: tuple[int, float] = (1, 2.0)
    limit: int | None = None
    text: str | None = None
    level: Literal["low", "high", 3] = "low"
    color: Color = Color.RED

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        return PassResult(False)


@dataclass(frozen=True)
class Canonicalize:
    name: ClassVar[str] = "canonicalize"
    version: ClassVar[int] = 1

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        context.note("looked at everything")
        return PassResult(False, (Note("found nothing"),))


@dataclass(frozen=True)
class Needy:
    name: ClassVar[str] = "needy"
    version: ClassVar[int] = 1
    bits: int

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        return PassResult(False)


class DoubleNeg(RewriteRule):
    name = "double-neg"

    def pattern(self, op: Any, x: Any) -> Any:
        return op.neg(op.neg(x))

    def rewrite(self, op: Any, m: Any) -> Any:
        return m.x


class NegRelu(RewriteRule):
    name = "abs-abs"

    def pattern(self, op: Any, x: Any) -> Any:
        return op.abs(op.abs(x))

    def rewrite(self, op: Any, m: Any) -> Any:
        return op.abs(m.x)


KNOWN = {c.name: c for c in (Fuse, Canonicalize, Needy, DoubleNeg, NegRelu)}


def negs(count: int = 2) -> Graph:
    graph = Graph()
    value = graph.add_input("x", TensorType(DType.f32, (3,)))
    for i in range(count):
        value = graph.insert("neg", [value], name=f"layer.{i}", location=f"model.py:{i}").output
    graph.outputs = [value]
    return graph


# -- the text form --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "text",
    [
        "",
        "canonicalize",
        "canonicalize,fuse{max-nodes=8},canonicalize",
        "fuse{ratio=1e-05,deep=true,label=a/b.c*,names=[a,b],pair=[3,0.5],limit=4,level=high,color=blue}",
        'fuse{label="8",names=["a, b","none"],text="none",level=3}',
        "@custom,@fuse(fuse{max-nodes=8},canonicalize),canonicalize",
        "double-neg+abs-abs,needy{bits=4}",
    ],
)
def test_text_round_trip(text: str) -> None:
    pipeline = Pipeline.parse(text, KNOWN)
    assert str(pipeline) == text
    assert Pipeline.parse(str(pipeline), KNOWN) == pipeline


@given(
    st.builds(
        Fuse,
        max_nodes=st.integers(),
        ratio=st.floats(allow_nan=False),
        deep=st.booleans(),
        label=st.text(),
        names=st.lists(st.text(), max_size=3).map(tuple),
        pair=st.tuples(st.integers(), st.floats(allow_nan=False)),
        limit=st.none() | st.integers(),
        text=st.none() | st.text(),
        level=st.sampled_from(["low", "high", 3]),
        color=st.sampled_from(Color),
    )
)
def test_any_options_round_trip(p: Fuse) -> None:
    (again,) = Pipeline.parse(str(Pipeline((p,))), KNOWN)
    assert again == p


def test_white_space_flags_and_underscores_are_read() -> None:
    pipeline = Pipeline.parse(" canonicalize , fuse{ max_nodes = 8 deep } ,", KNOWN)
    assert list(pipeline) == [Canonicalize(), Fuse(max_nodes=8, deep=True)]


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("canoncalize", "there is no pass 'canoncalize'", "did you mean 'canonicalize'?"),
        ("zzz", "there is no pass 'zzz'", "planish passes lists them"),
        ("fuse{max-node=8}", "pass 'fuse' has no option 'max-node'", "did you mean 'max-nodes'?"),
        ("canonicalize{x=1}", "pass 'canonicalize' has no option 'x'", "it has none"),
        ("fuse{max-nodes=x}", "option 'max-nodes' of pass 'fuse' must be an integer, not 'x'", None),
        ("fuse{max-nodes=1.5}", "option 'max-nodes' of pass 'fuse' must be an integer, not '1.5'", None),
        ("fuse{ratio=[1]}", "option 'ratio' of pass 'fuse' must be a number, not '[\"1\"]'", None),
        ("fuse{deep=1}", "option 'deep' of pass 'fuse' must be true or false, not '1'", None),
        ("fuse{level=mid}", "option 'level' of pass 'fuse' must be one of low, high, 3, not 'mid'", None),
        ("fuse{color=green}", "option 'color' of pass 'fuse' must be one of red, blue, not 'green'", None),
        ("fuse{limit=x}", "option 'limit' of pass 'fuse' must be an integer or none, not 'x'", None),
        ("fuse{names=x}", "option 'names' of pass 'fuse' must be a list in brackets, not 'x'", None),
        ("fuse{pair=[1]}", "option 'pair' of pass 'fuse' must be a list in brackets, not '[\"1\"]'", None),
        ("needy", "pass 'needy' needs the option 'bits'", "write needy{bits=...}"),
        ("fuse{deep,deep}", "the option 'deep' is given twice in 'fuse{deep,deep}'", None),
        ("fuse{max-nodes=8", "'}' expected at the end of 'fuse{max-nodes=8'", "for example"),
        ("fuse}", "',' expected before '}' of 'fuse}'", "for example"),
        ("{x=1}", "the name of a pass expected before '{x=1}' of '{x=1}'", "for example"),
        ('fuse{label="a}', "a closing quote expected", "for example"),
        ("fuse{names=[a}", "',' or ']' expected before '}'", "for example"),
        ("@a(@b)", "the slot 'a' holds another slot in '@a(@b)'", None),
        ("@a(fuse", "')' expected at the end", "for example"),
        ("fuse+canonicalize", "is no pass", "a pass is a RewriteRule"),
    ],
)
def test_errors_in_the_text(text: str, message: str, hint: str | None) -> None:
    with pytest.raises(UsageError) as caught:
        Pipeline.parse(text, KNOWN)
    assert message in caught.value.message
    assert (hint or "") in (caught.value.hint or "")


def test_options_are_described() -> None:
    shown = {o.name: repr(o) for o in options_of(Fuse)}
    assert shown["max-nodes"] == "max-nodes: an integer = 64"
    assert shown["text"] == "text: text or none = none"
    assert repr(options_of(Needy)[0]) == "bits: an integer"
    assert options_of(DoubleNeg) == []


def test_a_fingerprint_holds_versions_and_every_option() -> None:
    a, b = Pipeline((Fuse(),)).fingerprint, Pipeline((Fuse(max_nodes=65),)).fingerprint
    assert a.startswith("fuse@3{max-nodes=64,") and a != b
    assert Pipeline.parse("double-neg+abs-abs", KNOWN).fingerprint == "double-neg@1+abs-abs@1"


def test_an_option_without_a_text_form_is_refused() -> None:
    with pytest.raises(UsageError, match="an option cannot hold"):
        describe(Fuse(label=object()))  # type: ignore[arg-type]


# -- places ---------------------------------------------------------------------------------------------------------------
def test_places_by_name() -> None:
    pipeline = Pipeline.parse("canonicalize,@fuse(fuse),canonicalize", KNOWN)
    n = Needy(1)
    assert str(pipeline.after("canonicalize", n)) == "canonicalize,needy{bits=1},@fuse(fuse),canonicalize"
    assert str(pipeline.before("canonicalize#2", n)) == "canonicalize,@fuse(fuse),needy{bits=1},canonicalize"
    assert (
        str(pipeline.after("fuse", n)) == "canonicalize,@fuse(fuse),needy{bits=1},canonicalize"
    )  # the slot comes first
    assert str(pipeline.before("fuse#2", n)) == "canonicalize,@fuse(needy{bits=1},fuse),canonicalize"
    with pytest.raises(UsageError, match=r"there is no pass 'fusee' in the pipeline \(did you mean 'fuse'\?\)"):
        pipeline.after("fusee", n)
    with pytest.raises(UsageError, match="'canonicalize' is in the pipeline 2 times, so there is no 'canonicalize#3'"):
        pipeline.after("canonicalize#3", n)


def test_slots_are_filled() -> None:
    pipeline = Pipeline.parse("canonicalize,@custom,@fuse", KNOWN)
    assert pipeline.slots == ("custom", "fuse") and len(pipeline) == 1
    filled = pipeline.fill({"fuse": [Fuse(), Fuse(max_nodes=2)]})
    assert str(filled) == "canonicalize,@custom,@fuse(fuse,fuse{max-nodes=2})"
    assert Pipeline.parse(str(filled), KNOWN) == filled
    assert [p.name for p in filled] == ["canonicalize", "fuse", "fuse"]
    with pytest.raises(UsageError, match=r"the pipeline has no slot 'fsue' \(did you mean 'fuse'\?\)"):
        pipeline.fill({"fsue": [Fuse()]})


def test_a_users_passes_find_their_place() -> None:
    pipeline = Pipeline((Canonicalize(), Slot("custom"), Slot("fuse", (Fuse(),))))
    extra = [DoubleNeg, after("fuse#2", Needy(2)), before("canonicalize", [NegRelu(), DoubleNeg()]), NegRelu()]
    assert str(pipeline.extended(extra)) == (
        "abs-abs+double-neg,canonicalize,@custom(double-neg,abs-abs),@fuse(fuse,needy{bits=2})"
    )
    assert str(Pipeline((Canonicalize(), Slot("fuse"))).extended([NegRelu])) == "canonicalize,abs-abs,@fuse"
    assert str(Pipeline((Canonicalize(),)).extended([NegRelu])) == "canonicalize,abs-abs"


@pytest.mark.parametrize("wrong", [3, "fuse", [], [Fuse()], object, [DoubleNeg(), 3]])
def test_what_is_no_pass(wrong: object) -> None:
    with pytest.raises(UsageError, match="is no pass"):
        as_pass(wrong)


def test_a_pass_needs_name_and_version() -> None:
    class Nameless:
        def run(self, graph: Graph, context: PassContext) -> PassResult:
            return PassResult(False)

    with pytest.raises(UsageError, match=r"cannot be a pass without a name and a version \(set name"):
        as_pass(Nameless())


# -- running --------------------------------------------------------------------------------------------------------------
class Step:
    """A pass made of a function."""

    name = "step"
    version = 1

    def __init__(self, run: Any, lossy: bool = False) -> None:
        self._run = run
        self.lossy = lossy

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        return self._run(graph, context)


def test_rules_run_as_passes_and_notes_carry_the_pass() -> None:
    graph, context = negs(5), PassContext()
    result = Pipeline((Canonicalize(), [DoubleNeg(), NegRelu()])).run(graph, context)
    assert result.changed and len(graph) == 1
    assert [name for name, _ in result.seconds] == ["canonicalize", "double-neg+abs-abs"]
    assert [str(n) for n in result.notes] == [
        "canonicalize: looked at everything",
        "canonicalize: found nothing",
        "double-neg+abs-abs: double-neg fired 2 times",
        "double-neg+abs-abs: abs-abs never fired: the graph has no abs",
    ]
    assert result.notes[-1].kind == "miss" and context.notes == list(result.notes)


def test_progress_is_reported() -> None:
    seen: list[tuple[str, int, int]] = []
    Pipeline((Canonicalize(), Fuse())).run(negs(), PassContext(progress=lambda *what: seen.append(what)))
    assert seen == [("canonicalize", 0, 2), ("fuse", 1, 2), ("", 2, 2)]


def test_a_failure_names_pass_node_and_reason() -> None:
    def explicit(graph: Graph, context: PassContext) -> PassResult:
        context.at(list(graph.nodes)[1])
        raise ValueError("bad scale")

    def implicit(graph: Graph, context: PassContext) -> PassResult:
        def inner(node: Node) -> None:
            raise KeyError("w")

        for node in graph.nodes:
            inner(node)
        return PassResult(False)

    def planned(graph: Graph, context: PassContext) -> PassResult:
        raise PassError("the weight is no constant", "fold it first")

    for run, message in (
        (explicit, "pass 'step' failed: at layer.1 (neg), model.py:1: ValueError: bad scale"),
        (implicit, "pass 'step' failed: at layer.0 (neg), model.py:0: KeyError: 'w'"),
        (planned, "pass 'step': the weight is no constant (fold it first)"),
    ):
        with pytest.raises(PassError) as caught:
            Pipeline((Canonicalize(), Step(run))).run(negs())
        assert str(caught.value) == message
        assert caught.value.__cause__ is not None


def test_errors_that_explain_themselves_pass_through() -> None:
    def lower(graph: Graph, context: PassContext) -> PassResult:
        raise LoweringError("no kernel")

    with pytest.raises(LoweringError, match=r"^no kernel$"):
        Pipeline((Step(lower),)).run(negs())


def test_a_pass_must_return_a_result() -> None:
    with pytest.raises(PassError, match=r"pass 'step' returned None \(run\(\) must return PassResult"):
        Pipeline((Step(lambda graph, context: None),)).run(negs())


# -- instruments ----------------------------------------------------------------------------------------------------------
def test_verify_names_the_pass_that_broke_the_graph() -> None:
    def break_it(graph: Graph, context: PassContext) -> PassResult:
        node = next(graph.nodes)
        node.output.type = TensorType(DType.i32, (3,))
        return PassResult(True)

    with pytest.raises(PassError) as caught:
        Pipeline((Canonicalize(), Step(break_it))).run(negs(), instruments=[Verify()])
    assert str(caught.value) == (
        "pass 'step' broke an invariant: types-inferred does not hold at layer.0 (neg), model.py:0: "
        "%neg is i32[3] where its op gives f32[3]"
    )


def test_dump_writes_numbered_files(tmp_path: Path) -> None:
    dump = Dump(tmp_path / "dump")
    Pipeline((Canonicalize(), DoubleNeg())).run(negs(), instruments=[dump])
    assert [p.name for p in dump.written] == ["00-input.txt", "01-canonicalize.txt", "02-double-neg.txt"]
    assert dump.written[0].read_text().count("= neg(") == 2
    last = dump.written[2].read_text()
    assert last.startswith("// double-neg: changed\n//   double-neg fired once\ngraph") and "= neg(" not in last


def test_dump_into_no_folder_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PlanishError, match=r"file/00-input.txt cannot be written: "):
        Pipeline((Canonicalize(),)).run(negs(), instruments=[Dump(tmp_path / "file")])


def test_time_counts_nodes() -> None:
    times = Time()
    Pipeline((Canonicalize(), DoubleNeg())).run(negs(), instruments=[times])
    assert [(name, a, b) for name, _, a, b in times.rows] == [("canonicalize", 2, 2), ("double-neg", 2, 0)]
    assert "double-neg" in str(times)


def test_numeric_check_finds_the_pass_that_changes_the_numbers() -> None:
    def wrong(graph: Graph, context: PassContext) -> PassResult:
        node = next(graph.nodes)
        graph.replace(node.output, graph.insert("abs", node.inputs, before=node).output)
        graph.sweep()
        return PassResult(True)

    data = {"x": np.array([1.0, -2.0, 3.0], np.float32)}
    right = NumericCheck(data)
    Pipeline((DoubleNeg(),)).run(negs(3), instruments=[right])
    assert right.distances == [("double-neg", 0.0)]
    with pytest.raises(PassError, match=r"pass 'step' changed the numbers: output 0 \(%.*\) is off by .* of its norm"):
        Pipeline((DoubleNeg(), Step(wrong))).run(negs(3), instruments=[NumericCheck(data)])
    lossy = NumericCheck(data)
    Pipeline((Step(wrong, lossy=True), DoubleNeg())).run(negs(3), instruments=[lossy])
    assert [name for name, _ in lossy.distances] == ["step", "double-neg"]
    assert lossy.distances[0][1] > 0.1 and lossy.distances[1][1] == 0.0


def test_passes_satisfy_the_protocol() -> None:
    passes: list[Pass] = [Canonicalize(), Fuse(), DoubleNeg(), as_pass([DoubleNeg(), NegRelu()])]
    assert [p.version for p in passes] == [1, 3, 1, 2]


def test_a_pipeline_in_two() -> None:
    pipeline = Pipeline((Fuse(max_nodes=1), Slot("custom", (Fuse(),)), Fuse(max_nodes=2)))
    assert str(pipeline.until("custom")) == "fuse{max-nodes=1}"
    assert str(pipeline.since("custom")) == "@custom(fuse),fuse{max-nodes=2}"
    assert pipeline.since("fuse") == pipeline and len(pipeline.until("fuse")) == 0
    with pytest.raises(UsageError, match="no pass 'quantise' in the pipeline"):
        pipeline.until("quantise")
