"""The memorisation check of evaluation: an oracle's figure, computed only where it is asked for."""

from dpib.data.catalog import home
from dpib.images import Images
from dpib.metrics.features import Embedding, Features, extract
from dpib.metrics.memorisation import WARNING, memorisation
from dpib.privacy.ledger import Ledger
from dpib.sensitive import Sensitive
from dpib.stages.context import Context
from dpib.stages.fidelity import subset


def check_memorisation(
    context: Context, sensitive: Sensitive, images: Images, ledger: Ledger, embedding: Embedding
) -> dict[str, float]:
    """Return `oracle/memorisation/*` over train and test images, each declared in the statement first."""
    config, settings = context.config, context.config.eval
    chosen = subset(images, settings.max_synthetic, config.seed)
    synthetic = extract(embedding, chosen.x, settings.batch, context.private / "features", "synthetic images")

    def real(split: str) -> Features:
        def embed(found: Images) -> Features:
            part = subset(found, settings.max_real, config.seed)
            return extract(embedding, part.x, settings.batch, home() / "cache" / "features", f"real {split} images")

        what = f"un-noised distances between synthetic and real {split} images (memorisation check; {WARNING})"
        return sensitive.yardstick(split, ledger).measure("oracle/memorisation", what, embed)

    figures = memorisation(synthetic.pool, real("train").pool, real("test").pool)
    context.log.say(
        f"evaluate: memorisation check: {figures['closer_to_train']:.1%} of the synthetic images are closer to a "
        f"training image than to a held-out one (half where nothing was copied); {WARNING}"
    )
    return {f"oracle/memorisation/{name}": value for name, value in figures.items()}
