"""Mistakes in the transport of docs/own-transport.md, each with the test of the transport contract that finds it."""

from __future__ import annotations

from typing import Final

from tests.contracts.mutants import mutant

SIGN: Final = "            request = delivery.sign()\n"
DATA: Final = "            reader = Reader(request.method)\n"
EXCHANGE: Final = "            response = self._exchange(delivery, future)\n"
HANG_UP: Final = "lambda _: _hang_up(connection)"
UNTIL_CLOSED: Final = "        with connection:\n"
KEPT: Final = "        future.kept = connection\n        if True:\n"
START: Final = (
    '            Thread(target=self._deliver, args=(delivery, future), name="thread-transport", daemon=True).start()\n'
)
READ: Final = "(response := reader.receive(connection.recv(65536))) is None:\n                    pass\n"
ERROR: Final = "            settle(future, error)\n"
RESPONSE: Final = "            settle(future, response)\n"
INVALID: Final = "            except InvalidRequest as error:\n"
ENDED: Final = 'settle(future, ConnectionLost("the transport was closed"))'
POOL: Final = """            from concurrent.futures import ThreadPoolExecutor
            if not hasattr(self, "pool"):
                self.pool = ThreadPoolExecutor({})
            self.pool.submit(self._deliver, delivery, future)
"""


def with_fields(fields: str) -> tuple[str, str]:
    """The request is sent with other header fields."""
    return (
        SIGN,
        f"{SIGN}            import attrs\n            request = attrs.evolve(request, headers=tuple({fields}))\n",
    )


def with_data(data: str) -> tuple[str, str]:
    """Other bytes are sent."""
    return DATA, f"            data = {data}\n{DATA}"


BROKEN_TRANSPORTS: Final = (
    # --- the request --------------------------------------------------------------------------------------------------
    mutant(
        "it drops the path of the base URL",
        "test_the_path_of_the_base_url_precedes_the_target",
        ("prefix=base.prefix", 'prefix=""'),
    ),
    mutant(
        "it doubles the slash at the end of the base URL",
        "test_the_path_of_the_base_url_precedes_the_target",
        ("prefix=base.prefix", 'prefix=base.prefix + "/"'),
    ),
    mutant(
        "it loses repeated header fields",
        "test_repeated_header_fields_are_sent_one_by_one",
        with_fields("{name.lower(): (name, value) for name, value in request.headers}.values()"),
    ),
    mutant(
        "it joins repeated header fields",
        "test_repeated_header_fields_are_sent_one_by_one",
        with_fields("{name.lower(): (name, request.header(name)) for name, _ in request.headers}.values()"),
    ),
    mutant(
        "it adds a User-Agent",
        "test_no_other_header_field_is_added",
        with_fields('(*request.headers, ("User-Agent", "client/1.0"))'),
    ),
    mutant(
        "it asks for compressed responses",
        "test_no_other_header_field_is_added",
        with_fields('(*request.headers, ("Accept-Encoding", "gzip"))'),
    ),
    mutant(
        "it encodes header values in UTF-8",
        "test_the_header_fields_are_sent_in_latin_1",
        with_fields('[(name, value.encode().decode("latin-1")) for name, value in request.headers]'),
    ),
    mutant(
        "it lacks X-Forwarded-Proto",
        "test_x_forwarded_proto_is_the_base_urls_scheme",
        with_data('data.replace(b"X-Forwarded-Proto: http\\r\\n", b"")'),
    ),
    mutant(
        "it doubles X-Forwarded-Proto",
        "test_x_forwarded_proto_is_the_base_urls_scheme",
        with_data('data.replace(b"X-Forwarded-Proto: http\\r\\n", b"X-Forwarded-Proto: http\\r\\n" * 2)'),
    ),
    mutant(
        "it sends the X-Forwarded-Proto of the request beside its own",
        "test_x_forwarded_proto_is_the_base_urls_scheme",
        with_data(
            'data.replace(b"\\r\\n", b"".join(b"\\r\\n%s: %s" % (name.encode(), value.encode()) for name, value in'
            ' request.headers if name == "X-Forwarded-Proto") + b"\\r\\n", 1)'
        ),
    ),
    mutant(
        "its Host lacks the port",
        "test_host_is_the_base_urls_host",
        ("host=base.authority", "host=base.address.host"),
    ),
    mutant(
        "it sends its own Host instead of the request's",
        "test_a_host_of_the_request_is_sent_instead_of_the_address",
        with_fields('[pair for pair in request.headers if pair[0].lower() != "host"]'),
    ),
    mutant(
        "it sends its own Host beside the request's",
        "test_a_host_of_the_request_is_sent_instead_of_the_address",
        with_data('data.replace(b"\\r\\n", b"\\r\\nHost: 127.0.0.1\\r\\n", 1)'),
    ),
    mutant(
        "it normalises the target",
        "test_the_target_is_sent_byte_for_byte",
        with_data('data.replace(b"%7E", b"~").replace(b"%7e", b"~")'),
    ),
    mutant(
        "it signs a second time",
        "test_a_delivery_is_signed_once",
        (SIGN, SIGN + SIGN),
    ),
    # --- outcomes -----------------------------------------------------------------------------------------------------
    mutant(
        "its read timeout is half a second",
        "test_a_response_may_take_long",
        ("connection.settimeout(None)", "connection.settimeout(0.5)"),
    ),
    mutant(
        "its read timeout is a minute",
        "test_a_response_may_take_long",
        ("connection.settimeout(None)", "connection.settimeout(60)"),
    ),
    mutant(
        "its read timeout is that of connecting",
        "test_a_response_may_take_long",
        ("            connection.settimeout(None)", "            pass"),
        ("connect_timeout: float = 10.0", "connect_timeout: float = 0.8"),
    ),
    mutant(
        "it waits within send()",
        "test_a_response_may_take_long",
        (START, "            self._deliver(delivery, future)\n"),
    ),
    mutant(
        "it sends a request again whose connection was lost",
        "test_an_incomplete_response_is_a_lost_connection_and_the_request_is_not_sent_again",
        (
            EXCHANGE,
            f"            try:\n    {EXCHANGE}            except ConnectionLost:\n    {EXCHANGE}",
        ),
    ),
    mutant(
        "it sends a request again after a 503",
        "test_a_response_that_asks_to_retry_is_the_result",
        (EXCHANGE, f"{EXCHANGE}            if response.status == 503:\n    {EXCHANGE}"),
    ),
    mutant(
        "it reports a lost connection as not sent",
        "test_an_incomplete_response_is_a_lost_connection_and_the_request_is_not_sent_again",
        (
            ERROR,
            "            settle(future, NotSent(str(error)))\n",
        ),
    ),
    mutant(
        "it reports a response that breaks off as complete",
        "test_an_incomplete_response_is_a_lost_connection_and_the_request_is_not_sent_again",
        (
            ERROR,
            "            settle(future, Response(200))\n",
        ),
    ),
    mutant(
        "its NotSent quotes the header fields",
        "test_a_header_value_that_http_does_not_allow_is_neither_sent_nor_shown",
        ("raise NotSent(str(error)) from error", 'raise NotSent(f"{error}: {request.headers}") from error'),
    ),
    mutant(
        "the cause of its NotSent quotes the header fields",
        "test_a_header_value_that_http_does_not_allow_is_neither_sent_nor_shown",
        ("raise NotSent(str(error)) from error", "raise NotSent(str(error)) from ValueError(request.headers)"),
    ),
    mutant(
        "its NotSent quotes the header fields if there is no connection",
        "test_errors_show_no_header_value",
        ('raise NotSent(f"no connection: {error}")', 'raise NotSent(f"no connection for {delivery.sign().headers}")'),
    ),
    mutant(
        "its ConnectionLost quotes the header fields",
        "test_errors_show_no_header_value",
        (
            ERROR,
            "            settle(future, ConnectionLost(str(delivery.request.headers)))\n",
        ),
    ),
    mutant(
        "its error quotes the response",
        "test_errors_show_no_header_value",
        (
            READ,
            (
                f"{READ.replace('connection.recv', 'got := connection.recv')}            except ConnectionLost as error:\n"
                "                raise ConnectionLost(repr(got)) from error\n"
            ),
        ),
    ),
    mutant(
        "it sends values that HTTP does not allow",
        "test_a_header_value_that_http_does_not_allow_is_neither_sent_nor_shown",
        (SIGN, f"{SIGN}            crlf = any(chr(10) in value for _, value in request.headers)\n"),
        (INVALID, f"{INVALID}                if crlf:\n                    return Response(200)\n"),
    ),
    mutant(
        "it settles futures under the lock of send()",
        "test_a_callback_may_send_the_next_request",
        (
            "        self._closed = False\n",
            "        self._closed = False\n        self._lock = __import__('threading').Lock()\n",
        ),
        (START, f"            with self._lock:\n    {START}"),
        (RESPONSE, f"            with self._lock:\n    {RESPONSE}"),
    ),
    mutant(
        "its futures can't be cancelled",
        "test_a_delivery_in_flight_can_be_cancelled",
        (START, f"            future.set_running_or_notify_cancel()\n{START}"),
    ),
    mutant(
        "it cancels its futures when it is closed",
        "test_close_ends_the_deliveries_in_flight_and_may_be_repeated",
        (ENDED, "future.cancel()"),
    ),
    mutant(
        "it reports requests in flight as not sent when it is closed",
        "test_close_ends_the_deliveries_in_flight_and_may_be_repeated",
        (ENDED, 'settle(future, NotSent("the transport was closed"))'),
    ),
    mutant(
        "it never ends futures in flight when it is closed",
        "test_close_ends_the_deliveries_in_flight_and_may_be_repeated",
        (ENDED, "pass"),
    ),
    mutant("it sends after it was closed", "test_a_closed_transport_sends_nothing", ("if self._closed:", "if False:")),
    mutant(
        "its send() raises after it was closed",
        "test_a_closed_transport_sends_nothing",
        ('settle(future, NotSent("the transport is closed"))', 'raise NotSent("the transport is closed")'),
    ),
    # --- connections --------------------------------------------------------------------------------------------------
    mutant(
        "it closes its side of the connection after the request",
        "test_the_connection_stays_open_in_both_directions_until_the_response",
        (
            "                connection.sendall(data)\n",
            "                connection.sendall(data)\n                connection.shutdown(1)\n",
        ),
    ),
    mutant(
        "it leaves the connection open after the response",
        "test_a_response_closes_the_connection",
        (UNTIL_CLOSED, KEPT),
        (HANG_UP, "lambda done: done.exception() is not None and _hang_up(connection)"),
    ),
    mutant(
        "it leaves the connection open after a response that it truncates",
        "test_a_response_closes_the_connection",
        (UNTIL_CLOSED, KEPT),
        (HANG_UP, "lambda done: done.result().truncated or _hang_up(connection)"),
    ),
    mutant(
        "it leaves the connection open when the future is cancelled",
        "test_cancelling_closes_the_connection",
        (HANG_UP, "lambda done: done.cancelled() or _hang_up(connection)"),
    ),
    mutant(
        "it leaves connections open when it is closed",
        "test_close_closes_the_connections",
        (HANG_UP, "lambda done: done.cancelled() and _hang_up(connection)"),
    ),
    # --- processes ----------------------------------------------------------------------------------------------------
    mutant(
        "a forked child ends the requests of its parent",
        "test_a_forked_child_can_send_and_leaves_its_parents_requests_alone",
        (
            "PerProcess[set[Future[Response]]] = PerProcess(set)",
            "PerProcess = type('', (), {'get': lambda _, one=set(): one})()",
        ),
    ),
    mutant(
        "a forked child uses the connection of its parent",
        "test_a_forked_child_can_send_and_leaves_its_parents_requests_alone",
        ("connection = socket.create", 'connection = getattr(self, "used", None) or socket.create'),
        (UNTIL_CLOSED, "        self.used = connection\n        if True:\n"),
    ),
    mutant(
        "a forked child waits for a thread of its parent",
        "test_a_forked_child_can_send_and_leaves_its_parents_requests_alone",
        (START, POOL.format(1)),
    ),
    mutant(
        "its threads keep the process from ending",
        "test_a_process_can_end_while_a_request_is_in_flight",
        ("daemon=True", "daemon=False"),
    ),
    mutant(
        "the threads of its pool keep the process from ending",
        "test_a_process_can_end_while_a_request_is_in_flight",
        (START, POOL.format(20)),
    ),
)
