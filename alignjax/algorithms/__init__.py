"""Named recipes: stages, losses and roles put together. A recipe is a function that returns an `Algorithm`; change any
part of what it returns.

Offline methods are the online ones without `generate` and `prefer`, because their source filled those fields; IPO-MD is
online IPO with another behaviour. Everything that samples takes a model, a judge and its roles, an optimizer, a start
and max_tokens, so the same call plays a game (`**games.parts(game)`) and trains a language model.
"""

from alignjax.algorithms.adapters import with_lora
from alignjax.algorithms.adversarial import eva, rival
from alignjax.algorithms.continual import cofs_dpo, ofs_dpo, with_replay
from alignjax.algorithms.exploration import active_dpo, optune, selm, vpo, xpo
from alignjax.algorithms.in_rounds import comal, dno, egpo, inpo, mnpo, onpo, rounds, spin, sppo
from alignjax.algorithms.offline import (
    dpo,
    ipo,
    labelled_samples,
    offline,
    preference_model,
    reward_model,
    sft,
    slic,
    vpo_offline,
    with_losses,
)
from alignjax.algorithms.online import (
    ipo_md,
    iterated_dpo,
    nash_ema,
    nash_md,
    oaif,
    online,
    online_dpo,
    online_ipo,
    online_slic,
    osp,
    self_play_pg,
)

__all__ = [
    "active_dpo",
    "cofs_dpo",
    "comal",
    "dno",
    "dpo",
    "egpo",
    "eva",
    "inpo",
    "ipo",
    "ipo_md",
    "iterated_dpo",
    "labelled_samples",
    "mnpo",
    "nash_ema",
    "nash_md",
    "oaif",
    "offline",
    "ofs_dpo",
    "online",
    "online_dpo",
    "online_ipo",
    "online_slic",
    "onpo",
    "optune",
    "osp",
    "preference_model",
    "reward_model",
    "rival",
    "rounds",
    "self_play_pg",
    "selm",
    "sft",
    "slic",
    "spin",
    "sppo",
    "vpo",
    "vpo_offline",
    "with_lora",
    "with_losses",
    "with_replay",
    "xpo",
]
