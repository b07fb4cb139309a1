"""Launch the service: read the settings, then serve in this process, supervise workers, or be one of them."""

import logging
import os
import re
import sys
from collections.abc import Sequence

from pydantic import ValidationError
from pydantic_settings import SettingsError

from sparserve.models.bundle.store import Store
from sparserve.models.errors import StoreError
from sparserve.service.catalog.mirror import Mirror
from sparserve.service.observability.logs import configure_logging
from sparserve.service.security.authorizer import exposure_warning
from sparserve.service.server.stop_signals import StopSignals
from sparserve.service.settings import Settings
from sparserve.service.workers.assignment import Assignment
from sparserve.service.workers.count import worker_count
from sparserve.service.workers.exit_codes import EXIT_USAGE


def launch(argv: Sequence[str], signals: StopSignals) -> int:
    """Serve until a signal stops the service, and return the exit code."""
    try:
        settings = Settings(_cli_parse_args=list(argv))
    except ValidationError as error:
        for item in error.errors():
            setting, *within = map(str, item["loc"]) if item["loc"] else ("",)
            name = f"{_spellings(setting)}: " if setting else ""
            inside = f"{'.'.join(within)}: " if within else ""
            print(f"{name}{inside}{str(item['msg']).removeprefix('Value error, ')}", file=sys.stderr)
        return EXIT_USAGE
    except SettingsError as error:
        match = re.search(r'field "(\w+)"|encountered for (\w+)', str(error))
        setting = (match[1] or match[2]) if match else ""
        if setting in Settings.model_fields:
            description = Settings.model_fields[setting].description
            print(f"{_spellings(setting)}: invalid JSON. Expected: {description}", file=sys.stderr)
        else:
            print(error, file=sys.stderr)
        return EXIT_USAGE
    configure_logging(settings.log_level, settings.log_format)
    assignment = Assignment.from_environment(os.environ)
    if assignment is None:
        try:
            if settings.store_url:
                Mirror(settings.store_url, Store(settings.store))
        except StoreError as error:
            print(f"sparserve: {error}", file=sys.stderr)
            return EXIT_USAGE
        if warning := exposure_warning(
            settings.host,
            settings.port,
            has_keys=settings.keys_file is not None,
            admin_without_key=settings.admin_without_key,
        ):
            logging.getLogger("sparserve").warning("%s", warning)
        count = worker_count(settings)
        if count > 1:
            from sparserve.service.workers.supervisor import supervise

            return supervise(settings, count, argv, signals)
    from sparserve.service.workers.process import serve  # imports ONNX Runtime, which a supervisor does not need

    return serve(settings, signals, assignment)


def _spellings(setting: str) -> str:
    """Return the option and the environment variable of a setting."""
    return f"--{setting.replace('_', '-')} (SPARSERVE_{setting.upper()})"
