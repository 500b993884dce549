"""Takes files into a folder."""

import asyncio
import re
import sys
from collections.abc import Iterator
from hashlib import sha256
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory

import examples_pb2 as pb2

import lbkit


class Files:
    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    # Not async: it runs in a thread of its own, where it may wait for the disk.
    def Upload(self, chunks: Iterator[pb2.Chunk], context: lbkit.BlockingContext) -> pb2.Receipt:
        first = next(chunks, pb2.Chunk())
        name = first.name
        if not re.fullmatch(r"\w[\w .-]*", name):  # no slashes: nothing is written outside of the folder
            context.abort(lbkit.StatusCode.INVALID_ARGUMENT, f"a file cannot be called {name!r}")
        digest, size = sha256(), 0
        with TemporaryDirectory(dir=self.folder) as unfinished:
            part = Path(unfinished, name)
            with part.open("wb") as file:
                for chunk in chain([first], chunks):  # raises if the client is gone in the middle
                    size += file.write(chunk.data)
                    digest.update(chunk.data)
            part.replace(self.folder / name)
        return pb2.Receipt(size=size, sha256=digest.hexdigest())


async def main(folder: str = ".", address: str = "127.0.0.1:50051") -> None:
    server = lbkit.Server()
    server.add(pb2, "Files", Files(folder))
    port = server.bind(address)
    async with server.serving():  # Ctrl-C and SIGTERM let running calls finish
        print(f"listening on port {port}")
        await server.wait_for_termination()


asyncio.run(main(*sys.argv[1:]))
