"""A small client of PostgreSQL: parameters, rows and the server's errors, over its own protocol.

Each statement is a transaction of its own (Parse, Bind, Describe, Execute, Sync; parameters and values as text). The
server may ask for SCRAM-SHA-256, its default, or for nothing. Connections are kept for the next statement; when one
breaks, all that wait are thrown away, for the server was restarted. There is no TLS: use it on a private network.
https://www.postgresql.org/docs/current/protocol.html
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import queue
import secrets
import socket
import struct
from typing import Any
from urllib.parse import urlsplit

VERSION = 196608  # 3.0
ANSWER_SECONDS = 3.0
KEPT_CONNECTIONS = 8
INTEGERS, FLOATS = {20, 21, 23}, {700, 701}  # object ids of int8, int2, int4, and of float4, float8


class DatabaseAway(Exception):
    """The server does not answer; what was asked may or may not have happened."""


class DatabaseRefused(Exception):
    """The server says no; the message is its own."""


class Database:
    """``url`` is ``postgresql://USER:PASSWORD@HOST[:PORT]/NAME``. Safe to use from several threads."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._address = (parts.hostname or "localhost", parts.port or 5432)
        self._user, self._password = parts.username or "postgres", parts.password or ""
        self._name = parts.path.lstrip("/") or self._user
        self._kept: queue.LifoQueue[_Connection] = queue.LifoQueue(KEPT_CONNECTIONS)

    def run(self, statement: str, *parameters: object) -> list[dict[str, Any]]:
        """Execute one statement with ``$1``, ``$2`` …; answers its rows."""
        connection = None
        try:
            connection = self._connection()
            rows = connection.run(statement, parameters)
        except (OSError, EOFError) as error:
            self._forget(connection)
            raise DatabaseAway(f"PostgreSQL at {self._address[0]} does not answer: {error}") from error
        try:
            self._kept.put_nowait(connection)
        except queue.Full:
            connection.close()
        return rows

    def _connection(self) -> _Connection:
        try:
            return self._kept.get_nowait()
        except queue.Empty:
            return _Connection(self._address, self._user, self._password, self._name)

    def _forget(self, broken: _Connection | None) -> None:
        while broken is not None:
            broken.close()
            try:
                broken = self._kept.get_nowait()
            except queue.Empty:
                broken = None


class _Connection:
    def __init__(self, address: tuple[str, int], user: str, password: str, name: str) -> None:
        self._socket = socket.create_connection(address, timeout=ANSWER_SECONDS)
        self._file = self._socket.makefile("rb")
        words = struct.pack("!i", VERSION) + _text("user", user, "database", name) + b"\0"
        self._socket.sendall(struct.pack("!i", len(words) + 4) + words)
        scram = _Scram(password)
        while (message := self._read())[0] != b"Z":
            kind, body = message
            if kind == b"E":
                self.close()
                raise OSError(_error(body))
            if kind == b"R":
                self._authenticate(scram, *struct.unpack("!i", body[:4]), body[4:])

    def _authenticate(self, scram: _Scram, wanted: int, body: bytes) -> None:
        if wanted == 10:
            first = scram.first()
            self._socket.sendall(_message(b"p", _text("SCRAM-SHA-256") + struct.pack("!i", len(first)) + first))
        elif wanted == 11:
            self._socket.sendall(_message(b"p", scram.final(body)))
        elif wanted == 12:
            scram.verify(body)
        elif wanted != 0:
            raise OSError(f"it asks for authentication of kind {wanted}; set it to scram-sha-256")

    def run(self, statement: str, parameters: tuple[object, ...]) -> list[dict[str, Any]]:
        bound = struct.pack("!h", len(parameters))
        for value in parameters:
            data = None if value is None else str(value).encode()
            bound += struct.pack("!i", -1) if data is None else struct.pack("!i", len(data)) + data
        self._socket.sendall(
            _message(b"P", _text("", statement) + struct.pack("!h", 0))
            + _message(b"B", _text("", "") + struct.pack("!h", 0) + bound + struct.pack("!h", 0))
            + _message(b"D", b"P\0")
            + _message(b"E", b"\0" + struct.pack("!i", 0))
            + _message(b"S", b"")
        )
        columns: list[tuple[str, int]] = []
        rows, refused = [], ""
        while (message := self._read())[0] != b"Z":
            kind, body = message
            if kind == b"T":
                columns = _columns(body)
            elif kind == b"D":
                rows.append(_row(columns, body))
            elif kind == b"E":
                refused = _error(body)
        if refused:
            raise DatabaseRefused(refused)
        return rows

    def close(self) -> None:
        self._file.close()
        self._socket.close()

    def _read(self) -> tuple[bytes, bytes]:
        kind, length = struct.unpack("!ci", self._exactly(5))
        return kind, self._exactly(length - 4)

    def _exactly(self, count: int) -> bytes:
        data = self._file.read(count)
        if len(data) < count:
            raise EOFError("it closed the connection")
        return data


class _Scram:
    """The client's side of SCRAM-SHA-256 (RFC 5802, RFC 7677), without channel binding."""

    def __init__(self, password: str) -> None:
        self._password = password.encode()
        self._bare = f"n=,r={secrets.token_urlsafe(18)}"
        self._signature = b""

    def first(self) -> bytes:
        return f"n,,{self._bare}".encode()

    def final(self, challenge: bytes) -> bytes:
        fields = dict(field.split("=", 1) for field in challenge.decode().split(","))
        salted = hashlib.pbkdf2_hmac("sha256", self._password, base64.b64decode(fields["s"]), int(fields["i"]))
        bare = f"c=biws,r={fields['r']}"
        signed = f"{self._bare},{challenge.decode()},{bare}".encode()
        key = _hmac(salted, b"Client Key")
        signature = _hmac(hashlib.sha256(key).digest(), signed)
        proof = bytes(left ^ right for left, right in zip(key, signature, strict=True))
        self._signature = _hmac(_hmac(salted, b"Server Key"), signed)
        return f"{bare},p={base64.b64encode(proof).decode()}".encode()

    def verify(self, answer: bytes) -> None:
        if not hmac.compare_digest(answer, b"v=" + base64.b64encode(self._signature)):
            raise OSError("it does not know our password itself: it is not the server that we mean")


def _hmac(key: bytes, text: bytes) -> bytes:
    return hmac.digest(key, text, "sha256")


def _message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!i", len(body) + 4) + body


def _text(*words: str) -> bytes:
    return b"".join(word.encode() + b"\0" for word in words)


def _columns(body: bytes) -> list[tuple[str, int]]:
    columns, at = [], 2
    for _ in range(struct.unpack_from("!h", body)[0]):
        end = body.index(b"\0", at)
        columns.append((body[at:end].decode(), struct.unpack_from("!ihihih", body, end + 1)[2]))
        at = end + 19
    return columns


def _row(columns: list[tuple[str, int]], body: bytes) -> dict[str, Any]:
    row: dict[str, Any] = {}
    at = 2
    for name, kind in columns:
        (length,) = struct.unpack_from("!i", body, at)
        at += 4
        if length < 0:
            row[name] = None
            continue
        value = body[at : at + length].decode()
        row[name] = int(value) if kind in INTEGERS else float(value) if kind in FLOATS else value
        at += length
    return row


def _error(body: bytes) -> str:
    fields = {field[:1]: field[1:].decode(errors="replace") for field in body.split(b"\0") if field}
    return fields.get(b"M", "it does not say why")
