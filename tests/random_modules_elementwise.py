"""Elementwise statements of random modules: one operand, two with broadcasting and promotion, casts, conditions."""

from __future__ import annotations

import torch
from random_modules_grower import Grower, Rejected, Val

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
NAMES = {torch.float32: "torch.float32", torch.bfloat16: "torch.bfloat16", torch.float16: "torch.float16",
         torch.float64: "torch.float64", torch.int64: "torch.int64", torch.int32: "torch.int32", torch.int8: "torch.int8",
         torch.uint8: "torch.uint8", torch.bool: "torch.bool"}  # fmt: skip

#: Maps of floats; those in EXACT round nothing.
UNARY = (
    "torch.tanh({})", "torch.sigmoid({})", "torch.sin({})", "torch.cos({})", "torch.erf({})", "torch.atan({})",
    "F.silu({})",
    "F.gelu({})", "F.gelu({}, approximate='tanh')", "F.elu({})", "F.elu({}, 0.5)", "F.leaky_relu({}, 0.1)",
    "F.hardswish({})",
    "F.hardsigmoid({})", "F.mish({})", "F.softplus({})", "F.softplus({}, beta=2.0, threshold=5.0)", "F.selu({})",
    "F.celu({}, 0.7)",
    "F.softsign({})", "F.logsigmoid({})", "F.tanhshrink({})", "torch.square({})", "{} ** 2", "{} ** 3", "{} ** 2.0",
    "{} * {}", "{} + {}", "torch.exp({}.clamp(max=3.0))", "torch.expm1({}.clamp(-3.0, 2.0))", "torch.exp2({}.clamp(-4, 4))",
    "torch.sinh({}.clamp(-3, 3))", "torch.cosh({}.clamp(-3, 3))", "torch.sqrt({}.abs() + 0.1)",
    "torch.rsqrt({}.abs() + 0.3)",
    "torch.log({}.abs() + 0.5)", "torch.log1p({}.abs())", "torch.log2({}.abs() + 1.5)", "torch.reciprocal({}.abs() + 0.5)",
    "1.0 / ({}.square() + 1)", "({} ** 2 + 1e-3) ** 0.5", "({}.abs() + 0.2) ** -0.5", "({}.abs() + 0.3) ** 1.7",
    "2.0 ** {}.clamp(-3, 3)",
    "{} * torch.sigmoid(1.702 * {})", "0.5 * {} * (1 + torch.erf({} / 1.4142135623730951))",
    "0.5 * {0} * (1 + torch.tanh(0.7978845608028654 * ({0} + 0.044715 * torch.pow({0}, 3))))",
    "{} * torch.tanh(F.softplus({}))",
    "{} * 0.5", "{} - 1.5", "3 - {}", "{} / 3", "1.5 - {} * 2", "{} * -1", "torch.add({}, 1, alpha=2)",
    "torch.rsub({}, 1.0)",
    "torch.tan({}.clamp(-1, 1))", "torch.asin({}.clamp(-0.9, 0.9))", "torch.acos({}.clamp(-0.9, 0.9))", "torch.asinh({})",
    "torch.acosh({}.abs() + 1.5)", "torch.atanh({}.clamp(-0.9, 0.9))", "torch.erfc({})", "torch.log10({}.abs() + 0.5)",
    "torch.special.expit({})", "torch.logit({}.clamp(0.1, 0.9))", "torch.sinc({})", "torch.logaddexp({}, {} * 0.5)",
    "torch.deg2rad({})", "torch.frac({} * 0.1)", "torch.special.xlog1py({}, 2.0)", "F.rrelu({})",
    "torch.xlogy({}, 3.0)", "torch.pow({}, 2)", "{}.float() * 1e-2", "torch.lerp({}, {} * 2, 0.3)",
)  # fmt: skip
EXACT = (
    "-{}", "torch.abs({})", "torch.relu({})", "F.relu6({})", "torch.floor({})", "torch.ceil({})", "torch.round({})",
    "torch.trunc({})", "torch.sign({})", "torch.clamp({}, -1.0, 1.0)", "torch.clamp({}, min=0.25)",
    "{}.clamp_max(0.5)", "F.hardtanh({}, -0.5, 1.5)",
    "F.hardshrink({}, 0.4)", "torch.nan_to_num({})", "{}.clone()", "{}.contiguous()", "{}.detach()",
    "F.threshold({}, 0.3, -1.0)",
    "F.dropout({}, 0.5, self.training)", "{}.clamp(min=-2)", "torch.maximum({}, torch.zeros_like({}))",
)  # fmt: skip
INTEGER = (
    "-{}", "torch.abs({})", "torch.sign({})", "{} // 3", "{} % 3", "{} * 2", "{} + 1", "5 - {}", "{} & 3", "{} | 4",
    "{} ^ 1", "~{}",
    "torch.relu({})", "{}.clamp(0, 2)", "{}.clamp(min=1)", "{} ** 2", "torch.remainder({}, 4)", "torch.fmod({}, 3)",
    "{} << 1", "{} >> 1", "torch.gcd({}, torch.full_like({}, 4))", "torch.div({}, 2, rounding_mode='trunc')",
    "torch.div({}, 2, rounding_mode='floor')", "torch.bitwise_not({})", "{} * {}",
)  # fmt: skip
MIXED = (
    "{} / 2",
    "{} * 0.5",
    "{} + 1.5",
    "torch.exp({}.clamp(-3, 3))",
    "torch.sqrt({}.abs())",
    "torch.sigmoid({})",
    "2.5 - {}",
)
COMPARE = ("{} > 0", "{} >= 0.25", "{} < {} * 0.5 + 0.1", "{} == 1", "{} != 0", "{} <= -0.3", "torch.isnan({})",
           "torch.isfinite({})",
           "torch.logical_not({})", "{}.ge(1)", "torch.isinf({})")  # fmt: skip


def written(g: Grower, texts: tuple[str, ...], x: Val, exact: bool) -> Val:
    text = g.pick.choice(texts)
    names = [x.name] * text.count("{}")
    return g.add(text.format(*names) if names else text.format(x.name), x, exact=exact)


def unary(g: Grower, x: Val) -> Val:
    if x.dtype is torch.bool:
        return written(
            g,
            ("~{}", "torch.logical_not({})", "{}.float()", "{}.long()", "{} ^ True", "{}.int() * 2", "1 - {}.float()"),
            x,
            True,
        )
    if not x.is_float:
        return written(g, INTEGER, x, True) if g.pick.random() < 0.75 else written(g, MIXED, x, False)
    if g.pick.random() < 0.3:
        return written(g, EXACT, x, True)
    return written(g, UNARY, x, False)


def cast(g: Grower, x: Val) -> Val:
    """To another element type; where a number does not fit, C++ and torch may do as they like, so it has to."""
    kinds = [torch.float32] * 4 + [
        torch.bfloat16,
        torch.float16,
        torch.float64,
        torch.int64,
        torch.int32,
        torch.int8,
        torch.uint8,
        torch.bool,
    ]
    to = g.pick.choice(kinds)
    if x.is_float and to in (torch.int8, torch.uint8):
        low, high = (0, 255) if to is torch.uint8 else (-128, 127)
        if any(float(t.min()) < low or float(t.max()) > high for lanes in x.data for t in lanes):
            raise Rejected("out of range")
    if g.special and x.is_float and not to.is_floating_point and to is not torch.bool:
        raise Rejected("NaN is no integer")
    if to is x.dtype:
        raise Rejected("nothing to do")
    narrow = to in (torch.bfloat16, torch.float16) or (to is torch.float32 and x.dtype is torch.float64)
    text = {
        torch.float32: "{}.float()",
        torch.int64: "{}.long()",
        torch.int32: "{}.int()",
        torch.bool: "{}.bool()",
    }.get(to)
    if text is None or g.pick.random() < 0.5:
        text = "{}.to(" + NAMES[to] + ")"
    return g.add(text.format(x.name), x, exact=not (narrow and x.inexact))


def peer(g: Grower, x: Val, same_type: bool = False) -> Val:
    """Something that broadcasts with ``x``."""
    fit = [v for v in g.pool if v is not x and broadcasts(v, x) and (v.dtype is x.dtype or not same_type)]
    if fit and g.pick.random() < 0.7:
        return g.pick.choice(fit[-8:])
    axes = [x.size(a) for a in range(x.rank)][g.pick.choice([0, 0, 0, 1]) :]
    shape: list[int | str] = []
    for sizes in axes:
        if g.pick.random() < 0.25:
            shape.append(1)
        elif len(set(sizes)) == 1:
            shape.append(sizes[0])
        else:
            found = symbol_of(g, sizes)
            shape.append(found or 1)
    dtype = x.dtype
    if not same_type and g.pick.random() < 0.3:
        dtype = g.pick.choice([torch.float32, torch.int64, torch.int32, torch.bfloat16, torch.bool])
    if dtype in FLOATS and g.pick.random() < 0.25 and all(isinstance(d, int) for d in shape) and dtype is torch.float32:
        name = g.parameter(*[int(d) for d in shape])
        return g.add(f"{name} * 1.0", keep=False)
    return g.input(dtype, shape, *((0, 2) if dtype is torch.bool else (-3, 4)))


def symbol_of(g: Grower, sizes: tuple[int, ...]) -> str | None:
    """The dynamic dimension that has these sizes."""
    for name in ("b", "s"):
        if tuple(env[name] for env in g.envs) == sizes:
            return name
    return None


def broadcasts(a: Val, b: Val) -> bool:
    pairs = zip(reversed(a.shape), reversed(b.shape), strict=False)
    return all(p == q or set(p) == {1} or set(q) == {1} for p, q in pairs)


def binary(g: Grower, x: Val) -> Val:
    y = peer(g, x)
    a, b = (x.name, y.name) if g.pick.random() < 0.7 else (y.name, x.name)
    both_bool = x.dtype is torch.bool and y.dtype is torch.bool
    whole = not x.is_float and not y.is_float
    if both_bool:
        text = g.pick.choice(
            [
                "{} & {}",
                "{} | {}",
                "{} ^ {}",
                "torch.logical_and({}, {})",
                "torch.logical_or({}, {})",
                "{} == {}",
                "{} + {}",
            ]
        )
    elif whole:
        text = g.pick.choice(["{} + {}", "{} - {}", "{} * {}", "torch.maximum({}, {})", "torch.minimum({}, {})",
                              "{} & {}", "{} | {}", "{} ^ {}",
                              "{} // ({}.abs() + 1)", "{} % ({}.abs() + 2)", "{} / ({}.abs() + 1)"])  # fmt: skip
    else:
        text = g.pick.choice(["{} + {}", "{} + {}", "{} - {}", "{} * {}", "{} * {}", "torch.maximum({}, {})",
                              "torch.minimum({}, {})",
                              "{} / ({}.abs() + 0.5)", "torch.add({}, {}, alpha=2)", "torch.sub({}, {}, alpha=3)",
                              "torch.atan2({}, {}.abs() + 0.5)",
                              "torch.fmod({}, {}.abs() + 1.5)", "torch.remainder({}, {}.abs() + 1.5)",
                              "{} - {} * 0.5", "({}.abs() + 0.3) ** {}.clamp(-2, 2)",
                              "torch.where({0} > {1}, {0}, {1} * 2)", "torch.lerp({0}, {1}, 0.25)",
                              "torch.addcmul({0}, {0}, {1}, value=0.5)",
                              "torch.addcdiv({0}, {0}, {1}.abs() + 1.0)", "torch.hypot({}, {})", "F.silu({}) * {}",
                              "F.gelu({}) * {}",
                              "{} * torch.sigmoid({})"])  # fmt: skip
    if "sigmoid" in text and not y.is_float:
        raise Rejected("the sigmoid of integers is rounded to float32, whatever the result is")
    exact = (whole and "/ (" not in text.replace("//", "")) or "imum" in text
    return g.add(text.format(a, b), x, y, exact=exact)


def compare(g: Grower, x: Val) -> Val:
    if g.pick.random() < 0.5:
        text = g.pick.choice(COMPARE)
        return g.add(text.format(*[x.name] * text.count("{}")), x, exact=not x.inexact)
    y = peer(g, x)
    return g.add(f"{x.name} {g.pick.choice(['>', '<', '>=', '<=', '==', '!='])} {y.name}", x, y, exact=True)


def select(g: Grower, x: Val) -> Val:
    """``where``, ``masked_fill`` and sums with a mask."""
    masks = [v for v in g.pool if v.dtype is torch.bool and broadcasts(v, x)]
    mask = g.pick.choice(masks) if masks and g.pick.random() < 0.8 else compare(g, x)
    if not broadcasts(mask, x):
        raise Rejected("the mask does not fit")
    kind = g.pick.choice(["where", "scalar", "fill", "fill", "times", "add"])
    if kind == "where":
        y = peer(g, x)
        return g.add(f"torch.where({mask.name}, {x.name}, {y.name})", mask, x, y, exact=True)
    if kind == "scalar":
        return g.add(
            f"torch.where({mask.name}, {x.name}, {g.pick.choice(['0.0', '-1', '2', '0.5'])})", mask, x, exact=True
        )
    if kind == "fill":
        return g.add(f"{x.name}.masked_fill({mask.name}, {g.pick.choice([0, -1, 3])})", x, mask, exact=True)
    if kind == "times":
        return g.add(f"{x.name} * {mask.name}", x, mask, exact=True)
    return g.add(f"{x.name} + (1.0 - {mask.name}.float()) * -10.0", x, mask)


def in_place(g: Grower, x: Val) -> Val:
    """A write to a fresh tensor, or to a part of it."""
    if x.rank and g.pick.random() < 0.5:
        at = g.pick.choice(["0", "-1", "..., 0", "..., -1", "..., :1"])
        what = g.pick.choice(["0", "1", f"{x.name}[{at}] * 2"])
        return g.write(x, "{0}[" + at + "] = " + what)
    ops = ["{0}.mul_(2)", "{0} += 1", "{0}.clamp_(min=0)", "{0}.add_({0})", "{0} -= 3", "{0}.zero_()", "{0}.fill_(2)"]
    if x.is_float:
        ops += [
            "{0}.relu_()",
            "{0}.sigmoid_()",
            "{0} *= 0.5",
            "{0} /= 3",
            "F.relu({0}, inplace=True)",
            "F.silu({0}, inplace=True)",
        ]
    y = peer(g, x, same_type=True)
    if broadcasts(y, x) and y.rank <= x.rank:
        ops += [f"{{0}} += {y.name}", f"{{0}}.mul_({y.name})", f"{{0}}.copy_({y.name})"]
    return g.write(x, g.pick.choice(ops), y)


def sized(g: Grower, x: Val) -> Val:
    """A size as a number."""
    if not x.rank:
        raise Rejected("no sizes")
    dim = x.dim(g.pick.randrange(x.rank))
    words = ["{} * {}", "{} + {}", "{} - {}"] + (
        ["{} / {}", "{} * {} ** -0.5", "{} / math.sqrt({})"] if x.is_float else ["{} % ({} + 1)"]
    )
    return g.add(g.pick.choice(words).format(x.name, dim), x, exact=not x.is_float)
