"""The objects that settings name as ``module:name``, such as the dispatch of a queue."""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping
from importlib import import_module
from typing import Any, Final, cast

from backjob.errors import InvalidRequest
from backjob.jobs.options import attach
from backjob.settings import readers

_NAME: Final = re.compile(r"([\w.]+):([\w.]+)")
_not_attached: Final[list[tuple[object, object]]] = []


def is_name(text: str) -> bool:
    """Whether a text has the form ``module:name``."""
    return _NAME.fullmatch(text) is not None


def named(name: str, argument: str) -> object:
    """Import the object ``module:name``. Raises `InvalidRequest` naming the argument if there is none.

    Exceptions of the module itself propagate.
    """
    found = _NAME.fullmatch(name)
    if found is None:
        shown = "" if re.search("[@/]", name) else f", not {name!r}"  # it may be a URL with a password
        raise InvalidRequest(argument, f"must be module:name, such as myapp:jobs{shown}")
    module_name, attribute = found.groups()
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        if not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise InvalidRequest(
            argument, f"there is no module {error.name!r} in the current directory or on sys.path"
        ) from None
    try:
        return cast("object", operator.attrgetter(attribute)(module))
    except AttributeError as error:
        raise InvalidRequest(argument, str(error)) from None


def attach_early(queues: object, jobs: object) -> None:
    """Tell the dispatches in a setting QUEUES whose jobs they hand over, for an adapter that makes its engine later.

    A worker may get a job before anything else needs the engine. If the setting is invalid, this does nothing: the engine
    reports it.
    """
    if queues is not None:
        _not_attached.append((queues, jobs))
        attach_left()


def attach_left() -> None:
    """Tell the dispatches that could not be found before: of a module that imports the application and was still beginning."""
    left, _not_attached[:] = [*_not_attached], []
    for queues, jobs in left:
        try:
            attach([with_dispatch(queue).get("dispatch") for queue in readers.queues(queues).values()], jobs)
        except Exception:
            _not_attached.append((queues, jobs))


def with_dispatch(queue: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the settings of a queue, with the function that its ``dispatch`` names."""
    dispatch = queue.get("dispatch")
    return {**queue, "dispatch": named(dispatch, "QUEUES")} if isinstance(dispatch, str) else queue
