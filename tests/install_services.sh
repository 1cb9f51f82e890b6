#!/usr/bin/env bash
# Starts the servers that tests need on 127.0.0.1 and their usual ports: PostgreSQL (user postgres, no password), MariaDB
# (root, no password), Redis and RabbitMQ (guest, password guest). A server that answers is used as it is, and one that is installed is started. A missing one
# is installed, and allows local connections without a password; servers that existed before are not changed. It also
# installs nginx, Caddy and Apache with mod_wsgi, and the shells zsh and fish, which tests start themselves.
set -euo pipefail

readonly DEADLINE=60 # s

say() { printf '%s\n' "$1" >&2; }
answers() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# until_well NAME COMMAND…: wait until the command succeeds.
until_well() {
    local name=$1 deadline=$((SECONDS + DEADLINE))
    shift
    until "$@" >/dev/null 2>&1; do
        if ((SECONDS >= deadline)); then
            say "$name: after $DEADLINE s this command still fails: $*"
            "$@"
            return 1
        fi
        sleep 0.2
    done
}

updated=no
install_package() {
    [ "$updated" = yes ] || apt-get update -qq
    updated=yes
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$1" >&2
}

as_postgres() { PGCONNECT_TIMEOUT=5 psql -X -w -h 127.0.0.1 -p 5432 -U postgres -d postgres -Atc "$1"; }

postgresql() {
    if ! answers 5432; then
        local new=no version
        if ! command -v pg_ctlcluster >/dev/null; then
            install_package postgresql
            new=yes
        fi
        version=$(pg_lsclusters -h | awk '$2 == "main" { print $1; exit }')
        if [ "$new" = yes ]; then
            sed -i '1i host all all 127.0.0.1/32 trust' "/etc/postgresql/$version/main/pg_hba.conf"
            pg_ctlcluster --skip-systemctl-redirect "$version" main reload 2>/dev/null || true # it may not run yet
        fi
        answers 5432 || pg_ctlcluster --skip-systemctl-redirect "$version" main start
    fi
    command -v psql >/dev/null || return 0 # the port is forwarded to another machine
    until_well PostgreSQL as_postgres "SELECT 1"
    [ -n "$(as_postgres "SELECT 1 FROM pg_database WHERE datname = 'test'")" ] || as_postgres "CREATE DATABASE test"
}

as_root() { mariadb --no-defaults --protocol=tcp --connect-timeout=5 -h 127.0.0.1 -P 3306 -u root -e "$1"; }

mariadb_server() {
    if ! answers 3306; then
        local new=no
        if ! [ -x /usr/sbin/mariadbd ]; then
            install_package mariadb-server
            new=yes
        fi
        if ! answers 3306; then
            install -d -o mysql -g mysql /run/mysqld
            start-stop-daemon --start --oknodo --background --exec /usr/sbin/mariadbd -- --user=mysql
        fi
        if [ "$new" = yes ]; then
            until_well MariaDB mariadb -u root -e "SELECT 1"
            # Both users, because skip_name_resolve decides which of them a connection from 127.0.0.1 is.
            mariadb -u root -e "CREATE USER IF NOT EXISTS root@127.0.0.1 IDENTIFIED BY '';
                GRANT ALL PRIVILEGES ON *.* TO root@127.0.0.1 WITH GRANT OPTION;
                ALTER USER root@localhost IDENTIFIED BY ''"
        fi
    fi
    command -v mariadb >/dev/null || return 0
    until_well MariaDB as_root "SELECT 1"
    as_root "CREATE DATABASE IF NOT EXISTS test"
}

redis() {
    answers 6379 && return
    command -v redis-server >/dev/null || install_package redis-server
    answers 6379 || redis-server --daemonize yes --bind 127.0.0.1 -::1 --port 6379 --save "" --appendonly no \
        --dir /var/lib/redis >/dev/null
    until_well Redis redis-cli -h 127.0.0.1 -p 6379 ping
}

# The node is rabbit@localhost, because the host name of a container may not resolve.
rabbitmq() {
    answers 5672 && return
    [ -x /usr/sbin/rabbitmq-server ] || install_package rabbitmq-server
    answers 5672 || RABBITMQ_NODENAME=rabbit@localhost RABBITMQ_NODE_IP_ADDRESS=127.0.0.1 ERL_EPMD_ADDRESS=127.0.0.1 \
        ERL_FLAGS="-kernel inet_dist_use_interface {127,0,0,1}" /usr/sbin/rabbitmq-server -detached >&2
    until_well RabbitMQ answers 5672
}

# RUNLEVEL=1 keeps the package from starting a server.
[ -x /usr/sbin/nginx ] || command -v nginx >/dev/null || RUNLEVEL=1 install_package nginx-light
[ -e /usr/lib/apache2/modules/mod_wsgi.so ] || RUNLEVEL=1 install_package libapache2-mod-wsgi-py3 ||
    say "Apache's mod_wsgi could not be installed: the nightly tests of Apache skip"

command -v caddy >/dev/null || RUNLEVEL=1 install_package caddy
command -v systemd-analyze >/dev/null || install_package systemd # to check the units of the recipes

for shell in zsh fish; do # for the tests of completion
    command -v "$shell" >/dev/null || install_package "$shell"
done

command -v ps >/dev/null || install_package procps # for tests that kill their own servers
command -v ip >/dev/null || install_package iproute2 # for tests with hosts in network namespaces

# A server whose URL is set in the environment is not managed here.
[ -n "${TEST_POSTGRES:-}" ] || postgresql
[ -n "${TEST_MARIADB:-}" ] || mariadb_server
[ -n "${TEST_REDIS:-}" ] || redis
[ -n "${TEST_RABBITMQ:-}" ] || rabbitmq
