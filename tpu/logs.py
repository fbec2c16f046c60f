"""Show what the hosts of a slice say. Host 0 says what a run prints on one machine; the others only what goes wrong."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import cloud

from alignjax.config import ConfigError


def main(arguments: Sequence[str] | None = None) -> int:
    flags = cloud.parser("Show what the hosts of a slice say.")
    flags.add_argument("--worker", default="0", help='number of a host, or "all"')
    flags.add_argument("--lines", type=int, default=100, help="how many of the last lines")
    flags.add_argument("--follow", action="store_true", help="keep showing new lines, until Ctrl-C")
    given = flags.parse_args(arguments)
    if given.worker != "all" and not given.worker.isdigit():
        raise ConfigError(f"--worker {given.worker!r}: a number or all")
    place = (cloud.checked_name(given.name), given.project, given.zone)
    if given.cluster:
        command = cloud.xpk_logs_command(given.name, lines=given.lines, follow=given.follow)
    else:
        command = cloud.logs_command(*place, worker=given.worker, lines=given.lines, follow=given.follow)
    answer = cloud.run(command, only_print=given.only_print, live=True)
    if answer.status:
        raise cloud.Failed("the logs could not be read, see above; a slice has some once it is ACTIVE (status.py)")
    return 0


if __name__ == "__main__":
    sys.exit(cloud.status_of(main))
