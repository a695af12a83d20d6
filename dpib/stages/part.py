"""Part: fit a network that methods share to public images, at no privacy cost."""

from dpib import checkpoint
from dpib.errors import UserError
from dpib.images import set_digest
from dpib.overlap import absolute
from dpib.paths import written_path
from dpib.privacy.ledger import SOURCES, Public
from dpib.public import read_public
from dpib.stages.build import FINAL, make_part, part_settings
from dpib.stages.context import Context
from dpib.stages.taken import from_file, sources


def fit_part(context: Context, name: str) -> dict[str, float]:
    """Write `checkpoints/final.safetensors` of the part, fitted to `config.public` or taken from its `file`.

    Raises:
        UserError: when there is no such part, and nothing to fit it to.
    """
    config = context.config
    part = make_part(name, config, context.card, context.device, context.world)
    settings = part_settings(config, name)
    if settings.file is not None:
        given = written_path(settings.file)
        part.load_state_dict(checkpoint.load(given))
        found, images = sources(given), 0
        context.log.say(f"part {name}: as it is in {given.name}")
    else:
        public = read_public(require_public(config.public, name), context.card.shape, config.data_root)
        context.log.say(f"part {name}: {len(public)} public images of {config.public}")
        part.fit(public, context.log)
        found, images = [Public(name=absolute(str(config.public)), digest=set_digest(public))], len(public)
        if settings.weights is not None:
            found.append(from_file(written_path(settings.weights)))
    checkpoint.save(context.artifacts / FINAL, part.state_dict(), public=SOURCES.dump_json(found).decode())
    return {"part/images": float(images)}


def require_public(public: str | None, name: str) -> str:
    """Return the public set, without which the part `name` cannot be fitted.

    Raises:
        UserError: when there is none.
    """
    if public is None:
        raise UserError(
            f"part {name} is fitted to public images: give -P public=<data set or image folder>, or "
            f"-P parts.{name}.file=<checkpoint of such a part>"
        )
    return public
