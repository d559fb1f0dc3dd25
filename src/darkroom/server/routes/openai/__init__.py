"""OpenAI's Images API."""

from darkroom.server.routes.openai.endpoints import router

__all__ = ["router"]
