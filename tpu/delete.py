"""Delete a slice, or the request for one; its run folder stays. Deleting what is not there is no error."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import cloud


def main(arguments: Sequence[str] | None = None) -> int:
    given = cloud.parser("Delete a slice, or the request for one; its run folder stays.").parse_args(arguments)
    place = (cloud.checked_name(given.name), given.project, given.zone)
    command = cloud.xpk_delete_command(*place, given.cluster) if given.cluster else cloud.delete_command(*place)
    answer = cloud.run(command, only_print=given.only_print)
    if given.only_print:
        return 0
    if answer.not_found:
        print(f"{given.name}: there is nothing to delete")
        return 0
    if answer.status:
        raise cloud.failure(command, answer)
    print(f"{given.name} is deleted")
    return 0


if __name__ == "__main__":
    sys.exit(cloud.status_of(main))
