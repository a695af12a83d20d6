"""The ledger in words that the owner of the data understands: `privacy/statement.md`."""

from collections.abc import Sequence

from dpib.privacy import accounting
from dpib.privacy.accounting import Total
from dpib.privacy.events import Event
from dpib.privacy.ledger import Account, Public

_NEIGHBOURS = {
    "zero_out": "one image with its label is replaced by a null record that contributes nothing",
    "replace_one": "one image with its label is replaced by any other",
}
_PUBLIC = (
    "the number of images, their positions and the split by position, the list of classes, the image size, "
    "every configuration key, and the public data sets and weights that were used"
)
_DISJOINT = ". They are disjoint, so the total is the larger of their epsilons."
_OVERLAPPING = (
    ". It is not known that they are disjoint (the training saw other images under this name, or was done elsewhere), "
    "so the total is that of all releases together."
)
_ACCOUNTANTS = {
    "exact": "in closed form or by plain addition",
    "pld": "by privacy loss distributions",
    "rdp": "by Renyi accounting, an upper bound",
    "prv": "by privacy loss random variables, the upper end of their interval",
}


def render(account: Account) -> str:
    """Return the statement as Markdown."""
    lines = [f"# Privacy statement: {account.dataset}", "", *_verdict(account), ""]
    lines += [
        f"- **Protected unit:** {account.unit}. Who appears in several images is protected for each of them alone.",
        f"- **Neighbouring data sets ({account.relation}):** {_NEIGHBOURS[account.relation]}.",
        f"- **Taken as public:** {_PUBLIC}.",
        "- **Scopes:** "
        + ", ".join(f"{name} ({n} images)" for name, n in account.scopes.items())
        + (_DISJOINT if account.disjoint else _OVERLAPPING),
    ]
    lines += [f"- **Taken as public:** {_public(source)}." for source in account.public]
    selections = [event for event in account.events if event.kind == "noisy_max"]
    tunings = [event for event in account.events if event.kind == "random_stopping"]
    rest = [event for event in account.events if event not in selections and event not in tunings]
    lines += _section("Releases", rest, account, "None.")
    lines += _section("Selection", selections, account, "Nothing was chosen by looking at these images.")
    lines += _section("Tuning", tunings, account, "No search over settings is charged here.")
    lines += ["", "## Total", "", *_totals(account), "", "## Not covered by epsilon", ""]
    lines += [f"- {y.name} ({y.scope} images): {y.what}" for y in account.yardstick] or [
        "Nothing was computed without noise."
    ]
    lines += [
        "",
        "Another run on the same images spends its own budget: the epsilons of separate runs add up, and "
        "settings chosen by comparing runs cost what all of them cost. "
        "Timing and other side channels of the computer that ran this are not covered.",
        "",
    ]
    for other in account.others:
        lines += ["---", "", "What is released here was also learnt from another data set:", "", render(other)]
    return "\n".join(lines)


def _verdict(account: Account) -> list[str]:
    if account.tainted:
        return ["**Not private: the noise came from a fixed seed, which is meant for tests only.**"]
    if not account.events:
        return ["Nothing was released from the sensitive images."]
    total = account.spent()
    return [
        f"The releases below are ({total:.4g}, {account.delta:.3g})-differentially private together, "
        f"within a budget of epsilon = {account.epsilon:g}.",
        "",
        f"In words: whatever anybody concludes from them, they would conclude with at most {_times(total)} times "
        f"the odds if any one image were missing, except with a probability of about {account.delta:.3g}.",
        *(["", f"**Warning:** {warning}."] if (warning := large_delta(account)) else []),
    ]


def _public(source: Public) -> str:
    shared = "; **it is declared to hold images of this data set, which are not protected**" if source.declared else ""
    unseen = "" if source.compared else "; it was not at hand to be compared with the images of this data set"
    return f"{source.name} (digest {source.digest[:12]}){shared}{unseen}"


def large_delta(account: Account) -> str | None:
    """Return a warning where delta exceeds one over the number of images, or None."""
    n = min(account.scopes.values())
    if account.delta * n <= 1:
        return None
    return (
        f"delta {account.delta:.3g} is above 1/{n}, one over the number of images: "
        "publishing one of them whole, chosen at random, would keep this promise as well"
    )


def _times(epsilon: float) -> str:
    return f"e^{epsilon:.3g}"


def _section(title: str, events: Sequence[Event], account: Account, none: str) -> list[str]:
    lines = ["", f"## {title}", ""]
    if not events:
        return [*lines, none]
    lines += ["| release | what it is | mechanism | times | epsilon of it alone |", "|---|---|---|---|---|"]
    for event in events:
        own = accounting.composed([event], account.delta, account.accountant)
        lines.append(f"| {event.id} | {event.label} | {_mechanism(event)} | {event.count} | {own:.4g} |")
    return lines


def _totals(account: Account) -> list[str]:
    totals = accounting.totals(account.events, account.delta, account.accountant)
    if not totals:
        return ["Nothing was spent."]
    lines = [
        "Together the releases of a scope cost less than the sum of their epsilons."
        + ("" if account.disjoint else f" All of them together: {account.spent():.4g}."),
        "",
        "| scope | epsilon spent | how it was computed |",
        "|---|---|---|",
    ]
    return lines + [f"| {scope} | {total.epsilon:.4g} | {_how(total)} |" for scope, total in totals.items()]


def _how(total: Total) -> str:
    return f"{_ACCOUNTANTS[total.accountant]}, for {total.relation} neighbours"


def _mechanism(event: Event) -> str:
    """Return the mechanism with its parameters."""
    if event.kind == "gaussian":
        cap = "" if event.cap is None else f", at most {event.cap} images"
        sampled = "" if event.rate == 1 else f", Poisson sampling rate {event.rate:.4g}{cap}"
        return f"Gaussian, sigma {event.sigma:.4g} times the sensitivity{sampled}"
    if event.kind == "gaussian_wor":
        sigma = f"Gaussian, sigma {event.sigma:.4g} times the largest contribution"
        return f"{sigma}, a fixed share {event.rate:.4g} of the images at a time"
    if event.kind == "laplace":
        return f"Laplace, scale {event.scale:.4g} times the sensitivity"
    if event.kind == "pure":
        return f"epsilon {event.epsilon:.4g} with delta 0"
    if event.stopping is not None:
        trial = "; ".join(f"{_mechanism(e)}, {e.count} time(s)" for e in event.base)
        return f"the best of a random number of trials (about {event.stopping.mean:.3g}), each: {trial}"
    return f"report-noisy-max (Laplace), epsilon {event.epsilon:.4g}"
