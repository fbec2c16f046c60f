"""Verifiers: functions of texts that say whether a completion is right, or how near it is to what is; for
`fn(stages.text_reward, function=...)`."""

from alignjax.verifiers.answers import exact as exact, numeric as numeric, pattern as pattern
from alignjax.verifiers.compared import higher as higher
from alignjax.verifiers.extraction import extracted as extracted, text_of as text_of
from alignjax.verifiers.formulas import latex as latex
from alignjax.verifiers.numbers_in_text import number_of as number_of, numbers_in as numbers_in
from alignjax.verifiers.similarity import (
    common_subsequence as common_subsequence,
    length_term as length_term,
    refalign as refalign,
    reference_regressor as reference_regressor,
    regularized_relevance as regularized_relevance,
    repetition_term as repetition_term,
    word_overlap as word_overlap,
)
from alignjax.verifiers.tested_programs import contained as contained, unit_tests as unit_tests
from alignjax.verifiers.text_constraints import (
    begins_with as begins_with,
    bullet_count as bullet_count,
    constraints as constraints,
    ends_with as ends_with,
    has_placeholders as has_placeholders,
    has_title as has_title,
    has_words as has_words,
    in_capitals as in_capitals,
    in_lowercase as in_lowercase,
    is_json as is_json,
    lacks_words as lacks_words,
    paragraph_count as paragraph_count,
    sentence_count as sentence_count,
    word_count as word_count,
)
