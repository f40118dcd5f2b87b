# Ports: whether one is free, and waiting for who listens there.
# shellcheck shell=bash

answers() { # HOST PORT: something accepts connections there
  (exec 3<>"/dev/tcp/$1/$2") 2>/dev/null
}

# Swift takes the next free port in silence when it can't bind its own, and then nobody finds it. Connections to a server
# that was just stopped hold its port for a minute.
require_free_port() { # NAME PORT HOST
  local python second
  require_whole "$1" "$2"
  (("$2" < 65536)) || die "$1=$2 must be below 65536"
  python="$(python_of_swift)"
  for ((second = 0; second < 65; second++)); do
    if answers "${3/0.0.0.0/127.0.0.1}" "$2"; then break; fi
    if "$python" -c "import socket; socket.socket().bind(('', $2))" 2>/dev/null; then return; fi
    if ((second == 0)); then say "port $2 is not free yet; waiting up to a minute for it"; fi
    sleep 1
  done
  die "$1=$2 is taken: something holds that port; stop it, or set $1"
}

# Until something accepts connections there, with a line now and then.
await_port() { # HOST PORT SECONDS WHAT COMMAND
  local started=$SECONDS told=-15
  until answers "$1" "$2"; do
    if ((SECONDS - started > $3)); then die "$4 did not answer at $1:$2 within $3 seconds; start it with: $5"; fi
    if ((SECONDS - told >= 15)); then
      told=$SECONDS
      say "waiting for $4 at $1:$2; it is started with: $5"
    fi
    sleep 1
  done
}

# Until every rollout server does.
await_servers() { # SECONDS HOSTS PORTS: arrays, by name
  local -n of_hosts="$2" of_ports="$3"
  local index
  for ((index = 0; index < ${#of_hosts[@]}; index++)); do
    await_port "${of_hosts[index]}" "${of_ports[index]}" "$1" "the rollout server" "bash deepeyes.sh rollout"
  done
}
