"""``planish targets``: what can be compiled for, what each needs, and whether it runs here."""

from __future__ import annotations

from .options import Debug, Json
from .output import print_json, print_table

#: What a level adds, for people.
_ADDS = {
    "portable": "plain C++: any CPU that the compiler knows",
    "avx2": "8 floats at once, fused multiply-add",
    "avx512-vnni": "16 floats at once, int8 dot products",
    "avx512-bf16": "bfloat16 dot products",
}


def targets(json: Json = False, debug: Debug = False) -> None:
    """List the targets, and whether they run here."""
    from ..backends.cpu.isa import detect, level, missing_flags
    from ..codegen.specs import ISA_LEVELS

    here = detect()
    document = [
        {
            "name": f"cpu:{name}",
            "runs_here": not missing_flags(name),
            "default": name == here,
            "needs": list(level(name).cpu_flags),
            "missing": missing_flags(name),
            "adds": _ADDS[name],
        }
        for name in ISA_LEVELS
    ]
    if json:
        print_json({"default": f"cpu:{here}", "targets": document})
        return
    rows = [("cpu", "yes", f"this machine: cpu:{here}")]
    for target in document:
        missing = target["missing"]
        runs = "yes" if target["runs_here"] else "no"
        lacks = f"; this CPU lacks {', '.join(missing)}" if isinstance(missing, list) and missing else ""
        rows.append((str(target["name"]), runs, f"{target['adds']}{lacks}"))
    print_table(rows, header=("target", "runs here", ""))
