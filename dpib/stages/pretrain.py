"""Pretrain: learn from public images and from what a query released, at no privacy cost of its own."""

from pathlib import Path

from dpib import checkpoint
from dpib.atomic import write_text
from dpib.images import Images, set_digest
from dpib.overlap import absolute, checked
from dpib.privacy import statement
from dpib.privacy.ledger import LEDGER, SOURCES, STATEMENT, Account, Public
from dpib.privacy.lineage import merged
from dpib.public import read_public
from dpib.sensitive import Sensitive
from dpib.stages.build import FINAL, build
from dpib.stages.context import Context
from dpib.stages.solving import spent_metrics
from dpib.stages.taken import together


def pretrain(context: Context, sensitive: Sensitive, queried: Path | None = None) -> dict[str, float]:
    """Write `checkpoints/final.safetensors` of the synthesizer pretrained on `config.public` and the query `queried`.

    The ledger of the query goes on in it.

    Raises:
        UserError: when the public images are the sensitive ones, as far as this machine can tell.
    """
    found = together(context.parts.values())
    public, source = _read(context, sensitive)
    if source is not None:
        found = merged(found, [source])
    synthesizer = build(context)
    metrics = {"pretrain/images": float(len(public) if public is not None else 0)}
    texts = {"public": SOURCES.dump_json(found).decode()}
    if queried is not None:
        synthesizer.load_state_dict(checkpoint.load(queried))
        account = Account.parse(checkpoint.text(queried, "ledger") or "")
        account = account.model_copy(update={"public": merged(account.public, found)})
        # Before the first picture of what was released.
        write_text(context.artifacts / LEDGER, account.text())
        write_text(context.artifacts / STATEMENT, statement.render(account))
        texts, metrics = {"ledger": account.text()}, metrics | spent_metrics(account)
    synthesizer.pretrain(public, context.log)
    checkpoint.save(context.artifacts / FINAL, synthesizer.state_dict(), **texts)
    return metrics


def _read(context: Context, sensitive: Sensitive) -> tuple[Images | None, Public | None]:
    """Return the public images and what they are, compared with the sensitive ones where these are at hand."""
    config = context.config
    if config.public is None:
        return None, None
    public = read_public(config.public, context.card.shape, config.data_root)
    source = Public(name=absolute(config.public), digest=set_digest(public))
    if sensitive.prepared:  # else the training finds it out
        checked(source, sensitive, context.card, config.data_root, config.public_overlap is not None)
    each = public.y.bincount()
    spread = f"{int(each.min())} to {int(each.max())} of each of {len(each)} classes"
    context.log.say(f"pretrain: {len(public)} public images of {config.public}, {spread}")
    return public, source
