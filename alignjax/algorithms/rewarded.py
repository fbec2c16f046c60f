"""Recipes that learn from a reward of the policy's own samples, or from a judge of them, by the score function itself;
`clipped.py` has those that bound ratios.

Every recipe takes `reward=`, a stage that fills `reward`, or `judge=`, a pairwise judge: the win rate within the group
is then the reward.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alignjax import losses, stages
from alignjax.algorithms.parts import SelfPlay, log_probs
from alignjax.config import ConfigError, Fn, fn, functions_within
from alignjax.ranges import Count, NonNegative
from alignjax.types import Algorithm, Model


def policy_gradient(
    model: Model,
    *,
    loss: Fn,
    advantage: Mapping[str, Fn],
    reward: Fn | Mapping[str, Fn] | None = None,
    judge: Fn | None = None,
    n: Count = 8,
    drop_unfinished: bool = False,
    drop_ties: bool = False,
    beside: Mapping[str, Fn] | None = None,
    epochs: Count = 1,
    minibatches: Count = 1,
    **parts: Any,
) -> Algorithm:
    """Policy gradient on groups: n samples a prompt, a reward or the win rate of each, advantages, and a loss of them
    (arXiv:2402.03300 section 4.1); every other recipe from rewards is this one.

    Args:
        model: The network of the policy.
        loss: `fn(losses.surrogate, ...)`, or `fn(losses.reinforce, ...)`, which makes its own advantages.
        advantage: The stages between the reward and the loss: `{"advantage": fn(stages.pass_at_k, k=4)}`.
        reward: A stage that fills `reward`: `fn(stages.text_reward, function=...)`, or `fn(stages.reward)` with the
            reward model in `judges`; or several stages by name.
        judge: In its place, a judge of pairs: `fn(stages.preference_model, role=...)`, `fn(stages.text_judge, ...)`.
        n: Samples per prompt.
        drop_unfinished: Leaves out samples that no stop token ended, see `stages.drop_unfinished`.
        drop_ties: Leaves out prompts whose rewards are all one, see `stages.drop_ties`.
        beside: Further losses by name: `{"entropy": fn(losses.entropy_bonus, coefficient=0.01)}`.
        epochs: Passes over the same samples.
        minibatches: Optimizer steps in each.
        **parts: `judges` (the roles that the reward or judge reads), `optimizer`, `start`, `max_tokens`, `microbatches`
            and `stop`, see `parts.SelfPlay`.

    Raises:
        ConfigError: For a reward and a judge, or neither.
    """
    play = SelfPlay(model, judge=judge, **parts)
    experience = {"generate": play.sample(n), **rated(reward, judge)}
    if drop_unfinished:
        experience["drop_unfinished"] = fn(stages.drop_unfinished, stop=play.stop)
    if drop_ties:
        experience["drop_ties"] = fn(stages.drop_ties)
    learned = {loss.name: loss, **(beside or {})}
    return _learned(play, learned, experience, advantage, epochs=epochs, minibatches=minibatches)


def rated(reward: Fn | Mapping[str, Fn] | None, judge: Fn | None) -> dict[str, Fn]:
    """Make the stages that give every sample a reward.

    Args:
        reward: A stage that fills it, or several by name that do together.
        judge: In its place a judge of pairs, whose win rates within the group it is.

    Raises:
        ConfigError: For both, or neither.
    """
    if (reward is None) == (judge is None):
        given = "neither was given" if reward is None else "both were given"
        raise ConfigError(
            f"a recipe from rewards takes reward= (a stage that scores each sample) or judge= (which compares them; "
            f"the reward is then the win rate within the group), one of the two; {given}"
        )
    if reward is not None:
        return dict(reward) if isinstance(reward, Mapping) else {"reward": reward}
    return {"prefer": fn(stages.prefer, judge=judge), "reward": fn(stages.win_rate_against)}


def filed(rewards: Mapping[str, Mapping[str, Fn]]) -> dict[str, Fn]:
    """Make the stages of several rewards, each filed (`stages.keep_reward`) before the next one is made, so that any
    stage may make it.

    Args:
        rewards: The stages that make each, by its name.
    """
    made = {}
    for name, each in rewards.items():
        made |= {f"{stage}_{name}": function for stage, function in each.items()}
        made[f"keep_{name}"] = fn(stages.keep_reward, name=name)
    return made


def _learned(
    play: SelfPlay, learned: Mapping[str, Fn], before: Mapping[str, Fn], after: Mapping[str, Fn], **steps: int
) -> Algorithm:
    """The algorithm, with a reference only if a loss has a KL or a stage reads one. Its log-probs stand behind what
    changes the completions and before the advantages."""
    parts = (*learned.values(), *after.values())
    has_kl = any(each.kwargs.get("reference") and each.kwargs.get("kl", True) for each in functions_within(parts))
    roles = {**(play.policy_and_reference() if has_kl else play.policy()), **play.judges}
    return play.algorithm({**before, **(log_probs() if has_kl else {}), **after}, learned, roles, **steps)


def rloo(
    model: Model,
    *,
    reward: Fn | None = None,
    judge: Fn | None = None,
    tau: NonNegative = 0.05,
    n: Count = 8,
    **options: Any,
) -> Algorithm:
    """REINFORCE leave-one-out: a policy gradient on the reward of n samples a prompt, each against the mean of the
    others, with a KL towards the reference (arXiv:2402.14740). `grpo` also divides by their standard deviation.

    Unbiased, by enumeration in tests/stages/test_advantage.py; the KL is the exact one of sequences. RLOO-N is
    drop_unfinished=True with drop_ties=True: samples that were cut off are in no baseline, and prompts whose rewards
    are all one do not count. TRL's RLOO puts the KL in the reward and clips the ratio of whole sequences, 1 here.

    Args:
        model: The network of the policy.
        reward: See `policy_gradient`.
        judge: See `policy_gradient`. Win rates then have the mean 1/2, so this is N / (N - 1) times self-play.
        tau: Strength of the KL, in units of the reward per nat.
        n: Samples per prompt, at least 2.
        **options: See `policy_gradient`.
    """
    loss = fn(losses.reinforce, tau=tau, leave_one_out=True)
    return policy_gradient(model, loss=loss, advantage={}, reward=reward, judge=judge, n=n, **options)


def raft(model: Model, *, reward: Fn | None = None, judge: Fn | None = None, n: Count = 8, **options: Any) -> Algorithm:
    """Reward-ranked fine-tuning, online best-of-n distillation: likelihood of the best of n samples of each prompt
    (RAFT, arXiv:2304.06767).

    Where all that a policy can say is sampled often enough, a step goes towards best-of-n of the present policy, and no
    KL holds it back: it sharpens for as long as it runs. The paper samples once for many steps (`epochs`), and the best
    over the whole batch may be kept too (`losses.filtered_mle`).

    Args:
        model: The network of the policy.
        reward: See `policy_gradient`.
        judge: See `policy_gradient`; the best is then who wins most against the others.
        n: Samples per prompt.
        **options: See `policy_gradient`.
    """
    best = {"best": fn(stages.ranked, keep=1)}
    return policy_gradient(model, loss=fn(losses.sft), advantage=best, reward=reward, judge=judge, n=n, **options)


def remax(
    model: Model,
    *,
    reward: Fn | None = None,
    judge: Fn | None = None,
    tau: NonNegative = 0.05,
    n: Count = 1,
    **parts: Any,
) -> Algorithm:
    """ReMax: REINFORCE with the reward of the greedy answer for a baseline (arXiv:2310.10505 section 4), which costs
    one more sample a prompt; unbiased, since nothing that is sampled moves it.

    With a judge the reward is the probability of beating the greedy answer, less 1/2. The paper's KL is a penalty in
    the reward, token by token; here it is the exact one of sequences.

    Args:
        model: The network of the policy.
        reward: See `policy_gradient`.
        judge: See `policy_gradient`.
        tau: Strength of the KL, in units of the reward per nat.
        n: Samples per prompt beside the greedy one.
        **parts: As of `policy_gradient`, from `judges` on.
    """
    play, stage = SelfPlay(model, judge=judge, **parts), rated(reward, judge)
    scored = {**stage, "baseline": fn(stages.less_last)}
    if judge is not None:
        scored = {**stage, "reward": fn(stages.win_rate_against, own=n)}
    greedy = play.sample(1).replace(temperature=0.0)
    loss = fn(losses.reinforce, tau=tau, baseline=0.0 if judge is None else 0.5)
    return _learned(play, {loss.name: loss}, {"generate": play.sample(n), "greedy": greedy, **scored}, {})


def maxrl(
    model: Model,
    *,
    reward: Fn | None = None,
    judge: Fn | None = None,
    baseline: bool = True,
    n: Count = 8,
    **options: Any,
) -> Algorithm:
    """MaxRL: the advantage is (r - mean) / mean of the prompt's rewards, which are not negative (arXiv:2602.02710): a
    policy gradient towards log pass@1 and not pass@1, so that hard prompts count more.

    For rewards of 0 and 1 the expected gradient is that of sum_k pass@k / k, k up to n without and n - 1 with the
    baseline, by enumeration. Tokens are added up and divided by max_tokens, which is this gradient in other units.

    Args:
        model: The network of the policy.
        reward: See `policy_gradient`.
        judge: See `policy_gradient`.
        baseline: Takes the mean off.
        n: Samples per prompt.
        **options: See `policy_gradient`.
    """
    stage = fn(stages.group_advantage, baseline="mean" if baseline else "none", scale="mean")
    whole = fn(losses.constant_length, length=options["max_tokens"])
    loss = fn(losses.surrogate, bound=fn(losses.no_bound), reduction=whole)
    return policy_gradient(model, loss=loss, advantage={"advantage": stage}, reward=reward, judge=judge, n=n, **options)


def reinforce_pp(
    model: Model,
    *,
    reward: Fn | None = None,
    judge: Fn | None = None,
    tau: NonNegative = 0.01,
    epsilon: NonNegative = 0.2,
    baseline: bool = False,
    n: Count = 1,
    **options: Any,
) -> Algorithm:
    """REINFORCE++: the reward less the KL still to come, whitened over all tokens of the batch, in PPO's clipped ratio
    (arXiv:2501.03262 section 3), without a critic and with as few as one sample a prompt.

    Whitening divides by a number of the whole batch, so that no prompt counts more for its rewards being close.

    Args:
        model: The network of the policy.
        reward: See `policy_gradient`.
        judge: See `policy_gradient`; it needs n > 1.
        tau: Strength of the KL in the reward, in units of the reward per nat.
        epsilon: How far a ratio is followed to both sides.
        baseline: First takes the mean of the prompt's rewards off (the paper's variant for n > 1).
        n: Samples per prompt.
        **options: See `policy_gradient`.
    """
    stage = fn(stages.batch_advantage, beta=tau, baseline="mean" if baseline else "none")
    loss = fn(losses.surrogate, bound=fn(losses.ppo_clip, epsilon=epsilon))
    return policy_gradient(model, loss=loss, advantage={"advantage": stage}, reward=reward, judge=judge, n=n, **options)
