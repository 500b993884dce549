"""Downloads a file, with a progress bar: download_client.py NAME COPY."""

import asyncio
import sys
from hashlib import sha256
from pathlib import Path

import examples_pb2 as pb2

import lbkit

WIDTH = 40


async def main(name: str, copy: str, target: str = "static:///127.0.0.1:50051") -> None:
    async with lbkit.Channel(target) as channel:
        call = channel.stub(pb2, "Files").Download(pb2.File(name=name))
        digest, done = sha256(), 0
        metadata = await call.initial_metadata()
        if "size" not in metadata:  # there is no such file, or no server
            sys.exit(f"{(await call.code()).name}: {await call.details()}")
        size = int(metadata["size"])
        with Path(copy).open("wb") as file:
            async for chunk in call:  # what is not read yet waits at the server
                file.write(chunk.data)
                digest.update(chunk.data)
                done += len(chunk.data)
                bar = "#" * (WIDTH * done // size)
                print(f"\r[{bar:<{WIDTH}}] {done / size:4.0%}", end="", flush=True)
        same = (await call.trailing_metadata())["sha256"] == digest.hexdigest()
        print(f"\n{done} bytes, sha256 {digest.hexdigest()} {'as sent' if same else 'IS NOT AS SENT'}")


asyncio.run(main(*sys.argv[1:]))
