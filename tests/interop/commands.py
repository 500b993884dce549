"""What every peer process can do for the interop cases, beside the commands of its own."""

from __future__ import annotations

import traceback
from contextlib import AsyncExitStack
from typing import Any

from tests.interop.implementations import run_case, serving
from tests.interop.messages import CaseFailed, Settings
from tests.interop.security import Identity, Trust


class Interop:
    """The test service and the cases of one implementation."""

    def __init__(self, implementation: str) -> None:
        self.implementation = implementation
        self._servers = AsyncExitStack()

    async def interop_serve(
        self, identity: list[str] | None = None, streams: int | None = None
    ) -> dict[str, Any]:
        """Start a server; answer with its port."""
        shown = Identity(*identity) if identity else None
        server = serving(self.implementation, identity=shown, streams=streams)
        return {"port": await self._servers.enter_async_context(server)}

    async def interop_case(
        self, case: str, addresses: list[str], settings: dict[str, Any], trust: list[str] | None = None
    ) -> dict[str, Any]:
        """Run a case; answer with what failed, or nothing."""
        believed = Trust(*trust) if trust else None
        try:
            await run_case(self.implementation, case, addresses, Settings(**settings), believed)
        except CaseFailed as failed:
            return {"failed": str(failed)}
        except Exception:  # whatever a client raises: the answer tells
            return {"failed": traceback.format_exc()}
        return {"failed": ""}

    async def stop(self) -> None:
        """End the servers."""
        await self._servers.aclose()
