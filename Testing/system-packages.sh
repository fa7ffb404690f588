#!/bin/sh
# What Debian and Ubuntu leave out: Python's module that makes virtual environments, the libraries of the system that Qt's
# widgets need even without a screen, and software rendering through EGL.
set -e
python=${1:-python3}
venv=
if ! "$python" -c 'import venv, ensurepip' 2>/dev/null; then
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    venv="python$version-venv"
fi

missing=$venv
if command -v dpkg-query >/dev/null; then
    for package in libdbus-1-3 libegl1 libfontconfig1 libgl1 libgl1-mesa-dri libglib2.0-0 libxkbcommon0; do
        # Newer releases add t64 to some names; the old name still installs them.
        dpkg-query -W -f '${db:Status-Status}\n' "$package" "${package}t64" 2>/dev/null | grep -qx installed ||
            missing="$missing $package"
    done
fi
missing=${missing# }
[ -n "$missing" ] || exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    # shellcheck disable=SC2086 # one word a package
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $missing >/dev/null && exit 0
fi
echo "Packages of the system are missing. Run this first: sudo apt-get install -y $missing" >&2
# Without the libraries only the tests of windows and pictures are left out.
[ -z "$venv" ]
