"""Serve a local web page to try the model: it shows probability, operating points and heatmap. Research only.

Reads   models/, metrics/evaluate.json, metrics/verdict.md (written by dvc repro, or fetched by dvc pull)
Writes  nothing; images stay on this machine
Alone   python stages/demo.py [--port 8765] [--device cpu]
"""

import argparse
import asyncio
import base64
import errno
import io
from pathlib import Path
from typing import Any

import numpy as np
from aiohttp import web
from PIL import Image

from core.commands import prediction
from core.evidence import calibration
from core.images import decoder
from core.network import novelty
from core.pipeline import entrypoint, files
from core.pipeline.errors import Mistake
from core.report import html

HOST = "127.0.0.1"  # not reachable from other machines
MOST = 2**28  # bytes of an uploaded image
PAGE = Path(__file__).parent / "core/commands/demo.html"
METRICS = "metrics/evaluate.json"
VERDICT = "metrics/verdict.md"
SAFE = {
    "Content-Security-Policy": "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; connect-src 'self'; form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8765, help="0 chooses a free port")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1")
    asked = parser.parse_args()
    figures = files.read_json(METRICS)
    model = prediction.Model(Path("models"), asked.device, calibration.used(figures["calibration"]))
    points = {"as evaluated": {"threshold": figures["threshold"]} | figures["test_unseen"]}
    points |= {f"{name.replace('_', ' ')} %": point for name, point in figures["operating_points"].items()}
    headline, *_ = html.read(files.there(VERDICT).read_text(encoding="utf-8"))
    page = html.filled(PAGE, points=points, synthetic=model.synthetic, headline=headline, far=novelty.MEANING)
    asyncio.run(serve(Page(model, page, figures["threshold"]), asked.port))


class Page:
    """The request handlers of the server."""

    def __init__(self, model: prediction.Model, page: str, threshold: float) -> None:
        self.model, self.page, self.threshold = model, page, threshold
        self.lock = asyncio.Lock()  # one image at a time, to bound memory

    async def show(self, request: web.Request) -> web.Response:
        return web.Response(text=self.page, content_type="text/html")

    async def classify(self, request: web.Request) -> web.Response:
        content = await request.read()
        async with self.lock:
            found = await asyncio.to_thread(self.look, content)
        return web.json_response(found, status=422 if "error" in found else 200)

    def look(self, content: bytes) -> dict[str, Any]:
        try:
            stack, (why,) = self.model.fit([decoder.pixels(content, self.model.side)])
        except decoder.Unreadable as reason:
            return {"error": str(reason)}
        if why:
            return {"error": why}
        probability, unlike = (float(value[0]) for value in self.model.scores(stack, np.array([0])))
        return {
            "probability": probability, "unlike": unlike, "image": address(prediction.picture(stack[0])),
            "heatmap": address(self.model.heatmap(stack[0], probability >= self.threshold)),
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
        raise Mistake(
            f"Port {port} is in use, perhaps by another demo. python stages/demo.py --port 0 chooses a free one"
        ) from None
    print(
        f"Open http://{HOST}:{runner.addresses[0][1]} in a browser. Ctrl-C stops the server. Research only.", flush=True
    )
    await asyncio.Event().wait()


if __name__ == "__main__":
    entrypoint.script(main)
