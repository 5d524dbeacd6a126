#!/bin/sh
# Makes a Debian base image with debootstrap, for places that reach no image registry: `base.sh [NAME [SUITE [MIRROR]]]`.
# SECURITY_MIRROR names the mirror of Debian's security updates.
# Needs root, debootstrap and Docker. Holds what debian:trixie-slim holds: no documentation, no translations.
set -eu
name=${1:-vitalfuse/base:trixie} suite=${2:-trixie} mirror=${3:-http://deb.debian.org/debian}
docker=${DOCKER:-docker}
security=${SECURITY_MIRROR:-http://deb.debian.org/debian-security}

fail() { echo "base: $*" >&2; exit 2; }

[ "$(id -u)" = 0 ] || fail "debootstrap needs root"
command -v debootstrap >/dev/null || fail "debootstrap is missing: apt install debootstrap"

work=$(mktemp -d)
root=$work/root
trap 'rm -rf "$work"' EXIT
# Not every shell runs the line above when a signal ends it.
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# A root file system of its own, so its /dev and /proc are never mounted: nothing is left to unmount.
debootstrap --variant=minbase "$suite" "$root" "$mirror" >"$work/log" 2>&1 || { tail -5 "$work/log" >&2; fail "debootstrap failed"; }

cat >"$root/etc/apt/sources.list" <<EOF
deb $mirror $suite main
deb $mirror $suite-updates main
deb $security $suite-security main
EOF
cat >"$root/etc/dpkg/dpkg.cfg.d/slim" <<EOF
path-exclude=/usr/share/doc/*
path-include=/usr/share/doc/*/copyright
path-exclude=/usr/share/info/*
path-exclude=/usr/share/locale/*
path-exclude=/usr/share/man/*
EOF
# No service may start while packages are installed, in the image or here.
printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
chmod 755 "$root/usr/sbin/policy-rc.d"

export DEBIAN_FRONTEND=noninteractive
# Else what cannot be fetched, such as the security updates, is a warning, and the base goes without.
chroot "$root" apt-get update -q --error-on=any >"$work/log" 2>&1 || { tail -5 "$work/log" >&2; fail "apt-get update failed"; }
chroot "$root" apt-get upgrade -qy >"$work/log" 2>&1 || { tail -5 "$work/log" >&2; fail "apt-get upgrade failed"; }
chroot "$root" apt-get clean

find "$root/usr/share/doc" ! -type d ! -name copyright -delete
rm -rf "$root"/usr/share/info/* "$root"/usr/share/locale/* "$root"/usr/share/man/* \
    "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/* "$root"/var/cache/debconf/*-old "$root"/var/log/*
rm -f "$root/etc/machine-id" "$root/etc/resolv.conf" "$root/etc/hostname"
: >"$root/etc/machine-id"

tar --numeric-owner -C "$root" -c . | "$docker" import --change 'CMD ["bash"]' - "$name" >/dev/null
echo "base: $name ($(du -sm "$root" | cut -f1) MB)"
