#!/usr/bin/env bash
# Puts the jars of Apache Kafka (pom.xml) into the cache folder of the system tests, once.
# KAFKA_CACHE overrides the folder, .cache/kafka beside the workspace's Cargo.toml by default.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
cache="${KAFKA_CACHE:-$here/../../.cache/kafka}"
wanted="$(sha256sum "$here/pom.xml" | cut -d' ' -f1)"

if [[ "$(cat "$cache/stamp" 2>/dev/null || true)" == "$wanted" ]]; then
  exit 0
fi

echo "resolving Apache Kafka into $cache"
mkdir -p "$cache"
cache="$(cd "$cache" && pwd)"
# The stamp goes first and comes last, so that a broken download is never taken for a whole one.
rm -rf "$cache/stamp" "$cache/jars"
for attempt in 1 2 3; do
  if mvn --batch-mode --no-transfer-progress --quiet --file "$here/pom.xml" \
      dependency:copy-dependencies -DoutputDirectory="$cache/jars"; then
    break
  fi
  if [[ $attempt == 3 ]]; then
    echo "Apache Kafka does not resolve from Maven Central (see above)" >&2
    exit 1
  fi
  sleep $((attempt * 5))
done
echo "$wanted" >"$cache/stamp"
