"""Messages of lbkit's own: descriptor sets, loaded into a pool that is nobody else's.

Each ``name.binpb`` is what ``protoc --descriptor_set_out`` made of ``name.proto``; the module ``name`` makes it look
like a ``_pb2`` module, and ``name.pyi`` types it. The pool is private so that files and messages may carry their
public names: a program that brings the same ones in generated code meets no clash in the default pool, and no
generated code means no check that it fits the protobuf installed. Messages that others have defined are in ``public/``,
trimmed to what is used here, under the paths and with the field numbers that all the world knows.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

POOL = DescriptorPool()
_WELL_KNOWN = "google/protobuf/"  # files that come with protobuf


def load(name: str) -> FileDescriptor:
    """Add the files of ``name.binpb`` to the pool, and return the last: the one that imports the others.

    Called by the modules of this package, once each.

    Raises:
        FileNotFoundError: there is no such descriptor set; the installation is broken.
    """
    data = pkgutil.get_data(__name__, f"{name}.binpb")  # out of a zip file, too
    assert data is not None, "this package's loader cannot read files"
    files = FileDescriptorSet.FromString(data).file
    for file in files:
        for dependency in file.dependency:
            if dependency.startswith(_WELL_KNOWN):  # the same bytes again change nothing
                module = import_module(dependency.removesuffix(".proto").replace("/", ".") + "_pb2")
                POOL.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
        POOL.AddSerializedFile(file.SerializeToString())
    return POOL.FindFileByName(files[-1].name)


def classes_of(file: FileDescriptor) -> Mapping[str, Any]:
    """Return the classes of a file's messages by name, as the globals of a ``_pb2`` module have them."""
    return {name: GetMessageClass(message) for name, message in file.message_types_by_name.items()}
