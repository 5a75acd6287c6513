"""The thesis's sentences as tests: what a measurement says of each, and the verdict on a row.

    interval = Interval(-0.8, -0.95, -0.4)
    answer(interval, threshold=0, sign=-1)  # "holds": the whole interval lies below zero
    verdict(["holds", "undecided"], protocol_met=False)  # "holds at smaller scale"? no: "undecided"
"""

from collections.abc import Sequence

ANSWERS = ("holds", "fails", "undecided")
VERDICTS = ("reproduced", "holds at smaller scale", "mixed", "contradicted", "fails at smaller scale", "undecided",
            "shown", "not tested", "measured")


def verdict(answers: Sequence[str], *, protocol_met: bool) -> str:
    """The verdict on a row from the answers to its claims and whether the thesis's protocol was followed.

    "shown" (a demonstration or a proof), "not tested" (data that nobody can get here) and "measured" (the thesis only
    proposed it) are not computed: they say that there is no statistic. Raises ValueError for an unknown answer and for
    none at all.
    """
    if not answers or not {*answers} <= {*ANSWERS}:
        raise ValueError(f"answers {list(answers)}: expected at least one, each of {', '.join(ANSWERS)}")
    holds, fails = "holds" in answers, "fails" in answers
    if holds and fails:
        return "mixed"
    if fails:
        return "contradicted" if protocol_met else "fails at smaller scale"
    if "undecided" in answers:
        return "undecided"
    return "reproduced" if protocol_met else "holds at smaller scale"
