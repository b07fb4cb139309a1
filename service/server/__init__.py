"""uvicorn: connections, sockets, graceful shutdown."""
