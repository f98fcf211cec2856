"""The server of `binderclip serve`: embeddings, classes and search over HTTP, and a web page (extra `serve`, no torch)."""
