"""The small networks of the drawn images as torch-fidelity extractors.

Protocol: a network was trained on drawn images at its own size (32 px for ``shapes``, 64 px for ``scenes``). Distances use its 128
averaged features; the IS-like score uses a classifier's class logits. Protocols name it. It was not trained on photographs, and its
distances must not be compared with Inception's.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from svgbench.metrics.judges import head_widths
from svgbench.metrics.local_extractor import LocalExtractor
from svgbench.nets.classifier import EXTRACTORS, SELF_TAUGHT, ShapesCNN
from svgbench.weights.files import fill, read

NAMES = {f"svgbench-{name}": kind for name, kind in (EXTRACTORS | SELF_TAUGHT).items()}
"""torch-fidelity's names of the extractors -> their networks."""


class DrawnExtractor(LocalExtractor):
    """Features [B, 128] and, of a classifier, logits [B, K] of uint8 images [B, 3, H, W]."""

    LAYERS = ("pooled", "logits")

    def __init__(self, name: str, features_list: list[str], feature_extractor_weights_path: str | Path, **unused: object) -> None:
        super().__init__(name, features_list)
        path = Path(feature_extractor_weights_path)
        state = read(path)
        kind = NAMES[name]
        self.network = kind(**head_widths(state, path)) if issubclass(kind, ShapesCNN) else kind()
        fill(self.network, state, where=str(path))
        self.requires_grad_(False).eval()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """The requested layers, in their order."""
        outputs = self.network(images.float() / 255)
        layers = {"pooled": outputs} if isinstance(outputs, Tensor) else {"pooled": outputs.features, "logits": outputs.logits}
        return tuple(layers[layer] for layer in self.features_list)
