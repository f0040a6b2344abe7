"""A device client in another language, written from PROTOCOL.md alone.

usage: stranger.py HOST PORT DEVICE PEER

Connects as DEVICE, sends PEER one confirmed message, waits for its report, then for a message from PEER, acknowledges it, and
prints what it saw as one JSON object.
"""

import json
import os
import socket
import struct
import sys


def field_id(name):
    encoded = name.encode()
    return bytes([len(encoded)]) + encoded


def frame(kind, body):
    return struct.pack("<I", kind << 24 | len(body)) + body


def exactly(stream, count):
    data = stream.read(count)
    if len(data) < count:
        raise SystemExit("the server closed the connection")
    return data


def next_frame(stream):
    (word,) = struct.unpack("<I", exactly(stream, 4))
    return word >> 24, exactly(stream, word & 0xFFFFFF)


def main():
    host, port, device, peer = sys.argv[1:]
    connection = socket.create_connection((host, int(port)), timeout=30)
    stream = connection.makefile("rb")
    instance = os.urandom(8)
    hello = field_id(device) + instance + bytes(12) + b"\x00" + struct.pack("<IH", 240_000, 0)
    connection.sendall(b"TRKL" + bytes([1, 1, 1, 0]) + frame(0x01, hello))
    kind, body = next_frame(stream)
    assert kind == 0x41, (kind, body)
    seen = {"version": body[0], "node": struct.unpack_from("<I", body, 13)[0]}
    print(json.dumps({"event": "ready", **seen}), flush=True)

    text = f"greetings from {device}".encode()
    send = field_id(peer) + struct.pack("<QBQ", 0, 1, 0) + struct.pack("<I", 60_000) + text
    connection.sendall(frame(0x02, send))
    while "reports" not in seen or "message" not in seen:
        kind, body = next_frame(stream)
        if kind == 0x43:
            length = body[0]
            recipient = body[1 : 1 + length].decode()
            (number,) = struct.unpack_from("<Q", body, 1 + length)
            status, detail, maybe, way = body[9 + length : 13 + length]
            seen["reports"] = [recipient, number, status, detail, maybe, way]
        elif kind == 0x42:
            (delivery,) = struct.unpack_from("<Q", body, 0)
            length = body[8]
            sender = body[9 : 9 + length].decode()
            at = 9 + length + 8
            number, confirmed = struct.unpack_from("<QB", body, at)
            payload = body[at + (17 if confirmed else 9) :]
            seen["message"] = [sender, number, payload.decode()]
            connection.sendall(frame(0x03, struct.pack("<QB", delivery, 0)))
        elif kind == 0x10:
            connection.sendall(frame(0x11, body))
        elif kind < 0x80:
            raise SystemExit(f"an unexpected frame 0x{kind:02x}: {body!r}")
    print(json.dumps({"event": "seen", **seen}), flush=True)
    connection.shutdown(socket.SHUT_WR)
    while stream.read(4096):
        pass


main()
