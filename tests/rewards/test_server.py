"""The reward server as a process of its own, asked over HTTP."""

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import psutil
import pytest

from tests.waiting import wait_until

REPOSITORY = Path(__file__).parents[2]
FAKES = "tests.rewards.fake_verifiers"
SERVER = [sys.executable, "-m", "curiojax.rewards.server"]


def start(*flags, token=None):
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    environment.pop("CURIOJAX_REWARD_TOKEN", None)
    if token is not None:
        environment["CURIOJAX_REWARD_TOKEN"] = token
    return subprocess.Popen(
        [*SERVER, "--port", "0", *flags],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextlib.contextmanager
def running(*flags, token=None):
    """A running server; yields a client of its address, and its process."""
    process = start(*flags, token=token)
    try:
        line = process.stdout.readline()
        found = re.search(r"http://\S+:\d+", line)
        assert found, process.stderr.read()
        with httpx.Client(base_url=found[0], timeout=300, trust_env=False) as client:
            yield client, process
    finally:
        process.terminate()
        process.communicate(timeout=300)


@pytest.fixture(scope="module")
def server():
    """Two workers and the verifier `math`."""
    with running("--workers", "2", "--timeout", "6") as (client, _):
        yield client


@pytest.fixture(scope="module")
def rough():
    """Two workers and a verifier that does what the response says."""
    flags = ["--workers", "2", "--timeout", "5", "--queue", "40", "--max-body-mb", "1"]
    with running("--verifier", f"{FAKES}:act", "--format", "none", *flags) as (client, _):
        yield client


def grade(client, *items, **request):
    return client.post("/v1/grade", json={"items": list(items)}, **request)


def pending(client):
    return client.get("/readyz").json()["pending_items"]


def metrics(client):
    """The server's counts, by name and labels."""
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    samples = [line.rpartition(" ") for line in answer.text.splitlines() if line[0] != "#"]
    return {name: float(value) for name, _, value in samples}


def change(before, after):
    return {name: after[name] - before.get(name, 0) for name in after}


def official(number, text, gold, version=1, **more):
    """An item as the released client builds it."""
    return {
        "i": number,
        "sequences_str": text,
        "ground_truth": gold,
        "reward_impl_version": version,
        "oat_grader": True,
        "valid_response_length": 7,
        "enable_timeout": True,
        "data_source": "math",
        "extra_info": {"index": number, "split": "default"},
    } | more


# One's own route.


def test_grades_keep_the_order_and_the_ids(server):
    halves = [rf"</think> \boxed{{\frac{{{k}}}{{2}}}}" for k in range(20)]
    items = [
        {"id": f"item {k}", "response": half, "ground_truth": "1.5"}
        for k, half in enumerate(halves)
    ]
    body = grade(server, *items).json()
    assert [result["id"] for result in body["results"]] == [item["id"] for item in items]
    assert [result["reward"] for result in body["results"]] == [float(k == 3) for k in range(20)]
    assert body["counts"] == {"ok": 20}
    assert body["results"][3] == {
        "id": "item 3",
        "reward": 1.0,
        "correct": True,
        "format_ok": True,
        "status": "ok",
        "extracted": r"\frac{3}{2}",
        "error": None,
    }


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ({"format": "none", "response": "It is $7$."}, (1.0, True, True)),
        ({"format": "released", "response": "It is $7$."}, (0.0, True, False)),
        ({"finished": False}, (0.0, True, False)),
        ({"verifier": "exact", "ground_truth": r"\frac{14}{2}"}, (0.0, False, True)),
    ],
)
def test_an_item_names_its_rules(server, item, expected):
    item = {"response": r"</think> \boxed{7}", "ground_truth": "7"} | item
    result = grade(server, item).json()["results"][0]
    assert (result["reward"], result["correct"], result["format_ok"]) == expected


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("text", "an item is an object"),
        ({"response": "x"}, "ground_truth is missing"),
        ({"response": None, "ground_truth": "7"}, "response is missing"),
        ({"response": "x", "ground_truth": 7}, "ground_truth is missing or no text"),
        ({"response": "x", "ground_truth": "7", "groundtruth": "7"}, "unknown key 'groundtruth'"),
        ({"response": "x", "ground_truth": "7", "verifier": "os:system"}, "verifier is one of"),
        ({"response": "x", "ground_truth": "7", "verifier": ["math"]}, "verifier is one of"),
        ({"response": "x", "ground_truth": "7", "format": "loose"}, "format is one of"),
        ({"response": "x", "ground_truth": "7", "finished": "no"}, "finished is true or false"),
    ],
)
def test_a_bad_item_does_not_spoil_the_others(server, item, message):
    good = {"id": 1, "response": r"</think> \boxed{7}", "ground_truth": "7"}
    bad, kept = grade(server, item, good).json()["results"]
    assert bad["status"] == "invalid" and bad["reward"] == 0.0 and message in bad["error"]
    assert kept["reward"] == 1.0 and kept["error"] is None


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'"text"', b'{"items": {}}', b"[" * 100_000, b"\xff", b"1" * 5000]
)
def test_a_body_that_is_none_is_refused(server, body):
    answer = server.post("/v1/grade", content=body)
    assert answer.status_code == 400
    assert answer.json()["error"]


def test_odd_values_and_texts_do_no_harm(server):
    text = r"</think> \\boxed{\ud800 \u0000 \u202e}"  # as JSON writes a lone surrogate
    ids = ["NaN", "[[1]]", r'"\ud800"', "7", "null"]
    items = [f'{{"id": {id_}, "response": "{text}", "ground_truth": "7"}}' for id_ in ids]
    answer = server.post("/v1/grade", content=f'{{"items": [{", ".join(items)}]}}'.encode())
    results = answer.json()["results"]
    assert [result["id"] for result in results] == [None, None, "\ud800", 7, None]
    assert [result["status"] for result in results] == ["ok"] * 5


def test_failures_are_statuses(rough):
    deeds = ["hang", "die", "raise", "fine"]
    items = [{"id": deed, "response": deed, "ground_truth": "fine"} for deed in deeds]
    results = grade(rough, *items).json()["results"]
    assert [r["status"] for r in results] == ["timeout", "crash", "error", "ok"]
    assert [r["reward"] for r in results] == [0.0, 0.0, 0.0, 1.0]


def test_a_full_queue_is_a_503_and_says_when_to_come_back(rough, tmp_path):
    quick = {"response": "a", "ground_truth": "a"}
    slow = [{"response": f"sleep:3.{k:03d}", "ground_truth": "x"} for k in range(30)]
    # 45 seconds of work, of which only the beginning is waited for.
    with pytest.raises(httpx.ReadTimeout):
        grade(rough, *slow, timeout=httpx.Timeout(60, read=1.0))
    begun = time.monotonic()
    while grade(rough, *[quick] * 38).status_code == 503:
        assert time.monotonic() - begun < 30  # the client has gone: its items are dropped
        time.sleep(0.1)
    refused_once = tmp_path / "refused"
    held = [{"response": f"wait:{refused_once}", "ground_truth": f"{k}"} for k in range(4)]
    background = threading.Thread(target=lambda: grade(rough, *held))
    background.start()
    wait_until(lambda: pending(rough) == 4)
    refused = grade(rough, *[quick] * 38)
    assert refused.status_code == 503 and 1 <= int(refused.headers["retry-after"]) <= 60
    assert "full" in refused.json()["error"]
    assert grade(rough, quick).status_code == 200
    refused_once.touch()
    background.join()
    assert grade(rough, *[quick] * 40).status_code == 200


def test_what_never_fits_is_a_413(rough):
    answer = grade(rough, *[{"response": "a", "ground_truth": "a"}] * 41)
    assert answer.status_code == 413 and "at most 40" in answer.json()["error"]
    for content in (b" " * (2**20 + 1), iter([b" " * 2**20, b" "])):
        answer = rough.post("/v1/grade", content=content)
        assert answer.status_code == 413 and str(2**20) in answer.json()["error"]


def test_bodies_up_to_64_mb_are_taken_and_long_responses_are_statuses(server):
    text = "x" * 262_144 + r"</think> \boxed{7}"
    items = [{"response": text, "ground_truth": "7"}] * 240
    items.append({"response": r"</think> \boxed{7}", "ground_truth": "7"})
    body = json.dumps({"items": items})
    assert 60 * 2**20 < len(body) < 64 * 2**20
    answer = server.post("/v1/grade", content=body)
    assert answer.json()["counts"] == {"too_long": 240, "ok": 1}
    assert answer.json()["results"][-1]["reward"] == 1.0


# The released client's routes.


def test_the_released_client_is_served(server):
    box = r"so \boxed{\frac{1}{2}}"
    items = [
        official(0, f"<think>\nhm\n</think> {box}", "0.5"),
        official(1, f"<think>\nhm {box}", "0.5"),  # no </think>: version 1 wants it
        official(2, f"hm {box}", "0.5", version=0),
        official(3, f"<think>\nhm {box}</think> done", "0.5"),  # the second grader reads it all
        official(4, f"<think>\nhm {box}</think> done", "0.5", oat_grader=False),
        official(5, f"<think>\nhm {box}</think> done", "0.5", version=0, oat_grader=False),
        official(6, f"<think>\nhm {box}</think> done", "0.5", data_source="codegen-x"),
        official(7, f"<think>\nhm\n</think> {box}", "0.25"),
    ]
    body = server.post("/process_batch", json={"items": items}).json()
    assert set(body) == {"results", "total_processed", "timeout_count"}
    assert (body["total_processed"], body["timeout_count"]) == (8, 0)
    assert [result["i"] for result in body["results"]] == list(range(8))
    assert [result["score"] for result in body["results"]] == [1, 0, 1, 1, 0, 1, 0, 0]
    for result in body["results"]:
        keys = {"i", "score", "valid_response_length", "error", "extracted_answers"}
        assert set(result) == keys and isinstance(result["extracted_answers"], str)
        assert result["valid_response_length"] == 7 and result["error"] is None
    assert isinstance(body["results"][0]["score"], float)
    assert body["results"][1]["extracted_answers"] == ""
    assert "2" in body["results"][0]["extracted_answers"]
    single = server.post("/process_single", json=items[0]).json()
    assert single == body["results"][0]


def test_official_timeouts_are_counted_and_equal_items_graded_once(server):
    hostile = "<think></think> the answer is 9^9^9^9"
    items = [official(k, hostile, "7") for k in range(12)]
    items += [official(12, "x" * 300_000, "7"), official(13, r"</think> \boxed{7}", "7")]
    items += [{"i": 14, "valid_response_length": 3}, "text", official(16, "x", 7)]
    before = metrics(server)
    body = server.post("/process_batch", json={"items": items}).json()
    once = metrics(server)
    assert change(before, once)["curiojax_reward_shared_items_total"] == 11
    assert body["timeout_count"] == 12 and body["total_processed"] == 17
    errors = [result["error"] for result in body["results"]]
    assert errors[:14] == ["Task timeout"] * 12 + ["the response is too long", None]
    assert "sequences_str" in errors[14] and "object" in errors[15] and "ground_truth" in errors[16]
    assert [result["score"] for result in body["results"]] == [0.0] * 13 + [1.0, 0.0, 0.0, 0.0]
    assert body["results"][14]["valid_response_length"] == 3
    again = server.post("/process_batch", json={"items": items[:12]}).json()
    assert again["timeout_count"] == 12
    assert change(once, metrics(server))["curiojax_reward_cached_items_total"] == 12


def test_official_odds_and_ends(server):
    health = server.get("/health").json()
    assert health["status"] == "healthy" and abs(health["timestamp"] - time.time()) < 60
    assert {"version", "pool_type"} < set(health)
    for body in ({}, {"items": []}, [], {"items": "x"}):
        answer = server.post("/process_batch", json=body)
        assert answer.status_code == 400 and answer.json() == {"error": "No items provided"}
    assert server.post("/process_single", json=[]).json()["error"] == "an item is an object"
    assert server.get("/process_batch").status_code == 405
    assert server.get("/nothing").status_code == 404


# Operation.


def test_health_and_metrics(server):
    assert server.get("/healthz").json() == {"status": "ok"}
    # A worker may just be being replaced; and ready is who has graded something.
    wait_until(lambda: server.get("/readyz").json()["workers"] == 2)
    wait_until(lambda: server.get("/readyz").json()["ready"])
    assert server.get("/readyz").json() == {"ready": True, "workers": 2, "pending_items": 0}

    before = metrics(server)
    item = {"response": rf"</think> \boxed{{7}} at {time.time()}", "ground_truth": "7"}
    grade(server, item, item, {"response": 1})
    after = metrics(server)
    found = change(before, after)
    assert found['curiojax_reward_items_total{status="ok"}'] == 2
    assert found['curiojax_reward_items_total{status="invalid"}'] == 1
    assert found['curiojax_reward_responses_total{route="/v1/grade",code="200"}'] == 1
    # The second of two equal items waits for the first, or finds its grade.
    names = ("shared_items", "cached_items")
    assert sum(found[f"curiojax_reward_{name}_total"] for name in names) == 1
    assert after["curiojax_reward_workers"] == 2


def test_many_clients_at_once(server):
    async def ask(client, k):
        texts = [rf"</think> \boxed{{{k * 100 + j}}}" for j in range(25)]
        items = [{"response": text, "ground_truth": str(k * 100)} for text in texts]
        results = (await client.post("/v1/grade", json={"items": items})).json()["results"]
        assert [r["reward"] for r in results] == [1.0] + [0.0] * 24
        return len(results)

    async def all_of_them():
        url = str(server.base_url)
        async with httpx.AsyncClient(base_url=url, timeout=300, trust_env=False) as client:
            return await asyncio.gather(*(ask(client, k) for k in range(20)))

    assert sum(asyncio.run(all_of_them())) == 500


def test_a_token_is_asked_for_except_by_health_checks():
    with running("--workers", "1", "--verifier", "exact", token="a secret") as (client, _):
        item = {"response": r"</think> \boxed{7}", "ground_truth": "7"}
        for header in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "a secret"}):
            answer = grade(client, item, headers=header)
            assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
        assert client.post("/process_batch", json={"items": [item]}).status_code == 401
        assert client.get("/metrics").status_code == 401
        assert [client.get(path).status_code for path in ("/health", "/healthz")] == [200, 200]
        right = {"Authorization": "Bearer a secret"}
        assert grade(client, item, headers=right).json()["results"][0]["reward"] == 1.0
        assert client.get("/metrics", headers=right).status_code == 200


def test_sigterm_finishes_what_has_begun_and_leaves_no_process(tmp_path):
    flags = ["--workers", "2", "--verifier", f"{FAKES}:act", "--format", "none", "--timeout", "60"]
    with running(*flags) as (client, process):
        # Both are ready before anything is counted.
        wait_until(lambda: client.get("/readyz").json()["workers"] == 2)
        workers = psutil.Process(process.pid).children(recursive=True)
        assert len(workers) >= 2
        answers, closed = [], tmp_path / "closed"
        item = {"response": f"wait:{closed}", "ground_truth": f"wait:{closed}"}
        thread = threading.Thread(target=lambda: answers.append(grade(client, item)))
        thread.start()
        wait_until(lambda: pending(client) == 1)
        process.send_signal(signal.SIGTERM)
        wait_until(lambda: not listens(client.base_url))  # it takes no more
        closed.touch()
        thread.join()
        assert answers[0].json()["results"][0]["reward"] == 1.0
        assert process.wait(timeout=120) == 0
        assert process.stderr.read() == "reward server stopped\n"
        _, alive = psutil.wait_procs(workers, timeout=60)
        assert not alive


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_before_the_first_request_is_not_lost(number):
    """It has said where it listens, so it may be stopped, although uvicorn has not begun."""
    program = f"""
import os, sys, uvicorn
from curiojax.rewards.server import main
run = uvicorn.Server.run
def late(self, **options):
    os.kill(os.getpid(), {int(number)})
    run(self, **options)
uvicorn.Server.run = late
main(["--port", "0", "--workers", "1", "--verifier", "{FAKES}:act", "--format", "none"])
"""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode, done.stderr) == (0, "reward server stopped\n")


def listens(url):
    try:
        socket.create_connection((url.host, url.port), timeout=60).close()
    except ConnectionError:
        return False
    return True


def test_a_killed_server_leaves_no_worker():
    with running("--workers", "1", "--verifier", f"{FAKES}:act") as (client, process):
        workers = psutil.Process(process.pid).children(recursive=True)
        with contextlib.suppress(httpx.ReadTimeout):
            hang = {"response": "hang", "ground_truth": "x"}
            grade(client, hang, timeout=httpx.Timeout(60, read=0.5))
        process.kill()
        _, alive = psutil.wait_procs(workers, timeout=60)
        assert workers and not alive


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--verifier", "maths"], "reward.verifier: unknown verifier 'maths'; did you mean 'math'"),
        (["--format", "loose"], "loose"),
        (["--workers", "0"], "reward.workers"),
        (["--workers", "many"], "--workers"),
        (["--timeout", "-1"], "reward.timeout_seconds"),
        (["--port", "70000"], "--port: 70000 is no port"),
        (["--queue", "0"], "--queue"),
        (["--prot", "1"], "unrecognized arguments: --prot 1"),
        (["--host", "no.such.host.invalid"], "--host"),
        (["--host", "0.0.0.0"], "CURIOJAX_REWARD_TOKEN"),
    ],
)
def test_a_wrong_flag_is_one_line_and_exit_code_2(flags, message):
    process = start(*flags)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 2 and out == ""
    assert err.startswith("error: ") and err.count("\n") == 1 and message in err


def test_a_port_in_use_is_one_line_and_exit_code_2():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = start("--port", str(port))
        out, err = process.communicate(timeout=300)
    assert process.returncode == 2 and out == ""
    assert err.count("\n") == 1 and f"127.0.0.1:{port}: Address already in use" in err
