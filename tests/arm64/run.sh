#!/usr/bin/env bash
# Runs a short set of the end-to-end and fault tests with the arm64 gateway that `make cross` left in
# dist/, under qemu-aarch64-static. Brokers, sensors and tests themselves are this machine's own.
# Arguments go to the tests.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
cd "$here/../.."
options=("$@")

built="$(mktemp -d)"
trap 'rm -r "$built"' EXIT
aarch64-linux-gnu-gcc -Wall -Wextra -Werror -O1 -shared -fPIC -o "$built/termios2.so" \
  "$here/termios2.c"

export EDGE_GATEWAY_UNDER_TEST="$PWD/dist/aarch64-unknown-linux-gnu/edge-gateway"
export EDGE_GATEWAY_RUNNER="qemu-aarch64-static -L /usr/aarch64-linux-gnu -E LD_PRELOAD=$built/termios2.so"
[[ -f "$EDGE_GATEWAY_UNDER_TEST" ]] || {
  echo "$EDGE_GATEWAY_UNDER_TEST is missing: make cross" >&2
  exit 1
}

# Only tests that start the gateway through the harness and look at nothing of its process.
run() {
  local target="$1" known name
  shift
  known="$(cargo test --quiet -p system-tests --test "$target" -- --list --include-ignored)"
  for name in "$@"; do
    # A name that no test has would be passed over in silence.
    grep -qxF "$name: test" <<<"$known" || { echo "run.sh: no test $name" >&2; exit 1; }
  done
  cargo test -p system-tests --test "$target" -- --exact --include-ignored "$@" "${options[@]}"
}

# A serial line, noisy, on a pseudo-terminal; MQTT at QoS 0, 1 and 2; TLS, of which the OpenSSL that is
# linked in has what these take and little more (cross/openssl-perl).
run e2e \
  serial::acknowledged_frames_of_many_devices_arrive_over_a_noisy_line \
  mqtt::mqtt_5_arrives_at_every_quality_of_service \
  tls::mqtts_with_a_client_certificate_arrives \
  tls::a_broker_of_an_unknown_authority_is_not_connected_to \
  tls::kafka_over_tls_and_scram_with_the_password_in_a_file_arrives
# An outage of Kafka; SIGKILL and reopening, with both kinds of source; exactly once; one log, read
# and continued by the x86-64 and the arm64 program in turn.
run faults \
  kafka_away::nothing_is_lost_while_kafka_is_stopped_for_twenty_seconds \
  gateway_killed::nothing_is_lost_when_the_gateway_is_killed_ten_times \
  exactly_once::every_record_is_there_exactly_once_though_the_gateway_is_killed_thirty_times \
  architectures::a_log_goes_from_one_architecture_to_the_other_and_back
