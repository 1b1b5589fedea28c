"""The C++ toolchain: what it builds, what it caches, and how it fails."""

from __future__ import annotations

import ctypes
import stat
from pathlib import Path

import pytest

from planish.backends.cpu import isa, toolchain
from planish.backends.cpu.toolchain import Source
from planish.codegen.render import LANES, preamble
from planish.codegen.specs import ISA_LEVELS
from planish.compiler.errors import ToolchainError, UsageError

EXPORT = 'extern "C" __attribute__((visibility("default"))) '


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PLANISH_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def _fake_compiler(folder: Path, body: str) -> Path:
    path = folder / "fake-g++"
    version = 'case "$*" in *--version*) echo "fake g++ 1.0"; exit 0;; esac'
    path.write_text(f"#!/bin/sh\n{version}\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_builds_and_caches(cache: Path) -> None:
    text = EXPORT + "int answer() { return 42; }\n"
    first = toolchain.build(text, "portable")
    assert ctypes.CDLL(str(first)).answer() == 42
    changed = first.stat().st_mtime_ns
    assert toolchain.build(text, "portable") == first
    assert first.stat().st_mtime_ns == changed
    (source,) = cache.rglob("*.cpp")
    assert source.read_text() == text
    assert toolchain.build(text, "portable", extra_flags=("-DX",)) != first
    files, size = toolchain.cache_size()
    assert files == 6, "source, object and shared object of two"
    assert size > len(text)
    assert toolchain.clear_cache() == size
    assert toolchain.cache_size() == (0, 0)
    assert not list(cache.rglob("*.tmp"))


def test_several_units_are_linked(cache: Path) -> None:
    units = [EXPORT + "int one() { return 1; }\n", "int one();\n" + EXPORT + "int two() { return one() + one(); }\n"]
    units[1] = units[1].replace("int one();", 'extern "C" int one();')
    assert ctypes.CDLL(str(toolchain.build(units, "portable"))).two() == 2


HEADERS = (
    "#include <string.h>\nstatic int length(const char* s) { return (int)strlen(s); }\n",
    '#define TEXT "four"\n',
)


def with_headers(name: str) -> Source:
    return Source(EXPORT + f"int {name}() {{ return length(TEXT); }}\n", HEADERS)


def test_the_same_bytes_whatever_the_cache_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone and among others, in a cache of another name, with the header precompiled and as text."""
    sources = [with_headers(name) for name in "abcd"]
    found: set[bytes] = set()
    for folder, before in (("one", ()), ("another", sources[2:3]), ("a-third", sources)):
        monkeypatch.setenv("PLANISH_CACHE_DIR", str(tmp_path / folder))
        for source in before:
            toolchain.build([source], "portable")
        path = toolchain.build(sources, "portable")
        assert ctypes.CDLL(str(path)).d() == 4
        found.add(path.read_bytes())
        precompiled = toolchain.find_compiler().kind == "gcc" and folder == "one"
        assert len(list((tmp_path / folder).rglob("*.gch"))) == precompiled, folder
    assert len(found) == 1


def test_what_any_build_had_is_not_compiled_again(cache: Path) -> None:
    def compiled(names: str) -> list[tuple[int, int]]:
        calls: list[tuple[int, int]] = []
        toolchain.build([with_headers(name) for name in names], "portable", progress=lambda *call: calls.append(call))
        return calls

    assert compiled("ab") == [(0, 2), (1, 2), (2, 2)]
    assert compiled("abc") == [(0, 1), (1, 1)]
    assert compiled("ca") == compiled("ca") == []
    headers = [path.read_text() for path in cache.rglob("*.hpp")]
    assert sorted(headers) == sorted(HEADERS), "headers are kept once"


def test_a_failing_compiler_says_its_first_error_and_keeps_the_source(cache: Path) -> None:
    with pytest.raises(ToolchainError) as caught:
        toolchain.build("int broken( {\nint alsobroken(;\n", "portable")
    assert "error" in caught.value.message
    assert ":1:" in caught.value.message
    assert caught.value.hint is not None
    assert "-std=c++17" in caught.value.hint
    (source,) = cache.rglob("*.cpp")
    assert str(source) in caught.value.hint
    assert not list(cache.rglob("*.tmp"))
    assert not list(cache.rglob("*.so"))


def test_no_compiler_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    toolchain._probe.cache_clear()
    try:
        with pytest.raises(ToolchainError, match="no C\\+\\+ compiler") as caught:
            toolchain.find_compiler()
    finally:
        toolchain._probe.cache_clear()
    assert caught.value.hint is not None
    assert "apt install g++" in caught.value.hint


def test_cxx_is_honoured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cache: Path) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler --flag")
    with pytest.raises(ToolchainError, match="no-such-compiler"):
        toolchain.find_compiler()
    fake = _fake_compiler(tmp_path, "echo 'fatal error: out of luck' >&2; exit 1")
    monkeypatch.setenv("CXX", f"{fake} -DGIVEN")
    assert toolchain.find_compiler().version == "fake g++ 1.0"
    with pytest.raises(ToolchainError, match="out of luck") as caught:
        toolchain.build("", "portable")
    assert "-DGIVEN" in str(caught.value)


def test_a_cache_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PLANISH_CACHE_DIR", str(tmp_path / "file" / "below"))
    with pytest.raises(ToolchainError, match="cannot be written"):
        toolchain.build("", "portable")


@pytest.mark.parametrize("name", ISA_LEVELS)
def test_levels(name: str) -> None:
    level = isa.level(name)
    assert level.lanes == LANES[name]
    assert set(isa.level(ISA_LEVELS[max(0, ISA_LEVELS.index(name) - 1)]).cpu_flags) <= set(level.cpu_flags)
    assert "-ffp-contract=off" in isa.compiler_flags(name)
    assert (name in isa.available()) == (not isa.missing_flags(name))


def test_detection(monkeypatch: pytest.MonkeyPatch) -> None:
    have = {"avx2", "fma", "f16c", "bmi1", "bmi2"}
    monkeypatch.setattr(isa, "cpu_flags", lambda: frozenset(have))
    monkeypatch.setattr(isa.platform, "machine", lambda: "x86_64")
    assert isa.detect() == "avx2"
    assert "avx512_vnni" in isa.missing_flags("avx512-vnni")
    monkeypatch.setattr(isa.platform, "machine", lambda: "aarch64")
    assert isa.detect() == "portable"
    with pytest.raises(UsageError, match="no ISA level 'avx3'"):
        isa.level("avx3")


def test_the_portable_preamble_names_no_machine() -> None:
    text = preamble("portable")
    for word in ("immintrin", "_mm", "__m128", "__m256", "__m512"):
        assert word not in text
