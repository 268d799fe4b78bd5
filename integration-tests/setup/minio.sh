# Part of setup.sh: a MinIO server, the one in PATH or one that is built with Go.
# shellcheck shell=bash disable=SC2154 # what setup.sh defines

minio_program=$home/minio/minio
minio_stamp=$(cat "$here/minio/go.mod" "$here/minio/go.sum" | sha256sum | cut -d' ' -f1)
minio_is_there() {
    type -P minio >/dev/null || [ "$(cat "$home/minio/.stamp" 2>/dev/null)" = "$minio_stamp" ]
}

minio_part() {
    if minio_is_there; then
        say "MinIO: there ($(type -P minio || echo "$minio_program"))"
        return
    fi
    go_part
    say "MinIO: building it to $minio_program, some minutes"
    mkdir -p "$home/minio"
    attempt 3 env -C "$here/minio" "$go" mod download </dev/null || die "go could not fetch MinIO's sources; its message is above"
    env -C "$here/minio" GOFLAGS=-buildvcs=false CGO_ENABLED=0 "$go" build -trimpath -ldflags='-s -w' -o "$minio_program.new" github.com/minio/minio </dev/null \
        || die "go could not build MinIO; its message is above"
    mv "$minio_program.new" "$minio_program"
    echo "$minio_stamp" >"$home/minio/.stamp"
}
