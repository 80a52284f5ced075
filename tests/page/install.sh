#!/bin/sh
# What tests/page and tests/models need beside Python packages: Chromium, its driver, nginx, and strace, of Debian.
set -eu

missing=
command -v chromium >/dev/null || missing="$missing chromium"
command -v chromedriver >/dev/null || missing="$missing chromium-driver"
command -v nginx >/dev/null || [ -x /usr/sbin/nginx ] || missing="$missing nginx"
command -v strace >/dev/null || missing="$missing strace"
[ -n "$missing" ] || exit 0

if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
    apt-get update -qq
    # By its runlevel Debian starts no service that it installs: the tests start an nginx of their own.
    # shellcheck disable=SC2086
    RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
else
    echo "the tests need$missing, which only root can install with apt-get; without it those tests are skipped," >&2
    echo "and fail where CI is set" >&2
fi
