"""Runs the notebook and keeps its outputs, after an edit of it.

What libraries log while they load is left out: it names files and devices of one machine.

    python docs/site/execute.py              in place
    python docs/site/execute.py other.ipynb  into another file
"""

import pathlib
import sys

import nbclient
import nbformat

NOTEBOOK = pathlib.Path(__file__).parents[2] / "examples" / "tour.ipynb"

notebook = nbformat.read(NOTEBOOK, as_version=4)
nbclient.NotebookClient(notebook, timeout=600, coalesce_streams=True).execute()
for cell in notebook.cells:
    cell.metadata.pop("execution", None)  # Times.
    if cell.cell_type == "code":
        cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
notebook.metadata["language_info"] = {"name": "python"}
nbformat.write(notebook, sys.argv[1] if sys.argv[1:] else NOTEBOOK)
