"""Docstrings as they are written for `help()`, prepared for pages; names link to the reference."""

import inspect
import re

from docutils import nodes
from formulas import NotAFormula, formulas
from sphinx import addnodes
from sphinx.util.inspect import stringify_signature

import keras_norms

CODE = re.compile(r"(?<!`)`([^`]+)`(?!`)")


def setup(app):
    # Before napoleon, which reads the sections.
    app.connect("autodoc-process-docstring", prepare, priority=100)
    app.connect("autodoc-process-signature", signature)
    app.connect("autodoc-skip-member", is_a_field)
    app.connect("doctree-read", link_names)
    return {"parallel_read_safe": True}


def prepare(app, what, name, item, options, lines):
    paragraphs = re.split(r"\n\s*\n", "\n".join(lines))
    lines[:] = "\n\n".join(map(prepared, paragraphs)).split("\n")


def prepared(paragraph):
    """A paragraph that is indented as a whole is made of formulas, or stays as it is."""
    if paragraph.startswith(">>>"):
        return paragraph
    if paragraph == "Example:":
        return ".. rubric:: Example"
    if not all(line.startswith("    ") for line in paragraph.split("\n")):
        return CODE.sub(r"``\1``", paragraph)
    try:
        return f".. raw:: html\n\n    {formulas(paragraph)}"
    except NotAFormula:
        return f".. code-block:: text\n\n{paragraph}"


def signature(app, what, name, item, options, text, returns):
    """Of a class, that of `__init__`: Keras hides it behind a `__new__` that takes anything."""
    if what == "class" and "__init__" in dir(item) and text == "(*args, **kwargs)":
        found = inspect.signature(item.__init__)
        found = found.replace(parameters=list(found.parameters.values())[1:])
        return stringify_signature(found), returns
    return None


def is_a_field(app, what, name, item, skip, options):
    """Leaves out fields of named tuples: the docstring of the class describes them."""
    return skip or (getattr(item, "__doc__", None) or "").startswith("Alias for field number")


def link_names(app, doctree):
    """Code that is a public name leads to its place in the reference."""
    around = nodes.title, nodes.reference, addnodes.pending_xref, addnodes.desc_signature
    for literal in list(doctree.findall(nodes.literal)):
        path = PUBLIC.get(literal.astext().removeprefix("keras_norms."))
        parents, parent = [], literal.parent
        while parent is not None:
            parents.append(parent)
            parent = parent.parent
        if path and not any(isinstance(parent, around) for parent in parents):
            link = addnodes.pending_xref(
                refdomain="py", reftype="obj", reftarget=path, refdoc=app.env.docname
            )
            literal.replace_self(link)
            link += literal


def public_names():
    """How text names what is public, and its path: `Drift` is keras_norms.diagnostics.Drift."""
    names = {}
    for name in (*keras_norms.api.__all__, "jax"):
        item = getattr(keras_norms, name)
        if not inspect.ismodule(item):
            names[name] = f"keras_norms.{name}"
            continue
        for inner in public_names_of(item):
            path = f"keras_norms.{name}.{inner}"
            names.setdefault(inner, path)
            # Where the package has it too, there; JAX has functions of its own by the same names.
            names[f"{name}.{inner}"] = path if name == "jax" else names[inner]
    return names


def public_names_of(module):
    """Without `__all__`, the classes and functions of its own."""
    if hasattr(module, "__all__"):
        return module.__all__
    return [
        name
        for name, item in vars(module).items()
        if inspect.isclass(item) or inspect.isfunction(item)
        if item.__module__.startswith(module.__name__) and item.__doc__ and name[0] != "_"
    ]


PUBLIC = public_names()
