"""The few pages of the issuer, with a policy that lets nothing but themselves in."""

from __future__ import annotations

import base64
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.responses import HTMLResponse

if TYPE_CHECKING:
    import jinja2

CSS = (
    "body{font:16px/1.5 system-ui,sans-serif;margin:0;background:#f5f6f7;color:#1d2d3e}"
    "main{max-width:22rem;margin:4rem auto;padding:2rem;background:#fff;border:1px solid #d9d9d9;"
    "border-radius:.75rem}h1{font-size:1.25rem;margin:0 0 1rem}"
    "label{display:block;margin:.75rem 0 .25rem}"
    "input,button{font:inherit;box-sizing:border-box;width:100%;padding:.5rem .75rem;"
    "border:1px solid #556b82;border-radius:.375rem}"
    "button{margin-top:1.25rem;background:#0064d9;border-color:#0064d9;color:#fff;cursor:pointer}"
    ":focus-visible{outline:2px solid #0032a5;outline-offset:2px}"
    ".error{color:#aa0808}.note{font-size:.875rem;color:#556b82}code{overflow-wrap:anywhere}"
    "@media(prefers-color-scheme:dark){body{background:#12171c;color:#eaecee}"
    "main{background:#1d232a;border-color:#3b4754}.note{color:#a9b4be}.error{color:#fa6161}"
    "input{background:#12171c;color:inherit}}"
)
_CSS_HASH = base64.b64encode(sha256(CSS.encode()).digest()).decode()


def page(
    template: str, *, status: int = 200, form_target: str | None = None, **values: Any
) -> HTMLResponse:
    """Render a page. ``form_target`` is the origin to which the answer to its form redirects.

    Browsers apply ``form-action`` to that redirect too, so the page has to name it.
    """
    text = _templates().get_template(template).render(css=CSS, **values)
    targets = "'self'" if form_target is None else f"'self' {form_target}"
    policy = (
        f"default-src 'none'; style-src 'sha256-{_CSS_HASH}'; form-action {targets}; "
        "base-uri 'none'; frame-ancestors 'none'"
    )
    headers = {
        "Content-Security-Policy": policy,
        "Cache-Control": "no-store",
        "X-Frame-Options": "DENY",
        "X-Content-Type-Options": "nosniff",
        # Not "no-referrer": with it browsers send "Origin: null", which is refused on the POST.
        "Referrer-Policy": "same-origin",
    }
    return HTMLResponse(text, status, headers)


@cache
def _templates() -> jinja2.Environment:
    import jinja2  # noqa: PLC0415 - every start would wait for what few of them show

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
