"""Serving: models that were opened from any kind of file, and what answers their prompts."""

from alignjax.serving.opened_model import OpenedModel as OpenedModel
