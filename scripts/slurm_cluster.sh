#!/usr/bin/env bash
# A SLURM cluster of one node on this machine, for tests: no systemd, no cgroups, accounting included. Debian's packages.
#   scripts/slurm_cluster.sh install            # the packages, as root
#   eval "$(scripts/slurm_cluster.sh start)"    # prints export SLURM_CONF=...; state in a new folder, or in the one named
#   scripts/slurm_cluster.sh stop [FOLDER]      # by default that of $SLURM_CONF
set -euo pipefail
export PATH=$PATH:/usr/sbin:/sbin

packages=(slurm-wlm munge slurmdbd mariadb-server-core mariadb-client-core)
programs=(munged mariadbd mariadb-install-db mariadb slurmdbd slurmctld slurmd sinfo sacctmgr)

fail() { echo "error: $*" >&2; exit 1; }

# Wait until a command succeeds, SECONDS at most.
await() { # seconds what command...
  local end=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $end ] || fail "$what did not come up; see the logs in $dir/log"
    sleep 0.2
  done
}

install() {
  command -v slurmctld munged slurmdbd mariadbd >/dev/null && return
  command -v apt-get >/dev/null || fail "the packages ${packages[*]} are missing, and apt-get, which installs them; install SLURM by hand"
  [ "$(id -u)" = 0 ] || fail "the packages ${packages[*]} are missing; run scripts/slurm_cluster.sh install as root"
  export DEBIAN_FRONTEND=noninteractive
  { timeout 300 apt-get update -q && timeout 600 apt-get install -qy --no-install-recommends "${packages[@]}"; } >&2 ||
    fail "apt-get can't install ${packages[*]}; look above for why"
}

configure() {
  local host user
  host=$(hostname -s) user=$(id -un)
  mkdir -p "$dir"/{etc,run,log,state,spool}
  chmod 755 "$dir" "$dir"/{etc,run,log,state,spool}
  (umask 077; head -c 128 /dev/urandom > "$dir/etc/munge.key")
  cat > "$dir/etc/slurm.conf" <<CONF
ClusterName=lab
SlurmctldHost=$host(127.0.0.1)
SlurmUser=$user
SlurmdUser=$user
AuthType=auth/munge
AuthInfo=socket=$dir/run/munge.sock,cred_expire=10
SlurmctldPort=$((port))
SlurmdPort=$((port + 1))
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
SlurmctldPidFile=$dir/run/slurmctld.pid
SlurmdPidFile=$dir/run/slurmd.pid
SlurmctldLogFile=$dir/log/slurmctld.log
SlurmdLogFile=$dir/log/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=$((port + 2))
AccountingStoragePass=$dir/run/munge.sock
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=5,bf_interval=5
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=3
MinJobAge=3600
MpiDefault=none
MailProg=/bin/true
NodeName=$host NodeHostname=$host NodeAddr=127.0.0.1 CPUs=4 RealMemory=8192 State=UNKNOWN
PartitionName=debug Nodes=$host Default=YES MaxTime=INFINITE DefMemPerCPU=256 State=UP
CONF
  (umask 077; cat > "$dir/etc/slurmdbd.conf") <<CONF
DbdHost=$host
DbdAddr=127.0.0.1
DbdPort=$((port + 2))
SlurmUser=$user
AuthType=auth/munge
AuthInfo=socket=$dir/run/munge.sock
PidFile=$dir/run/slurmdbd.pid
LogFile=$dir/log/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm_acct_db
CONF
}

launch() {
  export SLURM_CONF=$dir/etc/slurm.conf MYSQL_UNIX_PORT=$dir/run/mysql.sock
  munged --key-file="$dir/etc/munge.key" --socket="$dir/run/munge.sock" --pid-file="$dir/run/munged.pid" \
    --log-file="$dir/log/munged.log" --seed-file="$dir/run/munge.seed" --num-threads=2
  await 10 munged sh -c "munge -S '$dir/run/munge.sock' -n | unmunge -S '$dir/run/munge.sock'"
  if [ ! -d "$dir/mysql" ]; then
    mariadb-install-db --no-defaults --user="$(id -un)" --datadir="$dir/mysql" --auth-root-authentication-method=normal \
      --skip-test-db --innodb-log-file-size=4M > "$dir/log/mariadb-install.log" 2>&1 || fail "mariadb-install-db failed; see $dir/log"
  fi
  setsid mariadbd --no-defaults --user="$(id -un)" --datadir="$dir/mysql" --socket="$MYSQL_UNIX_PORT" \
    --pid-file="$dir/run/mariadbd.pid" --skip-networking --skip-grant-tables --performance-schema=OFF \
    --innodb-log-file-size=4M --innodb-buffer-pool-size=32M --innodb-lock-wait-timeout=900 \
    --innodb-flush-log-at-trx-commit=0 --max-allowed-packet=16M > "$dir/log/mariadbd.log" 2>&1 < /dev/null &
  await 60 mariadbd mariadb --no-defaults -S "$MYSQL_UNIX_PORT" -e 'select 1'
  slurmdbd
  await 60 slurmdbd timeout 5 sacctmgr -n show cluster
  sacctmgr -n show cluster | grep -q lab || sacctmgr -i add cluster lab > "$dir/log/sacctmgr.log" 2>&1
  slurmctld
  slurmd
  await 60 "the node" sh -c 'timeout 5 sinfo -h -o %T | grep -q idle'
}

start() {
  for program in "${programs[@]}"; do
    command -v "$program" >/dev/null || fail "$program is missing; run scripts/slurm_cluster.sh install"
  done
  dir=${1:-$(mktemp -d)}
  mkdir -p "$dir"
  dir=$(cd "$dir" && pwd)
  [ ! -S "$dir/run/munge.sock" ] || [ ! -e "$dir/run/slurmctld.pid" ] || stop "$dir"
  port=$((20000 + RANDOM % 20000))
  [ -e "$dir/etc/slurm.conf" ] || configure
  trap 'stop "$dir"' EXIT # of what came up, if the rest does not
  launch >&2
  trap - EXIT
  echo "export SLURM_CONF=$dir/etc/slurm.conf"
}

# End the process of a pid file, if it still is that program.
end() { # name
  local pid file=$dir/run/$1.pid
  pid=$(cat "$file" 2>/dev/null) || return 0
  [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = "$1" ] || return 0
  kill "$pid" 2>/dev/null || return 0
  for _ in $(seq 50); do
    kill -0 "$pid" 2>/dev/null || return 0
    sleep 0.2
  done
  kill -9 "$pid" 2>/dev/null || true
}

stop() {
  dir=$1
  export SLURM_CONF=$dir/etc/slurm.conf
  if timeout 5 squeue -h >/dev/null 2>&1; then
    timeout 10 scancel --user="$(id -un)" >/dev/null 2>&1 || true
    for _ in $(seq 50); do
      [ -n "$(timeout 5 squeue -h 2>/dev/null)" ] || break
      sleep 0.2
    done
  fi
  for name in slurmd slurmctld slurmdbd mariadbd munged; do end "$name"; done
}

case ${1:-} in
  install) install ;;
  start) start "${2:-}" ;;
  stop)
    dir=${2:-$(dirname "$(dirname "${SLURM_CONF:-}")")}
    [ -e "$dir/etc/slurm.conf" ] || fail "$dir is no folder of a cluster that this script started; name it: stop FOLDER"
    stop "$dir"
    ;;
  *) fail "say install, start [FOLDER] or stop [FOLDER]" ;;
esac
