"""The server of the demo: one page of this machine, which nothing else may use."""

import asyncio
import base64
import errno
import io
from typing import Any

from core.commands import prediction
from core.images import decoder
from core.images.preparation import DecodeError
from core.pipeline.errors import PipelineError

import numpy as np
from aiohttp import web
from PIL import Image

HOST = "127.0.0.1"  # not reachable from other machines
MOST = 2**28  # bytes of an uploaded image
SAFE = {
    "Content-Security-Policy": "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; connect-src 'self'; form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
}  # fmt: skip


class Page:
    """The request handlers of the server."""

    def __init__(self, model: prediction.Model, page: str) -> None:
        self.model, self.page = model, page
        self.lock = asyncio.Lock()  # one image at a time, to bound memory

    async def show(self, request: web.Request) -> web.Response:
        return web.Response(text=self.page, content_type="text/html")

    async def classify(self, request: web.Request) -> web.Response:
        content = await request.read()
        async with self.lock:
            answer = await asyncio.to_thread(self.look, content)
        return web.json_response(answer, status=422 if "error" in answer else 200)

    def look(self, content: bytes) -> dict[str, Any]:
        try:
            stack, (why,) = self.model.fit([decoder.pixels(content, self.model.preparation)])
        except DecodeError as reason:
            return {"error": str(reason)}
        if why:
            return {"error": why}
        probability, ood_score = (float(value[0]) for value in self.model.scores(stack, np.array([0])))
        return {
            "probability": probability, "ood_score": ood_score, "image": address(prediction.picture(stack[0])),
            "heatmap": address(self.model.heatmap(stack[0], probability)),
        }  # fmt: skip


def address(image: Image.Image) -> str:
    written = io.BytesIO()
    image.save(written, "PNG")
    return f"data:image/png;base64,{base64.b64encode(written.getvalue()).decode()}"


@web.middleware
async def own_page_alone(request: web.Request, handler: Any) -> web.StreamResponse:
    """Refuse requests from other web pages in the same browser (DNS rebinding, cross-site requests)."""
    host, origin = request.host, request.headers.get("Origin")
    if host.rpartition(":")[0] not in (HOST, "localhost") or origin not in (None, f"http://{host}"):
        raise web.HTTPForbidden(text="Only this page itself may use the server.")
    response: web.StreamResponse = await handler(request)
    response.headers.update(SAFE)
    return response


async def serve(page: Page, port: int) -> None:
    app = web.Application(client_max_size=MOST, middlewares=[own_page_alone])
    app.add_routes([web.get("/", page.show), web.post("/classify", page.classify)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, HOST, port)
        await site.start()
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        raise PipelineError(
            f"Port {port} is in use, perhaps by another demo. python stages/demo.py --port 0 chooses a free one"
        ) from None
    print(
        f"Open http://{HOST}:{runner.addresses[0][1]} in a browser. Ctrl-C stops the server. Research only.", flush=True
    )
    await asyncio.Event().wait()
