"""What an audit found, and how it is reported."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

Layer = Literal["sensitivity", "noise", "canary", "ledger", "black box"]

_WORDS = """An audit looks for faults; it proves no privacy. The promise rests on the mechanisms and their accounting. A
failed line means that the code does not do what the ledger says: do not release anything that it made. Membership
attacks and distances to training images are weaker still, and passing them proves nothing."""


@dataclass(frozen=True)
class Finding:
    """One check of one release: the figure, what it may be, and whether it is that."""

    release: str
    layer: Layer
    check: str
    value: float
    allowed: str
    passed: bool


def failed(findings: Sequence[Finding]) -> list[Finding]:
    """Return the findings that did not pass."""
    return [finding for finding in findings if not finding.passed]


def as_json(findings: Sequence[Finding]) -> str:
    """Return the findings as JSON text."""
    return json.dumps([asdict(finding) for finding in findings], indent=2)


def as_markdown(title: str, findings: Sequence[Finding], remarks: Sequence[str] = ()) -> str:
    """Return the findings as a table under a verdict in words, and `remarks` on how they were come by."""
    wrong = failed(findings)
    verdict = f"**{len(wrong)} of {len(findings)} checks failed.**" if wrong else f"All {len(findings)} checks passed."
    lines = [f"# Privacy audit: {title}", "", verdict, "", _WORDS, ""]
    lines += [line for remark in remarks for line in (remark, "")]
    lines += ["| release | layer | check | found | allowed | |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {f.release} | {f.layer} | {f.check} | {f.value:.5g} | {f.allowed} | {'ok' if f.passed else '**FAILED**'} |"
        for f in findings
    ]
    return "\n".join([*lines, ""])
