"""torchao's two ways to int8: weights and per-token activations quantised as they come, and calibrated for x86."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.peers import Prepared
from benchmarks.peers.modules import longest, tower, tower_inputs
from benchmarks.work import Work


def requires(work: Work) -> tuple[str, ...]:
    return ("torchao",)


def variants(work: Work) -> tuple[str, ...]:
    return ("dynamic", "static")


def prepare(work: Work, variant: str) -> Prepared:
    """Compiled with frozen weights, one static shape."""
    import torch._inductor.config as inductor

    torch.set_num_threads(work.threads)
    inductor.freezing = True
    torch.compiler.reset()
    values = tower_inputs(work, length=longest(work) if work.task == "texts" else None)
    quantised = _static(work, values) if variant == "static" else _dynamic(work)
    compiled = torch.compile(quantised, dynamic=False)

    def call() -> Any:
        with torch.no_grad():
            return compiled(values)

    return Prepared(call, work.batch, lambda: call().float().numpy())


def _dynamic(work: Work) -> torch.nn.Module:
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    module = tower(work)
    quantize_(module, Int8DynamicActivationInt8WeightConfig())
    return module


def _static(work: Work, values: torch.Tensor) -> torch.nn.Module:
    """Calibrated on the inputs that are measured."""
    from torchao.quantization.pt2e import move_exported_model_to_eval
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    with torch.no_grad():
        exported = torch.export.export(tower(work), (values,)).module()
        quantizer = x86.X86InductorQuantizer()
        quantizer.set_global(x86.get_default_x86_inductor_quantization_config())
        prepared = prepare_pt2e(exported, quantizer)
        prepared(values)
        return move_exported_model_to_eval(convert_pt2e(prepared))
