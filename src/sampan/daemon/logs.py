"""The daemon's own log, on standard error, in the two formats of dockerd.

    text   time="2026-11-23T20:43:35.123456789Z" level=info msg="API listen on …"
    json   {"level":"info","msg":"…","time":"…"}

Source: --log-format and --log-level of dockerd 28.5.
"""

from __future__ import annotations

import json
import logging
import sys

from sampan.spec import times

_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
    "fatal": logging.CRITICAL,
}
_WORDS = {logging.WARNING: "warning", logging.CRITICAL: "fatal"}


def _stamp(record: logging.LogRecord) -> str:
    return times.rfc3339_nano_fixed(int(record.created * 1e9))


def _message(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    text = record.getMessage()
    if record.exc_info:
        text += "\n" + formatter.formatException(record.exc_info)
    return text


class TextFormat(logging.Formatter):
    """key=value pairs; the message is quoted when it holds more than a word."""

    def format(self, record: logging.LogRecord) -> str:
        level = _WORDS.get(record.levelno, record.levelname.lower())
        message = json.dumps(_message(self, record), ensure_ascii=False)
        return f'time="{_stamp(record)}" level={level} msg={message}'


class JsonFormat(logging.Formatter):
    """One JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        level = _WORDS.get(record.levelno, record.levelname.lower())
        return json.dumps({"level": level, "msg": _message(self, record), "time": _stamp(record)}, ensure_ascii=False)


def configure(level: str, format: str) -> None:
    """Set the root logger up."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormat() if format == "json" else TextFormat())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    set_level(level)


def set_level(level: str) -> None:
    """Change the level, as a reload does."""
    logging.getLogger("sampan").setLevel(_LEVELS[level])
    logging.getLogger().setLevel(max(_LEVELS[level], logging.INFO))
