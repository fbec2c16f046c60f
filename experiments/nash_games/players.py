"""Every algorithm as one line: the recipe with its numbers, how fast it learns, and where it is said to rest."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from resting_points import BETA, VPO, XPO
from six_games import MIX, TAU, TabularGame

from alignjax import algorithms as al, games, losses, roles, stages
from alignjax.config import fn
from alignjax.games.table_policy import context_number
from alignjax.pair_layout import all_pairs
from alignjax.sampling import own
from alignjax.train.optimizers import sgd
from alignjax.types import Algorithm, Batch, Context, Key, Model, Role

EPOCHS, ROUND = 20, 8  # steps of a round in expectation; iterations of a round on samples
ROWS = 64  # prompts of a sampled iteration
STEPS = {"expected": 4096, "sampled": 1024}
NEVER = 10**9  # a renewal that does not come


@dataclasses.dataclass(frozen=True)
class Method:
    """recipe, numbers: what is played. claim: a name of `resting_points.CLAIMS`, or None. rates: of gradient descent in
    expectation (None: not enumerable) and on samples, where it falls to 0 unless `constant`. rounds: each fits a step
    from the policy before; in expectation a round is an iteration, on samples it is ROUND of them. free: it aims at the
    game without regularisation. mix: the weight of the reference in what it samples. population: a role against whose
    whole policy, not a sample, win rates are taken; in expectation only, or everywhere. drawn: labels are, on samples.
    taught: the equilibrium's texts are given."""

    label: str
    recipe: Callable[..., Algorithm]
    numbers: dict[str, Any]
    claim: str | None
    expected: float | None
    sampled: float
    rounds: bool = False
    free: bool = False
    mix: float = 0.0
    population: str | None = None
    everywhere: bool = False
    drawn: bool = True
    constant: bool = False
    taught: bool = False


def rated(context: Context, batch: Batch, key: Key, *, against: str, role: str = "game") -> Batch:
    """Fills reward [B,N]: the probability of beating the whole policy of a role, which no number of samples gives."""
    assert batch.tokens is not None
    policy = jax.nn.softmax(context.params(against)["logits"])
    wins = jnp.einsum("xij,xj->xi", context.state[role]["preference"], policy)
    return batch.replace(reward=wins[context_number(batch)[:, None], batch.tokens[:, :, 0]])


def algorithm(method: Method, game: TabularGame, mode: str, steps: int) -> Algorithm:
    """The method on a game: "expected", every pair enumerated, or "sampled", with labels drawn too; `steps`
    iterations of it."""
    exact = mode == "expected"
    rate = method.expected if exact else method.sampled
    falls = {} if exact or method.constant else {"schedule": "linear", "total_steps": steps}
    parts: dict[str, Any] = {**games.parts(game), "optimizer": fn(sgd, learning_rate=rate, **falls)}
    if not exact and method.drawn:
        parts["judge"] = fn(stages.bernoulli, judge=parts["judge"])
    if method.rounds:
        parts |= {"sync_every": 1, "epochs": EPOCHS} if exact else {"sync_every": ROUND}
    made = method.recipe(games.table_policy(game), **method.numbers, **parts)
    if method.population and (exact or method.everywhere):
        made = _against_population(made, method.population)
    if method.taught:
        made = _taught(made, game)
    return games.exact(made, game.language) if exact else made


def _taught(made: Algorithm, game: TabularGame) -> Algorithm:
    """The algorithm with a text of the source in front of its samples, drawn from the game's equilibrium."""
    logits = games.conditionals(game.language, games.nash(game)[None])
    teacher = Role(games.table_policy(game), roles.value(lambda key: {"logits": jnp.asarray(logits)}))
    text = fn(
        stages.generate,
        n=1,
        max_tokens=game.language.length,
        behaviour=fn(own, stream="teacher"),
        stop=game.language.stop,
    )
    return dataclasses.replace(
        made, experience={"text": text, **made.experience}, roles={**made.roles, "teacher": teacher}
    )


def _against_population(made: Algorithm, role: str) -> Algorithm:
    """The algorithm whose win rates are those against a role's whole policy."""
    stages_ = {name: fn(rated, against=role) if name == "win_rate" else stage
               for name, stage in made.experience.items() if name != "opponent"}  # fmt: skip
    return dataclasses.replace(made, experience=stages_)


def dno(model: Model, *, eta: float, n: int = 4, **parts: Any) -> Algorithm:
    """DNO whose win rates stand in `reward`, those against a population or, at n = 2, of the pair itself; the recipe
    of the library estimates them on the other samples of a prompt."""
    labels = {"win_rate": fn(stages.win_rate_against), "soft": fn(stages.prefer_by_reward)}
    fit = fn(losses.dpo, beta=eta, reference="previous", pairs=all_pairs(n))
    return al.rounds(model, losses={"pair": fit}, n=n, labels=labels, **parts)


IPO, ONLINE = 0.2, 0.1  # rates of gradient descent on IPO's square, in expectation and on samples
DPO = 8 / BETA**2  # the logistic loss is so much flatter,
SLIC = 1 / (TAU * BETA)  # the hinge
PG = 4 / TAU  # and the policy gradient
FIT, SAMPLED_FIT = 0.5, 0.3  # rates of a round's fit of a square
NASH, MIXED, FREE = "pi*(tau)", "mixture at pi*(tau/(1-b))", "equilibrium without tau"
STEP = {"eta": 2.0, "c": TAU / 2}  # INPO's: steps of 1/2 of a game regularized by tau = c eta
ROUND_DPO = 8.0  # beta of rounds of DPO: steps of 4 / beta = 1/2
ITERATED = 8 / ROUND_DPO**2

METHODS: dict[str, Method] = {
    "online_ipo": Method("online IPO", al.online_ipo, {"tau": TAU}, NASH, IPO, ONLINE),
    "online_ipo_constant": Method(
        "online IPO, fixed step", al.online_ipo, {"tau": TAU}, NASH, None, ONLINE, constant=True
    ),
    "self_play_pg": Method("self-play PG", al.self_play_pg, {"tau": TAU}, NASH, IPO * PG, ONLINE * PG),
    "spo": Method("SPO, queue of 16", al.self_play_pg, {"tau": TAU, "pool": 16}, NASH, IPO * PG / 4, ONLINE * PG),
    "egpo": Method("EGPO", al.egpo, {"tau": TAU}, NASH, IPO, ONLINE, population="opponent"),
    "nash_ema": Method("Nash-EMA-PG", al.nash_ema, {"tau": TAU, "decay": 0.9}, NASH, IPO * PG / 4, ONLINE * PG),
    "inpo": Method("INPO", al.inpo, STEP, NASH, FIT, SAMPLED_FIT, rounds=True),
    "mnpo": Method("MNPO, 2 opponents", al.mnpo, {**STEP, "history": 2}, NASH, FIT, SAMPLED_FIT, rounds=True),
    "ipo_md": Method("IPO-MD", al.ipo_md, {"tau": TAU, "beta": MIX}, MIXED, IPO, ONLINE, mix=MIX),
    "nash_md": Method(
        "Nash-MD-PG", al.nash_md, {"tau": TAU, "beta": MIX, "n": 2}, MIXED, IPO * PG, ONLINE * PG, mix=MIX
    ),
    "ipo_md_retuned": Method(
        "IPO-MD at tau(1-b)",
        al.ipo_md,
        {"tau": TAU * (1 - MIX), "beta": MIX},
        "mixture at pi*(tau)",
        IPO,
        ONLINE,
        mix=MIX,
    ),
    "online_dpo": Method("online DPO", al.online_dpo, {"beta": BETA}, "logistic point", IPO * DPO, ONLINE * DPO),
    "oaif": Method(
        "OAIF (verdicts)",
        al.oaif,
        {"loss": fn(losses.dpo, beta=BETA)},
        "logistic point of verdicts",
        IPO * DPO,
        ONLINE * DPO,
        drawn=False,
    ),
    "online_slic": Method("online SLiC", al.online_slic, {"beta": BETA}, None, IPO * SLIC, ONLINE * SLIC),
    "best_response": Method(
        "RL against mu (b = 1)", al.nash_md, {"tau": TAU, "beta": 1.0}, "best response to mu", IPO * PG, ONLINE * PG
    ),
    "offline_dpo": Method(
        "offline DPO, mu's pairs",
        al.online_dpo,
        {"beta": BETA, "sync_every": NEVER},
        "Bradley-Terry maximiser",
        IPO * DPO,
        ONLINE * DPO,
    ),
    "onpo": Method("ONPO", al.onpo, {"eta": 0.5}, FREE, FIT, SAMPLED_FIT, rounds=True, free=True),
    "comal": Method(
        "COMAL", al.comal, {"eta": 2.0, "c": TAU, "outer": 20}, FREE, FIT, SAMPLED_FIT, rounds=True, free=True
    ),
    "sppo": Method(
        "SPPO", al.sppo, {"eta": 0.5, "completions": "all"}, FREE, 2 * FIT, 2 * SAMPLED_FIT, rounds=True, free=True
    ),
    "dno": Method(
        "DNO",
        dno,
        {"eta": 2.0},
        FREE,
        2 * FIT,
        2 * SAMPLED_FIT,
        rounds=True,
        free=True,
        population="previous",
        everywhere=True,
    ),
    "dno_samples": Method(
        "DNO, pairs rate",
        dno,
        {"eta": 2.0, "n": 2},
        "equilibrium of S(2P-1) without tau",
        2 * FIT,
        2 * SAMPLED_FIT,
        rounds=True,
        free=True,
        drawn=False,
    ),
    "iterated_dpo": Method(
        "iterated DPO",
        al.iterated_dpo,
        {"beta": ROUND_DPO},
        FREE,
        FIT * ITERATED,
        SAMPLED_FIT * ITERATED,
        rounds=True,
        free=True,
    ),
    "selm": Method(
        "SELM",
        al.selm,
        {"beta": ROUND_DPO, "alpha": 0.002},
        None,
        None,
        SAMPLED_FIT * ITERATED,
        rounds=True,
        free=True,
    ),
    "xpo": Method(
        "XPO",
        al.xpo,
        {"loss": fn(losses.dpo, beta=BETA), "alpha": XPO},
        "logistic point, pairs with mu",
        None,
        ONLINE * DPO,
    ),
    "vpo": Method("VPO", al.vpo, {"beta": BETA, "alpha": VPO}, "logistic point with bonus", None, ONLINE * DPO),
    "active_dpo": Method(
        "active DPO, 1/4 labelled",
        al.active_dpo,
        {"beta": BETA, "count": ROWS // 4, "width": 1.0},
        None,
        None,
        ONLINE * DPO,
    ),
    "optune": Method(
        "OPTune, half anew",
        al.optune,
        {"beta": BETA, "count": ROWS // 2, "slots": ROWS, "score": fn(rated, against="reference")},
        None,
        None,
        ONLINE * DPO,
    ),
    "spin": Method(
        "SPIN on pi*(tau)",
        al.spin,
        {"loss": fn(losses.dpo, beta=ROUND_DPO)},
        NASH,
        None,
        SAMPLED_FIT * ITERATED,
        rounds=True,
        taught=True,
    ),
    "osp": Method("OSP", al.osp, {"beta": BETA}, None, None, ONLINE * DPO),
}

# What a game of one context, with a judge and nothing else, gives no meaning to.
ELSEWHERE = {
    "RIVAL": "its reward model is trained on a strong text of the source and on shared tokens; no judge enters",
    "eva": "chooses prompts; with one prompt it is the loss that it is given, online DPO",
    "OFS-DPO, COFS-DPO": "learn a stream of pairs that the source gives, over domains that change; where nothing "
    "changes, pairs of mu lead both of its speeds to the point of offline DPO",
}
