#!/usr/bin/env bash
# Installs what the benchmarks measure against, beside what integration-tests/setup.sh installs (Java, Kafka): two Sparks as Python packages,
# which hold the whole distribution, their Kafka connectors, and the Spark programs of benchmarks/spark, compiled. A second run takes a second.
#
#   MILLSTREAM_BENCH_HOME  where they go (default: ~/.cache/millstream-benchmarks); about 2 GB
#
# benchmarks/run.sh --no-spark needs none of it.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
home=${MILLSTREAM_BENCH_HOME:-$HOME/.cache/millstream-benchmarks}
export PIP_DISABLE_PIP_VERSION_CHECK=1

say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: error: %s\n' "$*" >&2; exit 1; }

# spark NAME VERSION: into $home/NAME the package, its connector's jars, and the compiled program
spark() {
    local name=$1 version=$2 folder=$home/$1 stamp package
    stamp=$(cat "$here/spark/$name.pom.xml" "$here/spark/$name.scala" <(echo "$version") | sha256sum | cut -d' ' -f1)
    if [ "$(cat "$folder/.stamp" 2>/dev/null)" = "$stamp" ]; then
        say "Spark $version ($name): there"
        return
    fi
    say "Spark $version ($name): installing to $folder"
    mkdir -p "$folder"
    if [ ! -x "$folder/python/bin/python" ]; then
        python3 -m venv "$folder/python" || die "python3 could not make a virtual environment in $folder"
    fi
    if ! "$folder/python/bin/python" -c "import pyspark, sys; sys.exit(pyspark.__version__ != '$version')" 2>/dev/null; then
        "$folder/python/bin/python" -m pip install -q setuptools wheel
        "$folder/python/bin/python" -m pip install -q --no-build-isolation "pyspark==$version" </dev/null || die "pip could not install pyspark $version"
    fi
    package=$("$folder/python/bin/python" -c 'import os, pyspark; print(os.path.dirname(pyspark.__file__))')
    ln -sfn "$package" "$folder/spark"
    mvn -B -q -Dstyle.color=never -f "$here/spark/$name.pom.xml" dependency:copy-dependencies -DoutputDirectory="$folder/jars" -DincludeScope=runtime </dev/null \
        || die "maven could not copy the connector's jars; its message is above"
    # What Spark brings itself must not come twice.
    for jar in "$folder/jars"/*.jar; do
        if [ -e "$package/jars/$(basename "$jar")" ]; then rm "$jar"; fi
    done
    say "Spark $version ($name): compiling benchmarks/spark/$name.scala"
    # The Scala compiler is among Spark's jars, for its shell.
    java -cp "$package/jars/*:$folder/jars/*" scala.tools.nsc.Main -usejavacp -nowarn -d "$folder/program.jar" "$here/spark/$name.scala" \
        || die "benchmarks/spark/$name.scala does not compile"
    echo "$stamp" >"$folder/.stamp"
}

"$here/../integration-tests/setup.sh"
for program in java mvn python3; do
    command -v "$program" >/dev/null || die "$program is missing; on Debian: apt-get install default-jre-headless maven python3-venv"
done
mkdir -p "$home"
exec 9>"$home/.lock"
flock 9
spark structured 4.2.0
spark dstreams 3.5.1
say 'ready'
