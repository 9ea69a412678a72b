"""What the book needs beyond jupyter-book, as one small Sphinx extension.

1. Links. A notebook is read on Colab and GitHub too, so its links to the book are absolute. Here each becomes
   relative, and one that leads nowhere is a warning (an error under `-W`).
2. No other site. A content security policy forbids the browser to fetch anything from elsewhere, to send a form there,
   to take another address for the book's own, and to show plug-ins.
3. Live widgets. Font Awesome must not replace the icons of the Play widget: it nests its own inside.
"""

from docutils import nodes
from sphinx.util import logging

BOOK = "https://clip-notes.github.io/clip-notes/"
POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'self'; object-src 'none'"  # default-src says nothing of the first two
)
logger = logging.getLogger(__name__)


def relative_links(app, doctree, docname):
    """Turn each link to the published book into a link to the page beside this one."""
    for link in doctree.findall(nodes.reference):
        target = link.get("refuri", "")
        if not target.startswith(BOOK):
            continue
        page, _, anchor = target.removeprefix(BOOK).partition("#")
        name = page.removesuffix(".html") if page not in ("", "index.html") else app.config.root_doc
        if name not in app.env.found_docs:
            logger.warning("the link %s leads to no page of the book", target, location=link)
            continue
        relative = app.builder.get_relative_uri(docname, name)
        link["refuri"] = (relative or "#") + (f"#{anchor}" if anchor else "")
        link["internal"] = True
        if "external" in link.get("classes", []):
            link["classes"].remove("external")


def add_policy(app, pagename, templatename, context, doctree):
    """Add the policy to each page."""
    policy = f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
    context["metatags"] = policy + context.get("metatags", "")


def setup(app):
    app.add_js_file(None, body='window.FontAwesomeConfig = {autoReplaceSvg: "nest"}', priority=1)
    app.add_js_file("book.js", loading_method="defer")
    app.connect("doctree-resolved", relative_links)
    app.connect("html-page-context", add_policy)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
