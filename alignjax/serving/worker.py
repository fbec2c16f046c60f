"""The one thread that samples: it has the slots, and puts the next sequence into each that comes free.

All that changes while prompts are answered is in here and in the slots that it holds. Who asks hands over a `Job` and
is told what comes of it.
"""

from __future__ import annotations

import collections
import logging
import queue
import threading
import traceback
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from alignjax.config import ConfigError
from alignjax.models import unrolled
from alignjax.serving.jobs import Done, Job, Piece, PromptScores, Scored, Wanted
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
from alignjax.types import Model, Params

SMALLEST_LANE = 256  # tokens of a slot in the first lane; each further lane has GROWTH times as many
GROWTH = 4
READ_AT_ONCE = 8  # prompts without completions between two tokens of the others
CONTEXT = 8  # tokens of a prompt behind which a continuation is read

_log = logging.getLogger("alignjax.serving")


CLOSED = "the model was closed before it answered"


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
    """Slots of one size. waiting: (job, number) in the order of their arrival, for idle slots; read: the latest job
    whose prompt was read, since completions of a prompt follow each other."""

    def __init__(self, slots: int) -> None:
        self.state: Slots | None = None
        self.at_work: list[_Sequence | None] = [None] * slots
        self.waiting: collections.deque[tuple[Job, int]] = collections.deque()
        self.read: tuple[Job, Prompt] | None = None

    def jobs(self) -> list[Job]:
        """The jobs that wait or are at work, each once."""
        every = (*(job for job, _ in self.waiting), *(busy.job for busy in self.at_work if busy))
        return list(dict.fromkeys(every))


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
        self.vocab = vocabulary(opened.model, self.params)
        self.max_length = max_length
        self.lanes = {size: _Lane(slots) for size in lane_sizes(max_length)}
        self.inbox: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self.unread: collections.deque[Job] = collections.deque()  # jobs whose prompt alone is read
        self.closed = False
        self.thread = threading.Thread(target=self._work, name="alignjax-sampler", daemon=True)

    def __enter__(self) -> Worker:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        self.thread.join()

    def close(self) -> None:
        """Ends all jobs, which are told that they are `Closed`; further ones are too. Does not wait for the thread."""
        self.closed = True
        self.inbox.put(None)

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
        if self.closed:
            job.report(Done(Closed(CLOSED)))
        else:
            self.inbox.put(job)

    # ------------------------------------------------------------------------------------------- in the worker's thread

    def _work(self) -> None:
        # One turn: take what has been handed over (waiting for it if nothing is to be done), read a few prompts that
        # are only scored, fill idle slots, draw a token for each slot at work.
        while True:
            try:
                if not self._take():
                    return
                for job in [self.unread.popleft() for _ in range(min(len(self.unread), READ_AT_ONCE))]:
                    self._score(job)
                for size, lane in self.lanes.items():
                    self._fill(size, lane)
                    self._advance(lane)
            except Exception as error:
                _log.error("sampling failed:\n%s", traceback.format_exc())
                self._fail(error)

    def _take(self) -> bool:
        """Sorts new jobs into lanes, or to those whose prompt alone is read; False when the worker is to end."""
        idle = not self.unread and not any(lane.jobs() for lane in self.lanes.values())
        while True:
            try:
                job = self.inbox.get(block=idle)
            except queue.Empty:
                return True
            if job is None:
                self._fail(Closed(CLOSED))
                return False
            idle = False
            if job.wanted.max_tokens:
                lane = next(lane for size, lane in self.lanes.items() if size >= job.length)
                lane.waiting.extend((job, number) for number in range(job.wanted.n))
            else:
                self.unread.append(job)

    def _score(self, job: Job) -> None:
        """Answers a job without completions."""
        if not job.cancelled:
            try:
                self._read(job, next(size for size in self.lanes if size >= job.length))
            except Exception as error:
                _log.error("a prompt could not be read:\n%s", traceback.format_exc())
                return job.report(Done(error))
            for number in range(job.wanted.n):
                job.report(Piece(number, "", None, "length"))
        return job.report(Done())

    def _read(self, job: Job, lane: int) -> Prompt:
        """Reads the prompt of a job, and reports its scores if they are wanted."""
        length = len(job.prompt)
        padded = np.zeros(max(SMALLEST_PROMPT, min(1 << (length - 1).bit_length(), lane)), np.int32)
        padded[:length] = job.prompt
        prompt, scores = read_prompt(self.model, self.params, padded, np.int32(length), scored=job.wanted.echo)
        if scores is not None:
            rows = _rows(scores, job.wanted.top, job.prompt[1:])
            job.report(PromptScores((Scored(job.prompt[0], None), *rows)))
        return prompt

    def _fill(self, size: int, lane: _Lane) -> None:
        """Puts waiting completions into idle slots."""
        for slot, busy in enumerate(lane.at_work):
            while busy is None and lane.waiting:
                job, number = lane.waiting[
                    0
                ]  # which leaves when it has a slot, so that a failure on the way is its own
                if job.cancelled:
                    lane.waiting.popleft()
                    _report_end(lane, job)
                    continue
                if lane.state is None:
                    lane.state = empty_slots(self.model, self.params, len(lane.at_work), size)
                if lane.read is None or lane.read[0] is not job:
                    lane.read = (job, self._read(job, size))
                prompt = lane.read[1]
                if number + 1 == job.wanted.n:
                    lane.read = None
                key, settings = _drawn_with(job.wanted, number)
                lane.state = fill_slot(lane.state, np.int32(slot), prompt, key, settings)
                before = job.prompt[-CONTEXT:] if job.wanted.continues else ()
                pieces, stops = TextPieces(self.tokenizer, before), StopTexts(job.wanted.stop_texts)
                lane.at_work[slot] = busy = _Sequence(job, number, [], pieces, stops)
                lane.waiting.popleft()

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
            _report_end(lane, busy.job)

    def _fail(self, error: BaseException) -> None:
        """Ends all jobs for one reason; slots start afresh, since what is in them is not known."""
        jobs = [job for lane in self.lanes.values() for job in lane.jobs()]
        for lane in self.lanes.values():
            lane.state, lane.read, lane.at_work = None, None, [None] * len(lane.at_work)
            lane.waiting.clear()
        while self.closed and not self.inbox.empty():
            jobs += [job] if (job := self.inbox.get()) is not None else []
        for job in (*jobs, *self.unread):
            job.report(Done(error))
        self.unread.clear()


def vocabulary(model: Model, params: Params) -> int:
    """Returns the number of tokens that a model knows."""
    tokens, length = (jax.ShapeDtypeStruct(shape, jnp.int32) for shape in ((SMALLEST_PROMPT,), ()))
    prompt, _ = jax.eval_shape(lambda *three: read_prompt(model, *three, scored=False), params, tokens, length)
    return jax.eval_shape(model.heads["lm"].apply, params, prompt.hidden).shape[-1]


def _drawn_with(wanted: Wanted, number: int) -> tuple[jax.Array, Settings]:
    """The random key of a completion, and how it is sampled."""
    low, high = wanted.seed & 0xFFFFFFFF, (wanted.seed >> 32) & 0xFFFFFFFF
    key = sequence_key(*map(np.uint32, (low, high, wanted.example, number)))
    floats = [np.float32(value) for value in (wanted.temperature, wanted.top_p, wanted.min_p)]
    return key, Settings(floats[0], np.int32(wanted.top_k), *floats[1:], np.bool_(wanted.top > 0))  # type: ignore[arg-type]


def _report_end(lane: _Lane, job: Job) -> None:
    """Reports the end of a job when its last completion has ended."""
    if job not in lane.jobs():
        job.report(Done())


def _rows(scores: Scores, top: int, tokens: Any) -> list[Scored]:
    """Scores as numbers, a row a token; further rows, which are padding, are left out."""
    logps, top_logps, top_ids = (np.asarray(part) for part in jax.device_get(scores))
    return [
        Scored(token, logp, tuple(zip(ids[:top], tops[:top], strict=True)))
        for token, logp, ids, tops in zip(tokens, logps.tolist(), top_ids.tolist(), top_logps.tolist(), strict=False)
    ]


def _reported(busy: _Sequence, scored: Scored) -> bool:
    """Reports the token of a sequence, and says whether it was the last."""
    job, wanted = busy.job, busy.job.wanted
    scored = scored._replace(top=scored.top[: wanted.top])
    busy.scored.append(scored)
    ended = scored.token in wanted.stop_ids
    text, stopped = busy.stops.push("" if ended else busy.pieces.push(scored.token))
    full = len(busy.scored) == wanted.max_tokens
    if (ended or full) and not stopped:
        rest, stopped = busy.stops.push(busy.pieces.close())
        text += rest + ("" if stopped else busy.stops.close())
    finish = "stop" if ended or stopped else "length" if full else None
    job.report(Piece(busy.number, text, scored, finish))
    return finish is not None
