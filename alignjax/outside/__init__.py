"""Files of any kind, JSON and paths as they come from outside: taken whole, or refused in words."""

from alignjax.outside.boundary import (
    FETCH_AGAIN as FETCH_AGAIN,
    ReadError as ReadError,
    Unreadable as Unreadable,
    WriteError as WriteError,
    reading as reading,
    reason as reason,
    writing as writing,
)
from alignjax.outside.json_values import (
    BLANK as BLANK,
    ArrayPart as ArrayPart,
    Huge as Huge,
    array_parts as array_parts,
    parse_array as parse_array,
    parse_json as parse_json,
    read_json as read_json,
)
from alignjax.outside.packed_text import (
    ARROW_FILE as ARROW_FILE,
    ARROW_STREAM as ARROW_STREAM,
    PARQUET as PARQUET,
    decoded as decoded,
    head_of as head_of,
    line_blocks as line_blocks,
    line_text as line_text,
    lines_of as lines_of,
    read_text as read_text,
    unpacked as unpacked,
    unpacked_with_place as unpacked_with_place,
    utf8_chunks as utf8_chunks,
)
from alignjax.outside.terminal import (
    console as console,
    progress_bar as progress_bar,
    visible as visible,
    visible_json as visible_json,
)
from alignjax.outside.user_paths import (
    cache_root as cache_root,
    made_folder as made_folder,
    user_path as user_path,
)
