"""Uploads a file: upload_client.py FILE."""

import asyncio
import sys
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path

import examples_pb2 as pb2

import lbkit

CHUNK = 2**20


async def main(path: str, target: str = "static:///127.0.0.1:50051") -> None:
    digest = sha256()

    async def chunks() -> AsyncIterator[pb2.Chunk]:
        yield pb2.Chunk(name=Path(path).name)
        with Path(path).open("rb") as file:
            while data := await asyncio.to_thread(file.read, CHUNK):  # calls go on while the disk is slow
                digest.update(data)
                yield pb2.Chunk(data=data)

    async with lbkit.Channel(target) as channel:
        try:
            receipt = await channel.stub(pb2, "Files").Upload(chunks())
        except lbkit.RpcError as error:
            sys.exit(f"{error.code().name}: {error.details()}")
    same = receipt.sha256 == digest.hexdigest()
    print(f"{receipt.size} bytes, sha256 {receipt.sha256} {'as sent' if same else 'IS NOT AS SENT'}")


asyncio.run(main(*sys.argv[1:]))
