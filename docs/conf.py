"""Settings of the documentation. `tox -e docs` builds it; a warning is an error."""

import sys
from importlib.metadata import version as version_of
from pathlib import Path

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

import streamtask

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "streamtask"
release = version_of("streamtask")
version = release
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "from_code"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"streamtask {release}"
html_show_copyright = False

myst_heading_anchors = 3
myst_enable_extensions = ["deflist"]

# Docstrings write code in single backticks.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
# Names are checked within streamtask: other projects' inventories would need the network.
nitpick_ignore_regex = [
    (r"py:.*", r"(?!streamtask\b).*"),
    # Type variables, and what is behind the public names: see the module itself.
    (r"py:class", r"streamtask\.(router\.(FunctionT|LifespanT)|event\._UpcasterT|rows\._Row)"),
    (r"py:class", r"streamtask\.task\.(C|P|Q|R|Sending|TaskDecorator|TaskOptions|Sender)(\.\w+)?"),
    (r"py:class", r"streamtask\.workflow\.(R|S|Callee|Chain|Group|Sender)"),
    (r"py:class", r"streamtask\.testing\.\w+\.(\w*T|_T|CheckOptions)"),
    (r"py:class", r"streamtask\.rules\.RuleOptions"),
    (r"py:class", r"streamtask\.(transport\.port\.Transport|broker\.Broker|context\.\w+|inspector\.Connected)"),
]


def _public(app: Sphinx, env: BuildEnvironment, node: pending_xref, contents: nodes.Element) -> nodes.reference | None:
    """Where `streamtask.retry.Retry` is asked for, answer with `streamtask.Retry`: that is how users know it."""
    target = str(node.get("reftarget", ""))
    name = target.rpartition(".")[2]
    if not target.startswith("streamtask.") or name not in streamtask.__all__:
        return None
    domain = env.get_domain("py")
    for kind in ("class", "exc"):
        found = domain.resolve_xref(env, node["refdoc"], app.builder, kind, f"streamtask.{name}", node, contents)
        if found is not None:
            return found
    return None


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("missing-reference", _public)
