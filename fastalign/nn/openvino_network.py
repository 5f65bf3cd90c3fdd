"""Networks as OpenVINO computes them: converted in memory, compiled for each size of an image.

Images go through one by one: a batch takes no less time than as many single images, which fit a
processor's caches, and so the others of a batch cannot change a bit. Results are written where the
caller finds them, in channels_last as torch's convolutions leave theirs.
"""

from __future__ import annotations

import functools
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fastalign.nn.module_state import ModuleState
from fastalign.nn.state import captured, own_state, transformed
from fastalign.ops import plain

# Largest difference of a map as a part of its largest value, torch's float32 beside OpenVINO's:
# sums in another order stay well below it (tests/nn/test_runtime.py has networks of several kinds).
# In bfloat16 it may be twice as far from float32 as torch's.
PARITY = 1e-5
# Sizes and numbers of threads for which a network is kept; the least recently used one goes.
_MOST = 4

Network = Callable[[Tensor], Sequence[Tensor]]


class Refusal(Exception):
    """Why a network is not computed by OpenVINO; ``final``: nothing of how it is called changes
    that."""

    final = False


class _Unable(Refusal):
    final = True


class _Compiled:
    """A network for images of one size, and a request for each thread that calls it."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._requests = threading.local()
        # Of one image, in channels_last.
        self._shapes = [tuple(output.shape)[1:] for output in model.outputs]

    def __call__(self, images: Tensor) -> list[Tensor]:
        """Maps ``[B,C,h,w]``, float32, of images ``[B,3,H,W]``."""
        import openvino

        request = getattr(self._requests, "own", None)
        if request is None:
            request = self._requests.own = self._model.create_infer_request()
        images = images.detach().contiguous()
        found = [torch.empty(len(images), *shape) for shape in self._shapes]
        for place in range(len(images)):
            of = slice(place, place + 1)
            request.set_input_tensor(openvino.Tensor(images[of].numpy(), shared_memory=True))
            for index, maps in enumerate(found):
                tensor = openvino.Tensor(maps[of].numpy(), shared_memory=True)
                request.set_output_tensor(index, tensor)
            request.infer()
        return [maps.permute(0, 3, 1, 2) for maps in found]


class _Watched(NamedTuple):
    """What a module was when it was compiled: its parts, and how often its tensors were changed."""

    state: ModuleState
    tensors: list[Tensor]
    versions: list[int]

    @classmethod
    def of(cls, module: nn.Module) -> _Watched:
        tensors = [*module.parameters(), *module.buffers()]
        return cls(ModuleState(module), tensors, list(map(_version, tensors)))

    def holds(self) -> bool:
        return self.state.holds() and self.versions == list(map(_version, self.tensors))


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


class _Listed(nn.Module):
    """A network as something that is traced: its maps one by one, nothing else."""

    def __init__(self, part: nn.Module, work: Network) -> None:
        super().__init__()
        self.part = part
        self._work = work

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(self._work(images))


class OpenvinoNetwork:
    """The compiled forms of a network in one precision, by part and size; empty in a copy.

    Arguments:
        precision: ``"float32"`` or ``"bfloat16"``.
    """

    def __init__(self, precision: str) -> None:
        self._precision = precision
        self._lock = threading.RLock()
        self._made: OrderedDict[tuple[Any, ...], _Compiled | Refusal] = OrderedDict()
        self._watched: dict[str, _Watched] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._precision,)

    def __deepcopy__(self, memo: dict[int, Any]) -> OpenvinoNetwork:
        return type(self)(self._precision)

    @staticmethod
    def serves(images: Tensor, module: nn.Module) -> bool:
        """Whether it may compute what these images give: nothing looks on, no gradients."""
        return (
            not captured()
            and type(images) is Tensor
            and images.device.type == "cpu"
            and images.dtype == torch.float32
            and images.numel() > 0
            and not transformed()
            and not plain.active()
            and torch._C._len_torch_dispatch_stack() == 0
            and not (
                torch.is_grad_enabled()
                and (images.requires_grad or any(p.requires_grad for p in module.parameters()))
            )
        )

    def find(
        self,
        name: str,
        module: nn.Module,
        work: Network,
        own: Network,
        size: tuple[int, ...],
        check: Callable[[], None],
    ) -> Callable[[Tensor], list[Tensor]]:
        """What computes a part of a network for images of one size.

        Args:
            name: of the part.
            module: the part, in float32.
            work: its maps of images, by ``module``.
            own: the same as torch computes it in the precision that is asked for.
            size: channels, height and width of an image.
            check: raises what speaks against this size.

        Raises:
            Refusal: it cannot be converted, or gives something else than torch does.
        """
        with self._lock:
            watched = self._watched.get(name)
            if watched is None or not watched.holds():
                for key in [key for key in self._made if key[0] == name]:
                    del self._made[key]
                watched = self._watched[name] = _Watched.of(module)
            if watched.state.hooked:
                raise Refusal("the network has forward hooks")
            key = name, size, torch.get_num_threads()
            found = self._made.get(key)
            if found is None:
                try:
                    check()
                    found = self._make(module, work, own, size)
                except Refusal as refusal:
                    found = refusal
                self._made[key] = found
                # Reasons are kept as well: nothing is tried for each image.
                while len(self._made) > _MOST * len(self._watched):
                    self._made.popitem(last=False)
            self._made.move_to_end(key)
        if isinstance(found, Refusal):
            raise found.with_traceback(None)
        return found

    def _make(
        self, module: nn.Module, work: Network, own: Network, size: tuple[int, ...]
    ) -> _Compiled:
        probe = torch.rand(1, *size, generator=torch.Generator().manual_seed(0))
        with own_state(making=True), torch.no_grad():
            try:
                wanted = [maps.float() for maps in work(probe)]
            except (AssertionError, RuntimeError, ValueError) as error:
                # For torch to say.
                raise Refusal(f"torch does not compute this size ({_first_line(error)})") from None
            compiled = _converted(_Listed(module, work), probe, self._precision)
            bound = PARITY
            if self._precision != "float32":
                bound = max(bound, 2 * _distance(own(probe), wanted))
            try:
                found = compiled(probe)
            except RuntimeError as error:
                raise _Unable(f"OpenVINO fails on it ({_first_line(error)})") from None
        if (off := _distance(found, wanted)) > bound:
            raise _Unable(f"its maps are off by {off:.2g} of the largest value, not {bound:.2g}")
        return compiled


def _distance(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    """Largest difference of a map as a part of its largest value; infinite where shapes differ."""
    if [maps.shape for maps in found] != [maps.shape for maps in wanted]:
        return float("inf")
    parts = [
        float((one.float() - other).abs().max() / other.abs().max().clamp_min(1e-30))
        for one, other in zip(found, wanted, strict=True)
    ]
    return max((part if part == part else float("inf") for part in parts), default=0.0)


@functools.cache
def _core() -> Any:
    import openvino

    return openvino.Core()


def _converted(network: nn.Module, probe: Tensor, precision: str) -> _Compiled:
    """A network for images like ``probe``, by a recording of what it does with one.

    OpenVINO's own ``convert_model`` does the same by way of its command line's tools, which it
    loads first.

    Raises:
        Refusal: it cannot be.
    """
    import openvino
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bfloat16" else "f32",
        # torch's own threads run between the calls.
        "ENABLE_CPU_PINNING": False,
    }
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            traced = torch.jit.trace(network, probe, check_trace=False, strict=False)
            # Kept while it is converted: the frontend holds no Python object.
            decoder = TorchScriptPythonDecoder(traced)
            frontend = FrontEndManager().load_by_framework("pytorch")
            recorded = frontend.load(decoder)
            model = frontend.convert(recorded)
        model.reshape(openvino.PartialShape(list(probe.shape)))
        if any(len(output.partial_shape) != 4 for output in model.outputs):
            raise _Unable("a map of it has not four dimensions")
        steps = openvino.preprocess.PrePostProcessor(model)
        for index in range(len(model.outputs)):
            steps.output(index).model().set_layout(openvino.Layout("NCHW"))
            steps.output(index).tensor().set_layout(openvino.Layout("NHWC"))
            steps.output(index).tensor().set_element_type(openvino.Type.f32)
        return _Compiled(_core().compile_model(steps.build(), "CPU", settings))
    except (RuntimeError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise _Unable(f"OpenVINO does not convert it ({_first_line(error)})") from None


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # OpenVINO begins with the place in its source.
    told = [line for line in lines if not line.startswith("Check 'false' failed")]
    return next(iter(told or lines), type(error).__name__)
