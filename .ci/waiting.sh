#!/bin/sh
# waiting.sh COMMAND …: run it; a terminal shows every 2 s that it is at work, because pip installs in silence.
[ -t 2 ] || exec "$@"
seconds=0
# This is what runs in the background, and not the command: jobs there never hear Ctrl-C.
while sleep 2 > /dev/null 2>&1 && kill -0 $$ 2> /dev/null; do
    seconds=$((seconds + 2))
    printf 'still at work, %d s\r' "$seconds" >&2  # whatever is printed next takes its place
done &
trap "kill $! 2> /dev/null; printf '%26s\r' '' >&2" EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
"$@"
exit $?
