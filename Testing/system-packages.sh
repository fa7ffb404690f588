#!/bin/sh
# What Debian and Ubuntu leave out of Python: the module that makes virtual environments.
set -e
python=${1:-python3}
if "$python" -c 'import venv, ensurepip' 2>/dev/null; then
    exit 0
fi
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "python$version-venv" >/dev/null
else
    echo "Python's venv module is missing. Run this first: sudo apt-get install -y python$version-venv" >&2
    exit 1
fi
