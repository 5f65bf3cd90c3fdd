"""``fastalign serve``: the application on a port, until it is told to end."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastalign.data import Depth, load_image
from fastalign.drift.settings import INTERVAL
from fastalign.engine.drift import NO_NORMAL, drift_interval, monitor_of
from fastalign.engine.runfolder import reserve
from fastalign.engine.scoring import stored_depth, thresholds
from fastalign.errors import BackendError, InputError, extra
from fastalign.line.drift import LineDrift
from fastalign.line.journal import JOURNAL, Journal
from fastalign.line.scorer import LineScorer
from fastalign.line.serve.settings import Settings
from fastalign.numeric import real_number

if TYPE_CHECKING:
    from fastalign.drift.monitor import DriftMonitor
    from fastalign.line.serve.updating import ModelUpdater
    from fastalign.models.fyd import FYD

_PACKAGES = ("fastapi", "uvicorn", "prometheus_client")
# Connections beyond those that may be judged: pages, health checks, metrics.
_OTHERS = 64
_LARGEST_HEAD = 16_384
# Seconds after which a thread that computes in Python lets another one on. A model in this process
# asks for its turn some hundred times for each photograph, and waits so long at most while others
# are answered; 5 ms, Python's own, cost a tenth of the throughput.
_TURN = 0.0005


def require() -> None:
    """Make sure that what the server needs is installed.

    Raises:
        BackendError: it is not; the message has the line that installs it.
    """
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        raise BackendError(
            f"fastalign serve needs {' and '.join(missing)}, which this installation has not; "
            f"install them with: {extra('serve')}"
        )


def serve(
    model: FYD,
    settings: Settings,
    *,
    model_name: str,
    out: str | os.PathLike[str] | None = None,
    threshold: float | None = None,
    pixel_threshold: float | None = None,
    least_area: float = 0.0,
    drift: int = INTERVAL,
    depth: Depth | None = None,
    updating: ModelUpdater | None = None,
    apart: bool = False,
    started: Callable[[str], Any] | None = None,
    note: Callable[[str], Any] | None = None,
    stop: threading.Event | None = None,
) -> None:
    """Judge photographs over HTTP until SIGTERM or Ctrl-C; what is being judged is answered.

    Args:
        model: a fitted model; the device it is on is used, by one thread.
        settings: limits, and who may ask.
        model_name: for the page.
        out: folder for ``verdicts.jsonl``, in which a line is on the disk before its verdict is
            told, and feedback; None: nothing is kept.
        threshold, pixel_threshold, least_area: as in :func:`fastalign.engine.predict_paths`.
        drift: as in :func:`fastalign.line.watch.watch_folder`; with ``out`` lines tell of it.
        depth: of 16-bit files that state none, in place of the model's.
        updating: takes photographs that somebody says are good into the model; None: it stays as it
            is.
        apart: whether a process of its own has the model, on a CPU, so that verdicts, pictures and
            answers do not hold it up; memory is taken twice.
        started: told the address, once requests are answered.
        note: told what whoever runs it has to know.
        stop: set before it began, it does not begin.

    Raises:
        BackendError: a package is missing, or the process that has the model has ended by itself.
        ConfigError: an option has no such value.
        InputError: the address is taken, or ``out`` cannot be written or belongs to another run.
    """
    require()
    import uvicorn

    import fastalign
    from fastalign.line.serve.app import make_app
    from fastalign.line.serve.process import ModelProcess
    from fastalign.line.serve.service import Service
    from fastalign.line.serve.worker import LocalModel, ServedModel

    least_area = real_number("least area", least_area, 0)
    interval = drift_interval(drift)

    def judging_by(judge: FYD) -> tuple[LineScorer, DriftMonitor | None]:
        limits = thresholds(judge).given(threshold, pixel_threshold)
        watching = monitor_of(judge, interval)
        asked = watching is not None
        scorer = LineScorer(
            judge,
            limits,
            least_area=least_area,
            depth=depth,
            at_once=settings.at_once,
            conditions=asked,
        )
        return scorer, watching

    broken = threading.Event()
    servers: list[Any] = []

    def give_up() -> None:
        broken.set()
        for server in servers:
            server.should_exit = True

    def serving(scorer: LineScorer) -> ServedModel:
        return ModelProcess(scorer, give_up) if apart else LocalModel(scorer)

    scorer, monitor = judging_by(model)
    drifting = LineDrift(monitor)
    read = partial(load_image, depth=depth or stored_depth(model), most_pixels=settings.most_pixels)
    with ExitStack() as stack:
        journal = None
        if out is not None:
            stack.enter_context(reserve(Path(out), JOURNAL))
            journal = Journal(Path(out) / JOURNAL, drifting.replay)
            stack.callback(journal.close)
            begin = {"image_threshold": scorer.limits.image, "model": model_name}
            journal.add("begin", {**begin, **drifting.begin()})
            drifting.tell(drifting.unsaid(), journal)
        if interval and monitor is None and note is not None:
            note(NO_NORMAL)
        about = {"model": model_name, "version": fastalign.__version__, "kept": out is not None}
        service = Service(
            scorer, settings, about, read, journal, drifting, judging_by, serving, updating
        )
        service.worker.start()
        stack.callback(service.worker.stop)
        config = uvicorn.Config(
            make_app(service),
            host=settings.host,
            port=settings.port,
            http="h11",
            ws="none",
            lifespan="off",
            log_level="warning",
            access_log=False,
            server_header=False,
            date_header=False,
            limit_concurrency=settings.most_waiting + _OTHERS,
            timeout_keep_alive=5,
            timeout_graceful_shutdown=int(settings.seconds) + 1,
            h11_max_incomplete_event_size=_LARGEST_HEAD,
        )
        server = make_server(config, started)
        servers.append(server)
        if stop is not None and stop.is_set():
            return
        stack.callback(sys.setswitchinterval, sys.getswitchinterval())
        sys.setswitchinterval(min(_TURN, sys.getswitchinterval()))
        with contextlib.suppress(KeyboardInterrupt):
            try:
                server.run()
            except SystemExit as error:
                # uvicorn has told why in its log, and ends the process.
                raise InputError(
                    f"{settings.host}:{settings.port}: cannot listen there; is another server on "
                    "it? Give another --port, or 0 for any that is free."
                ) from error
        if broken.is_set():
            raise BackendError(
                "the process that has the model has ended by itself, as of a lack of memory (the "
                "system's log says more); photographs without an answer have to be sent again. "
                "Let a service manager start the server again."
            )


def make_server(config: Any, started: Callable[[str], Any] | None) -> Any:
    """A server that tells its address when it answers."""
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            if self.started and started is not None:
                host, port = self.servers[0].sockets[0].getsockname()[:2]
                shown = f"[{host}]" if ":" in host else host
                started(f"http://{shown}:{port}/")

    return Server(config)
