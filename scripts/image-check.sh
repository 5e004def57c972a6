#!/usr/bin/env bash
# Tests the root file system of the container image without a container engine: makes it by the script that the
# Dockerfile uses, mounts it read-only in a mount namespace of its own, and runs the worker in it as user 65532, as an
# engine would.
#
#   - nothing in it can be executed but the worker and libraries: no shell, no interpreter
#   - version, models verify, classify
#   - validate and run against a real Kafka broker over TLS, found by name: through /etc/hosts and through a DNS
#     server, by Go's
#     resolver and by glibc's; its authority found among /etc/ssl/certs, and refused where it is not there
#   - health, SIGTERM, and that nothing was written
#
# Needs root (or a user namespace with many ids), util-linux, Java and Maven for the broker. scripts/kafka-local makes
# the broker. Not tested: that an engine builds the Dockerfile's stages, and the CUDA image.
set -euo pipefail

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
work=$repo/build/image
root=$work/root
say() { printf 'image-check: %s\n' "$*" >&2; }
die() { printf 'image-check: FAILED: %s\n' "$*" >&2; exit 1; }

[[ $(id -u) = 0 ]] || die 'run it as root: it changes to user 65532 and mounts'
for tool in unshare setpriv chroot mount openssl java; do
	command -v "$tool" >/dev/null || die "$tool is not on PATH"
done
[[ -x $repo/dist/sluice ]] || die 'dist/sluice is not there: make dist'

export KAFKA_LOCAL_DIR=$work/kafka
kafka=$repo/scripts/kafka-local
pids=()
finish() {
	for p in ${pids[@]+"${pids[@]}"}; do kill "$p" 2>/dev/null || true; done
	"$kafka" wipe >/dev/null 2>&1 || true
	rm -rf "$work"
}
trap finish EXIT

# --- the root file system, as the Dockerfile makes it
rm -rf "$work"
mkdir -p "$root/opt/sluice" "$work/etc"
cp -a "$repo/dist/sluice" "$repo/dist/lib" "$repo/dist/models" "$repo/dist/examples" "$root/opt/sluice/"
"$repo/scripts/image-root.sh" "$root"
chown -R 0:0 "$root"
(cd "$root" && find . -path ./opt/sluice -prune -o ! -type d -print | sort) >"$work/files"
say "$(wc -l <"$work/files") files beside /opt/sluice: $(paste -sd ' ' "$work/files")"
while read -r f; do
	case $(basename "$f") in
	sluice | *.so | *.so.*) ;;
	*) die "$f can be executed: only the worker and libraries may" ;;
	esac
done < <(find "$root" -type f -perm /111)
if found=$(find "$root" -perm /6000 | grep .); then die "set-user-id files: $found"; fi
for p in bin/sh bin/bash bin/dash bin/busybox usr/bin/env usr/bin/perl; do
	[[ ! -e $root/$p ]] || die "/$p is there"
done
tree() { (cd "$root" && find . -printf '%p %s %T@ %m %U:%G\n' | sort | sha256sum); }

# --- "${enter[@]}" COMMAND...: in the image, as user 65532, all of it read-only; /etc/hosts, resolv.conf and the
# configuration come from outside, as an engine and -v bring them
touch "$root/etc/hosts" "$root/etc/resolv.conf"
before=$(tree)
cp "$root/etc/ssl/certs/ca-certificates.crt" "$work/authorities"
enter=(unshare --mount --propagation private bash -euc '
	root=$1 work=$2
	shift 2
	mount --bind "$root" "$root"
	mount -o remount,bind,ro "$root"
	mount -t proc -o ro,nosuid proc "$root/proc"
	mount --bind /dev "$root/dev"
	for f in hosts resolv.conf sluice; do
		mount --bind "$work/etc/$f" "$root/etc/$f"
		mount -o remount,bind,ro "$root/etc/$f"
	done
	mount --bind "$work/authorities" "$root/etc/ssl/certs/ca-certificates.crt"
	cd "$root"
	chroot=$(command -v chroot)
	exec setpriv --no-new-privs env -i PATH=/usr/local/bin HOSTNAME=image-check ${GODEBUG:+GODEBUG=$GODEBUG} \
		"$chroot" --userspec=65532:65532 --groups= "$root" "$@"
' enter "$root" "$work")
echo 'nameserver 127.0.0.77' >"$work/etc/resolv.conf"
echo '127.0.0.1 localhost hosts.sluice.test' >"$work/etc/hosts"
mkdir "$work/etc/sluice"
worker=/opt/sluice/sluice

"${enter[@]}" "$worker" version >&2 || die 'version'
"${enter[@]}" "$worker" models verify /opt/sluice/models/sentiment-tiny /opt/sluice/models/ner >&2 ||
	die 'models verify'
got=$(echo 'What a lovely day' | "${enter[@]}" "$worker" classify -m /opt/sluice/models/sentiment-tiny) ||
	die 'classify'
[[ $got = *POSITIVE* ]] || die "classify: $got"
if "${enter[@]}" /bin/sh -c true 2>/dev/null; then die 'there is a shell'; fi

# --- a broker with TLS, and a DNS server that knows one name
"$kafka" start --secure >&2
eval "$("$kafka" env)"
port=${KAFKA_BOOTSTRAP_SASL_SSL##*:}
for t in in out dlq; do "$kafka" topic "image-$t" 1 >&2; done
python3 - <<'PY' &
# Answers A questions for dns.sluice.test with 127.0.0.1, AAAA ones with nothing, and other names with NXDOMAIN.
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("127.0.0.77", 53))
while True:
    q, peer = s.recvfrom(512)
    end = q.index(0, 12) + 5
    known, a = q[12:end - 4].lower() == b"\x03dns\x06sluice\x04test\x00", q[end - 4:end - 2] == b"\0\1"
    head = q[:2] + (b"\x81\x80" if known else b"\x81\x83") + b"\0\1"
    head += (b"\0\1" if known and a else b"\0\0") + b"\0\0\0\0"
    s.sendto(head + q[12:end] + (b"\xc0\x0c\0\1\0\1\0\0\0\x1e\0\4\x7f\0\0\1" if known and a else b""), peer)
PY
pids+=($!)
config() { # NAME: how the broker is called
	cat >"$work/etc/sluice/config.yaml" <<Y
kafka:
  brokers: ["$1:$port"]
  group: image
  instance_id: "\${HOSTNAME}"
  tls: {enabled: true, server_name: localhost}
  sasl: {mechanism: SCRAM-SHA-512, username: worker, password_file: /etc/sluice/password}
input: {topics: [image-in]}
models: [{name: sentiment, path: /opt/sluice/models/sentiment-tiny}]
output: {topic: image-out}
dead_letter: {topic: image-dlq}
Y
}
echo worker-secret >"$work/etc/sluice/password"

config hosts.sluice.test
if got=$("${enter[@]}" "$worker" validate -c /etc/sluice/config.yaml 2>&1); then
	die 'a broker of an unknown authority is trusted'
fi
[[ $got = *'cannot be verified'* ]] || die "a broker of an unknown authority: $got"
cat "$KAFKA_CA" >>"$work/authorities"
for resolver in go cgo; do
	for name in hosts.sluice.test dns.sluice.test; do
		config "$name"
		GODEBUG=netdns=$resolver "${enter[@]}" "$worker" validate -c /etc/sluice/config.yaml >"$work/said" 2>&1 ||
			die "$name by the $resolver resolver: $(<"$work/said")"
		say "broker found as $name by the $resolver resolver, its certificate verified"
	done
done

echo '{"text":"What a lovely day"}' | "$kafka" tool org.apache.kafka.tools.ConsoleProducer \
	--bootstrap-server "$KAFKA_BOOTSTRAP" --topic image-in
config dns.sluice.test
"${enter[@]}" "$worker" run -c /etc/sluice/config.yaml 2>"$work/log" &
run=$!
pids+=("$run")
result=$("$kafka" tool org.apache.kafka.tools.consumer.ConsoleConsumer --bootstrap-server "$KAFKA_BOOTSTRAP" \
	--topic image-out --from-beginning --max-messages 1 --timeout-ms 60000 \
	--command-property isolation.level=read_committed) || die "no result: $(<"$work/log")"
[[ $result = *POSITIVE* ]] || die "result: $result"
"${enter[@]}" "$worker" health >&2 || die 'health'
[[ $(awk '/^Uid:/{print $2 $3 $4 $5}' "/proc/$run/status") = 65532655326553265532 ]] ||
	die "the worker runs as $(grep Uid "/proc/$run/status")"
[[ $(awk '/^CapEff:/{print $2}' "/proc/$run/status") = 0000000000000000 ]] || die 'the worker has capabilities'
grep -q ' / ro[, ]' <(awk '$5 == "/" {print " " $5 " " $6}' "/proc/$run/mountinfo") ||
	die 'the root file system can be written'
kill -TERM "$run"
rc=0
wait "$run" || rc=$?
[[ $rc = 0 ]] || die "after SIGTERM: exit code $rc: $(<"$work/log")"
[[ $(tree) = "$before" ]] || die 'something was written'
say 'passed'
