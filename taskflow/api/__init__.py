"""The HTTP API: Litestar routes over the queue's verbs."""
