"""Checkpoints: complete or not at all, checked leaf by leaf, read without the code that wrote them."""

from alignjax.train.checkpoint.read_steps import (
    FOLDER as FOLDER,
    CheckpointError as CheckpointError,
    restore as restore,
    restore_role as restore_role,
    steps as steps,
)
from alignjax.train.checkpoint.write_steps import (
    Writer as Writer,
    check as check,
    check_room as check_room,
    put_aside as put_aside,
    save as save,
    wait as wait,
    writing as writing,
)
