"""What the numbers of a report mean: the definitions to which its columns and curves link."""

from __future__ import annotations

from collections.abc import Iterable

# Name and definition by anchor, in the order in which a report lists them.
DEFINITIONS: dict[str, tuple[str, str]] = {
    "interval": (
        "interval",
        "95 % of bootstrap resamples of the prompts have their mean in it. It says how much hangs on the choice of "
        "prompts, not on the seed of training.",
    ),
    "win-rate": (
        "win rate",
        "Mean over prompts of the judge's probability that the answer of the first is better than that of the second; "
        "with hard scoring the share of prompts with a probability above 1/2, ties counted as one half.",
    ),
    "by-judge": (
        "win rate by another judge",
        "The same answers, compared by a judge that does not decide. Where it is above the deciding one's, policies "
        "please this judge more than they should.",
    ),
    "ties": ("ties", "Share of prompts on which the deciding judge says 1/2, to 1e-6."),
    "equal-length": (
        "at equal length",
        "The win rate that a regression on the difference in length reads off where the lengths are equal.",
    ),
    "both-ended": ("where both ended", "The win rate over the prompts on which both answers ended by themselves."),
    "exploitability": (
        "exploitability within this pool",
        "The win rate of that other policy which does best against a player: no best response gets less.",
    ),
    "measure": (
        "measures of the task",
        "Means over prompts of exact functions of the answer, of which no model was asked; shares in %.",
    ),
    "ended": ("ended", "Share of answers that stopped by themselves within the most tokens they may have."),
    "kl": (
        "KL to the reference",
        "KL(policy || reference) of whole completions in nats, estimated without bias from the policy's own samples: "
        "how far it went from where it started.",
    ),
    "rouge-l": ("ROUGE-L", "F1 of the longest common subsequence of words with the human text."),
    "length": ("length", "Mean length of an answer, in the unit of the heading; curves count tokens."),
    "repetition": ("repeated bigrams", "Share of an answer's pairs of words that it has already said."),
    "distinct-2": ("distinct-2", "Distinct pairs of words of all answers, over all their pairs of words."),
    "copied": ("copied", "Share of answers whose words stand in one run in the prompt."),
    "empty": ("empty", "Share of answers without text."),
    "judge-accuracy": (
        "accuracy of a judge",
        "Share of labeled held-out pairs whose better side it prefers; without such pairs, how often it agrees with "
        "the judge that decides on two samples of the baseline.",
    ),
    "agreement": ("agreement", "Share of pairs on which two judges prefer the same side."),
    "length-bias": (
        "length bias",
        "Correlation of the deciding judge's margin with the difference in length; 0: none.",
    ),
    "loss": (
        "loss",
        "What a step lowers: the sum of its losses, each a mean over what it counts (pairs, tokens or completions). "
        "Only values of one loss with the same hyper-parameters compare.",
    ),
    "nats_per_token": ("nats per token", "Mean negative log-prob of the tokens that are learned."),
    "accuracy": (
        "accuracy",
        "Share of the pairs, or completions, of the batch on whose label the model's own margin agrees.",
    ),
    "preference": ("judge's preference", "Mean probability that the judge gives to the policy's side."),
    "kl-logged": (
        "KL, of a curve",
        "A KL in nats that a stage, a loss or a game logs, to the reference unless its docstring names another model: "
        "estimated from completions of the batch, exact in games.",
    ),
    "log_ratio": (
        "log-ratio to the reference",
        "Mean of log pi(y|x) - log pi_ref(y|x) over the completions of the batch, in nats. It is a KL only where the "
        "completions are the policy's own.",
    ),
    "margin": ("margin", "What the loss sees of a pair: by how much it puts the preferred side above the other."),
    "reward": ("reward", "Mean reward of the completions of the batch, in the unit of what rewards them."),
    "entropy": ("entropy", "Mean entropy of the distribution of the next token, in nats."),
    "gradient_norm": ("gradient norm", "Euclidean norm of the gradient of a role, before it is clipped."),
    "judge_confidence": (
        "judge's confidence",
        "Mean probability of the side of a pair that the judge thinks likelier.",
    ),
    "learning_rate": ("learning rate", "What the optimizer multiplies its direction with at this step."),
    "chosen_logps": ("log-prob of the preferred", "Mean log-prob of the preferred completion of a pair, in nats."),
    "rejected_logps": ("log-prob of the other", "Mean log-prob of the other completion of a pair, in nats."),
    "logged": (
        "any other curve",
        "A number that the stage or the loss in front of the slash logs under this name, a mean over the batch; its "
        "docstring says of what.",
    ),
    "wall-clock": ("wall clock", "Seconds from the beginning of a stage to its end, compilation included."),
}
# How the title of a column begins, and what defines it. The first that fits counts.
_COLUMNS = {
    "win rate vs": "win-rate",
    "vs": "win-rate",
    "ties": "ties",
    "at equal length": "equal-length",
    "where both ended": "both-ended",
    "ended": "ended",
    "KL to ref.": "kl",
    "ROUGE-L": "rouge-l",
    "length": "length",
    "repeated bigrams": "repetition",
    "distinct-2": "distinct-2",
    "copied": "copied",
    "empty": "empty",
}
# Curves whose kind has the definition of a column.
_KINDS = {"finished": "ended", "kl": "kl-logged"}


def of_column(title: str) -> str:
    """Returns the anchor of what defines a column of the table of players; of a column of its own, that of measures."""
    if title.startswith("vs ") and " by " in title:
        return "by-judge"
    return next((anchor for begin, anchor in _COLUMNS.items() if title.startswith(begin)), "measure")


def of_curve(kind: str | None) -> str:
    """Returns the anchor of what defines a curve of a kind, as of `learning_curves.kind`."""
    anchor = _KINDS.get(kind or "", kind or "")
    return anchor if anchor in DEFINITIONS else "logged"


def chosen(anchors: Iterable[str]) -> list[tuple[str, str, str]]:
    """Lists (anchor, name, definition) of these anchors, each once, in the order of DEFINITIONS."""
    wanted = set(anchors)
    return [(anchor, *defined) for anchor, defined in DEFINITIONS.items() if anchor in wanted]
