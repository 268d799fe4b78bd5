#!/usr/bin/env bash
# Installs what the tests need and this machine lacks. What is there already is taken as it is; a second run
# takes about a second.
#
#   MILLSTREAM_TEST_HOME  where the downloaded parts go (default: ~/.cache/millstream-tests)
#   KAFKA_HOME            an unpacked Apache Kafka of your own; its jars are then used instead of a download
#
# A minio in PATH is taken as it is; without one it is built with Go, which is fetched where it lacks.
#
# System packages come from apt (as root or by sudo); without apt the script names what to install by hand.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
home=${MILLSTREAM_TEST_HOME:-$HOME/.cache/millstream-tests}
export DEBIAN_FRONTEND=noninteractive PIP_DISABLE_PIP_VERSION_CHECK=1

say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: error: %s\n' "$*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }
# Tools of the administrator are often outside a user's PATH.
have_admin() { have "$1" || [ -x "/usr/sbin/$1" ] || [ -x "/sbin/$1" ]; }

# attempt N COMMAND...: for downloads, which may fail once
attempt() {
    local left=$1 pause=2
    shift
    until "$@"; do
        left=$((left - 1))
        [ "$left" -gt 0 ] || return 1
        say "failed, trying again in $pause s: $*"
        sleep "$pause"
        pause=$((pause * 2))
    done
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    else
        # Only what apt must see crosses sudo, which drops the environment.
        sudo DEBIAN_FRONTEND=noninteractive "$@"
    fi
}

system_packages() {
    local missing=() part
    for part in cc c++ make; do have "$part" || missing+=(build-essential); done
    if [ -z "${JAVA_HOME:-}" ] || [ ! -x "$JAVA_HOME/bin/java" ]; then
        have java || missing+=(default-jre-headless)
    fi
    if ! kafka_is_there && ! have mvn; then missing+=(maven); fi
    if ! python_is_there; then
        # Debian's python3 comes without what makes virtual environments.
        python3 -c 'import venv, ensurepip' >/dev/null 2>&1 || missing+=(python3 python3-venv)
    fi
    have_admin ip || missing+=(iproute2)
    have_admin iptables || missing+=(iptables)
    have curl || missing+=(curl)
    docker_packages

    if [ ${#missing[@]} -eq 0 ]; then
        say "system packages: all there"
        return
    fi
    mapfile -t missing < <(printf '%s\n' "${missing[@]}" | sort -u)
    have apt-get || die "this machine lacks ${missing[*]} (Debian's names) and has no apt-get: install them by hand, then run this again"
    if [ "$(id -u)" -ne 0 ]; then
        have sudo || die "this machine lacks ${missing[*]}: install them as root (apt-get install ${missing[*]}), then run this again"
    fi
    say "system packages: installing ${missing[*]}"
    attempt 3 as_root apt-get -q -o Acquire::Retries=3 update
    attempt 3 as_root apt-get -q -y -o Acquire::Retries=3 -o DPkg::Lock::Timeout=120 install --no-install-recommends "${missing[@]}" </dev/null
}

kafka_lib=$home/kafka/lib
kafka_stamp=$(sha256sum <"$here/kafka/pom.xml" | cut -d' ' -f1)
kafka_is_there() {
    if [ -n "${KAFKA_HOME:-}" ] && compgen -G "$KAFKA_HOME/libs/kafka_2.13-*.jar" >/dev/null; then return 0; fi
    [ "$(cat "$kafka_lib/.stamp" 2>/dev/null)" = "$kafka_stamp" ]
}

kafka() {
    if kafka_is_there; then
        say "Kafka: there (${KAFKA_HOME:+$KAFKA_HOME/libs or }$kafka_lib)"
        return
    fi
    say "Kafka: copying its jars to $kafka_lib"
    local fresh=$home/kafka/lib.new
    rm -rf "$fresh"
    attempt 3 mvn -B -q -Dstyle.color=never -f "$here/kafka/pom.xml" dependency:copy-dependencies -DoutputDirectory="$fresh" </dev/null \
        || die "maven could not copy Kafka's jars; its message is above"
    echo "$kafka_stamp" >"$fresh/.stamp"
    rm -rf "$kafka_lib"
    mv "$fresh" "$kafka_lib"
}

venv=$home/python
venv_stamp=$(sha256sum <"$here/python/requirements.txt" | cut -d' ' -f1)
python_is_there() {
    [ "$(cat "$venv/.stamp" 2>/dev/null)" = "$venv_stamp" ] && "$venv/bin/python" -c '' 2>/dev/null
}

python() {
    if python_is_there; then
        say "Python packages: there ($venv)"
        return
    fi
    say "Python packages: installing $(tr '\n' ' ' <"$here/python/requirements.txt")to $venv"
    rm -rf "$venv"
    python3 -m venv "$venv" || die "python3 could not make a virtual environment in $venv"
    attempt 3 "$venv/bin/python" -m pip install -q -r "$here/python/requirements.txt" </dev/null \
        || die "pip could not install $here/python/requirements.txt; its message is above"
    echo "$venv_stamp" >"$venv/.stamp"
}

. "$here/setup/go.sh"
. "$here/setup/docker.sh"
. "$here/setup/minio.sh"

rust() {
    if ! have cargo; then
        [ -x "$HOME/.cargo/bin/cargo" ] || die "there is no cargo: install Rust (https://www.rust-lang.org/tools/install), then run this again"
        say "Rust: found in $HOME/.cargo/bin, which is not in PATH: run '. $HOME/.cargo/env'"
    fi
}

mkdir -p "$home/kafka"
# Two runs at once would install twice into the same folders.
exec 9>"$home/.lock"
flock 9

started=$SECONDS
rust
system_packages
kafka
python
docker_part
minio_part
# Logs of earlier test runs.
if [ -d "$home/logs" ]; then find "$home/logs" -type f -mtime +2 -delete; fi
say "ready after $((SECONDS - started)) s"
