#!/usr/bin/env bash
# Installs what is missing and says so: `scripts/tools.sh run` what running needs (PostgreSQL's server programs), `scripts/tools.sh
# test` also what the tests need (Chromium, Mosquitto, curl, npm packages). Debian and Ubuntu; elsewhere it says what to install.
set -euo pipefail
cd "$(dirname "$0")/.."

packages=()
need() { # need PACKAGE COMMAND: the package is missing unless the command is there
	command -v "$2" >/dev/null 2>&1 || packages+=("$1")
}

if ! command -v initdb >/dev/null 2>&1 && ! ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1; then
	packages+=(postgresql)
fi
if [ "${1:-run}" = test ]; then
	need chromium chromium
	need mosquitto mosquitto
	need mosquitto-clients mosquitto_pub
	need curl curl
	need nodejs node
	need npm npm
fi

if [ ${#packages[@]} -gt 0 ]; then
	echo "installing ${packages[*]}"
	if ! command -v apt-get >/dev/null 2>&1; then
		echo "this machine has no apt-get: install ${packages[*]} (or what they are called here) and try again" >&2
		exit 1
	fi
	sudo=
	[ "$(id -u)" = 0 ] || sudo=sudo
	# The Debian package would start a server of its own; Millrace only needs the programs.
	if [[ " ${packages[*]} " == *" postgresql "* ]]; then
		$sudo mkdir -p /etc/postgresql-common
		[ -e /etc/postgresql-common/createcluster.conf ] || echo "create_main_cluster = false" | $sudo tee /etc/postgresql-common/createcluster.conf >/dev/null
	fi
	$sudo apt-get update -q >/dev/null
	$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${packages[@]}" >/dev/null
fi

if [ "${1:-run}" = test ] && [ ! -e web/node_modules/.package-lock.json -o web/package-lock.json -nt web/node_modules/.package-lock.json ]; then
	echo "installing the npm packages that the tests use, in web/node_modules"
	(cd web && npm ci --no-audit --no-fund --loglevel=error)
fi
