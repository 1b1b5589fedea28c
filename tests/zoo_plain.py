"""Programs of plain torch.nn, as users write them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Spec:
    """A module, how to call it with (batch, length), and what may vary: input -> {axis: ``batch`` or ``seq``}."""

    module: Callable[[], nn.Module]
    call: Callable[[int, int], dict[str, Tensor]]
    dynamic: Mapping[str, Mapping[int, str]]
    layers: int = 0


def _generator(batch: int, seq: int) -> torch.Generator:
    return torch.Generator().manual_seed(batch * 100 + seq)


def features(*shape: int | str, name: str = "x") -> Callable[[int, int], dict[str, Tensor]]:
    """Random floats; ``batch`` and ``seq`` in ``shape`` are filled in."""

    def make(batch: int, seq: int) -> dict[str, Tensor]:
        sizes = [{"batch": batch, "seq": seq}[s] if isinstance(s, str) else s for s in shape]
        return {name: torch.randn(sizes, generator=_generator(batch, seq))}

    return make


class Mlp(nn.Module):
    """A perceptron on table rows."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(13, 40), nn.BatchNorm1d(40), nn.ReLU(), nn.Dropout(0.2), nn.Linear(40, 24), nn.Tanh(),
            nn.Linear(24, 3),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).softmax(-1)


class Cnn(nn.Module):
    """A small image classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(2),
            nn.Conv2d(8, 20, 3, stride=2, bias=False), nn.BatchNorm2d(20), nn.LeakyReLU(0.1, inplace=True),
            nn.AdaptiveAvgPool2d(1),
        )  # fmt: skip
        self.head = nn.Linear(20, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.flatten(self.features(x), 1))


class UNet(nn.Module):
    """Down, up with transposed convolution and bilinear resampling, and skips across."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.down = self._block(3, 8), self._block(8, 12)
        self.deep = self._block(12, 16)
        self.up = nn.ConvTranspose2d(16, 12, 2, stride=2)
        self.merge, self.last = self._block(24, 8), self._block(16, 8)
        self.head = nn.Conv2d(8, 2, 1)

    @staticmethod
    def _block(inputs: int, outputs: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, padding=1), nn.GroupNorm(4, outputs), nn.SiLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1), nn.ReLU(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        first = self.enter(x)
        second = self.down(F.max_pool2d(first, 2))
        deep = self.deep(F.avg_pool2d(second, 2))
        second = self.merge(torch.cat([self.up(deep), second], dim=1))
        wide = F.interpolate(second, scale_factor=2, mode="bilinear", align_corners=False)
        return self.head(self.last(torch.cat([wide, first], dim=1)))


class Recurrent(nn.Module):
    """Token ids through a recurrent network of a fixed length; the mean over time is classified."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 12)
        if kind == "lstm":
            self.network: nn.Module = nn.LSTM(12, 16, num_layers=2, bidirectional=True, batch_first=True)
        else:
            self.network = nn.GRU(12, 16, batch_first=True)
        self.head = nn.Linear(32 if kind == "lstm" else 16, 5)

    def forward(self, input_ids: Tensor) -> Tensor:
        steps, _ = self.network(self.embedding(input_ids))
        return self.head(steps.mean(1))


class Encoder(nn.Module):
    """nn.TransformerEncoder with learned positions and a padding mask."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.positions = nn.Embedding(50, 32), nn.Embedding(64, 32)
        layer = nn.TransformerEncoderLayer(32, 4, 48, activation="gelu", batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x = self.embedding(input_ids) + self.positions(torch.arange(input_ids.shape[1], device=input_ids.device))
        return self.layers(x, src_key_padding_mask=attention_mask == 0)


class Vae(nn.Module):
    """A variational auto-encoder: at inference the mean is decoded."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 8, 4, 2, 1), nn.ELU(), nn.Conv2d(8, 12, 4, 2, 1), nn.ELU(), nn.Flatten()
        )
        self.mean, self.log_variance = nn.Linear(12 * 16, 6), nn.Linear(12 * 16, 6)
        self.decoder = nn.Sequential(
            nn.Linear(6, 12 * 16), nn.Unflatten(1, (12, 4, 4)), nn.ConvTranspose2d(12, 8, 4, 2, 1), nn.Softplus(),
            nn.ConvTranspose2d(8, 1, 3, 2, 1, output_padding=1), nn.Sigmoid(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        hidden = self.encoder(x)
        mean, log_variance = self.mean(hidden), self.log_variance(hidden)
        return self.decoder(mean), mean, torch.exp(0.5 * log_variance)


class SqueezeExcite(nn.Module):
    """Depthwise separable convolutions whose channels are weighted by what the whole image holds."""

    def __init__(self) -> None:
        super().__init__()
        self.expand = nn.Sequential(nn.Conv2d(3, 12, 1, bias=False), nn.BatchNorm2d(12), nn.SiLU())
        self.depthwise = nn.Sequential(
            nn.Conv2d(12, 12, 3, padding=1, groups=12, bias=False), nn.BatchNorm2d(12), nn.Hardswish()
        )
        self.squeeze, self.excite = nn.Conv2d(12, 4, 1), nn.Conv2d(4, 12, 1)
        self.project = nn.Conv2d(12, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.depthwise(self.expand(x))
        weight = self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(y, 1))))
        return x + self.project(y * torch.sigmoid(weight))


class Recommender(nn.Module):
    """Bags of ids of varying length, summed, beside dense features: the pairwise products decide."""

    def __init__(self) -> None:
        super().__init__()
        self.items = nn.EmbeddingBag(60, 16, mode="mean")
        self.user = nn.Embedding(30, 16)
        self.dense = nn.Sequential(nn.Linear(7, 16), nn.ReLU())
        self.head = nn.Sequential(nn.Linear(16 + 3, 20), nn.ReLU(), nn.Linear(20, 1))

    def forward(self, items: Tensor, user: Tensor, x: Tensor) -> Tensor:
        parts = torch.stack([self.items(items), self.user(user), self.dense(x)], dim=1)
        products = torch.bmm(parts, parts.transpose(1, 2))
        row, column = torch.tril_indices(3, 3, offset=-1)
        return torch.sigmoid(self.head(torch.cat([parts[:, 2], products[:, row, column]], dim=1))).squeeze(1)


def ids(*shape: int | str, high: int, name: str) -> Callable[[int, int], dict[str, Tensor]]:
    """Random integers below ``high``."""

    def make(batch: int, seq: int) -> dict[str, Tensor]:
        sizes = [{"batch": batch, "seq": seq}[s] if isinstance(s, str) else s for s in shape]
        return {name: torch.randint(0, high, sizes, generator=_generator(batch, seq))}

    return make


def _tokens(batch: int, seq: int) -> dict[str, Tensor]:
    mask = torch.ones(batch, seq, dtype=torch.int64)
    mask[-1, seq // 2 + 1 :] = 0
    return {**ids("batch", "seq", high=50, name="input_ids")(batch, seq), "attention_mask": mask}


def _visit(batch: int, seq: int) -> dict[str, Tensor]:
    return {
        **ids("batch", 5, high=60, name="items")(batch, seq), **ids("batch", high=30, name="user")(batch, seq),
        **features("batch", 7)(batch, seq),
    }  # fmt: skip


_ROWS = {"x": {0: "batch"}}

SPECS: dict[str, Spec] = {
    "mlp": Spec(Mlp, features("batch", 13), _ROWS),
    "cnn": Spec(Cnn, features("batch", 1, 20, 20), _ROWS),
    "unet": Spec(UNet, features("batch", 3, 16, 16), _ROWS),
    "lstm": Spec(lambda: Recurrent("lstm"), ids("batch", 11, high=50, name="input_ids"), {"input_ids": {0: "batch"}}),
    "gru": Spec(lambda: Recurrent("gru"), ids("batch", 11, high=50, name="input_ids"), {"input_ids": {0: "batch"}}),
    "transformer-encoder": Spec(
        Encoder, _tokens, {"input_ids": {0: "batch", 1: "seq"}, "attention_mask": {0: "batch", 1: "seq"}}, layers=2
    ),
    "vae": Spec(Vae, features("batch", 1, 16, 16), _ROWS),
    "squeeze-excite": Spec(SqueezeExcite, features("batch", 3, 12, 12), _ROWS),
    "recommender": Spec(Recommender, _visit, {name: {0: "batch"} for name in ("items", "user", "x")}),
}
