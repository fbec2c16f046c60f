"""Say in what state a slice is, or several of one request, and what to do about it."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import cloud

MEANING = {
    "CREATING": "the request is being looked at",
    "ACCEPTED": "it stands in the queue and costs nothing yet",
    "WAITING_FOR_RESOURCES": "it stands in the queue and costs nothing yet",
    "PROVISIONING": "the chips are being prepared",
    "ACTIVE": "the chips are there and cost money; logs.py shows what they do",
    "SUSPENDING": "the chips are being taken away",
    "SUSPENDED": "the chips were taken away, as happens to spot capacity. The run folder is safe: the same launch.py "
    "with --again asks for new chips, and the run resumes",
    "FAILED": "it could not be had. The same launch.py with --again asks once more; delete.py forgets it",
    "DELETING": "it is being deleted",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """0 where the slice is there or on its way, 1 where it is gone, 3 where it never was."""
    given = cloud.parser("Say in what state a slice is, and what to do about it.").parse_args(arguments)
    place = (cloud.checked_name(given.name), given.project, given.zone)
    if given.cluster:
        answer = cloud.demand(cloud.xpk_list_command(*place, given.cluster), only_print=given.only_print)
        print(answer.out, end="")
        return 0
    command = cloud.describe_command(*place)
    answer = cloud.run(command, only_print=given.only_print)
    if given.only_print:
        print("# and of a request for several slices, to see each of them:")
        cloud.run(cloud.nodes_command(given.project, given.zone), only_print=True)
        return 0
    if answer.not_found:
        print(f"{given.name}: there is no such slice in {given.zone} of {given.project}")
        return 3
    if answer.status:
        raise cloud.failure(command, answer)
    state = cloud.state_of(answer)
    print(f"{given.name}: {state}: {MEANING.get(state, 'a state that this program does not know')}")
    if (slices := cloud.slices_of(answer)) > 1:
        listed = cloud.demand(cloud.nodes_command(given.project, given.zone), only_print=False)
        nodes = cloud.nodes_of(given.name, listed)
        print(f"{len(nodes)} of {slices} slices are there" + "".join(f"\n  {n}: {s}" for n, s in nodes.items()))
    return int(state in ("SUSPENDING", "SUSPENDED", "FAILED", "DELETING"))


if __name__ == "__main__":
    sys.exit(cloud.status_of(main))
