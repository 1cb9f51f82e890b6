"""The recipes of docs/notifications.md: their messages arrive at servers, as the page says."""

from __future__ import annotations

import json
import smtplib
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import ModuleType, SimpleNamespace
from typing import Any, Final, Self

import pytest

from backjob import JobState, Status
from backjob.jobs.states import state_of
from backjob.lifecycle import completed, ended, failed
from backjob.model import Draft, Expect, Request
from backjob.stores.memory import MemoryStore
from tests.docs.pages import ROOT, blocks

PAGE: Final = ROOT / "docs" / "notifications.md"
SECRET: Final = "a secret of this test"


def module_of(title: str) -> Any:
    """The blocks of the page with this title, as one module."""
    module = ModuleType(title.removesuffix(".py"))
    code = "\n".join(block.code for block in blocks(PAGE) if block.title == title)
    exec(compile(code, title, "exec"), module.__dict__)
    return module


def state(*, fails: bool = False) -> JobState:
    """The state of a job that has ended."""
    store = MemoryStore()
    store.create(Draft(id="job", request=Request("GET", "/export"), title="Invoices <2026>"))
    job = store.get("job")
    assert job is not None
    store.change("job", Expect(), ended(failed("No such customer") if fails else completed("Ready"), job))
    job = store.get("job")
    assert job is not None
    return state_of(job, lambda _: "")


@contextmanager
def receiving() -> Iterator[tuple[str, list[tuple[dict[str, str], bytes]]]]:
    """A server that accepts one POST. Yields its URL, and the list of what it got."""
    got: list[tuple[dict[str, str], bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append((dict(self.headers), self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/hook", got
        finally:
            server.shutdown()
            thread.join()


def test_a_mail_has_an_address_a_subject_and_a_text(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[EmailMessage] = []

    class Server:
        def __init__(self, host: str, *, timeout: float) -> None:
            assert (host, timeout) == ("localhost", 10)

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def send_message(self, message: EmailMessage) -> None:
            sent.append(message)

    monkeypatch.setattr(smtplib, "SMTP", Server)
    monkeypatch.setenv("MAIL_FROM", "shop@shop.example")
    monkeypatch.delenv("SMTP_HOST", raising=False)
    module_of("notify.py").mail("ann@shop.example", "Invoices", "Ready")
    [message] = sent
    assert (message["To"], message["Subject"]) == ("ann@shop.example", "Invoices")
    assert message.get_content() == "Ready\n"


def test_slack_gets_a_failure_escaped_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    notify = module_of("notify.py")
    with receiving() as (url, got):
        monkeypatch.setenv("SLACK_WEBHOOK", url)
        notify.slack(state())
        notify.slack(state(fails=True))
    [(headers, body)] = got
    assert headers["Content-Type"] == "application/json"
    assert json.loads(body) == {"text": "Job job (Invoices &lt;2026&gt;) failed: No such customer"}


def test_a_webhook_is_authentic_for_five_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    notify = module_of("notify.py")
    monkeypatch.setenv("WEBHOOK_SECRET", SECRET)
    with receiving() as (url, got):
        monkeypatch.setenv("WEBHOOK_URL", url)
        notify.webhook(state())
    [(headers, body)] = got
    sent, signature = headers["Webhook-Time"], headers["Webhook-Signature"]
    assert (headers["Webhook-Id"], json.loads(body)["status_name"]) == ("job", Status.COMPLETED.name)
    assert notify.is_authentic(body, sent, signature, SECRET.encode())
    assert not notify.is_authentic(body + b" ", sent, signature, SECRET.encode())
    assert not notify.is_authentic(body, str(int(sent) + 1), signature, SECRET.encode())
    assert not notify.is_authentic(body, sent, signature, b"another secret")
    monkeypatch.setattr(time, "time", lambda: int(sent) + 301)
    assert not notify.is_authentic(body, sent, signature, SECRET.encode())


def test_a_withdrawn_subscription_is_forgotten_and_the_others_get_the_push(monkeypatch: pytest.MonkeyPatch) -> None:
    class WebPushError(Exception):
        def __init__(self, status: int) -> None:
            self.response = SimpleNamespace(status_code=status)

    pushed: list[str] = []

    def webpush(subscription: dict[str, str], data: str, *, vapid_claims: dict[str, str], **options: object) -> None:
        assert list(vapid_claims) == ["sub"]
        vapid_claims["aud"] = "as the library does"
        if status := {"gone": 410, "down": 503}.get(subscription["endpoint"]):
            raise WebPushError(status)
        pushed.append(f"{subscription['endpoint']}: {json.loads(data)['title']}")

    library: Any = ModuleType("pywebpush")
    library.webpush, library.WebPushException = webpush, WebPushError
    monkeypatch.setitem(sys.modules, "pywebpush", library)
    monkeypatch.setenv("VAPID_PRIVATE_KEY", "key")
    forgotten: list[dict[str, str]] = []
    endpoints = [{"endpoint": name} for name in ("gone", "down", "here", "there")]
    module_of("push.py").push(state(), endpoints, forgotten.append)
    assert forgotten == [{"endpoint": "gone"}]
    assert pushed == ["here: Invoices <2026>", "there: Invoices <2026>"]
