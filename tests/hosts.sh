#!/bin/sh
# Trains on five "hosts" of this machine: a coordinator and four workers, each in a network
# namespace with an address of its own. Where the kernel offers netem, packets are delayed and
# lost. One host is cut off and comes back; two hosts cannot reach each other for a while. The
# result must be that of one undisturbed worker. Needs root, and release builds of the programs.
# Where it cannot run, it says why.
set -eu
cd "$(dirname "$0")/.."
bin=$(realpath -m "${CARGO_TARGET_DIR:-target}")/release

skip() {
    echo "tests/hosts.sh: skipped: $1"
    exit 0
}
[ "$(id -u)" = 0 ] || skip "it needs root"
command -v ip >/dev/null || skip "there is no ip command"
[ -x "$bin/dcgan-coord" ] || {
    echo "tests/hosts.sh: there are no programs in $bin; run cargo build --release" >&2
    exit 1
}

prefix=dcgan-$$
out=$(mktemp -d)
log=$out/coordinator.log
hosts="1 2 3 4 10"

cleanup() {
    status=$?
    for host in $hosts switch; do
        ip netns pids "$prefix-$host" 2>/dev/null | xargs -r kill -9 2>/dev/null || true
        ip netns del "$prefix-$host" 2>/dev/null || true
    done
    if [ $status = 0 ]; then
        rm -rf "$out"
    else
        echo "tests/hosts.sh: failed; all logs are in $out"
    fi
}
ip netns add "$prefix-switch" 2>/dev/null || skip "namespaces are not allowed here"
trap cleanup EXIT
trap 'exit 1' INT TERM

# Runs a command on host $1.
on() {
    host=$1
    shift
    ip netns exec "$prefix-$host" "$@"
}

# Connect the hosts by a bridge. The coordinator is host 10.
on switch ip link add switch type bridge
on switch ip link set switch up
for host in $hosts; do
    ip netns add "$prefix-$host"
    on "$host" ip link set lo up
    on "$host" ip link add eth0 type veth peer name "port$host" netns "$prefix-switch"
    on "$host" ip address add "10.77.0.$host/24" dev eth0
    on "$host" ip link set eth0 up
    on switch ip link set "port$host" master switch up
done

# Delay and lose packets where the kernel can. The run is longer where nothing slows it down.
netem() { on "$1" tc qdisc add dev eth0 root netem delay 1ms loss 0.2%; }
if command -v tc >/dev/null && netem 1 2>/dev/null; then
    for host in 2 3 4 10; do netem "$host"; done
    steps=3000
    echo "five hosts; every packet is delayed by 1 ms, and 0.2% of them are lost"
else
    steps=8000
    echo "five hosts; no delay and no loss, because this kernel has no netem"
fi

# Waits for the first line of the coordinator's output, after line $1, in which each of the other
# arguments, extended regular expressions, is found; prints its number.
wait_for_line() {
    after=$1
    shift
    for _ in $(seq 1200); do
        # Keep the number of each line, then drop the lines without one of the expressions.
        found=$(grep -n '' "$log" | tail -n "+$((after + 1))") || true
        for expression in "$@"; do
            found=$(printf '%s\n' "$found" | grep -E -- "$expression") || true
        done
        if [ -n "$found" ]; then
            printf '%s\n' "$found" | head -n 1 | cut -d: -f1
            return
        fi
        sleep 0.1
    done
    echo "tests/hosts.sh: the coordinator printed no line with: $*" >&2
    tail -n 20 "$log" >&2
    return 1
}

# Waits for an event after line $1: its name, then expressions such as '"worker":"host-4"'.
wait_for_event() {
    after=$1
    event=$2
    shift 2
    wait_for_line "$after" "\"event\":\"$event\"" "$@"
}

# Waits for a row of metrics after line $1, so that a step is known to be finished.
wait_for_row() { wait_for_line "$1" '^[0-9]+:[^{]*  step '; }

spec="--objective toy --steps $steps --log-every 100 --checkpoint-every 500"
# The variable holds several words.
# shellcheck disable=SC2086
"$bin/dcgan-coord" --out "$out/alone" --local --workers 1 $spec >"$out/alone.log" 2>&1
# shellcheck disable=SC2086
on 10 "$bin/dcgan-coord" --log-format json --out "$out/hosts" --workers 4 \
    --listen 10.77.0.10:7420 --insecure $spec >"$log" 2>&1 &
coordinator=$!
for host in 1 2 3 4; do
    on "$host" "$bin/dcgan-worker" --coordinator http://10.77.0.10:7420 --name "host-$host" \
        --insecure >"$out/host-$host.log" 2>&1 &
done
line=$(wait_for_row 0)

echo "host-4 is cut off"
on switch ip link set port4 down
line=$(wait_for_event "$line" worker_lost '"worker":"host-4"' '"cause":"silent"')
line=$(wait_for_event "$line" plan '"members":"host-')
line=$(wait_for_row "$line")
echo "the others train on; host-4 comes back"
on switch ip link set port4 up
line=$(wait_for_event "$line" worker_ready '"worker":"host-4"')
line=$(wait_for_event "$line" plan '"members":"[^"]*host-4')
line=$(wait_for_row "$line")

echo "host-1 and host-2 cannot reach each other"
on 1 ip route add blackhole 10.77.0.2/32
on 2 ip route add blackhole 10.77.0.1/32
line=$(wait_for_event "$line" worker_outside '"worker":"host-[12]"')
line=$(wait_for_row "$line")
echo "one of them waits outside, the others train on; now they reach each other again"
on 1 ip route del blackhole 10.77.0.2/32
on 2 ip route del blackhole 10.77.0.1/32
line=$(wait_for_event "$line" worker_readmitted)
# A plan with four members again.
line=$(wait_for_event "$line" plan '"members":"[^",]+,[^",]+,[^",]+,[^",]+"')

wait "$coordinator"
"$bin/dcgan-coord" verify "$out/alone" "$out/hosts"
