"""Tasks on letters and digits whose answers can be checked: prompts made on the spot, a gold score in closed form, its
maximum and its chance level, and a gold judge that nobody was trained on.

A task is an `ExactTask` (`SORTING`, `STYLES`, `DISTINCT`, `ARITHMETIC`, `SECOND_LOOK`, `COUNTDOWN`): a record of
functions, which a pipeline puts into its slots.
"""

from alignjax.exact_tasks.arithmetic import (
    ARITHMETIC as ARITHMETIC,
    SECOND_LOOK as SECOND_LOOK,
    right_at_last as right_at_last,
    right_result as right_result,
    wrong_draft as wrong_draft,
)
from alignjax.exact_tasks.countdown import (
    COUNTDOWN as COUNTDOWN,
    right_expression as right_expression,
)
from alignjax.exact_tasks.distinct_letters import (
    DISTINCT as DISTINCT,
    distinct_gold as distinct_gold,
    distinct_score as distinct_score,
    long_liking as long_liking,
)
from alignjax.exact_tasks.letters import Letters as Letters, letters as letters, revised_letters as revised_letters
from alignjax.exact_tasks.sorting import (
    SORTING as SORTING,
    sorted_exactly as sorted_exactly,
    sorting_gold as sorting_gold,
    sorting_score as sorting_score,
)
from alignjax.exact_tasks.styles import (
    NASH as NASH,
    STYLES as STYLES,
    style_quality as style_quality,
    styles_gold as styles_gold,
)
from alignjax.exact_tasks.task import (
    ExactTask as ExactTask,
    Measure as Measure,
    exact_reward as exact_reward,
    verified_gold as verified_gold,
)
