#!/bin/sh
# Installs what the build needs, where it is missing. Debian and Ubuntu: apt. Elsewhere it says what is needed.
packages="g++ cmake ninja-build pkg-config python3 libfmt-dev nlohmann-json3-dev libcli11-dev libssl-dev libpcre2-dev libutf8proc-dev libgtest-dev liblz4-dev libzstd-dev libyaml-dev zlib1g-dev $*"
if ! command -v dpkg-query > /dev/null; then
  echo "Not a Debian system. plumb needs: a C++23 compiler (g++ 12 or clang 19), CMake 3.25, Ninja, pkg-config, Python 3, fmt 9,"
  echo "nlohmann-json, CLI11, OpenSSL, PCRE2 (32 bit), utf8proc, lz4, zstd, libyaml, zlib and GoogleTest. If they are there, this goes on and finds them."
  exit 0
fi
missing=""
for package in $packages; do
  dpkg-query -W -f '${Status}' "$package" 2> /dev/null | grep -q "install ok installed" || missing="$missing $package"
done
[ -z "$missing" ] && exit 0
echo "Installing:$missing"
if [ "$(id -u)" = 0 ]; then run=""; elif command -v sudo > /dev/null; then run="sudo"; else
  echo "Neither root nor sudo: install these packages first:$missing"
  exit 1
fi
export DEBIAN_FRONTEND=noninteractive
$run apt-get update -qq && $run apt-get install -y -qq --no-install-recommends $missing > /dev/null
