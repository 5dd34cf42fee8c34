"""The read models, opened when they are first asked for: commands work while PostgreSQL is away."""

from __future__ import annotations

import asyncio

from projections.queries import ReadModels, open_read_models


class LazyReadModels:
    """``ports.OpenReadModels`` of one PostgreSQL."""

    def __init__(self, url: str, tenant: str) -> None:
        self._url = url
        self._tenant = tenant
        self._opening = asyncio.Lock()
        self._opened: ReadModels | None = None

    async def __call__(self) -> ReadModels:
        async with self._opening:
            if self._opened is None:
                self._opened = await open_read_models(self._url, self._tenant, name="cairn-gateway")
            return self._opened

    async def close(self) -> None:
        if self._opened is not None:
            await self._opened.close()
