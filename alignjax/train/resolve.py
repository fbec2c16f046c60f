"""An experiment with all that its run is made of, made and checked once and then passed down."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax

from alignjax.config import ConfigError, Experiment
from alignjax.data.sources.batch_layout import PER_COMPLETION_TOKEN, PER_PROMPT_TOKEN
from alignjax.models import huggingface
from alignjax.parallel.mesh import batch_shardings, state_shardings, with_shardings
from alignjax.roles import remember, unwrapped
from alignjax.train.logp_cache.reference_logps import without_cached
from alignjax.train.overlap import check_overlap
from alignjax.train.slots_of_stages import check_slots
from alignjax.train.state import TrainState, abstract_state
from alignjax.train.step import abstract_experience, make_update
from alignjax.train.text_host import check_text_functions
from alignjax.train.token_ids import with_token_ids
from alignjax.train.trackers import check_tags
from alignjax.types import Algorithm, Batch
from alignjax.workspace import Workspace


@dataclasses.dataclass(frozen=True)
class Resolved:
    """An experiment, resolved.

    Attributes:
        given: The experiment as it is configured, which files keep.
        experiment: The experiment, with the token ids of its data.
        source: The source of its batches.
        algorithm: Its algorithm, without the stages that cached log-probs answer.
        state: The shapes and dtypes of its state, with shardings where there is a mesh, and then of an overlapped run
            with the experience that its checkpoints hold.
        mesh: The mesh that it runs on, or would: it may be abstract, or None.
    """

    given: Experiment
    experiment: Experiment
    source: Any
    algorithm: Algorithm
    state: TrainState
    mesh: Any = None

    @property
    def spec(self) -> Batch:
        """The shapes and dtypes of the source's batches."""
        return source_spec(self.source)

    @property
    def bare_state(self) -> TrainState:
        """The state without shardings, to trace with: jax checks explicit ones differently while it traces."""
        state = dataclasses.replace(self.state, pending=None)
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state)

    @functools.cached_property
    def filled(self) -> Batch:
        """The shapes and dtypes of a batch after all stages; with cached log-probs of the run that fills the cache."""
        return abstract_experience(self.experiment.algorithm, self.bare_state, self.spec)[0]


def resolve(
    experiment: Experiment, workspace: Workspace | None, mesh: Any = None, *, prepare: bool = False
) -> Resolved:
    """Makes the source and the abstract state of an experiment and checks that its parts go together.

    No row is read and no array allocated, and no dataset prepared unless that is asked for.

    Args:
        experiment: The experiment.
        workspace: The workspace that the source may read from.
        mesh: The mesh that the shardings are for, real or abstract; None leaves them out.
        prepare: Prepares the datasets, so that their tokenizers are known for sure.

    Raises:
        ConfigError: A slot holds what cannot be called as it is, a tag is no tracker's, a role cannot start, a text
            function has no name, cached log-probs or overlap do not go with the algorithm, batches of several shapes
            with something that has room for one, or the token ids of data and models disagree.
    """
    check_slots(experiment.algorithm)
    check_tags(experiment.tags)
    given, experiment = experiment, with_token_ids(experiment, workspace, prepare)
    source = experiment.source(workspace, experiment.seed)
    state = abstract_state(experiment.algorithm, experiment.seed)
    algorithm = without_cached(experiment, source, state)
    check_overlap(experiment)
    check_text_functions(experiment)
    if getattr(source, "buckets", ()):
        _check_buckets(experiment, algorithm, state, source_spec(source))
    if mesh is not None:
        # Stages are traced without shardings: jax checks explicit ones differently while it traces.
        made = abstract_experience(algorithm, state, source_spec(source)) if experiment.overlap else None
        state = with_shardings(state, state_shardings(algorithm, state, mesh))
        state = dataclasses.replace(state, pending=with_shardings(made, batch_shardings(made, mesh)))
    resolved = Resolved(given, experiment, source, algorithm, state, mesh)
    _check_lengths(resolved)
    return resolved


def source_spec(source: Any) -> Batch:
    """Returns the shapes and dtypes of a source's batches: its `spec`, or those of its first batch where a source of
    one's own says none."""
    spec = getattr(source, "spec", None)
    return jax.eval_shape(lambda batch: batch, source[0]) if spec is None else spec


def _check_lengths(resolved: Resolved) -> None:
    """Raises ConfigError if prompts with completions are longer than published weights have positions for."""
    for name, role in resolved.algorithm.roles.items():
        start = unwrapped(role.start)
        most = huggingface.positions_of(start.folder) if isinstance(start, huggingface.Pretrained) else None
        if most is None:
            continue
        prompt, tokens = resolved.filled.prompt, resolved.filled.tokens
        lengths = (0 if prompt is None else prompt.shape[1], 0 if tokens is None else tokens.shape[2])
        if sum(lengths) > most:
            raise ConfigError(
                f"role {name!r} reads {lengths[0]} tokens of a prompt and {lengths[1]} of a completion, {sum(lengths)} "
                f"together, and the weights in {start.folder} are for {most} (max_position_embeddings in its "
                "config.json): shorten prompt_length, completion_length or max_tokens"
            )


def check_losses(resolved: Resolved, *, always: bool = False) -> None:
    """Traces an update on shapes where stages come first, so that a loss that reads a role, a head or a field that is
    not there is refused before anything is sampled, judged or asked for.

    Args:
        resolved: The experiment, resolved.
        always: Whether to do so too where no stage comes first, and the update is the first to be traced.

    Raises:
        ConfigError: A loss or a rule cannot be run on what the stages make.
    """
    algorithm = dataclasses.replace(resolved.algorithm, packing=None)  # of which only rows that exist can tell
    if algorithm.losses and (algorithm.experience or always):
        jax.eval_shape(make_update(algorithm), resolved.bare_state, resolved.filled)


def experience_shapes(experiment: Experiment) -> Batch:
    """Returns the shapes of the batches that an experiment makes, from its config alone: those of recorded samples."""
    return resolve(experiment, None).filled


def _check_buckets(experiment: Experiment, algorithm: Algorithm, state: TrainState, spec: Batch) -> None:
    """Raises ConfigError for batches of several shapes where one is needed: overlap, recording, memories."""
    if experiment.overlap or not algorithm.losses:
        raise ConfigError("batches of several shapes can be neither overlapped nor recorded; leave out the buckets")
    # of a source without completions they are sampled, all of one length
    long = {*PER_PROMPT_TOKEN, *((*PER_COMPLETION_TOKEN, "logps") if spec.tokens is not None else ())}
    memories = [name for name, role in algorithm.roles.items() if role.rule.function is remember]
    fields = [f"{name}[{field!r}]" for name in memories for field in state.roles[name] if field.split("/")[0] in long]
    if fields:
        raise ConfigError(
            f"a memory has room for one shape, and buckets give {', '.join(fields)} several; leave out the buckets"
        )
