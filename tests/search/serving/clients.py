"""The clients that people have, against a running server: the snippets of docs/serving.md, as they are.

    python clients.py http://127.0.0.1:8000 openai

Prints the vectors as JSON. Runs in any Python that has the client; nothing of binderclip is needed.
"""

from __future__ import annotations

import json
import sys

TEXTS = ["a red bicycle", "a bowl of soup", "rain on a window"]


def with_openai(url: str) -> list[list[float]]:
    from openai import OpenAI

    client = OpenAI(base_url=f"{url}/v1", api_key="any-key-1")
    answer = client.embeddings.create(model="pocket", input=TEXTS)
    return [one.embedding for one in answer.data]


def with_langchain(url: str) -> list[list[float]]:
    from langchain_openai import OpenAIEmbeddings

    embeddings = OpenAIEmbeddings(
        base_url=f"{url}/v1", api_key="any-key-1", model="pocket", check_embedding_ctx_length=False
    )
    assert embeddings.embed_query(TEXTS[0]) == embeddings.embed_documents(TEXTS)[0]
    return embeddings.embed_documents(TEXTS)


def with_llama_index(url: str) -> list[list[float]]:
    from llama_index.embeddings.openai_like import OpenAILikeEmbedding

    embedding = OpenAILikeEmbedding(model_name="pocket", api_base=f"{url}/v1", api_key="any-key-1", embed_batch_size=2)
    return embedding.get_text_embedding_batch(TEXTS)


def without_the_option(url: str) -> str:
    """What LangChain's default, which sends token ids, is told."""
    from langchain_openai import OpenAIEmbeddings

    class Characters:
        def encode(self, text: str, **_: object) -> list[int]:
            return [ord(letter) for letter in text]

        encode_ordinary = encode

    import tiktoken

    tiktoken.encoding_for_model = lambda *_: Characters()  # the real table would be downloaded
    tiktoken.get_encoding = lambda *_: Characters()
    try:
        OpenAIEmbeddings(base_url=f"{url}/v1", api_key="any-key-1", model="pocket").embed_query("a")
    except Exception as error:
        return str(error)
    return ""


CLIENTS = {
    "openai": with_openai,
    "langchain_openai": with_langchain,
    "llama_index": with_llama_index,
    "token_ids": without_the_option,
}

if __name__ == "__main__":
    print(json.dumps(CLIENTS[sys.argv[2]](sys.argv[1])))
