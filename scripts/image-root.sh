#!/usr/bin/env bash
# Completes the root file system of the container image around a worker that is in it already, with what it needs and
# nothing else: no shell, no package manager, no other program. The Dockerfile calls it in a build stage,
# scripts/image-check.sh on this machine.
#
#   scripts/image-root.sh ROOT      ROOT/opt/sluice holds sluice and lib/
#
# Written: the dynamic loader and the shared libraries that sluice and the libraries of lib/ name (glibc, libgcc_s,
# libstdc++), from the system that this runs on, at the paths where its loader looks; certificates of the public
# authorities; the user 65532; nsswitch.conf, so that names are looked up in /etc/hosts and then by DNS.
# No /tmp: `sluice run` writes nothing. No time zones: it computes in UTC.
set -euo pipefail

root=${1:?usage: image-root.sh ROOT}
worker=$root/opt/sluice/sluice
[[ -x $worker ]] || { echo "image-root: $worker is not there" >&2; exit 1; }

needs() { # paths of what a program or library links to, the loader included
	LD_LIBRARY_PATH=$root/opt/sluice/lib ldd "$1" |
		awk '/not found/ {print "image-root: " $0 > "/dev/stderr"; bad = 1}
			$2 == "=>" && $3 ~ /^\// {print $3} $1 ~ /^\// {print $1}
			END {exit bad}'
}

libraries=()
for f in "$worker" "$root"/opt/sluice/lib/*.so*; do
	found=$(needs "$f")
	mapfile -t -O "${#libraries[@]}" libraries <<<"$found"
done
for l in $(printf '%s\n' "${libraries[@]}" | sort -u); do
	case $l in "$root"/*) continue ;; esac # its own, found beside it
	install -D -m 755 "$l" "$root$l" # follows links: the file under the name that is asked for
done

install -D -m 644 /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
echo 'sluice:x:65532:65532:sluice:/nonexistent:/nonexistent' >"$root/etc/passwd"
echo 'sluice:x:65532:' >"$root/etc/group"
echo 'hosts: files dns' >"$root/etc/nsswitch.conf"
# where engines mount, and the configuration goes
mkdir -p "$root/etc/sluice" "$root/usr/local/bin" "$root/dev" "$root/proc" "$root/sys"
ln -sfn /opt/sluice/sluice "$root/usr/local/bin/sluice"
