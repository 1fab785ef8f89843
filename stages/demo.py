"""Serve a local web page to try the model: it shows probability, operating points and heatmap. Research only.

Reads   models/, metrics/detail/evaluate.json, metrics/verdict.md (written by dvc repro, or fetched by dvc pull)
Writes  nothing; images stay on this machine
Alone   python stages/demo.py [--port 8765] [--device cpu]
"""

import asyncio
from pathlib import Path

from core.commands import prediction, server
from core.network import messages, ood
from core.pipeline import entrypoint, files
from core.report import html

PAGE = Path(__file__).parent / "core/commands/demo.html"
METRICS = "metrics/detail/evaluate.json"
VERDICT = "metrics/verdict.md"


def main() -> None:
    parser = entrypoint.argument_parser()
    parser.add_argument("--port", type=int, default=8765, help="0 chooses a free port")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1")
    args = parser.parse_args()
    figures = files.read_json(METRICS)
    model = prediction.Model(Path("models"), args.device)
    points = {"as evaluated": {"threshold": model.threshold} | figures["test_unseen"]}
    points |= {f"{name.replace('_', ' ')} %": point for name, point in figures["operating_points"].items()}
    headline, *_ = html.read(files.require(VERDICT).read_text(encoding="utf-8"))
    far = messages.out_of_distribution(ood.IN_DISTRIBUTION)
    page = html.filled(PAGE, points=points, synthetic=model.synthetic, headline=headline, far=far)
    asyncio.run(server.serve(server.Page(model, page), args.port))


if __name__ == "__main__":
    entrypoint.script(main)
