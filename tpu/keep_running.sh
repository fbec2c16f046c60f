#!/usr/bin/env bash
# Run a command until it succeeds, as long as trying again can help:
#
#     keep_running.sh RUN_DIR COMMAND...
#
# COMMAND resumes by itself (alignjax train ... --resume). It ends with 0: done. It ends with 2, which alignjax says for
# a mistake in the config, and no checkpoint of RUN_DIR is newer than before: it would only say so again. Anything else
# (killed, another host gone, out of memory): again, after a pause that doubles up to five minutes and is short again
# once there was a new checkpoint. After ALIGNJAX_ATTEMPTS (20) in a row without one it gives up.
set -uo pipefail

run_dir=$1
shift
pause=${ALIGNJAX_PAUSE:-10}
longest=${ALIGNJAX_LONGEST_PAUSE:-300}
attempts=${ALIGNJAX_ATTEMPTS:-20}
child=0

say() { echo "keep_running: $*" >&2; }

checkpoints() { find "$run_dir" -path '*/checkpoints/*/_CHECKPOINT_METADATA' 2>/dev/null | sort; }

# A machine that is to stop, or a person, says TERM: the run saves and leaves, and is not started again.
stop() {
    [ "$child" -ne 0 ] && kill -TERM "$child" 2>/dev/null && wait "$child"
    say "stopped by a signal"
    exit 143
}
trap stop TERM INT

wait_for=$pause
failures=0
while true; do
    before=$(checkpoints)
    "$@" &
    child=$!
    wait "$child"
    status=$?
    child=0
    if [ "$status" -eq 0 ]; then
        say "done"
        exit 0
    fi
    if [ "$(checkpoints)" != "$before" ]; then
        failures=0
        wait_for=$pause
    elif [ "$status" -eq 2 ]; then
        say "the command ended with status 2 before it had done anything: not trying again. Its message is above."
        exit 2
    else
        failures=$((failures + 1))
    fi
    if [ "$failures" -ge "$attempts" ]; then
        say "$failures attempts without a new checkpoint, the last with status $status: giving up"
        exit "$status"
    fi
    say "status $status: again in $wait_for seconds"
    sleep "$wait_for" &
    wait $!
    wait_for=$((wait_for * 2 < longest ? wait_for * 2 : longest))
done
