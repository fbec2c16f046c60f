"""Named recipes: stages, losses and roles put together. A recipe is a function that returns an `Algorithm`; change any
part of what it returns.

Offline methods are the online ones without `generate` and `prefer`, because their source filled those fields; IPO-MD is
online IPO with another behavior. Everything that samples takes a model, a judge and its roles, an optimizer, a start
and max_tokens, so the same call plays a game (`**games.parts(game)`) and trains a language model.
"""

from alignjax.algorithms.adapters import with_lora as with_lora
from alignjax.algorithms.clipped import (
    bnpo as bnpo,
    cispo as cispo,
    dapo as dapo,
    dr_grpo as dr_grpo,
    gdpo as gdpo,
    grpo as grpo,
    gspo as gspo,
    luspo as luspo,
    sapo as sapo,
    vespo as vespo,
)
from alignjax.algorithms.coevolving import eva as eva, rival as rival
from alignjax.algorithms.constrained import safe_rlhf as safe_rlhf
from alignjax.algorithms.continual import cofs_dpo as cofs_dpo, ofs_dpo as ofs_dpo, with_replay as with_replay
from alignjax.algorithms.distilled import distillation as distillation
from alignjax.algorithms.exploration import (
    active_dpo as active_dpo,
    optune as optune,
    selm as selm,
    vpo as vpo,
    xpo as xpo,
)
from alignjax.algorithms.in_rounds import (
    comal as comal,
    dno as dno,
    egpo as egpo,
    inpo as inpo,
    mnpo as mnpo,
    onpo as onpo,
    rounds as rounds,
    spin as spin,
    sppo as sppo,
)
from alignjax.algorithms.offline import (
    dpo as dpo,
    ipo as ipo,
    labelled_samples as labelled_samples,
    offline as offline,
    preference_model as preference_model,
    reward_model as reward_model,
    sft as sft,
    slic as slic,
    vpo_offline as vpo_offline,
    with_losses as with_losses,
)
from alignjax.algorithms.online import (
    ipo_md as ipo_md,
    iterated_dpo as iterated_dpo,
    nash_ema as nash_ema,
    nash_md as nash_md,
    oaif as oaif,
    online as online,
    online_dpo as online_dpo,
    online_ipo as online_ipo,
    online_slic as online_slic,
    osp as osp,
    self_play_pg as self_play_pg,
)
from alignjax.algorithms.ppo import ppo as ppo, ppo_max as ppo_max, ppo_ptx as ppo_ptx
from alignjax.algorithms.rewarded import (
    maxrl as maxrl,
    policy_gradient as policy_gradient,
    raft as raft,
    reinforce_pp as reinforce_pp,
    remax as remax,
    rloo as rloo,
)
