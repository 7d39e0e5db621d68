"""A server: what it does is the path of the request."""

import sys

from componentize_py_types import Ok
from wit_world import exports
from wit_world.imports import types

served = 0


class IncomingHandler(exports.IncomingHandler):
    def handle(
        self, request: types.IncomingRequest, out: types.ResponseOutparam
    ) -> None:
        global served
        served += 1
        path = request.path_with_query()
        if path == "/raise":
            raise ValueError("asked to raise")
        if path == "/count":
            text = str(served)
        else:
            text = f"python {sys.version_info.major} says {path}"
        print("said", text)
        response = types.OutgoingResponse(types.Fields.from_list([]))
        body = response.body()
        types.ResponseOutparam.set(out, Ok(response))
        with body.write() as stream:
            stream.blocking_write_and_flush(text.encode())
        types.OutgoingBody.finish(body, None)
