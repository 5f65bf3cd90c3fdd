"""What a model does with a batch on a GPU as one launch: recorded CUDA graphs, by shape.

At a batch of one the host takes ten times as long to ask for some hundred small kernels as the GPU
takes to run them. A CUDA graph asks for all of them at once. What is recorded is a batch's way
through the model as it is: the same kernels in the same order, so the same bits.
"""

from __future__ import annotations

import functools
import os
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from fastalign.errors import GraphWarning
from fastalign.nn.constants import held
from fastalign.nn.module_state import ModuleState
from fastalign.nn.state import captured, transformed
from fastalign.ops import backends, plain, plans

ENVIRONMENT = "FASTALIGN_CUDA_GRAPHS"
# Graphs of a model, each with inputs, results and a share of their common memory.
_MOST = 4
# Shapes that were seen once: a graph is made for the ones that come again.
_REMEMBERED = 64

_Results = TypeVar("_Results", bound="tuple[Tensor, ...]")
_Model = TypeVar("_Model", bound="Replaying")
Work = Callable[[Tensor], "tuple[Tensor, ...]"]


class Replaying(Protocol):
    """A module with graphs of its own, while it may be replayed."""

    replays: Replays

    @property
    def replayable(self) -> bool: ...


class CudaGraph:
    """Work recorded for one shape.

    Arguments:
        work: from a batch to tensors, without a look at values on the way.
        images: an example; what is recorded reads a copy of it.
        pool: memory that graphs share which never run at the same time.

    Raises:
        RuntimeError: it cannot be recorded.
    """

    def __init__(self, work: Work, images: Tensor, pool: Any) -> None:
        self._images = images.detach().clone(memory_format=torch.contiguous_format)
        self._graph = torch.cuda.CUDAGraph()
        stream = torch.cuda.Stream(images.device)
        stream.wait_stream(torch.cuda.current_stream(images.device))
        # A stream brings its device with it.
        with torch.cuda.stream(stream), held() as self._constants:
            # What libraries and this one make at a first call must not be part of it.
            work(self._images)
            stream.synchronize()
            with torch.cuda.graph(
                self._graph, pool=pool, stream=stream, capture_error_mode="thread_local"
            ):
                self._results = work(self._images)

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        """The results for a batch, which the next call overwrites."""
        with torch.cuda.device(images.device):
            self._images.copy_(images)
            self._graph.replay()
        return self._results


class Replays:
    """The graphs of one module: the least recently used goes when there are too many.

    The first batch of a shape runs as ever, the second one is recorded, and from then on it is
    replayed. A graph goes when the module is not what it was. Calls may come from several threads
    and streams; the graphs share their memory and run one after the other. Results are copies.
    """

    def __init__(
        self,
        record: Callable[[Work, Tensor, Any], Callable[[Tensor], tuple[Tensor, ...]]] = CudaGraph,
        kind: str = "cuda",
    ) -> None:
        self._record, self._kind = record, kind
        self._lock = threading.RLock()
        self._graphs: OrderedDict[tuple[Any, ...], Callable[[Tensor], tuple[Tensor, ...]] | None]
        self._graphs = OrderedDict()
        self._state: ModuleState | None = None
        self._stream: Any = None
        self._pool: Any = None
        self._refused: set[tuple[Any, ...]] = set()

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy of the module, in memory or elsewhere, records its own.
        return type(self), (self._record, self._kind)

    def __deepcopy__(self, memo: dict[int, Any]) -> Replays:
        return type(self)(self._record, self._kind)

    def serves(self, images: Tensor) -> bool:
        """Whether a batch may be replayed: on a GPU, without gradients, and nothing looks on."""
        return (
            type(images) is Tensor
            and images.device.type == self._kind
            and not torch.is_grad_enabled()
            and os.environ.get(ENVIRONMENT, "1") != "0"
            and len(images) > 0
            and not captured()
            and not transformed()
            and not plain.active()
            and not (self._kind == "cuda" and torch.cuda.is_current_stream_capturing())
        )

    def __call__(self, module: Any, name: str, work: Work, images: Tensor) -> Any:
        """``work(images)``, where ``name`` and ``module`` stand for all that it depends on."""
        with self._lock:
            if self._state is not None and not self._state.holds():
                self.forget()
            key = (name, *_setting(), images.device, images.dtype, tuple(images.shape))
            graph = self._graphs.get(key)
            if graph is None:
                if key in self._graphs and key not in self._refused:
                    graph = self._recorded(module, key, work, images)
                if graph is None:
                    self._keep(key, None)
                    return work(images)
                self._keep(key, graph)
            self._graphs.move_to_end(key)
            self._follow(images.device)
            # Outside inference mode: what is recorded lives on, and modes come and go.
            with torch.inference_mode(False), torch.no_grad():
                results = graph(images)
            # In the mode of the caller, as the results of any other call.
            copies = [result.clone() for result in results]
        return type(results)(*copies) if hasattr(results, "_fields") else tuple(copies)

    def forget(self) -> None:
        """Let all graphs go."""
        with self._lock:
            self._graphs.clear()
            # A pool ends with the last graph in it.
            self._state = self._pool = None

    def _recorded(
        self, module: nn.Module, key: tuple[Any, ...], work: Work, images: Tensor
    ) -> Callable[[Tensor], tuple[Tensor, ...]] | None:
        state = self._state or ModuleState(module)
        if state.hooked:
            return None
        if self._pool is None and self._kind == "cuda":
            self._pool = torch.cuda.graph_pool_handle()
        self._follow(images.device)
        try:
            with torch.inference_mode(False), torch.no_grad():
                graph = self._record(work, images, self._pool)
        except RuntimeError as error:
            # Of this shape alone: another one may need less memory, and room is made for it.
            self.forget()
            if not self._refused:
                why = str(error).partition("\n")[0]
                warnings.warn(
                    f"a batch of {len(images)} could not be recorded as a CUDA graph ({why}) and "
                    f"is scored call by call, which is slower; {ENVIRONMENT}=0 does without graphs "
                    "and without this line.",
                    GraphWarning,
                    stacklevel=5,
                )
            self._refused.add(key)
            return None
        # After the first work, which may settle what is settled late.
        self._state = ModuleState(module)
        return graph

    def _keep(self, key: tuple[Any, ...], graph: Any) -> None:
        self._graphs[key] = graph
        made = [key for key, kept in self._graphs.items() if kept is not None]
        once = [key for key, kept in self._graphs.items() if kept is None]
        for old in (*made[:-_MOST], *once[:-_REMEMBERED]):
            del self._graphs[old]

    def _follow(self, device: torch.device) -> None:
        """Let the current stream wait for the one that the last call came on: they share memory."""
        if self._kind != "cuda":
            return
        stream = torch.cuda.current_stream(device)
        if self._stream is not None and self._stream != stream:
            stream.wait_stream(self._stream)
        self._stream = stream


def _setting() -> tuple[Any, ...]:
    """What kernels are chosen by, besides their tensors."""
    return (
        torch.backends.cudnn.conv.fp32_precision,  # type: ignore[attr-defined]
        torch.backends.cuda.matmul.fp32_precision,
        torch.backends.cudnn.benchmark,
        torch.are_deterministic_algorithms_enabled(),
        os.environ.get(backends.ENVIRONMENT),
        repr(plans.forced_plans()),
    )


def replayed(
    method: Callable[[_Model, Tensor], _Results],
) -> Callable[[_Model, Tensor], _Results]:
    """A method from images to tensors, replayed where the model's ``replays`` serve them."""

    @functools.wraps(method)
    def run(self: _Model, images: Tensor) -> _Results:
        replays: Replays = self.replays
        if not (isinstance(images, Tensor) and self.replayable and replays.serves(images)):
            return method(self, images)
        found: _Results = replays(self, method.__name__, functools.partial(method, self), images)
        return found

    return run
