"""Answers of a running service to KServe's clients, as JSON on standard output.

Run by an interpreter that has kserve, which is not that of the tests: `make kserve-venv` makes it.
Usage: kserve_calls.py REST_URL GRPC_TARGET TASK TEXT...
"""

import asyncio
import itertools
import json
import sys
from typing import Any

import httpx
import kserve
import numpy as np


def request(task: str, texts: list[str], binary: bool, columns: bool) -> Any:
    """One input `text` of shape (texts,) or (texts, 1)."""
    shape = [len(texts), 1] if columns else [len(texts)]
    text = kserve.InferInput("text", shape, "BYTES")
    text.set_data_from_numpy(np.array(texts, dtype=object).reshape(shape), binary_data=binary)
    return kserve.InferRequest(task, [text], request_id="seven")


def told(answer: Any) -> dict[str, Any]:
    """Return the compared part of an answer."""
    scores = next(output for output in answer.outputs if output.name == "scores").as_numpy()
    return {"id": answer.id, "model": answer.model_name, "scores": scores.tolist()}


async def over_rest(url: str, task: str, texts: list[str]) -> dict[str, Any]:
    async with kserve.InferenceRESTClient(kserve.RESTConfig(protocol="v2")) as client:
        found = {
            "live": await client.is_server_live(url),
            "ready": await client.is_server_ready(url),
            "model ready": await client.is_model_ready(url, task),
            "no such model ready": await client.is_model_ready(url, "no-such-task"),
        }
        for binary, columns in itertools.product([False, True], repeat=2):
            answer = await client.infer(url, request(task, texts, binary, columns), model_name=task)
            found[f"answer, binary={binary}, columns={columns}"] = told(answer)
        try:
            await client.infer(url, request(task, texts, True, False), model_name="none")
        except httpx.HTTPStatusError as error:
            found["refusal"] = str(error)
        return found


async def over_grpc(target: str, task: str, texts: list[str]) -> dict[str, Any]:
    async with kserve.InferenceGRPCClient(url=target) as client:
        found = {
            "live": await client.is_server_live(),
            "ready": await client.is_server_ready(),
            "model ready": await client.is_model_ready(task),
        }
        for binary in (False, True):
            found[f"answer, binary={binary}"] = told(await client.infer(request(task, texts, binary, False)))
        return found


async def main() -> None:
    url, target, task, *texts = sys.argv[1:]
    print(json.dumps({"rest": await over_rest(url, task, texts), "grpc": await over_grpc(target, task, texts)}))


if __name__ == "__main__":
    asyncio.run(main())
