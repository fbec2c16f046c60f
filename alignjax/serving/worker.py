"""The one thread that samples: it has the slots, and puts the next sequence into each that comes free.

All that changes while prompts are answered is in here and in the slots that it holds. Who asks hands over a `Job` and
is told what comes of it.
"""

from __future__ import annotations

import collections
import logging
import queue
import threading
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from alignjax.config import ConfigError
from alignjax.models import unrolled
from alignjax.serving.jobs import Done, Job, Piece, PromptScores, Scored
from alignjax.serving.opened_model import OpenedModel
from alignjax.serving.slots import (
    SMALLEST_PROMPT,
    Prompt,
    Scores,
    Settings,
    Slots,
    empty_slots,
    fill_slot,
    next_tokens,
    read_prompt,
    sequence_key,
)
from alignjax.serving.text_pieces import StopTexts, TextPieces

SMALLEST_LANE = 256  # tokens of a slot in the first lane; each further lane has GROWTH times as many
GROWTH = 4
CONTEXT = 8  # tokens of a prompt behind which a continuation is read

_log = logging.getLogger("alignjax.serving")


class Closed(RuntimeError):
    """The worker was closed before a prompt was answered."""


def lane_sizes(max_length: int) -> tuple[int, ...]:
    """Returns the tokens of a slot in each lane, the last of them max_length."""
    sizes = [SMALLEST_LANE]
    while sizes[-1] * GROWTH < max_length:
        sizes.append(sizes[-1] * GROWTH)
    return (max_length,) if max_length <= SMALLEST_LANE else (*sizes, max_length)


class _Sequence(NamedTuple):
    """A completion at work in a slot."""

    job: Job
    number: int
    scored: list[Scored]
    pieces: TextPieces
    stops: StopTexts


class _Lane:
    """Slots of one size. waiting: (job, number, its prompt) in the order of their arrival, for idle slots."""

    def __init__(self, slots: int) -> None:
        self.state: Slots | None = None
        self.at_work: list[_Sequence | None] = [None] * slots
        self.waiting: collections.deque[tuple[Job, int, Prompt]] = collections.deque()


class Worker:
    """Samples for any number of askers; a context that ends its thread.

    A sequence is put into the lane of the smallest slots that hold it, and its prompt is read alone, so every program
    that computes it is a function of its own lengths: what it is asked beside changes no number of it.

    Args:
        opened: The model.
        slots: How many sequences are extended together, in each lane.
        max_length: The most tokens of a prompt with its completion.
    """

    def __init__(self, opened: OpenedModel, *, slots: int, max_length: int) -> None:
        self.tokenizer, self.model = opened.tokenizer, opened.model
        self.params = jax.jit(unrolled)(opened.params)
        self.vocab = jax.eval_shape(
            lambda params: self.model.heads["lm"].apply(params, params["embed"][0]), opened.params
        ).shape[-1]
        self.max_length = max_length
        self.lanes = {size: _Lane(slots) for size in lane_sizes(max_length)}
        self.inbox: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self.pending = 0  # jobs that were handed over and are not done; of interest to who limits them
        self.thread = threading.Thread(target=self._work, name="alignjax-sampler", daemon=True)

    def __enter__(self) -> Worker:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.inbox.put(None)
        self.thread.join()

    def check(self, job: Job) -> None:
        """Raises ConfigError for a prompt that is empty, has tokens that the model does not know, or is too long."""
        if not job.prompt:
            raise ConfigError("the prompt is empty; give it a token at least")
        if wrong := [token for token in job.prompt if not 0 <= token < self.vocab]:
            raise ConfigError(
                f"the prompt has a token {wrong[0]}, and the model has {self.vocab} (0 to {self.vocab - 1})"
            )
        if job.length > self.max_length:
            raise ConfigError(
                f"the prompt has {len(job.prompt)} tokens and the completion up to {job.wanted.max_tokens}, and "
                f"together they may have {self.max_length}; shorten the prompt or ask for fewer tokens"
            )

    def submit(self, job: Job) -> None:
        """Hands over a job that `check` accepts; what comes of it is told to its `report`."""
        self.inbox.put(job)

    # ------------------------------------------------------------------------------------------- in the worker's thread

    def _work(self) -> None:
        # One turn: take what has been handed over (waiting for it if nothing is at work), fill idle slots, draw a token
        # for each slot at work. A failure is that of everybody whose numbers it was to become.
        while True:
            try:
                if not self._take():
                    return
                for size, lane in self.lanes.items():
                    self._fill(size, lane)
                    self._advance(lane)
            except Exception as error:
                _log.exception("sampling failed")
                self._fail(error)

    def _take(self) -> bool:
        """Reads the prompts of new jobs; False when the worker is to end."""
        busy = any(lane.waiting or any(lane.at_work) for lane in self.lanes.values())
        while True:
            try:
                job = self.inbox.get(block=not busy)
            except queue.Empty:
                return True
            if job is None:
                self._fail(Closed("the model was closed"))
                return False
            busy = True
            try:
                self._begin(job)
            except Exception as error:
                _log.exception("a prompt could not be read")
                job.report(Done(error))

    def _begin(self, job: Job) -> None:
        """Reads a prompt, reports its scores, and lets its completions wait for slots."""
        if job.cancelled:
            return job.report(Done())
        lane = next(size for size in self.lanes if size >= job.length)
        length, wanted = len(job.prompt), job.wanted
        padded = np.zeros(
            min(max(SMALLEST_PROMPT, 1 << (length - 1).bit_length()), max(lane, SMALLEST_PROMPT)), np.int32
        )
        padded[:length] = job.prompt
        prompt, scores = read_prompt(self.model, self.params, padded, np.int32(length), scored=wanted.echo)
        if scores is not None:
            first = Scored(job.prompt[0], None)
            rows = _rows(scores, wanted.top, job.prompt[1:])
            job.report(PromptScores((first, *rows)))
        if wanted.max_tokens == 0:
            for number in range(wanted.n):
                job.report(Piece(number, "", None, "length"))
            return job.report(Done())
        self.lanes[lane].waiting.extend((job, number, prompt) for number in range(wanted.n))
        return None

    def _fill(self, size: int, lane: _Lane) -> None:
        for slot, busy in enumerate(lane.at_work):
            while busy is None and lane.waiting:
                job, number, prompt = lane.waiting.popleft()
                if job.cancelled:
                    self._ended(lane, job)
                    continue
                if lane.state is None:
                    lane.state = empty_slots(self.model, self.params, len(lane.at_work), size)
                wanted = job.wanted
                low, high = wanted.seed & 0xFFFFFFFF, (wanted.seed >> 32) & 0xFFFFFFFF
                key = sequence_key(*(np.uint32(part) for part in (low, high, wanted.example, number)))
                numbers = (wanted.temperature, wanted.top_k, wanted.top_p, wanted.min_p, wanted.top > 0)
                kinds = (np.float32, np.int32, np.float32, np.float32, np.bool_)
                settings = Settings(*(kind(value) for kind, value in zip(kinds, numbers, strict=True)))
                lane.state = fill_slot(lane.state, np.int32(slot), prompt, key, settings)
                before = job.prompt[-CONTEXT:] if wanted.continues else ()
                busy = _Sequence(job, number, [], TextPieces(self.tokenizer, before), StopTexts(wanted.stop_texts))
                lane.at_work[slot] = busy

    def _advance(self, lane: _Lane) -> None:
        """Draws a token for every slot at work and reports it."""
        alive = np.array([busy is not None and not busy.job.cancelled for busy in lane.at_work])
        if not alive.any() or lane.state is None:
            for slot, busy in enumerate(lane.at_work):
                self._free(lane, slot, busy)
            return
        lane.state, tokens, scores = next_tokens(self.model, self.params, lane.state, jnp.asarray(alive))
        rows = _rows(scores, max(busy.job.wanted.top for busy in lane.at_work if busy), np.asarray(tokens).tolist())
        for slot, busy in enumerate(lane.at_work):
            if busy is not None and (not alive[slot] or _reported(busy, rows[slot])):
                self._free(lane, slot, busy)

    def _free(self, lane: _Lane, slot: int, busy: _Sequence | None) -> None:
        if busy is not None:
            lane.at_work[slot] = None
            self._ended(lane, busy.job)

    def _ended(self, lane: _Lane, job: Job) -> None:
        """Reports the end of a job when its last completion has ended."""
        others = (*(each[0] for each in lane.waiting), *(busy.job for busy in lane.at_work if busy))
        if job not in others:
            job.report(Done())

    def _fail(self, error: BaseException) -> None:
        """Ends all jobs for one reason; slots start afresh, since what is in them is not known."""
        for lane in self.lanes.values():
            jobs = (*(each[0] for each in lane.waiting), *(busy.job for busy in lane.at_work if busy))
            lane.state, lane.at_work = None, [None] * len(lane.at_work)
            lane.waiting.clear()
            for job in dict.fromkeys(jobs):
                job.report(Done(error))
        while not self.inbox.empty() and isinstance(error, Closed):
            if (job := self.inbox.get()) is not None:
                job.report(Done(error))


def _rows(scores: Scores, top: int, tokens: Any) -> list[Scored]:
    """Scores as numbers, a row a token; further rows, which are padding, are left out."""
    logps, top_logps, top_ids = (np.asarray(part) for part in jax.device_get(scores))
    return [
        Scored(int(token), float(logps[row]), tuple(zip(top_ids[row, :top].tolist(), top_logps[row, :top].tolist())))
        for row, token in enumerate(tokens)
    ]


def _reported(busy: _Sequence, scored: Scored) -> bool:
    """Reports the token of a sequence, and says whether it was the last."""
    job, wanted = busy.job, busy.job.wanted
    scored = scored._replace(top=scored.top[: wanted.top])
    busy.scored.append(scored)
    text, stopped = busy.stops.push(busy.pieces.push(scored.token))
    ended = scored.token in wanted.stop_ids
    full = len(busy.scored) == wanted.max_tokens
    if (ended or full) and not stopped:
        rest, stopped = busy.stops.push(busy.pieces.close())
        text += rest + ("" if stopped else busy.stops.close())
    finish = "stop" if ended or stopped else "length" if full else None
    job.report(Piece(busy.number, text, scored, finish))
    return finish is not None
