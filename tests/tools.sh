#!/usr/bin/env bash
# Install what the tests drive and pip does not have: Chromium for the page, jemalloc for training, wrk for load,
# Prometheus for the alerts, PostgreSQL for studies, nginx and ip for several nodes, openssl for a certificate. From
# Debian, these are its packages.
set -euo pipefail
PATH=$PATH:$(echo /usr/lib/postgresql/*/bin)

missing() {
	for tool in "$@"; do command -v "$tool" > /dev/null || echo "$tool"; done
}

case ${1:?system, or browser} in
system)
	if [ -z "$(missing chromium-headless-shell wrk prometheus initdb nginx ip openssl)" ] && ldconfig -p | grep -q libjemalloc; then
		exit
	fi
	if command -v apt-get > /dev/null && [ "$(id -u)" = 0 ]; then
		services=$(missing prometheus nginx)
		own=/etc/postgresql-common/createcluster.d/none.conf
		mkdir -p "${own%/*}" && echo 'create_main_cluster = false' > "$own"
		apt-get update -qq
		apt-get install -y -qq chromium-headless-shell fonts-dejavu-core iproute2 libjemalloc2 openssl wrk > /dev/null
		apt-get install -y -qq --no-install-recommends nginx postgresql prometheus > /dev/null
		rm "$own"
		for service in $services; do # Debian begins to run them where it installs them; the tests start their own
			update-rc.d "$service" disable
			service "$service" stop > /dev/null
		done
	else
		for tool in $(missing wrk prometheus initdb nginx ip openssl); do
			echo "$tool is not installed; your distribution has it." >&2
			exit 1
		done
	fi
	;;
browser)
	if [ -n "$(missing chromium-headless-shell)" ]; then
		PLAYWRIGHT_SKIP_BROWSER_GC=1 .venv/bin/playwright install --with-deps chromium
	fi
	;;
esac
