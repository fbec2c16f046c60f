"""Stages: pure functions (context, batch, key) -> batch, or (batch, metrics), that fill what losses read; and the
judges among them."""

from alignjax.stages.advantage import (
    batch_advantage as batch_advantage,
    decoupled_advantage as decoupled_advantage,
    group_advantage as group_advantage,
    pass_at_k as pass_at_k,
)
from alignjax.stages.completions import (
    density_ratio as density_ratio,
    generate as generate,
    implicit_reward as implicit_reward,
    in_context_reward as in_context_reward,
    logprobs as logprobs,
    reward as reward,
    values as values,
)
from alignjax.stages.compose import chain as chain, in_view as in_view, into_view as into_view
from alignjax.stages.condition import (
    condition_on as condition_on,
    condition_on_reward as condition_on_reward,
    configured_pairs as configured_pairs,
    goal_pairs as goal_pairs,
    hindsight as hindsight,
)
from alignjax.stages.constraints import (
    constraint_rate as constraint_rate,
    forbidden_token as forbidden_token,
    in_order as in_order,
    length_within as length_within,
    required_token as required_token,
)
from alignjax.stages.critic import gae as gae, warm_up as warm_up
from alignjax.stages.directions import (
    directed_reward as directed_reward,
    draw_goal as draw_goal,
    neighbor_samples as neighbor_samples,
    reference_reward as reference_reward,
    scores_by as scores_by,
)
from alignjax.stages.host_stages import engine as engine, engine_logps as engine_logps, host as host
from alignjax.stages.importance import importance as importance
from alignjax.stages.judge import (
    annotator as annotator,
    bernoulli as bernoulli,
    flipped as flipped,
    overlap as overlap,
    prefer as prefer,
    preference_model as preference_model,
    reward_difference as reward_difference,
)
from alignjax.stages.lagrangian import (
    dual_ascent as dual_ascent,
    lagrangian_reward as lagrangian_reward,
    log_multipliers as log_multipliers,
)
from alignjax.stages.memories import (
    recall as recall,
    regenerate as regenerate,
    regret as regret,
    rewrite as rewrite,
    select_prompts as select_prompts,
)
from alignjax.stages.prefixes import flawed_prefix as flawed_prefix, with_prefix as with_prefix
from alignjax.stages.process_rewards import process_reward as process_reward
from alignjax.stages.relabel import (
    prefer_by_reward as prefer_by_reward,
    prefer_by_rivals as prefer_by_rivals,
    prefer_first as prefer_first,
    thumbs as thumbs,
    verdict as verdict,
    win_rate_against as win_rate_against,
    worst_first as worst_first,
)
from alignjax.stages.reward_shaping import (
    drop_ties as drop_ties,
    drop_unfinished as drop_unfinished,
    keep_reward as keep_reward,
    less_last as less_last,
    overlong_penalty as overlong_penalty,
)
from alignjax.stages.route import (
    prefer_configured as prefer_configured,
    route_pairs as route_pairs,
    route_targets as route_targets,
)
from alignjax.stages.searches import block_search as block_search, speculative_rejection as speculative_rejection
from alignjax.stages.select import (
    active_pairs as active_pairs,
    best_and_worst as best_and_worst,
    bootstrap as bootstrap,
    gap_weights as gap_weights,
    query_budget as query_budget,
    ranked as ranked,
)
from alignjax.stages.several_rewards import (
    ensemble_reward as ensemble_reward,
    hierarchical_reward as hierarchical_reward,
    log_sigmoid_reward as log_sigmoid_reward,
)
from alignjax.stages.text_functions import text_judge as text_judge, text_reward as text_reward
from alignjax.stages.token_rewards import (
    adaptive_kl as adaptive_kl,
    kl_coefficient as kl_coefficient,
    no_moments as no_moments,
    normalize_reward as normalize_reward,
    running_moments as running_moments,
    token_rewards as token_rewards,
)
from alignjax.stages.user_rewards import latent_noise as latent_noise, user_reward as user_reward
