"""Checkpoints: complete or not at all, checked leaf by leaf, read without the code that wrote them."""

from alignjax.train.checkpoint.steps import (
    COMPLETE,
    FOLDER,
    CheckpointError,
    Writer,
    check,
    check_room,
    open_writer,
    put_aside,
    restore,
    restore_role,
    role_shapes,
    save,
    steps,
    wait,
    writing,
)

__all__ = [
    "COMPLETE",
    "FOLDER",
    "CheckpointError",
    "Writer",
    "check",
    "check_room",
    "open_writer",
    "put_aside",
    "restore",
    "restore_role",
    "role_shapes",
    "save",
    "steps",
    "wait",
    "writing",
]
