#!/bin/sh
# Four workers and a coordinator as five hosts: network namespaces with addresses of their own, and latency and loss where the
# kernel offers them. One host is cut off and comes back; two hosts do not reach each other for a while. The result must be
# that of one undisturbed worker. Needs root, and says so where it is skipped. The programs are built before.
set -eu
cd "$(dirname "$0")/.."
bin=$(realpath -m "${CARGO_TARGET_DIR:-target}")/release

skip() { echo "tests/hosts.sh: skipped: $1"; exit 0; }
[ "$(id -u)" = 0 ] || skip "it needs root"
command -v ip >/dev/null || skip "there is no ip command"
[ -x "$bin/dcgan-coord" ] || { echo "tests/hosts.sh: no programs in $bin: cargo build --release" >&2; exit 1; }

prefix=dcgan-$$
out=$(mktemp -d)
hosts="1 2 3 4 10"

cleanup() {
    status=$?
    for host in $hosts switch; do
        ip netns pids "$prefix-$host" 2>/dev/null | xargs -r kill -9 2>/dev/null || true
        ip netns del "$prefix-$host" 2>/dev/null || true
    done
    if [ $status = 0 ]; then rm -rf "$out"; else echo "tests/hosts.sh: failed; everything is in $out"; fi
}
ip netns add "$prefix-switch" 2>/dev/null || skip "namespaces are not allowed here"
trap cleanup EXIT
trap 'exit 1' INT TERM

on() { host=$1; shift; ip netns exec "$prefix-$host" "$@"; }

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
if command -v tc >/dev/null && on 1 tc qdisc add dev eth0 root netem delay 1ms loss 0.2% 2>/dev/null; then
    for host in 2 3 4 10; do on "$host" tc qdisc add dev eth0 root netem delay 1ms loss 0.2%; done
    steps=3000
    echo "five hosts, 1 ms from each other's wire, 0.2% of packets lost"
else
    steps=8000
    echo "five hosts; no latency and no loss: netem is not there"
fi

# Waits for the first line of the coordinator's log, after line $2, that has $1 in it; prints its number.
await() {
    for _ in $(seq 1200); do
        found=$(tail -n "+$(($2 + 1))" "$out/coordinator.log" | grep -n -m1 -- "$1" | cut -d: -f1) || true
        if [ -n "$found" ]; then echo $(($2 + found)); return; fi
        sleep 0.1
    done
    echo "tests/hosts.sh: the coordinator did not say: $1" >&2
    tail -n 20 "$out/coordinator.log" >&2
    return 1
}

recipe="--objective toy --steps $steps --log-every 100 --checkpoint-every 500"
# shellcheck disable=SC2086 # it is several words
"$bin/dcgan-coord" --out "$out/alone" --local --workers 1 $recipe >"$out/alone.log" 2>&1
# shellcheck disable=SC2086
on 10 "$bin/dcgan-coord" --out "$out/hosts" --workers 4 --listen 10.77.0.10:7420 --insecure $recipe >"$out/coordinator.log" 2>&1 &
coordinator=$!
for host in 1 2 3 4; do
    on "$host" "$bin/dcgan-worker" --coordinator http://10.77.0.10:7420 --name "host-$host" --insecure >"$out/host-$host.log" 2>&1 &
done
line=$(await "step 100/" 0)

echo "host-4 is cut off"
on switch ip link set port4 down
line=$(await "lost worker host-4: nothing heard of it for 3 s" "$line")
line=$(await "trains on host-" "$line")
line=$(await "  step " "$line")
echo "the others train on; host-4 comes back"
on switch ip link set port4 up
line=$(await "worker host-4 is ready" "$line")
line=$(await "trains on .*host-4" "$line")
line=$(await "  step " "$line")

echo "host-1 and host-2 do not reach each other"
on 1 ip route add blackhole 10.77.0.2/32
on 2 ip route add blackhole 10.77.0.1/32
line=$(await "do not reach each other: host-[12] waits outside" "$line")
line=$(await "  step " "$line")
echo "one of them waits outside, the others train on; they reach each other again"
on 1 ip route del blackhole 10.77.0.2/32
on 2 ip route del blackhole 10.77.0.1/32
line=$(await "reaches the others again" "$line")
line=$(await "trains on .*, .*, .*, " "$line")

wait "$coordinator"
"$bin/dcgan-coord" verify "$out/alone" "$out/hosts"
