"""One gRPC call over a unix socket: an HTTP/2 request, a message in its body, the outcome in the trailers.

Each call has a connection of its own. That costs a millisecond and saves what a shared one needs: threads,
reconnecting after the server was killed, and a thought about who may use it at the same time. h2 keeps the
state of HTTP/2; what is left to say is how gRPC uses it (grpc/doc/PROTOCOL-HTTP2.md).
"""

from __future__ import annotations

import socket
import struct
import time
import urllib.parse
from pathlib import Path

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, Event, ResponseReceived, StreamEnded, StreamReset, TrailersReceived

__all__ = ["CallFailed", "call"]

OK = "0"


class CallFailed(Exception):
    """The server refused a call. `status` is gRPC's number of the reason, `message` the server's sentence."""

    def __init__(self, method: str, status: str, message: str) -> None:
        super().__init__(f"{method}: {message} (gRPC status {status})")
        self.status = status
        self.message = message


def call(server: Path, method: str, message: bytes, timeout_s: float) -> bytes:
    """The answer of `method` ("/package.Service/Name") to one message.

    Raises CallFailed for a refusal, TimeoutError, and another OSError when nobody listens or the server goes away.
    """
    deadline = time.monotonic() + timeout_s
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
        stream.settimeout(timeout_s)
        stream.connect(str(server))
        http = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        http.initiate_connection()
        http.send_headers(1, _headers(method))
        # A message is preceded by one byte that says whether it is compressed, and its length.
        http.send_data(1, struct.pack(">BI", 0, len(message)) + message, end_stream=True)

        body, outcome = bytearray(), dict[str, str]()
        while True:
            stream.sendall(http.data_to_send())
            stream.settimeout(max(deadline - time.monotonic(), 0.001))
            received = stream.recv(65536)
            if not received:
                raise ConnectionError(f"{method}: the server closed the connection")
            for event in http.receive_data(received):
                if _take(http, event, body, outcome):
                    return _message(method, bytes(body), outcome)


def _headers(method: str) -> list[tuple[str, str]]:
    return [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", method),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ]


def _take(http: H2Connection, event: Event, body: bytearray, outcome: dict[str, str]) -> bool:
    """Keeps what one event brought; true when it was the last."""
    match event:
        case ResponseReceived(headers=headers) | TrailersReceived(headers=headers):
            # Without a body all of it comes at once, in the headers.
            outcome.update((str(name), str(value)) for name, value in headers or ())
        case DataReceived(data=data, flow_controlled_length=length):
            body += data or b""
            http.acknowledge_received_data(length or 0, 1)
        case StreamReset(error_code=code):
            raise ConnectionError(f"the server reset the stream: {code}")
        case StreamEnded():
            return True
    return False


def _message(method: str, body: bytes, outcome: dict[str, str]) -> bytes:
    status = outcome.get("grpc-status", f"missing; HTTP status {outcome.get(':status')}")
    if status != OK:
        raise CallFailed(method, status, urllib.parse.unquote(outcome.get("grpc-message", "")))
    return body[5:]
