"""Server-sent events as bytes, read as the standard says that a browser reads them."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from backjob.model import Output
from backjob.status.events import BEGINNING, HEARTBEAT, event, numbered, output_event
from tests.event_source import EventSource


def test_an_event_has_its_name_its_data_and_the_id_that_was_put_in_front() -> None:
    source = EventSource()
    source.feed(numbered(812, event("state", {"progress": 40})))
    assert source.events == [("state", '{"progress": 40}', "812")]


def test_the_beginning_and_a_heartbeat_are_no_events() -> None:
    source = EventSource()
    source.feed(BEGINNING + HEARTBEAT)
    assert (source.events, source.retry) == ([], 2000)


@given(text=st.text(st.characters(exclude_categories=())), offset=st.integers(0, 10**15))
def test_any_text_is_one_event_whose_id_is_where_the_next_piece_begins(text: str, offset: int) -> None:
    source = EventSource()
    source.feed(output_event(Output(text, offset, truncated=True)))
    ((name, data, last_id),) = source.events
    assert (name, last_id) == ("output", str(offset))
    assert json.loads(data) == {"text": text, "next_offset": offset, "truncated": True}
