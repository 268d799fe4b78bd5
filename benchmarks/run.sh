#!/usr/bin/env bash
# Builds what is measured, installs what it is measured against (see setup.sh), and prints the table of ratios.
#
#   benchmarks/run.sh                       everything; about an hour, on a machine that does nothing else
#   benchmarks/run.sh --quick --no-spark    whether it runs at all
#   benchmarks/run.sh --only scheduler      one group of rows: kafka, files, batch-cost, launch, memory, kill, scheduler;
#                                           of Structured Streaming: sql-kafka, sql-files, employees, state, sql-launch, sql-memory
#   benchmarks/run.sh --json results.json   everything measured, to a file too
#   benchmarks/run.sh --help                all flags
#
#   BENCH_PROFILE  the build that is measured (default: release-lto; release is what `cargo build --release` gives)
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
PATH=$PATH:$HOME/.cargo/bin
profile=${BENCH_PROFILE:-release-lto}

case " $* " in
*" --help "* | *" -h "*) ;;
*" --no-spark "*) "$here/../integration-tests/setup.sh" >&2 ;;
*) "$here/setup.sh" >&2 ;;
esac

# File names of the caller stay true: only cargo is told where it works.
manifest=$here/../Cargo.toml
target=${CARGO_TARGET_DIR:-$here/../target}
# Alone, so that nothing of the harness is in what is measured.
cargo build --manifest-path "$manifest" --locked --profile "$profile" -p millstream-benchmark-programs
# By a command of its own, or the word count on DStreams would have the SQL engine in it too. It takes long, so it is done only where it is measured.
case " $* " in
*--only*) case " $* " in *sql-* | *employees* | *state*) with_sql=yes ;; *) with_sql= ;; esac ;;
*) with_sql=yes ;;
esac
if [ -n "$with_sql" ]; then
    cargo build --manifest-path "$manifest" --locked --profile "$profile" -p millstream-benchmark-sql-programs
fi
cargo build --manifest-path "$manifest" --locked -p millstream-benchmarks
exec "$target/debug/millstream-benchmarks" --programs "$target/$profile" "$@"
