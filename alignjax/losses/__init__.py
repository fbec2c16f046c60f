"""Losses: pure functions (context, batch) -> (Mean, metrics).

What stands here is public. To add a loss, write one function in the module whose first sentence fits, and add its name
here: `alignjax list`, docs/losses.md, the conformance tests and configs/losses.py find it. `losses.ipo.per_pair(margin,
preference, tau=0.1)` is the bare math of a pairwise one.
"""

from alignjax.losses.anchored import (
    apo_down as apo_down,
    apo_zero as apo_zero,
    bco_pair as bco_pair,
    cal_dpo as cal_dpo,
    dpo_positive as dpo_positive,
    nca as nca,
    sppo_hard as sppo_hard,
)
from alignjax.losses.binary_feedback import (
    apo_zero_unpaired as apo_zero_unpaired,
    bco as bco,
    d2o as d2o,
    kto as kto,
    pointwise_dpo as pointwise_dpo,
    prompt_classifier as prompt_classifier,
    ulma as ulma,
)
from alignjax.losses.combine import (
    on as on,
    weighted as weighted,
)
from alignjax.losses.decorators.listwise import (
    lambda_loss as lambda_loss,
    list_mle as list_mle,
    listwise as listwise,
    pairwise_logistic as pairwise_logistic,
    softmax_listwise as softmax_listwise,
)
from alignjax.losses.decorators.pairwise import pairwise as pairwise
from alignjax.losses.decorators.unpaired import unpaired as unpaired
from alignjax.losses.distillation import (
    gkd as gkd,
    minillm as minillm,
)
from alignjax.losses.divergences import (
    f_dpo as f_dpo,
    with_divergence as with_divergence,
)
from alignjax.losses.exploration_bonus import (
    bootstrapped as bootstrapped,
    borda as borda,
    selm as selm,
    vpo as vpo,
    xpo as xpo,
)
from alignjax.losses.fine_grained import (
    cut as cut,
    dense_dpo as dense_dpo,
    figa as figa,
    iterpref as iterpref,
)
from alignjax.losses.imitation import (
    filtered_mle as filtered_mle,
    hir as hir,
    reward_weighted_regression as reward_weighted_regression,
)
from alignjax.losses.kl_terms import (
    k1 as k1,
    k2 as k2,
    k3 as k3,
)
from alignjax.losses.logic import (
    logical as logical,
)
from alignjax.losses.margin import (
    discopop as discopop,
    dpo as dpo,
    exo as exo,
    h_dpo as h_dpo,
    ipo as ipo,
    ln_dpo as ln_dpo,
    robust_dpo as robust_dpo,
    slic as slic,
)
from alignjax.losses.noisy_labels import (
    lcpo as lcpo,
    reliability as reliability,
    reliability_average as reliability_average,
)
from alignjax.losses.optimal_transport import (
    aot as aot,
    aot_unpaired as aot_unpaired,
)
from alignjax.losses.policy_gradient import (
    reinforce as reinforce,
)
from alignjax.losses.policy_ratios import (
    no_ratio as no_ratio,
    sequence_ratio as sequence_ratio,
    sequence_ratio_of_tokens as sequence_ratio_of_tokens,
    token_ratio as token_ratio,
)
from alignjax.losses.ranking import (
    act as act,
    clha as clha,
    knowpat as knowpat,
    lipo as lipo,
    plackett_luce as plackett_luce,
    pro as pro,
    rrhf as rrhf,
    stable_alignment as stable_alignment,
)
from alignjax.losses.ratio_bounds import (
    cispo_clip as cispo_clip,
    dppo_mask as dppo_mask,
    no_bound as no_bound,
    ppo_clip as ppo_clip,
    sapo_gate as sapo_gate,
    vespo_kernel as vespo_kernel,
)
from alignjax.losses.reductions import (
    constant_length as constant_length,
    prompt_mean as prompt_mean,
    sequence_mean as sequence_mean,
    sequence_sum as sequence_sum,
    token_mean as token_mean,
)
from alignjax.losses.reference_free import (
    alpha_po as alpha_po,
    autoregressive_reward as autoregressive_reward,
    cpo as cpo,
    orpo as orpo,
    simpo as simpo,
    slic_hf as slic_hf,
)
from alignjax.losses.reward_models import (
    attribute_regression as attribute_regression,
    cost_model as cost_model,
    davidson as davidson,
    plackett_luce_reward as plackett_luce_reward,
    process_supervision as process_supervision,
    steerlm as steerlm,
)
from alignjax.losses.router_balance import (
    load_balancing as load_balancing,
)
from alignjax.losses.self_play import (
    egpo as egpo,
    inpo as inpo,
    mnpo as mnpo,
    sppo as sppo,
)
from alignjax.losses.sequential import sequential_dpo as sequential_dpo
from alignjax.losses.supervised import (
    bradley_terry as bradley_terry,
    preference_cross_entropy as preference_cross_entropy,
    score_regression as score_regression,
    sft as sft,
)
from alignjax.losses.surrogate import (
    surrogate as surrogate,
)
from alignjax.losses.token_filters import (
    entropy_bonus as entropy_bonus,
    entropy_target as entropy_target,
    off_policy_mask as off_policy_mask,
    top_entropy as top_entropy,
)
from alignjax.losses.token_level import (
    ld_dpo as ld_dpo,
    length_desensitised as length_desensitised,
    sparse_masks as sparse_masks,
    sparse_po as sparse_po,
    tdpo as tdpo,
    wpo as wpo,
)
from alignjax.losses.user_preferences import (
    pal as pal,
    vpl as vpl,
)
from alignjax.losses.value_function import value_loss as value_loss
