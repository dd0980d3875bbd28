"""A local endpoint that does what a test tells it to, and remembers what it was asked."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

NOISE = " Thanks in advance, friends!"


def cleaned(question):
    return question.replace(NOISE, "")


def completion(text, prompt_tokens=600, completion_tokens=100, **more):
    """The JSON of a reply."""
    message = {"role": "assistant", "content": text}
    return {
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"} | more],
        "usage": {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens},
    }


class Stub:
    """Answers every question without its noise unless `behave` says otherwise.

    `behave(question, count)` gets the question and how often it was asked, this time included; it
    returns None for the usual reply, or a dictionary with any of `status`, `headers`, `body` (JSON
    or bytes), `delay` in seconds and `drop` (close the connection without a reply).
    """

    def __init__(self, behave=None):
        self.behave = behave or (lambda question, count: None)
        self.asked = Counter()
        self.times = []
        self.requests = []
        self.in_flight = self.most_in_flight = 0
        self._lock, self._closed = threading.Lock(), threading.Event()
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                stub._serve(self, json.loads(body))

            def log_message(self, *arguments):
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, request, client_address):
                pass  # clients that a test kills

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        )
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def close(self):
        self._closed.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def _serve(self, handler, body):
        prompt = body["messages"][0]["content"]
        question = prompt.rpartition("Input:\n\n")[2].removesuffix("\n\nOutput:")
        with self._lock:
            self.asked[question] += 1
            count = self.asked[question]
            self.times.append(time.monotonic())
            self.requests.append((handler.path, dict(handler.headers), body))
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            try:
                what = self.behave(question, count) or {}
                if self._closed.wait(what.get("delay", 0)):
                    handler.close_connection = True
                    return
            finally:
                # Before the reply is sent: whoever has it may ask again at once.
                with self._lock:
                    self.in_flight -= 1
            if what.get("drop"):
                handler.close_connection = True
                return
            content = what.get("body", completion(cleaned(question)))
            content = content if isinstance(content, bytes) else json.dumps(content).encode()
            handler.send_response(what.get("status", 200))
            for name, value in what.get("headers", {}).items():
                handler.send_header(name, value)
            handler.send_header("content-length", str(len(content)))
            handler.end_headers()
            handler.wfile.write(content)
        except OSError:
            pass  # the client has gone
