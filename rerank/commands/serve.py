"""``sparring serve``: a reranker as an HTTP service with the /rerank contract of Cohere, Jina, vLLM and TEI."""

from __future__ import annotations

import os
import signal
import threading
from dataclasses import dataclass
from types import FrameType
from typing import Any

from .. import console, registry
from ..errors import MissingPrerequisiteError, UsageError
from ..passages import Windowed
from ..serving.server import Bounds, Server
from ..serving.service import Limits, Service
from .job import load_asked
from .options import CommonOptions, PromptOptions, WeightsOptions

KEY = "SPARRING_API_KEY"
SAMPLES = tuple(
    f"A {size} passage about {topic}, to see that scores depend on the text."
    for size in ("short", "plain", "long", "new")
    for topic in ("rivers", "search engines", "the history of bread", "prime numbers", "winter in the mountains")
)
"""Scored before the first request: a model whose scores say nothing is refused then."""


@dataclass(frozen=True, kw_only=True)
class Options(WeightsOptions, PromptOptions, CommonOptions):
    """Serve a reranker over HTTP: POST /rerank, /v1/rerank, /v2/rerank; GET /health, /v1/models, /metrics."""

    model: str
    """A folder, `minilm` (embedded), or a name on the hub."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 lets other machines in: set SPARRING_API_KEY then."""
    port: int = 8080
    """Port; 0 takes a free one and says which."""
    name: str | None = None
    """Name that callers see; the model's where absent."""
    schedule: str | None = None
    """Which groups to look at, for pairwise and listwise models; by default what fits the model."""
    aggregator: str | None = None
    """How comparisons become scores; by default as `sparring rerank` does."""
    family: str | None = None
    """Model family, where the checkpoint's config alone does not decide."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    max_length: int | None = None
    """Tokens of one input; longer documents are cut."""
    instruction: str | None = None
    """What to judge by, in words, for models that are told (Qwen3-Reranker, ctxl, bge-gemma, mxbai v2)."""
    passages: str | None = None
    """How to score long documents, such as maxp(tokens=256, stride=128); by default they are cut."""
    token_budget: int | None = None
    """Tokens per forward pass; by default what suits the device."""
    max_documents: int = 1000
    """Documents of one request."""
    max_body_mb: float = 16.0
    """Megabytes of one request."""
    max_queue: int = 64
    """Requests that may wait; more get 429."""
    max_connections: int = 256
    """Connections at once; more get 429."""
    batch_documents: int = 2048
    """Documents of waiting requests that are scored together."""
    timeout: float = 60.0
    """Seconds a request may wait for its scores."""
    client_timeout: float = 20.0
    """Seconds a caller has to send a request, or to take the answer."""


def main(options: Options) -> None:
    """Loads the model, tries it, and serves until SIGINT or SIGTERM; requests at work are finished then."""
    _check(options)
    service = open_service(options)
    bounds = Bounds(
        body=int(options.max_body_mb * (1 << 20)),
        connections=options.max_connections,
        seconds=options.client_timeout,
        key=os.environ.get(KEY) or None,
    )
    if options.dry_run:
        console.out(f"{service.name}: ready to serve on {options.host}:{options.port}")
        return
    try:
        server = Server(options.host, options.port, service, bounds)
    except OSError as error:
        raise MissingPrerequisiteError(
            f"cannot listen on {options.host}:{options.port}: {error.strerror}"
        ) from None
    service.start(SAMPLES)
    _serve(server)


def open_service(options: Options) -> Service:
    """The service that the flags describe, not yet started."""
    from ..engine.model import longest_input, takes_instructions
    from ..executors.open import open_scorer

    aggregator = registry.aggregators.parse(options.aggregator) if options.aggregator else None
    model, schedule, passages = load_asked(options)
    scorer = open_scorer(
        model, device=options.device, dtype=options.dtype, token_budget=options.token_budget, progress=False
    )
    fast = model.tokenizer
    return Service(
        Windowed(scorer, fast, passages) if passages else scorer,
        options.name or model.name.rstrip("/").split("/")[-1],
        schedule,
        aggregator,
        tokenizer=None if fast is None else _counting(fast),
        max_length=None if passages else longest_input(model),
        told=takes_instructions(model),
        limits=Limits(options.max_documents, options.max_queue, options.batch_documents, options.timeout),
    )


def _counting(fast: Any) -> Any:
    """A copy of the model's tokeniser that never cuts, for use in many threads."""
    from tokenizers import Tokenizer

    copy = Tokenizer.from_str(fast.backend_tokenizer.to_str())
    copy.no_truncation()
    copy.no_padding()
    return copy


def _check(options: Options) -> None:
    positive = ("max_documents", "max_body_mb", "max_queue", "max_connections", "batch_documents", "timeout")
    wrong = [name for name in (*positive, "client_timeout") if not getattr(options, name) > 0]
    if wrong:
        raise UsageError(", ".join(f"--{name.replace('_', '-')} must be above 0" for name in wrong))
    if not 0 <= options.port <= 65535:
        raise UsageError(f"--port {options.port} is none: choose one of 0..65535")


def _serve(server: Server) -> None:
    """Serves in a thread, while this one waits for a signal."""
    stopped = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        stopped.set()

    host, port = server.server_address[:2]
    shown = f"[{host!s}]" if ":" in str(host) else str(host)
    if server.bounds.key is None and shown not in ("127.0.0.1", "localhost", "[::1]"):
        console.log.warning("anybody who reaches %s can use this service: set %s to ask for a key", shown, KEY)
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, stop)
    thread = threading.Thread(target=server.serve_forever, args=(0.1,), name="accepting", daemon=True)
    thread.start()
    console.out(f"{server.service.name} is served on http://{shown}:{port}/rerank")
    stopped.wait()
    console.log.info("finishing what is at work")
    server.stop()
