"""`binderclip serve`: the index and its model over HTTP, with a web page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from binderclip.cli.console import err, note, warn
from binderclip.cli.results import DB, ENGINE, MODEL, default_db
from binderclip.errors import InputError, NeedsExtraError

__all__ = ["EPILOG", "serve"]

EPILOG = """Examples:

binderclip serve

binderclip serve --db photos.index --port 9000

BINDERCLIP_API_KEY=$(openssl rand -hex 24) binderclip serve --host 0.0.0.0

Then open http://127.0.0.1:8000, or: curl 'http://127.0.0.1:8000/v1/search?q=a+red+bicycle'

Every option is also a variable: --max-pixels is BINDERCLIP_MAX_PIXELS."""

ACCESS, LIMITS, BATCHES = "Who may ask, and what they get", "Limits", "Batches"


def _option(name: str, text: str, panel: str | None = None, **more: Any) -> Any:
    """An option that is a variable too: --max-pixels is BINDERCLIP_MAX_PIXELS."""
    first = name.split("/")[0].split(" ")[0]
    variable = "BINDERCLIP_" + first.removeprefix("--").replace("-", "_").upper()
    return typer.Option(*name.split(" "), envvar=variable, help=text, rich_help_panel=panel, **more)


def serve(
    db: DB = None,
    model: MODEL = None,
    engine: ENGINE = None,
    host: Annotated[str, _option("--host", "Address to listen on; 0.0.0.0 for the network.")] = "127.0.0.1",
    port: Annotated[int, _option("--port -p", "Port; 0 for a free one.", min=0, max=65535)] = 8000,
    root_path: Annotated[str, _option("--root-path", "Prefix of a proxy.", metavar="/PREFIX")] = "",
    search: Annotated[bool, _option("--search/--no-search", "Serve an index, or vectors only.")] = True,
    page: Annotated[bool, _option("--page/--no-page", "Serve the web page.")] = True,
    log_level: Annotated[str, _option("--log-level", "debug, info, warning or error; JSON on stderr.")] = "info",
    api_key: Annotated[
        list[str] | None, _option("--api-key", "Key that clients must send. Repeatable.", ACCESS, metavar="KEY")
    ] = None,
    originals: Annotated[bool, _option("--originals/--no-originals", "Hand out whole files.", ACCESS)] = True,
    full_paths: Annotated[bool, _option("--full-paths", "Show absolute paths.", ACCESS)] = False,
    allow_urls: Annotated[bool, _option("--allow-urls", "Fetch pictures by public http(s) address.", ACCESS)] = False,
    allow_host: Annotated[
        list[str] | None, _option("--allow-host", "Name to answer to; * any.", ACCESS, metavar="NAME")
    ] = None,
    cors: Annotated[
        list[str] | None, _option("--cors", "Origin whose pages may ask; none by default.", ACCESS, metavar="ORIGIN")
    ] = None,
    trust_proxy: Annotated[
        list[str] | None, _option("--trust-proxy", "Proxy whose X-Forwarded-For counts.", ACCESS, metavar="IP")
    ] = None,
    rate_limit: Annotated[int, _option("--rate-limit", "Requests a minute and client; 0: any.", ACCESS, min=0)] = 0,
    max_body: Annotated[int, _option("--max-body", "Bytes of a request.", LIMITS, min=1)] = 32 << 20,
    max_pixels: Annotated[int, _option("--max-pixels", "Pixels of a picture sent.", LIMITS, min=1)] = 50_000_000,
    max_inputs: Annotated[int, _option("--max-inputs", "Inputs of a request.", LIMITS, min=1)] = 2048,
    max_text: Annotated[int, _option("--max-text", "Characters of a text.", LIMITS, min=1)] = 32_768,
    max_requests: Annotated[int, _option("--max-requests", "Requests at once.", LIMITS, min=1)] = 512,
    queue: Annotated[int, _option("--queue", "Inputs that may wait; beyond it, 429.", LIMITS, min=1)] = 4096,
    timeout: Annotated[float, _option("--timeout", "Seconds a request may take.", LIMITS, min=0.1)] = 60.0,
    drain: Annotated[float, _option("--drain", "Seconds to finish when stopped.", LIMITS, min=0.0)] = 30.0,
    batch_rows: Annotated[int, _option("--batch-rows", "Most inputs of a batch.", BATCHES, min=1)] = 32,
    batch_tokens: Annotated[int, _option("--batch-tokens", "Most tokens of a batch.", BATCHES, min=1)] = 2048,
    batch_pixels: Annotated[int, _option("--batch-pixels", "Most pixels of a batch.", BATCHES, min=1)] = 262_144,
) -> int:
    """Serve an index: a web page to search it, an HTTP API, and OpenAI's /v1/embeddings. Stop with Ctrl-C."""
    if log_level not in ("debug", "info", "warning", "error"):
        raise InputError(f"--log-level is debug, info, warning or error, not {log_level!r}")
    try:
        from binderclip.search.serving.options import Options
        from binderclip.search.serving.run import serve as run_server
    except ModuleNotFoundError as error:
        raise NeedsExtraError("the server", "serve") from error
    options = Options(
        db=_folder(db) if search else None,
        model=model,
        engine=engine,
        host=host,
        port=port,
        root_path=root_path.rstrip("/"),
        api_keys=tuple(api_key or ()),
        allow_hosts=tuple(allow_host or ()),
        cors=tuple(cors or ()),
        trust_proxy=tuple(trust_proxy or ()),
        allow_urls=allow_urls,
        originals=originals,
        full_paths=full_paths,
        page=page,
        max_body=max_body,
        max_pixels=max_pixels,
        max_inputs=max_inputs,
        max_text=max_text,
        max_requests=max_requests,
        queue=queue,
        batch_rows=batch_rows,
        batch_tokens=batch_tokens,
        batch_pixels=batch_pixels,
        rate_limit=rate_limit,
        timeout=timeout,
        drain=drain,
    )
    if not options.is_private and not options.api_keys:
        warn(f"anyone who reaches {host} can see the pictures: set BINDERCLIP_API_KEY")
    run_server(options, log_level=log_level, on_start=_tell if err.is_terminal else None)
    return 0


def _folder(db: Path | None) -> Path:
    return db or default_db()


def _tell(address: str) -> None:
    note(f"serving at {address}  (Ctrl-C stops)")
