"""What a `tf.function` consists of: its operations, before and after optimization."""

import collections
import pathlib
import tempfile

import tensorflow as tf

# What a graph holds for bookkeeping; nothing runs for it, or next to nothing.
FREE = {"Const", "Identity", "IdentityN", "NoOp", "Placeholder", "_Arg", "_Retval"}


def is_collective(kind):
    return kind.startswith("CollectiveReduce")


def is_operation(kind):
    return kind not in FREE


def operations(graphs):
    """Counts the operations by type, those of called functions included."""

    def types(nodes, library):
        for node in nodes:
            callee = node.attr["f"].func.name if "f" in node.attr else None
            if callee in library:
                yield from types(library[callee], library)
            else:
                yield node.op

    counter = collections.Counter()
    for graph in graphs:
        library = {f.signature.name: f.node_def for f in graph.library.function}
        counter.update(types(graph.node, library))
    return counter


def executed_graphs(first_call):
    """The graphs, one for each device, that TensorFlow runs after its own optimization.

    The public way to them is a summary, which is written to a file and read again.
    """
    with tempfile.TemporaryDirectory() as folder:
        with tf.summary.create_file_writer(folder).as_default():
            tf.summary.trace_on(graph=True)
            first_call()
            tf.summary.trace_export("step", step=0)
        (file,) = pathlib.Path(folder).iterdir()
        for record in tf.data.TFRecordDataset(str(file)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                metadata = tf.compat.v1.RunMetadata.FromString(value.tensor.string_val[0])
                return [g for f in metadata.function_graphs for g in f.partition_graphs]
