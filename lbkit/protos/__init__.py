"""Messages of lbkit's own: descriptor sets, loaded into a pool that is nobody else's.

Each ``name.binpb`` is what ``protoc --descriptor_set_out`` made of ``name.proto``; the module ``name`` makes it look
like a ``_pb2`` module, and ``name.pyi`` types it. The pool is private so that files and messages may carry their
public names: a program that brings the same ones in generated code meets no clash in the default pool, and no
generated code means no check that it fits the protobuf installed.
"""

from __future__ import annotations

import pkgutil

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool

POOL = DescriptorPool()


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
        POOL.AddSerializedFile(file.SerializeToString())
    return POOL.FindFileByName(files[-1].name)
