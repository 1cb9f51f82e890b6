#!/usr/bin/env bash
# What the browser tests need: Debian's Chromium. Playwright itself comes with the extra "test".
set -euo pipefail
command -v chromium >/dev/null && exit 0
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core
