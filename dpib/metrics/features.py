"""Image embeddings for fidelity metrics: one pass over the images, shared by all metrics, cached by content."""

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from tqdm import tqdm

from dpib import seeding
from dpib.atomic import replacing
from dpib.errors import UserError
from dpib.nn.weights import read_weights
from dpib.paths import written_path

_BLOCK = 1000


@dataclass(frozen=True)
class Features:
    """`pool` float32 [n, d], and `logits` float32 [n, classes] where the network has a classifier head."""

    pool: Tensor
    logits: Tensor | None = None

    def __len__(self) -> int:
        return len(self.pool)


@dataclass(frozen=True)
class Embedding:
    """A frozen network: `prefix` opens the names of its metrics, `identity` is the digest of its weights."""

    prefix: str
    identity: str
    network: Callable[[Tensor], tuple[Tensor, ...]]
    has_logits: bool


def random_embedding(device: torch.device) -> Embedding:
    """Return a fixed random convolutional network, 256 features (Naeem et al. 2020, section 4.3).

    It costs milliseconds and knows no natural images. Its figures compare with each other and with
    nothing else, hence the prefix `fidelity_random`.
    """
    with seeding.seeded(0, "random embedding"):
        layers: list[nn.Module] = []
        for inside, outside in ((3, 32), (32, 64), (64, 64)):
            conv = nn.Conv2d(inside, outside, 5, stride=2, padding=2)
            nn.init.orthogonal_(conv.weight, gain=2**0.5)
            layers += [conv, nn.ReLU()]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten()).to(device).eval()

    def embed(x: Tensor) -> tuple[Tensor, ...]:
        return (network(x.to(device).float() / 127.5 - 1),)

    return Embedding("fidelity_random", _digest(network.state_dict()), embed, has_logits=False)


def inception_embedding(weights: Path | None, device: torch.device) -> Embedding:
    """Return the FID Inception (2015-12-05) as torch-fidelity runs it: 2048 features, and logits if it has them.

    Args:
        weights: a state dict under torch-fidelity's names (.pth or .safetensors); None lets torch-fidelity
            download its own.
        device: where it runs.

    Raises:
        UserError: when the file is missing, unsafe to load, or not this network's.
        OSError: when the download fails.
    """
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    names = ["2048", "logits_unbiased"]
    if weights is None:
        network = FeatureExtractorInceptionV3("inception-v3-compat", names)
    else:
        state = read_weights(weights)
        # torch-fidelity unpickles whatever it is given: give it tensors and nothing else, in memory.
        safe = io.BytesIO()
        torch.save(state, safe)
        safe.seek(0)
        try:
            network = FeatureExtractorInceptionV3("inception-v3-compat", names, feature_extractor_weights_path=safe)
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{weights} does not hold torch-fidelity's Inception weights: {reason}") from None
    head = bool(torch.isfinite(network.fc.weight).all())
    identity = _digest(network.state_dict())
    # Two changes that leave the features as they are but for rounding (below 1e-5) and almost halve the time on CPUs.
    _fold_normalisation(network)
    network = network.to(device).to(memory_format=torch.channels_last)
    return Embedding("fidelity", identity, lambda x: network(x.to(device)), head)


def _fold_normalisation(network: nn.Module) -> None:
    """Put the fixed scale and shift of every batch normalisation into the convolution before it, in place."""
    for module in network.modules():
        conv, norm = getattr(module, "conv", None), getattr(module, "bn", None)
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            module.conv, module.bn = fuse_conv_bn_eval(conv, norm), nn.Identity()


def weights_file(name: str) -> Path:
    """Return the path of a file of Inception weights.

    Raises:
        UserError: when there is no such file.
    """
    path = written_path(name)
    if not path.is_file():
        fault = "are a folder" if path.is_dir() else "do not exist"
        raise UserError(f"Inception weights {path} {fault}: give eval.inception_weights a file, or none")
    return path


def extract(embedding: Embedding, x: Tensor, batch: int, cache: Path, label: str) -> Features:
    """Return the features of uint8 images [n, 1 or 3, h, w] (gray is repeated to RGB).

    Finished blocks of 1000 images are kept in `cache` under the digest of their pixels, so that an
    interrupted pass goes on where it was, and changed images are never mistaken for old ones.
    """
    blocks = []
    for start in tqdm(range(0, len(x), _BLOCK), desc=f"features of {label}", unit="k", disable=None, leave=False):
        block = x[start : start + _BLOCK].contiguous()
        path = cache / f"{embedding.identity[:16]}-{hashlib.sha256(block.numpy().data).hexdigest()}.safetensors"
        if not path.is_file():
            parts = [embedding.network(_rgb(piece)) for piece in block.split(batch)]
            named = dict(zip(("pool", "logits"), map(torch.cat, zip(*parts, strict=True)), strict=False))
            with replacing(path) as temporary:
                save_file({k: v.float().cpu().contiguous() for k, v in named.items()}, temporary)
        blocks.append(load_file(path))
    pool = torch.cat([b["pool"] for b in blocks])
    return Features(pool, torch.cat([b["logits"] for b in blocks]) if embedding.has_logits else None)


def _rgb(x: Tensor) -> Tensor:
    return x.expand(-1, 3, -1, -1) if x.shape[1] == 1 else x


def _digest(state: dict[str, Tensor]) -> str:
    sha = hashlib.sha256()
    for name, value in sorted(state.items()):
        sha.update(name.encode())
        sha.update(value.detach().cpu().contiguous().numpy().tobytes())
    return sha.hexdigest()
