# Part of setup.sh: a Go that compiles the parts which come as source, the one in PATH or one from Go's module proxy.
# shellcheck shell=bash disable=SC2154 # what setup.sh defines

go_version=1.26.8
go_least=25
go_home=$home/go

# Whether this go is 1.$go_least or newer.
go_is_new() {
    local minor
    minor=$("$1" env GOVERSION 2>/dev/null | sed -n 's/^go1\.\([0-9]*\).*/\1/p')
    [ -n "$minor" ] && [ "$minor" -ge "$go_least" ]
}

# Sets `go` to the program. Call it only where something is to be compiled.
go_part() {
    for go in go /usr/local/go/bin/go "$go_home/bin/go"; do
        if go_is_new "$go"; then return; fi
    done
    local machine sum
    case $(uname -m) in
    x86_64) machine=amd64 sum=30c2b1bf7dcc88d3eb0a1364e47ddd9128edb3110a30e8a0ef61cd5856b31de7 ;;
    aarch64) machine=arm64 sum=02b36b6787b3ac767668f630e2998df45a3b1f9ffee08d1bf3ef6487cd658d99 ;;
    *) die "there is no go 1.$go_least or newer: install it (https://go.dev/doc/install), then run this again" ;;
    esac
    local name=v0.0.1-go$go_version.linux-$machine
    local archive=$home/$name.zip fresh=$home/go.new
    say "Go: fetching $go_version to $go_home"
    attempt 3 curl -sSfL -o "$archive" "https://proxy.golang.org/golang.org/toolchain/@v/$name.zip" \
        || die "Go's module proxy gives no toolchain: install go 1.$go_least or newer (https://go.dev/doc/install), then run this again"
    echo "$sum  $archive" | sha256sum --check --quiet || die "$archive is not what it should be: delete it and run this again"
    rm -rf "$fresh" "$go_home"
    python3 -m zipfile -e "$archive" "$fresh"
    mv "$fresh/golang.org/toolchain@$name" "$go_home"
    rm -rf "$fresh" "$archive"
    # Zip files keep no modes here.
    chmod -R +x "$go_home/bin" "$go_home/pkg/tool"
    go=$go_home/bin/go
    go_is_new "$go" || die "$go does not run: install go 1.$go_least or newer (https://go.dev/doc/install), then run this again"
}
