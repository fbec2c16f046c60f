"""A language model of a few thousand weights that speaks in bytes, and one worker for all tests of a file."""

from __future__ import annotations

import queue
import threading
import time

import pytest

from alignjax.data import train_bpe
from alignjax.data.prepared import Chat
from alignjax.data.sources.asked import Frame
from alignjax.data.text.chat import DEFAULT_TEMPLATE
from alignjax.serving import OpenedModel
from alignjax.serving.app import make_app
from alignjax.serving.jobs import Done, Job, Piece, PromptScores
from alignjax.serving.run_server import address_of, bound, server_of
from alignjax.serving.worker import Worker
from tests.support.tiny import model, parameters

LENGTH = 96


@pytest.fixture(scope="session")
def opened():
    """Byte-level tokens, a plain template, BOS in front: 3 layers short of anything that makes sense."""
    tokenizer = train_bpe([], 260)
    network = model(vocab=tokenizer.vocab_size)
    frame = Frame(Chat(DEFAULT_TEMPLATE, {"bos_token": "", "eos_token": ""}, only=False, trained=True))
    return OpenedModel("tiny", "a tiny model", network, parameters(network), tokenizer, frame, None)


@pytest.fixture(scope="session")
def worker(opened):
    with Worker(opened, slots=3, max_length=LENGTH) as working:
        yield working


@pytest.fixture(scope="session")
def address(opened, worker):
    with bound("127.0.0.1", 0) as listening:
        server = server_of(make_app(opened, worker))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield address_of(listening)
        server.should_exit = True
        thread.join()


class Asked:
    """What a worker reported about jobs that were handed over together."""

    def __init__(self, worker, *asked):
        boxes = []
        for prompt, wanted in asked:
            boxes.append(queue.SimpleQueue())
            job = Job(tuple(prompt), wanted, boxes[-1].put)
            worker.check(job)
            worker.submit(job)
        self.reports = [self._until_done(box) for box in boxes]

    @staticmethod
    def _until_done(box):
        reports = []
        while not reports or not isinstance(reports[-1], Done):
            reports.append(box.get(timeout=120))
        if reports[-1].failure is not None:
            raise reports[-1].failure
        return reports

    def pieces(self, job=0, number=0):
        return [each for each in self.reports[job] if isinstance(each, Piece) and each.number == number]

    def ids(self, job=0, number=0):
        return [piece.scored.token for piece in self.pieces(job, number)]

    def text(self, job=0, number=0):
        return "".join(piece.text for piece in self.pieces(job, number))

    def scores(self, job=0):
        return next(each for each in self.reports[job] if isinstance(each, PromptScores)).tokens
