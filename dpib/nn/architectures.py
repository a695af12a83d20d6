"""What can be said of the three classifiers: their depths and widths. Read without torch, as every configuration is."""

from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from dpib.section import Positive, Section

# oneDNN's strided 1x1 convolution never returns for fewer than eight channels stored last, on CPUs with AVX2.
Width = Annotated[int, Field(gt=0, multiple_of=8)]


def _form(rest: int, each: int) -> AfterValidator:
    """Return the check of a depth that must be each n + rest."""

    def check(depth: int) -> int:
        blocks_of(depth, rest, each)
        return depth

    return AfterValidator(check)


class ResNet(Section):
    """CIFAR-style ResNet with basic blocks; depth = 6 n + 2."""

    depth: Annotated[Positive, _form(2, 6)]
    width: Width = 16


class WideResNet(Section):
    """Wide ResNet; depth = 6 n + 4."""

    depth: Annotated[Positive, _form(4, 6)]
    widen: Positive
    dropout: float = Field(default=0.0, ge=0, lt=1)


class ResNeXt(Section):
    """CIFAR-style ResNeXt with three bottlenecks of depth = 9 n + 2."""

    depth: Annotated[Positive, _form(2, 9)]
    cardinality: Positive
    widen: Positive
    width: Width = 64


class Classifiers(Section):
    """The networks that are trained on the synthetic images; none leaves one out."""

    resnet: ResNet | None
    wrn: WideResNet | None
    resnext: ResNeXt | None

    @model_validator(mode="after")
    def _one_at_least(self) -> Self:
        if all(network is None for network in (self.resnet, self.wrn, self.resnext)):
            raise ValueError("leave at least one of resnet, wrn and resnext")
        return self


def blocks_of(depth: int, extra: int, per_block: int) -> int:
    """Return how many blocks each of a network's three stages has.

    Raises:
        ValueError: when the depth is not of the network's form.
    """
    blocks, rest = divmod(depth - extra, per_block)
    if rest or blocks < 1:
        raise ValueError(f"depth {depth} is not {per_block} n + {extra}")
    return blocks
