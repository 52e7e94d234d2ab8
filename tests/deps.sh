#!/bin/sh
# What the machine must have for a target of the Makefile: `tests/deps.sh PURPOSE...`
#
# PURPOSE is lint, check, test, test-vm, demo or bench: packages that are missing are installed by apt, or, without
# root, named with the line that installs them. `python` makes .venv with nothing in it, `packages` fills it, `kernel`
# unpacks one into .cache/vm. Nothing is fetched when nothing is missing.
set -eu
cd "$(dirname "$0")/.."

# Debian package, what is there when it is installed (a command, or a file), who needs it.
# Names in capitals are for root only: an ordinary user's `make test` skips what would use them.
NEEDS='
iproute2                    ip                                  check test test-vm demo bench
util-linux                  unshare                             check test test-vm demo bench
ca-certificates             /etc/ssl/certs/ca-certificates.crt  lint check test test-vm bench
nftables                    nft                                 check test test-vm bench
iptables                    iptables                            test bench
conntrack                   conntrack                           test test-vm bench
iperf3                      iperf3                              bench
busybox-static              busybox                             TEST test-vm
qemu-system-x86             qemu-system-x86_64                  test-vm
containerd                  containerd                          TEST
runc                        runc                                TEST
procps                      /usr/bin/kill                       TEST
containernetworking-plugins /usr/lib/cni/bridge                 test bench
'

# An ordinary user's PATH has no sbin on Debian.
PATH=$PATH:/usr/sbin:/sbin

main() {
    missing=
    for purpose in "$@"; do
        case $purpose in
        lint | check | test | test-vm | demo | bench) look_for "$purpose" ;;
        python | packages | kernel) "$purpose" ;;
        *) fail "tests/deps.sh: no purpose is called $purpose" ;;
        esac
    done
    [ -z "$missing" ] || install_packages
}

look_for() {
    interpreter >/dev/null || want python3 python3-venv
    [ "$(id -u)" != 0 ] || set -- "$1" "$(echo "$1" | tr a-z A-Z)"
    for purpose in "$@"; do
        while read -r package thing users; do
            case " $users " in
            *" $purpose "*) there "$thing" || want "$package" ;;
            esac
        done <<END
$NEEDS
END
    done
}

there() {
    case $1 in
    /*) [ -e "$1" ] ;;
    *) command -v "$1" >/dev/null ;;
    esac
}

want() {
    for package in "$@"; do
        case " $missing " in
        *" $package "*) ;;
        *) missing="$missing $package" ;;
        esac
    done
}

install_packages() {
    line="apt-get install --yes --no-install-recommends$missing"
    command -v apt-get >/dev/null || fail "missing, by their names in Debian:$missing"
    [ "$(id -u)" = 0 ] || fail "packages are missing, and only root can install them:  $line"
    echo "+ $line"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    $line -qq >/dev/null
}

# Prints the path of a real interpreter, 3.11 or later, that can make a virtual environment. PYTHON= chooses one.
interpreter() {
    for python in ${PYTHON:-/usr/bin/python3 $(versions /usr/bin) $(versions /usr/local/bin) python3}; do
        # A version manager's `python3` is a script that starts an interpreter: ask the one that answers for its path.
        real=$("$python" -c 'import sys
if sys.version_info >= (3, 11): import ensurepip, venv; print(sys._base_executable)' 2>/dev/null) || continue
        [ -z "$real" ] || { echo "$real" && return; }
    done
    return 1
}

versions() {
    for minor in 20 19 18 17 16 15 14 13 12 11; do
        echo "$1/python3.$minor"
    done
}

python() {
    # One that has been moved, or whose interpreter has been upgraded away, is made anew.
    ok='import os, sys; sys.exit(not (sys.version_info >= (3, 11) and os.path.samefile(sys.prefix, ".venv")))'
    .venv/bin/python -c "$ok" 2>/dev/null && return
    real=$(interpreter) || fail "no Python 3.11 or later that can make a virtual environment (${PYTHON:-packages python3 and python3-venv})"
    echo "+ $real -m venv .venv"
    "$real" -m venv --clear .venv
    .venv/bin/python -c "$ok" || fail ".venv does not work"
}

packages() {
    python
    echo "+ .venv/bin/python -m pip install --editable .[agent,test,dev]"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[agent,test,dev]'
    pwd >.venv/ready
}

# The kernel that tests/vm boots, Debian 12's. Not installed: this machine goes on with its own.
kernel() {
    # By what was unpacked last: a cache of earlier may lack it.
    last=lib/modules/6.1.*-amd64/kernel/lib/libcrc32c.ko
    for module in .cache/vm/$last /$last; do
        [ ! -e "$module" ] || return 0
    done
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then apt-get update -qq; fi
    package=$(apt-cache depends linux-image-amd64 2>/dev/null | sed -n 's/^ *Depends: \(linux-image-6\.1\..*\)/\1/p')
    if [ -z "$package" ]; then
        echo "no package has Linux 6.1 here, so the tests that boot it are skipped"
        return 0
    fi
    echo "+ apt-get download $package"
    new=.cache/vm.new
    rm -rf "$new"
    mkdir -p "$new"
    (cd "$new" && apt-get download -qq -o APT::Sandbox::User=root "$package")
    dpkg-deb --fsys-tarfile "$new"/*.deb | tar -x -C "$new" --wildcards --no-wildcards-match-slash \
        './boot/vmlinuz-*' './lib/modules/*/kernel/net' './lib/modules/*/kernel/drivers/net/*.ko' \
        './lib/modules/*/kernel/lib/libcrc32c.ko' './lib/modules/*/kernel/crypto/crc32c_generic.ko'
    rm -rf "$new"/*.deb .cache/vm
    mv "$new" .cache/vm
}

fail() {
    echo "$*" >&2
    exit 1
}

main "$@"
