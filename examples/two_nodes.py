"""One service in several processes: two workers, Redis, and a job that publishes from outside.

::

    redis-server --port 6379 --save ""
    python examples/two_nodes.py --broker redis://127.0.0.1:6379

Open http://127.0.0.1:8000 in two tabs: each says which worker serves it. A line typed in one tab
arrives in both, whichever workers they have, and so do the ticks of the job, which has no bus.

To learn here: ``Bus(broker=…)`` is the only line that makes one bus of two; by
``family(…, history=…)`` a tab misses nothing while its worker is gone; the job publishes through
:class:`wsbus.emitter.SyncEmitter`, as a Celery task or a script of cron would; and ``/ready``
answers 503 while the broker cannot be reached, so that a proxy goes elsewhere.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Final

import uvicorn
from fastapi import FastAPI
from fastapi.responses import HTMLResponse, JSONResponse
from msgspec import Meta

from wsbus import Bus, History
from wsbus.adapters.starlette import lifespan, web_routes, websocket_route
from wsbus.brokers import broker_of
from wsbus.emitter import SyncEmitter

BROKER: Final = "TWO_NODES_BROKER"
"""The variable by which workers and job know the broker's URL."""

HISTORY: Final = History(size=100, ttl=600)
"""All channels keep their latest lines, so that a tab whose worker is gone misses nothing."""


def make_app() -> FastAPI:
    """Return the application; each worker calls it."""
    bus = Bus(broker=broker_of(os.environ[BROKER]))
    bus.family("*", history=HISTORY)
    app = FastAPI(title="Two nodes", lifespan=lifespan(bus))
    app.router.routes += [websocket_route("/ws", bus.endpoint()), *web_routes()]

    @bus.command("worker")
    def worker() -> dict[str, int]:
        """Tell which worker this is, and how many there are."""
        return {"pid": os.getpid(), "nodes": len(bus.nodes())}

    @bus.command("say")
    async def say(text: Annotated[str, Meta(min_length=1, max_length=200)]) -> None:
        """Publish a line to everyone, on every worker."""
        await bus.publish("chat.lobby", {"text": text, "worker": os.getpid()}, event="said")

    @app.get("/ready")
    def ready() -> JSONResponse:
        return JSONResponse({"ready": bus.healthy}, 200 if bus.healthy else 503)

    @app.get("/")
    def page() -> HTMLResponse:
        return HTMLResponse(PAGE)

    return app


def run_job(url: str, seconds: float) -> None:
    """Publish a tick now and then, from a process without a bus."""
    emitter = SyncEmitter(broker_of(url))
    emitter.family("*", history=HISTORY)
    with emitter:
        number = 0
        while True:
            number += 1
            emitter.publish("job.ticks", {"number": number, "job": os.getpid()}, event="tick")
            time.sleep(seconds)  # The job's own pace: it waits for nothing but the clock.


PAGE: Final = Path(__file__).with_name("two_nodes.html").read_text(encoding="utf-8")


def main() -> None:
    """Run two workers, and the job beside them."""
    parser = argparse.ArgumentParser(description="One service in several processes.")
    parser.add_argument("--broker", default="redis://127.0.0.1:6379", help="its URL")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--job", type=float, help="only publish a tick every so many seconds")
    options = parser.parse_args()
    if options.job is not None:
        run_job(options.broker, options.job)
        return
    broker_of(options.broker)  # A mistake in the URL shows here, not in each worker.
    os.environ[BROKER] = options.broker
    command = [sys.executable, __file__, "--broker", options.broker, "--job", "1"]
    job = subprocess.Popen(command)  # noqa: S603  # this file
    try:
        uvicorn.run(
            "two_nodes:make_app",
            factory=True,
            app_dir=str(Path(__file__).parent),
            port=options.port,
            workers=options.workers,
        )
    finally:
        job.terminate()
        job.wait()


if __name__ == "__main__":
    main()
