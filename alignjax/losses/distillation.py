"""Distillation: a student learns the distributions of a teacher, over the whole vocabulary, at the tokens of samples.

Numbers are read where logits are, in chunks, so that no array of B N T V elements is made. The teacher is a role like
any other, with the student's vocabulary.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp

from alignjax.config import ConfigError
from alignjax.losses import reads
from alignjax.losses.decorators.sequences import completion_weights, mask_of, scored
from alignjax.numerics import masked_sum
from alignjax.ranges import Within
from alignjax.types import Array, Batch, Context, Mean, Metrics, Read


def _kl(p: Array, q: Array) -> Array:
    """KL(p to q) [..] of log-probs [..,V], in nats; a token that p rules out adds nothing."""
    there = jnp.exp(p) > 0
    return jnp.sum(jnp.where(there, jnp.exp(p) * (jnp.where(there, p, 0) - jnp.where(there, q, 0)), 0), axis=-1)


def _both(outputs: Mapping[str, Array]) -> tuple[Array, Array]:
    """Log-probs [..,V] of student and teacher."""
    student, teacher = (reads.log_softmax(logits) for logits in outputs.values())
    return student, teacher


def _reverse_kl(outputs: Mapping[str, Array], token: Array) -> dict[str, Array]:
    """Reads {"kl": KL(student to teacher)} of the logits of (student, teacher)."""
    student, teacher = _both(outputs)
    return {"kl": _kl(student, teacher)}


def _forward_kl(outputs: Mapping[str, Array], token: Array) -> dict[str, Array]:
    """Reads {"kl": KL(teacher to student)} of the logits of (student, teacher)."""
    student, teacher = _both(outputs)
    return {"kl": _kl(teacher, student)}


@dataclasses.dataclass(frozen=True, eq=False)
class _JensenShannon:
    """Reads {"kl": beta KL(q to m) + (1 - beta) KL(p to m)}, m = beta q + (1 - beta) p, of the logits of (student p,
    teacher q). Two are one read if their beta is the same object, which may be traced."""

    beta: Any

    def __call__(self, outputs: Mapping[str, Array], token: Array) -> dict[str, Array]:
        student, teacher = _both(outputs)
        middle = jnp.logaddexp(jnp.log(self.beta) + teacher, jnp.log1p(-self.beta) + student)
        return {"kl": self.beta * _kl(teacher, middle) + (1 - self.beta) * _kl(student, middle)}

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, _JensenShannon) and self.beta is other.beta

    def __hash__(self) -> int:
        return id(self.beta)


def check_teacher(context: Context, role: str, teacher: str) -> None:
    """Checks that a role can teach another: it stays as it is, or moves by a rule, and numbers the same vocabulary.

    Raises:
        ConfigError: It is trained, so that it would learn from its student; or they have different numbers of tokens.
    """
    roles = {name: context.roles.get(name) for name in (role, teacher)}
    if getattr(roles[teacher], "optimizer", None) is not None:
        raise ConfigError(f"role {teacher!r} is trained and would learn from its student; take a frozen one")
    models = {name: getattr(each, "model", None) for name, each in roles.items()}
    sizes = {name: getattr(getattr(model, "config", None), "vocab", None) for name, model in models.items()}
    said = {name: size for name, size in sizes.items() if isinstance(size, int)}
    if len(set(said.values())) > 1:
        have = " and ".join(f"role {name!r} has {size:,} tokens" for name, size in said.items())
        raise ConfigError(
            f"{have}; distributions over tokens are compared, so take a teacher with the student's tokenizer"
        )


def gkd(
    context: Context,
    batch: Batch,
    *,
    divergence: Literal["forward", "reverse", "jensen_shannon"] = "jensen_shannon",
    beta: Within = 0.5,
    role: str = "policy",
    teacher: str = "teacher",
) -> tuple[Mean, Metrics]:
    """Generalized knowledge distillation: mean over tokens of D(q, p), p the student's and q the teacher's next token,
    D = KL(q to p), KL(p to q) or beta KL(q to m) + (1-beta) KL(p to m), m = beta q + (1-beta) p (arXiv:2306.13649).

    Samples are constants, whoever wrote them: the gradient leaves out how the student's tokens choose what it is
    compared at. On samples of the teacher "forward" has the expected gradient of the KL of whole sequences; on those of
    the student "reverse" has not, `minillm` has.

    Args:
        context: Scores both roles.
        batch: Completions [B,N,T].
        divergence: D; "jensen_shannon" divided by beta (by 1 - beta) tends to "forward" ("reverse") where that tends to
            0.
        beta: The teacher's share of m, read by "jensen_shannon" alone.
        role: The student.
        teacher: The teacher, of one vocabulary with it; no role that is trained.

    Returns:
        The mean over the tokens that count, in nats; `kl`, the same number.

    Raises:
        ConfigError: The teacher has another vocabulary, or is trained.
    """
    check_teacher(context, role, teacher)
    known: dict[str, Read] = {"forward": _forward_kl, "reverse": _reverse_kl}
    distance = context.score((role, teacher), batch, known.get(divergence, _JensenShannon(beta)))["kl"]
    mean = Mean.of(distance, mask_of(batch) * completion_weights(batch)[..., None])
    return mean, {"kl": mean}


def minillm(context: Context, batch: Batch, *, role: str = "policy", teacher: str = "teacher") -> tuple[Mean, Metrics]:
    """MiniLLM: sum_t [KL_t + sg(sum of KL_s over s > t) log p(y_t)], KL_t = KL(p to q) of token t over the vocabulary,
    p the student and q the teacher (arXiv:2306.08543 eq. 5).

    On fresh samples of the student, at temperature 1 and untruncated, its expected gradient is that of KL(p to q) of
    whole sequences; its value is not. The KL of later tokens is summed over the vocabulary where the paper samples it.
    The paper's other parts (length normalization of what follows, samples of a mixture with the teacher, a
    pretraining loss) are not in it.

    Args:
        context: Scores both roles.
        batch: Samples [B,N,T] of the student.
        role: The student.
        teacher: The teacher, of one vocabulary with it; no role that is trained.

    Returns:
        The mean over completions in nats; `kl`, an unbiased estimate of the KL of whole sequences.

    Raises:
        ConfigError: The teacher has another vocabulary, or is trained.
    """
    check_teacher(context, role, teacher)
    mask, weight = mask_of(batch), completion_weights(batch)
    step = context.score((role, teacher), batch, _reverse_kl)["kl"]
    logps = scored(context, batch, role)
    here = jnp.where(mask != 0, step, 0) * mask
    later = jax.lax.stop_gradient(jnp.cumsum(here[..., ::-1], axis=-1)[..., ::-1] - here)
    kl = jnp.sum(here, axis=-1)
    return Mean.of(kl + masked_sum(later * logps, mask.astype(here.dtype)), weight), {"kl": Mean.of(kl, weight)}
