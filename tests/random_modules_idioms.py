"""Several statements at once, as people write them: attention, gated units, blocks of a network, positions, recurrences."""

from __future__ import annotations

import torch
from random_modules_grower import Grower, Rejected, Val
from random_modules_layers import channels, floats


def sequence(g: Grower, x: Val) -> Val:
    """``x`` if it is [batch, sequence, features] with fixed features, else a fresh input that is."""
    if x.dtype is torch.float32 and x.rank == 3 and x.fixed(2):
        return x
    return g.input(torch.float32, ["b", g.pick.choice(["s", "s", 6, 7, 33]), g.pick.choice([8, 12, 16, 24])])


def attention(g: Grower, x: Val) -> Val:
    """Self-attention: by SDPA or by hand, with a mask, causal or grouped."""
    x = sequence(g, x)
    n, width = x.name, x.first.shape[2]
    heads, size = g.pick.choice([1, 2, 3, 4]), g.pick.choice([2, 4, 8, 10, 16])
    kv = g.pick.choice([d for d in (1, heads) if heads % d == 0])
    joint = kv == heads and g.pick.random() < 0.4
    b, s = x.dim(0), x.dim(1)
    if joint:
        y = g.add(f"{g.layer(f'nn.Linear({width}, {3 * heads * size})')}({n})", x, weighs=True)
        y = g.add(f"{y.name}.reshape({b}, {s}, 3, {heads}, {size}).permute(2, 0, 3, 1, 4)", x, y, exact=True)
        q, k, v = g.add(f"{y.name}.unbind(0)", y, exact=True, count=3)
    else:
        q, k, v = (projected(g, x, width, count, size) for count in (heads, kv, kv))
    if g.pick.random() < 0.25 and size % 2 == 0:
        q, k = rotated(g, q), rotated(g, k)
    kind = g.pick.choice(["none", "none", "causal", "bool", "float", "key"])
    grouped = ", enable_gqa=True" if kv != heads else ""
    mask, reads, argument = "", [], ""
    if kind == "causal":
        argument, mask = ", is_causal=True", f"torch.ones({s}, {s}, dtype=torch.bool).tril()"
        reads = [x]
    elif kind == "bool":
        keep = g.add(f"torch.ones({s}, {s}, dtype=torch.bool).tril({g.pick.choice([0, 0, 1])})", x, exact=True)
        argument, mask, reads = f", attn_mask={keep.name}", keep.name, [keep]
    elif kind == "float":
        bias = g.add(f"torch.triu(torch.full(({s}, {s}), {g.pick.choice([-10.0, -1.0])}), diagonal=1)", x, exact=True)
        argument, mask, reads = f", attn_mask={bias.name}", bias.name, [bias]
    elif kind == "key":
        given = g.input(torch.int64, ["b", "s"] if not x.fixed(1) else ["b", x.first.shape[1]], 1, 2)
        keep = g.add(f"{given.name}[:, None, None, :] > 0", given, exact=True)
        argument, mask, reads = f", attn_mask={keep.name}", keep.name, [keep]
    if g.pick.random() < 0.5:
        scale = ", scale=0.5" if g.pick.random() < 0.15 else ""
        o = g.add(
            f"F.scaled_dot_product_attention({q.name}, {k.name}, {v.name}{argument}{scale}{grouped})",
            q,
            k,
            v,
            *reads,
            weighs=True,
        )
    else:
        if kv != heads:
            k, v = (g.add(f"{t.name}.repeat_interleave({heads}, dim=1)", t, exact=True) for t in (k, v))
        scores = g.add(
            f"torch.matmul({q.name}, {k.name}.transpose(-1, -2)) {g.pick.choice([f'* {size**-0.5}', f'/ {size**0.5}'])}",
            q,
            k,
            weighs=True,
        )
        if mask and kind == "float":
            scores = g.add(f"{scores.name} + {mask}", scores, *reads)
        elif mask:
            scores = hidden(g, scores, mask, reads)
        weights = g.add(f"F.softmax({scores.name}, dim=-1)", scores)
        o = g.add(f"{weights.name} @ {v.name}", weights, v, weighs=True)
    o = g.add(f"{o.name}.transpose(1, 2).reshape({b}, {s}, {heads * size})", o, x, exact=True)
    return g.add(f"{g.layer(f'nn.Linear({heads * size}, {width})')}({o.name})", o, weighs=True)


def hidden(g: Grower, scores: Val, mask: str, reads: list[Val]) -> Val:
    """Scores with what the mask hides far below the rest (kept small enough to be tame)."""
    kind = g.pick.choice(["fill", "where", "add"])
    if kind == "fill":
        return g.add(f"{scores.name}.masked_fill(~{mask}, -50.0)", scores, *reads, exact=True)
    if kind == "where":
        return g.add(f"torch.where({mask}, {scores.name}, -60.0)", scores, *reads, exact=True)
    return g.add(f"{scores.name} + (1.0 - {mask}.float()) * -40.0", scores, *reads)


def projected(g: Grower, x: Val, width: int, heads: int, size: int) -> Val:
    y = g.add(f"{g.layer(f'nn.Linear({width}, {heads * size})', share=False)}({x.name})", x, weighs=True)
    way = g.pick.choice(
        [
            ".view({b}, {s}, {h}, {d}).transpose(1, 2)",
            ".reshape({b}, -1, {h}, {d}).permute(0, 2, 1, 3)",
            ".unflatten(-1, ({h}, {d})).transpose(1, 2)",
        ]
    )
    return g.add(f"{y.name}{way.format(b=x.dim(0), s=x.dim(1), h=heads, d=size)}", y, x, exact=True)


def rotated(g: Grower, x: Val) -> Val:
    """Rotary position embedding."""
    half = x.first.shape[-1] // 2
    angle = g.add(
        f"torch.arange({x.dim(2)}).float()[:, None] * torch.tensor({[round(0.7**i, 3) for i in range(half)]})[None, :]",
        x,
    )
    angle = g.add(f"torch.cat([{angle.name}, {angle.name}], -1)", angle, exact=True)
    turned = g.add(f"torch.cat([-{x.name}[..., {half}:], {x.name}[..., :{half}]], dim=-1)", x, exact=True)
    return g.add(f"{x.name} * {angle.name}.cos() + {turned.name} * {angle.name}.sin()", x, angle, turned)


def block(g: Grower, x: Val) -> Val:
    """A residual feed-forward block, plain or gated."""
    x = sequence(g, x)
    width, wide = x.first.shape[-1], g.pick.choice([16, 24, 33])
    h = g.add(f"{g.layer(f'nn.LayerNorm({width}, eps=1e-3)')}({x.name})", x) if g.pick.random() < 0.7 else x
    if g.pick.random() < 0.4:
        a = g.add(
            f"F.silu({g.layer(f'nn.Linear({width}, {wide}, bias=False)', share=False)}({h.name}))", h, weighs=True
        )
        c = g.add(f"{g.layer(f'nn.Linear({width}, {wide}, bias=False)', share=False)}({h.name})", h, weighs=True)
        m = g.add(f"{a.name} * {c.name}", a, c)
    else:
        act = g.pick.choice(["F.gelu({})", "F.relu({})", "F.gelu({}, approximate='tanh')", "F.silu({})"])
        m = g.add(act.format(f"{g.layer(f'nn.Linear({width}, {wide})')}({h.name})"), h, weighs=True)
    o = g.add(f"{g.layer(f'nn.Linear({wide}, {width})')}({m.name})", m, weighs=True)
    return g.add(f"{x.name} + {o.name}", x, o)


def library(g: Grower, x: Val) -> Val:
    """Layers of torch that are made of many ops."""
    x = sequence(g, x)
    width = x.first.shape[-1]
    heads = g.pick.choice([h for h in (1, 2, 4) if width % h == 0])
    kind = g.pick.choice(["mha", "encoder", "gru", "lstm"])
    if kind == "mha":
        layer = g.layer(f"nn.MultiheadAttention({width}, {heads}, batch_first=True)")
        return g.add(f"{layer}({x.name}, {x.name}, {x.name}, need_weights={g.pick.random() < 0.3})[0]", x, weighs=True)
    if kind == "encoder":
        layer = g.layer(
            f"nn.TransformerEncoderLayer({width}, {heads}, 24, batch_first=True, norm_first={g.pick.random() < 0.5}, "
            f"activation='{g.pick.choice(['relu', 'gelu'])}')"
        )
        return g.add(f"{layer}({x.name})", x, weighs=True)
    if not x.fixed(1):
        raise Rejected("a recurrence over a varying length")
    layer = g.layer(
        f"nn.{kind.upper()}({width}, 8, batch_first=True{', bidirectional=True' if g.pick.random() < 0.3 else ''})"
    )
    return g.add(f"{layer}({x.name})[0]", x, weighs=True)


def vision(g: Grower, x: Val) -> Val:
    """Squeeze and excite, patches, pixel shuffles, residual convolutions, skips over a pool."""
    x = channels(g, x, 2)
    n, c = x.name, x.first.shape[1]
    kind = g.pick.choice(["squeeze", "patch", "shuffle", "residual", "flatten", "unet", "last"])
    if kind == "squeeze":
        s = g.add(g.pick.choice([f"F.adaptive_avg_pool2d({n}, 1)", f"{n}.mean((2, 3), keepdim=True)"]), x)
        s = g.add(f"torch.sigmoid({g.layer(f'nn.Conv2d({c}, {c}, 1)')}({s.name}))", s, weighs=True)
        return g.add(f"{n} * {s.name}", x, s)
    if kind == "patch":
        y = g.add(f"{g.layer(f'nn.Conv2d({c}, 8, 2, stride=2)')}({n}).flatten(2).transpose(1, 2)", x, weighs=True)
        token = g.parameter(1, 1, 8)
        return g.add(f"torch.cat([{token}.expand({y.name}.shape[0], -1, -1), {y.name}], dim=1)", y, exact=True)
    if kind == "shuffle":
        y = g.add(f"{g.layer(f'nn.Conv2d({c}, 8, 1)')}({n})", x, weighs=True)
        return g.add(f"F.pixel_shuffle({y.name}, 2)", y, exact=True)
    if kind == "residual":
        y = g.add(f"{g.layer(f'nn.Conv2d({c}, {c}, 3, padding=1, bias=False)')}({n})", x, weighs=True)
        y = g.add(f"F.relu({g.layer(f'nn.BatchNorm2d({c})')}({y.name}))", y)
        return g.add(f"{y.name} + {n}", y, x)
    if kind == "flatten" and x.fixed(2) and x.fixed(3):
        return g.add(f"{g.layer(f'nn.Linear({x.first[0].numel()}, 6)')}(torch.flatten({n}, 1))", x, weighs=True)
    if kind == "unet":
        y = g.add(f"F.max_pool2d({n}, 2)", x, exact=True)
        y = g.add(f"F.interpolate({y.name}, scale_factor=2, mode='nearest')", y, exact=True)
        return g.add(f"torch.cat([{n}, {y.name}], 1)", x, y, exact=True)
    y = g.add(f"{n}.permute(0, 2, 3, 1)", x, exact=True)
    y = g.add(f"{g.layer(f'nn.LayerNorm({c}, eps=1e-2)')}({y.name})", y)
    return g.add(f"{y.name}.permute(0, 3, 1, 2)", y, exact=True)


def text(g: Grower, x: Val) -> Val:
    """Token and position embeddings, and the pooling of their sum."""
    width = g.pick.choice([8, 16])
    ids = g.input(g.pick.choice([torch.int64, torch.int32]), ["b", "s"], 0, 11)
    e = g.add(f"{g.layer(f'nn.Embedding(11, {width})')}({ids.name})", ids, exact=True)
    places = g.add(f"torch.arange({ids.name}.shape[1], device={ids.name}.device)", ids, exact=True)
    p = g.add(f"{g.layer(f'nn.Embedding(24, {width})')}({places.name})", places, exact=True)
    return g.add(f"{e.name} + {p.name}", e, p)


def recurrence(g: Grower, x: Val) -> Val:
    """A few steps of a hand-written cell with one set of weights."""
    floats(x)
    if x.rank != 3 or not x.fixed(1) or not x.fixed(2) or x.first.shape[1] > 6:
        raise Rejected("no short sequence")
    width = x.first.shape[2]
    inner, outer = g.layer(f"nn.Linear({width}, 6)"), g.layer("nn.Linear(6, 6, bias=False)")
    h = g.add(f"torch.tanh({inner}({x.name}[:, 0]))", x, weighs=True)
    for step in range(1, x.first.shape[1]):
        h = g.add(f"torch.tanh({inner}({x.name}[:, {step}]) + {outer}({h.name}))", x, h, weighs=True)
    return h


def more(g: Grower, x: Val) -> Val:
    """What is seldom written, and captured all the same."""
    n, r = x.name, x.rank
    kind = g.pick.choice(
        [
            "prelu",
            "bag",
            "unfold",
            "unshuffle",
            "tensordot",
            "cdist",
            "meshgrid",
            "swap",
            "rot",
            "trace",
            "bilinear",
            "step",
        ]
    )
    if kind == "bag":
        ids = g.input(torch.int64, ["b", 4], 0, 9)
        mode = g.pick.choice(["sum", "mean", "max"])
        layer = g.layer(f"nn.EmbeddingBag(9, 8, mode={mode!r})")
        return g.add(f"{layer}({ids.name})", ids)
    floats(x)
    if kind == "prelu" and r >= 2 and x.fixed(1):
        return g.add(f"{g.layer(f'nn.PReLU({g.pick.choice([1, x.first.shape[1]])})')}({n})", x)
    if kind == "unfold":
        image = channels(g, x, 2)
        return g.add(
            f"F.unfold({image.name}, {g.pick.choice(['2', '(1, 2)'])}, stride={g.pick.choice([1, 2])})",
            image,
            exact=True,
        )
    if kind == "unshuffle" and r == 4 and all(x.fixed(a) and x.first.shape[a] % 2 == 0 for a in (2, 3)):
        return g.add(f"F.pixel_unshuffle({n}, 2)", x, exact=True)
    if kind == "tensordot" and r >= 2 and x.fixed(r - 1) and x.fixed(r - 2):
        return g.add(f"torch.tensordot({n}, {g.parameter(*x.first.shape[-2:], 5)}, dims=2)", x, weighs=True)
    if kind == "cdist" and r in (2, 3):
        return g.add(f"torch.cdist({n}, {n} + 2.0)", x)
    if kind == "meshgrid" and r == 1:
        return g.add(f"torch.stack(torch.meshgrid({n}, {n} * 2, indexing='{g.pick.choice(['ij', 'xy'])}'))", x)
    if kind == "swap" and r >= 2:
        return g.add(f"{n}.swapaxes(0, -1).contiguous().mT", x, exact=True)
    if kind == "rot" and r >= 2:
        return g.add(f"torch.rot90({n}, 1, (0, 1))", x, exact=True)
    if kind == "trace" and r == 2 and x.fixed(0) and x.fixed(1):
        return g.add(f"torch.trace({n})", x)
    if kind == "bilinear" and r >= 1 and x.fixed(r - 1) and x.first.shape[-1] <= 16:
        width = x.first.shape[-1]
        return g.add(f"{g.layer(f'nn.Bilinear({width}, {width}, 3)')}({n}, {n})", x, weighs=True)
    return g.add(f"torch.heaviside({n}, torch.tensor(0.5)) * {n}", x, exact=True)
