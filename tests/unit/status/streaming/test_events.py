"""Server-sent events, parsed by the rules that the standard sets for browsers."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from backjob.model import Output
from backjob.status.streaming.events import HEARTBEAT, PREAMBLE, event, numbered, output_event
from tests.event_source import EventSource


def test_an_event_has_a_name_data_and_the_given_id() -> None:
    source = EventSource()
    source.feed(numbered(812, event("state", {"progress": 40})))
    assert source.events == [("state", '{"progress": 40}', "812")]


def test_the_preamble_and_a_heartbeat_are_not_events() -> None:
    source = EventSource()
    source.feed(PREAMBLE + HEARTBEAT)
    assert (source.events, source.retry) == ([], 2000)


@given(text=st.text(st.characters(exclude_categories=())), offset=st.integers(0, 10**15))
def test_any_text_is_one_event_whose_id_is_the_next_offset(text: str, offset: int) -> None:
    source = EventSource()
    source.feed(output_event(Output(text, offset, truncated=True)))
    ((name, data, last_id),) = source.events
    assert (name, last_id) == ("output", str(offset))
    assert json.loads(data) == {"text": text, "next_offset": offset, "truncated": True, "tail": ""}
