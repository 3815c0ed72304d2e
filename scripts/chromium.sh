#!/usr/bin/env bash
# A browser without a screen, for tests of the report's page. Debian's package.
#   scripts/chromium.sh install    # as root
set -euo pipefail

fail() { echo "error: $*" >&2; exit 1; }

install() {
  for name in chromium chromium-browser google-chrome; do
    ! command -v $name >/dev/null || return 0
  done
  command -v apt-get >/dev/null || fail "chromium is missing, and apt-get, which installs it; install a Chromium by hand"
  [ "$(id -u)" = 0 ] || fail "chromium is missing; run scripts/chromium.sh install as root"
  export DEBIAN_FRONTEND=noninteractive
  { timeout 300 apt-get update -q && timeout 600 apt-get install -qy --no-install-recommends chromium; } >&2 ||
    fail "apt-get can't install chromium; look above for why"
}

case ${1:-} in
  install) install ;;
  *) fail "say install" ;;
esac
