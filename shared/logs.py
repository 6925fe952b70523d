"""How both programs log: one JSON object a line, on standard error.

Rules: no local variables in tracebacks, since they hold passwords and sessions; nothing below info, which is what an
operator reads at night.
"""

import logging
import sys

import structlog


def log_as_json() -> None:
    """Set it up; called once, by a program's main."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
