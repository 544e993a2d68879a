#!/bin/sh
# English text of Debian's packages, unpacked into a folder and not installed; fails where they are not to be had.
set -eu
into="$1"
command -v apt-get > /dev/null && command -v dpkg-deb > /dev/null
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
fetch() { (cd "$folder" && apt-get -qq -o APT::Sandbox::User=root download anarchism debian-handbook fortunes); }
# A list of packages that is missing or old is fetched once, where that is allowed.
fetch 2> /dev/null || { apt-get -qq update && fetch; }
mkdir -p "$into"
for package in "$folder"/*.deb; do
    dpkg-deb --fsys-tarfile "$package" | tar -x -C "$into" --wildcards --exclude='*/images/*' \
        './usr/share/doc/anarchism/html/*' './usr/share/doc/debian-handbook/html/en-US/*' './usr/share/games/fortunes/*' \
        2> "$folder/left" || grep -qv 'Not found in archive' "$folder/left" && test -d "$into"
done
