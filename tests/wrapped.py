"""A real hypervisor with some methods replaced: broken on purpose, or watched."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

Methods = Mapping[str, Callable[..., Any]]
"""Method by method, what is called in its place, with the real object in front of the arguments."""


class Stand:
    """Stands for a real object: has all that it has, but for the methods that are replaced."""

    def __init__(self, inner: Any, methods: Methods):
        self._inner = inner
        self._methods = methods

    def __getattr__(self, name: str) -> Any:
        if name in self._methods:
            return functools.partial(self._methods[name], self._inner)
        return getattr(self._inner, name)

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Wrapped(Stand):
    """A hypervisor whose VMs and vCPUs have other methods: `Wrapped(real, vcpu={"kick": lambda vcpu: None})`."""

    def __init__(self, inner: Any, *, vm: Methods | None = None, vcpu: Methods | None = None):
        super().__init__(inner, {})
        self._vm, self._vcpu = vm or {}, vcpu or {}

    def create_vm(self, **options: Any) -> Stand:
        made = self._inner.create_vm(**options)
        return Stand(made, {"create_vcpu": self._create_vcpu, **self._vm})

    def _create_vcpu(self, vm: Any, *arguments: Any, **options: Any) -> Stand:
        return Stand(vm.create_vcpu(*arguments, **options), self._vcpu)
