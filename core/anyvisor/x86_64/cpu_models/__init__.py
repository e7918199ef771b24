"""CPU models: which processor a guest sees, as data and not as code.

Some facts about CPU models. What a processor can do, a guest learns from CPUID, and a hypervisor can hide any of it. A
guest that sees everything runs fastest, but only where everything is there: with the model of an older processor it
runs on every host that is no older, and a snapshot of it can move between them. What a host cannot do must not be
claimed: the guest would find out by an invalid-opcode exception. So a model is checked against what the host supports,
bit by bit, before there is a guest.

A model is a template in TOML: features by name, caches, family and model, raw bits where there is no name, and MSRs. A
template can extend another. `docs/reference/cpu-models.md` has the format and the models that anyvisor brings.

    >>> from anyvisor import generic_facts
    >>> cpu_model("x86-64-v1").cpuid(generic_facts()).brand
    'anyvisor x86-64-v1'
    >>> [str(each) for each in cpu_model("x86-64-v2").missing(generic_facts())][:2]
    ['SSE3 (0x1 ECX bit 0)', 'SSSE3 (0x1 ECX bit 9)']
"""

from __future__ import annotations

from anyvisor.config import is_path
from anyvisor.x86_64.cpu_models.anywhere import host_for
from anyvisor.x86_64.cpu_models.missing import Missing
from anyvisor.x86_64.cpu_models.model import CpuModel, cpu_model, fitting_models, model_names
from anyvisor.x86_64.cpu_models.template import Cache, LeafPatch, RegisterBits, Template

__all__ = [
    "Cache",
    "CpuModel",
    "LeafPatch",
    "Missing",
    "RegisterBits",
    "Template",
    "cpu_model",
    "fitting_models",
    "host_for",
    "is_path",
    "model_names",
]
