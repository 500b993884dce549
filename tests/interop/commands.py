"""What every peer process can do for the interop cases, beside the commands of its own."""

from __future__ import annotations

import traceback
from contextlib import AsyncExitStack
from typing import Any

from tests.interop.implementations import run_case, serving
from tests.interop.messages import CaseFailed, Settings


class Interop:
    """The test service and the cases of one implementation."""

    def __init__(self, implementation: str) -> None:
        self.implementation = implementation
        self._servers = AsyncExitStack()

    async def interop_serve(self) -> dict[str, Any]:
        """Start a server; answer with its port."""
        return {"port": await self._servers.enter_async_context(serving(self.implementation))}

    async def interop_case(self, case: str, ports: list[int], settings: dict[str, Any]) -> dict[str, Any]:
        """Run a case; answer with what failed, or nothing."""
        addresses = [f"127.0.0.1:{port}" for port in ports]
        try:
            await run_case(self.implementation, case, addresses, Settings(**settings))
        except CaseFailed as failed:
            return {"failed": str(failed)}
        except Exception:  # whatever a client raises: the answer tells
            return {"failed": traceback.format_exc()}
        return {"failed": ""}

    async def stop(self) -> None:
        """End the servers."""
        await self._servers.aclose()
