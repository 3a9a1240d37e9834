"""Serves the site with uvicorn, so that no log ever holds a path: paths hold readers' tokens."""

from __future__ import annotations

import logging

import uvicorn
from fastapi import FastAPI


def make_server(application: FastAPI, *, host: str, port: int) -> uvicorn.Server:
    """A server that is ready to `run()` until its `should_exit` is set; port 0 takes a free one."""
    config = uvicorn.Config(
        application, host=host, port=port, log_level="warning", access_log=False, server_header=False
    )
    silence_access_log()
    return uvicorn.Server(config)


def silence_access_log() -> None:
    """Drop every line of uvicorn's access log, whatever handlers anybody gives it.

    `access_log=False` alone only takes its handlers away: the log speaks again with the next one it is given.
    """
    logging.getLogger("uvicorn.access").addFilter(_nothing)


def _nothing(_record: logging.LogRecord) -> bool:
    return False
