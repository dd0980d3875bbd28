"""Requests against a local endpoint: second tries, pace, budget, and what the key never reaches."""

import asyncio
import json
import os
import signal
import socket
import threading
import time
from datetime import UTC, datetime
from email.utils import format_datetime

import pytest

from curiojax.data.rephrase import client, pace, run, spending
from curiojax.data.rephrase.cache import Cache
from curiojax.data.rephrase.client import Endpoint
from curiojax.data.rephrase.replies import Reply, parse_completion
from curiojax.data.rephrase.run import Patience
from curiojax.data.rephrase.template import Request, Template
from curiojax.errors import ConfigError
from tests.waiting import wait_until

from .stub import NOISE, Stub, cleaned, completion

REQUEST = Request("some-model", Template(), {"temperature": 0.0, "max_tokens": 256})
KEY = "sk-not-for-anybody-else"
# Nothing here waits for the time limit but what is said to.
FAST = Patience(concurrency=4, timeout=60.0, retries=3, backoff=0.01)


def questions(count):
    return [f"What is {i} + {i}?{NOISE}" for i in range(count)]


def ask(stub, tmp_path, asked, patience=FAST, *, key=None, budget=None, price=None, url=""):
    prices = spending.Prices(price, price)
    with Cache(tmp_path / "replies") as cache:
        ledger = spending.Ledger(REQUEST, prices, budget, spending.Tokens())
        outcome = run.ask_all(
            REQUEST,
            asked,
            cache,
            lambda: Endpoint(
                url or stub.url, key, timeout=patience.timeout, connections=patience.concurrency
            ),
            patience,
            ledger,
        )
    return outcome, Cache(tmp_path / "replies", write=False), ledger


def test_every_question_is_asked_once_and_its_reply_kept(tmp_path):
    def behave(question, count):
        wait_until(lambda: stub.most_in_flight > 1, 50)  # the first one for another beside it
        return {"delay": 0.02}

    with Stub(behave) as stub:
        outcome, cache, ledger = ask(stub, tmp_path, questions(30), key=KEY)
    assert (outcome.answered, outcome.requests, outcome.failed) == (30, 30, {})
    assert set(stub.asked.values()) == {1}
    assert 2 <= stub.most_in_flight <= 4
    for question in questions(30):
        assert cache.get(REQUEST.key(question)) == Reply(cleaned(question), "stop", 600, 100)
    assert (ledger.tokens.input, ledger.tokens.output) == (18_000, 3_000)
    prompt = REQUEST.prompt(questions(1)[0])
    # Four are under way at once, so the first question need not be the first to arrive.
    [(path, headers, body)] = [r for r in stub.requests if r[2]["messages"][0]["content"] == prompt]
    assert path == "/v1/chat/completions"
    assert {k.lower(): v for k, v in headers.items()}["authorization"] == f"Bearer {KEY}"
    assert body == {
        "model": "some-model",
        "messages": [{"role": "user", "content": prompt}],
        "temperature": 0.0,
        "max_tokens": 256,
    }


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_holds_everything_back(tmp_path, form):
    def behave(question, count):
        if stub.asked.total() == 1:
            then = datetime.fromtimestamp(time.time() + 2, UTC)
            value = "1" if form == "seconds" else format_datetime(then, usegmt=True)
            return {"status": 429, "headers": {"Retry-After": value}}

    with Stub(behave) as stub:
        outcome, _, _ = ask(stub, tmp_path, questions(4), Patience(1, 60.0, 3, 0.01))
    assert outcome.answered == 4 and outcome.requests == 5
    assert stub.times[1] - stub.times[0] >= 0.99
    assert outcome.again == {"HTTP 429": 1}


def test_429_costs_no_question_its_tries(tmp_path, monkeypatch):
    """The first question is put off five times, each time beside another that comes through."""
    first, *others = questions(12)
    noticed = []
    pushed_back = pace.Window.pushed_back

    def notice(self, started, now):
        noticed.append(now)
        return pushed_back(self, started, now)

    monkeypatch.setattr(pace.Window, "pushed_back", notice)

    def behave(question, count):
        if question == first:
            return {"status": 429} if count <= 5 else None
        # Not before the refusal that it stands beside has been taken in: where that comes last,
        # the first question is tried again on its own, and then nothing comes through.
        beside = min(others.index(question) + 1, 5)
        wait_until(lambda: len(noticed) >= beside, 50)

    with Stub(behave) as stub:
        outcome, _, _ = ask(stub, tmp_path, [first, *others], Patience(2, 60.0, 1, 0.005))
    assert outcome.answered == 12 and outcome.again == {"HTTP 429": 5}


def test_the_pace_finds_a_limit_on_requests_in_flight(tmp_path):
    """A limit on requests in flight: four of them are too many, however often it is tried."""

    def behave(question, count):
        if stub.in_flight > 2:
            return {"status": 429}
        wait_until(lambda: stub.asked.total() >= 8, 50)  # so many are sent at first
        return {"delay": 0.02}

    with Stub(behave) as stub:
        outcome, _, _ = ask(stub, tmp_path, questions(40), Patience(16, 60.0, 5, 0.005))
    assert outcome.answered == 40 and outcome.again["HTTP 429"] > 1


def test_a_limit_that_never_lifts_ends_the_run(tmp_path):
    with Stub(lambda question, count: {"status": 429}) as stub:
        with pytest.raises(ConfigError, match="nothing came through"):
            ask(stub, tmp_path, questions(20))
    assert stub.asked.total() <= 20


def test_a_wait_beyond_patience_ends_the_run(tmp_path):
    reply = {"status": 503, "headers": {"Retry-After": "86400"}}
    with Stub(lambda question, count: reply) as stub:
        with pytest.raises(ConfigError, match="asks to wait 86400 s"):
            ask(stub, tmp_path, questions(20))


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ({"status": 500}, "HTTP 500"),
        ({"status": 503, "body": {"error": {"message": "busy"}}}, "HTTP 503"),
        ({"delay": 60}, "no reply within 3 s"),
        ({"drop": True}, "broken off (RemoteProtocolError)"),
        ({"body": b'{"choices": ['}, "malformed reply"),
        ({"body": b"\xff\xfe"}, "malformed reply"),
        ({"body": []}, "malformed reply"),
        ({"body": {"choices": []}}, "malformed reply"),
        ({"body": {"choices": [{"message": {"role": "assistant"}}]}}, "malformed reply"),
        ({"body": {"error": {"message": "no"}}}, "malformed reply"),
    ],
)
def test_passing_trouble(tmp_path, what, reason):
    patience = Patience(4, 3.0 if "delay" in what else 60.0, 2, 0.01)
    with Stub(lambda question, count: what if count == 1 else None) as stub:
        outcome, cache, _ = ask(stub, tmp_path, questions(3), patience)
    assert outcome.answered == 3 and outcome.again == {reason: 3}
    assert set(stub.asked.values()) == {2} and len(cache) == 3


def test_a_question_that_always_fails_is_given_up_and_the_others_are_not(tmp_path):
    bad = questions(8)[3]
    with Stub(lambda question, count: {"status": 500} if question == bad else None) as stub:
        outcome, cache, _ = ask(stub, tmp_path, questions(8))
    assert outcome.failed == {bad: "HTTP 500"} and outcome.answered == 7
    assert stub.asked[bad] == FAST.retries + 1 and stub.asked.total() == 7 + 4
    assert REQUEST.key(bad) not in cache


def test_what_the_endpoint_refuses_is_not_asked_again(tmp_path):
    bad = questions(5)[2]
    what = {"status": 400, "body": {"error": {"message": "too\nlong\x1b[31m"}}}
    with Stub(lambda question, count: what if question == bad else None) as stub:
        outcome, _, _ = ask(stub, tmp_path, questions(5))
    assert outcome.failed == {bad: "HTTP 400: too long?[31m"} and stub.asked[bad] == 1


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ({"status": 401}, "--api-key-env: .* no key was sent"),
        ({"status": 402, "body": {"error": "Insufficient Balance"}}, "no credit left"),
        ({"status": 429, "body": {"error": {"code": "insufficient_quota"}}}, "no credit left"),
        ({"status": 404, "body": {"error": {"message": "no model x"}}}, "--model: .* no model x"),
        ({"status": 308, "headers": {"location": "http://127.0.0.1:1/"}}, "--base-url"),
    ],
)
def test_what_no_request_can_overcome_ends_the_run(tmp_path, what, message):
    with Stub(lambda question, count: what) as stub:
        with pytest.raises(ConfigError, match=message):
            ask(stub, tmp_path, questions(50))
    assert stub.asked.total() <= 8


def test_an_endpoint_that_is_down_is_not_tried_with_every_question(tmp_path):
    with socket.socket() as taken:  # so that nobody else answers there, either
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        with pytest.raises(ConfigError, match=r"10 questions in a row .* no connection"):
            ask(None, tmp_path, questions(500), Patience(4, 60.0, 1, 0.01), url=url)


def test_the_budget_is_never_passed_whatever_is_in_flight(tmp_path):
    # 1 per 1000 tokens: a reply costs 0.7; 1344 bytes of prompt, 32 around it and 256 tokens of
    # reply are the most it may cost.
    with Stub(lambda question, count: {"delay": 0.05}) as stub:
        outcome, cache, ledger = ask(stub, tmp_path, questions(40), price=1000.0, budget=9.0)
    highest = ledger.highest(questions(40)[0])
    assert highest == pytest.approx(1.632)
    assert outcome.stopped == run.BUDGET and 0 < outcome.answered == len(cache) < 40
    assert stub.asked.total() == outcome.answered
    assert 9.0 - highest < ledger.cost <= 9.0
    assert stub.most_in_flight <= 9.0 // highest


def test_a_request_that_brings_nothing_back_counts_at_its_highest_price(tmp_path):
    patience = Patience(1, 1.0, 50, 0.001)
    with Stub(lambda question, count: {"delay": 60}) as stub:
        outcome, _, ledger = ask(stub, tmp_path, questions(1), patience, price=1000.0, budget=5.0)
    assert outcome.stopped == run.BUDGET and ledger.cost == 0.0
    assert ledger.lost == pytest.approx(3 * ledger.highest(questions(1)[0]))


def test_replies_without_usage_are_guessed():
    reply = Reply("abcdef")
    assert spending.spent(Request("m", Template("{question}"), {}), "abc", reply) == (
        spending.Tokens(9, 2, 1, 1)
    )
    assert spending.Prices(1.0, 2.0).cost(1e6, 5e5) == 2.0
    assert spending.Prices(1.0).cost(1, 1) is None


def test_a_signal_lets_what_is_in_flight_finish(tmp_path):
    # Four are sent at once; none of them is answered before the signal has come.
    all_are_in = threading.Barrier(4, lambda: os.kill(os.getpid(), signal.SIGTERM))

    def behave(question, count):
        all_are_in.wait(timeout=50)
        return {"delay": 0.2}

    with Stub(behave) as stub:
        outcome, cache, _ = ask(stub, tmp_path, questions(30))
    assert outcome.stopped == run.INTERRUPTED
    assert len(cache) == outcome.answered == stub.asked.total() == 4
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_second_signal_does_not_wait(tmp_path):
    def interrupt_twice():
        # Two of a kind would be one where the first has not been dealt with yet.
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()

    all_are_in = threading.Barrier(4, interrupt_twice)

    def behave(question, count):
        all_are_in.wait(timeout=50)
        return {"delay": 55}

    with Stub(behave) as stub:
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            ask(stub, tmp_path, questions(30))
        assert time.monotonic() - began < 50
        ended = Cache(tmp_path / "replies", write=False)
        assert len(ended) == 0


def test_a_signal_ends_a_long_wait(tmp_path):
    def behave(question, count):
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
        return {"status": 429, "headers": {"Retry-After": "300"}}

    with Stub(behave) as stub:
        began = time.monotonic()
        outcome, _, _ = ask(stub, tmp_path, questions(1))
    assert outcome.stopped == run.INTERRUPTED and time.monotonic() - began < 120


def test_the_key_is_taken_out_of_what_comes_back(tmp_path):
    reply = {"body": completion(f"What? {KEY}", finish_reason=KEY)}
    with Stub(lambda question, count: reply) as stub:
        _, cache, _ = ask(stub, tmp_path, questions(1), key=KEY)
    assert cache.get(REQUEST.key(questions(1)[0])).text == "What? [key]"
    assert KEY not in (tmp_path / "replies").read_text()
    body = {"error": {"message": f"bad key {KEY}"}}
    for status in (401, 404, 400):
        with Stub(lambda question, count, s=status: {"status": s, "body": body}) as stub:
            with pytest.raises(ConfigError, match=r"bad key \[key\]") as error:
                ask(stub, tmp_path, [f"{status} {i}" for i in range(20)], key=KEY)
        assert KEY not in str(error.value)


def test_a_key_that_is_none_spoils_no_reply(tmp_path):
    """Local servers take any key: `x`, `EMPTY`. Such a word is no secret, and part of texts."""
    with Stub() as stub:
        _, cache, _ = ask(stub, tmp_path, questions(1), key="is")
    assert cache.get(REQUEST.key(questions(1)[0])).text == "What is 0 + 0?"


@pytest.mark.parametrize(
    "url",
    ["host/v1", "ftp://h/v1", "https://u:secret@h/v1", "https://h/v1?key=secret", "http://:9"],
)
def test_addresses_that_are_none(url):
    with pytest.raises(ConfigError, match="--base-url") as error:
        client.check_address(url)
    assert "secret" not in str(error.value)


def test_keys(monkeypatch):
    monkeypatch.setenv("SOME_KEY", f" {KEY}\n")
    assert client.read_key("SOME_KEY") == KEY
    monkeypatch.setenv("SOME_KEY", "")
    assert client.read_key("SOME_KEY") is None and client.read_key("NO_SUCH_KEY") is None
    monkeypatch.setenv("SOME_KEY", "a\nb")
    with pytest.raises(ConfigError, match="SOME_KEY"):
        client.read_key("SOME_KEY")
    assert client.is_exposed("http://10.0.0.1/v1")
    assert not client.is_exposed("http://localhost:8000/v1")
    assert not client.is_exposed("https://h/v1")


def test_the_window_opens_by_one_and_closes_by_half():
    window = pace.Window(100)
    assert window.size == 8
    for _ in range(8):
        window.succeeded()
    assert window.size == 16
    assert window.pushed_back(started=1.0, now=2.0) and window.size == 8
    # Those that were under way at the time say nothing new.
    assert not window.pushed_back(started=1.5, now=3.0) and window.size == 8
    for _ in range(8):
        window.succeeded()
    assert window.size == 8
    window.succeeded()
    assert window.size == 9
    for now in range(10, 20):
        window.pushed_back(started=now, now=now + 0.5)
    assert window.size == 1
    small = pace.Window(3)
    for _ in range(100):
        small.succeeded()
    assert small.size == 3


def test_retry_after():
    now = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)
    assert pace.retry_after("7", now) == 7.0
    assert pace.retry_after("0.5", now) == 0.5
    assert pace.retry_after("Thu, 01 Jan 2026 12:01:30 GMT", now) == 90.0
    assert pace.retry_after("Thu, 01 Jan 2026 11:00:00 GMT", now) == 0.0
    assert pace.retry_after("-3", now) == 0.0
    for none in (None, "soon", "nan", "inf", ""):
        assert pace.retry_after(none, now) is None


def test_backoff_doubles_up_to_a_minute():
    for tries, most in ((1, 1), (2, 2), (5, 16), (9, 60), (10_000, 60)):
        waits = [pace.backoff(tries, 1.0) for _ in range(200)]
        assert most / 2 <= min(waits) and max(waits) <= most
        assert max(waits) - min(waits) > most / 4


def test_replies_of_all_kinds():
    assert parse_completion(completion("a")) == Reply("a", "stop", 600, 100)
    assert parse_completion(completion("a", finish_reason="length")).finish == "length"
    body = completion(None)
    assert parse_completion(body).text == ""
    body["choices"][0]["message"] = {"content": None, "refusal": "No."}
    assert parse_completion(body).finish == "refusal"
    del body["usage"]
    assert parse_completion(body).prompt_tokens is None
    for usage in (
        None,
        [],
        {"prompt_tokens": -1},
        {"prompt_tokens": "7", "completion_tokens": True},
    ):
        reply = parse_completion({**completion("a"), "usage": usage})
        assert (reply.prompt_tokens, reply.completion_tokens) == (None, None)
    lone = parse_completion(json.loads(json.dumps(completion("a\ud800b")))).text
    assert lone.encode() and lone[0] + lone[-1] == "ab"
    for wrong in (None, [], {}, {"choices": None}, {"choices": [None]}, {"choices": [{}]}):
        with pytest.raises(ValueError, match="without"):
            parse_completion(wrong)


def test_a_reply_without_end_is_cut_off():
    async def talk():
        async def serve(reader, writer):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n")
            try:
                while True:
                    writer.write(b" " * (1 << 18))
                    await writer.drain()
            except OSError:
                pass
            finally:
                writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        url = f"http://127.0.0.1:{port}/v1"
        async with Endpoint(url, None, timeout=300, connections=1) as endpoint:
            with pytest.raises(client.Again, match="broken off"):
                await endpoint.ask({})
        server.close()

    asyncio.run(talk())
