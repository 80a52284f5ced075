#!/bin/sh
# install.sh FOLDER: Debian's prometheus and promtool, for the tests, into FOLDER; no service is set up or started.
set -eu
command -v promtool >/dev/null && command -v prometheus >/dev/null && exit 0
[ ! -x "$1/usr/bin/prometheus" ] || exit 0
without() {
  echo "$*, so the alerts and the dashboard are not tried with Prometheus" >&2
  exit 0
}
command -v apt-get >/dev/null || without "there is no apt-get"
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
chmod 755 "$folder"
cd "$folder"
apt-get download -qq prometheus >/dev/null 2>&1 || {
  apt-get update -qq >/dev/null 2>&1 || true
  apt-get download -qq prometheus >/dev/null 2>&1 || without "prometheus cannot be downloaded"
}
cd "$OLDPWD"
dpkg-deb -x "$folder"/prometheus_*.deb "$1"
