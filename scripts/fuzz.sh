#!/usr/bin/env bash
# Runs every fuzz target for the time given (default 5s), one after the other.
set -euo pipefail
cd "$(dirname "$0")/.."
for_each=${1:-5s}
targets=$(grep -rnoE '^func Fuzz[A-Za-z0-9_]+' --include='*_test.go' . | sed -E 's/^\.\/(.*)\/[^/]+:[0-9]+:func (.*)$/\1 \2/' | sort -u)
[ -n "$targets" ] || { echo "no fuzz targets found" >&2; exit 1; }
while read -r folder target; do
	echo "fuzz ./$folder $target"
	go test -run '^$' -fuzz "^$target\$" -fuzztime "$for_each" -fuzzminimizetime 1x -parallel 2 "./$folder" </dev/null
done <<<"$targets"
