"""The ledger in words that the owner of the data understands: `privacy/statement.md`."""

from dpib.privacy.events import Event
from dpib.privacy.ledger import Account

_NEIGHBOURS = {
    "zero_out": "one image with its label is replaced by a null record that contributes nothing",
    "replace_one": "one image with its label is replaced by any other",
}
_PUBLIC = (
    "the number of images, their positions and the split by position, the list of classes, the image size, "
    "every configuration key, and the public data sets and weights that were used"
)


def render(account: Account) -> str:
    """Return the statement as Markdown."""
    total = account.spent()
    lines = [f"# Privacy statement: {account.dataset}", ""]
    if account.tainted:
        lines += ["**Not private: the noise came from a fixed seed, which is meant for tests only.**", ""]
    elif not account.events:
        lines += ["Nothing was released from the sensitive images.", ""]
    else:
        lines += [
            f"The releases below are ({total:.4g}, {account.delta:.3g})-differentially private together, "
            f"within a budget of epsilon = {account.epsilon:g}.",
            "",
        ]
    lines += [
        f"- **Protected unit:** {account.unit}. Who appears in several images is protected for each of them alone.",
        f"- **Neighbouring data sets ({account.relation}):** {_NEIGHBOURS[account.relation]}.",
        f"- **Taken as public:** {_PUBLIC}.",
        "- **Scopes:** "
        + ", ".join(f"{name} ({n} images)" for name, n in account.scopes.items())
        + ". They are disjoint, so the total is the larger of their epsilons.",
        "",
        "## Releases",
        "",
    ]
    lines += _releases(account) if account.events else ["None."]
    lines += ["", "## Not covered by epsilon", ""]
    lines += [f"- {y.name} ({y.scope} images): {y.what}" for y in account.yardstick] or [
        "Nothing was computed without noise."
    ]
    lines += [
        "",
        "Another run on the same images spends its own budget: the epsilons of separate runs add up. "
        "Timing and other side channels of the computer that ran this are not covered.",
        "",
    ]
    return "\n".join(lines)


def _releases(account: Account) -> list[str]:
    rows = ["| release | what it is | mechanism | times |", "|---|---|---|---|"]
    rows += [f"| {e.id} | {e.label} | {_mechanism(e)} | {e.count} |" for e in account.events]
    rows += ["", "| scope | epsilon spent |", "|---|---|"]
    rows += [f"| {scope} | {epsilon:.4g} |" for scope, epsilon in account.spent_by_scope().items()]
    return rows


def _mechanism(event: Event) -> str:
    if event.kind == "gaussian":
        sampled = "" if event.rate == 1 else f", Poisson sampling rate {event.rate:.4g}"
        return f"Gaussian, sigma {event.sigma:.4g} times the sensitivity{sampled}"
    return f"report-noisy-max (Laplace), epsilon {event.epsilon:.4g}"
