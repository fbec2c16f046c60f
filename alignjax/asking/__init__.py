"""Functions in plain Python that are asked about texts: how config.json names them, how they are called, what of a row
they are given, and where their answers are kept."""

from alignjax.asking.answered import answered as answered
from alignjax.asking.declared_functions import declares as declares
from alignjax.asking.function_calls import Calls as Calls, RewardError as RewardError, calls as calls
from alignjax.asking.function_keywords import (
    TrainerState as TrainerState,
    accepted as accepted,
    check_parameters as check_parameters,
)
from alignjax.asking.named_functions import (
    check_inner as check_inner,
    check_named as check_named,
    described as described,
)
from alignjax.asking.questions import Question as Question
from alignjax.asking.rows_as_text import RowTexts as RowTexts, TextRow as TextRow
