"""Serves the files of a folder in chunks of 1 MiB."""

import asyncio
import os
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import examples_pb2 as pb2

import lbkit

CHUNK = 2**20


class Files:
    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    # Not async: it runs in a thread of its own, where it may wait for the disk.
    def Download(self, request: pb2.File, context: lbkit.BlockingContext) -> Iterator[pb2.Chunk]:
        files = {path.name: path for path in self.folder.iterdir() if path.is_file()}
        if request.name not in files:  # looked up, and never made a path of: ../../etc/passwd leads nowhere
            context.abort(lbkit.StatusCode.NOT_FOUND, f"there is no file {request.name!r}")
        digest = sha256()
        with files[request.name].open("rb") as file:
            context.send_initial_metadata({"size": str(os.fstat(file.fileno()).st_size)})
            while data := file.read(CHUNK):
                digest.update(data)
                yield pb2.Chunk(data=data)
        context.set_trailing_metadata({"sha256": digest.hexdigest()})


async def main(folder: str = ".", address: str = "127.0.0.1:50051") -> None:
    server = lbkit.Server()
    server.add(pb2, "Files", Files(folder))
    port = server.bind(address)
    async with server.serving():  # Ctrl-C and SIGTERM let running calls finish
        print(f"listening on port {port}")
        await server.wait_for_termination()


asyncio.run(main(*sys.argv[1:]))
