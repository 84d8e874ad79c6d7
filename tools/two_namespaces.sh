#!/usr/bin/env bash
# Two nodes on one host, to try what runs on several: network namespaces joined by a cable.
#   tools/two_namespaces.sh up                 make node0 (10.77.0.1) and node1 (10.77.0.2)
#   tools/two_namespaces.sh exec 0|1 COMMAND   run a command on one of them
#   tools/two_namespaces.sh down               remove them and end what still runs on them
# Needs root and iproute2. Nothing outside the two is reachable from them.
set -euo pipefail

name() { echo "anybev-node$1"; }

up() {
  for node in 0 1; do
    ip netns add "$(name $node)"
    mkdir -p "/etc/netns/$(name $node)" # ip netns exec lays these over /etc: no DNS is waited for
    printf '127.0.0.1 localhost\n10.77.0.1 node0\n10.77.0.2 node1\n' >"/etc/netns/$(name $node)/hosts"
    echo 'nameserver 127.0.0.1' >"/etc/netns/$(name $node)/resolv.conf"
  done
  ip link add node0 netns "$(name 0)" type veth peer name node1 netns "$(name 1)"
  for node in 0 1; do
    ip -n "$(name $node)" addr add "10.77.0.$((node + 1))/24" dev "node$node"
    ip -n "$(name $node)" link set lo up
    ip -n "$(name $node)" link set "node$node" up
  done
  echo "node0 is 10.77.0.1, node1 is 10.77.0.2"
}

down() {
  for node in 0 1; do
    # Neither a node that is not there nor a process that ends by itself keeps the rest from going.
    { ip netns pids "$(name $node)" 2>/dev/null | xargs -r kill -KILL; } || true
    ip netns del "$(name $node)" 2>/dev/null || echo "$(name $node): there was none"
    rm -rf "/etc/netns/$(name $node)"
  done
}

case ${1-} in
  up) up ;;
  down) down ;;
  exec)
    [[ ${2-} == [01] && $# -gt 2 ]] || {
      echo "error: exec must be followed by 0 or 1 and a command" >&2
      exit 2
    }
    node=$2
    shift 2
    exec ip netns exec "$(name "$node")" "$@"
    ;;
  *)
    sed -n '2,7s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
