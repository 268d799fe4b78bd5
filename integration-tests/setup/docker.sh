# Part of setup.sh: Docker with its compose plug-in, a daemon that answers, and the base images.
# shellcheck shell=bash disable=SC2154 # what setup.sh defines
#
# Taken as they are: a daemon that answers, a compose plug-in, images that are there. Otherwise: Debian's docker.io,
# a compose plug-in compiled from its Go module, images pulled; and where no registry answers, stand-ins of the same
# names made from Debian's packages and Kafka's jars.

debian_image=debian:bookworm-slim
kafka_image=apache/kafka:4.1.0

docker_packages() {
    if ! docker_answers; then
        have docker && have_admin dockerd || missing+=(docker.io)
    fi
    # For the stand-in of the base image.
    image_is_there "$debian_image" || have_admin debootstrap || missing+=(debootstrap)
}

docker_answers() { docker info >/dev/null 2>&1; }
compose_is_there() { docker compose version >/dev/null 2>&1; }
image_is_there() { docker image inspect "$1" >/dev/null 2>&1; }

# Closes what this shell was started with, such as the descriptor of a caller's lock, which a daemon would hold for good.
close_inherited() {
    local path fd
    for path in "/proc/$BASHPID/fd/"*; do
        fd=${path##*/}
        # bash reads its script by 255.
        if [ "$fd" -gt 2 ] && [ "$fd" -ne 255 ]; then eval "exec $fd>&-"; fi
    done
}

docker_daemon() {
    if docker_answers; then
        say "Docker: the daemon answers"
        return
    fi
    mkdir -p "$home/docker"
    if [ -d /run/systemd/system ]; then
        say "Docker: starting the daemon's unit"
        as_root systemctl start docker || die "the unit 'docker' does not start: see 'systemctl status docker'"
    else
        say "Docker: starting dockerd, log in $home/docker/dockerd.log"
        # In a session of its own and with nothing of ours open: it outlives this script, and nobody waits for it.
        {
            close_inherited
            as_root setsid sh -c 'exec dockerd'
        } </dev/null >"$home/docker/dockerd.log" 2>&1 &
    fi
    local tries=0
    until docker_answers; do
        tries=$((tries + 1))
        if [ "$tries" -gt 120 ]; then
            tail -n 5 "$home/docker/dockerd.log" 2>/dev/null >&2 || true
            die "no Docker daemon answers to this user: 'docker info' says why (a user other than root must be in the group 'docker')"
        fi
        sleep 0.5
    done
}

docker_compose() {
    if compose_is_there; then
        say "Docker's compose plug-in: there"
        return
    fi
    local built=$home/docker/docker-compose stamp plugins=${DOCKER_CONFIG:-$HOME/.docker}/cli-plugins
    stamp=$(sha256sum <"$here/setup/compose-plugin/go.mod" | cut -d' ' -f1)
    if [ "$(cat "$built.stamp" 2>/dev/null)" != "$stamp" ]; then
        go_part
        say "Docker's compose plug-in: compiling it"
        local sources=$home/docker/compose-plugin
        rm -rf "$sources"
        mkdir -p "$sources"
        cp "$here/setup/compose-plugin/go.mod" "$sources/"
        (
            cd "$sources"
            attempt 3 "$go" build -mod=mod -o "$built" github.com/docker/compose/v2/cmd </dev/null 2>"$sources/build.log"
        ) || { tail -n 20 "$sources/build.log" >&2; die "Docker's compose plug-in does not compile; Go's message is above"; }
        echo "$stamp" >"$built.stamp"
    fi
    mkdir -p "$plugins"
    ln -sf "$built" "$plugins/docker-compose"
    compose_is_there || die "'docker compose' does not work although $plugins/docker-compose is there: run it by hand"
}

# pulled IMAGE: whether a registry gave it
pulled() {
    say "image $1: pulling it"
    timeout 120 docker pull -q "$1" </dev/null >/dev/null 2>&1
}

debian_base() {
    if image_is_there "$debian_image"; then
        say "image $debian_image: there"
        return
    fi
    pulled "$debian_image" && return
    say "image $debian_image: no registry answers, making a stand-in from Debian's packages"
    local archive=$home/docker/bookworm.tar
    if [ ! -f "$archive" ]; then
        have_admin debootstrap || die "no registry gives $debian_image, and there is no debootstrap to make a stand-in: install it, or run 'docker pull $debian_image' yourself"
        local root=$home/docker/bookworm
        as_root rm -rf "$root"
        # The mirror that apt itself uses.
        local mirror
        mirror=$(apt-get indextargets --format '$(CREATED_BY) $(SITE)' 2>/dev/null | sed -n 's/^Packages \(.*debian\)\/*$/\1/p' | head -n 1)
        as_root debootstrap --variant=minbase --include=ca-certificates bookworm "$root" ${mirror:+"$mirror"} </dev/null >"$home/docker/debootstrap.log" 2>&1 \
            || { tail -n 5 "$home/docker/debootstrap.log" >&2; die "debootstrap could not make a Debian image; its log is $home/docker/debootstrap.log"; }
        as_root rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
        as_root tar -C "$root" -c . >"$archive.new"
        as_root rm -rf "$root"
        mv "$archive.new" "$archive"
    fi
    docker import "$archive" "$debian_image" >/dev/null || die "docker could not import $archive"
}

kafka_base() {
    if image_is_there "$kafka_image"; then
        say "image $kafka_image: there"
        return
    fi
    pulled "$kafka_image" && return
    say "image $kafka_image: no registry answers, making a stand-in from Kafka's jars"
    local context=$home/docker/kafka-image jars=$kafka_lib
    if [ ! -d "$jars" ]; then jars=$KAFKA_HOME/libs; fi
    rm -rf "$context"
    cp -r "$here/setup/kafka-image" "$context"
    mkdir "$context/libs"
    cp "$jars"/*.jar "$context/libs/"
    # Without BuildKit, which the Docker of Debian lacks; with the machine's network, for apt.
    DOCKER_BUILDKIT=0 attempt 2 docker build -q --network host -t "$kafka_image" "$context" </dev/null >"$home/docker/kafka-image.log" 2>&1 \
        || { tail -n 20 "$home/docker/kafka-image.log" >&2; die "the stand-in for $kafka_image could not be built"; }
    rm -rf "$context"
}

docker_part() {
    docker_daemon
    # The one needs the processors, the others mostly the network.
    docker_compose &
    local compiling=$!
    debian_base
    kafka_base
    wait "$compiling" || exit 1
}
