"""The member `model` of requests in the style of OpenAI: a task, or a task and its variant."""

from sparserve.service.core import ServingCore
from sparserve.service.errors import InvalidRequest, Unavailable

MODEL_DESCRIPTION = "a task, or TASK/VARIANT; may be absent if one task is served"


def parse_model_name(
    service: ServingCore, model: str | None, *, way_out: str = "name one as model"
) -> tuple[str, str | None]:
    """Return the task and the variant that a request names; without a name, the only task and no variant.

    Raises:
        InvalidRequest: there is no name, and several tasks are served; the message ends with the tasks.
        Unavailable: there is no name, and nothing is served.
    """
    if model is not None:
        task, _, variant = model.partition("/")
        return task, variant or None
    tasks = service.catalog.snapshot.tasks()
    if len(tasks) > 1:
        raise InvalidRequest(f"there are several tasks: {way_out}; the tasks are {', '.join(tasks)}")
    if not tasks:
        raise Unavailable(f"no model is served: {service.reason_not_ready()}")
    return tasks[0], None
