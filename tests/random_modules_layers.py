"""Statements of random modules that carry weights or work: linear, convolution, norms, attention, pooling, reductions."""

from __future__ import annotations

import torch
from random_modules_grower import Grower, Rejected, Val
from random_modules_shape import axis

WIDTHS = (1, 2, 3, 5, 7, 8, 12, 16, 17, 24, 31, 32, 48, 64, 96, 130, 257)


def floats(x: Val) -> Val:
    """``x`` where a layer of float32 can read it."""
    if x.dtype is not torch.float32:
        raise Rejected("no float32")
    return x


def linear(g: Grower, x: Val) -> Val:
    """Linear layers and products of matrices."""
    if x.rank < 1 or not x.fixed(x.rank - 1) or x.dtype not in (torch.float32, torch.bfloat16):
        raise Rejected("no features")
    n, width = x.name, x.first.shape[-1]
    out = g.pick.choice(WIDTHS)
    kind = g.pick.choice(
        ["linear"] * 5
        + ["bare", "matmul", "weight", "product", "einsum", "bmm", "parts", "bilinear", "baddbmm", "outer", "gram"]
    )
    if x.dtype is torch.bfloat16:
        layer = g.layer(f"nn.Linear({width}, {out}, dtype=torch.bfloat16)")
        return g.add(f"{layer}({n})", x, weighs=True)
    if kind == "matmul":
        return g.add(f"{n} @ {g.parameter(width, out)}", x, weighs=True)
    if kind == "bare":
        return g.add(f"F.linear({n}, {g.parameter(out, width)})", x, weighs=True)
    if kind == "weight" and x.rank == 2:
        bias = g.parameter(out)
        return g.add(f"torch.addmm({bias}, {n}, {g.parameter(out, width)}.t())", x, weighs=True)
    if kind == "parts":
        size = g.pick.choice([2, 3, 8])
        layer = g.layer(f"nn.Linear({width}, {3 * size})")
        made = g.add(f"{layer}({n}).chunk(3, dim=-1)", x, weighs=True, count=3)
        return g.pick.choice(made)
    if kind == "einsum" and x.rank == 3:
        return g.add(
            f"torch.einsum('{g.pick.choice(['bsd,de->bse', 'bsd,de->ebs', 'bsd,de->be'])}', {n}, {g.parameter(width, out)})",
            x,
            weighs=True,
        )
    if kind == "gram" and x.rank >= 2:
        return g.add(f"{n} @ {n}.transpose(-1, -2) / {width}", x)
    if kind == "outer" and x.rank == 1:
        return g.add(
            g.pick.choice([f"torch.outer({n}, {n})", f"torch.dot({n}, {n})", f"{n}[:, None] * {n}[None, :]"]), x
        )
    if kind in ("product", "bmm", "baddbmm"):
        fit = [
            v
            for v in g.pool
            if v.dtype is torch.float32 and v.rank >= 2 and x.rank >= 2 and v.size(v.rank - 2) == x.size(x.rank - 1)
        ]
        if kind != "product":
            fit = [v for v in fit if v.rank == 3 and x.rank == 3 and v.size(0) == x.size(0)]
        if fit:
            y = g.pick.choice(fit)
            word = {
                "product": "torch.matmul({}, {})",
                "bmm": "torch.bmm({}, {})",
                "baddbmm": "torch.baddbmm(torch.zeros(1, 1, 1), {}, {}, beta=1, alpha=0.5)",
            }
            return g.add(word[kind].format(n, y.name), x, y, weighs=True)
    if kind == "bilinear" and x.rank == 2:
        return g.add(f"({n} @ {g.parameter(width, width)} * {n}).sum(-1, keepdim=True)", x, weighs=True)
    layer = g.layer(f"nn.Linear({width}, {out}, bias={g.pick.random() < 0.8})")
    act = g.pick.choice(["{}"] * 5 + ["F.relu({})", "F.gelu({})", "F.silu({})", "torch.tanh({})"])
    return g.add(act.format(f"{layer}({n})"), x, weighs=True)


def channels(g: Grower, x: Val, axes: int) -> Val:
    """``x`` or something near it as [batch, channels, ...] with fixed channels."""
    floats(x)
    if x.rank == axes + 2 and x.fixed(1):
        return x
    if x.rank == axes + 1 and x.fixed(0):
        return g.add(f"{x.name}.unsqueeze(0)", x, exact=True)
    if axes == 1 and x.rank == 3 and x.fixed(2):
        return g.add(f"{x.name}.transpose(1, 2)", x, exact=True)
    sizes = [g.pick.choice([4, 5, 7, 8, 9, "s"]) for _ in range(axes)]
    return g.input(torch.float32, ["b", g.pick.choice([1, 2, 3, 4, 6, 8]), *sizes])


def convolution(g: Grower, x: Val) -> Val:
    axes = g.pick.choice([1, 2, 2, 2])
    x = channels(g, x, axes)
    inside = x.first.shape[1]
    kernels = [g.pick.choice([1, 1, 2, 3, 3, 4, 5]) for _ in range(axes)]
    steps = [g.pick.choice([1, 1, 1, 2, 3]) for _ in range(axes)]
    margins: str | list[int] = [g.pick.choice([0, 1, 1, 2]) for _ in range(axes)]
    gaps = [g.pick.choice([1, 1, 1, 2]) for _ in range(axes)]
    groups = g.pick.choice([1, 1, *[d for d in range(1, inside + 1) if inside % d == 0]])
    out = groups * g.pick.choice([1, 2, 3, 4, 8])
    if g.pick.random() < 0.1:
        margins, steps = repr(g.pick.choice(["same", "valid"])), [1] * axes
    if g.special and groups > 1:
        raise Rejected("groups that share a product see each other's NaN")
    one = lambda v: v if isinstance(v, str) else f"({', '.join(map(str, v))},)"  # noqa: E731
    transposed = g.pick.random() < 0.1 and not isinstance(margins, str)
    word = "ConvTranspose" if transposed else "Conv"
    layer = g.layer(
        f"nn.{word}{axes}d({inside}, {out}, {one(kernels)}, stride={one(steps)}, padding={one(margins)}, dilation={one(gaps)}, "
        f"groups={groups}, bias={g.pick.random() < 0.7})"
    )
    act = g.pick.choice(["{}"] * 4 + ["F.relu({})", "F.silu({})", "F.hardswish({})", "F.relu6({})"])
    return g.add(act.format(f"{layer}({x.name})"), x, weighs=True)


def pool(g: Grower, x: Val) -> Val:
    axes = g.pick.choice([1, 2, 2])
    x = channels(g, x, axes)
    kernel, step = g.pick.choice([2, 2, 3]), g.pick.choice([1, 2, 2, 3])
    margin = g.pick.choice([0, 0, 1])
    kind = g.pick.choice(["max", "max", "avg", "avg", "adaptive", "adaptive", "adaptive_max", "interpolate", "lp"])
    if kind == "adaptive":
        return g.add(f"F.adaptive_avg_pool{axes}d({x.name}, {g.pick.choice([1, 1, 2, 3])})", x)
    if kind == "adaptive_max":
        return g.add(f"F.adaptive_max_pool{axes}d({x.name}, {g.pick.choice([1, 1, 2])})", x, exact=True)
    if kind == "interpolate":
        mode = g.pick.choice(
            ["'nearest'", "'linear', align_corners=False" if axes == 1 else "'bilinear', align_corners=False"]
        )
        if g.special and "linear" in mode:
            raise Rejected("interpolation is a product with a matrix that has zeros")
        return g.add(f"F.interpolate({x.name}, scale_factor={g.pick.choice([2, 2, 3])}, mode={mode})", x)
    ceil = ", ceil_mode=True" if g.pick.random() < 0.15 else ""
    if kind == "avg":
        count = "" if g.pick.random() < 0.6 else ", count_include_pad=False"
        return g.add(f"F.avg_pool{axes}d({x.name}, {kernel}, {step}, {margin}{ceil}{count})", x)
    if kind == "lp":
        return g.add(f"F.lp_pool{axes}d({x.name}.abs() + 0.1, 2.0, {kernel}, {step})", x)
    gap = ", dilation=2" if g.pick.random() < 0.1 else ""
    return g.add(f"F.max_pool{axes}d({x.name}, {kernel}, {step}, {margin}{gap}{ceil})", x, exact=True)


def norm(g: Grower, x: Val) -> Val:
    floats(x)
    n, r = x.name, x.rank
    kind = g.pick.choice(
        [
            "layer",
            "layer",
            "rms",
            "rms",
            "batch",
            "group",
            "instance",
            "hand_rms",
            "hand_layer",
            "normalize",
            "two",
            "functional",
        ]
    )
    if kind == "batch" and r in (2, 3, 4) and x.fixed(1):
        return g.add(f"{g.layer(f'nn.BatchNorm{max(r - 2, 1)}d({x.first.shape[1]})')}({n})", x)
    if kind == "group" and r >= 3 and x.fixed(1):
        count = x.first.shape[1]
        groups = g.pick.choice([d for d in range(1, count + 1) if count % d == 0])
        return g.add(f"{g.layer(f'nn.GroupNorm({groups}, {count}, eps=1e-2)')}({n})", x)
    if kind == "instance" and r in (3, 4) and x.fixed(1):
        return g.add(
            f"{g.layer(f'nn.InstanceNorm{r - 2}d({x.first.shape[1]}, affine={g.pick.random() < 0.5}, eps=1e-2)')}({n})",
            x,
        )
    if not r or not x.fixed(r - 1):
        raise Rejected("no features")
    width = x.first.shape[-1]
    if kind == "rms":
        return g.add(f"{g.layer(f'nn.RMSNorm({width}, eps=1e-3)')}({n})", x)
    if kind == "hand_rms":
        weight = g.parameter(width)
        return g.add(f"{n} * torch.rsqrt({n}.pow(2).mean(-1, keepdim=True) + 1e-3) * {weight}", x)
    if kind == "hand_layer":
        m = g.add(f"{n}.mean(-1, keepdim=True)", x)
        v = g.add(f"({n} - {m.name}).pow(2).mean(-1, keepdim=True)", x, m)
        return g.add(f"({n} - {m.name}) / torch.sqrt({v.name} + 1e-3)", x, m, v)
    if kind == "normalize":
        return g.add(
            g.pick.choice(
                [
                    f"F.normalize({n}, dim=-1)",
                    f"F.normalize({n}, p=1.0, dim=-1)",
                    f"{n} / ({n}.norm(dim=-1, keepdim=True) + 0.1)",
                ]
            ),
            x,
        )
    if kind == "two" and r >= 2 and x.fixed(r - 2):
        return g.add(f"{g.layer(f'nn.LayerNorm(({x.first.shape[-2]}, {width}), eps=1e-3)')}({n})", x)
    if kind == "functional":
        return g.add(f"F.layer_norm({n}, ({width},), eps=1e-3)", x)
    affine = g.pick.choice(["", "", ", elementwise_affine=False", ", bias=False"])
    return g.add(f"{g.layer(f'nn.LayerNorm({width}, eps=1e-3{affine})')}({n})", x)


def softmax(g: Grower, x: Val) -> Val:
    floats(x)
    n, at = x.name, axis(g, x)
    kind = g.pick.choice(
        ["softmax", "softmax", "log_softmax", "hand", "logsumexp", "glu", "cumsum", "cosine", "softmin"]
    )
    if kind == "hand":
        e = g.add(f"torch.exp({n} - {n}.max({at}, keepdim=True).values)", x)
        return g.add(f"{e.name} / {e.name}.sum({at}, keepdim=True)", e)
    if kind == "logsumexp":
        return g.add(f"torch.logsumexp({n}, {at})", x)
    if kind == "glu":
        return g.add(f"F.glu({n}, {at})", x)
    if kind == "cumsum":
        return g.add(f"torch.cumsum({n}, {at})", x)
    if kind == "cosine":
        return g.add(f"F.cosine_similarity({n}, {n}.flip({at}) + 0.5, dim={at})", x)
    return g.add(f"F.{kind}({n}, dim={at})", x)


def reduce(g: Grower, x: Val) -> Val:
    n, r = x.name, x.rank
    axes = sorted(g.pick.sample(range(r), g.pick.randint(1, r))) if r else []
    axes = [a - g.pick.choice([0, r]) for a in axes]
    dims = "" if not axes or g.pick.random() < 0.15 else str(axes[0]) if len(axes) == 1 else str(tuple(axes))
    keep = ", keepdim=True" if dims and g.pick.random() < 0.5 else ""
    one = f"{axes[0]}{keep}" if axes and dims else ""
    if x.dtype is torch.bool:
        return g.add(g.pick.choice([f"{n}.any({one})", f"{n}.all({one})", f"{n}.sum({dims}{keep})",
                                    f"{n}.float().mean({dims}{keep})",
                                    f"torch.cumsum({n}, {axes[0] if axes else 0})"]), x, exact="mean" not in n)  # fmt: skip
    if not x.is_float:
        kind = g.pick.choice(["sum", "amax", "amin", "max", "argmax", "cumsum", "prod", "mean", "any", "count_nonzero"])
        if kind == "max" and one:
            made = g.add(f"torch.{g.pick.choice(['max', 'min'])}({n}, {one})", x, exact=True, count=2)
            return made[g.pick.randrange(2)]
        if kind in ("argmax", "max", "prod", "any"):
            return g.add(f"{n}.{kind}({one})", x, exact=True)
        if kind == "cumsum":
            return g.add(f"torch.cumsum({n}, dim={axis(g, x)})", x, exact=True)
        if kind == "mean":
            return g.add(f"{n}.float().mean({dims}{keep})", x)
        keep = "" if kind == "count_nonzero" else keep
        return g.add(f"torch.{kind}({n}{', dim=' if dims else ''}{dims}{keep})", x, exact=True)
    kind = g.pick.choice(
        [
            "sum",
            "sum",
            "mean",
            "mean",
            "mean",
            "amax",
            "amin",
            "var",
            "std",
            "max",
            "argmax",
            "argmin",
            "norm",
            "prod",
            "var_mean",
            "pool",
            "aminmax",
            "any",
        ]
    )
    if kind in ("amax", "amin"):
        return g.add(f"{n}.{kind}({dims}{keep})", x, exact=True)
    if kind == "var_mean" and g.special:
        raise Rejected("a running mean makes NaN of an infinity")
    if kind in ("max", "var_mean") and one:
        text = f"torch.{g.pick.choice(['max', 'min'])}({n}, {one})" if kind == "max" else f"torch.var_mean({n}, {one})"
        return g.add(text, x, exact=kind == "max", count=2)[g.pick.randrange(2)]
    if kind in ("argmax", "argmin", "max"):
        return g.add(f"{n}.{kind}({one})", x, exact=True)
    if kind in ("var", "std"):
        how = g.pick.choice(["", "unbiased=False", "correction=0"])
        given = ", ".join(t for t in (dims, how, keep[2:]) if t)
        return g.add(f"{n}.{kind}({given})" if kind == "var" else f"({n} * 1).{kind}({given})", x)
    if kind == "norm":
        how = g.pick.choice(["dim=", "p=1, dim=", "p=float('inf'), dim=", "p=2, dim="])
        return g.add(f"torch.norm({n}, {how}{dims or None}{keep})", x)
    if kind == "pool" and r == 3:
        mask = g.input(torch.bool, ["b", "s"])
        m = g.add(f"{mask.name}.unsqueeze(-1).float()", mask, exact=True)
        return g.add(f"({n} * {m.name}).sum(1) / {m.name}.sum(1).clamp(min=1e-9)", x, m)
    if kind == "aminmax" and one:
        return g.add(f"({n}.amax({one}) - {n}.amin({one}))", x)
    if kind == "any":
        return g.add(f"({n} > 0.5).any({one})", x, exact=True)
    if kind == "prod":
        return g.add(f"({n} * 0.5).prod({one})", x)
    return g.add(f"{n}.{'sum' if kind == 'sum' else 'mean'}({dims}{keep})", x)


KINDS = [linear, convolution, pool, norm, softmax, reduce]
