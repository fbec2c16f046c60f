"""The web application: OpenAI's API in front of a worker. What a request can do wrong is answered in a sentence."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import logging
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request as HttpRequest
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from alignjax.config import ConfigError
from alignjax.outside import Unreadable, parse_json
from alignjax.serving.jobs import Done, Job, Report
from alignjax.serving.openai_json import Answer, error_json
from alignjax.serving.opened_model import OpenedModel
from alignjax.serving.request_schema import Request, RequestError, read_chat, read_completions
from alignjax.serving.tokenizer_routes import detokenized, tokenized, tokenizer_info
from alignjax.serving.worker import Closed, Worker

LARGEST_BODY = 32_000_000  # bytes
MOST_PENDING = 4096  # prompts that are answered or wait, of all requests together
GONE = 499  # the status, heard by nobody, where who asked has hung up
LOOK_AGAIN = 1.0  # seconds between two looks whether who asked is still there

_log = logging.getLogger("alignjax.serving")
Reports = AsyncIterator[tuple[int, Report]]


def make_app(opened: OpenedModel, worker: Worker) -> Starlette:
    """Makes the application.

    Args:
        opened: The model that is served.
        worker: What samples for it; the application does not end it.

    Returns:
        An ASGI application.
    """
    # Endpoints are closures over the model and its worker: what they share that changes is in `answering` alone.
    answering = _Answering(opened, worker)

    async def models(http: HttpRequest) -> Response:
        return JSONResponse({"object": "list", "data": [answering.card()]})

    async def one_model(http: HttpRequest) -> Response:
        if http.path_params["name"] != opened.name:
            raise RequestError(f"there is no model {http.path_params['name']!r}", "model", status=404)
        return JSONResponse(answering.card())

    async def health(http: HttpRequest) -> Response:
        return JSONResponse({"status": "ok"})

    async def info(http: HttpRequest) -> Response:
        return JSONResponse(tokenizer_info(opened, worker.max_length))

    def posted(read: Callable[[Any], Any]) -> Callable[[HttpRequest], Awaitable[Response]]:
        async def endpoint(http: HttpRequest) -> Response:
            body = await _body(http)
            return JSONResponse(await run_in_threadpool(read, body))

        return endpoint

    async def completions(http: HttpRequest) -> Response:
        return await answering.respond(http, lambda body: read_completions(body, opened), chat=False)

    async def chat(http: HttpRequest) -> Response:
        return await answering.respond(http, lambda body: read_chat(body, opened, worker.max_length), chat=True)

    routes = [
        Route("/v1/completions", completions, methods=["POST"]),
        Route("/v1/chat/completions", chat, methods=["POST"]),
        Route("/v1/models", models),
        Route("/v1/models/{name:path}", one_model),
        Route("/health", health),
        Route("/tokenizer_info", info),
        Route("/tokenize", posted(lambda body: tokenized(body, opened, worker.max_length)), methods=["POST"]),
        Route("/detokenize", posted(lambda body: detokenized(body, opened)), methods=["POST"]),
    ]
    handlers: Any = {
        RequestError: _refused,
        ClientDisconnect: _gone,
        HTTPException: _http_error,
        Exception: _bug,
    }
    app = Starlette(routes=routes, exception_handlers=handlers)
    app.state.name, app.state.close = opened.name, worker.close
    return app


@dataclasses.dataclass(eq=False)
class _Answering:
    """A model, its worker, and how many prompts are pending."""

    opened: OpenedModel
    worker: Worker
    pending: int = 0

    def card(self) -> dict[str, Any]:
        return {
            "id": self.opened.name,
            "object": "model",
            "created": 0,
            "owned_by": "alignjax",
            "max_model_len": self.worker.max_length,
        }

    async def respond(self, http: HttpRequest, read: Callable[[Any], Request], *, chat: bool) -> Response:
        """Answers one request, whole or as a stream."""
        body = await _body(http)
        request = await run_in_threadpool(read, body)
        jobs = self._jobs(request, "messages" if chat else "prompt")
        answer = Answer(request, self.opened, chat=chat)
        if request.stream:
            return StreamingResponse(_events(self._reports(jobs), answer), media_type="text/event-stream")
        taking = asyncio.ensure_future(self._whole(jobs, answer))
        try:
            while not taking.done():
                await asyncio.wait([taking], timeout=LOOK_AGAIN)
                if not taking.done() and await http.is_disconnected():
                    return Response(status_code=GONE)
            return JSONResponse(taking.result())
        except Closed as error:
            raise RequestError(str(error), status=503) from None
        finally:
            taking.cancel()

    def _jobs(self, request: Request, asked: str) -> list[Job]:
        """The jobs of a request, all of which can be done; their reports go nowhere yet. asked: The prompts' field."""
        jobs = [
            Job(prompt, dataclasses.replace(request.wanted, example=number), lambda report: None)
            for number, prompt in enumerate(request.prompts)
        ]
        for job in jobs:
            try:
                self.worker.check(job)
            except ConfigError as error:
                long, most = job.length > self.worker.max_length, self.worker.max_length
                field = request.long if request.long and long and len(job.prompt) < most else asked
                raise RequestError(str(error), field, code="context_length_exceeded" if long else None) from None
        if self.pending + len(jobs) > MOST_PENDING:
            raise RequestError(f"{self.pending} prompts are waiting already; ask again later", status=429)
        return jobs

    async def _whole(self, jobs: list[Job], answer: Answer) -> dict[str, Any]:
        async for prompt, report in self._reports(jobs):
            answer.take(prompt, report)
        return answer.whole()

    async def _reports(self, jobs: list[Job]) -> Reports:
        """Hands jobs over and yields (number of the prompt, report) until all are done; any other end cancels them."""
        loop, inbox = asyncio.get_running_loop(), asyncio.Queue()

        def reporter(number: int) -> Callable[[Report], None]:
            def report(each: Report) -> None:
                with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                    loop.call_soon_threadsafe(inbox.put_nowait, (number, each))

            return report

        self.pending += len(jobs)
        try:
            for number, job in enumerate(jobs):
                job.report = reporter(number)
                self.worker.submit(job)
            left = len(jobs)
            while left:
                number, report = await inbox.get()
                if isinstance(report, Done):
                    left -= 1
                    if report.failure is not None:
                        raise report.failure
                else:
                    yield number, report
        finally:
            self.pending -= len(jobs)
            for job in jobs:
                job.cancelled = True


async def _events(reports: Reports, answer: Answer) -> AsyncIterator[str]:
    """An answer as server-sent events."""
    try:
        async with contextlib.aclosing(reports) as each:  # type: ignore[type-var]
            async for prompt, report in each:
                for chunk in answer.chunks(prompt, report):
                    yield f"data: {json.dumps(chunk)}\n\n"
        for chunk in answer.last_chunks():
            yield f"data: {json.dumps(chunk)}\n\n"
    except Exception as error:  # the status of HTTP is sent already
        if not isinstance(error, Closed):
            _log.error("an answer could not be made:\n%s", traceback.format_exc())
        message = str(error) if isinstance(error, Closed) else BUG
        yield f"data: {json.dumps(error_json(message, status=500))}\n\n"
    yield "data: [DONE]\n\n"


async def _body(http: HttpRequest) -> Any:
    """The JSON of a request. Raises RequestError for anything else, before more than LARGEST_BODY is read."""
    kind = http.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        # A page in a browser may send other kinds anywhere without asking, this one only where it is allowed to.
        raise RequestError(f"the content type is {kind or 'not said'}; send JSON with Content-Type: application/json")
    content = bytearray()
    async for part in http.stream():
        content += part
        if len(content) > LARGEST_BODY:
            raise RequestError(f"the body has more than {LARGEST_BODY:,} bytes; ask in parts")
    try:
        body = parse_json(content.decode())
    except (Unreadable, UnicodeDecodeError) as error:
        raise RequestError(f"the body cannot be read: {error}") from None
    try:
        json.dumps(body, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError as error:
        half = ascii(error.object[error.start])[1:-1]
        raise RequestError(
            f"the body cannot be read: a text holds {half}, half of a surrogate pair, which is no character; send both "
            "halves, or neither"
        ) from None
    return body


BUG = "this server failed at that request; its log says why"


async def _refused(http: HttpRequest, error: RequestError) -> Response:
    return JSONResponse(error_json(str(error), error.param, error.code, error.status), status_code=error.status)


async def _gone(http: HttpRequest, error: ClientDisconnect) -> Response:
    return Response(status_code=GONE)


async def _http_error(http: HttpRequest, error: HTTPException) -> Response:
    message = (
        f"{http.method} {http.url.path}: {error.detail}; there are /v1/completions, /v1/chat/completions, /v1/models"
    )
    return JSONResponse(error_json(message, status=error.status_code), status_code=error.status_code)


async def _bug(http: HttpRequest, error: Exception) -> Response:
    return JSONResponse(error_json(BUG, status=500), status_code=500)
