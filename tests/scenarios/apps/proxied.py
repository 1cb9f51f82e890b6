"""Another scenario app behind the middleware by which its framework believes a proxy's headers.

``SCENARIO_INNER`` names it: ``module:name``.
"""

from __future__ import annotations

import inspect
import os
from typing import Any, Final

from tests.scenarios.serve import load

__all__ = ["app"]


def _proxied(inner: Any) -> Any:
    if inspect.iscoroutinefunction(inner):
        from hypercorn.middleware import ProxyFixMiddleware

        return ProxyFixMiddleware(inner, mode="legacy")
    from werkzeug.middleware.proxy_fix import ProxyFix

    return ProxyFix(inner, x_for=1, x_proto=1, x_host=1, x_port=1, x_prefix=1)


app: Final = _proxied(load(f"tests.scenarios.apps.{os.environ['SCENARIO_INNER']}:app"))
