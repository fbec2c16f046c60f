"""Show what the hosts of a slice say. Host 0, of several slices that of slice 0, says what a run prints on one machine;
the others only what goes wrong."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import cloud

from alignjax.config import ConfigError


def main(arguments: Sequence[str] | None = None) -> int:
    flags = cloud.parser("Show what the hosts of a slice say.")
    flags.add_argument("--slice", type=int, metavar="I", help="number of a slice, from 0, where there are several")
    flags.add_argument("--worker", default="0", help='number of a host of the slice, or "all"; not with --cluster')
    flags.add_argument("--lines", type=int, default=100, help="how many of the last lines")
    flags.add_argument("--follow", action="store_true", help="keep showing new lines, until Ctrl-C")
    given = flags.parse_args(arguments)
    if given.worker != "all" and not given.worker.isdigit():
        raise ConfigError(f"--worker {given.worker!r}: a number or all")
    name = cloud.checked_name(given.name)
    how = {"lines": given.lines, "follow": given.follow}
    if given.cluster:
        command = cloud.xpk_logs_command(name, slice_number=given.slice, **how)
    else:
        node = cloud.node_name(name, given.slice)
        command = cloud.logs_command(node, given.project, given.zone, worker=given.worker, **how)
    answer = cloud.run(command, only_print=given.only_print, live=True)
    if answer.status:
        raise cloud.Failed(
            "the logs could not be read, see above; a slice has some once it is ACTIVE (status.py), and where there "
            "are several, --slice says which"
        )
    return 0


if __name__ == "__main__":
    sys.exit(cloud.status_of(main))
