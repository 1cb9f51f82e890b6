"""Checked by mypy and pyright, never run: where each framework of ASGI takes the middleware, and URLs where `start()` does."""

# mypy: disable-error-code="method-assign"
# Quart's own way of adding a middleware; to mypy asgi_app is a method.

from __future__ import annotations

from typing import assert_type

import litestar
from fastapi import FastAPI
from litestar import Litestar
from litestar.datastructures import State
from litestar.middleware import DefineMiddleware
from litestar.types import ASGIApp
from quart import Quart
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.types import ASGIApp as StarletteApp

from backjob import BackJob
from backjob.asgi import BackJobMiddleware, StatusApp


def starlette_app(jobs: BackJob) -> Starlette:
    app = Starlette(middleware=[Middleware(BackJobMiddleware, jobs=jobs)])
    app.add_middleware(BackJobMiddleware, jobs=jobs, status=False)
    app.mount("/backjob", StatusApp(jobs))
    return app


def fastapi_app(jobs: BackJob) -> FastAPI:
    app = FastAPI()
    app.add_middleware(BackJobMiddleware, jobs=jobs)
    app.mount("/backjob", StatusApp(jobs))
    return app


def quart_app(jobs: BackJob) -> Quart:
    app = Quart(__name__)
    app.asgi_app = BackJobMiddleware(app.asgi_app, jobs)
    return app


def litestar_app(jobs: BackJob) -> Litestar:
    def within(app: ASGIApp) -> ASGIApp:
        return BackJobMiddleware(app, jobs)

    return Litestar(middleware=[DefineMiddleware(BackJobMiddleware, jobs=jobs), within])


def around(jobs: BackJob, starlette: Starlette, litestar: Litestar, quart: Quart, fastapi: FastAPI) -> StarletteApp:
    for app in (
        BackJobMiddleware(starlette, jobs),
        BackJobMiddleware(litestar, jobs),
        BackJobMiddleware(quart, jobs),
        BackJobMiddleware(fastapi, jobs),
    ):
        assert_type(app, BackJobMiddleware)
    return BackJobMiddleware(starlette, jobs)


async def urls(jobs: BackJob, request: Request, other: litestar.Request[object, object, State]) -> None:
    assert_type(await jobs.astart(request.url_for("work")), str)
    assert_type(jobs.start(request.url_for("work"), {"a": 1}), str)
    await jobs.astart(other.url_for("work"))
    await jobs.astart(other.base_url)
    await jobs.astart(5)  # type: ignore[arg-type]
