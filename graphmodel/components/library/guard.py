"""What a library may do while it builds a model for a spec: run no code from files, and connect only if asked to."""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar
from unittest import mock
from urllib.error import HTTPError, URLError

import torch

from graphmodel.diagnostics import first_line

_FORCE, _NEVER = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"

TIMEOUT = 20.0
"""Seconds that a library waits for an answer."""

_INTERNET = (socket.AF_INET, socket.AF_INET6)
# Clients of the Hugging Face Hub have classes of their own; which one depends on their version.
_NAMES_OF_PROBLEMS = {
    "OfflineModeIsEnabled",
    "LocalEntryNotFoundError",
    "ConnectError",
    "ConnectTimeout",
    "ReadTimeout",
    "ProxyError",
}

_T = TypeVar("_T")

_follow: ContextVar[bool] = ContextVar("graphmodel_weights_follow", default=False)
_foreign: ContextVar[bool] = ContextVar("graphmodel_foreign_sources", default=False)


class ConnectionRefused(OSError):
    """A library wanted to open a connection that nobody asked for."""


_PROBLEMS = (ConnectionRefused, ConnectionError, TimeoutError, socket.gaierror, URLError)


@contextmanager
def only_weights() -> Iterator[None]:
    """Inside, `torch.load` reads tensors and plain data only, whatever its caller says.

    timm before 1.0.26 reads files with `weights_only=False`, which runs the code in a pickle. torch checks the
    variable at each call.
    """
    before = {name: os.environ.get(name) for name in (_FORCE, _NEVER)}
    os.environ[_FORCE] = "1"
    os.environ.pop(_NEVER, None)  # torch refuses to read anything if both are set
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def offline() -> Iterator[None]:
    """Inside, this thread opens no connection; the files that the Hugging Face Hub has cached are used.

    Raises:
        ConnectionRefused: in the library, at the first attempt.
    """
    here = threading.get_ident()

    def guarded(original: Any) -> Any:
        def connect(*args: Any, **kwargs: Any) -> Any:
            local = args and isinstance(args[0], socket.socket) and args[0].family not in _INTERNET
            if threading.get_ident() == here and not local:
                raise ConnectionRefused("a connection is not allowed here")
            return original(*args, **kwargs)

        return connect

    with ExitStack() as stack:
        for owner, name in ((socket.socket, "connect"), (socket.socket, "connect_ex"), (socket, "getaddrinfo")):
            stack.enter_context(mock.patch.object(owner, name, guarded(getattr(owner, name))))
        _use_cache_of_hub(stack)
        yield


def without_connection(make: Callable[[], _T]) -> _T | None:
    """What `make` returns without a connection, from files of a cache; None if it wants one.

    Then random numbers are where they were, so that the next attempt draws what the first did.
    """
    state = torch.get_rng_state()
    on_gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    try:
        with only_weights(), offline():
            return make()
    except Exception as error:
        if not connection_problem(error):
            raise
    torch.set_rng_state(state)
    if on_gpus:
        torch.cuda.set_rng_state_all(on_gpus)
    return None


@contextmanager
def downloading() -> Iterator[None]:
    """Inside, connections are allowed, but none waits for long, and after one that failed none is tried again.

    The Hugging Face Hub's client would try each of several files five times.
    """
    here = threading.get_ident()
    before = socket.getdefaulttimeout()
    with ExitStack() as stack:

        def watched(original: Any) -> Any:
            def connect(*args: Any, **kwargs: Any) -> Any:
                try:
                    return original(*args, **kwargs)
                except OSError:
                    if threading.get_ident() == here:
                        _use_cache_of_hub(stack)
                    raise

            return connect

        for name in ("create_connection", "getaddrinfo"):
            stack.enter_context(mock.patch.object(socket, name, watched(getattr(socket, name))))
        socket.setdefaulttimeout(before or TIMEOUT)
        stack.callback(socket.setdefaulttimeout, before)
        yield


def _use_cache_of_hub(stack: ExitStack) -> None:
    """Makes the client of the Hugging Face Hub, if it was imported, look into its cache and not connect."""
    constants = sys.modules.get("huggingface_hub.constants")
    if constants is not None:
        stack.enter_context(mock.patch.object(constants, "HF_HUB_OFFLINE", True))


def connection_problem(error: BaseException | None) -> str:
    """What an error says about a connection that failed or was not allowed; empty if it is about something else."""
    while error is not None:
        if isinstance(error, HTTPError):
            return ""
        if isinstance(error, _PROBLEMS) or type(error).__name__ in _NAMES_OF_PROBLEMS:
            return first_line(error)
        error = error.__cause__ or error.__context__
    return ""


@contextmanager
def weights_follow() -> Iterator[None]:
    """Inside, trunks are built without the weights that `pretrained` names: the caller has all of them already."""
    token = _follow.set(True)
    try:
        yield
    finally:
        _follow.reset(token)


def do_weights_follow() -> bool:
    """Whether the caller puts all weights in place once a model is built."""
    return _follow.get()


@contextmanager
def foreign_sources(allowed: bool) -> Iterator[None]:
    """Inside, whether a spec may name other sources of weights than the library's own."""
    token = _foreign.set(allowed)
    try:
        yield
    finally:
        _foreign.reset(token)


def foreign_sources_allowed() -> bool:
    """Whether the caller allowed the spec to name other sources of weights than the library's own."""
    return _foreign.get()
