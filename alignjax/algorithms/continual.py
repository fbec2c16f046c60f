"""Recipes for streams of preferences: a fast policy that runs ahead of a slow one, and a replay of what has passed."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from alignjax import losses, roles, stages
from alignjax.algorithms.parts import log_probs, policy_and_reference
from alignjax.config import ConfigError, Fn, fn, nearest
from alignjax.pair_layout import all_pairs
from alignjax.ranges import Count, NonNegative, Positive
from alignjax.roles import CopyOf
from alignjax.types import Algorithm, Array, Model, Role


def ofs_dpo(
    model: Model,
    *,
    beta: Positive = 0.1,
    weight: NonNegative = 0.5,
    optimizer: Fn,
    slow_optimizer: Fn,
    start: Any,
    n: Count = 2,
    microbatches: Count = 1,
) -> Algorithm:
    """OFS-DPO, online DPO with fast-slow chasing: "policy" (fast) and "slow" learn the same stream of pairs by DPO at
    two speeds, and the fast one is driven ahead of the slow one (arXiv:2406.05534).

    The chase is DPO of the fast policy with the slow one as its reference: -log S(beta (h_fast - sg h_slow)), which is
    -log S(logit P_fast - logit P_slow) of their probabilities for the pair: a function of the gap of their *log-odds*.
    Its gradient stays alive (beta / 2 where they are level) when DPO's own has vanished, which the paper states of its
    regularizer; it never stops driving the fast policy ahead. The form is our reading of "chasing", the paper's not
    being known to us, and a summary of it (papers.lunadong.com/paper/13744) disagrees: there the gap of the two
    probabilities is minimized. The paper's two policies are LoRA modules over one base: `with_lora` of what this
    returns. Pairs come from the source; no sampling.

    Args:
        model: The network of all policies.
        beta: Scale of the margin, per nat.
        weight: Of the chase.
        optimizer: That of the fast policy.
        slow_optimizer: That of the slow one.
        start: The first value of all policies.
        n: Completions per prompt.
        microbatches: The number of pieces that a scoring pass is cut into.
    """
    # All three losses are one DPO under other roles, so the chase inherits its scale: with the slow policy as the
    # reference it moves the fast one alone, and the slow one still follows its own DPO.
    pair = fn(losses.dpo, beta=beta, pairs=all_pairs(n))
    learn = {
        "fast": pair,
        "slow": pair.replace(role="slow"),
        "chase": fn(losses.weighted, loss=pair.replace(reference="slow"), weight=weight),
    }
    both = policy_and_reference(model, start=start, optimizer=optimizer)
    slow = Role(model, CopyOf("policy"), slow_optimizer)
    state = {"policy": both["policy"], "slow": slow, "reference": both["reference"]}
    return Algorithm(log_probs(), learn, state, microbatches=microbatches)


def cofs_dpo(
    model: Model, *, domains: Count, weights: tuple[NonNegative, ...] | None = None, field: str = "domain", **parts: Any
) -> Algorithm:
    """COFS-DPO, fast-slow chasing across domains: OFS-DPO whose fast policy is remembered for every domain, and a role
    "combined" that serves a linear combination of them (arXiv:2406.05534). Over `with_lora` these are adapters, and the
    combination is that of the weight changes that they stand for.

    The role "domain0", ... follows the policy while its domain makes up most of a batch.

    Args:
        model: The network of all policies.
        domains: The number of domains.
        weights: Those of the combination, equal unless given; they live in the state of "combined".
        field: batch.prompts[field] [B] is the domain of a prompt, from 0.
        **parts: See `ofs_dpo`.
    """
    algorithm = ofs_dpo(model, **parts)
    names = tuple(f"domain{k}" for k in range(domains))
    memory = {
        name: Role(model, CopyOf("policy"), rule=fn(roles.while_domain, of="policy", domain=k, field=field))
        for k, name in enumerate(names)
    }
    shares = (1 / domains,) * domains if weights is None else tuple(weights)
    combined = Role(model, roles.value(fn(_weights, weights=shares)), build=fn(roles.combined, of=names))
    return dataclasses.replace(algorithm, roles={**algorithm.roles, **memory, "combined": combined})


def _weights(key: jax.Array, *, weights: tuple[float, ...]) -> dict[str, Array]:
    return {"weights": jnp.array(weights)}


def with_replay(
    algorithm: Algorithm,
    *,
    slots: Count,
    rows: Count,
    max_age: Count,
    prompt_tokens: Count,
    n: Count,
    max_tokens: Count,
    weight: NonNegative = 1.0,
    loss: str = "pair",
    reference: str | None = "reference",
) -> Algorithm:
    """The algorithm with a replay beside its fresh samples: the loss named `loss` also reads `rows` judged examples of
    at most `max_age` iterations ago, times `weight`.

    Pairs come back with the weights that they had, so that one without a label stays without. They are samples of past
    policies: on them IPO aims at the best response to those, and not to the present one. Memory and draws are part of
    the state: a resumed run replays what an uninterrupted one would.

    Args:
        algorithm: An algorithm of self-play.
        slots: How many prompts are remembered, by example_id modulo slots.
        rows: Remembered examples per iteration.
        max_age: Iterations after which an example is no longer replayed.
        prompt_tokens: The length of the batch's prompts in tokens.
        n: Its completions per prompt.
        max_tokens: Their length in tokens.
        weight: Of the replayed loss.
        loss: The name of the loss that is replayed.
        reference: The role whose log-probs are remembered with the examples, which must therefore be frozen. None
            remembers none: whatever the loss asks for is scored again, by roles as they are now.

    Raises:
        ConfigError: That role moves, or there is none of that name.
    """
    # The stored examples keep the log-probs of the reference: it is frozen, so they never age and a replayed example
    # costs no pass through it. That is also why the view "replay" can reuse the loss unchanged.
    prompt, tokens, pairs = (prompt_tokens,), (n, max_tokens), (n, n)
    fields = {"prompt": (prompt, "int32"), "prompt_valid": (prompt, "bool"), "tokens": (tokens, "int32")}
    fields |= {"valid": (tokens, "bool"), "mask": (tokens, "float32"), "preference": (pairs, "float32")}
    fields["pair_weight"] = (pairs, "float32")
    if reference is not None:
        fields[f"logps/{reference}"] = (tokens, "float32")
        still = roles.unchanging(algorithm.roles)
        if reference not in still:
            raise ConfigError(
                f"with_replay(reference={reference!r}) remembers log-probs of a role that "
                f"{'moves' if reference in algorithm.roles else 'does not exist'}; write reference=None to have "
                f"replayed examples scored again.{nearest(reference, still)}"
            )
    memory = Role(None, roles.memory(slots, **fields), rule=fn(roles.remember))
    replayed = losses.on("replay", fn(losses.weighted, loss=algorithm.losses[loss], weight=weight))
    return dataclasses.replace(
        algorithm,
        experience={**algorithm.experience, "recall": fn(stages.recall, rows=rows, max_age=max_age)},
        losses={**algorithm.losses, "replay": replayed},
        roles={**algorithm.roles, "memory": memory},
    )
