"""``import planish`` and ``planish.load`` pull in nothing of the compiler: numpy and the standard library are enough."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

HEAVY = (
    "torch", "jinja2", "networkx", "onnxruntime", "scipy", "pydantic", "typer", "rich", "onnx", "safetensors", "sympy",
    "planish.compiler", "planish.passes", "planish.codegen", "planish.backends", "planish.search", "planish.driver",
    "planish.cli",
)  # fmt: skip


def loaded_by(statement: str) -> set[str]:
    """Which heavy modules are loaded after ``statement`` ran in a fresh process."""
    script = f"{statement}\nimport sys\nprint('\\n'.join(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    names = done.stdout.split()
    return {heavy for heavy in HEAVY for name in names if name == heavy or name.startswith(heavy + ".")}


@pytest.mark.parametrize("statement", ["import planish", "import planish; planish.load"])
def test_nothing_heavy_is_imported(statement: str) -> None:
    assert loaded_by(statement) == set()


def test_the_probe_sees_what_is_imported() -> None:
    assert loaded_by("import planish; planish.floats") == {"planish.compiler"}


def test_load_is_found_where_importing_the_rest_raises() -> None:
    script = textwrap.dedent(f"""
        import sys
        for name in {[n for n in HEAVY if not n.startswith("planish")]!r}:
            sys.modules[name] = None  # an import now raises
        import planish
        assert callable(planish.load)
    """)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_public_name_is_there() -> None:
    import planish

    for name in planish.__all__:
        assert getattr(planish, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    import planish

    with pytest.raises(AttributeError, match="no attribute 'compyle'"):
        planish.compyle  # type: ignore[attr-defined]
