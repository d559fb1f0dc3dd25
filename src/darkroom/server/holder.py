"""The model's place in the server: loaded in the worker's thread, freed and loaded again when asked."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from functools import partial

from darkroom.api.config import EngineConfig
from darkroom.api.errors import DarkroomError
from darkroom.server.errors import NotReady
from darkroom.server.metrics import Metrics
from darkroom.server.model import LoadedModel, ModelInfo, open_engine
from darkroom.server.worker import Worker

logger = logging.getLogger(__name__)


class ModelHolder:
    """One model and what is known of it, also while it is not in memory.

    info: None until it has been loaded once. error: why it cannot be loaded.
    read: bytes of its files read so far, and of how many.
    """

    def __init__(self, config: EngineConfig, worker: Worker, metrics: Metrics) -> None:
        self._config = config
        self._worker = worker
        self._metrics = metrics
        self._model: LoadedModel | None = None
        self._changing = asyncio.Lock()
        self.info: ModelInfo | None = None
        self.tokenize: Callable[[str], list[int]] | None = None
        self.error: str | None = None
        self.read = [0, 0]

    @property
    def is_loaded(self) -> bool:
        """Whether its weights are in memory."""
        return self._model is not None

    def require_known(self) -> ModelInfo:
        """What is known of the model. Raises NotReady before it was loaded, and when it cannot be."""
        if self.error is not None:
            raise NotReady(f"the model could not be loaded: {self.error}")
        if self.info is None:
            raise NotReady("the model is being loaded; try again soon", headers={"Retry-After": "1"})
        return self.info

    async def loaded(self) -> LoadedModel:
        """The model, loaded if it is not there. Raises NotReady when it cannot be."""
        async with self._changing:
            if self._model is None:
                await self._load()
            if self._model is None:
                raise NotReady(f"the model could not be loaded: {self.error}")
            return self._model

    async def memory(self) -> dict[str, tuple[int, int]]:
        """Bytes free and in all of each card in use, by its name; none while nothing is loaded."""
        return await asyncio.to_thread(self._model.memory) if self._model else {}

    async def unload(self) -> None:
        """Frees its memory, after what the worker is doing."""
        async with self._changing:
            model, self._model = self._model, None
            if model is not None:
                await self._worker.run(model.close)
                logger.info("model: unloaded")

    async def _load(self) -> None:
        self.read[:] = 0, 0
        start = time.perf_counter()
        try:
            model = await self._worker.run(partial(open_engine, self._config, self.read))
        except DarkroomError as error:
            self.error = str(error)
        except Exception as error:
            logger.exception("model: could not be loaded")
            self.error = f"{type(error).__name__}: {error}"
        else:
            self._model, self.info, self.error = model, model.info(), None
            self.tokenize = model.tokenizer()
            seconds = time.perf_counter() - start
            self._metrics.load_seconds.observe(seconds)
            logger.info("model: loaded in %.2f s", seconds)
            return
        self._metrics.load_failures.inc()
        logger.error("model: %s", self.error)
