"""`binderclip serve` as a process: its options, its address, its end."""

from __future__ import annotations

import http.client
import inspect
import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Annotated, get_args, get_origin, get_type_hints

import pytest
import typer

from binderclip.cli import serve as verb
from binderclip.cli.main import app, run

if not any(command.name == "serve" for command in app.registered_commands):
    app.command("serve", epilog=verb.EPILOG)(verb.serve)

PROGRAM = """
import sys, time
from binderclip.cli import serve as verb
from binderclip.cli.main import app, main
from binderclip.search.serving.engine import Engine
if not any(command.name == "serve" for command in app.registered_commands):
    app.command("serve", epilog=verb.EPILOG)(verb.serve)
inner = Engine._text
async def slow(self, text, cost):
    import asyncio
    if text == "slow":
        print('{"event": "at work"}', file=sys.stderr, flush=True)
        await asyncio.sleep(0.5)
    return await inner(self, text, cost)
Engine._text = slow
sys.argv = ["binderclip", "serve", "--no-search", "--port", "0"]
main()
"""


def test_every_option_is_a_variable_too() -> None:
    hints = get_type_hints(verb.serve, include_extras=True)
    for name in inspect.signature(verb.serve).parameters:
        assert get_origin(hints[name]) is Annotated
        option = next(one for one in get_args(hints[name])[1:] if isinstance(one, typer.models.OptionInfo))
        assert option.envvar == f"BINDERCLIP_{name.upper()}"


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--db", "{tmp}/none"], "binderclip index"),
        (["--no-search", "--api-key", "short"], "shorter than 8"),
        (["--no-search", "--host", "203.0.113.9", "--api-key", "long-enough"], "cannot listen"),
        (["--no-search", "--log-level", "loud"], "--log-level"),
        (["--no-search", "--model", "nothing-of-that-name"], "nothing-of-that-name"),
        (["--no-search", "--root-path", "x"], "begin with /"),
    ],
)
def test_what_cannot_be_served_is_one_line(
    arguments: list[str], why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["serve", *(one.format(tmp=tmp_path) for one in arguments)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert why in said.err
    assert "Traceback" not in said.err


def test_it_serves_says_where_and_ends_after_what_is_at_work(tmp_path: Path) -> None:
    environment = os.environ | {"BINDERCLIP_RATE_LIMIT": "1000", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stderr=subprocess.PIPE, text=True, env=environment
    ) as server:
        assert server.stderr is not None
        started = json.loads(server.stderr.readline())
        assert started["event"] == "started"
        port = int(re.findall(r":(\d+)$", started["address"])[0])
        found: list[int] = []

        def ask() -> None:
            link = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
            link.request("POST", "/v1/embeddings", '{"input":"slow"}', {"Content-Type": "application/json"})
            found.append(link.getresponse().status)
            link.close()

        thread = threading.Thread(target=ask)
        thread.start()
        assert json.loads(server.stderr.readline())["event"] == "at work"
        server.send_signal(signal.SIGTERM)
        thread.join(20)
        lines = [json.loads(line) for line in server.stderr]
        assert server.wait(20) == 0
    assert found == [200]
    assert [line["event"] for line in lines] == ["request", "stopped"]
    assert lines[0]["status"] == 200
    assert len(lines[0]["request_id"]) == 32


def test_it_imports_no_torch() -> None:
    program = "import sys\nimport binderclip.search.serving.run\nprint('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "False"
