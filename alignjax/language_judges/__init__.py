"""Language models behind an OpenAI-compatible endpoint as judges: functions of texts for `fn(stages.text_judge,
function=...)` and `fn(stages.text_reward, function=...)`."""

from alignjax.language_judges.asked_judges import pairwise as pairwise, pointwise as pointwise, rubric as rubric
from alignjax.language_judges.endpoint import Endpoint as Endpoint, EndpointError as EndpointError, Reply as Reply
from alignjax.language_judges.judge_mixtures import Hedged as Hedged, hedge as hedge, mixture as mixture
