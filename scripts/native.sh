#!/usr/bin/env bash
# Makes the native parts of Sluice under build/, from Rust's and Python's package registries only.
#
#   scripts/native.sh tokenizers            builds libtokenizers.a, prints the directory it is in
#   scripts/native.sh onnxruntime [ARCH]    fetches libonnxruntime.so.1 and its licences, prints its path
#                                           ARCH: amd64 or arm64; default: this machine's
#   scripts/native.sh openvino              fetches an ONNX Runtime with the OpenVINO provider (amd64, 81 MB), prints
#                                           the path of its libonnxruntime.so.1: for SLUICE_ONNXRUNTIME where
#                                           device: openvino is used
#   scripts/native.sh test                  runs the tests of the crate that libtokenizers.a is built from
#   scripts/native.sh env                   builds and fetches, prints the exports that `go build` and `go test` need:
#                                           eval "$(scripts/native.sh env)"
#
# Results go to stdout, progress to stderr. A verb that has nothing to do says nothing and takes milliseconds. Every
# result is moved into its place when it is complete, so an interrupted run leaves nothing that a later one trusts.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
build=$root/build
crate=$root/tokenize/hf/native
lock=$root/scripts/onnxruntime.lock

say() { printf 'native: %s\n' "$*" >&2; }
die() { printf 'native: error: %s\n' "$*" >&2; exit 1; }

usage() {
	sed -n '2,/^[^#]/{s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" >&2
	exit 2
}

need() { # need COMMAND HOW_TO_GET_IT
	command -v "$1" >/dev/null || die "$1 is not installed; $2"
}

# One run at a time: two would build the same thing twice.
exclusively() {
	mkdir -p "$build"
	exec 9>"$build/.native.lock"
	if ! flock --nonblock 9; then
		say "waiting for another native.sh"
		flock 9
	fi
}

scratch() { # a directory for half-made things, gone when the script ends; after a SIGKILL, when the next one begins
	rm -rf "$build"/.native-??????
	work=$(mktemp -d "$build/.native-XXXXXX")
	trap 'rm -rf "$work"' EXIT
	trap 'exit 130' INT TERM
}

# --- libtokenizers.a --------------------------------------------------------------------------------------------------

# Go's build cache does not notice that an archive changed, so the name of its directory says what is in it.
tokenizers_dir() {
	local hash
	hash=$(cd "$crate" && LC_ALL=C && sha256sum Cargo.toml Cargo.lock src/*.rs | sha256sum | cut -c1-12)
	echo "$build/tokenizers-$hash"
}

# The licences of the crates that are linked into the archive: each text once, under the names of its crates.
crate_licences() {
	need python3 "apt-get install python3"
	cargo metadata --locked --format-version 1 --manifest-path "$crate/Cargo.toml" \
		--filter-platform "$(rustc -vV | sed -n 's/^host: //p')" | python3 -c '
import json, pathlib, sys

texts = {}
for p in sorted(json.load(sys.stdin)["packages"], key=lambda p: (p["name"], p["version"])):
    if p["source"] is None:
        continue  # our own
    files = sorted(f for f in pathlib.Path(p["manifest_path"]).parent.iterdir()
                   if f.is_file() and f.name.upper().startswith(("LICEN", "COPYING", "NOTICE", "UNLICENSE")))
    text = "\n\n".join(f.read_text(errors="replace").strip() for f in files) or "(the crate has no licence file)"
    texts.setdefault(text, []).append("%s %s (%s)" % (p["name"], p["version"], p["license"]))
for text, crates in texts.items():
    print("=" * 80, *crates, "=" * 80, text, "", sep="\n")
'
}

tokenizers() {
	local dir flags sep=$'\x1f'
	flags="--remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo$sep--remap-path-prefix=$root=/src"
	dir=$(tokenizers_dir)
	if [ ! -f "$dir/libtokenizers.a" ]; then exclusively; fi
	if [ ! -f "$dir/libtokenizers.a" ]; then # still not, now that no other run is making it
		scratch
		need cargo "install Rust 1.85 or newer, with rustup for example"
		need cc "a linker is needed: apt-get install gcc"
		say "building libtokenizers.a from the Rust package registry (74 crates, about 100 s of processor time, once)"
		# No path of this machine gets into the archive, so its bytes are the same everywhere. --target-dir is
		# ours, whatever CARGO_TARGET_DIR says.
		CARGO_ENCODED_RUSTFLAGS=$flags \
			cargo build --release --locked --manifest-path "$crate/Cargo.toml" --target-dir "$build/cargo" >&2 9>&- ||
			die "cargo could not build $crate: see its message above;" \
				"it needs the Rust package registry (or a configured mirror)"
		mkdir "$work/tokenizers"
		cp "$build/cargo/release/libtokenizers.a" "$work/tokenizers/"
		crate_licences >"$work/tokenizers/tokenizers.ThirdPartyNotices.txt"
		rm -rf "$dir"
		mv -T "$work/tokenizers" "$dir"
		say "built ${dir#"$root/"}/libtokenizers.a"
	fi
	echo "$dir"
}

crate_tests() {
	need cargo "install Rust 1.85 or newer, with rustup for example"
	cargo test --quiet --locked --manifest-path "$crate/Cargo.toml" --target-dir "$build/cargo"
}

# --- libonnxruntime.so.1 ----------------------------------------------------------------------------------------------

sha256() { # of a file; nothing for a file that is not there
	[ ! -f "$1" ] || sha256sum "$1" | cut -d' ' -f1
}

onnxruntime() {
	local arch=$1 want machine library=$build/onnxruntime/$1/libonnxruntime.so.1 got
	case $arch in
	amd64) machine=x86_64 ;;
	arm64) machine=aarch64 ;;
	*) die "no ONNX Runtime is pinned for \"$arch\"; use amd64 or arm64" ;;
	esac
	want=$(awk -v arch="$arch" '$1 == "#:" && $2 == arch {print $3}' "$lock")
	[ -n "$want" ] || die "$lock pins no library for $arch"

	if [ "$(sha256 "$library")" != "$want" ]; then exclusively; fi
	if [ "$(sha256 "$library")" != "$want" ]; then # still not, now that no other run is fetching it
		scratch
		need python3 "apt-get install python3 python3-pip python3-venv"
		python3 -m pip --version >/dev/null 2>&1 || die "python3 has no pip; apt-get install python3-pip python3-venv"
		say "downloading $(grep -o '^onnxruntime==[0-9.]*' "$lock") for $arch (25 MB, once)"
		# pip checks the wheel's hash; the Python version only picks the wheel.
		python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --require-hashes \
			--implementation cp --python-version 3.11 --platform "manylinux_2_28_$machine" \
			--dest "$work/wheel" -r "$lock" >&2 ||
			die "pip could not download the wheel that $lock pins: see its message above;" \
				"it needs PyPI (or a configured mirror)"
		mkdir "$work/$arch"
		python3 - "$work/wheel" "$work/$arch" <<'PY' || die "the wheel could not be unpacked: see the message above"
import glob, os, re, shutil, sys, zipfile

wheels, to = glob.glob(sys.argv[1] + "/onnxruntime-*.whl"), sys.argv[2]
assert len(wheels) == 1, f"expected one wheel, found {wheels}"
names = {
    r"onnxruntime/capi/libonnxruntime\.so\.\d[\d.]*": "libonnxruntime.so.1",
    r"onnxruntime/LICENSE": "onnxruntime.LICENSE",
    r"onnxruntime/ThirdPartyNotices\.txt": "onnxruntime.ThirdPartyNotices.txt",
}
with zipfile.ZipFile(wheels[0]) as z:
    for pattern, name in names.items():
        members = [m for m in z.namelist() if re.fullmatch(pattern, m)]
        assert len(members) == 1, f"expected one {pattern} in the wheel, found {members}"
        with z.open(members[0]) as src, open(os.path.join(to, name), "wb") as dst:
            shutil.copyfileobj(src, dst)
PY
		got=$(sha256 "$work/$arch/libonnxruntime.so.1")
		[ "$got" = "$want" ] || die "the $arch library in the wheel has SHA-256 $got, but $lock pins $want"
		chmod 755 "$work/$arch/libonnxruntime.so.1"
		mkdir -p "$build/onnxruntime"
		rm -rf "${build:?}/onnxruntime/$arch"
		mv -T "$work/$arch" "$build/onnxruntime/$arch"
		say "fetched ${library#"$root/"}"
	fi
	echo "$library"
}

# The wheel's libraries stay together: the provider finds OpenVINO and its plugins beside itself. Plugins for GPUs and
# NPUs and the copies that are symbolic links elsewhere are left out.
openvino() {
	local pins=$root/scripts/onnxruntime-openvino.lock dir library
	[ "$(this_arch)" = amd64 ] || die "OpenVINO is pinned for amd64 only; leave out device: openvino on $(this_arch)"
	dir=$build/onnxruntime-openvino-$(sha256sum "$pins" | cut -c1-12)
	library=$dir/libonnxruntime.so.1
	if [ ! -f "$library" ]; then exclusively; fi
	if [ ! -f "$library" ]; then # still not, now that no other run is fetching it
		scratch
		need python3 "apt-get install python3 python3-pip python3-venv"
		python3 -m pip --version >/dev/null 2>&1 || die "python3 has no pip; apt-get install python3-pip python3-venv"
		say "downloading $(grep -o '^onnxruntime-openvino==[0-9.]*' "$pins") (81 MB, once)"
		python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --require-hashes \
			--implementation cp --python-version 3.11 --platform manylinux_2_28_x86_64 \
			--dest "$work/wheel" -r "$pins" >&2 ||
			die "pip could not download the wheel that $pins pins: see its message above;" \
				"it needs PyPI (or a configured mirror)"
		mkdir "$work/openvino"
		python3 - "$work/wheel" "$work/openvino" <<'PY' || die "the wheel could not be unpacked: see the message above"
import glob, os, re, shutil, sys, zipfile

wheels, to = glob.glob(sys.argv[1] + "/onnxruntime_openvino-*.whl"), sys.argv[2]
assert len(wheels) == 1, f"expected one wheel, found {wheels}"
rename = [
    (r"onnxruntime/capi/libonnxruntime\.so\.\d[\d.]*", "libonnxruntime.so.1"),
    (r"onnxruntime/capi/(libonnxruntime_providers_(?:openvino|shared)\.so)", r"\1"),
    (r"onnxruntime/capi/(libopenvino(?:_onnx_frontend)?\.so\.\d{4})", r"\1"),
    (r"onnxruntime/capi/(libopenvino_intel_cpu_plugin\.so|libtbb\.so\.12|libtbbmalloc\.so)", r"\1"),
    (r"onnxruntime/LICENSE", "onnxruntime.LICENSE"),
    (r"onnxruntime/ThirdPartyNotices\.txt", "onnxruntime.ThirdPartyNotices.txt"),
]
with zipfile.ZipFile(wheels[0]) as z:
    found = set()
    for member in z.namelist():
        for pattern, name in rename:
            if re.fullmatch(pattern, member):
                found.add(pattern)
                with z.open(member) as src, open(os.path.join(to, re.sub(pattern, name, member)), "wb") as dst:
                    shutil.copyfileobj(src, dst)
missing = [pattern for pattern, _ in rename if pattern not in found]
assert not missing, f"not in the wheel: {missing}"
PY
		rm -rf "$dir"
		mv -T "$work/openvino" "$dir"
		say "fetched ${library#"$root/"}"
	fi
	echo "$library"
}

this_arch() {
	case $(uname -m) in
	x86_64) echo amd64 ;;
	aarch64 | arm64) echo arm64 ;;
	*) uname -m ;;
	esac
}

# --- env --------------------------------------------------------------------------------------------------------------

env_exports() {
	local dir library flag
	# After a failure the caller evaluates "false", so that `eval "$(scripts/native.sh env)" && ...` stops there.
	dir=$("${BASH_SOURCE[0]}" tokenizers) && library=$("${BASH_SOURCE[0]}" onnxruntime) || { echo false; exit 1; }
	flag=-L$dir
	case $dir in *[[:space:]]*) flag="\"$flag\"" ;; esac # go splits CGO_LDFLAGS at spaces outside quotes
	printf 'export CGO_LDFLAGS=%q\n' "$flag"
	printf 'export SLUICE_ONNXRUNTIME=%q\n' "$library"
}

case "$#:${1-}" in
1:tokenizers) tokenizers ;;
1:onnxruntime) onnxruntime "$(this_arch)" ;;
2:onnxruntime) onnxruntime "$2" ;;
1:openvino) openvino ;;
1:test) crate_tests ;;
1:env) env_exports ;;
*) usage ;;
esac
