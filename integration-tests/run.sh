#!/usr/bin/env bash
# Installs what the tests need (see setup.sh) and runs every test of the workspace.
# Arguments go to cargo test: `integration-tests/run.sh -p millstream-integration-tests kafka`.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
"$here/setup.sh"
PATH=$PATH:$HOME/.cargo/bin
cd "$here/.."
# One more than cores: many tests wait for processes.
export RUST_TEST_THREADS=${RUST_TEST_THREADS:-$(($(nproc) + 1))}
for argument in "$@"; do
    case $argument in
    -p | --package | -p?* | --package=*) exec cargo test --no-fail-fast "$@" ;;
    --) break ;;
    esac
done
exec cargo test --no-fail-fast --workspace "$@"
