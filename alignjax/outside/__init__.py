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
    Huge as Huge,
    parse_array as parse_array,
    parse_json as parse_json,
    read_json as read_json,
    read_json_lines as read_json_lines,
)
from alignjax.outside.packed_text import (
    decoded as decoded,
    head_of as head_of,
    line_text as line_text,
    lines_of as lines_of,
    read_text as read_text,
    unpacked as unpacked,
)
from alignjax.outside.terminal import console as console, visible as visible, visible_json as visible_json
from alignjax.outside.user_paths import cache_root as cache_root, user_path as user_path
