"""Language models as callables: prompts in, texts out. Whatever writes text elsewhere in the library takes one of these.

- `Endpoint`: any server that speaks OpenAI's completions or chat interface (vLLM, llama.cpp, Ollama, a vendor).
- `LocalModel`: any causal language model of Hugging Face, from a name or a folder (extra `hf`).

Rewriting without any model is in `curate` (rules and synonyms).
"""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from binderclip.errors import InputError, NeedsExtraError, OfflineError

__all__ = ["Endpoint", "Generate", "LocalModel"]

#: Prompts to texts, one each, in their order.
Generate = Callable[[Sequence[str]], list[str]]


class Endpoint:
    """A server with OpenAI's interface.

    Args:
        url: up to and with the version, as in ``http://localhost:8000/v1``.
        model: name that the server knows.
        chat: use ``/chat/completions``, else ``/completions``.
        key: environment variable that holds the key, where there is one.
        temperature: of the draws.
        top_p: share of the probability that is drawn from.
        max_new_tokens: of an answer.
        seed: sent along; servers need not heed it.
        parallel: requests at a time.
        tries: of a request, with pauses that double, before it is given up.
        timeout: seconds of a request.

    Raises:
        InputError: the url is no http(s) address; the server refuses or answers in another form.
        OfflineError: it does not answer.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        chat: bool = True,
        key: str = "OPENAI_API_KEY",
        temperature: float = 0.9,
        top_p: float = 0.95,
        max_new_tokens: int = 77,
        seed: int | None = None,
        parallel: int = 4,
        tries: int = 3,
        timeout: float = 60.0,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise InputError(f"{url!r} is no address of a server: give one as http://localhost:8000/v1")
        self.url, self.chat, self.key = url.rstrip("/"), chat, key
        self.parallel, self.tries, self.timeout = parallel, tries, timeout
        self.body = {"model": model, "temperature": temperature, "top_p": top_p, "max_tokens": max_new_tokens}
        if seed is not None:
            self.body["seed"] = seed

    def __call__(self, prompts: Sequence[str]) -> list[str]:
        """An answer to each prompt."""
        with ThreadPoolExecutor(self.parallel) as pool:
            return list(pool.map(self._one, prompts))

    def _one(self, prompt: str) -> str:
        asked = {"messages": [{"role": "user", "content": prompt}]} if self.chat else {"prompt": prompt}
        answer = self._post("/chat/completions" if self.chat else "/completions", {**self.body, **asked})
        try:
            choice = answer["choices"][0]
            return str(choice["message"]["content"] if self.chat else choice["text"])
        except (KeyError, IndexError, TypeError):
            raise InputError(f"{self.url} answers in another form than OpenAI's: try chat={not self.chat}") from None

    def _post(self, path: str, body: Mapping[str, Any]) -> Any:
        headers = {"Content-Type": "application/json"}
        if os.environ.get(self.key):
            headers["Authorization"] = f"Bearer {os.environ[self.key]}"
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(), headers)  # noqa: S310 - http(s) only
        for attempt in range(self.tries):
            try:
                with urllib.request.urlopen(request, timeout=self.timeout) as answer:  # noqa: S310
                    return json.loads(answer.read())
            except urllib.error.HTTPError as error:
                # 429 and 5xx pass; what the server refuses for good is told at once.
                if error.code != 429 and error.code < 500:
                    raise InputError(f"{self.url} refuses ({error.code} {error.reason}): check model and key") from None
                problem = f"{error.code} {error.reason}"
            except ValueError:
                raise InputError(f"{self.url} does not answer in JSON: is it a language model's server?") from None
            except OSError as error:
                problem = str(getattr(error, "reason", error))
            if attempt < self.tries - 1:
                time.sleep(0.5 * 2**attempt)
        raise OfflineError(f"{self.url} does not answer ({problem}): start the server, or check the address")


class LocalModel:
    """A causal language model on this machine.

    Args:
        name: a folder, or a name that is in the local cache or can be downloaded.
        temperature: of the draws; 0 takes the likeliest.
        top_p: share of the probability that is drawn from.
        max_new_tokens: of an answer.
        seed: of the draws.
        batch_size: prompts at a time.

    Raises:
        NeedsExtraError: the extra `hf` is not installed.
        InputError: no such model.
    """

    def __init__(
        self,
        name: str | Path,
        *,
        temperature: float = 0.9,
        top_p: float = 0.95,
        max_new_tokens: int = 77,
        seed: int = 0,
        batch_size: int = 8,
    ) -> None:
        try:
            import transformers
        except ImportError:
            raise NeedsExtraError("a language model on this machine", "hf") from None
        try:
            self.tokenizer = transformers.AutoTokenizer.from_pretrained(name, padding_side="left")
            self.model: Any = transformers.AutoModelForCausalLM.from_pretrained(name)
        except (OSError, ValueError) as error:
            raise InputError(f"{name} is no language model that can be loaded: {str(error).splitlines()[0]}") from None
        self.model.eval()  # type: ignore[no-untyped-call, unused-ignore]
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.options: dict[str, Any] = {"do_sample": temperature > 0, "max_new_tokens": max_new_tokens}
        if temperature > 0:
            self.options |= {"temperature": temperature, "top_p": top_p}
        self.seed, self.batch_size = seed, batch_size

    def __call__(self, prompts: Sequence[str]) -> list[str]:
        """What the model writes behind each prompt."""
        import torch

        torch.manual_seed(self.seed)
        out: list[str] = []
        for start in range(0, len(prompts), self.batch_size):
            part = self.tokenizer(list(prompts[start : start + self.batch_size]), return_tensors="pt", padding=True)
            with torch.inference_mode():
                ids = self.model.generate(**part, **self.options, pad_token_id=self.tokenizer.pad_token_id)
            out += self.tokenizer.batch_decode(ids[:, part["input_ids"].shape[1] :], skip_special_tokens=True)
        return out
